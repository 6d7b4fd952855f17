"""What each scrape of /metrics reads: the last reading, and what the monitor has left in the database.

The monitor has no port of its own. So its figures are there while it is not, and TICKED says that it is not.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import product
from typing import get_args

import structlog
from prometheus_client.metrics_core import Metric
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import ServiceUnavailable

from service import database, totals
from service.configuration import Configuration, Rule
from service.measure import METRICS, Reading, Sampler
from service.restarts import Outcome
from service.settings import Settings
from service.totals import Totals
from service.web import families, openapi
from service.web.api import ODD
from service.web.configured import Configured
from service.web.families import MOST

PATIENCE = 0.25  # seconds that a locked database may keep a scrape, and this worker with it
STATES = ("pending", "firing")
SEVERITIES = get_args(Rule.model_fields["severity"].annotation)
OUTCOMES = ("delivered", "failed", "dead")
ENDS = tuple(outcome for outcome in get_args(Outcome) if outcome != "interrupted")  # of which nobody has told the end

_log = structlog.get_logger()


class Figures:
    """A collector, as prometheus_client has it."""

    def __init__(self, settings: Settings, sampler: Sampler) -> None:
        self._settings, self._sampler = settings, sampler
        self._configured = Configured(settings)
        self._usable = True  # the database, when it was last read

    def collect(self) -> Iterator[Metric]:
        yield families.BUILD.of(((openapi.VERSION,), 1))
        for metric, threshold in self._settings.thresholds.items():
            yield families.THRESHOLDS[metric].is_(threshold / 100)
        if self._sampler.fault != "stale":
            yield from _readings(self._sampler.reading)
        found = self._stored()
        yield families.DATABASE.is_(found is not None)
        if found is not None:
            yield from _told(found, self._configuration(), time.time())

    @cached_property
    def _engine(self) -> Engine:
        return database.open_on(self._settings.database, patience=PATIENCE, pooled=False)

    def _stored(self) -> Totals | None:
        """None where it cannot be read. Tables are left to others to make: a scrape only looks."""
        try:
            with database.checked(), database.reading(self._engine) as connection:
                found = totals.totals(connection)
        except (SQLAlchemyError, ImportError, *ODD) as error:
            if self._usable:  # once, and not at every scrape
                _log.error("/metrics cannot read the database", reason=type(error).__name__)
            self._usable = False
            return None
        self._usable = True
        return found

    def _configuration(self) -> Configuration:
        """None of it where it has a fault: what the database holds is told all the same."""
        try:
            return self._configured.configuration()
        except ServiceUnavailable:
            return Configuration(interval=self._settings.interval, targets=(), rules=(), receivers=())


def _readings(reading: Reading) -> Iterator[Metric]:
    yield families.READ.is_(reading.at)
    found: dict[str, dict[tuple[str, ...], float]] = {metric: {} for metric in families.READINGS}
    for each in reading.values.values():
        metric = each.metric.removeprefix("host_")  # the machine's, where the other is the container's
        labels = {"scope": each.scope, "mount": each.mount or ""}
        share = round(each.value / 100, 5) if METRICS[each.metric] == "percent" else each.value
        found[metric][tuple(labels[name] for name in families.READINGS[metric].labels)] = share
    for metric, values in found.items():
        yield families.READINGS[metric].of(*list(values.items())[:MOST])


def _told(found: Totals, configuration: Configuration, now: float) -> Iterator[Metric]:
    own = found.figures
    yield families.STARTED.is_(own.started)
    yield families.INTERVAL.is_(own.interval)
    yield families.TICKS.is_(own.ticks)
    yield families.LATE.is_(own.late)
    yield families.TICKED.is_(own.ticked)
    yield families.TOOK.is_(own.seconds)
    targets = list(found.targets.items())[:MOST]
    yield families.UP.of(*(((name,), target.up) for name, target in targets))
    answered = ((name, target.values.get("latency_ms")) for name, target in targets)
    yield families.LATENCY.of(*(((name,), None if latency is None else latency / 1000) for name, latency in answered))
    yield from _alerts(found, {rule.alert: rule.severity for rule in configuration.rules})
    receivers = _names((each.name for each in configuration.receivers), found.waiting, found.dead, own.deliveries)
    stand = {"waiting": found.waiting, "dead": found.dead}
    yield families.NOTIFICATIONS.of(*(((name, state), stand[state].get(name, 0)) for name, state in product(receivers, stand)))
    yield families.OLDEST.is_(0 if own.oldest is None else max(0.0, now - own.oldest))
    tries = product(receivers, OUTCOMES)
    yield families.DELIVERIES.of(*((each, own.deliveries.get(each[0], {}).get(each[1], 0)) for each in tries))
    services = _names((each.name for each in configuration.services), (service for service, _ in found.restarts))
    yield families.RESTARTS.of(*((each, found.restarts.get(each, 0)) for each in product(services, ENDS)))


def _alerts(found: Totals, severities: Mapping[str, str]) -> Iterator[Metric]:
    """What is pending has the severity of its rule."""
    numbers = Counter(dict.fromkeys(product(STATES, SEVERITIES), 0))
    for each in found.alerts:
        numbers[each.state, each.severity or severities.get(each.alert, "warning")] += each.count
    yield families.ALERTS.of(*numbers.items())
    fire = [each for each in found.alerts if each.state == "firing"]
    yield families.SILENCED.is_(sum(each.count for each in fire if each.silenced))
    yield families.HELD.is_(sum(each.count for each in fire if each.held))
    yield families.ACKNOWLEDGED.is_(sum(each.count for each in fire if each.acknowledged))


def _names(*groups: Iterable[str]) -> list[str]:
    """Those that are configured first, then what the database remembers; each once, and not without end."""
    return list(dict.fromkeys(name for group in groups for name in group))[:MOST]
