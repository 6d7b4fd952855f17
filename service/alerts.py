"""What is pending or fires, who has acknowledged it, and how the monitor does. Times are seconds since 1970.

The monitor writes all of this with each tick. Only an acknowledgement comes from elsewhere, and from here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Connection, Row, Select, case, func, select, update

from service import occurrences, pages, silences
from service.checking import Author, Comment
from service.pages import Position
from service.silences import Silence
from service.tables import alerts, backlog, deliveries, monitor, notifications


class UnknownError(LookupError):
    """There is no such alert."""


class QuietError(ValueError):
    """It does not fire."""


class Acknowledgement(BaseModel):
    """What a person says who takes an alert on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    author: Author
    comment: Comment = ""


@dataclass(frozen=True)
class Alert:
    """An alert as the last tick left it. `content` is what its firing says; None while it does not fire."""

    fingerprint: str
    alert: str
    target: str
    labels: Mapping[str, str]
    state: str
    since: float
    cleared: float | None  # it fires, but since then the condition does not hold
    content: Mapping[str, Any] | None
    silences: tuple[Silence, ...]
    windows: tuple[str, ...]  # of maintenance
    held: str | None  # the parent for which it is held
    flapping: bool
    receivers: tuple[str, ...]  # that are to know that it fires
    healing: Mapping[str, Any] | None  # what was tried to bring its service back, as the monitor stores it
    acknowledged: float | None
    acknowledgement: Acknowledgement | None


@dataclass(frozen=True)
class Figures:
    """How the monitor does. What a tick writes is None before the first one."""

    started: float | None
    interval: float | None
    ticks: int | None
    late: int | None
    ticked: float | None
    seconds: float | None
    states: Mapping[str, int]
    deliveries: Mapping[str, Mapping[str, int]]  # by receiver and outcome
    waiting: int
    dead: int
    oldest: float | None  # since when the oldest notification waits


def every(connection: Connection) -> list[Alert]:
    """What fires, then what is pending, each with the newest first."""
    found = select(alerts).where(alerts.c.state.in_(("firing", "pending")))
    return _all(connection, found.order_by(alerts.c.state, alerts.c.since.desc(), alerts.c.fingerprint.desc()))


def page(
    connection: Connection,
    *,
    state: str | None = None,
    alert: str | None = None,
    target: str | None = None,
    severity: str | None = None,
    acknowledged: bool | None = None,
    limit: int = 100,
    after: Position | None = None,
) -> tuple[list[Alert], Position | None]:
    """So many of `every` that are so, behind a position; and the position of the last, None at the end.

    What is pending has no severity yet.
    """
    columns = alerts.c
    states = ("firing", "pending") if state is None else (state,)
    query = pages.narrowed(
        select(alerts).where(columns.state.in_(states)),
        (columns.alert, alert),
        (columns.target, target),
        (columns.content["severity"].as_string(), severity),
    )
    if acknowledged is not None:
        query = query.where(columns.acknowledged.is_not(None) if acknowledged else columns.acknowledged.is_(None))
    fires = case((columns.state == "firing", 1), else_=0)
    rows, position = pages.page(connection, query, [fires, columns.since, columns.fingerprint], limit, after)
    return _read_all(connection, rows), position


def critical(connection: Connection) -> int:
    """How many fire and are critical."""
    severe = alerts.c.content["severity"].as_string() == "critical"
    return connection.execute(select(func.count()).where(alerts.c.state == "firing", severe)).scalar_one()


def find(connection: Connection, fingerprint: str) -> Alert:
    """Any alert that has ever been pending. Raises UnknownError."""
    for alert in _all(connection, select(alerts).where(alerts.c.fingerprint == fingerprint)):
        return alert
    raise UnknownError(f"there is no alert {fingerprint!r}")


def acknowledge(connection: Connection, fingerprint: str, said: Acknowledgement, now: float) -> Alert:
    """Take an alert on, also from who did before. Raises UnknownError or QuietError."""
    if (alert := find(connection, fingerprint)).state != "firing":
        raise QuietError(f"{alert.alert} on {alert.target} is {alert.state}; only what fires can be acknowledged")
    values = {"acknowledged": now, "acknowledged_by": said.author, "acknowledged_comment": said.comment}
    connection.execute(update(alerts).where(alerts.c.fingerprint == fingerprint).values(values))
    occurrences.acknowledge(connection, fingerprint, said.author, now)
    return find(connection, fingerprint)


def figures(connection: Connection) -> Figures:
    row = connection.execute(select(monitor)).first()
    states = {"firing": 0, "pending": 0}
    for name, count in connection.execute(select(alerts.c.state, func.count()).group_by(alerts.c.state)):
        if name in states:
            states[name] = count
    outcomes: dict[str, dict[str, int]] = {}
    columns = (deliveries.c.receiver, deliveries.c.outcome, deliveries.c["count"])
    for receiver, outcome, count in connection.execute(select(*columns).order_by(deliveries.c.receiver)):
        outcomes.setdefault(receiver, {"delivered": 0, "failed": 0, "dead": 0})[outcome] = count
    # The oldest of each receiver is found at once; that of all would be looked for among all.
    its = notifications.c.receiver == backlog.c.receiver, notifications.c.waiting
    oldest = select(func.min(notifications.c.changed)).where(*its).scalar_subquery()
    left = connection.execute(select(backlog.c.waiting, backlog.c.dead, oldest)).all()
    of_ticks = ("started", "interval", "ticks", "late", "ticked", "seconds")
    return Figures(
        **{name: getattr(row, name, None) for name in of_ticks},
        states=states,
        deliveries=outcomes,
        waiting=sum(waiting for waiting, _, _ in left),
        dead=sum(dead for _, dead, _ in left),
        oldest=min((since for _, _, since in left if since is not None), default=None),
    )


def _all(connection: Connection, query: Select[Any]) -> list[Alert]:
    return _read_all(connection, connection.execute(query).all())


def _read_all(connection: Connection, rows: Sequence[Row[Any]]) -> list[Alert]:
    known = silences.those(connection, {name for row in rows for name in row.silenced})
    return [_read(row, known) for row in rows]


def _read(row: Row[Any], known: Mapping[str, Silence]) -> Alert:
    by = row.acknowledged is not None
    return Alert(
        fingerprint=row.fingerprint,
        alert=row.alert,
        target=row.target,
        labels=row.labels,
        state=row.state,
        since=row.since,
        cleared=row.cleared,
        content=row.content,
        silences=tuple(known[name] for name in row.silenced if name in known),
        windows=tuple(name for name in row.silenced if name not in known),
        held=row.held,
        flapping=row.flapping,
        receivers=tuple(row.announced),
        healing=row.healing if (row.healing or {}).get("service") else None,
        acknowledged=row.acknowledged,
        acknowledgement=Acknowledgement(author=row.acknowledged_by, comment=row.acknowledged_comment) if by else None,
    )
