"""Reports over a month that is known: what is in them is what was put there, and how they come about."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, delete, event, update
from sqlalchemy.exc import OperationalError

from service import reports
from service.configuration import Keep
from service.database import connect, reading
from service.history import prune
from service.readings import HOUR, MINUTE, Series
from service.reports import compute, gather
from service.reports.gather import make
from service.reports.model import Line, Report
from service.tables import readings
from service.tables import reports as table
from tests import month
from tests.month import CONFIGURATION, DAY, END, OUTAGES

LATER = END + 60.0  # when all of the month is written
UNKNOWN = 47 * MINUTE


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The month, to be copied or only read."""
    file = tmp_path_factory.mktemp("month") / "tocsin.db"
    engine = connect(f"sqlite:///{file}")
    month.make(engine)
    engine.dispose()
    return file


@pytest.fixture
def whole(file: Path) -> Iterator[Engine]:
    engine = connect(f"sqlite:///{file}")
    yield engine
    engine.dispose()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """The last day of it, to be changed."""
    engine = connect(f"sqlite:///{tmp_path}/tocsin.db")
    month.make(engine, days=1)
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def report(file: Path) -> Report:
    engine = connect(f"sqlite:///{file}")
    made = make(engine, CONFIGURATION, END - 30 * DAY, END, LATER)
    engine.dispose()
    return made


def test_availability_is_exact(report: Report) -> None:
    """Each outage to the tick; the time in which the monitor did not run is neither up nor down."""
    for each in report.availability:
        down = sum(outage.seconds for outage in OUTAGES if outage.target == each.target)
        known = 30 * DAY - UNKNOWN
        assert (down, known - down, UNKNOWN) == (each.down_seconds, each.up_seconds, each.unknown_seconds), each.target
        assert each.share == pytest.approx(1 - down / known, abs=1e-12)
    assert list(month.TARGETS) == [each.target for each in report.availability]
    assert "minute" == report.period.resolution


