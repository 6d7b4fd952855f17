"""Sending what the outbox holds: one thread for each receiver, retries with growing waits, marks after the 2xx.

A receiver that hangs delays neither a tick nor another receiver. Within a receiver the order is kept: a message that
fails is tried again before the next one is.
"""

import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import structlog
from sqlalchemy import Engine, Pool
from sqlalchemy.exc import SQLAlchemyError

from service import database
from service.chat import Chat
from service.monitor import gone, outbox
from service.monitor.exchange import Client
from service.monitor.outbox import Entry
from service.monitor.refresh import Refresh
from service.monitor.sending import FIRST_WAIT, LONGEST_ORDERED, client_for, send, wait_after
from service.monitor.straight import Straight
from service.receiver import Receiver

EVERYONE = ""  # the receiver of an entry that is for all of them
IDLE = 60.0  # seconds between two looks when nobody wakes the thread

_log = structlog.get_logger()


def deliver_next(engine: Engine, receiver: Receiver, client: Client | Chat, clock: Callable[[], float]) -> float:
    """Send the next message if it is due; seconds until there may be something to do."""
    now = clock()
    with database.checked(), engine.begin() as connection:
        claimed = outbox.claim(connection, receiver, now)
    if claimed is None:
        return IDLE
    if claimed.due > now:
        return min(claimed.due - now, LONGEST_ORDERED)
    verdict = send(
        receiver,
        client,
        identity=claimed.identity,
        contents=claimed.contents,
        created=claimed.created,
        now=now,
        grouping=claimed.grouping,
    )
    done = clock()
    about = {"receiver": receiver.name, "message_id": claimed.identity, "attempts": claimed.attempts + 1}
    if verdict.error is None:
        with engine.begin() as connection:
            outbox.delivered(connection, claimed, done)
        _log.info("message delivered", alerts=len(claimed.parts), **about)
        return 0.0
    pause = max(verdict.wait, wait_after(claimed.attempts + 1, random.random()))  # noqa: S311 - jitter, not a secret
    with engine.begin() as connection:
        # Who wants no report may want alerts all the same.
        refused = verdict.gone and claimed.contents[0]["status"] == "report"
        died = outbox.failed(connection, claimed, done, done + pause, verdict.error, uncertain=verdict.uncertain, last=refused)
        if verdict.gone and not refused:
            gone.disable(connection, receiver, done)
    _log.warning("message not delivered", error=verdict.error, next_try_seconds=round(pause, 1), **about)
    if verdict.gone and not refused:
        _log.error("the receiver wants no more (410) and is disabled; `tocsin outbox replay` tries it again", **about)
    if died:
        _log.error("given up; `tocsin outbox` lists them, `tocsin outbox replay` sends them again", dead=died, **about)
    return 0.0 if refused else pause


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
            pause = deliver_next(self._engine, self.receiver, client, self._clock)
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
