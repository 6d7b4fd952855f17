"""Sending what the outbox holds: one thread for each receiver, retries with growing waits, marks after the 2xx.

A receiver that hangs delays neither a tick nor another receiver. Within a receiver the order is kept: a message that
fails is tried again before the next one is. Messages are claimed several at a time, and marked so, where the receiver is
quick: one fsync covers all of them. Killed before the mark, what was sent in that moment is sent again, with its id.
"""

import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import Engine, Pool
from sqlalchemy.exc import SQLAlchemyError

from service import database
from service.chat import Chat
from service.monitor import gone, outbox
from service.monitor.composing import Message
from service.monitor.exchange import Client
from service.monitor.outbox import Entry
from service.monitor.refresh import Refresh
from service.monitor.sending import FIRST_WAIT, LONGEST_ORDERED, Verdict, client_for, send, wait_after
from service.monitor.straight import Straight
from service.receiver import Receiver

EVERYONE = ""  # the receiver of an entry that is for all of them
IDLE = 60.0  # seconds between two looks when nobody wakes the thread
AT_ONCE = 64  # messages that are claimed in one transaction, and marked in one
SHORT = 0.05  # seconds in which several are sent before they are marked: as long a kill may let them be sent again

_log = structlog.get_logger()


@dataclass
class Pace:
    """How many messages are claimed at once: about as many as their receiver takes in SHORT."""

    most: int = 1

    def after(self, taken: int, seconds: float) -> None:
        """So many were taken in this time; none, where one was not."""
        if not taken:
            self.most = 1
        elif seconds > SHORT:
            self.most = max(1, self.most // 2)
        elif taken == self.most and seconds < SHORT / 2:
            self.most = min(AT_ONCE, 2 * self.most)


def deliver_next(
    engine: Engine,
    receiver: Receiver,
    client: Client | Chat,
    clock: Callable[[], float],
    *,
    pace: Pace | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> float:
    """Send what is due, one message or as many as `pace` says; seconds until there may be something to do.

    `stopping` is asked between two of them.
    """
    pace = pace or Pace()
    now = clock()
    with database.checked(), engine.begin() as connection:
        claimed = outbox.claim(connection, receiver, now, pace.most)
    if not claimed:
        return IDLE
    if claimed[0].due > now:
        return min(claimed[0].due - now, LONGEST_ORDERED)
    began = time.monotonic()
    verdict, taken = Verdict(), 0
    for message in claimed:
        if taken and (stopping() or time.monotonic() - began > SHORT):
            break
        verdict = _try(receiver, client, message, clock())
        if verdict.error is not None:
            break
        taken += 1
    failed = verdict.error is not None
    pace.after(0 if failed else taken, time.monotonic() - began)
    _mark(engine, claimed[:taken], claimed[taken + failed :], clock())
    return _not_taken(engine, receiver, claimed[taken], verdict, clock()) if failed else 0.0


def _try(receiver: Receiver, client: Client | Chat, message: Message, now: float) -> Verdict:
    return send(
        receiver,
        client,
        identity=message.identity,
        contents=message.contents,
        created=message.created,
        now=now,
        grouping=message.grouping,
    )


def _mark(engine: Engine, taken: Sequence[Message], unsent: Sequence[Message], now: float) -> None:
    """Note what became of the messages that were claimed; of one that was not taken, `_not_taken` does."""
    if taken or unsent:
        with engine.begin() as connection:
            outbox.delivered(connection, taken, now)
            outbox.release(connection, unsent)
    for message in taken:
        _log.info("message delivered", alerts=len(message.parts), **_about(message))


def _not_taken(engine: Engine, receiver: Receiver, message: Message, verdict: Verdict, now: float) -> float:
    """Note that a try has failed; seconds until the next one."""
    error, attempts = verdict.error or "", message.attempts + 1
    pause = max(verdict.wait, wait_after(attempts, random.random()))  # noqa: S311 - jitter, not a secret
    # Who wants no report may want alerts all the same.
    refused = verdict.gone and message.contents[0]["status"] == "report"
    with engine.begin() as connection:
        died = outbox.failed(connection, message, now, now + pause, error, uncertain=verdict.uncertain, last=refused)
        if verdict.gone and not refused:
            gone.disable(connection, receiver, now)
    about = _about(message)
    _log.warning("message not delivered", error=error, next_try_seconds=round(pause, 1), **about)
    if verdict.gone and not refused:
        _log.error("the receiver wants no more (410) and is disabled; `tocsin outbox replay` tries it again", **about)
    if died:
        _log.error("given up; `tocsin outbox` lists them, `tocsin outbox replay` sends them again", dead=died, **about)
    return 0.0 if refused else pause


def _about(message: Message) -> dict[str, Any]:
    return {"receiver": message.receiver, "message_id": message.identity, "attempts": message.attempts + 1}


class Sender(threading.Thread):
    """The thread of one receiver."""

    def __init__(
        self,
        engine: Engine,
        receiver: Receiver,
        clock: Callable[[], float],
        public: str = "",
        after: "Sender | None" = None,
    ) -> None:
        super().__init__(name=f"delivery {receiver.name}", daemon=True)
        self.receiver = receiver
        self.damage: tuple[Pool, SQLAlchemyError] | None = None  # what is wrong with the database's file
        self._engine, self._clock, self._public, self._after = engine, clock, public, after
        self._stopping, self._wake = threading.Event(), threading.Event()
        self.straight = Straight(receiver, clock)
        self.refresh = None if receiver.alertmanager is None else Refresh(engine, receiver, clock)
        self._usable = True  # the database
        self._pace = Pace()

    def wake(self) -> None:
        """There is something new."""
        self._wake.set()

    def tell(self, content: Mapping[str, Any]) -> None:
        """Send this past the database, as that cannot be used."""
        self.straight.put(content)
        if self.refresh is not None:
            self.refresh.put(content)
        self._wake.set()

    def stored(self) -> None:
        """The database has all that was to be told."""
        self.straight.stored()
        if self.refresh is not None:
            self.refresh.stored()

    def end(self) -> None:
        """Finish what is being sent, and no more."""
        self._stopping.set()
        self._wake.set()

    def run(self) -> None:
        if self._after is not None:
            self._after.join()  # who had this name before: two at a time would break the order
            self.straight.inherit(self._after.straight)
            if self.refresh is not None and self._after.refresh is not None:
                self.refresh.inherit(self._after.refresh)
            self._after = None
        client = client_for(self.receiver, self._public)
        while not self._stopping.is_set():
            self._wake.clear()
            pause = self._next(client)
            pause = min(pause, self.straight.send(client))
            pause = min(pause, self._again(client))
            # A clock that was set back must not make it wait for hours.
            if pause:
                self._wake.wait(min(pause, IDLE))
        client.close()

    def _next(self, client: Client | Chat) -> float:
        pool = self._engine.pool
        try:
            pause = deliver_next(
                self._engine, self.receiver, client, self._clock, pace=self._pace, stopping=self._stopping.is_set
            )
        except SQLAlchemyError as error:
            if self._usable:  # once: the monitor says more of it
                _log.error("delivery cannot use the database", receiver=self.receiver.name, error=type(error).__name__)
            self._usable = False
            self.damage = (pool, error) if database.is_corrupt(error) else None
            return FIRST_WAIT
        except Exception:  # noqa: BLE001 - a thread that ended would not be missed: whatever it was, go on
            _log.exception("delivery failed", receiver=self.receiver.name)
            return FIRST_WAIT
        self._usable = True
        return pause

    def _again(self, client: Client | Chat) -> float:
        if self.refresh is None:
            return IDLE
        pool = self._engine.pool
        pause = self.refresh.send(client)
        if self.refresh.unread is not None and database.is_corrupt(self.refresh.unread):
            self.damage = (pool, self.refresh.unread)
        return pause


class Delivery:
    """The threads that deliver, one for each receiver."""

    def __init__(self, engine: Engine, receivers: Iterable[Receiver], clock: Callable[[], float], public: str = "") -> None:
        self._engine = engine
        self._clock = clock
        self._public = public  # our own address, for links
        self._senders = {receiver.name: Sender(engine, receiver, clock, public) for receiver in receivers}
        self._leaving: dict[str, Sender] = {}  # told to end, and perhaps still sending

    def start(self) -> None:
        for sender in self._senders.values():
            sender.start()

    def configure(self, receivers: Iterable[Receiver]) -> None:
        """Go on with other receivers. Who has not changed goes on undisturbed."""
        before, self._senders = self._senders, {}
        for receiver in receivers:
            known = before.pop(receiver.name, None)
            if known is not None and known.receiver == receiver:
                self._senders[receiver.name] = known
                continue
            if known is not None:
                known.end()
            after = known or self._leaving.pop(receiver.name, None)
            self._senders[receiver.name] = Sender(self._engine, receiver, self._clock, self._public, after)
            self._senders[receiver.name].start()
        for sender in before.values():
            sender.end()
        self._leaving = {name: sender for name, sender in {**self._leaving, **before}.items() if sender.is_alive()}

    def damage(self) -> SQLAlchemyError | None:
        """What a sender finds wrong with the database's file, which a tick may not come across."""
        found = [sender.damage for sender in self._senders.values() if sender.damage is not None]
        # A pool that is no longer in use was of a file that has been replaced.
        return next((error for pool, error in found if pool is self._engine.pool), None)

    def wake(self) -> None:
        """There is something new."""
        for sender in self._senders.values():
            sender.wake()

    def stored(self) -> None:
        """The database can be written again, and has all that was to be told."""
        for sender in self._senders.values():
            sender.stored()

    def tell(self, entries: Iterable[Entry]) -> None:
        """Send these past the database; one for EVERYONE to all."""
        for entry in entries:
            for sender in self._senders.values():
                if entry.receiver in (EVERYONE, sender.receiver.name):
                    sender.tell(entry.content)

    def stop(self, patience: float) -> None:
        """Finish what is being sent, waiting at most `patience` seconds; the rest stays for the next start."""
        for sender in self._senders.values():
            sender.end()
        until = time.monotonic() + patience
        for sender in self._senders.values():
            sender.join(max(0.0, until - time.monotonic()))
