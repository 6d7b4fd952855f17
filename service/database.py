"""The way to the tables. SQLite in the data folder unless TOCSIN_DATABASE_URL says otherwise."""

import contextlib
import json
import logging
import sqlite3
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

import orjson
from sqlalchemy import (
    URL,
    Connection,
    Engine,
    NullPool,
    Table,
    create_engine,
    event,
    inspect,
    make_url,
    text,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

MIGRATIONS = Path(__file__).parent / "migrations"
HEAD = "0006"  # the newest migration; a test holds it against the folder
_MIGRATING = threading.Lock()  # Alembic can do one at a time in a process


def open_on(address: str, *, patience: float = 5.0, pooled: bool = True) -> Engine:
    """An engine that has not touched its database yet.

    `patience`: seconds a statement waits while another process writes. Without `pooled` each use opens the file anew,
    and so finds the one that was put in its place. Raises SQLAlchemyError for an address that makes no sense,
    ImportError when its driver is missing.
    """
    given: dict[str, Any] = {"json_serializer": _written, "json_deserializer": _read}
    engine = create_engine(address, **given) if pooled else create_engine(address, poolclass=NullPool, **given)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", partial(_prepare_sqlite, patience=patience))
        event.listen(engine, "begin", _begin)
    return engine


def prepare(engine: Engine) -> None:
    """Make or migrate the tables, where they are not today's. Raises SQLAlchemyError."""
    with checked():
        if _version(engine) != HEAD:
            migrate(engine)


def connect(address: str, *, patience: float = 5.0, pooled: bool = True) -> Engine:
    """An engine on a database that has today's tables. Raises as `open_on` and `prepare` do."""
    engine = open_on(address, patience=patience, pooled=pooled)
    prepare(engine)
    return engine


def reading(engine: Engine) -> Connection:
    """A connection that only reads, and so waits for no writer. To be used as a context."""
    return engine.connect().execution_options(reading=True)


def upsert(connection: Connection, table: Table) -> sqlite.Insert:
    """An INSERT that can say ON CONFLICT, in this database's dialect; both dialects' have the same methods."""
    if connection.dialect.name != "postgresql":
        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql  # noqa: PLC0415 - two megabytes, for those who have chosen it

    return cast("sqlite.Insert", postgresql.insert(table))


class DamagedError(SQLAlchemyError):
    """What is in the database is not what was put there."""


@contextlib.contextmanager
def checked() -> Iterator[None]:
    """Take what makes no sense for damage: SQLite sees only what breaks its structure, and may complain in broken text."""
    try:
        yield
    except (ValueError, TypeError, AttributeError) as error:
        raise DamagedError(f"it holds what nobody put there ({type(error).__name__})") from error


def is_corrupt(error: BaseException) -> bool:
    """Whether the file is damaged or no database at all."""
    found = getattr(error, "orig", None)
    if isinstance(error, DamagedError) or str(found).startswith("Could not decode to UTF-8"):  # Python's, without a code
        return True
    code = getattr(found, "sqlite_errorcode", 0)
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)  # the rest of it says where it was found


def set_aside(address: URL, now: float) -> Path | None:
    """Move a damaged SQLite file and what belongs to it out of the way; its new name, None if there is no file.

    Raises OSError.
    """
    name = address.database if address.get_backend_name() == "sqlite" else None
    if not name or not (damaged := Path(name)).exists():
        return None
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    kept = damaged.with_name(f"{damaged.name}.corrupt-{stamp}")
    while kept.exists():  # one of the same second is kept, too
        kept = kept.with_name(f"{kept.name}-again")
    for suffix in ("-wal", "-shm", ""):
        part = damaged.with_name(damaged.name + suffix)
        if part.exists():
            part.rename(kept.with_name(kept.name + suffix))
    return kept


def migrate(engine: Engine) -> None:
    """Bring the tables to HEAD."""
    logging.getLogger("alembic").setLevel(logging.WARNING)  # its plugins introduce themselves one by one
    # Imported here: a process whose tables are current, nearly every one, does without Alembic's ten megabytes.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415
    from alembic.util import CommandError  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with _MIGRATING, engine.begin() as connection:
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError:
            raise SQLAlchemyError("its tables are of a newer version of Tocsin; run that one, or restore a backup") from None


def shown(address: str) -> str:
    """The address without its password, or what follows a `?`, which may hold one; nothing of one that makes no sense."""
    try:
        return make_url(address).set(query={}).render_as_string(hide_password=True)
    except ArgumentError:
        return "TOCSIN_DATABASE_URL"


# A tenth of what it costs to send a notification. What orjson refuses, such as halves of characters, json takes.


def _written(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return json.dumps(value)


def _read(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text)


def _version(engine: Engine) -> str | None:
    with reading(engine) as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _prepare_sqlite(connection: sqlite3.Connection, _: Any, *, patience: float) -> None:
    # SQLAlchemy begins transactions itself, below; the driver would begin them too late.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={round(patience * 1000)}")
    # A commit is one append, and a reader in another process never waits for the writer.
    cursor.execute("PRAGMA journal_mode=WAL")
    # Every commit reaches the disk: a state that was committed survives the power going. NORMAL would be faster.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _begin(connection: Connection) -> None:
    # Take the write lock at once: upgrading from a read lock can fail where waiting would have succeeded.
    reads = connection.get_execution_options().get("reading", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
