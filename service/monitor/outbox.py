"""What receivers are to know, and the messages that tell them. Database only; `delivery` does the sending.

1. A firing puts a notification for each receiver, its resolved changes that notification: `wanted` and `told`. A report
   puts one, which is told alone, and when no alert waits.
2. `claim` puts what waits for a receiver into one message and commits it before it is sent. What is tried again is
   this same message, with the same id.
3. A 2xx sets `told` to what the message said. A firing that was told gets its resolved, one that was not is told
   together with its end: late, and once.
4. A message that surely did not arrive is put together anew, as things have moved on. One that may have arrived is not.
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, Row, and_, case, delete, insert, select, true, update

from service import occurrences
from service.database import upsert
from service.monitor import gone
from service.monitor.receivers import late
from service.receiver import Receiver
from service.tables import deliveries, messages, notifications

LARGEST = 16_000  # bytes of contents in one message; with what stands around them it stays below 20 KiB
LARGEST_REPEATED = 9_000  # the same for Alertmanager's body, which says once more what all of them have in common
MOST = 200  # notifications looked at for one message
GIVE_UP = 72 * 3600.0  # seconds of trying after which a notification is a dead letter
NO_PLACE = "Alertmanager's format has no place for a report"

Part = tuple[int, dict[str, Any]]  # a notification's id, and what is said of it


@dataclass(frozen=True)
class Entry:
    """What one receiver is to be told. Entries of one grouping share a message."""

    receiver: str
    content: Mapping[str, Any]
    grouping: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Message:
    """One message to one receiver, as it is sent at every try. Times in seconds since 1970."""

    receiver: str
    number: int
    identity: str
    parts: tuple[Part, ...]
    grouping: Mapping[str, Any]
    created: float
    due: float
    attempts: int
    uncertain: bool = False  # an earlier try may have arrived

    @property
    def contents(self) -> list[dict[str, Any]]:
        return [content for _, content in self.parts]


def announce(connection: Connection, entries: Sequence[Entry], now: float) -> None:
    """Put firings and reports, in the caller's transaction. What is there already stays as it is."""
    rows = [
        {
            "receiver": entry.receiver,
            "occurrence": entry.content["occurrence"],
            "wanted": entry.content["status"],
            "firing": dict(entry.content),
            "changed": now,
            "waiting": True,
            "grouping": dict(entry.grouping),
        }
        for entry in entries
    ]
    if rows:
        statement = upsert(connection, notifications)
        connection.execute(statement.on_conflict_do_nothing(index_elements=["receiver", "occurrence"]), rows)


def remind(connection: Connection, entries: Iterable[Entry], now: float) -> None:
    """Tell once more what was told and still fires. Whoever has not been told yet, or no more, needs no reminder."""
    for entry in entries:
        connection.execute(
            update(notifications)
            .where(_fires(entry), notifications.c.told == "firing", notifications.c.dead.is_(None))
            .values(firing=dict(entry.content), changed=now, waiting=True)
        )


def update_firing(connection: Connection, entries: Iterable[Entry], now: float) -> None:
    """Tell what has become of it, also to who has not been told yet that it fires: the newest is what counts."""
    for entry in entries:
        values = {"firing": dict(entry.content), "changed": now, "waiting": True, "dead": None}
        connection.execute(update(notifications).where(_fires(entry)).values(values))


def close(connection: Connection, entries: Iterable[Entry], now: float) -> None:
    """Put resolveds wherever their firing was put, in the caller's transaction."""
    for entry in entries:
        connection.execute(
            update(notifications)
            .where(_fires(entry))
            .values(
                wanted="resolved",
                resolved=dict(entry.content),
                changed=now,
                # Given up as a firing, it is never told. Given up as a reminder, its firing was told and is closed.
                waiting=case((notifications.c.told == "firing", True), else_=notifications.c.dead.is_(None)),
                dead=case((notifications.c.told == "firing", None), else_=notifications.c.dead),
            )
        )


