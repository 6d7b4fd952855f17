"""`tocsin jobs` as processes of their own: each command, what it says, and every fault as a line."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert

from service import jobs
from service.database import connect, reading
from service.jobs import Job
from service.tables import runs
from tests.stack import BIN, ROOT


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    (tmp_path / "monitor.yaml").write_text("receivers:\n  - {name: ops, webhook: http://127.0.0.1:9/}\n")
    engine = connect(f"sqlite:///{tmp_path}/tocsin.db")
    yield engine
    engine.dispose()


def tocsin(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {"PATH": "/usr/bin:/bin", "TOCSIN_DATA": str(folder), "TOCSIN_CONFIG": str(folder / "monitor.yaml"), "LOGNAME": "ann"}
    return subprocess.run(
        [BIN / "tocsin", "jobs", *arguments],
        cwd=ROOT,
        env=given | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def said(folder: Path, *arguments: str) -> str:
    done = tocsin(folder, *arguments)
    assert (0, "") == (done.returncode, done.stderr)
    return done.stdout


def fault(finished: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines of a fault: on standard error, with status 2, and nothing else."""
    assert (2, "") == (finished.returncode, finished.stdout)
    assert "Traceback" not in finished.stderr
    return finished.stderr.splitlines()


def job(engine: Engine, name: str) -> Job:
    with reading(engine) as connection:
        return jobs.find(connection, name)


def test_a_job_is_added_shown_paused_resumed_wanted_and_removed(tmp_path: Path, engine: Engine) -> None:
    """The whole life of one; who does it is the login name when nothing else is said."""
    options = ["--kind", "report", "--cron", "0 8 * * mon", "--timezone", "Europe/Zurich", "--since", "7d", "--receiver", "ops"]
    assert re.fullmatch(r"weekly  next: 20\S+Z\n", said(tmp_path, "add", "weekly", *options))
    found = job(engine, "weekly")
    assert ("report", "ops", "0 8 * * mon Europe/Zurich", "run", "ann") == (
        found.task.kind,
        getattr(found.task, "receiver", None),
        str(found.trigger),
        found.missed,
        found.author,
    )
    assert re.search(r"^weekly +report +0 8 \* \* mon Europe/Zurich +20\S+Z$", said(tmp_path, "list"), re.MULTILINE)
    for name, value in (("receiver", "ops"), ("cron", r"0 8 \* \* mon"), ("missed", "run"), ("author", "ann")):
        assert re.search(rf"^{name} +{value}$", said(tmp_path, "show", "weekly"), re.MULTILINE)

    changed = said(tmp_path, "change", "weekly", "--kind", "backup", "--every", "1d", "--missed", "skip", "--author", "ben")
    assert re.fullmatch(r"weekly  next: 20\S+Z\n", changed)
    other = job(engine, "weekly")
    assert ("backup", "every 1d", "skip", "ben") == (other.task.kind, str(other.trigger), other.missed, other.author)

    assert "weekly  paused\n" == said(tmp_path, "pause", "weekly")
    assert " paused\n" in said(tmp_path, "list")
    assert re.fullmatch(r"weekly  next: 20\S+Z\n", said(tmp_path, "resume", "weekly"))
    assert "weekly  wanted; the monitor runs it within a second\n" == said(tmp_path, "run", "weekly", "--author", "ben")
    assert "ben" == job(engine, "weekly").wanted_by
    assert "weekly  removed\n" == said(tmp_path, "remove", "weekly")
    assert "weekly" not in said(tmp_path, "list")


@pytest.mark.parametrize(
    ("options", "task", "trigger"),
    [
        (["--kind", "backup", "--every", "1d", "--keep", "14", "--jitter", "5m"], {"keep": 14}, "every 1d"),
        (["--kind", "probe", "--at", "2199-01-01T00:00:00Z", "--target", "self"], {"target": "self"}, "at 2199-01-01T00:00:00Z"),
        (["--kind", "prune", "--every", "1h", "--start", "2199-01-01T00:00:00Z", "--missed", "skip"], {}, "every 1h"),
    ],
)
def test_each_kind_and_trigger(tmp_path: Path, engine: Engine, options: list[str], task: dict[str, object], trigger: str) -> None:
    """With its own options."""
    said(tmp_path, "add", "it", *options)
    found = job(engine, "it")
    assert task == found.task.model_dump(exclude={"kind"})
    assert trigger == str(found.trigger)


