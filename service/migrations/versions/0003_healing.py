"""What brings services back: restarts, what was tried for an alert, silences that also keep hands off."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("alerts", sa.Column("healing", sa.JSON))
    op.add_column("alerts", sa.Column("shown", sa.Integer, nullable=False, server_default="0"))
    op.add_column("silences", sa.Column("heal", sa.Boolean, nullable=False, server_default=sa.true()))
    op.create_table(
        "restarts",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("service", sa.Text, nullable=False),
        sa.Column("asked_by", sa.String(8), nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("comment", sa.Text, nullable=False),
        sa.Column("alert", sa.String(16)),
        sa.Column("started", sa.Float, nullable=False),
        sa.Column("ended", sa.Float),
        sa.Column("outcome", sa.String(12)),
        sa.Column("detail", sa.Text, nullable=False, server_default=""),
        sa.Column("old_pid", sa.Integer),
        sa.Column("new_pid", sa.Integer),
    )
    op.create_index("newest", "restarts", ["started"])
