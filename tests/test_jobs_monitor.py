"""Jobs on real monitors that are killed: what is due runs at its time, once, and what was begun is never forgotten."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import pytest
import requests
from sqlalchemy import Engine, update

from service import jobs
from service import runs as ran
from service.checking import checked
from service.database import connect, reading
from service.jobs import Draft
from service.runs import Run
from service.tables import jobs as table
from tests.serving import serving
from tests.stack import BIN, ROOT, Running, eventually, process, web

KEY = "correct-horse-battery-staple"


@dataclass
class Targets:
    """A real server: how often each path was asked, and what holds the answers back."""

    port: int = 0
    asked: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    answering: threading.Event = field(default_factory=threading.Event)
    slow: float = 0.0  # seconds at most, for who is not held back


@contextmanager
def targets() -> Iterator[Targets]:
    world = Targets()
    world.answering.set()

    class Handler(BaseHTTPRequestHandler):
        timeout = 30

        def do_GET(self) -> None:
            world.asked[self.path] += 1
            time.sleep(random.random() * world.slow)
            world.answering.wait(60)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:
                """Who asked was killed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    world.port = server.server_address[1]
    with serving(server):
        try:
            yield world
        finally:
            world.answering.set()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = connect(f"sqlite:///{tmp_path}/tocsin.db")
    with engine.begin() as connection:
        jobs.remove(connection, "prune")
    yield engine
    engine.dispose()


def configured(folder: Path, port: int, *names: str) -> Path:
    """A monitor.yaml with these targets, which the ticks themselves hardly ever ask."""
    listed = "".join(f"  - {{name: {name}, url: 'http://127.0.0.1:{port}/{name}', timeout: 60s}}\n" for name in names)
    path = folder / "monitor.yaml"
    path.write_text(f"interval: 1h\ntargets:\n{listed}rules: []\nreceivers: []\n")
    return path


@contextmanager
def monitor(folder: Path, config: Path, log: str = "monitor.log") -> Iterator["subprocess.Popen[bytes]"]:
    """`tocsin monitor`, past its first tick."""
    environment = {"TOCSIN_DATA": str(folder), "TOCSIN_CONFIG": str(config)}
    with process([BIN / "tocsin", "monitor"], environment, folder / log) as running:
        eventually(lambda: b"monitor started" in (folder / log).read_bytes(), "the monitor starts")
        yield running


def kill(running: "subprocess.Popen[bytes]") -> None:
    os.kill(running.pid, signal.SIGKILL)
    running.wait(10)


def iso(seconds: float) -> str:
    """So many seconds from now."""
    return datetime.fromtimestamp(time.time() + seconds, UTC).isoformat()


def probe(engine: Engine, name: str, seconds: float, missed: str = "run") -> None:
    """A job that asks the target of its name, once, so many seconds from now."""
    said = {"name": name, "task": {"kind": "probe", "target": name}, "missed": missed, "author": "ann"}
    draft = checked(Draft, {**said, "trigger": {"type": "date", "at": iso(seconds)}}, time.time())
    with engine.begin() as connection:
        jobs.add(connection, draft, time.time())


def runs_of(engine: Engine, name: str) -> list[Run]:
    """The oldest first."""
    with reading(engine) as connection:
        found, _ = ran.page(connection, job=name)
    return found[::-1]


def outcomes(engine: Engine, name: str) -> list[str | None]:
    return [run.outcome for run in runs_of(engine, name)]


