"""The whole loop: real targets, receivers and databases, and what breaks them."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from service import database
from service.configuration import Configuration, Target
from service.database import open_on
from service.monitor.loop import Signals, run
from service.receiver import Receiver
from service.services import Service
from service.tables import notifications
from service.values import ConfigurationError
from tests.conftest import Lines
from tests.receiver import Receiver as Taking
from tests.receiver import receiving
from tests.simulation import rule
from tests.stack import unless
from tests.supervised import SLEEPS, supervised

INTERVAL = 0.05  # seconds


class World:
    """Targets under their own paths, each up until it is put into `down`; a heartbeat, whose calls are counted."""

    def __init__(self) -> None:
        self.down: set[str] = set()
        self.beats = self.calls = 0
        self.hanging = threading.Event()  # while it is set, the heartbeat's answer does not come
        self.released = threading.Event()
        world = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path[1:]
                world.calls += 1
                if name == "beat":
                    world.beats += 1
                    if world.hanging.is_set():
                        world.released.wait(20)
                self.send_response(503 if name in world.down else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


def configuration(world: World, *servers: Taking, targets: tuple[str, ...] = ("a", "b"), **fields: Any) -> Configuration:
    """Targets of the world, a rule that they are up, and a receiver `r0`, `r1` … for each server."""
    parts = {
        "interval": INTERVAL,
        "targets": tuple(Target(name=name, url=SecretStr(f"{world.url}/{name}")) for name in targets),
        "rules": (rule("Down", "up == 0"),),
        "receivers": tuple(Receiver(name=f"r{at}", webhook=SecretStr(each.url)) for at, each in enumerate(servers)),
    }
    return Configuration(**{**parts, **fields})


@contextmanager
def running(file: Path, configure: Callable[[], Configuration], patience: float = 0.05) -> Iterator[tuple[Signals, list[float]]]:
    """The loop on a thread; its signals, and what it promised after each tick."""
    signals, engine = Signals(), open_on(f"sqlite:///{file}", patience=patience)
    promises: list[float] = []
    named = {"folder": file.parent, "alive": promises.append}
    thread = threading.Thread(target=run, args=(configure, engine, signals), kwargs=named)
    thread.start()
    try:
        yield signals, promises
    finally:
        signals.stopping.set()
        thread.join(30)
        engine.dispose()
        assert not thread.is_alive()


def until(found: Callable[[], Any], seconds: float = 20.0) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, f"it did not come true within {seconds} s"
        time.sleep(0.01)


def more(promises: list[float], ticks: int = 3) -> None:
    """Wait for so many more ticks."""
    before = len(promises)
    until(lambda: len(promises) >= before + ticks)


def told(server: Taking) -> list[str]:
    """What has reached a receiver, as `firing Down a`."""
    alerts = [alert for each in list(server.requests) for alert in each.message["data"]["alerts"]]
    return [f"{alert['status']} {alert['alert']} {alert['target']}" for alert in alerts]


def stored(file: Path) -> list[tuple[str, str, str]]:
    """Receiver, target and what it is to know, of every notification."""
    engine = open_on(f"sqlite:///{file}")
    with database.reading(engine) as connection:
        rows = connection.execute(select(notifications).order_by(notifications.c.id)).all()
    engine.dispose()
    return [(row.receiver, row.firing["target"], row.wanted) for row in rows]


def damaged(file: Path) -> None:
    """Overwrite all but the first bytes of the file under a monitor that uses it, so that it has to read them again."""
    with closing(sqlite3.connect(file)) as other:
        other.execute("DELETE FROM disabled")
        other.commit()
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with file.open("r+b") as opened:
        opened.write(random.Random(1).randbytes(file.stat().st_size))


# Ending, and going on.


def test_a_stop_finishes_the_tick_and_what_is_being_sent(tmp_path: Path, world: World) -> None:
    """The loop ends when it is told to, and by then has delivered what its last tick put out."""
    with receiving() as server:
        world.down.add("a")
        with running(tmp_path / "tocsin.db", lambda: configuration(world, server)):
            server.wait_for(1)

        assert ["firing Down a"] == told(server)
        assert "it answered 503" == server.requests[0].message["data"]["alerts"][0]["reason"]


def test_after_each_tick_it_promises_the_next(tmp_path: Path, world: World) -> None:
    """The promise leaves time for the interval and for a probe that takes as long as it may, and then some."""
    with running(tmp_path / "tocsin.db", lambda: configuration(world)) as (_, promises):
        more(promises)

    assert all(INTERVAL + 3.0 < promise < 60 for promise in promises)


def test_p23_a_stuck_receiver_delays_no_tick(tmp_path: Path, world: World) -> None:
    """While a receiver holds its request open the ticks go on, and the other receiver hears of everything."""
    release = threading.Event()
    with receiving() as stuck, receiving() as quick:
        stuck.answer = lambda _: 204 if release.wait(20) else 500
        world.down.add("a")
        with running(tmp_path / "tocsin.db", lambda: configuration(world, stuck, quick)) as (_, promises):
            stuck.wait_for(1)
            more(promises, 10)
            world.down.add("b")
            until(lambda: told(quick) == ["firing Down a", "firing Down b"])
            assert 1 == len(stuck.requests)
            release.set()


# Reload.


def test_a_faulty_file_keeps_the_old_configuration(tmp_path: Path, world: World, lines: Lines) -> None:
    """On reload every fault is logged, and what was watched goes on being watched."""

    def configure() -> Configuration:
        if faults:
            raise ConfigurationError(faults)
        return configuration(world, server)

    faults: list[str] = []
    with receiving() as server:
        with running(tmp_path / "tocsin.db", configure) as (signals, promises):
            more(promises)
            faults += ["rules[0].when: is wrong", "interval: is wrong"]
            signals.reload.set()
            more(promises)
            world.down.add("a")
            server.wait_for(1)
        assert faults == [line["error.message"] for line in lines() if "not reloaded" in line["message"]]


def test_a_reload_closes_what_is_gone_and_tells_who_is_new(tmp_path: Path, world: World) -> None:
    """A target that is taken out is closed, one that is added is watched, and a new receiver hears of what fires."""
    world.down |= {"a", "b", "c"}
    with receiving() as first, receiving() as second:
        parts = [configuration(world, first)]
        with running(tmp_path / "tocsin.db", lambda: parts[0]) as (signals, _):
            until(lambda: told(first) == ["firing Down a", "firing Down b"])
            parts[0] = configuration(world, first, second, targets=("b", "c"))
            signals.reload.set()
            until(lambda: sorted(told(first)[2:]) == ["firing Down c", "resolved Down a"])
            until(lambda: sorted(told(second)) == ["firing Down b", "firing Down c"])


# Heartbeat.


def test_the_heartbeat_is_sent_after_ticks_that_were_committed_and_no_others(tmp_path: Path, world: World) -> None:
    """While the database is locked there is none; afterwards it goes on."""
    file = tmp_path / "tocsin.db"
    parts = configuration(world, heartbeat=SecretStr(f"{world.url}/beat"))
    with running(file, lambda: parts) as (_, promises):
        until(lambda: world.beats >= 3)
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            more(promises, 2)  # the one that was committed just before
            before = world.beats
            more(promises, 10)
            assert before == world.beats
            other.execute("ROLLBACK")
        until(lambda: world.beats >= before + 3)


def test_a_heartbeat_that_hangs_delays_no_tick(tmp_path: Path, world: World) -> None:
    """Its address takes the call and does not answer: the ticks go on, and no second call is made meanwhile."""
    world.hanging.set()
    parts = configuration(world, heartbeat=SecretStr(f"{world.url}/beat"))
    with running(tmp_path / "tocsin.db", lambda: parts) as (_, promises):
        until(lambda: world.beats == 1)
        more(promises, 20)
        assert 1 == world.beats
        world.hanging.clear()
        world.released.set()
        until(lambda: world.beats >= 3)


# A database that cannot be used.


def test_a_locked_database_is_told_past_it_and_everything_is_written_later(tmp_path: Path, world: World, lines: Lines) -> None:
    """After the second tick every receiver hears of it, and of what fires meanwhile; later all is stored and closed once."""
    file = tmp_path / "tocsin.db"
    with receiving() as first, receiving() as second:
        with running(file, lambda: configuration(world, first, second)) as (_, promises):
            more(promises)
            with closing(sqlite3.connect(file, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                for server in (first, second):
                    until(lambda server=server: told(server) == ["firing DatabaseFailure monitor"])  # type: ignore[misc]
                world.down.add("a")
                for server in (first, second):
                    until(lambda server=server: told(server)[1:] == ["firing Down a"])  # type: ignore[misc]
                other.execute("ROLLBACK")
            # Through the outbox now, once more, as nobody noted who has been told.
            for server in (first, second):
                until(lambda server=server: sorted(told(server)[2:]) == ["firing Down a", "resolved DatabaseFailure monitor"])  # type: ignore[misc]
            world.down.clear()
            for server in (first, second):
                until(lambda server=server: told(server)[4:] == ["resolved Down a"])  # type: ignore[misc]
            more(promises, 5)
            assert 5 == len(told(first)) == len(told(second))
        said = [
            line["message"] for line in lines() if line["log.level"] in ("error", "critical") and "cannot be" in line["message"]
        ]
        assert 2 == len(said), said

    assert [("r0", "a", "resolved"), ("r1", "a", "resolved")] == stored(file)


def test_a_moments_lock_is_told_to_nobody(tmp_path: Path, world: World) -> None:
    """One tick that cannot be committed is in the log; what fired in it is told with the next, and not only a minute later."""
    file = tmp_path / "tocsin.db"
    with receiving() as server:
        parts = configuration(world, server, interval=1.0)
        with running(file, lambda: parts) as (_, promises):
            more(promises, 1)
            with closing(sqlite3.connect(file, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                world.down.add("a")
                more(promises, 1)
                other.execute("ROLLBACK")
            until(lambda: told(server), 10)

        assert ["firing Down a"] == told(server)


def test_a_file_that_is_damaged_while_it_is_used_is_moved_aside(tmp_path: Path, world: World) -> None:
    """It is kept under another name, every receiver is told, and what fires is announced again, and closed."""
    file = tmp_path / "tocsin.db"
    with receiving() as server, running(file, lambda: configuration(world, server)):
        world.down.add("a")
        until(lambda: told(server) == ["firing Down a"])
        damaged(file)
        until(lambda: "resolved DatabaseFailure monitor" in told(server))
        until(lambda: told(server).count("firing Down a") >= 2)
        world.down.clear()
        until(lambda: told(server)[-1] == "resolved Down a")
        kept = [each.name for each in tmp_path.iterdir() if ".corrupt-" in each.name and not each.name.endswith(("-wal", "-shm"))]

        assert 1 == len(kept)
        failure = next(each for each in server.requests if "DatabaseFailure" in each.body.decode()).message["data"]["alerts"][0]
        assert f"It was moved to {kept[0]}, and a new one is begun" in failure["summary"]
    assert [("r0", "a", "resolved")] == stored(file)


def test_damage_that_only_a_sender_comes_across_is_found(tmp_path: Path, world: World) -> None:
    """The table of messages is damaged, which no tick reads: the file is replaced all the same, and the alert told."""
    file = tmp_path / "tocsin.db"
    engine = database.connect(f"sqlite:///{file}")
    engine.dispose()
    with closing(sqlite3.connect(file)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = other.execute("SELECT rootpage FROM sqlite_master WHERE name = 'messages'").fetchone()
    with file.open("r+b") as opened:
        opened.seek((page - 1) * 4096)
        opened.write(b"\xff" * 4096)
    world.down.add("a")
    with receiving() as server, running(file, lambda: configuration(world, server)):
        until(lambda: {"firing DatabaseFailure monitor", "firing Down a"} <= set(told(server)))
        world.down.clear()
        until(lambda: "resolved Down a" in told(server))

    assert [("r0", "a", "resolved")] == stored(file)


# Full and read-only disks, for real: a small file system in a mount namespace of the monitor's own.

MONITOR = """
import signal, sys
from pathlib import Path
from service import database, loading, logs
from service.monitor import loop
from service.settings import Settings
logs.configure("tocsin-monitor", "INFO", 1)
signals = loop.Signals()
signal.signal(signal.SIGTERM, lambda *_: signals.stopping.set())
found = loading.load(Settings(), Path(sys.argv[2]))
loop.run(lambda: found, database.open_on("sqlite:///" + sys.argv[1], patience=0.2), signals, folder=Path(sys.argv[1]).parent)
"""
NAMESPACE = ["unshare", *([] if os.geteuid() == 0 else ["--map-root-user"]), "--mount"]


def can_mount() -> bool:
    command = [*NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return bool(shutil.which("unshare")) and subprocess.run(command, check=False, capture_output=True, timeout=10).returncode == 0


@contextmanager
def on_small_disk(folder: Path, world: World, server: Taking, options: str = "") -> Iterator[tuple[Path, int]]:
    """The monitor as a process whose database is on a disk of 700 KiB; its folder as seen from here, and its process id."""
    disk, config = folder / "disk", folder / "monitor.yaml"
    disk.mkdir()
    config.write_text(
        f"interval: 100ms\ntargets: [{{name: a, url: '{world.url}/a'}}]\n"
        "rules: [{alert: Down, when: up == 0, keep_firing_for: 0s}]\n"
        f"receivers: [{{name: ops, webhook: '{server.url}'}}]\n"
    )
    script = f'mount -t tmpfs -o size=700k tmpfs "$0" && {options or "true"} && exec "$@"'
    command = [*NAMESPACE, "sh", "-c", script, str(disk), sys.executable, "-c", MONITOR, f"{disk}/tocsin.db", str(config)]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield Path(f"/proc/{process.pid}/root{disk}"), process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def stored_on(disk: Path, folder: Path) -> list[tuple[str, str, str]]:
    """What stands in a database on a disk that only its monitor has mounted: SQLite itself would not find the way there."""
    for each in disk.glob("tocsin.db*"):
        shutil.copy(each, folder)
    return stored(folder / "tocsin.db")


needs_mount = unless(can_mount(), "no file system can be mounted here")


@needs_mount
def test_a_full_disk_is_told_and_everything_is_written_later(tmp_path: Path, world: World, lines: Lines) -> None:
    """With no byte left: every receiver hears of it and of what fires meanwhile; with room again all is stored, closed once.

    What cannot be marked as delivered is not sent again and again.
    """
    with receiving() as server, on_small_disk(tmp_path, world, server) as (disk, _):
        world.down.add("a")
        until(lambda: told(server) == ["firing Down a"])
        world.down.clear()
        until(lambda: (tmp_path / "log").read_text().count('"message delivered"') == 2)  # and marked, or it would come again
        with (disk / "filler").open("wb", buffering=0) as filler:
            for size in (4096, 1):
                try:
                    while True:
                        filler.write(b"x" * size)
                except OSError:
                    continue
        until(lambda: "firing DatabaseFailure monitor" in told(server), 40)
        world.down.add("a")
        until(lambda: told(server)[2:] == ["firing DatabaseFailure monitor", "firing Down a"])
        time.sleep(3)
        assert 4 == len(told(server)), told(server)
        (disk / "filler").unlink()
        until(lambda: "resolved DatabaseFailure monitor" in told(server))
        world.down.clear()
        until(lambda: told(server)[-1] == "resolved Down a")
        assert [("ops", "a", "resolved")] * 2 == stored_on(disk, tmp_path)
        assert 2 == told(server).count("resolved Down a")
        log = (tmp_path / "log").read_text()
    assert 1 == log.count("alerts are evaluated in memory")


@needs_mount
def test_a_read_only_disk_at_the_start_is_gone_on_from_later(tmp_path: Path, world: World) -> None:
    """What fires is told past the database; when the disk can be written the monitor goes on from what was stored there."""
    seed = tmp_path / "seed.db"
    world.down.add("a")
    with receiving() as before, running(seed, lambda: configuration(world, before, targets=("a",), interval=0.05)):
        before.wait_for(1)
    with closing(sqlite3.connect(seed)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        other.execute("UPDATE notifications SET receiver = 'ops'")
        other.execute("UPDATE alerts SET announced = '[\"ops\"]'")
        other.commit()
        other.execute("PRAGMA journal_mode=DELETE")
    options = f'cp {seed} "$0/tocsin.db" && mount -o remount,ro "$0"'
    with receiving() as server, on_small_disk(tmp_path, world, server, options) as (disk, process):
        until(lambda: "firing DatabaseFailure monitor" in told(server), 40)
        subprocess.run(
            ["nsenter", "--target", str(process), "--mount", "mount", "-o", "remount,rw", str(tmp_path / "disk")], check=True
        )
        until(lambda: "resolved DatabaseFailure monitor" in told(server))
        world.down.clear()
        until(lambda: "resolved Down a" in told(server))
        assert [("ops", "a", "resolved")] == stored_on(disk, tmp_path)


def test_a_service_is_restarted_once_it_can_be_counted(tmp_path: Path, world: World) -> None:
    """While another process holds the database nothing is restarted; then it is, once, as the budget says, and given up."""
    heal = {"service": "web", "after": "0s", "attempts": 1, "confirm": "0s"}
    world.down.add("a")
    with receiving() as server, supervised(tmp_path, {"web": SLEEPS}) as programs:
        before, file = programs.pid("web"), tmp_path / "tocsin.db"
        services = (Service(name="web", supervisord="web", timeout="5s"),)
        rules = (rule("Down", "up == 0", heal=heal),)
        found = configuration(world, server, targets=("a",), rules=rules, services=services)
        database.connect(f"sqlite:///{file}").dispose()
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with running(file, lambda: found) as (_, promises):
                more(promises, 20)
                assert before == programs.pid("web")
                other.execute("COMMIT")
                until(lambda: any("Given up on web" in text for text in summaries(server)), 30)
                made = "SELECT service, outcome FROM restarts"
                until(lambda: other.execute(made).fetchall() == [("web", "healthy")], 30)
        assert programs.pid("web") not in (0, before)


def summaries(server: Taking) -> list[str]:
    return [alert["summary"] for each in list(server.requests) for alert in each.message["data"]["alerts"]]
