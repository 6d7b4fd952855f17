"""States and notifications in one transaction, and what becomes of them when the database cannot be used."""

import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, event, insert, make_url, select, text
from sqlalchemy.exc import SQLAlchemyError

from service import database
from service.database import HEAD, MIGRATIONS, is_corrupt, open_on
from service.monitor import outbox
from service.monitor.outbox import Entry
from service.monitor.probe import Sample
from service.monitor.rules import fingerprint
from service.monitor.store import Figures, Store
from service.monitor.watch import Watch
from service.restarts import Restart, note
from service.tables import alerts, monitor, notifications
from service.values import iso
from tests.conftest import Lines
from tests.simulation import START, configuration, cpu, down, rule, up

HIGH, LOW = cpu(90), cpu(10)
FIGURES = Figures(START, 10.0)


class Monitor:
    """A watch and its store; `tick` is one round of the loop, and returns what went wrong with the database."""

    def __init__(self, file: Path, patience: float = 0.1) -> None:
        self.engine = open_on(f"sqlite:///{file}", patience=patience)
        self.watch, self.store = Watch(configuration()), Store(self.engine)
        self.now = START

    def tick(self, *samples: Sample) -> list[SQLAlchemyError]:
        self.now += 10
        faults = []
        try:
            self.store.look(self.watch, self.now)
        except SQLAlchemyError as error:
            faults.append(error)
        self.watch.tick(samples, self.now)
        try:
            self.store.commit(self.watch, FIGURES, self.now)
        except SQLAlchemyError as error:
            faults.append(error)
        return faults


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tocsin.db"


@pytest.fixture
def start(file: Path) -> Iterator[Callable[[], Monitor]]:
    started = []

    def begin() -> Monitor:
        started.append(Monitor(file))
        return started[-1]

    yield begin
    for each in started:
        each.engine.dispose()


def stored(file: Path) -> list[tuple[str, str, str, float]]:
    """Every notification: its alert, how it is to be told, what has been told, and when the alert began."""
    engine = open_on(f"sqlite:///{file}")
    with database.reading(engine) as connection:
        rows = connection.execute(select(notifications).order_by(notifications.c.id)).all()
        states = [(row.alert, row.state) for row in connection.execute(select(alerts).order_by(alerts.c.alert))]
    engine.dispose()
    assert len(states) == len(dict(states))
    return [(row.receiver, row.firing["alert"], row.wanted, row.occurrence) for row in rows]


def said(file: Path) -> list[tuple[str, str]]:
    return [(alert, wanted) for _, alert, wanted, _ in stored(file)]


def damage(file: Path, place: str) -> None:
    """Overwrite a part of the file, as a failing disk does."""
    with file.open("r+b") as opened:
        size = file.stat().st_size
        opened.seek({"header": 0, "middle": 4096}[place])
        opened.write(random.Random(1).randbytes(100 if place == "header" else size - 4096))
    for suffix in ("-wal", "-shm"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)


def test_a_tick_is_one_transaction(start: Callable[[], Monitor], file: Path) -> None:
    """When its last statement fails nothing of a tick is kept, and the next one writes all of it."""
    begun = start()
    begun.tick(LOW)

    def fail(*given: object) -> None:
        if "UPDATE monitor" in str(given[2]):
            raise sqlite3.OperationalError("disk I/O error")

    event.listen(begun.engine, "before_cursor_execute", fail)
    assert begun.tick(HIGH, down("gateway"))
    event.remove(begun.engine, "before_cursor_execute", fail)
    assert [] == said(file)

    assert [] == begun.tick(HIGH, down("gateway"))
    assert [("High", "firing"), ("Down", "firing")] == said(file)


