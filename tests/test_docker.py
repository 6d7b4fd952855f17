"""Containers, asked how they are and to be restarted: of a real Docker engine, and by an answer that one gave."""

import json
import os
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from service import restarts
from service.services import Service
from service.supervision import Status, SupervisorError, UnknownServiceError
from service.supervision.docker import Docker
from tests.composed import engine_answers
from tests.stack import eventually, unless
from tests.test_supervision import answering, listening

SOCKET = Path("/var/run/docker.sock")
NAME = f"tocsin-test-{os.getpid()}-it"
RECORDED = Path(__file__).parent / "recorded/container.json"  # Docker Engine 26.1.5, GET /v1.45/containers/it/json
STEADY = "exec sleep 1000"
DEAF = 'trap "" TERM; while :; do sleep 0.2; done'
SLOW_TO_END = 'trap "sleep 0.5; exit 0" TERM; while :; do sleep 0.1; done'

engine = [
    pytest.mark.container,
    unless(engine_answers() and SOCKET.exists(), f"no Docker engine answers at {SOCKET}; the rest of the suite ran without one"),
]


@pytest.mark.parametrize(
    ("now", "policy", "state", "detail"),
    [
        ({}, "no", "running", ""),
        ({"Health": {"Status": "healthy"}}, "no", "running", ""),
        ({"Health": {"Status": "none"}}, "no", "running", ""),
        ({"Health": {"Status": "starting"}}, "no", "starting", ""),
        ({"Health": {"Status": "unhealthy"}}, "no", "running", "unhealthy"),
        ({"Status": "restarting"}, "always", "starting", "restarting"),
        ({"Status": "paused"}, "no", "stopped", "paused"),
        ({"Status": "removing"}, "no", "stopped", "removing"),
        ({"Status": "created"}, "no", "stopped", "never started"),
        ({"Status": "created", "ExitCode": 127, "Error": "no such file"}, "no", "failed", "no such file"),
        # What these policies would have started again was stopped by a person.
        ({"Status": "exited", "ExitCode": 1}, "always", "stopped", "exited with status 1"),
        ({"Status": "exited", "ExitCode": 1}, "unless-stopped", "stopped", "exited with status 1"),
        ({"Status": "exited", "ExitCode": 128, "Error": "port is taken"}, "always", "failed", "port is taken"),
        # Without one, a status that a stop may have left is taken for a stop.
        ({"Status": "exited", "ExitCode": 0}, "no", "stopped", "exited with status 0"),
        ({"Status": "exited", "ExitCode": 137}, "on-failure", "stopped", "exited with status 137"),
        ({"Status": "exited", "ExitCode": 143}, "no", "stopped", "exited with status 143"),
        ({"Status": "exited", "ExitCode": 1}, "no", "failed", "exited with status 1"),
        ({"Status": "exited", "ExitCode": 2}, "on-failure", "failed", "exited with status 2"),
        ({"Status": "exited", "ExitCode": 137, "OOMKilled": True}, "no", "failed", "exited with status 137, out of memory"),
        ({"Status": "dead", "ExitCode": 1}, "no", "failed", "exited with status 1"),
    ],
)
def test_a_state_is_told_as_it_is(tmp_path: Path, now: dict[str, Any], policy: str, state: str, detail: str) -> None:
    """Each of the engine's states is one of four; of what has ended, whether a person did it."""
    container = json.loads(RECORDED.read_text())
    container["State"] |= now
    container["HostConfig"]["RestartPolicy"]["Name"] = policy
    with listening(tmp_path / "s", answering(json.dumps(container).encode())):
        found = Docker("it", tmp_path / "s").status()

    assert (state, detail) == (found.state, found.detail)


