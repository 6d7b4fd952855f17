"""Every time that an alert fired: when it began, was told and ended, and who took it on. Times are seconds since 1970.

The monitor writes them with the transitions, in one transaction; what has ended stays for as long as `keep` says.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, bindparam, select, update

from service import pages
from service.database import upsert
from service.pages import Position
from service.tables import occurrences


class UnknownError(LookupError):
    """There is no such occurrence."""


@dataclass(frozen=True)
class Occurrence:
    """One firing of an alert. `id` is what messages name it by."""

    id: str
    fingerprint: str
    alert: str
    target: str
    labels: Mapping[str, str]
    severity: str
    summary: str
    began: float  # when the condition was first seen to hold
    fired: float
    told: float | None = None  # when the first receiver had taken it
    ended: float | None = None
    acknowledged: float | None = None
    acknowledged_by: str | None = None
    restarts: int = 0  # that the monitor decided on for it


class Progress(NamedTuple):
    """How far an occurrence has come. `ended` is None while it fires."""

    severity: str
    restarts: int
    ended: float | None = None


def begin(connection: Connection, begun: Iterable[Occurrence]) -> None:
    """Put firings, in the caller's transaction. What is there already stays as it is."""
    rows = [vars(each) for each in begun]
    if rows:
        connection.execute(upsert(connection, occurrences).on_conflict_do_nothing(index_elements=["id"]), rows)


def go_on(connection: Connection, progress: Mapping[str, Progress]) -> None:
    """Write how far these have come, by their id, in the caller's transaction."""
    stands: dict[str, Any] = {name: bindparam(f"its_{name}") for name in Progress._fields}
    statement = update(occurrences).where(occurrences.c.id == bindparam("identity")).values(stands)
    rows = [
        {"identity": identity} | {f"its_{name}": value for name, value in each._asdict().items()}
        for identity, each in progress.items()
    ]
    if rows:
        connection.execute(statement, rows)


def move(connection: Connection, seconds: float) -> None:
    """The clock was set by so many seconds: what fires has done so for as long as before."""
    row = occurrences.c
    moments = {each: each + seconds for each in (row.began, row.fired, row.told, row.acknowledged)}
    connection.execute(update(occurrences).where(row.ended.is_(None)).values(moments))


def tell(connection: Connection, identities: Collection[str], now: float) -> None:
    """A receiver has taken these; who was the first, counts."""
    untold = occurrences.c.id.in_(identities), occurrences.c.told.is_(None)
    connection.execute(update(occurrences).where(*untold).values(told=now))


def acknowledge(connection: Connection, fingerprint: str, author: str, now: float) -> None:
    """Somebody has taken on what fires of this alert."""
    fires = occurrences.c.fingerprint == fingerprint, occurrences.c.ended.is_(None)
    connection.execute(update(occurrences).where(*fires).values(acknowledged=now, acknowledged_by=author))


def page(
    connection: Connection,
    *,
    alert: str | None = None,
    target: str | None = None,
    fires: bool | None = None,
    since: float | None = None,
    until: float | None = None,
    limit: int = 100,
    after: Position | None = None,
) -> tuple[list[Occurrence], Position | None]:
    """So many behind a position, newest first; and the position of the last, None at the end.

    `since` and `until` are about when they fired; `fires` whether they still do.
    """
    row = occurrences.c
    query = pages.narrowed(select(occurrences), (row.alert, alert), (row.target, target), at=row.fired, since=since, until=until)
    if fires is not None:
        query = query.where(row.ended.is_(None) if fires else row.ended.is_not(None))
    rows, position = pages.page(connection, query, [row.fired, row.id], limit, after)
    return [_read(each) for each in rows], position


def find(connection: Connection, identity: str) -> Occurrence:
    """Raises UnknownError."""
    row = connection.execute(select(occurrences).where(occurrences.c.id == identity)).first()
    if row is None:
        raise UnknownError(f"there is no occurrence {identity!r}")
    return _read(row)


def _read(row: Row[Any]) -> Occurrence:
    return Occurrence(**{column.name: getattr(row, column.name) for column in occurrences.columns})
