"""What it takes to be there: the memory of all processes, a monitor's processor time, how long a start takes, and the image.

The stack is that of compose.yaml, in a copy of the checkout. Without a Docker engine there is only the monitor, natively.
"""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench import peers
from bench.process import proportional, resident
from bench.result import FULL, Row, Size
from tests.answering import answering
from tests.composed import Stack, composed, engine_answers
from tests.stack import BIN, eventually, process

INTERVAL = 10.0  # seconds between two ticks
SETTLED = 15.0  # seconds after a start in which all of them still do what they do but once
OTHERS = "Prometheus + Alertmanager + node_exporter"
ONE = "targets: [{{name: one, url: {}}}]\n"

POLLED = (
    "Most of it is the look for a job that is due, once a second, which asks the database: what is asked for must begin soon."
)
SHARED = (
    "Ours is five processes of Python, each of which has what it imports. gunicorn's workers share it with their master, "
    "supervisord loads little more than itself, and the monitor only what its configuration needs. What is left is, above "
    "all, SQLAlchemy and pydantic in the monitor, and what workers write into pages they share: CPython counts references "
    "in the objects themselves."
)
LOADED = (
    "Tried: what a configuration does not use is loaded only when it does (see below). What is left is loaded code: 9 MiB are "
    "Python itself, 17 SQLAlchemy, 13 structlog with asyncio and ssl, which it imports, 9 pydantic and the reading of settings. "
    "Compiled without docstrings it would be 4 MiB less, and the image would need every file compiled a second time."
)


def bench(size: Size) -> Iterator[Row]:
    full = size == FULL
    with ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o755)  # what is mounted from it is read by another user
        if not engine_answers():
            print("footprint: no Docker engine answers: the monitor is measured natively, and neither the stack nor the image is")
            alone = running.enter_context(_native(folder))
            yield from _monitor([_spell(alone, size) for _ in range(size.rounds)])
            return
        stack = running.enter_context(composed(folder / "stack", "footprint", TOCSIN_INTERVAL=f"{INTERVAL}s"))
        starts = [_start(stack, size) for _ in range(size.rounds)]
        theirs = running.enter_context(_peers())
        with _contained(folder, stack) as monitor:
            if full:
                time.sleep(SETTLED)
            yield from _monitor([_spell(monitor, size) for _ in range(size.rounds)])
        # Not beside that monitor, which has files of the image in memory too and would take its part of them.
        ours = [int(pid) for name in ("app", "nginx") for pid in _processes(stack.container(name))]
        memory = []
        for _ in range(size.rounds):
            time.sleep(size.seconds)
            memory.append((proportional(ours), proportional(theirs)))
        of_us, of_them = zip(*memory, strict=True)
        yield Row("the whole stack, idle: proportional memory (PSS)", OTHERS, "MiB", of_us, of_them, most=1.0, missed=SHARED)
        yield Row("`docker compose up --wait`, images present", "", "s", starts, most=15)
        yield Row("image: what it adds to Python's, compressed", "", "MiB", [_compressed(stack.project)], most=60)


def _monitor(spells: list[tuple[float, float]]) -> Iterator[Row]:
    shares, sizes = zip(*spells, strict=True)
    what = f"monitor, one target, {INTERVAL:g} s interval"
    yield Row(f"{what}: processor", "", "% of a core", shares, most=0.3, missed=POLLED)
    yield Row(f"{what}: resident memory", "", "MiB", sizes, most=60, missed=LOADED)


def _spell(pid: int, size: Size) -> tuple[float, float]:
    """Percent of a core that a process takes for two ticks, and its MiB then."""
    before, began = _used(pid), time.monotonic()
    time.sleep(2 * INTERVAL if size == FULL else size.seconds)
    return 100 * (_used(pid) - before) / (time.monotonic() - began), resident(pid)


def _used(pid: int) -> float:
    """Seconds on a processor of all its threads, to the nanosecond: too little for the ticks in /proc/PID/stat."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def _start(stack: Stack, size: Size) -> float:
    """Seconds that a start takes. The tables are there by then, as on every start but the first."""
    if size == FULL:
        stack.compose("down", "--timeout", "20")
    began = time.monotonic()
    stack.compose("up", "--detach", "--wait")
    return time.monotonic() - began


@contextmanager
def _contained(folder: Path, stack: Stack) -> Iterator[int]:
    """A monitor in a container of its own, in which there is nothing that only developers install. It asks the stack's nginx."""
    (folder / "one.yaml").write_text(ONE.format("http://nginx:8080/api/health"))
    name = f"{stack.project}-one"
    mounted = ["--volume", f"{folder}/one.yaml:/etc/tocsin/one.yaml:ro", "--env", "TOCSIN_CONFIG=/etc/tocsin/one.yaml"]
    # The first command makes the tables: what does that is not there any more on the next start.
    command = ["sh", "-c", f"tocsin outbox >/dev/null && TOCSIN_INTERVAL={INTERVAL:g}s exec tocsin monitor"]
    where = ["--detach", "--name", name, "--network", f"{stack.project}_inside"]
    subprocess.run(["docker", "run", *where, *mounted, stack.project, *command], capture_output=True, check=True)
    try:
        eventually(lambda: b"monitor started" in _printed("docker", "logs", name), "a monitor")
        yield int(_printed("docker", "inspect", "--format", "{{.State.Pid}}", name))
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", name], capture_output=True, check=True)


@contextmanager
def _native(folder: Path) -> Iterator[int]:
    """The same without an engine."""
    with answering() as target:
        target.answers["/"] = 200, b"{}"
        (folder / "one.yaml").write_text(ONE.format(f"{target.url}/"))
        env = {"TOCSIN_DATA": str(folder), "TOCSIN_CONFIG": f"{folder}/one.yaml", "TOCSIN_INTERVAL": f"{INTERVAL:g}s"}
        subprocess.run([BIN / "tocsin", "outbox"], env={**os.environ, **env}, capture_output=True, check=True)
        with process([BIN / "tocsin", "monitor"], env, folder / "monitor.log") as child:
            eventually(lambda: b"monitor started" in (folder / "monitor.log").read_bytes(), "a monitor")
            yield child.pid


@contextmanager
def _peers() -> Iterator[list[int]]:
    """The processes of a Prometheus that asks the two others every 15 s, and of these."""
    with peers.alertmanager() as alertmanager, peers.node_exporter() as node:
        asked = [each.url.removeprefix("http://") for each in (alertmanager, node)]
        configuration = {
            "global": {"scrape_interval": "15s", "evaluation_interval": "15s"},
            "scrape_configs": [{"job_name": "all", "static_configs": [{"targets": asked}]}],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": asked[:1]}]}]},
        }
        with peers.prometheus(json.dumps(configuration)) as prometheus:
            yield [each.process.pid for each in (prometheus, alertmanager, node)]


def _processes(container: str) -> list[str]:
    """By the numbers that they have on this machine."""
    return _printed("docker", "top", container, "-eo", "pid").decode().split()[1:]


def _compressed(image: str) -> float:
    """MiB, as gzip makes it: what a registry would keep of the layers that the Dockerfile makes."""
    return len(_printed("docker", "run", "--rm", image, "tar", "-czf", "-", "/opt/venv", "/app")) / (1 << 20)


def _printed(*command: str) -> bytes:
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout
