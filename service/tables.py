"""The tables. Times are seconds since 1970, UTC. A change here needs a migration, and database.HEAD its name."""

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    and_,
    false,
    literal,
    true,
)

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
    Column("healing", JSON),  # what was tried to bring it back: monitor.healing.Healing
    Column("shown", Integer, nullable=False, server_default="0"),  # the step of it that receivers were last told
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
    Column("wanted", String(8), nullable=False),  # firing or resolved: how it stands; or report
    Column("told", String(8)),  # of these, what the receiver has answered 2xx to
    Column("firing", JSON, nullable=False),  # the content, that of a report as well
    Column("resolved", JSON),
    Column("changed", Float, nullable=False),  # when it came to stand so; also the order of telling
    Column("waiting", Boolean, nullable=False),  # there is something to tell
    Column("dead", Float),  # given up then, after GIVE_UP of trying
    Column("grouping", JSON, nullable=False, server_default="{}"),  # one message has notifications of one grouping
    Column("delivered", Float),  # when its receiver last answered 2xx
    Column("attempts", Integer, nullable=False, server_default="0"),  # of the last message that had it
    Column("error", Text),  # why the last of these failed
    UniqueConstraint("receiver", "occurrence"),
    Index("by_occurrence", "occurrence"),
    Index("newest_notifications", "changed", "id"),
    sqlite_autoincrement=True,
)
# Finding the next one costs the same however many are told. On PostgreSQL the indexes are of the same parts: the migrations,
# which make them, say so. Said here, it would load that dialect into every process, two megabytes.
Index(
    "waiting",
    notifications.c.receiver,
    notifications.c.changed,
    notifications.c.id,
    sqlite_where=notifications.c.waiting,
)
# The word itself, and not a value that comes with the question: only so it is sure that the index of this part is taken.
IS_REPORT = notifications.c.wanted == literal("report", literal_execute=True)
Index(
    "waiting_reports",
    notifications.c.receiver,
    sqlite_where=and_(notifications.c.waiting, IS_REPORT),
)
# Finding the dead ones, too.
Index(
    "dead",
    notifications.c.dead,
    sqlite_where=notifications.c.dead.is_not(None),
)

# How many notifications wait for each receiver, and how many were given up: who looks at the page asks for it each second.
# Triggers of `notifications` keep it, which the migration makes; nobody else writes it.
backlog = Table(
    "backlog",
    metadata,
    Column("receiver", Text, primary_key=True),
    Column("waiting", Integer, nullable=False),
    Column("dead", Integer, nullable=False),
)

# One message to one receiver, committed before it is sent: whatever happens then, it is sent again as it was.
messages = Table(
    "messages",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("id", Text, nullable=False, unique=True),  # the webhook-id, the same at every try
    Column("receiver", Text, nullable=False),
    Column("parts", JSON, nullable=False),  # [[notification's id, content], ...]
    Column("since", Float),  # since when the oldest of it waits to be told
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
    Column("heal", Boolean, nullable=False, server_default=true()),  # whether services are restarted all the same
)

# Every restart that was asked for, by a person or by the monitor. `service.restarts` has the rest of it.
restarts = Table(
    "restarts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("service", Text, nullable=False),
    Column("asked_by", String(8), nullable=False),  # api, command or monitor
    Column("author", Text, nullable=False),
    Column("comment", Text, nullable=False),
    Column("alert", String(16)),  # the fingerprint for which the monitor did it
    Column("started", Float, nullable=False),
    Column("ended", Float),
    Column("outcome", String(12)),  # healthy, unhealthy, unreachable, interrupted or declined
    Column("detail", Text, nullable=False, server_default=""),
    Column("old_pid", Integer),
    Column("new_pid", Integer),
    Index("newest", "started"),
)

# How many restarts ended how. Restarts of long ago are deleted; a count must not go back.
restarted = Table(
    "restarted",
    metadata,
    Column("service", Text, primary_key=True),
    Column("outcome", String(12), primary_key=True),
    Column("count", Integer, nullable=False),
)

