"""What the monitor keeps: the alerts and what they cause, in one transaction with each tick."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from sqlalchemy import Connection, Engine, Row, bindparam, insert, select, update

from service import database, occurrences, readings, restarts, silences
from service.configuration import Configuration
from service.monitor import outbox, receivers
from service.monitor.healing import Healing
from service.monitor.history import occurrence_of
from service.monitor.outbox import Entry
from service.monitor.routing import Alert, Circumstances, hold, moved, tell
from service.monitor.rules import State
from service.monitor.standing import since
from service.monitor.watch import Watch
from service.readings import Bucket
from service.tables import alerts, monitor
from service.targets import Standing, standings

LATE = 10.0  # seconds that a restart may be committed after it has ended
FAILURE = "ServiceFailure"  # the alert about a program that supervisord has given up


# One statement for many rows: SQLAlchemy's part of each would cost ten times what SQLite's does.
_ENDED = {"acknowledged": None, "acknowledged_by": None, "acknowledged_comment": None}
_UNACKNOWLEDGED = update(alerts).where(alerts.c.fingerprint == bindparam("identity")).values(_ENDED)


@dataclass(frozen=True)
class Figures:
    """What the monitor knows of itself; the table `monitor`."""

    started: float
    interval: float  # seconds
    ticks: int = 0
    late: int = 0
    ticked: float = 0.0
    seconds: float = 0.0
    targets: Mapping[str, Standing] = field(default_factory=dict)

    def after(self, now: float, seconds: float, interval: float, *, late: bool) -> "Figures":
        """With one more tick, which took so many seconds."""
        return replace(
            self, interval=interval, ticks=self.ticks + 1, late=self.late + late, ticked=now, seconds=round(seconds, 4)
        )


class Store:
    """The way to the database. Every method raises SQLAlchemyError when it cannot be used, and can be called again."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._prepared = False  # the tables are there
        self._loaded = False
        self._looked: float | None = None  # when
        self._logged: set[str] = set()  # restarts by the command
        self._stood: Mapping[str, Standing] = {}  # how targets stood at the tick that was committed last

    def look(self, watch: Watch, now: float) -> None:
        """Bring in what others have written: silences and acknowledgements; at the first time all alerts."""
        self._ready(watch)
        with database.checked(), database.reading(self._engine) as connection:
            self._log_commands(connection, now)
            watch.silences = tuple(silences.active(connection, now))
            known = select(alerts.c.fingerprint).where(alerts.c.state == "firing", alerts.c.acknowledged.is_not(None))
            # Of what has turned since the last commit, it is the acknowledgement of an earlier time.
            watch.acknowledged = frozenset(connection.execute(known).scalars()) - watch.unsaved.turned
            for row in connection.execute(select(alerts).where(alerts.c.alert == FAILURE, alerts.c.state == "firing")):
                alert = watch.alerts.get(row.fingerprint)
                if row.fingerprint not in watch.unsaved.turned and (alert is None or alert.content is None):
                    watch.adopt(_alert(row))

    def _log_commands(self, connection: Connection, now: float) -> None:
        """Log the restarts that the command was asked for: it tells the person alone."""
        since, self._looked = self._looked, now
        found = [] if since is None else restarts.by_command(connection, since - LATE, now)
        for restart in found:
            if restart.id not in self._logged:
                restarts.tell(restart)
        self._logged = {restart.id for restart in found}

    def commit(self, watch: Watch, figures: Figures, now: float, minutes: Sequence[Bucket] = ()) -> None:
        """Write what is unsaved, and these minutes of readings; all of it or nothing."""
        self._ready(watch)
        unsaved = watch.unsaved
        figures = replace(figures, targets=since(self._stood, figures.targets))
        with database.checked(), self._engine.begin() as connection:
            if rows := [_row(watch.alerts[identity]) for identity in unsaved.changed]:
                _put(connection, rows)
            if unsaved.turned:
                connection.execute(_UNACKNOWLEDGED, [{"identity": identity} for identity in unsaved.turned])
            outbox.announce(connection, unsaved.announced, now)
            outbox.update_firing(connection, unsaved.stepped, now)
            outbox.remind(connection, unsaved.reminded, now)
            outbox.close(connection, unsaved.closed, now)
            occurrences.begin(connection, unsaved.begun)
            occurrences.go_on(connection, unsaved.progress)
            readings.put(connection, minutes)
            _write(connection, figures)
        self._stood = figures.targets
        watch.saved()

    def move(self, watch: Watch, seconds: float, now: float) -> None:
        """The clock was set by so many seconds, at `now`: what is counted by it moves along, stored and in memory."""
        self._ready(watch)
        with database.checked(), self._engine.begin() as connection:
            if rows := [_row(moved(_alert(row), seconds)) for row in connection.execute(select(alerts))]:
                _put(connection, rows)
            outbox.move(connection, seconds)
            occurrences.move(connection, seconds)
            silences.follow(connection, now, now + seconds)
            # Who looks before the next tick is to see that the last one was just now.
            ours = {each: each + seconds for each in (monitor.c.started, monitor.c.ticked)}
            connection.execute(update(monitor).values(ours))
        self._stood = {name: replace(stands, since=stands.since + seconds) for name, stands in self._stood.items()}
        watch.move(seconds)

    def keep(self, minutes: Sequence[Bucket]) -> None:
        """Write minutes of readings alone: the last words of a monitor that stops."""
        if self._prepared:
            with database.checked(), self._engine.begin() as connection:
                readings.put(connection, minutes)

    def give_notice(
        self, configuration: Configuration, program: str, now: float, *, by: str = "supervisord", unless_healed: bool = False
    ) -> bool:
        """Announce that supervisord, or systemd, has given up a program of ours; False if that is known already.

        `unless_healed`: nor where a rule heals it, whose alert says it all.
        """
        rules, targets = configuration.rules, configuration.targets
        if not self._prepared:
            database.prepare(self._engine)
        words = f"{by} has given up on {program}: it ended too often soon after its start."
        named = {(by, program), (by, program.removesuffix(".service"))}  # as systemd has it, that is the same
        ours = (each for each in configuration.services if each.supervisor in named and each.socket is None)
        name = next((each.name for each in ours), program)
        if unless_healed and any(configuration.healed(rule, each.name) == name for rule in rules for each in targets):
            return False
        reason = "it is FATAL" if by == "supervisord" else "it has failed"
        content = receivers.own(FAILURE, words, reason, now, instance=configuration.instance, target=name)
        identity = content["fingerprint"]
        with database.checked(), self._engine.begin() as connection:
            fires = select(alerts.c.fingerprint).where(alerts.c.fingerprint == identity, alerts.c.state == "firing")
            if connection.execute(fires).first():
                return False
            alert = Alert(identity, FAILURE, name, {}, State("firing", now), content)
            found = Circumstances(silences.active(connection, now))
            alert, notices = tell(hold(alert, configuration, found, now), configuration, now)
            _put(connection, [_row(alert)])
            entries = [Entry(notice.receiver, content, notice.grouping) for notice in notices]
            outbox.announce(connection, entries, now)
            occurrences.begin(connection, [occurrence_of(alert, content)])
        return True

    def stranded(self, names: Iterable[str]) -> Sequence[str]:
        """Receivers for which something waits under a name that is none of these."""
        with database.checked(), database.reading(self._engine) as connection:
            return outbox.stranded(connection, names)

    def replace(self, watch: Watch, now: float) -> Path | None:
        """Put a damaged file aside and begin a new one with what is in memory; where the old one is now.

        Raises OSError, too.
        """
        self._engine.dispose()
        kept = database.set_aside(self._engine.url, now)
        self._engine.dispose()  # what a sender has opened meanwhile is of the old file
        self._prepared = False
        watch.recall()
        self._ready(watch)
        return kept

    def _ready(self, watch: Watch) -> None:
        if not self._prepared:
            database.prepare(self._engine)
            self._prepared = True
        if not self._loaded:
            with database.checked(), database.reading(self._engine) as connection:
                watch.restore([_alert(row) for row in connection.execute(select(alerts))])
                self._stood = standings(connection)
            self._loaded = True