def test_a_line_has_a_gap_where_nothing_was_measured(file: Path, whole: Engine) -> None:
    """Over a day, where a step is minutes long."""
    since = END - 20 * DAY - HOUR
    found = make(whole, CONFIGURATION, since, since + DAY, LATER)
    line = found.availability[0].line
    assert line is not None
    gaps = [line.since + number * line.step for number, value in enumerate(line.values) if value is None]
    assert (47 // 9 - 1) <= len(gaps) <= 47 // 9
    assert all(not month.watched(round(at)) for at in gaps)


def test_readings_are_those_of_the_rows(report: Report, file: Path) -> None:
    """Percentiles as another reckons them who looks at all minutes; the peak where it was."""
    with closing(sqlite3.connect(file)) as other:
        query = "SELECT total / count, least, most, at FROM readings WHERE step = 60 AND target = ? AND metric = ? AND mount = ?"
        for each in report.readings:
            rows = other.execute(query, (each.target, each.metric, each.mount)).fetchall()
            means = sorted(row[0] for row in rows)
            for share, value in ((0.5, each.p50), (0.95, each.p95), (0.99, each.p99)):
                at_most = sum(mean <= value + 1e-4 for mean in means) / len(means)
                below = sum(mean < value - 1e-4 for mean in means) / len(means)
                assert below < share <= at_most, each
            assert each.least == pytest.approx(min(row[1] for row in rows), abs=1e-4)
            assert (each.most, each.most_at) == pytest.approx(max((row[2], row[3]) for row in rows), abs=1e-4)
    assert ["self"] * 7 + ["front", "shop", "db", "mail"] == [each.target for each in report.readings]
    assert [80.0] == [each.threshold for each in report.readings if each.metric == "cpu_usage"]


def test_a_disk_is_full_when_its_pace_says(report: Report) -> None:
    """The cleanup in between does not change it; a disk that does not grow is not filling."""
    root, data = report.disks
    assert ("/", "not filling", None) == (root.mount, root.verdict, root.full_at)
    assert ("/data", "filling") == (data.mount, data.verdict)
    assert data.per_day == pytest.approx(month.FILLS, rel=0.02)
    assert data.full_at == pytest.approx(END + (100 - month.disk(END)) / month.FILLS * DAY, abs=DAY)


def test_alerts_and_reaction(report: Report) -> None:
    """Counts, lengths, what is open; how long it took to be told and to end, also while the receiver was away."""
    assert [("db", 2, 1, 2), ("shop", 3, 1, 0), ("mail", 1, 1, 0)] == [
        (each.target, each.count, each.acknowledged, each.restarts) for each in report.alerts
    ]
    shop = report.alerts[1]
    lengths = [outage.seconds - month.HOLD for outage in OUTAGES if outage.target == "shop"]
    assert (sum(lengths), max(lengths), 0) == (shop.seconds, shop.longest_seconds, shop.open)
    assert 1 == report.alerts[2].open
    reaction = report.reaction
    away = 2 * HOUR - 30 * MINUTE - month.HOLD
    assert (6, month.HOLD + month.DELAY, away + month.HOLD + month.DELAY, 0, "told") == (
        reaction.notice.count,
        reaction.notice.median,
        reaction.notice.worst,
        reaction.untold,
        reaction.until,
    )
    ended = sorted(outage.seconds for outage in OUTAGES if outage.end < END)
    assert (5, ended[2], ended[-1], 1) == (
        reaction.recovery.count,
        reaction.recovery.median,
        reaction.recovery.worst,
        reaction.unrecovered,
    )


def test_restarts_and_deliveries(report: Report) -> None:
    """Restarts by service, outcome and author; messages, tries and delay of each receiver, and what was given up."""
    assert [("postgresql", "healthy", "monitor", 1), ("postgresql", "unhealthy", "monitor", 1), ("web", "healthy", "ann", 1)] == [
        (each.service, each.outcome, each.author, each.count) for each in report.restarts
    ]
    ops, chat = report.deliveries
    assert ("ops", 11, 0, 0, 9 + 2 * 9, month.DELAY) == (
        ops.receiver,
        ops.delivered,
        ops.waiting,
        ops.dead,
        ops.tries,
        ops.delay.median,
    )
    assert ops.delay.worst == 2 * HOUR - 30 * MINUTE - month.HOLD + month.DELAY
    assert ("chat", 0, 1, None) == (chat.receiver, chat.delivered, chat.dead, chat.delay.worst)


def test_where_minutes_are_gone_the_hours_say_the_same(report: Report, file: Path, tmp_path: Path) -> None:
    """What is up and down, the peaks, the unknown time; percentiles are then of hours."""
    copy = tmp_path / "tocsin.db"
    copy.write_bytes(file.read_bytes())
    engine = connect(f"sqlite:///{copy}")
    assert prune(engine, Keep.model_construct(minutes=10 * DAY), END, pause=0)["minutes"] > 0
    found = make(engine, CONFIGURATION, END - 30 * DAY, END, END + HOUR)
    engine.dispose()

    assert "hour" == found.period.resolution
    assert [(each.down_seconds, each.unknown_seconds) for each in report.availability] == [
        (each.down_seconds, each.unknown_seconds) for each in found.availability
    ]
    assert [value for each in report.readings for value in (each.most, each.least, each.mean)] == pytest.approx(
        [value for each in found.readings for value in (each.most, each.least, each.mean)], abs=1e-3
    )


def test_an_alert_that_lasts_over_the_edges_counts_with_what_lies_within(whole: Engine) -> None:
    """In the middle of an outage: it fires, for the length of the period, and nothing of it counts as new."""
    outage = OUTAGES[3]
    found = make(whole, CONFIGURATION, outage.begin + HOUR, outage.begin + 2 * HOUR, LATER)
    (alert,) = found.alerts
    assert (1, HOUR, 1) == (alert.count, alert.seconds, alert.open)
    assert (0, 0) == (found.reaction.notice.count, found.reaction.untold)
    assert (0.0, HOUR) == (found.availability[3].share, found.availability[3].down_seconds)


def test_a_system_that_was_just_installed_says_what_it_knows(tmp_path: Path) -> None:
    """Nothing is up that nobody asked, and no number is made up."""
    engine = connect(f"sqlite:///{tmp_path}/tocsin.db")
    empty = make(engine, CONFIGURATION, END - 7 * DAY, END, LATER)
    assert [(None, 7 * DAY)] * 5 == [(each.share, each.unknown_seconds) for each in empty.availability]
    assert ((), (), ()) == (empty.readings, empty.disks, empty.alerts)
    assert (0, None) == (empty.reaction.notice.count, empty.reaction.notice.median)
    with engine.begin() as connection:
        row = {"step": 60, "target": "shop", "metric": "up", "at": END - 120, "count": 6, "total": 3, "least": 0, "most": 1}
        connection.execute(readings.insert(), [row, {**row, "step": 3600, "at": END - 3600}])
    found = make(engine, CONFIGURATION, END - 7 * DAY, END, LATER)
    engine.dispose()

    assert (0.5, 30.0, 30.0, 7 * DAY - 60) == (
        found.availability[2].share,
        found.availability[2].up_seconds,
        found.availability[2].down_seconds,
        found.availability[2].unknown_seconds,
    )


def test_the_minute_that_is_not_written_yet_is_no_gap(engine: Engine) -> None:
    """A report on the time until now ends with what the monitor can have written by then."""
    with engine.begin() as connection:
        connection.execute(delete(readings).where(readings.c.step == MINUTE, readings.c.at >= END - MINUTE))
    found = make(engine, CONFIGURATION, END - HOUR, END, float(END))
    assert [0.0] * 5 == [each.unknown_seconds for each in found.availability]


@pytest.mark.parametrize("interval", [1, 10, 60, 90, 300, 3600])
def test_what_is_asked_seldom_is_known_in_between(tmp_path: Path, interval: int) -> None:
    """A sample stands for the interval, where that is longer than a minute."""
    engine = connect(f"sqlite:///{tmp_path}/tocsin.db")
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    for tick in range(END - 6 * HOUR, END, interval):
        for step in (MINUTE, HOUR):
            key = step, tick // step * step
            row = rows.setdefault(key, {"count": 0, "total": 0.0, "ticks": set()})
            row["count"] += 1
            row["total"] += tick >= END - 3 * HOUR
            row["ticks"].add(tick // 60)
    about = {"target": "shop", "metric": "up", "least": 0, "most": 1}
    with engine.begin() as connection:
        connection.execute(
            readings.insert(),
            [{**about, "step": step, "at": at, "minutes": len(row.pop("ticks")), **row} for (step, at), row in rows.items()],
        )
    configuration = CONFIGURATION.model_copy(update={"interval": float(interval)})
    found = make(engine, configuration, END - 6 * HOUR, END, END + 2.0 * HOUR)
    engine.dispose()
    shop = found.availability[2]
    assert (0.5, 3 * HOUR, 3 * HOUR, 0.0) == (shop.share, shop.up_seconds, shop.down_seconds, shop.unknown_seconds)


def test_without_a_receiver_it_is_noticed_when_it_fires(whole: Engine) -> None:
    """The log is then who is told."""
    alone = CONFIGURATION.model_copy(update={"receivers": ()})
    found = make(whole, alone, END - 12 * DAY, END, LATER)
    assert ("fired", 30.0, 30.0) == (found.reaction.until, found.reaction.notice.median, found.reaction.notice.worst)


def test_targets_that_are_gone_are_told_too(whole: Engine) -> None:
    """What was measured in the period is in the report, after what is watched now."""
    fewer = CONFIGURATION.model_copy(update={"targets": CONFIGURATION.targets[2:3]})
    found = make(whole, fewer, END - DAY, END, LATER)
    assert ["shop", "db", "front", "mail", "self"] == [each.target for each in found.availability]


def test_what_was_not_measured_in_the_period_is_not_told(engine: Engine) -> None:
    """A target that was taken out before it began is no target of this report."""
    row = {"step": 3600, "target": "old", "metric": "up", "count": 1, "total": 1, "least": 1, "most": 1}
    with engine.begin() as connection:
        connection.execute(readings.insert(), {**row, "at": END - 300 * DAY})
    found = make(engine, CONFIGURATION, END - DAY, END, LATER)
    assert "old" not in [each.target for each in found.availability]


def test_of_a_disk_that_is_silent_nothing_is_foretold() -> None:
    """Too little is known of one that was not measured lately; and no disk is full before the report ends."""
    series, values = Series("shop", "mount_usage", "/"), tuple(50.0 + hour for hour in range(48))  # the last at 47 h: 97 %
    course = Line(since=0, step=HOUR, values=values)
    found = compute.disk(series, course, 48 * HOUR, 10.0)
    assert ("filling", 50 * HOUR, 2 * HOUR) == (found.verdict, found.full_at, found.full_in_seconds)
    late = compute.disk(series, course, 52 * HOUR, 10.0)
    assert ("too little data", None) == (late.verdict, late.full_at)
    assert "filling" == compute.disk(series, course, 52 * HOUR, 3.0 * HOUR).verdict  # asked as seldom as that
    full = compute.disk(
        series, course.model_copy(update={"values": tuple(min(100, 60.0 + each) for each in range(48))}), 48 * HOUR, 10.0
    )
    assert (48 * HOUR, 0) == (full.full_at, full.full_in_seconds)


def test_progress_goes_from_nothing_to_all(whole: Engine) -> None:
    """In order, and it ends with all."""
    said: list[float] = []
    make(whole, CONFIGURATION, END - DAY, END, LATER, said.append)
    assert (0.0, 1.0) == (said[0], said[-1])
    assert sorted(said) == said
    assert len(said) > 15


def ask(engine: Engine, author: str = "ann") -> str:
    with engine.begin() as connection:
        return reports.ask(connection, END - HOUR, float(END), author, LATER).id


def found(engine: Engine, identity: str) -> reports.Asked:
    with reading(engine) as connection:
        return reports.find(connection, identity)


def carry_out(engine: Engine, identity: str) -> None:
    reports.carry_out(engine, CONFIGURATION, identity, lambda: LATER)


def test_a_report_that_is_asked_for_is_made_and_kept(engine: Engine) -> None:
    """Its state and progress, what it says, and that this comes back from the database as it was."""
    first, second = ask(engine), ask(engine, "ben")
    with reading(engine) as connection:
        assert first == reports.oldest_asked(connection) or second == reports.oldest_asked(connection)
    assert ("asked", 0.0, None, None) == (
        (asked := found(engine, first)).state,
        asked.progress,
        asked.ended,
        asked.report,
    )
    carry_out(engine, first)
    done = found(engine, first)
    assert ("done", 1.0, LATER, "", "ann") == (done.state, done.progress, done.ended, done.detail, done.asked_by)
    assert make(engine, CONFIGURATION, END - HOUR, END, LATER) == done.report
    with reading(engine) as connection:
        assert second == reports.oldest_asked(connection)


def test_it_is_made_once(engine: Engine) -> None:
    """Of several who are to make it one does; one that is gone or done is left alone."""
    identity = ask(engine)
    made = []
    event.listen(engine, "before_cursor_execute", lambda *given: made.append(1) if "content=" in given[2] else None)
    threads = [threading.Thread(target=carry_out, args=(engine, identity)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    carry_out(engine, identity)
    carry_out(engine, "nothing")
    assert [1] == made


def test_what_a_dead_monitor_was_making_is_made_by_the_next(engine: Engine) -> None:
    """It is asked for again, from the beginning."""
    identity = ask(engine)
    with engine.begin() as connection:
        connection.execute(update(table).values(state="running", progress=0.7))
        assert 1 == reports.recover(connection)
    assert ("asked", 0.0) == ((left := found(engine, identity)).state, left.progress)
    carry_out(engine, identity)
    assert "done" == found(engine, identity).state


def while_it_is_made(engine: Engine, monkeypatch: pytest.MonkeyPatch, action: Callable[[], None]) -> None:
    """Do something when the report begins to read occurrences."""
    monkeypatch.setattr(reports, "OFTEN", 0.0)
    done: list[int] = []

    def look(*given: object) -> None:
        if not done and "FROM readings" in str(given[2]) and "GROUP BY" in str(given[2]):
            done.append(1)
            action()

    event.listen(engine, "before_cursor_execute", look)


def test_a_report_that_is_deleted_meanwhile_stays_deleted(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Who makes it notices, and lets it be."""
    identity, other = ask(engine), connect(f"sqlite:///{tmp_path}/tocsin.db")

    def remove() -> None:
        with other.begin() as connection:
            reports.remove(connection, identity)

    while_it_is_made(engine, monkeypatch, remove)
    carry_out(engine, identity)
    other.dispose()
    with pytest.raises(reports.UnknownError):
        found(engine, identity)


def test_how_far_it_is_can_be_seen(engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """While it is made another process reads that it runs, and its share."""
    identity, other, seen = ask(engine), connect(f"sqlite:///{tmp_path}/tocsin.db"), []
    monkeypatch.setattr(reports, "OFTEN", 0.0)
    event.listen(engine, "commit", lambda _: seen.append((now := found(other, identity)).state + f" {now.progress:.1f}"))
    carry_out(engine, identity)
    other.dispose()
    assert {"asked 0.0", "running 0.0", "running 0.5", "running 0.9"} <= set(seen), seen


def test_a_report_that_cannot_be_made_says_so(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is failed, with the reason and without what the error quotes; the next one is made."""
    identity = ask(engine)

    def fail() -> None:
        raise sqlite3.OperationalError("SECRET")

    while_it_is_made(engine, monkeypatch, fail)
    carry_out(engine, identity)
    failed = found(engine, identity)
    assert ("failed", "the database cannot be used (OperationalError)", LATER) == (failed.state, failed.detail, failed.ended)
    carry_out(engine, other := ask(engine))
    assert "done" == found(engine, other).state


def test_a_locked_database_leaves_it_to_be_made_again(engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where even its failure cannot be written, that is told, and the next start asks for it again."""
    identity = ask(engine)
    engine.dispose()
    impatient = connect(f"sqlite:///{tmp_path}/tocsin.db", patience=0.05)
    with closing(sqlite3.connect(tmp_path / "tocsin.db", isolation_level=None)) as other:
        while_it_is_made(impatient, monkeypatch, lambda: other.executescript("BEGIN IMMEDIATE;").close())
        with pytest.raises(OperationalError, match="locked"):
            carry_out(impatient, identity)
    with impatient.begin() as connection:
        assert 1 == reports.recover(connection)
    impatient.dispose()


def test_so_many_can_be_asked_for(engine: Engine) -> None:
    """One more is refused until one is made; pages have all of them, newest first, without what they say."""
    asked = [ask(engine) for _ in range(reports.MOST_WAITING)]
    with pytest.raises(reports.TooManyError, match="20 reports are asked for already"):
        ask(engine)
    carry_out(engine, asked[3])
    asked.append(ask(engine))
    with reading(engine) as connection:
        first, position = reports.page(connection, 15, None)
        rest, end = reports.page(connection, 15, position)
    assert (sorted(asked), None) == (sorted(each.id for each in (*first, *rest)), end)
    assert all(each.report is None for each in (*first, *rest))


def test_a_report_reads_in_short_questions(whole: Engine) -> None:
    """No transaction of it lasts over more than one reading, so that the log of the database does not grow meanwhile."""
    statements: list[int] = []  # in each transaction

    def count(*given: object) -> None:
        if str(given[2]).startswith("BEGIN"):
            statements.append(0)
        else:
            statements[-1] += 1

    event.listen(whole, "before_cursor_execute", count)
    make(whole, CONFIGURATION, END - DAY, END, LATER)
    assert len(statements) > 16
    assert max(statements[1:]) <= 5


def test_rows_come_in_parts(whole: Engine, monkeypatch: pytest.MonkeyPatch, report: Report) -> None:
    """However few are read with one question, the report is the same."""
    monkeypatch.setattr(gather, "AT_ONCE", 2)
    assert report == make(whole, CONFIGURATION, END - 30 * DAY, END, LATER)


def test_nothing_in_it_comes_from_outside_the_model(report: Report) -> None:
    """Its JSON, read again, is the same report; no address is in it."""
    assert report == Report.model_validate_json(report.model_dump_json())
    assert "127.0.0.1" not in report.model_dump_json()


def test_the_month_is_what_it_says(whole: Engine) -> None:
    """No row of the month is about a time in which nobody watched."""
    with whole.begin() as connection:
        at = readings.c.at
        inside = delete(readings).where(readings.c.step == MINUTE, at >= END - month.UNWATCHED[0], at < END - month.UNWATCHED[1])
        assert 0 == connection.execute(inside).rowcount
