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

from sqlalchemy import Connection, Row, Update, bindparam, case, delete, func, insert, select, true, union_all, update

from service import occurrences
from service.database import upsert
from service.monitor import gone
from service.monitor.composing import MOST, Message, Waiting, compose, largest
from service.receiver import Receiver
from service.tables import IS_REPORT, backlog, deliveries, messages, notifications

GIVE_UP = 72 * 3600.0  # seconds of trying after which a notification is a dead letter
NO_PLACE = "Alertmanager's format has no place for a report"


@dataclass(frozen=True)
class Entry:
    """What one receiver is to be told. Entries of one grouping share a message."""

    receiver: str
    content: Mapping[str, Any]
    grouping: Mapping[str, Any] = field(default_factory=dict)


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
    told = _FIRES.where(notifications.c.told == "firing", notifications.c.dead.is_(None))
    _change(connection, told.values(firing=_CONTENT, changed=now, waiting=True), entries)


def update_firing(connection: Connection, entries: Iterable[Entry], now: float) -> None:
    """Tell what has become of it, also to who has not been told yet that it fires: the newest is what counts."""
    _change(connection, _FIRES.values(firing=_CONTENT, changed=now, waiting=True, dead=None), entries)


def close(connection: Connection, entries: Iterable[Entry], now: float) -> None:
    """Put resolveds wherever their firing was put, in the caller's transaction."""
    told = notifications.c.told == "firing"
    ended = _FIRES.values(
        wanted="resolved",
        resolved=_CONTENT,
        changed=now,
        # Given up as a firing, it is never told. Given up as a reminder, its firing was told and is closed.
        waiting=case((told, True), else_=notifications.c.dead.is_(None)),
        dead=case((told, None), else_=notifications.c.dead),
    )
    _change(connection, ended, entries)


def claim(connection: Connection, receiver: Receiver, now: float, most: int = 1) -> list[Message]:
    """The messages to send to a receiver next, committed by the caller before the first is sent; none when nothing waits.

    Several only where none has been tried before.
    """
    if gone.wants_no_more(connection, receiver):
        return []
    if not receiver.takes_reports:
        _without_reports(connection, receiver, now)
    # A monitor that was killed may have left several.
    claimed = select(messages).where(messages.c.receiver == receiver.name, messages.c.delivered.is_(None))
    row = connection.execute(claimed.order_by(messages.c.number).limit(1)).first()
    early = row is not None and row.due > now >= row.created  # else the clock was set back, and its time means nothing
    reported = row is not None and row.parts[0][1]["status"] == "report"
    if row is not None and early and not reported:
        return [_message(row)]
    drafts = compose(_waiting(connection, receiver), most if row is None else 1, largest(receiver))
    # A report is not held to its message or its time: what fires does not wait for who refuses reports.
    passed = reported and bool(drafts) and drafts[0].parts[0][1]["status"] != "report"
    if row is not None and early and not passed:
        return [_message(row)]
    if row is not None:
        if (row.uncertain and not passed) or (drafts and [list(part) for part in drafts[0].parts] == row.parts):
            # Written at each try: what cannot be noted is not sent, or a full disk would repeat it every second.
            connection.execute(update(messages).where(messages.c.id == row.id).values(uncertain=True, due=now))
            return [replace(_message(row), due=now)]
        connection.execute(delete(messages).where(messages.c.id == row.id))
    attempts = 0 if row is None or passed else row.attempts
    fresh = [
        Message(receiver.name, f"msg_{uuid.uuid4().hex}", tuple(draft.parts), draft.grouping, draft.since, now, now, attempts)
        for draft in drafts
    ]
    if fresh:
        # Uncertain from the start: killed from here on, nobody knows whether it was sent.
        connection.execute(insert(messages), [_row(message) | {"uncertain": True} for message in fresh])
    return fresh


def release(connection: Connection, unsent: Sequence[Message]) -> None:
    """These were claimed and not sent: what they say is put together anew."""
    if unsent:
        connection.execute(delete(messages).where(messages.c.id.in_([message.identity for message in unsent])))


def delivered(connection: Connection, sent: Sequence[Message], now: float) -> None:
    """Their receiver said 2xx to each of these."""
    sent = _known(connection, sent)
    if not sent:
        return
    told = {number: content for message in sent for number, content in message.parts}
    attempts = {number: message.attempts + 1 for message in sent for number, _ in message.parts}
    columns = notifications.c.id, notifications.c.wanted, notifications.c.firing
    changes = []
    for number, wanted, firing in connection.execute(select(*columns).where(notifications.c.id.in_(told))):
        status = told[number]["status"]
        # What has changed while the message was on its way is still to be told.
        waiting = wanted != status or (status == "firing" and firing != told[number])
        changes.append({"number": number, "status": status, "still": waiting, "tries": attempts[number]})
    if changes:
        connection.execute(_TOLD.values(delivered=now), changes)
    occurrences.tell(connection, [content.get("occurrence", "") for content in told.values()], now)
    connection.execute(
        _TAKEN.values(delivered=now), [{"identity": message.identity, "tries": message.attempts + 1} for message in sent]
    )
    _count(connection, sent[0].receiver, "delivered", len(sent))


def failed(
    connection: Connection, message: Message, now: float, due: float, error: str, *, uncertain: bool, last: bool = False
) -> int:
    """It was not delivered; the number of notifications that are given up with it, as they are older than GIVE_UP.

    `last`: all of them are, as nothing would come of another try.
    """
    if not _known(connection, [message]):
        return 0
    _count(connection, message.receiver, "failed", 1)
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
        _count(connection, message.receiver, "dead", died)
        # The rest of it is put together anew.
        connection.execute(delete(messages).where(messages.c.id == message.identity))
        return died
    connection.execute(
        update(messages)
        .where(messages.c.id == message.identity)
        .values(due=due, attempts=message.attempts + 1, error=error, uncertain=uncertain or message.uncertain)
    )
    return 0


