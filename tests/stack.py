"""Real processes for tests: gunicorn with our configuration, nginx in front of it, HAProxy in front of that."""

import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
import requests

T = TypeVar("T")
ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
_PROCESS = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 4
_START = random.randrange(3000)  # another run of tests on this machine begins elsewhere
_PORTS = (20_000 + 3000 * _PROCESS + (_START + each) % 3000 for each in itertools.count())


def free_port() -> int:
    """Nobody's, and nobody's soon: below what the kernel hands out, in a part that no other process of the same run of tests has.

    A port that is free now may be that of somebody's connection when the server that is to listen there starts.
    """
    while True:
        with suppress(OSError), socket.create_server(("127.0.0.1", next(_PORTS))) as listener:
            return int(listener.getsockname()[1])


def eventually(check: Callable[[], T | None], what: str, seconds: float = 20.0) -> T:
    """The first true result of `check`; errors of a connection count as not yet. Raises AssertionError in the end."""
    end = time.monotonic() + seconds
    while True:
        with suppress(requests.RequestException, OSError):
            if result := check():
                return result
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.05)


@dataclass
class Running:
    """A process, where it answers, and where its output goes."""

    process: "subprocess.Popen[bytes]"
    url: str
    log: Path

    def get(self, path: str, **given: Any) -> requests.Response:
        return requests.get(self.url + path, timeout=10, **given)

    def status(self, path: str) -> int:
        return self.get(path).status_code

    def lines(self) -> list[dict[str, Any]]:
        """Every line of the log; raises where one is not a JSON object."""
        return [json.loads(line) for line in self.log.read_bytes().decode("utf-8").splitlines()]


@contextmanager
def process(
    command: Sequence[str | Path], env: Mapping[str, str], log: Path, stop: signal.Signals = signal.SIGTERM
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a command in a process group of its own, its output through a pipe into `log`, and end it with `stop` afterwards."""
    path = f"{BIN}:{os.environ['PATH']}:/usr/sbin"
    # Through a pipe, as supervisord and Docker have it: /dev/stdout opened anew would start at the file's beginning.
    with (
        log.open("ab") as file,
        subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=file) as cat,
        subprocess.Popen(
            [str(part) for part in command],
            cwd=ROOT,
            env={**os.environ, "PATH": path, **env},
            stdout=cat.stdin,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as child,
    ):
        assert cat.stdin
        cat.stdin.close()
        try:
            yield child
        finally:
            with suppress(ProcessLookupError):
                child.send_signal(stop)
            with suppress(subprocess.TimeoutExpired):
                child.wait(15)
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)


@contextmanager
def web(folder: Path, app: str = "service.web:create_app()", **env: str | None) -> Iterator[Running]:
    """gunicorn with deploy/gunicorn.conf.py."""
    address = env.get("TOCSIN_WEB_ADDRESS") or f"127.0.0.1:{free_port()}"
    log = folder / "web.log"
    settings = {"TOCSIN_WEB_ADDRESS": address, "TOCSIN_DATA": str(folder), "TOCSIN_DRAIN": "0s", "WEB_CONCURRENCY": "2", **env}
    given = {name: value for name, value in settings.items() if value is not None}
    # To gunicorn QUIT is a stop that waits for no request: by TERM its workers take two seconds.
    with process([BIN / "gunicorn", "-c", "deploy/gunicorn.conf.py", app], given, log, signal.SIGQUIT) as child:
        running = Running(child, f"http://{address}", log)
        eventually(lambda: running.status("/readyz") == 200, "gunicorn ready")
        yield running


@contextmanager
def nginx(folder: Path, upstream: str, deployed: str = "deploy/nginx", **env: str) -> Iterator[Running]:
    """nginx with deploy/nginx, or what has become of a copy of it, in front of `upstream` (HOST:PORT)."""
    address = f"127.0.0.1:{free_port()}"
    log = folder / "nginx.log"
    settings = {
        "NGINX_PREFIX": str(folder / "nginx"),
        "NGINX_LISTEN": address,
        "NGINX_UPSTREAM": upstream,
        "NGINX_STATIC": str(ROOT / "service/web/static"),
        **env,
    }
    with process(["sh", ROOT / deployed / "start.sh"], settings, log) as child:
        running = Running(child, f"http://{address}", log)
        eventually(lambda: running.status("/robots.txt") == 200, "nginx answers")
        yield running


def children(pid: int) -> list[int]:
    """The direct children of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def unless(possible: bool, reason: str) -> pytest.MarkDecorator:
    """Skip a test where it is not possible. On CI never: what cannot run there fails, and is seen."""
    return pytest.mark.skipif(not possible and not os.environ.get("CI"), reason=reason)