# Every time that an alert fired: what reports count. Written with the transitions, and kept when the alert is gone.
occurrences = Table(
    "occurrences",
    metadata,
    Column("id", Text, primary_key=True),  # as messages name it: the fingerprint, and when it fired
    Column("fingerprint", String(16), nullable=False),
    Column("alert", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("labels", JSON, nullable=False),
    Column("severity", Text, nullable=False),
    Column("summary", Text, nullable=False),
    Column("began", Float, nullable=False),  # when the condition was first seen to hold
    Column("fired", Float, nullable=False),
    Column("told", Float),  # when the first receiver had taken it
    Column("ended", Float),
    Column("acknowledged", Float),
    Column("acknowledged_by", Text),
    Column("restarts", Integer, nullable=False, server_default="0"),  # that the monitor made for it
    Index("fired", "fired"),
    Index("still", "ended"),
)

# What targets and this server measured, a row for each minute and for each hour: `service.readings` has the rest of it.
readings = Table(
    "readings",
    metadata,
    Column("step", Integer, primary_key=True),  # seconds that the row is about: 60 or 3600
    Column("target", Text, primary_key=True),
    Column("metric", Text, primary_key=True),
    Column("mount", Text, primary_key=True, server_default=""),
    Column("at", Integer, primary_key=True),  # when these seconds begin
    Column("count", Integer, nullable=False),  # of samples
    Column("total", Float, nullable=False),  # of their values
    Column("least", Float, nullable=False),
    Column("most", Float, nullable=False),
    Column("minutes", Integer, nullable=False, server_default="1"),  # of these in which something was measured
    sqlite_with_rowid=False,  # found by its key alone, which is most of it
)

# Reports that were asked for. The monitor makes them; `service.reports` has the rest of it.
reports = Table(
    "reports",
    metadata,
    Column("id", Text, primary_key=True),
    Column("state", String(7), nullable=False),  # asked, running, done or failed
    Column("since", Float, nullable=False),
    Column("until", Float, nullable=False),
    Column("asked", Float, nullable=False),
    Column("asked_by", Text, nullable=False),
    Column("progress", Float, nullable=False, server_default="0"),  # 0 to 1
    Column("ended", Float),
    Column("detail", Text, nullable=False, server_default=""),  # why it failed
    Column("content", JSON),  # what it says, whatever it is shown as
    Index("asked", "asked"),
)

# Scheduled work. The monitor alone does it; `service.jobs` has the rest of it.
jobs = Table(
    "jobs",
    metadata,
    Column("name", Text, primary_key=True),
    Column("kind", String(8), nullable=False),  # report, prune, backup or probe
    Column("parameters", JSON, nullable=False),
    Column("trigger", JSON, nullable=False),
    Column("missed", String(4), nullable=False),  # run or skip: what becomes of a run that was due while nobody ran it
    Column("paused", Boolean, nullable=False, server_default=false()),
    Column("due", Float),  # the next run; None when there is none
    Column("wanted", Float),  # somebody wants it run now, since then
    Column("wanted_by", Text),
    Column("author", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("updated", Float, nullable=False),
    Index("due", "due"),
)

# Every run of a job, begun before it does anything: what is cut off is known to have been begun.
runs = Table(
    "runs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("job", Text, nullable=False),
    Column("kind", String(8), nullable=False),
    Column("due", Float, nullable=False),  # when it was to run
    Column("asked_by", Text),  # who wanted it then; None if it was its time
    Column("started", Float, nullable=False),
    Column("ended", Float),
    Column("outcome", String(11)),  # done, failed, skipped or interrupted
    Column("detail", Text, nullable=False, server_default=""),
    Index("newest_runs", "job", "started"),
    Index("newest_of_all_runs", "started"),
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
    Column("targets", JSON, nullable=False, server_default="{}"),  # how each one stood then: service.targets
)