def test_the_figures_are_written_with_each_tick(start: Callable[[], Monitor]) -> None:
    """One row says how many ticks there were, how many too late, when the last one was and how long it took."""
    begun = start()
    figures = FIGURES
    for late in (False, True, False):
        begun.store.look(begun.watch, START)
        figures = figures.after(START + 30, 0.12345, 5.0, late=late)
        begun.store.commit(begun.watch, figures, START + 30)
    with begun.engine.connect() as connection:
        assert [(1, START, 5.0, 3, 1, START + 30, 0.1235, {})] == [tuple(row) for row in connection.execute(select(monitor))]


@pytest.mark.parametrize("resolved", [False, True])
def test_a_locked_database_loses_nothing(start: Callable[[], Monitor], file: Path, resolved: bool) -> None:
    """While another process holds the lock alerts are evaluated in memory; then all is written, once."""
    begun = start()
    begun.tick(LOW)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        faults = begun.tick(HIGH) + begun.tick(HIGH) + (begun.tick(LOW) if resolved else [])
        assert {"database is locked"} == {str(getattr(fault, "orig", "")) for fault in faults}
        assert not any(is_corrupt(fault) for fault in faults)
        other.execute("ROLLBACK")
    begun.tick()

    assert [("High", "resolved" if resolved else "firing")] == said(file)


def test_a_start_while_it_is_locked_begins_from_what_is_stored(start: Callable[[], Monitor], file: Path) -> None:
    """What fired before is not told again, what began to fire meanwhile is, and both are closed."""
    first = start()
    first.tick(down("gateway"))
    first.engine.dispose()
    begun = start()
    begun.now += 100
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        assert begun.tick(down("gateway"), HIGH)
        other.execute("ROLLBACK")
    begun.tick(down("gateway"), HIGH)
    before = stored(file)
    begun.tick(up("gateway"), LOW)

    assert [("Down", "firing"), ("High", "firing")] == [(alert, wanted) for _, alert, wanted, _ in before]
    assert [("Down", "resolved"), ("High", "resolved")] == said(file)
    assert [each[3] for each in before] == [each[3] for each in stored(file)]


def test_what_fired_and_ended_before_the_database_could_be_read_is_closed(file: Path, tmp_path: Path) -> None:
    """People were told past the outbox that it fires: its end is in the outbox once that can be used."""
    begun = Monitor(tmp_path / "not yet" / "tocsin.db")
    assert begun.tick(HIGH)
    assert begun.tick(LOW)
    (tmp_path / "not yet").mkdir()
    assert [] == begun.tick(LOW)
    begun.engine.dispose()

    assert [("High", "resolved")] == said(tmp_path / "not yet" / "tocsin.db")


@pytest.mark.parametrize("place", ["header", "middle"])
def test_a_corrupt_file_is_moved_aside_and_what_fires_is_kept(start: Callable[[], Monitor], file: Path, place: str) -> None:
    """Found while it runs: the file is kept under another name, the new one has what fires, and it is closed later."""
    begun = start()
    begun.tick(HIGH, down("gateway"))
    begun.engine.dispose()
    damage(file, place)
    content = file.read_bytes()
    faults = begun.tick(HIGH, down("gateway"))
    assert any(is_corrupt(fault) for fault in faults)
    kept = begun.store.replace(begun.watch, begun.now)

    assert kept == file.with_name("tocsin.db.corrupt-20231114T221340Z")
    assert content == kept.read_bytes()
    assert [] == begun.tick(HIGH, down("gateway"))
    assert {("High", "firing"), ("Down", "firing")} == set(said(file))
    begun.tick(LOW, up("gateway"))
    assert {("High", "resolved"), ("Down", "resolved")} == set(said(file))


@pytest.mark.parametrize("place", ["header", "middle"])
def test_a_corrupt_file_at_the_start_is_moved_aside(start: Callable[[], Monitor], file: Path, place: str) -> None:
    """The monitor begins with what it sees, and goes on with a new file."""
    first = start()
    first.tick(HIGH)
    first.engine.dispose()
    damage(file, place)
    begun = start()
    faults = begun.tick(HIGH)
    assert any(is_corrupt(fault) for fault in faults)
    begun.store.replace(begun.watch, begun.now)
    assert [] == begun.tick(HIGH)

    assert [("High", "firing")] == said(file)


