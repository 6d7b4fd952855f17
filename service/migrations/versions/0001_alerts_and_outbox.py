"""Alerts, and the outbox of notifications."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "alerts",
        sa.Column("fingerprint", sa.String(16), primary_key=True),
        sa.Column("alert", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("labels", sa.JSON, nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("since", sa.Float, nullable=False),
        sa.Column("content", sa.JSON),
    )
    op.create_table(
        "notifications",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("receiver", sa.Text, nullable=False),
        sa.Column("occurrence", sa.Text, nullable=False),
        sa.Column("wanted", sa.String(8), nullable=False),
        sa.Column("told", sa.String(8)),
        sa.Column("firing", sa.JSON, nullable=False),
        sa.Column("resolved", sa.JSON),
        sa.Column("changed", sa.Float, nullable=False),
        sa.Column("waiting", sa.Boolean, nullable=False),
        sa.Column("dead", sa.Float),
        sa.UniqueConstraint("receiver", "occurrence"),
        sqlite_autoincrement=True,
    )
    op.create_index("by_occurrence", "notifications", ["occurrence"])
    op.create_index(
        "waiting",
        "notifications",
        ["receiver", "changed", "id"],
        sqlite_where=sa.text("waiting"),
        postgresql_where=sa.text("waiting"),
    )
    op.create_table(
        "messages",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("receiver", sa.Text, nullable=False),
        sa.Column("parts", sa.JSON, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("due", sa.Float, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("uncertain", sa.Boolean, nullable=False),
        sa.Column("delivered", sa.Float),
        sa.Column("error", sa.Text),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "undelivered",
        "messages",
        ["receiver"],
        sqlite_where=sa.text("delivered IS NULL"),
        postgresql_where=sa.text("delivered IS NULL"),
    )
    op.create_table(
        "disabled",
        sa.Column("receiver", sa.Text, primary_key=True),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("since", sa.Float, nullable=False),
    )
