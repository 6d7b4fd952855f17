"""The thread that runs jobs, on a real database: gaps in its watch, a database that is away, jobs that fail."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from service import database, jobs, reports, runs
from service.checking import checked
from service.configuration import Configuration, Target
from service.database import connect, reading
from service.jobs import Draft
from service.monitor.jobs import GAP, Jobs
from service.receiver import Receiver
from tests.receiver import receiving
from tests.stack import eventually

NOW = 1_792_150_860.0  # 2026-10-16T11:41:00Z
HOUR, DAY = 3600.0, 86_400.0
ADDRESS = SecretStr("http://127.0.0.1:9/?key=secret")
CONFIGURATION = Configuration(
    interval=10.0,
    targets=(Target(name="shop", url=ADDRESS),),
    rules=(),
    receivers=(Receiver(name="ops", webhook=ADDRESS),),
)
Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = connect(f"sqlite:///{tmp_path}/tocsin.db")
    with engine.begin() as connection:
        jobs.remove(connection, "prune")
    yield engine
    engine.dispose()


def add(engine: Engine, name: str, task: dict[str, object], missed: str = "run", now: float = NOW) -> None:
    said = {"name": name, "task": task, "trigger": {"type": "interval", "every": "1h"}, "missed": missed, "author": "ann"}
    with engine.begin() as connection:
        jobs.add(connection, checked(Draft, said, now), now)


def outcomes(engine: Engine, name: str) -> list[str | None]:
    with reading(engine) as connection:
        found, _ = runs.page(connection, job=name)
    return [run.outcome for run in reversed(found)]


class Watch:
    """What looks, at the times that it is told, and waits for what it has begun."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.now = NOW
        self._jobs = Jobs(engine, folder, CONFIGURATION, lambda: self.now, lambda: None)

    def look(self, now: float) -> None:
        self.now = now
        self._jobs._look(now)
        for lane in self._jobs._lanes.values():
            lane.join(20)


@pytest.mark.parametrize(
    ("looks", "kept", "skipped"),
    [
        # Somebody looks all the time.
        ([NOW + step * 5 for step in range(int(HOUR / 5) + 2)], ["done"], ["done"]),
        # Asleep, or the clock was put forward: over the time, by a day, and just over it.
        ([NOW, NOW + DAY, NOW + DAY + 1], ["done"], ["skipped"]),
        ([NOW + HOUR - 1, NOW + HOUR + 60], ["done"], ["skipped"]),
        ([NOW + HOUR - 1, NOW + HOUR + GAP], ["done"], ["done"]),
        # Put back: nothing runs until it is there again.
        ([NOW + HOUR - 5, NOW + HOUR, NOW, NOW + 1, NOW + HOUR + 1], ["done"], ["done"]),
    ],
)
def test_a_gap_in_the_watch_is_what_makes_a_run_missed(
    tmp_path: Path, engine: Engine, looks: list[float], kept: list[str], skipped: list[str]
) -> None:
    """What was due meanwhile runs once or is skipped, as the job says, and never twice."""
    add(engine, "kept", {"kind": "prune"})
    add(engine, "skipped", {"kind": "prune"}, "skip")
    watch = Watch(engine, tmp_path)
    for now in looks:
        watch.look(now)
    watch.look(looks[-1] + 0.5)  # one at a time: the other one is still to come
    assert (kept, skipped) == (outcomes(engine, "kept"), outcomes(engine, "skipped"))


def test_a_report_that_breaks_is_not_running_for_ever(tmp_path: Path, engine: Engine, lines: Lines) -> None:
    """One that could not even be written has failed with its run, with the same words."""
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER broken BEFORE UPDATE OF content ON reports WHEN NEW.state = 'done' "
            "BEGIN SELECT RAISE(ABORT, 'broken'); END"
        )
    add(engine, "weekly", {"kind": "report"})
    Watch(engine, tmp_path).look(NOW + HOUR)
    with reading(engine) as connection:
        (run,), _ = runs.page(connection, job="weekly")
        (found,), _ = reports.page(connection, 10, None)
    assert ("failed", "it failed (IntegrityError)") == (run.outcome, run.detail)
    assert (run.id, run.outcome, run.detail) == (found.id, found.state, found.detail)
    assert 1 == sum("a job failed" == line["message"] for line in lines())


