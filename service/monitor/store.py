"""What the monitor keeps: the alerts and what they cause, in one transaction with each tick."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import Connection, Engine, Row, insert, select, update

from service import database, silences
from service.database import alerts, monitor
from service.monitor import outbox
from service.monitor.routing import Alert
from service.monitor.rules import State
from service.monitor.watch import Watch


@dataclass(frozen=True)
class Figures:
    """What the monitor knows of itself; the table `monitor`."""

    started: float
    interval: float  # seconds
    ticks: int = 0
    late: int = 0
    ticked: float = 0.0
    seconds: float = 0.0

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

    def look(self, watch: Watch, now: float) -> None:
        """Bring in what others have written: silences and acknowledgements; at the first time all alerts."""
        self._ready(watch)
        with database.checked(), database.reading(self._engine) as connection:
            watch.silences = tuple(silences.active(connection, now))
            known = select(alerts.c.fingerprint).where(alerts.c.state == "firing", alerts.c.acknowledged.is_not(None))
            # Of what has turned since the last commit, it is the acknowledgement of an earlier time.
            watch.acknowledged = frozenset(connection.execute(known).scalars()) - watch.unsaved.turned

    def commit(self, watch: Watch, figures: Figures, now: float) -> None:
        """Write what is unsaved; all of it or nothing."""
        self._ready(watch)
        unsaved = watch.unsaved
        with database.checked(), self._engine.begin() as connection:
            if rows := [_row(watch.alerts[identity]) for identity in unsaved.changed]:
                statement = database.upsert(connection, alerts)
                replaced = {name: statement.excluded[name] for name in rows[0] if name != "fingerprint"}
                connection.execute(statement.on_conflict_do_update(index_elements=["fingerprint"], set_=replaced), rows)
            for identity in unsaved.turned:
                ended = {"acknowledged": None, "acknowledged_by": None, "acknowledged_comment": None}
                connection.execute(update(alerts).where(alerts.c.fingerprint == identity).values(**ended))
            outbox.announce(connection, unsaved.announced, now)
            outbox.remind(connection, unsaved.reminded, now)
            outbox.close(connection, unsaved.closed, now)
            _write(connection, figures)
        watch.saved()

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
            self._loaded = True


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
    }


def _write(connection: Connection, figures: Figures) -> None:
    values = {
        "started": figures.started,
        "interval": figures.interval,
        "ticks": figures.ticks,
        "late": figures.late,
        "ticked": figures.ticked,
        "seconds": figures.seconds,
    }
    if not connection.execute(update(monitor).where(monitor.c.id == 1).values(**values)).rowcount:
        connection.execute(insert(monitor).values(id=1, **values))