def move(connection: Connection, seconds: float) -> None:
    """The clock was set by so many seconds: what waits has waited as long as before, and is due as soon."""
    waiting = update(notifications).where(notifications.c.waiting)
    connection.execute(waiting.values(changed=notifications.c.changed + seconds))
    tried = update(messages).where(messages.c.delivered.is_(None))
    connection.execute(tried.values(due=messages.c.due + seconds, since=messages.c.since + seconds))


def undelivered(connection: Connection, most: int | None = None) -> Sequence[Row[Any]]:
    """What is waiting or dead, so much of it at most, oldest first."""
    row = notifications.c
    # Found by the indexes of both, and only then read: they may be a million.
    left = union_all(*(select(row.id, row.changed).where(such) for such in (row.waiting, row.dead.is_not(None)))).subquery()
    oldest = select(left.c.id).order_by(left.c.changed, left.c.id).limit(most)
    return connection.execute(select(notifications).where(row.id.in_(oldest)).order_by(row.changed, row.id)).all()


def left(connection: Connection) -> int:
    """How many are waiting or dead."""
    return int(connection.execute(select(func.sum(backlog.c.waiting + backlog.c.dead))).scalar() or 0)


def stranded(connection: Connection, names: Iterable[str]) -> Sequence[str]:
    """The receivers for which something waits and that are not among these."""
    waiting = select(backlog.c.receiver).where(backlog.c.waiting > 0, backlog.c.receiver.not_in(list(names)))
    return connection.execute(waiting.order_by(backlog.c.receiver)).scalars().all()


def replay(connection: Connection, now: float) -> int:
    """Make dead letters wait again, and disabled receivers receivers; the number of notifications."""
    gone.take_back(connection, now)
    revived = update(notifications).where(notifications.c.dead.is_not(None)).values(dead=None, waiting=True, changed=now)
    return connection.execute(revived).rowcount


# The notification of its firing, while that is what its receiver is to know; one after the other of many.
_FIRES = update(notifications).where(
    notifications.c.receiver == bindparam("its_receiver"),
    notifications.c.occurrence == bindparam("its_occurrence"),
    notifications.c.wanted == "firing",
)
_CONTENT = bindparam("content", type_=notifications.c.firing.type)
_TOLD = (
    update(notifications)
    .where(notifications.c.id == bindparam("number"))
    .values(told=bindparam("status"), waiting=bindparam("still"), attempts=bindparam("tries"), error=None)
)
_TAKEN = update(messages).where(messages.c.id == bindparam("identity")).values(attempts=bindparam("tries"), error=None)


def _change(connection: Connection, statement: Update, entries: Iterable[Entry]) -> None:
    """With the content of each of these."""
    rows = [
        {"its_receiver": entry.receiver, "its_occurrence": entry.content["occurrence"], "content": dict(entry.content)}
        for entry in entries
    ]
    if rows:
        connection.execute(statement, rows)


def _known(connection: Connection, claimed: Sequence[Message]) -> list[Message]:
    """None after the database was replaced while they were on their way: the numbers in them are of other things."""
    of_these = messages.c.id.in_([message.identity for message in claimed])
    known = set(connection.execute(select(messages.c.id).where(of_these)).scalars())
    return [message for message in claimed if message.identity in known]


def _without_reports(connection: Connection, receiver: Receiver, now: float) -> None:
    """Give up the reports that wait for a receiver whose format has no place for them."""
    of_it = (notifications.c.receiver == receiver.name, notifications.c.waiting, IS_REPORT)
    found = connection.execute(select(notifications.c.id).where(*of_it)).scalars().all()
    if not found:
        return
    connection.execute(update(notifications).where(*of_it).values(dead=now, waiting=False, error=NO_PLACE))
    tried = select(messages).where(messages.c.receiver == receiver.name, messages.c.delivered.is_(None))
    for row in connection.execute(tried).all():
        if row.parts[0][0] in found:
            connection.execute(delete(messages).where(messages.c.id == row.id))


def _waiting(connection: Connection, receiver: Receiver) -> list[Waiting]:
    """What waits, the oldest first: so much of it as is looked at. A report alone, and when nothing else does."""
    columns = [notifications.c[name] for name in Waiting._fields]
    found = select(*columns).where(notifications.c.receiver == receiver.name, notifications.c.waiting)
    found = found.order_by(notifications.c.changed, notifications.c.id)
    rows = connection.execute(found.where(~IS_REPORT).limit(MOST)).all()
    if not rows:
        rows = connection.execute(found.where(IS_REPORT).limit(1)).all()
    return [Waiting(*row) for row in rows]


def _message(row: Row[Any]) -> Message:
    parts = tuple((number, content) for number, content in row.parts)
    times = row.since, row.created, row.due
    return Message(row.receiver, row.id, parts, row.grouping, *times, row.attempts, row.uncertain)


def _row(message: Message) -> dict[str, Any]:
    """As it is stored."""
    values = {**vars(message), "id": message.identity}
    del values["identity"]
    return values


def _count(connection: Connection, receiver: str, outcome: str, number: int) -> None:
    statement = upsert(connection, deliveries).values(receiver=receiver, outcome=outcome, count=number)
    more = deliveries.c.count + statement.excluded.count
    connection.execute(statement.on_conflict_do_update(index_elements=["receiver", "outcome"], set_={"count": more}))
