"""What each receiver was or is to be told, and whether it arrived. Times are seconds since 1970.

The monitor writes all of this. A notification is of one occurrence of an alert, for one receiver: its resolved takes the
place of its firing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Row, and_, not_, select

from service import pages
from service.pages import Position
from service.tables import notifications

State = Literal["waiting", "delivered", "dead"]


class UnknownError(LookupError):
    """There is no such notification."""


@dataclass(frozen=True)
class Notification:
    """What one receiver is to know of one occurrence. `content` is what it says, as docs/webhook.md has it.

    Waiting: there is something to tell, perhaps after something was told. Dead: given up.
    """

    id: int
    receiver: str
    occurrence: str
    status: str  # firing, resolved or report
    content: Mapping[str, Any]
    changed: float  # when it came to stand so
    state: State
    delivered: float | None  # when its receiver last took what it said
    attempts: int  # to send the last message that had it
    error: str | None  # of the last of these


def page(
    connection: Connection,
    *,
    receiver: str | None = None,
    state: State | None = None,
    alert: str | None = None,
    target: str | None = None,
    since: float | None = None,
    until: float | None = None,
    limit: int = 100,
    after: Position | None = None,
) -> tuple[list[Notification], Position | None]:
    """So many behind a position, the last to change first; and the position of the last, None at the end.

    `since` and `until` are about when they changed; `until` is not within.
    """
    columns = notifications.c
    said = [(columns.firing[name].as_string(), value) for name, value in (("alert", alert), ("target", target))]
    query = pages.narrowed(
        select(notifications), (columns.receiver, receiver), *said, at=columns.changed, since=since, until=until
    )
    if state is not None:
        query = query.where(_is(state))
    rows, position = pages.page(connection, query, [columns.changed, columns.id], limit, after)
    return [_read(row) for row in rows], position


def find(connection: Connection, identity: int) -> Notification:
    """Raises UnknownError."""
    row = (
        connection.execute(select(notifications).where(notifications.c.id == identity)).first()
        if identity < pages.LARGEST
        else None
    )
    if row is None:
        raise UnknownError(f"there is no notification {identity}")
    return _read(row)


def _is(state: State) -> ColumnElement[bool]:
    waiting, dead = notifications.c.waiting, notifications.c.dead.is_not(None)
    return {"waiting": waiting, "dead": dead, "delivered": and_(not_(waiting), not_(dead))}[state]


def _read(row: Row[Any]) -> Notification:
    return Notification(
        id=row.id,
        receiver=row.receiver,
        occurrence=row.occurrence,
        status=row.wanted,
        content=row.resolved or row.firing,
        changed=row.changed,
        state="waiting" if row.waiting else "delivered" if row.dead is None else "dead",
        delivered=row.delivered,
        attempts=row.attempts,
        error=row.error,
    )
