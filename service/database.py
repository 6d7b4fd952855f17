"""The tables, and the way in. SQLite in the data folder unless TOCSIN_DATABASE_URL says otherwise.

Times are seconds since 1970, UTC.
"""

import logging
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    Column,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    inspect,
    make_url,
    text,
)
from sqlalchemy.exc import ArgumentError

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
)

# A transition on its way to one receiver. Written in one transaction with the state; delivered is set after the 2xx.
notifications = Table(
    "notifications",
    metadata,
    Column("id", Integer, primary_key=True),  # also the order in which a receiver is told
    Column("message_id", Text, nullable=False),  # the same for every try, new for every transition
    Column("receiver", Text, nullable=False),
    Column("fingerprint", String(16), nullable=False),
    Column("content", JSON, nullable=False),
    Column("created", Float, nullable=False),
    Column("due", Float, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("delivered", Float),
    Column("error", Text),
    sqlite_autoincrement=True,  # an id is never used again, or the order would be wrong
)
# Finding the next one costs the same however many are already delivered.
Index(
    "waiting",
    notifications.c.receiver,
    notifications.c.id,
    sqlite_where=notifications.c.delivered.is_(None),
    postgresql_where=notifications.c.delivered.is_(None),
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

    logging.getLogger("alembic").setLevel(logging.WARNING)  # its plugins introduce themselves one by one
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


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
    # Readers do not wait for the writer, and a commit is one append.
    cursor.execute("PRAGMA journal_mode=WAL")
    # Every commit reaches the disk: a state that was committed survives the power going. NORMAL would be faster.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA busy_timeout=5000")
    cursor.close()


def _begin_immediately(connection: Any) -> None:
    # Take the write lock at once: upgrading from a read lock can fail where waiting would have succeeded.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
