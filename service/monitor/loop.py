"""The monitor's loop: probe -> evaluate -> commit -> deliver. The only reader of the clock."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import Engine, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from service.configuration import Configuration, Rule
from service.database import alerts
from service.monitor import delivery, outbox, receivers
from service.monitor.probe import Prober, Sample
from service.monitor.rules import Outcome, State, evaluate, fingerprint

LAST_WORDS = 12.0  # seconds a stop waits for what is being sent; supervisord waits 15

_log = structlog.get_logger()


@dataclass(frozen=True)
class Change:
    """One alert whose state changed in this tick."""

    rule: Rule
    sample: Sample
    fingerprint: str
    previous: State
    outcome: Outcome

    @property
    def content(self) -> dict[str, Any]:
        return receivers.content(self.rule, self.sample, self.fingerprint, self.previous, self.outcome)


class Monitor:
    """The states of all alerts, kept in memory and in the database alike."""

    def __init__(self, configuration: Configuration, engine: Engine) -> None:
        self._configuration = configuration
        self._engine = engine
        with engine.connect() as connection:
            rows = connection.execute(select(alerts)).all()
        self._states = {row.fingerprint: State(row.state, row.since) for row in rows}
        # Firing, but nothing in the configuration asks for it any more: nobody else would ever close it.
        self._orphans = [row for row in rows if row.state == "firing" and not watched(configuration, row.alert, row.target)]

    def tick(self, samples: Iterable[Sample], now: float) -> int:
        """Evaluate every rule on every sample it is about; commit what changed. The number of transitions."""
        changed = list(changes(self._configuration.rules, list(samples), self._states, now))
        told = [change.content for change in changed if change.outcome.transition]
        told += [receivers.removed(orphan.content, now) for orphan in self._orphans]
        if changed or told:
            self._commit(changed, told, now)
        # Only now: a tick that could not be committed is evaluated again, from where it stood.
        self._states |= {change.fingerprint: change.outcome.state for change in changed}
        self._states |= {orphan.fingerprint: State("inactive", now) for orphan in self._orphans}
        self._orphans = []
        for content in told:
            _log_transition(content)
        return len(told)

    def _commit(self, changed: list[Change], told: list[dict[str, Any]], now: float) -> None:
        dialect = postgresql if self._engine.dialect.name == "postgresql" else sqlite
        rows = [
            {
                "fingerprint": change.fingerprint,
                "alert": change.rule.alert,
                "target": change.sample.target,
                "labels": dict(change.sample.labels),
                "state": change.outcome.state.name,
                "since": change.outcome.state.since,
                "content": change.content if change.outcome.transition == "firing" else None,
            }
            for change in changed
        ]
        statement = dialect.insert(alerts)
        replaced = {name: statement.excluded[name] for name in ("state", "since", "content")}
        with self._engine.begin() as connection:
            if rows:
                connection.execute(statement.on_conflict_do_update(index_elements=["fingerprint"], set_=replaced), rows)
            for orphan in self._orphans:
                gone = update(alerts).where(alerts.c.fingerprint == orphan.fingerprint)
                connection.execute(gone.values(state="inactive", since=now, content=None))
            firing = [content for content in told if content["status"] == "firing"]
            outbox.announce(connection, self._configuration.receivers, firing, now)
            outbox.close(connection, [content for content in told if content["status"] == "resolved"], now)


def watched(configuration: Configuration, alert: str, target: str) -> bool:
    """Whether a rule of that name is about that target."""
    known = any(each.name == target for each in configuration.targets)
    return known and any(rule.alert == alert and (not rule.targets or target in rule.targets) for rule in configuration.rules)


def changes(rules: Iterable[Rule], samples: list[Sample], states: Mapping[str, State], now: float) -> Iterator[Change]:
    """The alerts whose state is another one than before."""
    for rule in rules:
        for sample in samples:
            if sample.metric != rule.when.metric or (rule.targets and sample.target not in rule.targets):
                continue
            identity = fingerprint(rule.alert, sample.target, sample.labels)
            previous = states.get(identity, State())
            outcome = evaluate(rule, sample.value, previous, now)
            if outcome.state != previous:
                yield Change(rule, sample, identity, previous, outcome)


def _log_transition(content: Mapping[str, Any]) -> None:
    """The alert in our own log: the last resort of who has no receiver, and a record for the others."""
    say = _log.warning if content["status"] == "firing" else _log.info
    about = {name: content[name] for name in ("alert", "target", "severity", "condition", "value", "scope", "fingerprint")}
    fields = {"event.kind": "alert", "event.action": content["status"], "event.reason": content["reason"]}
    say(content["summary"], **fields, **about, **{f"label_{name}": text for name, text in content["labels"].items()})


def run(configuration: Configuration, engine: Engine, stopping: threading.Event, clock: Callable[[], float] = time.time) -> None:
    """Tick until `stopping` is set. Ticks are `interval` apart from start to start; one that is late is not made up."""
    monitor = Monitor(configuration, engine)
    prober = Prober(configuration.targets)
    sender = delivery.Delivery(engine, configuration.receivers, clock)
    sender.start()
    _log.info(
        "monitor started",
        targets=len(configuration.targets),
        rules=len(configuration.rules),
        receivers=len(configuration.receivers),
        interval_seconds=configuration.interval,
    )
    if not configuration.receivers:
        _log.warning("no receiver is configured: alerts go to this log only; set TOCSIN_WEBHOOK_URL")
    due = time.monotonic()
    while not stopping.wait(max(0.0, due - time.monotonic())):
        due = max(due + configuration.interval, time.monotonic())
        samples = prober.probe()
        now = clock()
        try:
            if monitor.tick(samples, now):
                sender.wake()
        except SQLAlchemyError as error:
            _log.error("the database cannot be written; this tick is evaluated again", error=type(error).__name__)
    sender.stop(LAST_WORDS)
    prober.close()
    _log.info("monitor stopped")
