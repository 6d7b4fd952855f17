"""A real supervisord, asked how its programs are and to restart them."""

import os
import random
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from service.services import Service
from service.supervision import Status, Supervisor, SupervisorError, UnknownServiceError, supervisor_of
from service.supervision.supervisord import Supervisord, _Process
from tests.stack import BIN, ROOT, eventually, process
from tests.supervised import alive

STEADY = "exec sleep 1000"
STUBBORN = 'trap "" TERM; while :; do sleep 0.2; done'
SLOW_TO_END = 'trap "sleep 0.3; exit 0" TERM; while :; do sleep 0.05; done'


@dataclass
class Running:
    """A supervisord with one program, `it`."""

    folder: Path
    supervisor: Supervisor

    def ctl(self, *arguments: str) -> str:
        """What a person does: supervisorctl."""
        command = [str(BIN / "supervisorctl"), "-s", f"unix://{self.folder}/supervisor.sock", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout

    def until(self, state: str) -> Status:
        return eventually(lambda: found if (found := self.supervisor.status()).state == state else None, state, 30)

    def process(self) -> psutil.Process:
        """The one that runs now."""
        pid = self.until("running").pid
        assert pid
        return psutil.Process(pid)

    def log(self) -> str:
        return (self.folder / "supervisord.log").read_text()


@contextmanager
def supervisord(folder: Path, shell: str, *, before: str = "", socket: str = "", **options: str | int) -> Iterator[Running]:
    """`shell`: what the program does. `options`: lines of its section; a start counts at once where nothing else is said."""
    usual = {"startsecs": 0, "autorestart": "true", "stdout_logfile": folder / "it.log"}
    lines = "\n".join(f"{name} = {value}" for name, value in {**usual, **options}.items())
    command = f"sh -c {shlex.quote(shell)}".replace("%", "%%")
    (folder / "supervisord.conf").write_text(
        f"[supervisord]\nnodaemon = true\nlogfile = /dev/null\nlogfile_maxbytes = 0\npidfile = {folder}/pid\n"
        f"[unix_http_server]\nfile = {folder}/supervisor.sock\nchmod = 0600\n{socket}\n{before}\n"
        "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n"
        f"[program:it]\ncommand = {command}\nredirect_stderr = true\n{lines}\n"
    )
    log = folder / "supervisord.log"
    env = {"PYTHONPATH": str(ROOT / "deploy/supervisor")}
    with process([BIN / "supervisord", "-c", folder / "supervisord.conf", "-l", log], env, folder / "output") as child:
        eventually((folder / "supervisor.sock").exists, "supervisord listens")
        eventually((folder / "pid").read_text, "its pid is written")  # a moment later
        try:
            yield Running(folder, supervisor_of(Service(name="it", supervisord="it"), folder))
        finally:
            child.kill()
            for pid in psutil.pids():  # its programs, which are in its session
                with suppress(ProcessLookupError):
                    if os.getsid(pid) == child.pid:
                        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("shell", "options", "state", "runs", "detail"),
    [
        (STEADY, {}, "running", True, ""),
        (STEADY, {"startsecs": 1000}, "starting", True, ""),
        (
            "exit 3",
            {"startsecs": 1, "startretries": 1000},
            "starting",
            False,
            "Exited too quickly (process log may have details)",
        ),
        ("exit 3", {"startsecs": 1, "startretries": 0}, "failed", False, "Exited too quickly (process log may have details)"),
        ("exit 3", {"autorestart": "false"}, "failed", False, "exited with status 3"),
        ("exit 0", {"autorestart": "unexpected"}, "failed", False, "exited with status 0"),
        ("kill -9 $$", {"autorestart": "false"}, "failed", False, "ended by a signal"),
        (STEADY, {"autostart": "false"}, "stopped", False, "never started"),
    ],
)
def test_a_state_is_told_as_it_is(
    tmp_path: Path, shell: str, options: dict[str, Any], state: str, runs: bool, detail: str
) -> None:
    """Each of supervisord's states is one of four, with a process id only where there is a process, and with the reason."""
    began = time.time() - 1.1  # supervisord tells whole seconds
    with supervisord(tmp_path, shell, **options) as running:

        def told() -> Status | None:
            found = running.supervisor.status()
            return found if (state, runs, detail) == (found.state, found.pid is not None, found.detail) else None

        found = eventually(told, f"{state}, {detail}")

        assert found.since is None if detail == "never started" else began < (found.since or 0) <= time.time()
        assert not runs or psutil.Process(found.pid).ppid() == psutil.Process(int((tmp_path / "pid").read_text())).pid


