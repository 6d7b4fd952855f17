"""What a tick leaves for later, how it comes into the database, and how what is old goes."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, func, insert, select
from sqlalchemy.exc import OperationalError

from service import history
from service.configuration import Configuration, Keep, Target
from service.database import connect, open_on, reading
from service.history import prune
from service.monitor import history as monitor_history
from service.monitor.history import History
from service.monitor.loop import Monitor
from service.monitor.probe import Sample
from service.readings import HOUR, MINUTE, Series
from service.tables import (
    alerts,
    messages,
    metadata,
    notifications,
    occurrences,
    readings,
    reports,
    restarts,
    runs,
    silences,
)
from tests.receiver import receiving
from tests.simulation import NOWHERE, cpu

NOW = 1_792_108_800.0
DAY = 86_400.0
KEEP = Keep()
OLD, NEW = NOW - 366 * DAY, NOW - 364 * DAY


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = connect(f"sqlite:///{tmp_path}/tocsin.db")
    yield engine
    engine.dispose()


def test_samples_become_minutes() -> None:
    """Each value counts in the minute of its tick; what is missing, no number or a status does not."""
    kept = History()
    values: dict[float, list[float | None]] = {0.0: [1, 5], 59.9: [3, None], 60.0: [8, float("nan")]}
    for at, found in values.items():
        kept.add([Sample("self", "cpu_usage", value) for value in found], NOW + at)
    kept.add([Sample("self", "http_status", 200.0), Sample("self", "mount_usage", 7, labels={"mount": "/"})], NOW)

    assert [
        (0, "cpu_usage", "", 3, 9.0, 1.0, 5.0),
        (60, "cpu_usage", "", 1, 8.0, 8.0, 8.0),
        (0, "mount_usage", "/", 1, 7.0, 7.0, 7.0),
    ] == [(each.at - NOW, *each.series[1:], each.count, each.total, each.least, each.most) for each in kept.every()]


@pytest.mark.parametrize(
    ("now", "passed"),
    [(0, [1, 2]), (59, [1, 2]), (60, [0, 2]), (120, [0, 1]), (180, [0, 1, 2]), (-3600, [0, 1, 2])],
)
def test_a_minute_is_written_when_it_has_passed(now: float, passed: list[int]) -> None:
    """Not the one that lasts; where the clock was set back, also those that lie ahead."""
    kept = History()
    for minute in range(3):
        kept.add([cpu(1)], NOW + 60 * minute)
    assert passed == [round(each.at - NOW) // 60 for each in kept.passed(NOW + now)]


def test_what_cannot_be_written_is_kept_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it is written; beyond a number the oldest go, and no tick writes more than another number."""
    monkeypatch.setattr(monitor_history, "MOST", 10)
    monkeypatch.setattr(monitor_history, "AT_ONCE", 4)
    kept = History()
    for minute in range(15):
        kept.add([cpu(1)], NOW + 60 * minute)
    assert [5, 6, 7, 8] == [round(each.at - NOW) // 60 for each in kept.passed(NOW + 15 * 60)]
    kept.written(kept.passed(NOW + 15 * 60))
    assert [9, 10, 11, 12] == [round(each.at - NOW) // 60 for each in kept.passed(NOW + 15 * 60)]


def test_what_a_tick_measures_does_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many targets: as many minutes are written as come to be, and none is lost."""
    monkeypatch.setattr(monitor_history, "MOST", 100)
    monkeypatch.setattr(monitor_history, "AT_ONCE", 4)
    kept, written = History(), 0
    for minute in range(30):
        kept.add([Sample(f"t{number}", "up", 1.0) for number in range(20)], NOW + 60 * minute)
        passed = kept.passed(NOW + 60 * minute)
        written += len(passed)
        kept.written(passed)
    assert (29 * 20, 0) == (written, kept.dropped)
    for minute in range(30, 40):
        kept.add([Sample(f"t{number}", "up", 1.0) for number in range(20)], NOW + 60 * minute)
    assert 11 * 20 - 100 == kept.dropped


def test_a_target_with_a_thousand_disks_fills_no_database() -> None:
    """Of what a target says only so many mounts are kept, and all that is no mount."""
    kept = History()
    kept.add([Sample("self", "mount_usage", 1, labels={"mount": f"/{number}"}) for number in range(1000)] + [cpu(1)], NOW)
    assert monitor_history.MOST_MOUNTS + 1 == len(kept.every())


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def monitoring(tmp_path: Path) -> Iterator[Callable[[], tuple[Monitor, Clock]]]:
    """Starts the real monitor, which asks a real server, on a database in a file; a tick is one call."""
    stopping = []
    with receiving() as server:
        target = Target(name="shop", url=NOWHERE.__class__(server.url))
        configuration = Configuration(interval=10, targets=(target,), rules=(), receivers=())

        def start() -> tuple[Monitor, Clock]:
            clock = Clock()
            engine = open_on(f"sqlite:///{tmp_path}/tocsin.db", patience=0.05)
            stopping.append(engine.dispose)
            monitor = Monitor(configuration, engine, tmp_path, tmp_path, clock)
            monitor.start()
            return monitor, clock

        yield start
    for stop in stopping:
        stop()


def stored(file: Path) -> list[tuple[int, int]]:
    """Minutes of `up` in the database, counted from NOW, and how many samples each has."""
    engine = connect(f"sqlite:///{file}")
    with reading(engine) as connection:
        query = select(readings.c.at, readings.c["count"]).where(readings.c.step == MINUTE, readings.c.metric == "up")
        found = [(round(at - NOW) // 60, count) for at, count in connection.execute(query.order_by(readings.c.at))]
    engine.dispose()
    return found


def test_the_monitor_writes_each_minute_with_the_tick_after_it(
    monitoring: Callable[[], tuple[Monitor, Clock]], tmp_path: Path
) -> None:
    """And the one that has begun when it is stopped; the next one completes it."""
    file = tmp_path / "tocsin.db"
    monitor, clock = monitoring()
    for _ in range(9):
        monitor.tick(late=False)
        clock.now += 10
    assert [(0, 6)] == stored(file)
    monitor.stop()
    assert [(0, 6), (1, 3)] == stored(file)

    monitor, clock = monitoring()
    clock.now = NOW + 90
    for _ in range(4):
        monitor.tick(late=False)
        clock.now += 10
    monitor.stop()
    assert [(0, 6), (1, 6), (2, 1)] == stored(file)


def test_a_locked_database_costs_no_minute(monitoring: Callable[[], tuple[Monitor, Clock]], tmp_path: Path) -> None:
    """What could not be written while another process held the lock is written with the first tick that can."""
    file = tmp_path / "tocsin.db"
    monitor, clock = monitoring()
    monitor.tick(late=False)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for _ in range(3):
            clock.now += 60
            monitor.tick(late=False)
        other.execute("ROLLBACK")
    assert [] == stored(file)
    clock.now += 60
    monitor.tick(late=False)
    monitor.stop()
    assert [(minute, 1) for minute in range(5)] == stored(file)


def fill(engine: Engine) -> None:
    """Of everything that ends something old and something new, and what is old and has not ended."""
    alert = {"labels": {}, "alert": "Down", "target": "shop", "starts": []}
    firing = {**alert, "severity": "critical", "summary": "it is down"}
    told = {"receiver": "ops", "firing": {}, "grouping": {}, "wanted": "resolved", "told": "resolved", "waiting": False}
    sent = {"receiver": "ops", "parts": [], "created": OLD, "due": OLD, "attempts": 1, "uncertain": False, "grouping": {}}
    asked = {"service": "web", "asked_by": "api", "author": "ann", "comment": "", "outcome": "healthy"}
    quiet = {"matchers": [], "author": "ann", "comment": "", "created": OLD, "updated": OLD, "starts": OLD}
    said = {"since": OLD, "until": OLD, "asked": OLD, "asked_by": "ann"}
    run = {"job": "prune", "kind": "prune", "due": OLD, "started": OLD}
    rows: dict[str, list[dict[str, Any]]] = {
        "alerts": [
            {**alert, "fingerprint": "old", "state": "inactive", "since": OLD},
            {**alert, "fingerprint": "new", "state": "inactive", "since": NEW},
            {**alert, "fingerprint": "open", "state": "firing", "since": OLD},
        ],
        "occurrences": [
            {**firing, "id": "old", "fingerprint": "old", "began": OLD, "fired": OLD, "ended": OLD},
            {**firing, "id": "new", "fingerprint": "new", "began": OLD, "fired": OLD, "ended": NEW},
            {**firing, "id": "open", "fingerprint": "open", "began": OLD, "fired": OLD, "ended": None},
        ],
        "notifications": [
            {**told, "occurrence": "old", "changed": OLD},
            {**told, "occurrence": "new", "changed": NEW},
            {**told, "occurrence": "open", "changed": OLD, "wanted": "firing", "told": "firing"},
            {**told, "occurrence": "wait", "changed": OLD, "waiting": True},
        ],
        "messages": [
            {**sent, "id": "old", "delivered": OLD},
            {**sent, "id": "new", "delivered": NEW},
            {**sent, "id": "wait", "delivered": None},
        ],
        "restarts": [{**asked, "id": "old", "started": OLD}, {**asked, "id": "new", "started": NEW}],
        "silences": [{**quiet, "id": "old", "ends": OLD}, {**quiet, "id": "new", "ends": NEW}],
        "reports": [
            {**said, "id": "old", "state": "done", "ended": OLD},
            {**said, "id": "new", "state": "failed", "ended": NEW},
            {**said, "id": "open", "state": "running", "ended": None},
        ],
        "runs": [
            {**run, "id": "old", "outcome": "done", "ended": OLD},
            {**run, "id": "new", "outcome": "done", "ended": NEW},
            {**run, "id": "open", "outcome": None, "ended": None},
        ],
    }
    with engine.begin() as connection:
        for name, some in rows.items():
            connection.execute(insert(metadata.tables[name]), some)


def names(engine: Engine) -> dict[str, list[str]]:
    columns = [each.c.id for each in (occurrences, messages, restarts, silences, reports, runs)]
    with reading(engine) as connection:
        return {
            column.table.name: sorted(connection.execute(select(column)).scalars())
            for column in (*columns, alerts.c.fingerprint, notifications.c.occurrence)
        }


def test_what_is_old_goes_unless_it_has_not_ended(engine: Engine) -> None:
    """Of each table what ended long ago, and nothing that fires, waits or runs; what is new stays; a second time nothing."""
    fill(engine)
    gone = dict.fromkeys(("alerts", "occurrences", "notifications", "messages", "restarts", "silences", "reports", "runs"), 1)

    assert {"minutes": 0, "hours": 0} | gone == {"minutes": 0, "hours": 0} | prune(engine, KEEP, NOW, pause=0)
    assert {
        "alerts": ["new", "open"],
        "occurrences": ["new", "open"],
        "notifications": ["new", "open", "wait"],
        "messages": ["new", "wait"],
        "restarts": ["new"],
        "silences": ["new"],
        "reports": ["new", "open"],
        "runs": ["new", "open"],
    } == names(engine)
    assert not any(prune(engine, KEEP, NOW, pause=0).values())


def put_minutes(engine: Engine, number: int, *series: Series) -> None:
    rows = [
        {"step": step, **each._asdict(), "at": int(NOW) - minute * step, "count": 1, "total": 1, "least": 1, "most": 1}
        for each in series
        for step in (MINUTE, HOUR)
        for minute in range(1, number + 1)
    ]
    with engine.begin() as connection:
        connection.execute(insert(readings), rows)


def test_minutes_go_before_hours_and_by_whole_hours(engine: Engine) -> None:
    """Whatever minute it is: of an hour all minutes are there, or none."""
    put_minutes(engine, 600, Series("self", "up"), Series("shop", "up"))
    keep = Keep(minutes="2h", hours="200h")

    deleted = prune(engine, keep, NOW + 3599, pause=0)
    assert (2 * 480, 2 * 400) == (deleted["minutes"], deleted["hours"])
    with reading(engine) as connection:
        query = select(readings.c.step, func.min(readings.c.at), func.count()).group_by(readings.c.step)
        left = [tuple(row) for row in connection.execute(query.order_by(readings.c.step))]
    assert [(MINUTE, NOW - 2 * HOUR, 2 * 120), (HOUR, NOW - 200 * HOUR, 2 * 200)] == left


def test_pruning_lets_others_write(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a year's rows are deleted, another process that would not wait long always comes in between."""
    monkeypatch.setattr(history, "AT_ONCE", 500)
    put_minutes(engine, 6000, *(Series("self", f"metric{number}") for number in range(4)))
    thread = threading.Thread(target=prune, args=(engine, Keep.model_construct(minutes=0, hours=0), NOW + 2 * HOUR))
    other = open_on(f"sqlite:///{tmp_path}/tocsin.db", patience=2.0)
    waited: list[float] = []
    thread.start()
    while thread.is_alive():
        began = time.monotonic()
        with other.begin() as connection:
            connection.execute(insert(silences).values(_silence(len(waited))))
        waited.append(time.monotonic() - began)
        time.sleep(0.01)
    thread.join()
    other.dispose()

    assert len(waited) > 10
    assert max(waited) < 2
    with reading(engine) as connection:
        assert 0 == connection.execute(select(func.count()).select_from(readings)).scalar()


def _silence(number: int) -> dict[str, Any]:
    times = dict.fromkeys(("starts", "ends", "created", "updated"), NOW)
    return {"id": f"{number}", "matchers": [], "author": "ann", "comment": "", **times}


def test_pruning_stops_when_it_is_told_to(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once; the rest is for the next time."""
    monkeypatch.setattr(history, "AT_ONCE", 10)
    put_minutes(engine, 600, Series("self", "up"))
    answers = iter([False, False, False])

    # Three steps, each of which ends with an hour: no question finds half of one.
    assert (
        3 * 60
        == prune(engine, Keep.model_construct(minutes=0), NOW + HOUR, stopping=lambda: next(answers, True), pause=0)["minutes"]
    )


def test_pruning_a_locked_database_is_an_error(tmp_path: Path) -> None:
    """It is told, and can be done again."""
    engine = connect(f"sqlite:///{tmp_path}/tocsin.db", patience=0.05)
    put_minutes(engine, 10, Series("self", "up"))
    with closing(sqlite3.connect(tmp_path / "tocsin.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert 0 == prune(engine, Keep(), NOW, pause=0)["minutes"]  # where nothing is old nothing is locked
        with pytest.raises(OperationalError, match="locked"):
            prune(engine, Keep.model_construct(minutes=0), NOW + HOUR, pause=0)
    assert 10 == prune(engine, Keep.model_construct(minutes=0), NOW + HOUR, pause=0)["minutes"]
    engine.dispose()
