"""Looks at all that the page shows: this server's readings in memory, the database, and the supervisors of services.

A database that cannot be used, or a supervisor that does not answer, costs what it would have told and no more.
"""

import math
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import ServiceUnavailable

from service import alerts, database, holds, notifications, readings, targets
from service.measure import METRICS, Sampler
from service.plot import Point, plot
from service.readings import MINUTE
from service.services import Service
from service.settings import Settings
from service.supervision import Status
from service.targets import Standing
from service.values import number
from service.web.api import ODD, Database
from service.web.configured import Configured
from service.web.overview import OWN, Gauge, Line, Overview, Served, Stored, Watched
from service.web.services import looked_at

PERIOD = 900  # seconds that a line goes back
MOST_ALERTS, MOST_TOLD, MOST_LINES = 100, 8, 50
NAMES = {"cpu_usage": "CPU", "mem_usage": "Memory", "disk_usage": "Disk"}
_PATIENCE = 0.2  # seconds for the database: while it waits, its worker does nothing else
_AGAIN = 10.0  # seconds until a database that could not be used is tried again
_LINES, _SERVICES = 15.0, 4.0  # seconds for which lines and the states of services are kept
_OLD = 20.0  # seconds after which the states of services are not shown any more; a supervisor is given ten to answer
_FIRST = 1.0  # seconds to wait for them then

_log = structlog.get_logger()


class Observer:
    """Looks at everything. Lines and services are looked at less often than once a second."""

    def __init__(self, settings: Settings, sampler: Sampler, configured: Configured) -> None:
        self._settings, self._sampler, self._configured = settings, sampler, configured
        self._opened = Database(settings.database, patience=_PATIENCE)
        self._retry = -math.inf  # when to try the database again, on the monotonic clock
        self._drawn = 0.0  # when lines were last read
        self._lines: dict[tuple[str, str], list[Point]] = {}
        self._services = Services(settings.data, settings.runtime)

    def look(self, fault: str | None = None) -> Overview:
        """All of it, now. `fault`: why this server wants no requests."""
        now, unread = time.time(), ""
        names: Sequence[str] = ()
        served: Sequence[Served] | None = ()
        try:
            names = [target.name for target in self._configured.configuration().targets]
            served = self._services.states(self._configured)
        except ServiceUnavailable as error:
            unread = str(error.description)
        stored = self._read(names, now)
        standings = stored.standings if stored else {}
        ticked = (stored.figures.ticked if stored else None) or now
        return Overview(
            at=now,
            instance=self._settings.instance,
            fault=fault,
            gauges=[self._gauge(metric, now) for metric in NAMES],
            stored=stored,
            watched=[Watched(name, standings.get(name), self._latency(name, standings.get(name), ticked, now)) for name in names],
            served=served,
            unread=unread,
        )

    def _read(self, names: Sequence[str], now: float) -> Stored | None:
        if time.monotonic() < self._retry:
            return None
        try:
            with database.reading(self._opened.engine) as connection:
                return self._stored(connection, names, now)
        except (SQLAlchemyError, *ODD) as error:
            self.give_up(error)
            return None

    def give_up(self, error: Exception) -> None:
        """Do without the database for a while."""
        self._opened.unusable(error)
        self._retry, self._lines, self._drawn = time.monotonic() + _AGAIN, {}, 0.0

    def _stored(self, connection: Connection, names: Sequence[str], now: float) -> Stored:
        if not 0 <= now - self._drawn < _LINES:
            wanted = dict.fromkeys(names[:MOST_LINES], ("latency_ms",)) | {OWN: (*NAMES, "latency_ms")}
            self._lines = {
                (name, metric): [(at + MINUTE / 2, mean) for at, mean in means]
                for name, metrics in wanted.items()
                for metric, means in readings.recent(connection, name, metrics, now - PERIOD - MINUTE).items()
            }
            self._drawn = now
        worst, _ = alerts.page(connection, state="firing", severity="critical", limit=MOST_ALERTS)
        every, _ = alerts.page(connection, limit=MOST_ALERTS)
        first = {alert.fingerprint for alert in worst}
        found = [*worst, *(alert for alert in every if alert.fingerprint not in first)][:MOST_ALERTS]
        told, _ = notifications.page(connection, limit=MOST_TOLD)
        standings = targets.standings(connection)
        return Stored(found, alerts.critical(connection), alerts.figures(connection), told, standings)

    def _gauge(self, metric: str, now: float) -> Gauge:
        reading = self._sampler.reading
        found, threshold = reading.values.get(metric), self._settings.thresholds[metric]
        points = self._lines.get((OWN, metric), [])
        latest = None if found is None else (reading.at, found.value)
        line = _line(NAMES[metric], METRICS[metric], points, latest, now=now, threshold=threshold)
        lasting = bool(points) and points[-1][1] > threshold
        return Gauge(metric, NAMES[metric], found, threshold, lasting, line, reading.missing.get(metric, "no reading yet"))

    def _latency(self, name: str, standing: Standing | None, ticked: float, now: float) -> Line | None:
        points = self._lines.get((name, "latency_ms"), [])
        latest = standing.values.get("latency_ms") if standing else None
        if not points and latest is None:
            return None
        return _line(f"Latency of {name}", "milliseconds", points, None if latest is None else (ticked, latest), now=now)