def test_stopped_by_a_person_is_stopped_and_since_when(tmp_path: Path) -> None:
    """Being stopped and having been stopped are both `stopped`; only the second has a time, that of the end."""
    with supervisord(tmp_path, STUBBORN, stopwaitsecs=2) as running:
        running.process()
        time.sleep(1.1)
        asked = time.time() - 1.1
        running.ctl("signal", "TERM", "it")
        stopping = threading.Thread(target=running.ctl, args=("stop", "it"))
        stopping.start()
        being_stopped = running.until("stopped")
        stopping.join()
        stopped = running.supervisor.status()

    assert (None, True) == (being_stopped.since, being_stopped.pid is not None)
    assert asked < (stopped.since or 0) <= time.time()
    assert Status("stopped", stopped.since) == stopped


def test_a_restart_ends_the_process_and_brings_another(tmp_path: Path) -> None:
    """The process is ended with its own stop signal, and another one runs; who counts no restarts tells none."""
    says = (
        f"trap 'echo INT >>{tmp_path}/heard; exit 0' INT; trap 'echo TERM >>{tmp_path}/heard' TERM; while :; do sleep 0.05; done"
    )
    with supervisord(tmp_path, says, stopsignal="INT") as running:
        old = running.process()
        time.sleep(0.5)  # for the shell to have set its traps
        running.supervisor.restart(None)
        new = running.process()

        assert old.pid != new.pid
        assert None is running.supervisor.status().restarts
        assert not old.is_running()
        assert "INT\n" == (tmp_path / "heard").read_text()


@pytest.mark.parametrize(("grace", "options"), [(0.5, {"stopwaitsecs": 1000}), (None, {"stopwaitsecs": 1})])
@pytest.mark.parametrize("hung", [False, True])
def test_what_does_not_end_is_killed(tmp_path: Path, grace: float | None, options: dict[str, Any], hung: bool) -> None:
    """What ignores its stop signal, or hangs in the kernel's stop, is killed: after `grace`, else after `stopwaitsecs`."""
    with supervisord(tmp_path, STEADY if hung else STUBBORN, **options) as running:
        old = running.process()
        time.sleep(0.5)
        if hung:
            old.send_signal(signal.SIGSTOP)
        running.supervisor.restart(grace)

        assert old.pid != running.process().pid
        assert not old.is_running()


@pytest.mark.parametrize(
    ("shell", "options", "state"),
    [
        (STEADY, {"autostart": "false"}, "stopped"),
        ("test -e ready || exit 3; exec sleep 1000", {"autorestart": "false"}, "failed"),
        ("test -e ready || exit 0; exec sleep 1000", {"autorestart": "unexpected"}, "failed"),
        ("test -e ready || exit 3; exec sleep 1000", {"startsecs": 1, "startretries": 0}, "failed"),
    ],
)
def test_what_does_not_run_is_started(tmp_path: Path, shell: str, options: dict[str, Any], state: str) -> None:
    """Never started, ended for good, given up: once asked for, it runs."""
    with supervisord(tmp_path, shell, directory=str(tmp_path), **options) as running:
        running.until(state)
        (tmp_path / "ready").touch()
        running.supervisor.restart(None)

        assert running.process().is_running()


