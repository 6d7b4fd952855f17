"""The tables are what the migrations make, on first start and after."""

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from service.database import HEAD, MIGRATIONS, connect, metadata, shown


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
        connection.execute(text("INSERT INTO alerts VALUES ('f', 'a', 't', '{}', 'firing', 1.0, NULL)"))
    engine.dispose()
    engine = connect(address)
    with engine.connect() as connection:
        assert 1 == connection.execute(text("SELECT count(*) FROM alerts")).scalar()
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


def test_a_password_is_not_shown() -> None:
    """The address for a log line has stars for the password."""
    assert "postgresql://tocsin:***@db/tocsin" == shown("postgresql://tocsin:SECRET@db/tocsin")
    assert "TOCSIN_DATABASE_URL" == shown("no address at all, SECRET")