def test_a_replacement_that_fails_half_way_is_finished_later(start: Callable[[], Monitor], file: Path) -> None:
    """The damaged file is out of the way, but the new one cannot be made yet: once it can, all is written."""
    begun = start()
    begun.tick(HIGH)
    begun.engine.dispose()
    damage(file, "header")

    def full(connection: sqlite3.Connection, _: object) -> None:
        connection.execute("PRAGMA max_page_count=2")

    event.listen(begun.engine, "connect", full)
    with pytest.raises(SQLAlchemyError, match="full"):
        begun.store.replace(begun.watch, begun.now)
    assert begun.tick(HIGH)
    event.remove(begun.engine, "connect", full)
    begun.engine.dispose()

    assert [] == begun.tick(HIGH)
    assert [("High", "firing")] == said(file)


def test_two_corrupt_files_in_one_second_are_both_kept(file: Path) -> None:
    """With what belongs to them; a damaged file is never overwritten."""
    for content in ("one", "two", "three"):
        for suffix in ("", "-wal", "-shm"):
            file.with_name(file.name + suffix).write_text(content)
        database.set_aside(make_url(f"sqlite:///{file}"), START)

    kept = sorted(each.read_text() for each in file.parent.iterdir())
    assert sorted(["one", "two", "three"] * 3) == kept
    assert database.set_aside(make_url(f"sqlite:///{file}"), START) is None


@pytest.mark.parametrize(
    "damage",
    [
        *(f"{column} = '{{\"' || {column}" for column in ("labels", "starts", "content", "announced")),
        "starts = '5'",
        "target = CAST(x'ff61' AS TEXT)",
    ],
)
def test_values_that_nobody_put_there_are_damage(start: Callable[[], Monitor], file: Path, damage: str) -> None:
    """SQLite does not notice a flipped bit in a text; the monitor does not fall over it, and takes it for damage."""
    first = start()
    first.tick(HIGH)
    with closing(sqlite3.connect(file)) as other:
        other.execute(f"UPDATE alerts SET {damage}")
        other.commit()
    faults = start().tick(HIGH)

    assert any(is_corrupt(fault) for fault in faults)


@pytest.mark.parametrize("written", ['{"shop', "[5]", '{"shop": 5}', '{"shop": {"up": "?", "since": [], "why": 5, "values": 1}}'])
def test_how_targets_stood_is_written_anew(start: Callable[[], Monitor], file: Path, written: str) -> None:
    """What nobody can read there costs no database: nothing of it is needed, and the next tick writes it."""
    first = start()
    first.tick(HIGH)
    with closing(sqlite3.connect(file)) as other:
        other.execute("UPDATE monitor SET targets = ?", (written,))
        other.commit()
        assert [] == [fault for fault in first.tick(HIGH) if is_corrupt(fault)]
        assert (written,) != other.execute("SELECT targets FROM monitor").fetchone()