def claim(connection: Connection, receiver: Receiver, now: float) -> Message | None:
    """The message to send to a receiver next, committed by the caller before it is sent; None when nothing waits."""
    if gone.wants_no_more(connection, receiver):
        return None
    row = connection.execute(
        select(messages).where(messages.c.receiver == receiver.name, messages.c.delivered.is_(None))
    ).one_or_none()
    if not receiver.takes_reports:
        row = None if _without_reports(connection, receiver, now) else row
    early = row is not None and row.due > now >= row.created  # else the clock was set back, and its time means nothing
    reported = row is not None and row.parts[0][1]["status"] == "report"
    if row is not None and early and not reported:
        return _message(row)
    parts, grouping, since = _waiting(connection, receiver)
    # A report is not held to its message or its time: what fires does not wait for who refuses reports.
    passed = reported and bool(parts) and parts[0][1]["status"] != "report"
    if row is not None and early and not passed:
        return _message(row)
    if row is not None:
        if (row.uncertain and not passed) or [list(part) for part in parts] == row.parts:
            # Written at each try: what cannot be noted is not sent, or a full disk would repeat it every second.
            connection.execute(update(messages).where(messages.c.number == row.number).values(uncertain=True, due=now))
            return replace(_message(row), due=now)
        connection.execute(delete(messages).where(messages.c.number == row.number))
    if not parts:
        return None
    identity, attempts = f"msg_{uuid.uuid4().hex}", 0 if row is None or passed else row.attempts
    values: dict[str, Any] = {"id": identity, "receiver": receiver.name, "parts": parts, "grouping": grouping, "since": since}
    # Uncertain from the start: killed from here on, nobody knows whether it was sent.
    values |= {"created": now, "due": now, "attempts": attempts, "uncertain": True}
    number = connection.execute(insert(messages).values(**values)).inserted_primary_key
    return Message(receiver.name, number[0] if number else 0, identity, tuple(parts), grouping, now, now, attempts)


def delivered(connection: Connection, message: Message, now: float) -> None:
    """The receiver said 2xx."""
    if not _knows(connection, message):
        return
    told = dict(message.parts)
    for row in connection.execute(select(notifications).where(notifications.c.id.in_(told))).all():
        content = told[row.id]
        status = content["status"]
        # What has changed while the message was on its way is still to be told.
        waiting = row.wanted != status or (status == "firing" and row.firing != content)
        known = update(notifications).where(notifications.c.id == row.id)
        tried = {"delivered": now, "attempts": message.attempts + 1, "error": None}
        connection.execute(known.values(told=status, waiting=waiting, **tried))
    occurrences.tell(connection, [content.get("occurrence", "") for content in told.values()], now)
    connection.execute(
        update(messages)
        .where(messages.c.number == message.number)
        .values(delivered=now, attempts=message.attempts + 1, error=None)
    )
    _count(connection, message, "delivered", 1)


def failed(
    connection: Connection, message: Message, now: float, due: float, error: str, *, uncertain: bool, last: bool = False
) -> int:
    """It was not delivered; the number of notifications that are given up with it, as they are older than GIVE_UP.

    `last`: all of them are, as nothing would come of another try.
    """
    if not _knows(connection, message):
        return 0
    _count(connection, message, "failed", 1)
    numbers = [number for number, _ in message.parts]
    tried = update(notifications).where(notifications.c.id.in_(numbers))
    connection.execute(tried.values(attempts=message.attempts + 1, error=error))
    died = connection.execute(
        update(notifications)
        .where(notifications.c.id.in_(numbers), notifications.c.waiting)
        .where(true() if last else notifications.c.changed <= now - GIVE_UP)
        .values(dead=now, waiting=False)
    ).rowcount
    if died:
        _count(connection, message, "dead", died)
        # The rest of it is put together anew.
        connection.execute(delete(messages).where(messages.c.number == message.number))
        return died
    connection.execute(
        update(messages)
        .where(messages.c.number == message.number)
        .values(due=due, attempts=message.attempts + 1, error=error, uncertain=uncertain or message.uncertain)
    )
    return 0


def move(connection: Connection, seconds: float) -> None:
    """The clock was set by so many seconds: what waits has waited as long as before, and is due as soon."""
    waiting = update(notifications).where(notifications.c.waiting)
    connection.execute(waiting.values(changed=notifications.c.changed + seconds))
    tried = update(messages).where(messages.c.delivered.is_(None))
    connection.execute(tried.values(due=messages.c.due + seconds, since=messages.c.since + seconds))


