"""The tables, and the way in. SQLite in the data folder unless TOCSIN_DATABASE_URL says otherwise.

Times are seconds since 1970, UTC.
"""

import contextlib
import logging
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

from sqlalchemy import (
    JSON,
    URL,
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    NullPool,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    false,
    inspect,
    make_url,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

MIGRATIONS = Path(__file__).parent / "migrations"
HEAD = "0002"  # the newest migration; a test holds it against the folder

metadata = MetaData()

# An alert that has ever left `inactive`: where it stands, and since when.
alerts = Table(
    "alerts",
    metadata,
    Column("fingerprint", String(16), primary_key=True),
    Column("alert", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("labels", JSON, nullable=False),
    Column("state", String(8), nullable=False),
    Column("since", Float, nullable=False),
    Column("content", JSON),  # what its firing said, for the resolved of a rule that is gone
    Column("cleared", Float),  # firing, but since then the condition does not hold
    Column("starts", JSON, nullable=False, server_default="[]"),  # when it began to fire, of late
    Column("flapping", Boolean, nullable=False, server_default=false()),
    Column("announced", JSON, nullable=False, server_default="[]"),  # the receivers that are to know that it fires
    Column("told", Float),  # since when it is not held: what a route's `after` counts from
    Column("reminded", Float),  # when they were last to be told
    Column("silenced", JSON, nullable=False, server_default="[]"),  # by which silences and windows, at the last tick
    Column("held", Text),  # the parent that is down and for which it is held
    # Written by who acknowledges, and by the monitor only when it fires or is resolved.
    Column("acknowledged", Float),
    Column("acknowledged_by", Text),
    Column("acknowledged_comment", Text),
)

# What one receiver is to know of one occurrence of an alert, and what it has been told. Written in one transaction
# with the state. A message is put together from these when it can be sent, so a receiver that was away hears the
# outcome, and not each step.
notifications = Table(
    "notifications",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("receiver", Text, nullable=False),
    Column("occurrence", Text, nullable=False),
    Column("wanted", String(8), nullable=False),  # firing or resolved: how it stands
    Column("told", String(8)),  # firing or resolved: what the receiver has answered 2xx to
    Column("firing", JSON, nullable=False),
    Column("resolved", JSON),
    Column("changed", Float, nullable=False),  # when it came to stand so; also the order of telling
    Column("waiting", Boolean, nullable=False),  # there is something to tell
    Column("dead", Float),  # given up then, after GIVE_UP of trying
    Column("grouping", JSON, nullable=False, server_default="{}"),  # one message has notifications of one grouping
    UniqueConstraint("receiver", "occurrence"),
    Index("by_occurrence", "occurrence"),
    sqlite_autoincrement=True,
)
# Finding the next one costs the same however many are told.
Index(
    "waiting",
    notifications.c.receiver,
    notifications.c.changed,
    notifications.c.id,
    sqlite_where=notifications.c.waiting,
    postgresql_where=notifications.c.waiting,
)

# One message to one receiver, committed before it is sent: whatever happens then, it is sent again as it was.
messages = Table(
    "messages",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("id", Text, nullable=False, unique=True),  # the webhook-id, the same at every try
    Column("receiver", Text, nullable=False),
    Column("parts", JSON, nullable=False),  # [[notification's id, content], ...]
    Column("created", Float, nullable=False),
    Column("due", Float, nullable=False),
    Column("attempts", Integer, nullable=False),
    # It may have arrived without our knowing. If it surely has not, it may be put together anew.
    Column("uncertain", Boolean, nullable=False),
    Column("delivered", Float),
    Column("error", Text),
    Column("grouping", JSON, nullable=False, server_default="{}"),
    sqlite_autoincrement=True,
)
Index(
    "undelivered",
    messages.c.receiver,
    sqlite_where=messages.c.delivered.is_(None),
    postgresql_where=messages.c.delivered.is_(None),
)

# A receiver that answered 410 wants no more. Another address under its name, or a replay, makes it one again.
disabled = Table(
    "disabled",
    metadata,
    Column("receiver", Text, primary_key=True),
    Column("address", String(64), nullable=False),  # SHA-256: the address may be a secret
    Column("since", Float, nullable=False),
)

# Alerts that these match are not told. `service.silences` has the rest of it.
silences = Table(
    "silences",
    metadata,
    Column("id", Text, primary_key=True),
    Column("matchers", JSON, nullable=False),  # texts, as service.matchers writes them
    Column("starts", Float, nullable=False),
    Column("ends", Float, nullable=False),
    Column("author", Text, nullable=False),
    Column("comment", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("updated", Float, nullable=False),
)

# How many tries to deliver ended how: delivered, failed (to be tried again) or dead.
deliveries = Table(
    "deliveries",
    metadata,
    Column("receiver", Text, primary_key=True),
    Column("outcome", String(9), primary_key=True),
    Column("count", Integer, nullable=False),
)

# What the monitor knows of itself, in one row; written with each tick.
monitor = Table(
    "monitor",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("started", Float, nullable=False),
    Column("interval", Float, nullable=False),
    Column("ticks", Integer, nullable=False),  # since `started`, as `late`
    Column("late", Integer, nullable=False),  # ticks that began after the next one was due
    Column("ticked", Float, nullable=False),  # when the last one was committed
    Column("seconds", Float, nullable=False),  # that it took, probes included
)


def open_on(address: str, *, patience: float = 5.0, pooled: bool = True) -> Engine:
    """An engine that has not touched its database yet.

    `patience`: seconds a statement waits while another process writes. Without `pooled` each use opens the file anew,
    and so finds the one that was put in its place. Raises SQLAlchemyError for an address that makes no sense,
    ImportError when its driver is missing.
    """
    engine = create_engine(address) if pooled else create_engine(address, poolclass=NullPool)
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
    return cast("sqlite.Insert", postgresql.insert(table)) if connection.dialect.name == "postgresql" else sqlite.insert(table)


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
    with engine.begin() as connection:
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
