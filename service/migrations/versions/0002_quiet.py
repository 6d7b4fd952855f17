"""What keeps alerts quiet: flapping, holds, silences, acknowledgements, groups; and the monitor's figures of itself."""

from collections import defaultdict

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

# What a content has since then. What is on its way keeps its bytes: it may be a repetition.
ADDED = {"flapping": False, "reminder": False, "escalated": False, "instance": ""}


def upgrade() -> None:
    for column in (
        sa.Column("cleared", sa.Float),
        sa.Column("starts", sa.JSON, nullable=False, server_default="[]"),
        sa.Column("flapping", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("announced", sa.JSON, nullable=False, server_default="[]"),
        sa.Column("told", sa.Float),
        sa.Column("reminded", sa.Float),
        sa.Column("silenced", sa.JSON, nullable=False, server_default="[]"),
        sa.Column("held", sa.Text),
        sa.Column("acknowledged", sa.Float),
        sa.Column("acknowledged_by", sa.Text),
        sa.Column("acknowledged_comment", sa.Text),
    ):
        op.add_column("alerts", column)
    op.add_column("notifications", sa.Column("grouping", sa.JSON, nullable=False, server_default="{}"))
    op.add_column("messages", sa.Column("grouping", sa.JSON, nullable=False, server_default="{}"))
    op.create_table(
        "silences",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("matchers", sa.JSON, nullable=False),
        sa.Column("starts", sa.Float, nullable=False),
        sa.Column("ends", sa.Float, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("comment", sa.Text, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("updated", sa.Float, nullable=False),
    )
    op.create_table(
        "deliveries",
        sa.Column("receiver", sa.Text, primary_key=True),
        sa.Column("outcome", sa.String(9), primary_key=True),
        sa.Column("count", sa.Integer, nullable=False),
    )
    op.create_table(
        "monitor",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("started", sa.Float, nullable=False),
        sa.Column("interval", sa.Float, nullable=False),
        sa.Column("ticks", sa.Integer, nullable=False),
        sa.Column("late", sa.Integer, nullable=False),
        sa.Column("ticked", sa.Float, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
    )
    _note_who_was_told()


def _note_who_was_told() -> None:
    """What fires while the tables change is not told again."""
    alerts = sa.table("alerts", sa.column("fingerprint"), sa.column("state"), sa.column("since"), sa.column("content", sa.JSON),
                      sa.column("announced", sa.JSON), sa.column("reminded"))  # fmt: skip
    notifications = sa.table("notifications", sa.column("receiver"), sa.column("occurrence"))
    connection = op.get_bind()
    receivers = defaultdict(list)
    for row in connection.execute(sa.select(notifications)):
        receivers[row.occurrence].append(row.receiver)
    for row in connection.execute(sa.select(alerts).where(alerts.c.state == "firing")).all():
        told = receivers[row.content["occurrence"]] if row.content else []
        known = sa.update(alerts).where(alerts.c.fingerprint == row.fingerprint)
        content = {**ADDED, **row.content} if row.content else None
        connection.execute(known.values(content=content, announced=told, reminded=row.since))
