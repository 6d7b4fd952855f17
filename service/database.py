"""The tables, and the way in. SQLite in the data folder unless TOCSIN_DATABASE_URL says otherwise.

Times are seconds since 1970, UTC.
"""

import logging
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    inspect,
    make_url,
    text,
)
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

MIGRATIONS = Path(__file__).parent / "migrations"
HEAD = "0001"  # the newest migration; a test holds it against the folder

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


def connect(address: str) -> Engine:
    """An engine on a database that has today's tables; makes or migrates them first.

    Raises SQLAlchemyError when the database cannot be opened or written, ImportError when its driver is missing.
    """
    engine = create_engine(address)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_immediately)
    if _version(engine) != HEAD:
        migrate(engine)
    return engine


def migrate(engine: Engine) -> None:
    """Bring the tables to HEAD."""
    # Imported here: a process whose tables are current, nearly every one, does without Alembic's ten megabytes.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415
    from alembic.util import CommandError  # noqa: PLC0415

    logging.getLogger("alembic").setLevel(logging.WARNING)  # its plugins introduce themselves one by one
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError:
            raise SQLAlchemyError("its tables are of a newer version of Tocsin; run that one, or restore a backup") from None


def shown(address: str) -> str:
    """The address without its password; nothing of one that makes no sense."""
    try:
        return make_url(address).render_as_string(hide_password=True)
    except ArgumentError:
        return "TOCSIN_DATABASE_URL"


def _version(engine: Engine) -> str | None:
    with engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _prepare_sqlite(connection: sqlite3.Connection, _: Any) -> None:
    # SQLAlchemy begins transactions itself, below; the driver would begin them too late.
    connection.isolation_level = None
    cursor = connection.cursor()
    # A commit is one append, and a reader in another process never waits for the writer.
    cursor.execute("PRAGMA journal_mode=WAL")
    # Every commit reaches the disk: a state that was committed survives the power going. NORMAL would be faster.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA busy_timeout=5000")
    cursor.close()


def _begin_immediately(connection: Any) -> None:
    # Take the write lock at once: upgrading from a read lock can fail where waiting would have succeeded.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