def _put(connection: Connection, rows: Sequence[Mapping[str, object]]) -> None:
    statement = database.upsert(connection, alerts)
    replaced = {name: statement.excluded[name] for name in rows[0] if name != "fingerprint"}
    connection.execute(statement.on_conflict_do_update(index_elements=["fingerprint"], set_=replaced), rows)


def _alert(row: Row[tuple[object, ...]]) -> Alert:
    state = State(row.state, row.since, row.cleared, tuple(row.starts), row.flapping)
    told = row.content if row.state == "firing" else None
    return Alert(
        fingerprint=row.fingerprint,
        name=row.alert,
        target=row.target,
        labels=row.labels,
        state=state,
        content=told,
        announced=tuple(row.announced),
        told=row.told,
        reminded=row.reminded or 0.0,
        silenced=tuple(row.silenced),
        held=row.held,
        acknowledged=row.acknowledged is not None,
        healing=Healing(**{**(row.healing or {}), "attempts": tuple((row.healing or {}).get("attempts", ()))}),
        shown=row.shown,
    )


def _row(alert: Alert) -> dict[str, object]:
    return {
        "fingerprint": alert.fingerprint,
        "alert": alert.name,
        "target": alert.target,
        "labels": dict(alert.labels),
        "state": alert.state.name,
        "since": alert.state.since,
        "cleared": alert.state.cleared,
        "starts": alert.state.starts,
        "flapping": alert.state.flapping,
        "content": alert.content,
        "announced": alert.announced,
        "told": alert.told,
        "reminded": alert.reminded,
        "silenced": alert.silenced,
        "held": alert.held,
        "healing": asdict(alert.healing),
        "shown": alert.shown,
    }


def _write(connection: Connection, figures: Figures) -> None:
    values = {
        "started": figures.started,
        "interval": figures.interval,
        "ticks": figures.ticks,
        "late": figures.late,
        "ticked": figures.ticked,
        "seconds": figures.seconds,
        "targets": {name: vars(each) for name, each in figures.targets.items()},
    }
    if not connection.execute(update(monitor).where(monitor.c.id == 1).values(**values)).rowcount:
        connection.execute(insert(monitor).values(id=1, **values))
