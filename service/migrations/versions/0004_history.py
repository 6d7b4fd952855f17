"""What is kept of the past, and work at its time: occurrences, readings, reports, jobs, and what became of notifications."""

import time

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

FIRST_PRUNE = 300.0  # seconds after the tables are there

_NAMES = ("fingerprint", "alert", "target")
_ALERTS = sa.table(
    "alerts",
    *(sa.column(name) for name in (*_NAMES, "labels", "state", "since", "acknowledged", "acknowledged_by")),
    sa.column("content", sa.JSON),
)
_OCCURRENCES = sa.table(
    "occurrences",
    *(sa.column(name) for name in ("id", "severity", "summary", *_NAMES, "labels", "began", "fired")),
    *(sa.column(name) for name in ("acknowledged", "acknowledged_by")),
)


def upgrade() -> None:
    op.create_table(
        "occurrences",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("fingerprint", sa.String(16), nullable=False),
        sa.Column("alert", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("labels", sa.JSON, nullable=False),
        sa.Column("severity", sa.Text, nullable=False),
        sa.Column("summary", sa.Text, nullable=False),
        sa.Column("began", sa.Float, nullable=False),
        sa.Column("fired", sa.Float, nullable=False),
        sa.Column("told", sa.Float),
        sa.Column("ended", sa.Float),
        sa.Column("acknowledged", sa.Float),
        sa.Column("acknowledged_by", sa.Text),
        sa.Column("restarts", sa.Integer, nullable=False, server_default="0"),
    )
    # What fires already will end: without one its notifications might be taken for history.
    op.execute(
        sa.insert(_OCCURRENCES).from_select(
            [column.name for column in _OCCURRENCES.columns],
            sa.select(
                *(_ALERTS.c.content[name].as_string() for name in ("occurrence", "severity", "summary")),
                *(_ALERTS.c[name] for name in ("fingerprint", "alert", "target", "labels", "since")),
                _ALERTS.c.since,
                _ALERTS.c.acknowledged,
                _ALERTS.c.acknowledged_by,
            ).where(_ALERTS.c.state == "firing", _ALERTS.c.content.is_not(None)),
        )
    )
    op.create_index("fired", "occurrences", ["fired"])
    op.create_index("still", "occurrences", ["ended"])
    op.create_table(
        "readings",
        sa.Column("step", sa.Integer, primary_key=True),
        sa.Column("target", sa.Text, primary_key=True),
        sa.Column("metric", sa.Text, primary_key=True),
        sa.Column("mount", sa.Text, primary_key=True, server_default=""),
        sa.Column("at", sa.Integer, primary_key=True),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("total", sa.Float, nullable=False),
        sa.Column("least", sa.Float, nullable=False),
        sa.Column("most", sa.Float, nullable=False),
        sa.Column("minutes", sa.Integer, nullable=False, server_default="1"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "reports",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("state", sa.String(7), nullable=False),
        sa.Column("since", sa.Float, nullable=False),
        sa.Column("until", sa.Float, nullable=False),
        sa.Column("asked", sa.Float, nullable=False),
        sa.Column("asked_by", sa.Text, nullable=False),
        sa.Column("progress", sa.Float, nullable=False, server_default="0"),
        sa.Column("ended", sa.Float),
        sa.Column("detail", sa.Text, nullable=False, server_default=""),
        sa.Column("content", sa.JSON),
    )
    op.create_index("asked", "reports", ["asked"])
    jobs = op.create_table(
        "jobs",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("parameters", sa.JSON, nullable=False),
        sa.Column("trigger", sa.JSON, nullable=False),
        sa.Column("missed", sa.String(4), nullable=False),
        sa.Column("paused", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("due", sa.Float),
        sa.Column("wanted", sa.Float),
        sa.Column("wanted_by", sa.Text),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("updated", sa.Float, nullable=False),
    )
    op.create_index("due", "jobs", ["due"])
    op.create_table(
        "runs",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("job", sa.Text, nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("due", sa.Float, nullable=False),
        sa.Column("asked_by", sa.Text),
        sa.Column("started", sa.Float, nullable=False),
        sa.Column("ended", sa.Float),
        sa.Column("outcome", sa.String(11)),
        sa.Column("detail", sa.Text, nullable=False, server_default=""),
    )
    op.create_index("newest_runs", "runs", ["job", "started"])
    op.create_index("newest_of_all_runs", "runs", ["started"])
    op.add_column("messages", sa.Column("since", sa.Float))
    op.add_column("notifications", sa.Column("delivered", sa.Float))
    op.add_column("notifications", sa.Column("attempts", sa.Integer, nullable=False, server_default="0"))
    op.add_column("notifications", sa.Column("error", sa.Text))
    op.create_index("newest_notifications", "notifications", ["changed", "id"])
    # SQLite takes an index of a part for a question in the same words alone, and is asked for `waiting = 1`.
    op.drop_index("waiting", "notifications")
    key, words = ["receiver", "changed", "id"], sa.text("waiting = 1")
    op.create_index("waiting", "notifications", key, sqlite_where=words, postgresql_where=sa.text("waiting"))
    op.create_index(
        "dead", "notifications", ["dead"], sqlite_where=sa.text("dead IS NOT NULL"), postgresql_where=sa.text("dead IS NOT NULL")
    )
    op.add_column("monitor", sa.Column("targets", sa.JSON, nullable=False, server_default="{}"))
    # Without it the database grows for ever. It is a job like any other: it can be changed, paused and deleted.
    now = time.time()
    prune = {"name": "prune", "kind": "prune", "parameters": {}, "missed": "run", "author": "tocsin"}
    trigger = {"type": "interval", "every": "1h"}
    op.bulk_insert(jobs, [{**prune, "trigger": trigger, "due": now + FIRST_PRUNE, "created": now, "updated": now}])
