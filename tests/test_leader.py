"""Several monitors on one database: one leads, the others wait, and when it ends another goes on where it stood."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from service import alive
from service.monitor.leader import Leader, lock_of
from tests.receiver import Receiver, receiving
from tests.stack import BIN, ROOT, eventually, free_port, process

WAITS, LEADS = "another monitor works on this database; this one waits", "the other monitor is gone; this one works on"
Lines = Callable[[], list[dict[str, Any]]]


@dataclass
class Monitor:
    """A `tocsin monitor` as a container has it: the data folder is everybody's, the runtime folder its own."""

    running: "subprocess.Popen[bytes]"
    runtime: Path

    def said(self, message: str) -> list[dict[str, Any]]:
        lines = (json.loads(line) for line in (self.runtime / "log").read_text().splitlines())
        return [line for line in lines if line["message"] == message]

    def hear(self, message: str, times: int = 1) -> None:
        eventually(lambda: len(self.said(message)) >= times, message)

    def end(self, number: signal.Signals) -> None:
        self.running.send_signal(number)
        self.running.wait(20)


@dataclass
class World:
    """The data folder, who is told, and a target that nobody answers at."""

    folder: Path
    stack: ExitStack
    receiver: Receiver

    def configure(self, *targets: str, rest: str = "") -> None:
        port = free_port()
        listed = "".join(f"  - {{name: {name}, url: 'http://127.0.0.1:{port}/'}}\n" for name in targets)
        (self.folder / "monitor.yaml").write_text(
            f"interval: 200ms\ntargets:\n{listed}rules:\n  - {{alert: TargetDown, when: up == 0}}\n"
            f"receivers:\n  - {{name: ops, webhook: '{self.receiver.url}'}}\n{rest}"
        )

    def start(self, name: str) -> Monitor:
        (runtime := self.folder / name).mkdir()
        env = {"TOCSIN_DATA": self.folder, "TOCSIN_RUNTIME": runtime, "TOCSIN_CONFIG": self.folder / "monitor.yaml"}
        given = {key: str(value) for key, value in env.items()}
        return Monitor(self.stack.enter_context(process([BIN / "tocsin", "monitor"], given, runtime / "log")), runtime)

    def told(self, *targets: str) -> bool:
        """Whether the receiver was told that these are down, each once, and it is noted that it was."""
        come = [each.message["data"]["alerts"][0]["target"] for each in list(self.receiver.requests)]
        with closing(sqlite3.connect(self.folder / "tocsin.db")) as connection:
            (waiting,) = connection.execute("SELECT count(*) FROM notifications WHERE waiting").fetchone()
        return come == list(targets) and not waiting

    def hear(self, *targets: str) -> None:
        eventually(lambda: self.told(*targets), f"{targets} are told")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        receiver = stack.enter_context(receiving())
        yield World(tmp_path, stack, receiver)


def test_one_leads_and_another_goes_on_when_it_is_killed(world: World) -> None:
    """Three begin at once on no database: one alert is one message, also when one after the other is killed.

    One that stands still leads until it is killed, as its supervisord does; what changed in monitor.yaml meanwhile counts.
    """
    world.configure("shop")
    monitors = [world.start(name) for name in ("one", "two", "three")]
    eventually(lambda: all(each.said(WAITS) or each.said("monitor started") for each in monitors), "all have begun")
    (first,) = [each for each in monitors if each.said("monitor started")]
    waiting = [each for each in monitors if each is not first]
    world.hear("shop")

    world.configure("shop", "till")
    os.kill(first.running.pid, signal.SIGSTOP)
    time.sleep(2.5)  # two looks of those that wait
    assert [[], []] == [each.said("monitor started") for each in waiting]
    first.end(signal.SIGKILL)
    second = eventually(lambda: next((each for each in waiting if each.said(LEADS)), None), "another leads")
    (third,) = [each for each in waiting if each is not second]
    second.hear("monitor started")
    world.hear("shop", "till")

    second.end(signal.SIGKILL)
    third.hear("monitor started")
    world.configure("shop", "till", "desk")
    third.running.send_signal(signal.SIGHUP)
    world.hear("shop", "till", "desk")
    time.sleep(1)  # five ticks: nothing comes twice
    assert world.told("shop", "till", "desk")
    assert [1, 1, 1] == [len(each.said("monitor started")) for each in monitors]


