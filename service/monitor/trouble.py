"""A database that cannot be written: said on the log and, past the outbox, to every receiver, once and until it ends."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from service.monitor import receivers
from service.monitor.delivery import EVERYONE
from service.monitor.outbox import Entry
from service.monitor.unsaved import Unsaved

PATIENCE = 2  # failed ticks in a row before people are told; a moment's lock is none of their business

_log = structlog.get_logger()


class Trouble:
    """How it stands with the database. Told the time; what it returns is to be sent without the outbox."""

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self._failed = 0
        self._told: Mapping[str, Any] | None = None
        self._since = 0.0

    def failed(
        self, error: SQLAlchemyError, unsaved: Unsaved, news: Iterable[Entry], now: float, kept: Path | None = None
    ) -> list[Entry]:
        """A tick could not be committed. `kept` is where a damaged file has been put."""
        self._failed += 1
        reason = _reason(error) + (f"; it was moved to {kept.name}, and a new one is begun" if kept else "")
        if self._failed == 1 or kept:
            _log.error("the database cannot be written; alerts are evaluated in memory", error=reason)
        if self._told is not None:
            return list(news)
        if self._failed < PATIENCE and not kept:
            return []
        summary = f"The monitor cannot use its database ({reason}). It goes on watching, and tells from memory until it can."
        if kept:
            summary = (
                f"The monitor's database was damaged. It was moved to {kept.name}, and a new one is begun: what had not been "
                "sent yet, silences and acknowledgements are gone with it. What fires is told again."
            )
        self._since = now
        self._told = receivers.own("DatabaseFailure", summary, reason, now, instance=self._instance)
        _log.critical("receivers are told past the outbox that the database cannot be used", error=reason)
        return [Entry(EVERYONE, self._told), *unsaved.entries]

    def move(self, seconds: float) -> None:
        """The clock was set by so many seconds."""
        self._since += seconds

    def ended(self, now: float) -> list[Entry]:
        """A tick was committed."""
        if self._failed:
            _log.info("the database can be written again", failed_ticks=self._failed)
        self._failed, told, self._told = 0, self._told, None
        return [] if told is None else [Entry(EVERYONE, receivers.own_resolved(told, now, now - self._since))]


def _reason(error: SQLAlchemyError) -> str:
    """The driver's own words; SQLAlchemy's would repeat the statement and its values."""
    return str(getattr(error, "orig", None) or error)
