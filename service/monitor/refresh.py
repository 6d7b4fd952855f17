"""Telling an Alertmanager again what fires: for it an alert that nobody speaks of any more has ended.

Nothing is written for that. What was told and is still so stands in the database, and in memory what was told past it.
"""

import random
import time
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, select
from sqlalchemy.exc import SQLAlchemyError

from service import database
from service.chat import Chat
from service.monitor import gone
from service.monitor.exchange import Client
from service.monitor.receivers import is_own
from service.monitor.sending import send, wait_after
from service.receiver import Receiver
from service.tables import alerts, notifications

EVERY = 60.0  # seconds, as Prometheus does
AT_ONCE = 200  # alerts in one post, besides what was told past the database
MOST = 1000  # of those

_log = structlog.get_logger()


class Refresh:
    """That of one receiver. `put` and `stored` are called by the monitor's thread, the rest by the receiver's own."""

    def __init__(self, engine: Engine, receiver: Receiver, clock: Callable[[], float], every: float = EVERY) -> None:
        self.unread: SQLAlchemyError | None = None  # why the database was not read
        self._engine, self._receiver, self._clock, self._every = engine, receiver, clock, every
        self._past: dict[str, Mapping[str, Any] | None] = {}  # told past the database, by occurrence; None: that it is over
        self._began, self._due = 0.0, 0.0  # this round of all that fires, its next post
        self._position = ""  # the fingerprint up to which this round has come
        self._failed = 0

    def put(self, content: Mapping[str, Any]) -> None:
        """This is told past the database."""
        self._past[content["occurrence"]] = content if content["status"] == "firing" else None

    def stored(self) -> None:
        """The database has all that rules have put here."""
        self._past = {name: content for name, content in list(self._past.items()) if content is not None and is_own(content)}

    def inherit(self, other: "Refresh") -> None:
        """Go on with what one before knows."""
        self._past = {**other._past, **self._past}  # noqa: SLF001 - its own kind

    def send(self, client: Client | Chat) -> float:
        """Tell again the next of what fires, if it is time; seconds until there is something to do.

        Read just before it is sent, by the thread that sends everything else: what was resolved does not come back.
        """
        moment = time.monotonic()
        if moment < self._due:
            return self._due - moment
        if not self._position:
            self._began = moment
        contents = self._next()
        self._due = 0.0 if self._position else self._began + self._every
        if contents:
            now = self._clock()
            verdict = send(self._receiver, client, identity="refresh", contents=contents, created=now, now=now)
            self._say(verdict.error)
            if verdict.error is not None:  # the others have their turn then: this may be about one of these
                pause = max(verdict.wait, wait_after(self._failed, random.random()))  # noqa: S311 - jitter, not a secret
                self._due = time.monotonic() + pause
        return max(0.0, self._due - time.monotonic())

    def _next(self) -> list[Mapping[str, Any]]:
        past, after = dict(self._past), self._position
        self._position, self.unread = "", None
        contents = []
        try:
            with database.checked(), database.reading(self._engine) as connection:
                if gone.wants_no_more(connection, self._receiver):
                    return []
                for name in () if after else _over(connection, self._receiver, [name for name in past if past[name]]):
                    past[name] = self._past[name] = None
                rows = _told(connection, self._receiver, after)
        except SQLAlchemyError as error:  # the monitor says so
            self.unread, rows = error, []
        if len(rows) == AT_ONCE:
            self._position = rows[-1][0]
        if not after:
            contents = list(islice((content for content in past.values() if content is not None), MOST))
        return contents + [firing for _, name, firing in rows if name not in past]

    def _say(self, error: str | None) -> None:
        """What fails is said once, and that it works again."""
        if error is not None and not self._failed:
            _log.warning("what fires cannot be told again", receiver=self._receiver.name, error=error)
        if error is None and self._failed:
            _log.info("what fires is told again", receiver=self._receiver.name)
        self._failed = 0 if error is None else self._failed + 1


def _told(connection: Connection, receiver: Receiver, after: str) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Alerts that fire and of which the receiver knows, behind a fingerprint. By way of `alerts`, as that stays small."""
    occurrence = alerts.c.content["occurrence"].as_string()
    query = (
        select(alerts.c.fingerprint, notifications.c.occurrence, notifications.c.firing)
        .join(notifications, (notifications.c.receiver == receiver.name) & (notifications.c.occurrence == occurrence))
        .where(alerts.c.state == "firing", alerts.c.fingerprint > after)
        .where(notifications.c.told == "firing", notifications.c.wanted == "firing")
        .order_by(alerts.c.fingerprint)
        .limit(AT_ONCE)
    )
    return [tuple(row) for row in connection.execute(query)]


def _over(connection: Connection, receiver: Receiver, occurrences: list[str]) -> list[str]:
    """Those of these of which the database knows that they are over."""
    of_it = (notifications.c.receiver == receiver.name, notifications.c.wanted == "resolved")
    query = select(notifications.c.occurrence).where(*of_it, notifications.c.occurrence.in_(occurrences))
    return list(connection.execute(query).scalars()) if occurrences else []
