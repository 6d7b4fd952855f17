"""The tables are what the migrations make, on first start and after."""

import json
import math
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.exc import DatabaseError, OperationalError, SQLAlchemyError

from service.database import HEAD, MIGRATIONS, connect, is_corrupt, open_on, prepare, reading, shown, upsert
from service.tables import backlog, disabled, metadata, notifications, silences


def test_the_migrations_make_the_tables_that_the_code_uses(tmp_path: Path) -> None:
    """A database made by the migrations has no difference to the tables in service.database."""
    engine = connect(f"sqlite:///{tmp_path}/tocsin.db")
    with engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), metadata)
    engine.dispose()

    assert [] == differences


def test_head_is_the_newest_migration() -> None:
    """HEAD, which saves a start from loading Alembic, names the last file in the folder."""
    assert ScriptDirectory(str(MIGRATIONS)).get_current_head() == HEAD


def test_a_second_start_changes_nothing(tmp_path: Path) -> None:
    """Opening a current database keeps what is in it."""
    address = f"sqlite:///{tmp_path}/tocsin.db"
    engine = connect(address)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO disabled VALUES ('ops', 'digest', 1.0)"))
    engine.dispose()
    engine = connect(address)
    with engine.connect() as connection:
        assert 1 == connection.execute(text("SELECT count(*) FROM disabled")).scalar()
    engine.dispose()


def test_commits_are_durable(tmp_path: Path) -> None:
    """SQLite runs with a write-ahead log and waits for the disk at each commit."""
    engine = connect(f"sqlite:///{tmp_path}/tocsin.db")
    with engine.connect() as connection:
        pragmas = [connection.execute(text(f"PRAGMA {name}")).scalar() for name in ("journal_mode", "synchronous")]
    engine.dispose()

    assert ["wal", 2] == pragmas


def test_a_database_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    """A folder that does not exist is told by SQLAlchemy's error, not made up."""
    with pytest.raises(OperationalError):
        connect(f"sqlite:///{tmp_path}/no/such/folder/tocsin.db")


def test_the_numbers_of_what_waits_are_counted_once(tmp_path: Path) -> None:
    """A database of the version before is looked through when it is brought up to date; from then on it counts along."""
    engine = open_on(f"sqlite:///{tmp_path}/tocsin.db")
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))

    def put(occurrence: str, receiver: str, **values: object) -> None:
        told = {"receiver": receiver, "occurrence": occurrence, "wanted": "firing", "firing": {}, "changed": 1.0}
        with engine.begin() as connection:
            connection.execute(insert(notifications).values(**{**told, "waiting": False, **values}).inline())

    def counted() -> list[tuple[str, int, int]]:
        with reading(engine) as connection:
            return [tuple(row) for row in connection.execute(select(backlog).order_by(backlog.c.receiver))]

    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0005")
    for number in range(5):
        put(f"waits-{number}", "ops", waiting=True)
        put(f"dead-{number}", "chat", dead=2.0)
        put(f"told-{number}", "team")
    put("waits-0", "chat", waiting=True)
    prepare(engine)

    assert [("chat", 1, 5), ("ops", 5, 0), ("team", 0, 0)] == counted()
    put("waits-5", "ops", waiting=True)
    put("waits-0", "new", waiting=True)
    with engine.begin() as connection:
        connection.execute(update(notifications).where(notifications.c.receiver == "chat").values(waiting=True, dead=None))
        connection.execute(delete(notifications).where(notifications.c.receiver == "ops", notifications.c.id < 5))
    assert [("chat", 6, 0), ("new", 1, 0), ("ops", 4, 0), ("team", 0, 0)] == counted()
    engine.dispose()


