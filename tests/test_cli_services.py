"""`tocsin service` as a process of its own, beside programs of a real supervisord."""

import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service import restarts
from service.database import connect, reading
from service.holds import holding
from service.restarts import Restart
from tests.stack import BIN, ROOT, eventually, free_port
from tests.supervised import SLEEPS, STOPPED, Supervised, answers, supervised
from tests.test_cli_alerts import fault, tocsin

SERVICES = """
services:
- {name: shop, supervisord: shop, url: 'http://127.0.0.1:PORT/robots.txt'}
- {name: queue, supervisord: queue, url: 'http://127.0.0.1:PORT/nothing', timeout: 1s}
- {name: idle, supervisord: idle}
"""
PATIENT = "- {name: patient, supervisord: shop, url: 'http://127.0.0.1:PORT/nothing', timeout: 1m}\n"
SILENT = "- {name: silent, supervisord: shop, socket: /nonexistent/supervisor.sock}\n"


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervised]:
    folder, port = tmp_path_factory.mktemp("cli"), free_port()
    text = SERVICES.replace("PORT", str(port))
    (folder / "services.yaml").write_text(text)
    (folder / "silent.yaml").write_text(text + SILENT)
    (folder / "patient.yaml").write_text(text + PATIENT.replace("PORT", str(port)))
    with supervised(folder, {"shop": answers(port), "queue": SLEEPS, "idle": STOPPED}) as running:
        yield running


def service(programs: Supervised, *arguments: str, file: str = "services.yaml", **env: str) -> "subprocess.CompletedProcess[str]":
    return tocsin(programs.folder, "service", *arguments, TOCSIN_CONFIG=f"{programs.folder}/{file}", **env)


def newest(folder: Path) -> Restart:
    engine = connect(f"sqlite:///{folder}/tocsin.db")
    try:
        with reading(engine) as connection:
            return restarts.page(connection, folder, time.time(), limit=1)[0][0]
    finally:
        engine.dispose()


def test_the_status_is_a_table(programs: Supervised) -> None:
    """One line for each service, with its state, its process, and whether it is being restarted."""
    programs.ctl("stop", "idle")
    eventually(lambda: programs.ctl("status").count("RUNNING") == 2, "the others run")
    with holding("queue", programs.folder):
        finished = service(programs, "status")
    head, shop, queue, idle = finished.stdout.splitlines()

    assert (0, "") == (finished.returncode, finished.stderr)
    assert ["NAME", "SUPERVISOR", "STATE", "SINCE", "PID", "RESTARTS", "NOTES"] == head.split()
    assert re.fullmatch(rf"shop +supervisord +running +20\S+Z +{programs.pid('shop')}", shop)
    assert re.fullmatch(rf"queue +supervisord +running +20\S+Z +{programs.pid('queue')} +is being restarted", queue)
    assert re.match(r"idle +supervisord +stopped ", idle)


def test_the_status_of_one(programs: Supervised) -> None:
    """Its line alone."""
    assert ["NAME", "shop"] == [line.split()[0] for line in service(programs, "status", "shop").stdout.splitlines()]


def test_a_supervisor_that_does_not_answer_is_a_line_of_the_table(programs: Supervised) -> None:
    """The others are told all the same; the exit status is 1."""
    programs.ctl("stop", "idle")  # another test may have started it, or just restarted one of the others
    eventually(lambda: programs.ctl("status").count("RUNNING") == 2, "the others run")
    finished = service(programs, "status", file="silent.yaml")
    assert (1, "") == (finished.returncode, finished.stderr)
    assert ["STATE", "running", "running", "unknown"] == [
        line.split()[2] for line in finished.stdout.splitlines() if not line.startswith("idle")
    ]
    assert "/nonexistent/supervisor.sock" in finished.stdout.splitlines()[-1]


@pytest.mark.parametrize("command", ["status", "restart"])
def test_an_unknown_service_is_a_line(programs: Supervised, command: str) -> None:
    """With the one that was probably meant."""
    assert ["'shopp' is not a service; did you mean 'shop'?"] == fault(service(programs, command, "shopp"))