def test_runs_are_a_table(tmp_path: Path, engine: Engine) -> None:
    """Newest first, of one job or of all; one that is under way has no end yet."""
    row = {"job": "prune", "kind": "prune", "due": 0.0, "started": 1.0, "detail": "nothing was old enough"}
    with engine.begin() as connection:
        connection.execute(insert(runs).values(**row, id="a", ended=4.0, outcome="done"))
        connection.execute(insert(runs).values(**{**row, "job": "other", "started": 2.0, "detail": ""}, id="b"))
    head, newest, oldest = said(tmp_path, "runs").splitlines()
    assert ["ID", "JOB", "DUE", "STARTED", "TOOK", "OUTCOME", "DETAIL"] == head.split()
    assert ["b", "other", "running"] == [newest.split()[number] for number in (0, 1, -1)]
    assert oldest.endswith("  3 s   done     nothing was old enough")
    assert 2 == len(said(tmp_path, "runs", "prune").splitlines())
    assert re.search(r"^prune .* done 1970-01-01T00:00:04.000Z$", said(tmp_path, "list"), re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["add", "it", "--kind", "prune"], ["say when, with exactly one of --cron, --every and --at"]),
        (
            ["add", "it", "--kind", "prune", "--every", "1h", "--at", "x"],
            ["say when, with exactly one of --cron, --every and --at"],
        ),
        (["add", "it", "--kind", "prune", "--every", "1s"], ["--every: is not between 10s and 366d"]),
        (
            ["add", "it", "--kind", "prune", "--cron", "0 8 * * *", "--timezone", "Europe/Zurick"],
            ["--timezone: 'Europe/Zurick' is not a time zone; did you mean 'Europe/Zurich'?"],
        ),
        (
            ["add", "it", "--kind", "prune", "--every", "1h", "--keep", "3"],
            ["--keep: is not known here"],
        ),
        (["add", "it", "--kind", "probe", "--every", "1h"], ["--target: is required"]),
        (["add", "it", "--kind", "probe", "--every", "1h", "--target", "self"], None),
        (
            ["add", "it", "--kind", "probe", "--every", "1h", "--target", "sefl"],
            ["--target: 'sefl' is not a target; did you mean 'self'?"],
        ),
        (
            ["add", "it", "--kind", "report", "--every", "1h", "--receiver", "x"],
            ["--receiver: 'x' is not a receiver; known are ops"],
        ),
        (["add", "it", "--kind", "prune", "--at", "2020-01-01T00:00:00Z"], ["the time: 2020-01-01T00:00:00Z is past"]),
        (["add", "prune", "--kind", "prune", "--every", "1h"], ["there is a job 'prune'; change that one, or take another name"]),
        (
            ["add", "it", "--kind", "prune", "--every", "1h", "--author", " "],
            ["--author: ' ': string should have at least 1 character"],
        ),
        (["change", "none", "--kind", "prune", "--every", "1h"], ["there is no job 'none'"]),
        *((([command, "none"]), ["there is no job 'none'"]) for command in ("show", "pause", "resume", "run", "remove")),
    ],
)
def test_a_fault_is_a_line(tmp_path: Path, engine: Engine, arguments: list[str], lines: list[str] | None) -> None:
    """By the name of the option, with what would be right."""
    done = tocsin(tmp_path, *arguments)
    if lines is None:
        assert 0 == done.returncode
    else:
        assert lines == fault(done)


def test_without_a_database_it_is_a_line(tmp_path: Path) -> None:
    """One that cannot be opened."""
    done = tocsin(tmp_path, "list", TOCSIN_DATABASE_URL="sqlite:////proc/none/tocsin.db", TOCSIN_CONFIG="")
    assert (1, "") == (done.returncode, done.stdout)
    assert done.stderr.startswith("cannot use the database sqlite:////proc/none/tocsin.db: ")