@pytest.mark.parametrize(
    "value",
    ["half of a character: \udc80", 2**80, {"a": [1.5, None, True]}, "ü\0"],
    ids=["half", "large", "usual", "odd"],
)
def test_whatever_json_can_say_is_read_as_it_was_written(tmp_path: Path, value: object) -> None:
    """What the quick reader and writer refuse, the other takes: a row that was written once stays readable."""
    engine = connect(f"sqlite:///{tmp_path}/tocsin.db")
    with engine.begin() as connection:
        row = {"id": "s", "matchers": [value], "starts": 0, "ends": 0, "author": "", "comment": "", "created": 0, "updated": 0}
        connection.execute(insert(silences).values(row))
        assert [value] == connection.execute(select(silences.c.matchers)).scalar()
        connection.execute(text("UPDATE silences SET matchers = :said"), {"said": json.dumps([value])})  # as it used to be
        assert [value] == connection.execute(select(silences.c.matchers)).scalar()
        connection.execute(text("UPDATE silences SET matchers = '[Infinity]'"))  # which is no JSON
        assert [math.inf] == connection.execute(select(silences.c.matchers)).scalar()
    engine.dispose()


def test_a_password_is_not_shown() -> None:
    """The address for a log line has stars for the password."""
    assert "postgresql://tocsin:***@db/tocsin" == shown("postgresql://tocsin:SECRET@db/tocsin")
    assert "postgresql://db/tocsin" == shown("postgresql://db/tocsin?user=u&password=SECRET")
    assert "TOCSIN_DATABASE_URL" == shown("no address at all, SECRET")


def test_a_reader_waits_for_no_writer(tmp_path: Path) -> None:
    """While one connection writes, another reads what was there before, at once."""
    engine = connect(f"sqlite:///{tmp_path}/tocsin.db", patience=0.0)
    with engine.begin() as writing, reading(engine) as connection:
        writing.execute(insert(disabled).values(receiver="ops", address="digest", since=1.0))
        assert [] == connection.execute(select(disabled)).all()
    engine.dispose()


@pytest.mark.parametrize("begun", [False, True], ids=["at the first connection", "later"])
def test_patience_is_how_long_it_waits_for_another_writer(tmp_path: Path, begun: bool) -> None:
    """A lock that another process holds is an error after `patience`, not after SQLite's own five seconds."""
    address = f"sqlite:///{tmp_path}/tocsin.db"
    connect(address).dispose()
    engine = open_on(address, patience=0.1)
    if begun:
        prepare(engine)
    with closing(sqlite3.connect(f"{tmp_path}/tocsin.db", isolation_level=None)) as other:
        if not begun:
            other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        with pytest.raises(OperationalError, match="locked") as raised, engine.begin():
            pass
        assert time.monotonic() - began < 4
    engine.dispose()

    assert not is_corrupt(raised.value)


def test_upsert_puts_a_new_row_in_the_place_of_the_old(tmp_path: Path) -> None:
    """What is there is changed, what is not is added."""
    engine = connect(f"sqlite:///{tmp_path}/tocsin.db")
    with engine.begin() as connection:
        for since in (1.0, 2.0):
            statement = upsert(connection, disabled).values(receiver="ops", address="digest", since=since)
            connection.execute(statement.on_conflict_do_update(index_elements=["receiver"], set_={"since": since}))
        assert [("ops", "digest", 2.0)] == [tuple(row) for row in connection.execute(select(disabled))]
    engine.dispose()


@pytest.mark.parametrize(
    ("content", "corrupt"), [(b"this is no database, but it is long enough to look like one" * 100, True), (b"", False)]
)
def test_a_file_that_is_no_database_is_corrupt(tmp_path: Path, content: bytes, corrupt: bool) -> None:
    """An empty file is a new database; any other is damaged."""
    (tmp_path / "tocsin.db").write_bytes(content)
    engine = open_on(f"sqlite:///{tmp_path}/tocsin.db")
    if corrupt:
        with pytest.raises(DatabaseError) as raised:
            prepare(engine)
        assert is_corrupt(raised.value)
    else:
        prepare(engine)
    engine.dispose()


def test_tables_of_a_newer_version_are_told_and_left_alone(tmp_path: Path) -> None:
    """They are no damage: the file stays where it is."""
    engine = connect(f"sqlite:///{tmp_path}/tocsin.db")
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SQLAlchemyError, match="newer version") as raised:
        prepare(engine)
    engine.dispose()

    assert not is_corrupt(raised.value)