def curl(running: Running, method: str, path: str, body: dict[str, Any]) -> Any:
    command = ["curl", "-fsS", "-X", method, "-H", f"Authorization: Bearer {KEY}", "-H", "Content-Type: application/json"]
    command += ["--data", orjson.dumps(body).decode(), f"{running.url}{path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert 0 == done.returncode, done.stderr
    return orjson.loads(done.stdout)


def test_a_job_added_by_curl_runs_at_its_time(tmp_path: Path) -> None:
    """On a running stack, once, and not before; paused it does not, resumed it does, also after a kill -9 of the monitor.

    The web server only writes: what is wanted without a monitor is done by the next one.
    """
    who = {"author": "ann"}
    with ExitStack() as stack:
        world = stack.enter_context(targets())
        config = configured(tmp_path, world.port, "shop")
        first = stack.enter_context(monitor(tmp_path, config))
        running = stack.enter_context(web(tmp_path, TOCSIN_API_KEY=KEY, TOCSIN_CONFIG=str(config)))
        dues = {"soon": 2.0, "paused": 2.0, "resumed": 5.0, "killed": 7.0}
        for name, seconds in dues.items():
            body = {"name": name, "task": {"kind": "backup"}, "trigger": {"type": "date", "at": iso(seconds)}, **who}
            assert name == curl(running, "POST", "/api/v1/jobs", body)["name"]
        for name in ("paused", "resumed"):
            curl(running, "POST", f"/api/v1/jobs/{name}/pause", who)
        curl(running, "POST", "/api/v1/jobs/resumed/resume", who)

        def runs(name: str) -> list[dict[str, Any]]:
            return list(running.get(f"/api/v1/runs?job={name}").json()["runs"])

        def done(name: str) -> dict[str, Any]:
            (run,) = eventually(lambda: [run for run in runs(name) if run["outcome"]], f"{name} has run")
            return run

        soon = done("soon")
        assert ("done", True) == (soon["outcome"], soon["due_at"] <= soon["started_at"])
        kill(first)
        # Without a monitor what is wanted waits in the database.
        answer = requests.post(
            f"{running.url}/api/v1/jobs/paused/run", json=who, headers={"Authorization": f"Bearer {KEY}"}, timeout=10
        )
        assert (202, "/api/v1/runs?job=paused") == (answer.status_code, answer.headers["Location"])
        time.sleep(1.2)
        assert [] == runs("paused")
        stack.enter_context(monitor(tmp_path, config, "second.log"))
        assert ("done", "ann") == (done("paused")["outcome"], done("paused")["asked_by"])
        for name in ("resumed", "killed"):
            found = done(name)
            assert ("done", True) == (found["outcome"], found["due_at"] <= found["started_at"])
        time.sleep(1.2)  # two more looks
        assert [1, 1, 1, 1] == [len(runs(name)) for name in dues]


@pytest.mark.parametrize(("missed", "expected"), [("run", ["interrupted", "done"]), ("skip", ["interrupted"])])
def test_what_is_killed_in_the_midst(tmp_path: Path, engine: Engine, missed: str, expected: list[str]) -> None:
    """A run that hangs when the monitor is killed is noted as interrupted; it runs once more where that is said."""
    with targets() as world:
        config = configured(tmp_path, world.port, "shop")
        with monitor(tmp_path, config) as running:
            eventually(lambda: world.asked["/shop"] == 1, "the tick has asked")
            world.answering.clear()
            probe(engine, "shop", 0.3, missed)
            eventually(lambda: world.asked["/shop"] == 2, "the job asks")
            assert [None] == outcomes(engine, "shop")
            kill(running)
        world.answering.set()
        with monitor(tmp_path, config, "second.log"):
            eventually(lambda: outcomes(engine, "shop") == expected, "it is as it should be")
            time.sleep(1.2)
    assert expected == outcomes(engine, "shop")
    first, *again = runs_of(engine, "shop")
    assert all(run.due == first.due for run in again)


def test_what_is_missed_while_no_monitor_runs(tmp_path: Path, engine: Engine) -> None:
    """At the next start it runs once, late, or is skipped, as the job says."""
    for name, missed in (("late", "run"), ("over", "skip")):
        probe(engine, name, 60, missed)
        with engine.begin() as connection:
            connection.execute(update(table).where(table.c.name == name).values(due=time.time() - 3600))
    with targets() as world:
        with monitor(tmp_path, configured(tmp_path, world.port, "late", "over")):
            eventually(lambda: (outcomes(engine, "late"), outcomes(engine, "over")) == (["done"], ["skipped"]), "both")
            time.sleep(1.2)
        assert (["done"], ["skipped"]) == (outcomes(engine, "late"), outcomes(engine, "over"))
        assert (2, 1) == (world.asked["/late"], world.asked["/over"])  # with the one tick


def test_of_two_monitors_one_runs_it(tmp_path: Path, engine: Engine) -> None:
    """The second waits, whatever the first has begun; each job runs once; when the first is killed, the second goes on."""
    names = [f"job-{number}" for number in range(6)]
    with targets() as world, ExitStack() as stack:
        config = configured(tmp_path, world.port, *names)

        def started(name: str, says: bytes) -> "subprocess.Popen[bytes]":
            folder = tmp_path / name
            folder.mkdir()
            given = {"TOCSIN_DATABASE_URL": f"sqlite:///{tmp_path}/tocsin.db", "TOCSIN_CONFIG": str(config)}
            running = stack.enter_context(
                process([BIN / "tocsin", "monitor"], {**given, "TOCSIN_DATA": str(folder)}, folder / "log")
            )
            eventually(lambda: says in (folder / "log").read_bytes(), "it starts")
            return running

        first = started("first", b"monitor started")
        eventually(lambda: all(world.asked[f"/{name}"] == 1 for name in names), "it has ticked")
        world.answering.clear()
        probe(engine, names[0], 0.2)
        eventually(lambda: world.asked[f"/{names[0]}"] == 2, "the job asks")
        second = started("second", b"this one waits")
        for name in names[1:3]:
            probe(engine, name, 0.2)
        time.sleep(1.2)
        assert [[None], [], []] == [outcomes(engine, name) for name in names[:3]]
        world.answering.set()
        eventually(lambda: all(outcomes(engine, name) == ["done"] for name in names[:3]), "the first three")
        kill(first)
        for name in names[3:]:
            probe(engine, name, 0.5)
        eventually(lambda: all(outcomes(engine, name) == ["done"] for name in names[3:]), "the other three")
        eventually(lambda: all(world.asked[f"/{name}"] >= 3 for name in names), "the second has ticked")
        time.sleep(1.2)
        assert second.poll() is None
        assert [["done"]] * 6 == [outcomes(engine, name) for name in names]
        assert [3] * 6 == [world.asked[f"/{name}"] for name in names]  # by two ticks and one run


# The jobs of a monitor without its ticks, which would ask the targets as well.
NURSERY = """
import os, sys, time
from pathlib import Path
from service import database, loading, logs
from service.monitor import jobs
from service.settings import Settings
logs.configure("tocsin-monitor", "ERROR", 2)
jobs.LOOK = 0.05  # so that there are many looks between two kills
found = loading.load(Settings(), Path(sys.argv[2]))
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        engine = database.open_on("sqlite:///" + sys.argv[1])
        jobs.Jobs(engine, Path(sys.argv[1]).parent, found, time.time, lambda: None).start()
        time.sleep(600)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("gone", flush=True)
"""


def test_no_run_is_lost_or_made_twice_whenever_it_is_killed(tmp_path: Path, engine: Engine) -> None:
    """Kills at random moments: every job has run to its end or was cut off as often as its rule allows, never more.

    Each act was noted before it was done, so the target is asked once for each run that is noted, and for none twice.
    """
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    names = [f"job-{number}" for number in range(30)]
    with targets() as world:
        config = configured(tmp_path, world.port, *names)
        config.write_text(config.read_text().replace("timeout: 60s", "timeout: 5s"))
        world.slow = 0.2
        for number, name in enumerate(names):
            probe(engine, name, 0.2 + number * 0.25, "run" if number % 2 else "skip")
        command = [sys.executable, "-c", NURSERY, str(tmp_path / "tocsin.db"), str(config)]
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as nursery:
            assert nursery.stdin
            assert nursery.stdout
            for _ in range(35):
                nursery.stdin.write("\n")
                child = int(nursery.stdout.readline())
                time.sleep(chance.random() * 0.5)
                os.kill(child, signal.SIGKILL)
                assert "gone\n" == nursery.stdout.readline()
            nursery.stdin.write("\n")
            child = int(nursery.stdout.readline())

            def over() -> bool:
                with reading(engine) as connection:
                    found = jobs.every(connection)
                return all(job.due is None for job in found) and all(None not in outcomes(engine, job.name) for job in found)

            eventually(over, "everything has had its turn", 40)
            os.kill(child, signal.SIGKILL)
            nursery.stdin.close()
    for number, name in enumerate(names):
        found = outcomes(engine, name)
        allowed = (
            [["done"], ["interrupted", "done"], ["interrupted", "interrupted"]] if number % 2 else [["done"], ["interrupted"]]
        )
        assert found in allowed, f"{name}: {found} (seed {seed})"
        assert found.count("done") <= world.asked[f"/{name}"] <= len(found), f"{name} (seed {seed})"
    assert any("interrupted" in outcomes(engine, name) for name in names), f"nothing was cut off (seed {seed})"
