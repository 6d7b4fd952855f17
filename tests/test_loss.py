"""Reloads, recycled workers and containers that come and go lose nothing. `make load` is the long run of the first test."""

import os
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import requests

from tests.loss import run
from tests.stack import BIN, Running, children, eventually, nginx, process, web


@pytest.mark.timeout(180)
def test_nothing_is_lost_while_everything_is_reloaded(tmp_path: Path) -> None:
    """GETs and POSTs through reloads of both servers, POSTs on kept connections: each is answered, no POST executed twice."""
    result = run(tmp_path, requests=960, rate=100, reloads=(2, 2), kept=(60, 2), recycle=(150, 40))
    print(result)

    assert (0, 0, 0, 0) == result.losses
    assert (960, 120) == (len(result.answers), len(result.on_kept))
    assert 360 + 120 == sum(result.executed.values())
    assert (2, 2) == result.reloads
    assert result.recycled > 0


def test_a_reload_is_no_pause(tmp_path: Path) -> None:
    """Old workers accept until new ones do: nobody waits for a version that takes six seconds to start, and it takes over."""
    module = "import os, time\nfrom flask import Blueprint\nif os.path.exists({late!r}): time.sleep(6)\n"
    module += "new = os.path.exists({late!r})\nroutes = Blueprint('version', __name__)\n"
    module += "routes.get('/version')(lambda: 'new' if new else 'old')\n"
    late, longest, seen = tmp_path / "late", 0.0, set()
    (tmp_path / "version.py").write_text(module.format(late=str(late)))
    with web(tmp_path, TOCSIN_BLUEPRINTS="version:routes", PYTHONPATH=str(tmp_path)) as app:
        before = set(children(app.process.pid))
        late.touch()
        app.process.send_signal(signal.SIGHUP)
        while "new" not in seen or before & set(children(app.process.pid)):
            began = time.monotonic()
            seen.add(app.get("/version").text)
            longest = max(longest, time.monotonic() - began)
            time.sleep(0.02)

    assert {"old", "new"} == seen
    assert longest < 5


def test_a_worker_that_was_just_starting_does_not_hold_up_a_reload(tmp_path: Path) -> None:
    """Forked before the reload, it comes to accept after the new ones: the old ones go all the same, and at once."""
    module = "import os, time\nfrom flask import Blueprint\nroutes = Blueprint('late', __name__)\n"
    module += "end = float(open({until!r}).read()) if os.path.exists({until!r}) else 0\ntime.sleep(max(0, end - time.time()))\n"
    until = tmp_path / "until"
    (tmp_path / "late.py").write_text(module.format(until=str(until)))
    with web(tmp_path, TOCSIN_BLUEPRINTS="late:routes", PYTHONPATH=str(tmp_path)) as app:
        killed, old = children(app.process.pid)
        now = time.time()
        until.write_text(str(now + 4.5))
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: set(children(app.process.pid)) - {killed, old}, "its successor is forked")
        time.sleep(2)  # it has read until when it sleeps; were it slower, less would be proved
        until.write_text(str(now + 4.2))
        app.process.send_signal(signal.SIGHUP)
        eventually(lambda: old not in children(app.process.pid), "the old one goes", 20)


def test_a_stop_right_after_a_reload_ends_all_of_them(tmp_path: Path) -> None:
    """The old workers end with it, whether or not their successors have come to accept."""
    with web(tmp_path) as app:
        app.process.send_signal(signal.SIGHUP)
        eventually(lambda: len(children(app.process.pid)) > 2, "the new ones are forked")
        app.process.send_signal(signal.SIGTERM)

        assert 0 == app.process.wait(60)


@contextmanager
def silent(address: str, port: int) -> Iterator[None]:
    """An address where nobody answers at all, as where a container was: its queue is full, and the kernel says nothing."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((address, port))
        listener.listen(0)
        for _ in range(4):
            filling = stack.enter_context(socket.socket())
            filling.setblocking(False)
            with suppress(BlockingIOError):
                filling.connect((address, port))
        yield


def behind(folder: Path, app: Running, *addresses: str) -> dict[str, str]:
    """The settings of an nginx whose name server knows these addresses as `app`."""
    port = app.url.rpartition(":")[2]
    (folder / "bin").mkdir()
    (folder / "bin/getent").write_text("#!/bin/sh\nprintf '%s\\n' " + " ".join(addresses) + "\n")
    (folder / "bin/getent").chmod(0o755)
    # Docker hands a proxy that it is configured with to every container: nothing of ours is behind it.
    proxy = "http://127.0.0.1:9"
    return {"upstream": f"app:{port}", "PATH": f"{folder}/bin:{os.environ['PATH']}:/usr/sbin", "http_proxy": proxy}


@contextmanager
def second(folder: Path, address: str, **settings: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Another gunicorn, at this address, that is ready."""
    folder.mkdir()
    env = {"TOCSIN_WEB_ADDRESS": address, "TOCSIN_DATA": str(folder), "WEB_CONCURRENCY": "2", **settings}
    command: list[str | Path] = [BIN / "gunicorn", "-c", "deploy/gunicorn.conf.py", "service.web:create_app()"]
    with process(command, env, folder / "web.log", signal.SIGQUIT) as running:
        eventually(lambda: requests.get(f"http://{address}/readyz", timeout=5).status_code == 200, "it is ready")
        yield running


def test_a_container_that_drains_gets_nothing_new_and_is_not_heard_of(tmp_path: Path) -> None:
    """SIGTERM of one of two: health is 200 all the time, nginx leaves it out while it still answers, and nothing is lost."""
    over = threading.Event()

    def ask(number: int) -> set[tuple[str, int]]:
        method, path = [("GET", "/readyz"), ("GET", "/api/health"), ("POST", "/counted/one")][number]
        found = set()
        while not over.wait(0.1):
            answer = requests.request(method, front.url + path, timeout=60, headers={"Connection": "close"})
            found.add((method, answer.status_code))
        return found

    blueprint = {"TOCSIN_BLUEPRINTS": "tests.counted:counted", "COUNTED": str(tmp_path / "executed")}
    with (
        web(tmp_path, **blueprint) as app,
        second(tmp_path / "second", f"127.0.0.2:{app.url.rpartition(':')[2]}", TOCSIN_DRAIN="8s", **blueprint) as other,
        nginx(tmp_path, **behind(tmp_path, app, "127.0.0.1", "127.0.0.2")) as front,
        ThreadPoolExecutor(3) as pool,
    ):
        servers = tmp_path / "nginx/upstream-web.conf"
        both = "127.0.0.2" in servers.read_text()
        asking = [pool.submit(ask, number) for number in range(3)]
        try:
            eventually(lambda: front.log.read_text().count("127.0.0.2") > 20, "both are asked")
            other.send_signal(signal.SIGTERM)
            eventually(lambda: "127.0.0.2" not in servers.read_text(), "it is left out")
            before_its_end = other.poll() is None
            other.wait(60)
        finally:
            over.set()
        answers = set().union(*(each.result() for each in asking))

    assert both
    assert before_its_end
    assert {("GET", 200), ("POST", 200)} == answers


def test_a_container_that_is_not_ready_is_asked_twice_and_no_more(tmp_path: Path) -> None:
    """Where health is 503 for hours, each question of a balancer is not one of ten."""
    with (
        web(tmp_path, TOCSIN_UNHEALTHY_STATUS="503", TOCSIN_MEM_THRESHOLD="0.01") as app,
        nginx(tmp_path, **behind(tmp_path, app, "127.0.0.1")) as front,
    ):
        assert 503 == front.status("/api/health")
        (asked,) = eventually(lambda: [line for line in front.lines() if line.get("url.original") == "/api/health"], "its line")

    assert "503, 503" == asked["labels.upstream_status"]


def test_a_full_disk_does_not_end_the_look_for_containers(tmp_path: Path) -> None:
    """While nothing can be written nginx goes on with what it has; afterwards it finds the container that has come since."""
    folder = tmp_path / "nginx"
    with (
        web(tmp_path) as app,
        nginx(tmp_path, **behind(tmp_path, app, "127.0.0.3")) as front,
    ):
        assert 502 == front.status("/livez")
        (folder / "upstream-web.conf.new").unlink(missing_ok=True)
        (folder / "upstream-web.conf.new").mkdir()
        eventually(lambda: "upstream-web.conf.new" in front.log.read_text(), "a look has failed")
        (tmp_path / "bin/getent").write_text("#!/bin/sh\necho 127.0.0.1\n")
        (folder / "upstream-web.conf.new").rmdir()
        eventually(lambda: front.status("/livez") == 200 == front.status("/"), "it is found")


def test_containers_that_start_or_are_gone_cost_no_request(tmp_path: Path) -> None:
    """One of three addresses answers, one refuses, one is silent: each GET and POST of many at once ends at the one that does."""

    def ask(number: int) -> tuple[str, int]:
        method = "POST" if number % 3 == 0 else "GET"
        path = f"/counted/{number}" if method == "POST" else "/api/health"
        headers = {"Connection": "close"}
        return method, requests.request(method, front.url + path, timeout=60, headers=headers).status_code

    executed = tmp_path / "executed"
    with (
        web(tmp_path, TOCSIN_BLUEPRINTS="tests.counted:counted", COUNTED=str(executed)) as app,
        silent("127.0.0.2", int(app.url.rpartition(":")[2])),
        nginx(tmp_path, **behind(tmp_path, app, "127.0.0.1", "127.0.0.2", "127.0.0.3")) as front,
        ThreadPoolExecutor(12) as pool,
    ):
        answers = Counter(pool.map(ask, range(60)))

    assert {("GET", 200): 40, ("POST", 200): 20} == answers
    assert {str(number): 1 for number in range(0, 60, 3)} == Counter(executed.read_text().split())
