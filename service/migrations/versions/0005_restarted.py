"""How many restarts ended how: a count that stays when restarts of long ago are deleted."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_RESTARTS = sa.table("restarts", sa.column("service"), sa.column("outcome"))


def upgrade() -> None:
    restarted = op.create_table(
        "restarted",
        sa.Column("service", sa.Text, primary_key=True),
        sa.Column("outcome", sa.String(12), primary_key=True),
        sa.Column("count", sa.Integer, nullable=False),
    )
    ended = sa.select(_RESTARTS.c.service, _RESTARTS.c.outcome, sa.func.count()).where(_RESTARTS.c.outcome.is_not(None))
    counted = ended.group_by(_RESTARTS.c.service, _RESTARTS.c.outcome)
    op.execute(sa.insert(restarted).from_select(["service", "outcome", "count"], counted))