def test_one_that_waits_promises_answers_and_ends(world: World) -> None:
    """It says so once, keeps its promise to its supervisord, says what is wrong with a changed file, and ends on TERM.

    A file that is wrong when it takes over does not keep it from that: the configuration from before stays in force.
    """
    world.configure("shop")
    first = world.start("first")
    first.hear("monitor started")
    second, third = world.start("second"), world.start("third")
    second.hear(WAITS)
    third.hear(WAITS)

    def promised() -> float:
        return (second.runtime / alive.NAME).stat().st_mtime

    before = eventually(promised, "it has promised")
    eventually(lambda: promised() > before, "it promises again")
    assert 0.0 == alive.overdue(second.runtime, 0.0, 0.0)

    fault = "the configuration is not reloaded; the one before stays in force"
    world.configure("shop", rest="nonsense: 1\n")
    second.running.send_signal(signal.SIGHUP)
    second.hear(fault)
    began = time.monotonic()
    third.end(signal.SIGTERM)
    assert 0 == third.running.returncode
    assert time.monotonic() - began < 10  # a monitor that leads has up to twelve for what it is sending
    assert [] == third.said("monitor started")

    world.hear("shop")
    first.end(signal.SIGTERM)
    second.hear("monitor started")
    assert [2, 1] == [len(second.said(fault)), len(second.said(WAITS))]
    time.sleep(1)
    assert world.told("shop")


def test_a_database_reached_by_another_name_has_the_same_lock(tmp_path: Path) -> None:
    """Two monitors of which one has it by a link have one lock; another database has another."""
    (tmp_path / "tocsin.db").touch()
    (tmp_path / "link.db").symlink_to(tmp_path / "tocsin.db")
    one, same, other = (lock_of(make_url(f"sqlite:///{tmp_path}/{name}.db"), tmp_path) for name in ("tocsin", "link", "third"))

    assert one == same != other
    assert tmp_path / "monitor.lock" == lock_of(make_url("postgresql://db/tocsin"), tmp_path)


def test_the_lock_is_the_processs_own(tmp_path: Path) -> None:
    """A second one does not get it; what the process starts has no part in it; its end, even by SIGKILL, frees it."""
    lock = tmp_path / "lock"
    code = (
        "import subprocess, sys; from pathlib import Path; from service.monitor.leader import Leader\n"
        "child = subprocess.Popen(['sleep', '60'], close_fds=False) if Leader(Path(sys.argv[1])).take() else None\n"
        "print(child.pid, flush=True); child.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", code, lock], cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        child = int(holder.stdout.readline())
        try:
            leader = Leader(lock)
            assert not leader.take()
            held = set()
            for each in Path(f"/proc/{child}/fd").iterdir():
                with suppress(FileNotFoundError):  # a library that it was just loading
                    held.add(str(each.readlink()))
            assert str(lock) not in held
            holder.kill()
            eventually(leader.take, "it is free")
            assert leader.take()
            assert not Leader(lock).take()
        finally:
            os.kill(child, signal.SIGKILL)


def test_where_no_lock_can_be_had_it_leads_all_the_same(tmp_path: Path, lines: Lines) -> None:
    """A folder that is missing must not keep anybody from watching; a line says, once, what is not prevented."""
    leader = Leader(tmp_path / "missing" / "lock")

    assert (True, True) == (leader.take(), leader.take())
    message = "no file can be locked: nothing keeps a second monitor from this database"
    assert [(message, "No such file or directory")] == [(line["message"], line["labels.reason"]) for line in lines()]


def test_without_a_descriptor_it_waits(tmp_path: Path) -> None:
    """That there is no room for one more open file does not say that nobody else leads."""
    code = (
        "import resource, sys; from pathlib import Path; from service.monitor.leader import Leader\n"
        "leader, (soft, hard) = Leader(Path(sys.argv[1])), resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard)); short = leader.take()\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)); print(short, leader.take())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]

    assert "False True\n" == subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_a_first_start_of_many_makes_one_database(tmp_path: Path) -> None:
    """Monitors and workers that come to no database at the same moment all find its tables, made once."""
    code = (
        "import os, sys, time; from service import database\n"
        "from alembic import command  # so that none of them loads it while another one migrates\n"
        "at, children = time.monotonic() + 0.3, []\n"
        "for _ in range(9):\n"
        "    if child := os.fork(): children.append(child); continue\n"
        "    time.sleep(max(0, at - time.monotonic())); database.connect(f'sqlite:///{sys.argv[1]}'); os._exit(0)\n"
        "print([os.waitpid(child, 0)[1] for child in children])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "tocsin.db")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)

    assert (f"{[0] * 9}\n", "") == (done.stdout, done.stderr)