def test_a_restart_says_what_it_does_and_ends_well_when_it_is_healthy(programs: Supervised) -> None:
    """Two lines, exit status 0, a new process; it is kept with the login name."""
    before = programs.pid("shop")
    finished = service(programs, "restart", "shop", "--comment", "leaks")
    first, last = finished.stdout.splitlines()

    assert (0, "") == (finished.returncode, finished.stderr)
    assert "restarting shop; it has 1 min to be healthy again" == first
    assert re.fullmatch(rf"shop is healthy after \d+ s: process {programs.pid('shop')} in place of {before}", last)
    kept = newest(programs.folder)
    assert ("shop", "command", "ann", "leaks", "healthy") == (
        kept.service,
        kept.asked_by,
        kept.author,
        kept.comment,
        kept.outcome,
    )


def test_what_was_stopped_is_started_also_without_a_database(programs: Supervised) -> None:
    """There is no process that it takes the place of; one line says that it is not kept."""
    programs.ctl("stop", "idle")
    finished = service(programs, "restart", "idle", TOCSIN_DATABASE_URL="sqlite:////nonexistent/tocsin.db")
    assert 0 == finished.returncode
    assert (
        "cannot use the database sqlite:////nonexistent/tocsin.db: unable to open database file; this restart is not kept there\n"
        == finished.stderr
    )
    assert re.fullmatch(rf"idle is healthy after \d+ s: process {programs.pid('idle')}", finished.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("queue", r"queue is unhealthy: it answers 404"),
        ("silent", r"silent is unreachable: .*/nonexistent/supervisor\.sock.*"),
    ],
)
def test_a_restart_that_does_not_help_is_one_line(programs: Supervised, name: str, said: str) -> None:
    """On standard error, with exit status 1; it is kept with who is named."""
    finished = service(programs, "restart", name, "--author", "ben", file="silent.yaml")
    assert 1 == finished.returncode
    assert re.fullmatch(f"{said}\n", finished.stderr)
    kept = newest(programs.folder)
    assert (name, "ben") == (kept.service, kept.author)


def test_a_service_that_is_being_restarted_is_left_to_that(programs: Supervised) -> None:
    """One line, exit status 1, and the process is the one from before."""
    before = programs.pid("shop")
    with holding("shop", programs.folder):
        finished = service(programs, "restart", "shop")
    assert (1, "shop is being restarted; `tocsin service status shop` tells when it is over\n") == (
        finished.returncode,
        finished.stderr,
    )
    assert before == programs.pid("shop")


def test_what_is_given_must_make_sense(programs: Supervised) -> None:
    """Faults are told by the name of the option, and nothing is restarted."""
    before = programs.pid("shop")
    (line,) = fault(service(programs, "restart", "shop", "--author", " "))
    assert line.startswith("--author: ")
    assert before == programs.pid("shop")


def test_who_stops_waiting_leaves_the_service_running(programs: Supervised) -> None:
    """Ctrl-C ends the command with one line; the service comes back all the same."""
    before = programs.pid("shop")
    env = {"PATH": "/usr/bin:/bin", "TOCSIN_DATA": str(programs.folder), "TOCSIN_CONFIG": f"{programs.folder}/patient.yaml"}
    # Where the tests were started in the background by a shell, they ignore the signal, and so would it.
    command = ["env", "--default-signal=INT", str(BIN / "tocsin"), "service", "restart", "patient", "--author", "ann"]
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiting:
        eventually(lambda: programs.pid("shop") != before, "it is asked for")
        waiting.send_signal(signal.SIGINT)
        _, said = waiting.communicate(timeout=30)
    assert (1, "no longer waiting for patient; `tocsin service status patient` tells how it is\n") == (waiting.returncode, said)
    assert eventually(lambda: programs.pid("shop"), "it runs") != before
    assert "interrupted" == newest(programs.folder).outcome


def test_a_data_folder_that_is_not_there_is_a_line(programs: Supervised, tmp_path: Path) -> None:
    """It is where the stack's socket and lock are; the command makes none."""
    missing = tmp_path / "missing"
    finished = service(programs, "restart", "shop", TOCSIN_DATA=str(missing))
    assert (1, f"cannot use the data folder {missing}") == (
        finished.returncode,
        finished.stderr.splitlines()[-1].partition(":")[0],
    )
    assert not missing.exists()