def test_stopped_by_hand_it_stays_so_until_a_restart_is_asked_for(tmp_path: Path) -> None:
    """supervisord itself leaves it stopped; a restart starts it."""
    with supervisord(tmp_path, STEADY) as running:
        running.process()
        running.ctl("stop", "it")
        time.sleep(2)
        assert "stopped" == running.supervisor.status().state
        running.supervisor.restart(None)

        assert running.process().is_running()


def test_what_ends_and_is_not_started_by_supervisord_is_started_by_us(tmp_path: Path) -> None:
    """A program without autorestart runs again after a restart."""
    with supervisord(tmp_path, STEADY, autorestart="false") as running:
        old = running.process()
        running.supervisor.restart(None)

        assert old.pid != running.process().pid


def test_what_supervisord_tries_to_start_is_left_to_it(tmp_path: Path) -> None:
    """In BACKOFF a restart does nothing, and above all does not use up a try."""
    with supervisord(tmp_path, "exit 3", startsecs=1, startretries=2) as running:
        eventually(lambda: (found := running.supervisor.status()).state == "starting" and not found.pid, "BACKOFF")
        for _ in range(20):
            running.supervisor.restart(None)
        running.until("failed")

        assert 3 == running.log().count("spawned: 'it'")


def test_a_start_is_not_cut_off(tmp_path: Path) -> None:
    """A restart asked for during a start waits for it: ended earlier it would be a failed start, and given up."""
    with supervisord(tmp_path, STEADY, startsecs=2, startretries=0) as running:
        old = running.until("starting")
        running.supervisor.restart(None)

        assert old.pid != running.process().pid
        assert "gave up" not in running.log()


@pytest.mark.parametrize(
    ("options", "ended"),
    [({"stopasgroup": "true"}, True), ({"killasgroup": "true"}, True), ({}, False)],
    ids=["stopasgroup", "killasgroup", "neither"],
)
def test_what_the_old_process_leaves_is_ended_where_its_group_is_to_be(
    tmp_path: Path, options: dict[str, Any], ended: bool
) -> None:
    """A shell ends and leaves its child: it is killed where supervisord.conf says so. The new one's child is left alone."""
    with supervisord(tmp_path, "sleep 1000; true", **options) as running:
        (child,) = eventually(running.process().children, "its child")
        running.supervisor.restart(None)
        (new,) = eventually(lambda: running.process().children(), "the new one's child")
        if ended:
            eventually(lambda: not alive(child.pid), "it ends")

        assert (not ended, True) == (alive(child.pid), alive(new.pid))


def test_another_process_with_the_same_number_is_not_taken_for_it() -> None:
    """A supervisord in another pid namespace names numbers that are others' here: the time of the start tells them apart."""
    with subprocess.Popen(["sleep", "1000"], process_group=0) as leader, subprocess.Popen(["sleep", "1000"]) as member:
        now = int(time.time())
        found = [
            _Process(name="it", group="it", state=20, pid=pid, start=start, stop=0, spawnerr="", exitstatus=0).leads_group
            for pid, start in ((leader.pid, now), (leader.pid, now - 60), (member.pid, now), (2**22 + 1, now))
        ]
        leader.kill()
        member.kill()

    assert [True, False, False, False] == found


def test_a_stop_under_way_is_cut_short_by_a_restart(tmp_path: Path) -> None:
    """Somebody is stopping it, and it does not end: a restart that comes after that ends it, without telling it twice."""
    says = f"trap 'echo TERM >>{tmp_path}/heard' TERM; while :; do sleep 0.05; done"
    with supervisord(tmp_path, says, stopwaitsecs=1000) as running:
        old = running.process()
        time.sleep(0.5)
        stopping = threading.Thread(target=running.ctl, args=("stop", "it"))
        stopping.start()
        running.until("stopped")
        time.sleep(0.5)  # for the shell to have said so: two signals at once are one
        running.supervisor.restart(1)
        stopping.join()

        assert old.pid != running.process().pid
        assert "TERM\n" == (tmp_path / "heard").read_text()


