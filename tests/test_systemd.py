"""Units, asked how they are and to be restarted: of a real systemd in a container, and by what it said when it was recorded."""

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from service.supervision import Status, SupervisorError, UnknownServiceError
from service.supervision.systemd import Systemd
from tests.composed import engine_answers
from tests.stack import eventually, unless
from tests.systemd import HERE, Machine, Real, Recorded, booted

STEADY = "ExecStart=/bin/sleep 1000"
DEAF = ("ExecStart=/bin/sh -c 'trap \"\" TERM; while :; do sleep 0.2; done'", "TimeoutStopSec=1000")
FAILS = "ExecStart=/bin/sh -c 'exit 3'"


@pytest.fixture(scope="module")
def container() -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(booted())
        except (AssertionError, subprocess.SubprocessError) as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(f"this machine has no container with systemd: {error}")
        yield


@pytest.fixture(
    params=[
        "recorded",
        pytest.param(
            "real",
            marks=[
                pytest.mark.container,
                pytest.mark.timeout(600),  # the first time its image is made
                unless(engine_answers(), "no Docker engine answers; what a systemd said when it was recorded was tested"),
            ],
        ),
    ]
)
def machine(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    recording = HERE / "recorded/systemctl" / f"{request.function.__name__.removeprefix('test_')}.json"
    found: Machine
    if request.param == "real":
        request.getfixturevalue("container")
        found = Real(tmp_path, recording)
    else:
        found = Recorded(tmp_path, recording)
    monkeypatch.setenv("PATH", str(found.bin), prepend=":")
    yield found
    found.end()


def test_running(machine: Machine) -> None:
    """A unit that runs, with its process, and since when by this machine's clock."""
    machine.unit(STEADY)
    machine.does("systemctl start it")
    found = Systemd("it").status()
    properties = dict(line.split("=", 1) for line in machine.said()[0]["stdout"].splitlines())
    ago = time.monotonic() - int(properties["ActiveEnterTimestampMonotonic"]) / 1e6

    assert Status("running", found.since, int(properties["MainPID"]), 0) == found
    assert ago == pytest.approx(time.time() - (found.since or 0), abs=5)


def test_stopped_by_hand(machine: Machine) -> None:
    """A unit that was stopped is stopped; a restart starts it."""
    machine.unit(STEADY)
    machine.does("systemctl start it")
    machine.does("systemctl stop it")
    it = Systemd("it")
    stopped = it.status()
    it.restart(None)

    assert Status("stopped", stopped.since, None, 0) == stopped
    assert "running" == it.status().state


def test_being_stopped(machine: Machine) -> None:
    """While it is being stopped it counts as stopped, though its process is still there."""
    machine.unit(*DEAF)
    machine.does("systemctl start it")
    machine.does("sleep 0.5; systemctl stop --no-block it")
    found = Systemd("it").status()

    assert ("stopped", True, "stop-sigterm") == (found.state, found.pid is not None, found.detail)


def test_failed(machine: Machine) -> None:
    """A unit that ended with a fault has failed, and says how; a restart tries again."""
    machine.unit("ExecStart=/bin/sh -c 'test -e /run/ready || exit 3; exec sleep 1000'")
    machine.does("systemctl start it; sleep 0.5; touch /run/ready")
    it = Systemd("it")
    failed = it.status()
    it.restart(None)

    assert ("failed", None, "exit-code") == (failed.state, failed.pid, failed.detail)
    assert "running" == it.status().state
    machine.does("rm /run/ready")


def test_failing_again(machine: Machine) -> None:
    """A restart that does not help is no error of systemd's: the state says it."""
    machine.unit(FAILS)
    machine.does("systemctl start it; sleep 0.5")
    it = Systemd("it")
    it.restart(1)

    assert "failed" == eventually(lambda: found if (found := it.status()).state == "failed" else None, "failed").state


def test_started_again_by_systemd(machine: Machine) -> None:
    """A unit that waits to be started again is starting, and systemd's restarts are counted."""
    machine.unit(FAILS, "Restart=always", "RestartSec=1")
    machine.does("systemctl start it; sleep 2.7")
    it = Systemd("it")

    found = eventually(lambda: now if "auto-restart" in (now := it.status()).detail else None, "it waits")
    assert ("starting", None, "auto-restart, exit-code") == (found.state, found.pid, found.detail)
    assert (found.restarts or 0) >= 1


def test_no_such_unit(machine: Machine) -> None:
    """A name that is none is said, with where to find the right one, and nothing is restarted."""
    for ask in (Systemd("it").status, lambda: Systemd("it").restart(1)):
        with pytest.raises(UnknownServiceError, match=r"^systemd has no unit 'it'; `systemctl list-units --all` lists them$"):
            ask()

    assert [] == machine.verbs()


def test_no_name_of_a_unit(machine: Machine) -> None:
    """What systemctl itself refuses is said in its words."""
    with pytest.raises(SupervisorError, match=r"^systemctl show fails for 'it@': .*Unit name it@.service is neither"):
        Systemd("it@").status()
    assert 1 == len(machine.said())


def test_masked(machine: Machine) -> None:
    """A unit that may not be started is stopped, says why, and refuses."""
    machine.does("ln -s /dev/null /etc/systemd/system/it.service; systemctl daemon-reload")
    it = Systemd("it")

    assert Status("stopped", None, None, 0, "masked") == it.status()
    with pytest.raises(SupervisorError, match=r"^systemctl restart fails for 'it': .*Unit it.service is masked\.$"):
        it.restart(1)


def test_a_restart(machine: Machine) -> None:
    """The process is ended and another one runs; it is one job of systemd's, which needs nobody to wait for it."""
    machine.unit(STEADY)
    machine.does("systemctl start it")
    it = Systemd("it")
    old = it.status()
    it.restart(None)
    new = it.status()

    assert ("running", True) == (new.state, old.pid != new.pid)
    assert ["restart"] == machine.verbs()
    assert ["--no-ask-password", "restart", "--no-block", "--", "it"] in [each["arguments"] for each in machine.said()]


def test_what_does_not_end_is_killed(machine: Machine) -> None:
    """What ignores its stop signal is killed once `grace` is over."""
    machine.unit(*DEAF)
    machine.does("systemctl start it; sleep 0.5")
    it = Systemd("it")
    old = it.status()
    it.restart(0.5)
    new = it.status()

    assert ("running", True) == (new.state, old.pid != new.pid)
    assert ["restart", "kill"] == machine.verbs()


def test_a_stop_in_the_middle_of_a_restart_wins(machine: Machine) -> None:
    """Somebody stops it while it is restarted: it is left stopped."""
    machine.unit(DEAF[0], "TimeoutStopSec=3")
    machine.does("systemctl start it; sleep 0.5")
    it = Systemd("it")
    stopping = threading.Timer(1, machine.does, args=("systemctl stop it; true",))
    stopping.start()
    it.restart(None)
    stopping.join()

    # systemd has killed it; that counts as a fault of its own.
    assert it.status().state in ("stopped", "failed")
    assert None is it.status().pid


def test_no_systemd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without systemctl, and one whose systemd is not running."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SupervisorError, match=r"^there is no `systemctl` here") as raised:
        Systemd("it").status()
    assert SupervisorError is type(raised.value)  # nobody knows whether there is such a unit


SYSTEMCTL = [
    ("sleep 60", r"^systemctl show gives no answer within 0.5 s$"),
    ("echo hello", r"^systemctl says nothing of it's state; is it systemd's own\?$"),
    ("exit 1", r"^systemctl show fails for 'it': it does not say why$"),
    # Word for word as systemd 257 says it to an ordinary user, with polkit and without.
    (
        "echo 'Failed to restart it.service: Interactive authentication required.' >&2; exit 1",
        r"Interactive authentication required\.; let this user manage units with a rule of polkit, or run as root$",
    ),
    (
        "echo 'Failed to restart it.service: Access denied' >&2; exit 1",
        r"Access denied; let this user manage units with a rule of polkit, or run as root$",
    ),
]


@pytest.mark.parametrize(("shell", "said"), SYSTEMCTL)
def test_a_systemctl_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shell: str, said: str) -> None:
    """It hangs, talks of something else, or refuses: each is said in one line, and soon."""
    script(tmp_path, shell)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("service.supervision.systemd._SECONDS", 0.5)
    for ask in (Systemd("it").status, lambda: Systemd("it").restart(1)):
        with pytest.raises(SupervisorError, match=said):
            ask()


def test_systemctl_is_told_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its environment is its own: the path and a language."""
    script(tmp_path, f"env >{tmp_path}/environment; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("TOCSIN_API_KEY", "a secret")
    with pytest.raises(SupervisorError):
        Systemd("it").status()

    found = {line.partition("=")[0] for line in (tmp_path / "environment").read_text().splitlines()}
    assert {"PATH", "LC_ALL"} == found - {"PWD", "SHLVL", "_"}  # a shell's own


def script(folder: Path, shell: str) -> None:
    (folder / "systemctl").write_text(f"#!/bin/sh\n{shell}\n")
    (folder / "systemctl").chmod(0o755)