@pytest.mark.parametrize(
    ("status", "started", "finished", "since"),
    [
        ("running", "1970-01-01T00:01:00.5Z", "0001-01-01T00:00:00Z", 60.5),
        ("running", "2026-11-21T06:28:01.305914799Z", "2026-11-20T06:28:01.305914799Z", 1795242481.305914),
        ("running", "1970-01-01T02:01:00.123456789+02:00", "0001-01-01T00:00:00Z", 60.123456),
        ("exited", "1970-01-01T00:01:00Z", "1970-01-01T00:02:00Z", 120.0),
        ("paused", "1970-01-01T00:01:00Z", "0001-01-01T00:00:00Z", None),
        ("created", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z", None),
    ],
)
def test_since_when(tmp_path: Path, status: str, started: str, finished: str, since: float | None) -> None:
    """Since its start or its end, with nanoseconds or without; the year 1 is no time."""
    container = json.loads(RECORDED.read_text())
    container["State"] |= {"Status": status, "StartedAt": started, "FinishedAt": finished}
    with listening(tmp_path / "s", answering(json.dumps(container).encode())):
        assert since == Docker("it", tmp_path / "s").status().since


def test_the_engines_own_version_is_spoken(tmp_path: Path) -> None:
    """Every request but the first names the version that the engine told; a restart goes to what was looked at, by its id."""
    container = RECORDED.read_bytes()
    identity = json.loads(container)["Id"]
    with listening(tmp_path / "s", answering(container)) as requests:
        it = Docker("it", tmp_path / "s")
        it.status()
        for grace in (None, 0, 1.5):
            with pytest.raises(SupervisorError):  # this one answers everything with 200
                it.restart(grace)

    look = "GET /v1.45/containers/it/json HTTP/1.1"
    restarts = [f"POST /v1.45/containers/{identity}/restart{given} HTTP/1.1" for given in ("", "?t=0", "?t=2")]
    expected = ["GET /_ping HTTP/1.1", look, look, restarts[0], look, restarts[1], look, restarts[2]]
    assert expected == requests


@pytest.mark.parametrize(
    ("name", "status", "kind"),
    [
        ("it", "404 Not Found", UnknownServiceError),
        ("other", "200 OK", UnknownServiceError),  # the answer is about `it`
        ("it", "500 Internal Server Error", SupervisorError),
    ],
)
def test_who_has_no_such_container_is_told_apart(tmp_path: Path, name: str, status: str, kind: type[Exception]) -> None:
    """That the engine has no container of that name is another error than that it cannot say."""
    with listening(tmp_path / "s", answering(RECORDED.read_bytes(), status)), pytest.raises(SupervisorError) as raised:
        Docker(name, tmp_path / "s").status()

    assert kind is type(raised.value)


@pytest.mark.parametrize(
    ("health", "outcome", "detail"),
    [("healthy", "healthy", ""), ("unhealthy", "unhealthy", "it is unhealthy")],
)
def test_what_its_own_health_check_refuses_is_not_healthy(tmp_path: Path, health: str, outcome: str, detail: str) -> None:
    """Restarted, it runs as another process; without a `url` its own health check counts."""

    def behave(connection: socket.socket) -> None:
        """An engine that has done the restart once it was asked for."""
        restarted = any(line.startswith("POST") for line in requests)
        container = json.loads(RECORDED.read_text())
        container["State"] |= {"Pid": 2 if restarted else 1, "Health": {"Status": health}}
        status = "204 No Content" if requests[-1].startswith("POST") else "200 OK"
        answering(b"" if status.startswith("204") else json.dumps(container).encode(), status)(connection)

    with listening(tmp_path / "s", behave) as requests:
        it = Service(name="it", docker="it", socket=tmp_path / "s", timeout="1s")
        done = restarts.perform(it, restarts.asked("it", "command", "ann"), tmp_path, None, steady=0.1)

    assert (outcome, detail, 1, 2) == (done.outcome, done.detail, done.old_pid, done.new_pid)


@contextmanager
def container(shell: str, *options: str, verb: str = "run") -> Iterator[Docker]:
    """One that does `shell`, asked by name."""
    command = ["docker", verb, *(["--detach"] if verb == "run" else []), "--name", NAME, "--entrypoint", "sh", *options]
    try:
        subprocess.run([*command, "nginx:1.28", "-c", shell], capture_output=True, check=True)
        yield Docker(NAME, SOCKET)
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", NAME], capture_output=True, check=False)


def docker(verb: str, *options: str) -> str:
    return subprocess.run(["docker", verb, *options, NAME], capture_output=True, text=True, check=True).stdout.strip()


class TestEngine:
    pytestmark = engine

    def test_a_running_one(self) -> None:
        """The process of a running container, and since when."""
        began = time.time()
        with container(STEADY) as it:
            found = it.status()

            assert Status("running", found.since, int(docker("inspect", "--format", "{{.State.Pid}}")), 0) == found
            assert began < (found.since or 0) < time.time()

    @pytest.mark.parametrize("options", [(), ("--restart", "unless-stopped"), ("--restart", "always")])
    def test_stopped_by_a_person_it_is_stopped_and_a_restart_starts_it(self, options: tuple[str, ...]) -> None:
        """`docker stop` leaves it stopped whatever its policy; asked for, it runs."""
        with container(STEADY, *options) as it:
            docker("stop", "--time", "1")
            stopped = it.status()
            it.restart(None)

            assert ("stopped", None) == (stopped.state, stopped.pid)
            assert "running" == it.status().state

    def test_ended_by_itself_it_has_failed(self) -> None:
        """A fault of its own, with no policy that starts it again."""
        with container("exit 3") as it:
            failed = eventually(lambda: found if (found := it.status()).state == "failed" else None, "it ends")

            assert (None, "exited with status 3") == (failed.pid, failed.detail)

    def test_started_again_by_the_engine_it_is_counted(self) -> None:
        """What ends all the time is starting, and the engine's restarts are counted."""
        with container("exit 3", "--restart", "always") as it:
            eventually(lambda: (found := it.status()).state == "starting" and (found.restarts or 0) > 1, "it is restarted")

    def test_never_started_and_paused(self) -> None:
        """Created and paused are stopped; a restart brings both to run."""
        with container(STEADY, verb="create") as it:
            created = it.status()
            it.restart(None)
            docker("pause")
            paused = it.status()
            it.restart(0)

            assert [("stopped", "never started"), ("stopped", "paused")] == [
                (each.state, each.detail) for each in (created, paused)
            ]
            assert "running" == it.status().state

    def test_its_own_health_check_counts(self) -> None:
        """Until its check says healthy it is starting, and what its check refuses is unhealthy."""
        check = ("--health-interval", "1s", "--health-retries", "1", "--health-cmd", "test -e /tmp/well")
        with container(
            "sleep 2; touch /tmp/well; sleep 4; rm /tmp/well; exec sleep 1000", *check, "--health-retries", "30"
        ) as it:
            assert "starting" == it.status().state
            eventually(lambda: it.status().state == "running", "it is healthy", 30)
        with container(STEADY, *check) as it:
            eventually(lambda: it.status().detail == "unhealthy", "it is unhealthy", 30)

    @pytest.mark.parametrize(("grace", "options"), [(0.5, ("--stop-timeout", "1000")), (None, ("--stop-timeout", "7"))])
    def test_a_restart_ends_the_process_and_brings_another(
        self, monkeypatch: pytest.MonkeyPatch, grace: float | None, options: tuple[str, ...]
    ) -> None:
        """What ignores its stop signal is killed: after `grace`, else after the container's own stop timeout, however long."""
        monkeypatch.setattr("service.supervision.docker._STARTED", 5.0)
        with container(DEAF, *options) as it:
            old = it.status()
            it.restart(grace)
            new = it.status()

            assert "running" == new.state
            assert old.pid != new.pid
            assert (old.since or 0) < (new.since or 0)

    @pytest.mark.parametrize("shell", [DEAF, SLOW_TO_END])
    def test_killed_in_the_middle_of_a_restart_the_container_runs(self, shell: str) -> None:
        """kill -9 of who restarts it, at any moment: the engine goes on by itself."""
        asker = (
            "import sys; from pathlib import Path; from service.supervision.docker import Docker\n"
            "it = Docker(sys.argv[1], Path(sys.argv[2])); it.status(); print('ready', flush=True); it.restart(1)"
        )
        with container(shell) as it:
            for _ in range(4):
                with subprocess.Popen([sys.executable, "-c", asker, NAME, SOCKET], stdout=subprocess.PIPE) as asking:
                    assert asking.stdout
                    assert b"ready\n" == asking.stdout.readline()
                    time.sleep(random.uniform(0, 1.2))
                    asking.kill()
            time.sleep(3)  # what is under way comes to its end

            assert "running" == it.status().state

    def test_what_cannot_be_started_is_said_in_the_engines_words(self) -> None:
        """A container whose command is missing."""
        with container(STEADY, "--entrypoint", "/nonexistent", verb="create") as it:
            with pytest.raises(SupervisorError, match=rf"^the Docker engine refuses it for '{NAME}' \([45]0\d\): .*/nonexistent"):
                it.restart(1)

            assert "failed" == it.status().state

    @pytest.mark.parametrize("cut", [3, 12, 64])
    def test_an_id_is_no_name(self, cut: int) -> None:
        """The engine takes the beginning of an id for the container; a short name could be any container's."""
        with container(STEADY):
            beginning = docker("inspect", "--format", "{{.Id}}")[:cut]
            for ask in (Docker(beginning, SOCKET).status, lambda: Docker(beginning, SOCKET).restart(0)):
                with pytest.raises(UnknownServiceError, match=f"^the Docker engine has no container '{beginning}'"):
                    ask()

    @pytest.mark.parametrize("name", ["tocsin-test-none", "a b", "?"])
    def test_no_such_container(self, name: str) -> None:
        """A name that is none is said, with where to find the right one, whatever its letters mean in an address."""
        for ask in (Docker(name, SOCKET).status, lambda: Docker(name, SOCKET).restart(0)):
            with pytest.raises(
                UnknownServiceError, match=rf"^the Docker engine has no container '{re.escape(name)}'; `docker ps --all`"
            ):
                ask()