def undelivered(connection: Connection) -> Sequence[Row[Any]]:
    """What is waiting or dead, oldest first."""
    return connection.execute(
        select(notifications)
        .where(notifications.c.waiting | notifications.c.dead.is_not(None))
        .order_by(notifications.c.changed, notifications.c.id)
    ).all()


def stranded(connection: Connection, names: Iterable[str]) -> Sequence[str]:
    """The receivers for which something waits and that are not among these."""
    waiting = select(notifications.c.receiver).where(notifications.c.waiting, notifications.c.receiver.not_in(list(names)))
    return connection.execute(waiting.distinct().order_by(notifications.c.receiver)).scalars().all()


def replay(connection: Connection, now: float) -> int:
    """Make dead letters wait again, and disabled receivers receivers; the number of notifications."""
    gone.take_back(connection, now)
    revived = update(notifications).where(notifications.c.dead.is_not(None)).values(dead=None, waiting=True, changed=now)
    return connection.execute(revived).rowcount


def _fires(entry: Entry) -> ColumnElement[bool]:
    """The notification of its firing, while that is what its receiver is to know."""
    occurrence = notifications.c.occurrence == entry.content["occurrence"]
    return and_(notifications.c.receiver == entry.receiver, occurrence, notifications.c.wanted == "firing")


def _knows(connection: Connection, message: Message) -> bool:
    """False after the database was replaced while the message was on its way: the numbers in it are of other things."""
    return connection.execute(select(messages.c.number).where(messages.c.id == message.identity)).first() is not None


def _without_reports(connection: Connection, receiver: Receiver, now: float) -> bool:
    """Give up the reports that wait for a receiver whose format has no place for them; whether there were any."""
    of_it = (notifications.c.receiver == receiver.name, notifications.c.waiting, notifications.c.wanted == "report")
    found = connection.execute(select(notifications.c.id).where(*of_it)).scalars().all()
    if not found:
        return False
    connection.execute(update(notifications).where(*of_it).values(dead=now, waiting=False, error=NO_PLACE))
    tried = select(messages).where(messages.c.receiver == receiver.name, messages.c.delivered.is_(None))
    for row in connection.execute(tried).all():
        if row.parts[0][0] in found:
            connection.execute(delete(messages).where(messages.c.number == row.number))
    return True


def _waiting(connection: Connection, receiver: Receiver) -> tuple[list[Part], dict[str, Any], float | None]:
    """What is to be told next, as much of one grouping as fits into a message; the grouping; since when its oldest waits."""
    order = (notifications.c.changed, notifications.c.id)
    found = select(notifications).where(notifications.c.receiver == receiver.name, notifications.c.waiting).order_by(*order)
    rows = connection.execute(found.where(notifications.c.wanted != "report").limit(MOST)).all()
    if not rows:
        rows = connection.execute(found.where(notifications.c.wanted == "report").limit(1)).all()
    grouping = rows[0].grouping if rows else {}
    largest = LARGEST_REPEATED if receiver.format == "alertmanager" else LARGEST
    parts: list[Part] = []
    passed: set[str] = set()  # alerts of another grouping: what comes after in the same alert must not overtake it
    size = 0
    for row in rows:
        alert = row.occurrence.rpartition("-")[0]
        if row.grouping != grouping or alert in passed:
            passed.add(alert)
            continue
        content = row.firing if row.wanted != "resolved" else row.resolved if row.told else late(row.resolved)
        size += len(orjson.dumps(content)) + 1
        if parts and size > largest:
            break
        parts.append((row.id, content))
    return parts, grouping, rows[0].changed if rows else None


def _message(row: Row[Any]) -> Message:
    parts = tuple((number, content) for number, content in row.parts)
    return Message(row.receiver, row.number, row.id, parts, row.grouping, row.created, row.due, row.attempts, row.uncertain)


def _count(connection: Connection, message: Message, outcome: str, number: int) -> None:
    statement = upsert(connection, deliveries).values(receiver=message.receiver, outcome=outcome, count=number)
    more = deliveries.c.count + statement.excluded.count
    connection.execute(statement.on_conflict_do_update(index_elements=["receiver", "outcome"], set_={"count": more}))