class Services:
    """How services are, asked in the background: a supervisor that takes its time keeps nobody waiting for long."""

    def __init__(self, folder: Path, runtime: Path) -> None:
        self._folder, self._runtime = folder, runtime
        self._asking = threading.Lock()
        self._asked = self._found_at = -math.inf  # when, on the monotonic clock
        self._answered = threading.Event()
        self._found: Sequence[Served] = ()

    def states(self, configured: Configured) -> Sequence[Served] | None:
        """As they were a few seconds ago; None where that is not known, as supervisors do not answer soon."""
        services = list(configured.every().values())
        if time.monotonic() - self._asked >= _SERVICES and self._asking.acquire(blocking=False):
            self._asked = time.monotonic()
            self._answered.clear()
            threading.Thread(target=self._ask, args=(services,), name="services", daemon=True).start()
            if self._is_old():  # once for each question, not for each page
                self._answered.wait(_FIRST)
        return None if self._is_old() else self._found

    def _is_old(self) -> bool:
        return time.monotonic() - self._found_at > _OLD

    def _ask(self, services: Sequence[Service]) -> None:
        try:
            found = looked_at(services, self._runtime)
            self._found = [
                Served(
                    name=service.name,
                    supervisor=service.supervisor[0],
                    status=status if isinstance(status, Status) else None,
                    fault="" if isinstance(status, Status) else str(status),
                    restarting=holds.under_way(service.name, self._folder),
                )
                for service, status in zip(services, found, strict=True)
            ]
            self._found_at = time.monotonic()
        except Exception:  # noqa: BLE001 - it is asked again
            _log.exception("services cannot be looked at")
        finally:
            self._asking.release()
            self._answered.set()


def _line(
    name: str, unit: str, points: Sequence[Point], latest: Point | None, *, now: float, threshold: float | None = None
) -> Line:
    """The minutes that are known, and what was measured last as the last point.

    It ends at a multiple of some seconds: were it to end now, it would be another line each second.
    """
    known = [point for point in points if latest is None or point[0] < latest[0]]
    every = [*known, *([latest] if latest else [])]
    end = (max(now, every[-1][0] if every else now) // _LINES + 1) * _LINES
    drawn = plot(every, end - PERIOD, end, gap=2.5 * MINUTE, threshold=threshold)
    inside = [value for at, value in every if at >= end - PERIOD]
    words = f"{name} in the last {PERIOD // 60} minutes: "
    if not inside:
        return Line(drawn, f"{words}nothing is known")
    words += f"from {number(round(min(inside), 1))} to {number(round(max(inside), 1))} {unit}"
    words += f", now {number(latest[1])}" if latest else ""
    return Line(drawn, words + ("" if threshold is None else f"; the threshold is {number(threshold)}"))