def test_a_stop_in_the_middle_of_a_restart_wins(tmp_path: Path) -> None:
    """Somebody stops it while it is restarted: it is left stopped, and that is said."""
    with supervisord(tmp_path, STUBBORN, stopwaitsecs=3) as running:
        running.process()
        time.sleep(0.5)
        stopping = threading.Timer(1, running.ctl, args=("stop", "it"))
        stopping.start()
        with pytest.raises(SupervisorError, match="it was stopped by somebody while it was restarted; it is left so"):
            running.supervisor.restart(1000)
        stopping.join()

        assert "stopped" == running.until("stopped").state
        assert None is running.supervisor.status().pid


def test_a_program_that_ends_all_the_time_can_be_restarted_all_the_same(tmp_path: Path) -> None:
    """Whatever it does between two questions, no restart fails."""
    with supervisord(tmp_path, "exec sleep 0.05") as running:
        for _ in range(40):
            running.supervisor.restart(0)

        running.until("running")


class Late(Supervisord):
    """Comes with its signal when the process has just ended."""

    def _signal(self, number: int) -> None:
        if pid := self.status().pid:
            os.kill(pid, signal.SIGKILL)
            eventually(lambda: self.status().pid != pid, "it has ended")
        super()._signal(number)


@pytest.mark.parametrize("autorestart", ["true", "false"])
def test_a_program_that_ends_just_before_it_is_told_to(tmp_path: Path, autorestart: str) -> None:
    """There is nothing left to signal: it is started all the same."""
    with supervisord(tmp_path, STEADY, autorestart=autorestart) as running:
        old = running.process()
        Late("it", tmp_path / "supervisor.sock").restart(1)

        assert old.pid != running.process().pid


ASKER = """
import sys
from pathlib import Path
from service.supervision.supervisord import Supervisord
supervisor = Supervisord("it", Path(sys.argv[1]))
supervisor.status()
print("ready", flush=True)
supervisor.restart(0.4)
"""


@pytest.mark.parametrize("shell", [STEADY, SLOW_TO_END, STUBBORN])
def test_killed_in_the_middle_of_a_restart_the_program_runs(tmp_path: Path, shell: str) -> None:
    """kill -9 of who restarts it, at any moment: it runs, and is never stopped."""
    with supervisord(tmp_path, shell) as running:
        running.process()
        for _ in range(6):
            asker = subprocess.Popen([sys.executable, "-c", ASKER, tmp_path / "supervisor.sock"], stdout=subprocess.PIPE)
            with asker:
                assert asker.stdout
                assert b"ready\n" == asker.stdout.readline()
                time.sleep(random.uniform(0, 0.7))
                asker.kill()
            running.until("running")
        time.sleep(1.5)

        assert running.process().is_running()
        assert "stopped: it" not in running.log()


def test_a_program_of_a_group(tmp_path: Path) -> None:
    """GROUP:NAME names one of a group, with its own way to be ended."""
    says = f"trap 'echo INT >>{tmp_path}/heard; exit 0' INT; trap '' TERM; while :; do sleep 0.05; done"
    pair = f"[program:pair]\ncommand = sh -c {shlex.quote(says)}\nnumprocs = 2\nprocess_name = %(program_name)s_%(process_num)d\n"
    with supervisord(tmp_path, STEADY, before=f"{pair}startsecs = 1\nautorestart = true\nstopsignal = INT\n"):
        service = Service(name="second", supervisord="pair:pair_1", socket=tmp_path / "supervisor.sock")
        second = supervisor_of(service, tmp_path / "elsewhere")
        before = eventually(lambda: found if (found := second.status()).state == "running" else None, "running")
        second.restart(None)

        assert before.pid != eventually(lambda: second.status().pid, "a process")
        assert "INT\n" == (tmp_path / "heard").read_text()