def test_a_monitor_survives_any_damage(start: Callable[[], Monitor], file: Path, tmp_path: Path) -> None:
    """Wherever bytes of the file are wrong, a tick ends, in order or with an error that says so, and never otherwise."""
    first = start()
    first.tick(HIGH, down("gateway"))
    first.engine.dispose()
    with closing(sqlite3.connect(file)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    good, dice = file.read_bytes(), random.Random(5)
    for number in range(150):
        bad = bytearray(good)
        at, length = dice.randrange(len(bad)), dice.choice([1, 4, 100, 5000])
        bad[at : at + length] = dice.randbytes(len(bad[at : at + length]))
        copy = tmp_path / f"{number}" / "tocsin.db"
        copy.parent.mkdir()
        copy.write_bytes(bad)
        begun = Monitor(copy)
        for _ in range(3):
            if any(is_corrupt(fault) for fault in begun.tick(HIGH)):
                begun.store.replace(begun.watch, begun.now)
        begun.engine.dispose()


def test_a_2xx_after_the_database_was_replaced_marks_nothing(start: Callable[[], Monitor], file: Path) -> None:
    """A message that was on its way meanwhile has numbers that mean other notifications now: they are not taken for told."""
    begun = start()
    begun.tick(HIGH)
    (ops,) = configuration().receivers
    with begun.engine.begin() as connection:
        (message,) = outbox.claim(connection, ops, begun.now)
    begun.engine.dispose()
    damage(file, "header")
    begun.store.replace(begun.watch, begun.now)
    begun.tick(HIGH, down("gateway"))
    with begun.engine.begin() as connection:
        outbox.delivered(connection, [message], begun.now)
        outbox.failed(connection, message, begun.now + 1e6, begun.now, "it answered 500", uncertain=True)
        (waiting,) = outbox.claim(connection, ops, begun.now)

    assert ["High", "Down"] == [content["alert"] for content in waiting.contents]


# The migration.


def at_0001(file: Path) -> Engine:
    engine = open_on(f"sqlite:///{file}")
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    return engine


def test_what_fired_before_the_migration_is_not_told_again(file: Path) -> None:
    """An alert that one of two receivers was told of by version 0001: the other hears of it, both of its end."""
    engine = at_0001(file)
    identity = fingerprint("High", "self", {})
    old = {
        "status": "firing", "late": False, "alert": "High", "severity": "warning", "target": "self", "labels": {},
        "summary": "self: High", "condition": "cpu_usage > 80", "reason": "cpu_usage > 80", "metric": "cpu_usage",
        "value": 90.0, "unit": "percent", "scope": "host", "starts_at": iso(START - 800), "ends_at": None,
        "fingerprint": identity, "occurrence": f"{identity}-{round((START - 800) * 1000)}",
    }  # fmt: skip
    state = {"fingerprint": identity, "alert": "High", "target": "self", "labels": {}, "state": "firing", "since": START - 800}
    note = {"receiver": "ops", "occurrence": old["occurrence"], "wanted": "firing", "told": "firing", "firing": old}
    with engine.begin() as connection:
        connection.execute(insert(alerts).values(**state, content=old).inline())
        connection.execute(insert(notifications).values(**note, changed=START - 800, waiting=False).inline())
    engine.dispose()

    engine = open_on(f"sqlite:///{file}")
    database.prepare(engine)
    watch, store = Watch(configuration("ops", "chat", rules=(rule(),), repeat_interval=3600.0)), Store(engine)

    def tick(now: float, sample: Sample) -> list[Entry]:
        store.look(watch, now)
        news = watch.tick([sample], now)
        store.commit(watch, FIGURES, now)
        return news

    assert ["chat"] == [entry.receiver for entry in tick(START, HIGH)]
    assert [("ops", True), ("chat", True)] == [(each.receiver, each.content["reminder"]) for each in tick(START + 3600, HIGH)]
    tick(START + 3610, LOW)
    with engine.connect() as connection:
        assert [("ops", "resolved"), ("chat", "resolved")] == [
            (row.receiver, row.wanted) for row in connection.execute(select(notifications).order_by(notifications.c.id))
        ]
        assert HEAD == connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    engine.dispose()


def test_a_restart_by_the_command_is_logged_once(file: Path, lines: Lines) -> None:
    """The command has no log of its own: the monitor says what came of it, once, also of what was committed late."""
    monitor = Monitor(file)
    monitor.tick(LOW)
    ended = Restart("r1", "web", "command", "ann", "", START, ended=monitor.now + 1, outcome="healthy")
    with monitor.engine.begin() as connection:
        note(connection, ended)
        note(connection, replace(ended, id="r2", asked_by="api"))
    for _ in range(5):
        monitor.tick(LOW)
    monitor.engine.dispose()

    assert [("process", "success", "ann")] == [
        (line["event.category"], line["event.outcome"], line["labels.author"])
        for line in lines()
        if line.get("labels.service") == "web"
    ]