def test_a_job_that_fails_goes_on(tmp_path: Path, engine: Engine, lines: Lines) -> None:
    """Its run says why, in words without an address; it is logged as an error; and it is due again at its next time."""
    add(engine, "gone", {"kind": "probe", "target": "gone"})
    add(engine, "nobody", {"kind": "report", "receiver": "nobody"})
    watch = Watch(engine, tmp_path)
    for hour in (1, 2):
        watch.look(NOW + hour * HOUR)
    assert (["failed"] * 2, ["failed"] * 2) == (outcomes(engine, "gone"), outcomes(engine, "nobody"))
    said = [line for line in lines() if line.get("event.action") == "job"]
    assert {("error", "failure")} == {(line["log.level"], line["event.outcome"]) for line in said}
    assert {"there is no target 'gone' any more", "there is no receiver 'nobody' any more"} == {
        line["labels.reason"] for line in said
    }
    assert "secret" not in str(lines())


def test_what_breaks_a_job_breaks_nothing_else(tmp_path: Path, engine: Engine, lines: Lines) -> None:
    """Something nobody has thought of is a failure with its kind alone, and its trace in the log."""
    broken = Target.model_construct(name="shop", url=None, timeout=1.0)  # type: ignore[arg-type]  # no file can say this
    add(engine, "broken", {"kind": "probe", "target": "shop"})
    watch = Watch(engine, tmp_path)
    watch._jobs.configure(CONFIGURATION.model_copy(update={"targets": (broken,)}))
    watch.look(NOW + HOUR)
    with reading(engine) as connection:
        (run,), _ = runs.page(connection, job="broken")
    assert ("failed", "it failed (AttributeError)") == (run.outcome, run.detail)
    assert 1 == sum("a job failed" == line["message"] for line in lines())


def test_a_database_that_is_away_is_told_once(tmp_path: Path, lines: Lines) -> None:
    """It looks again and again, says so one time, and runs what is due as soon as there is one."""
    engine = database.open_on(f"sqlite:///{tmp_path}/tocsin.db")
    running = Jobs(engine, tmp_path, CONFIGURATION, time.time, lambda: None)
    running.start()
    try:
        time.sleep(1.8)  # three looks
        database.prepare(engine)
        with engine.begin() as connection:
            jobs.want(connection, "prune", "ann", time.time())
        eventually(lambda: outcomes(engine, "prune") == ["done"], "it runs")
    finally:
        running.stop(10)
        engine.dispose()
    assert 1 == sum("jobs wait for the database, which is of no use now" == line["message"] for line in lines())


def test_reports_do_not_wait_for_other_jobs(tmp_path: Path, engine: Engine) -> None:
    """Each of the two lanes has its own thread; in one, the second comes after the first, and a busy job is not begun twice."""
    with receiving() as server:
        held = Target(name="held", url=SecretStr(server.url))
        add(engine, "report", {"kind": "report"})
        add(engine, "a", {"kind": "probe", "target": "held"})
        add(engine, "b", {"kind": "prune"})
        watch = Watch(engine, tmp_path)
        watch._jobs.configure(CONFIGURATION.model_copy(update={"targets": (held,)}))
        watch.now = NOW + HOUR
        watch._jobs._look(watch.now)
        assert {("report",), ("prune", "backup", "probe")} == set(watch._jobs._lanes)
        watch.look(NOW + HOUR + 0.5)
        watch.look(NOW + HOUR + 1.0)
        watch.look(NOW + HOUR + 1.5)
    assert [["done"]] * 3 == [outcomes(engine, name) for name in ("report", "a", "b")]