def test_restarts_are_told_where_they_are_counted(tmp_path: Path) -> None:
    """Our own supervisord counts how often it starts a program again; any other says nothing of it."""
    ours = "[rpcinterface:tocsin]\nsupervisor.rpcinterface_factory = supervise:Restarts\n"
    with supervisord(tmp_path, STEADY, before=ours) as running:
        running.process()
        before = running.supervisor.status().restarts
        running.supervisor.restart(None)
        running.process()
        after = running.supervisor.status().restarts

    assert (0, 1) == (before, after)


@pytest.mark.parametrize("name", ["its", "it:other", "it:"])
def test_a_name_that_supervisord_does_not_know(tmp_path: Path, name: str) -> None:
    """A name that is none is said, with where to find the right one."""
    with supervisord(tmp_path, STEADY) as running:
        supervisor = supervisor_of(Service(name="it", supervisord=name), running.folder)
        for ask in (supervisor.status, lambda: supervisor.restart(None)):
            with pytest.raises(
                UnknownServiceError, match=f"^supervisord has no program '{name}'; `supervisorctl status` lists them"
            ):
                ask()


def test_a_command_that_is_missing(tmp_path: Path) -> None:
    """What cannot be started is refused in supervisord's words."""
    with supervisord(tmp_path, "", command="/nonexistent/program", startretries=0) as running:
        assert "can't find command '/nonexistent/program'" == running.until("failed").detail
        with pytest.raises(SupervisorError, match=r"^supervisord refuses it for 'it': NO_FILE: .*/nonexistent/program"):
            running.supervisor.restart(None)


def test_a_start_that_fails_is_told_by_the_state(tmp_path: Path) -> None:
    """supervisord has tried, and tries again: that is no error of its own."""
    (tmp_path / "logs").mkdir()
    with supervisord(tmp_path, STEADY, autostart="false", stdout_logfile=f"{tmp_path}/logs/it") as running:
        running.until("stopped")
        (tmp_path / "logs").rmdir()
        running.supervisor.restart(None)

        assert "unknown error making dispatchers for 'it': ENOENT" == running.supervisor.status().detail


def test_a_supervisord_that_shuts_down(tmp_path: Path) -> None:
    """While it ends its programs it says that it is shutting down."""
    with supervisord(tmp_path, STUBBORN, stopwaitsecs=5) as running:
        running.process()
        time.sleep(0.5)
        running.ctl("shutdown")
        for ask in (running.supervisor.status, lambda: running.supervisor.restart(None)):
            with pytest.raises(SupervisorError, match=r"^supervisord is shutting down; ask again when it is back$"):
                ask()


def test_a_supervisord_with_a_password(tmp_path: Path) -> None:
    """One that asks for a password is told apart from a stranger."""
    asks = pytest.raises(SupervisorError, match=r"asks for a password; take it out of \[unix_http_server\]$")
    with supervisord(tmp_path, STEADY, socket="username = a\npassword = b\n") as running, asks:
        running.supervisor.status()


def test_a_supervisord_that_stands_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It accepts and never answers: the question ends all the same, and says so."""
    monkeypatch.setattr("service.supervision.supervisord._SECONDS", 0.5)
    with supervisord(tmp_path, STEADY) as running:
        running.process()
        pid = int((tmp_path / "pid").read_text())
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(SupervisorError, match=r"^supervisord gives no complete answer at .* within 0.5 s$"):
                running.supervisor.status()
        finally:
            os.kill(pid, signal.SIGCONT)


def test_no_supervisord(tmp_path: Path) -> None:
    """Without a socket the remedy is said; with one that nobody listens at, too."""
    supervisor = supervisor_of(Service(name="it", supervisord="it"), tmp_path)
    said = r"^supervisord has no socket at .*/supervisor.sock; start it, or name its socket"
    with pytest.raises(SupervisorError, match=said) as raised:
        supervisor.status()
    assert SupervisorError is type(raised.value)  # nobody knows whether it has such a program
    with supervisord(tmp_path, STEADY):
        pid = int((tmp_path / "pid").read_text())
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, "it is gone")
        with pytest.raises(SupervisorError, match=r"^supervisord does not listen at .*/supervisor.sock; start it$"):
            supervisor.restart(None)
