"""Notifications on their way: put in with the state that caused them, sent in order, marked after the 2xx.

Each receiver has a thread of its own, so that one that hangs delays neither a tick nor another receiver. Within a
receiver the order is kept: a notification that fails is tried again before the next one is.
"""

import random
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from service.configuration import Receiver
from service.database import notifications
from service.monitor.exchange import Client, Unreachable
from service.monitor.receivers import message, message_id

# The longest wait is what a receiver that came back waits for its news.
FIRST_WAIT, LONGEST_WAIT = 1.0, 45.0  # seconds
IDLE = 60.0  # seconds between two looks when nobody wakes the thread
ANSWER = 4096  # bytes read of a receiver's answer; only its status matters

_log = structlog.get_logger()


def put(connection: Connection, receivers: Iterable[Receiver], contents: Iterable[Mapping[str, Any]], now: float) -> None:
    """Add a notification for each receiver, in the caller's transaction."""
    rows = [
        {
            "message_id": message_id(content),
            "receiver": receiver.name,
            "fingerprint": content["fingerprint"],
            "content": dict(content),
            "created": now,
            "due": now,
        }
        for content in contents
        for receiver in receivers
    ]
    if rows:
        connection.execute(insert(notifications), rows)


def wait_after(attempts: int, chance: float) -> float:
    """Seconds until the next try after so many failed ones: doubling up to a limit, half of it by `chance` (0 to 1).

    Without the chance everybody who lost the same receiver would return to it in the same moment.
    """
    longest = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(attempts - 1, 10))
    return longest * (0.5 + 0.5 * chance)


def deliver_next(engine: Engine, receiver: Receiver, client: Client, clock: Callable[[], float]) -> float:
    """Try the oldest undelivered notification, if it is due; seconds until there may be something to do."""
    waiting = (
        select(notifications)
        .where(notifications.c.receiver == receiver.name, notifications.c.delivered.is_(None))
        .order_by(notifications.c.id)
        .limit(1)
    )
    with engine.connect() as connection:
        row = connection.execute(waiting).one_or_none()
    now = clock()
    if row is None:
        return IDLE
    if row.due > now:
        return min(float(row.due) - now, LONGEST_WAIT)  # a clock that was set back must not make it wait for hours
    fault = _send(receiver, client, row.message_id, row.content, now)
    done = clock()
    attempts = row.attempts + 1
    about = {"receiver": receiver.name, "message_id": row.message_id, "attempts": attempts}
    if fault is None:
        changed: dict[str, Any] = {"delivered": done, "attempts": attempts, "error": None}
        pause = 0.0
    else:
        pause = wait_after(attempts, random.random())  # noqa: S311 - jitter, not a secret
        changed = {"due": done + pause, "attempts": attempts, "error": fault}
    with engine.begin() as connection:
        connection.execute(update(notifications).where(notifications.c.id == row.id).values(changed))
    if fault is None:
        _log.info("notification delivered", **about)
    else:
        _log.warning("notification not delivered", error=fault, next_try_seconds=round(pause, 1), **about)
    return pause


def _send(receiver: Receiver, client: Client, identity: str, content: Mapping[str, Any], now: float) -> str | None:
    """Why it was not delivered; None when it was."""
    body, headers = message(receiver, identity, content, now)
    address = receiver.webhook.get_secret_value()
    try:
        answer = client.ask("POST", address, timeout=receiver.timeout, limit=ANSWER, body=body, headers=headers)
    except Unreachable as error:
        return str(error)
    return None if 200 <= answer.status < 300 else f"it answered {answer.status}"


class Outbox:
    """The threads that deliver."""

    def __init__(self, engine: Engine, receivers: Iterable[Receiver], clock: Callable[[], float]) -> None:
        self._engine = engine
        self._clock = clock
        self._stopping = threading.Event()
        self._wakes = {receiver.name: threading.Event() for receiver in receivers}
        self._threads = [
            threading.Thread(target=self._run, args=(receiver,), name=f"outbox {receiver.name}", daemon=True)
            for receiver in receivers
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """There is something new."""
        for wake in self._wakes.values():
            wake.set()

    def stop(self, patience: float) -> None:
        """Finish what is being sent, waiting at most `patience` seconds; the rest stays for the next start."""
        self._stopping.set()
        self.wake()
        for thread in self._threads:
            thread.join(patience / len(self._threads))

    def _run(self, receiver: Receiver) -> None:
        wake, client = self._wakes[receiver.name], Client()
        while not self._stopping.is_set():
            wake.clear()
            try:
                pause = deliver_next(self._engine, receiver, client, self._clock)
            except SQLAlchemyError as error:
                _log.error("outbox cannot use the database", receiver=receiver.name, error=type(error).__name__)
                pause = FIRST_WAIT
            if pause:
                wake.wait(pause)
        client.close()
