"""The monitor's loop: probe -> evaluate -> commit -> deliver. The only reader of the clock."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import Engine, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from service.configuration import Configuration, Rule
from service.database import alerts
from service.monitor import outbox, receivers
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
            rows = connection.execute(select(alerts.c.fingerprint, alerts.c.state, alerts.c.since))
            self._states = {row.fingerprint: State(row.state, row.since) for row in rows}

    def tick(self, samples: Iterable[Sample], now: float) -> int:
        """Evaluate every rule on every sample it is about; commit what changed. The number of notifications put."""
        changed = list(changes(self._configuration.rules, list(samples), self._states, now))
        contents = [change.content for change in changed if change.outcome.transition]
        if changed:
            self._commit(changed, contents, now)
        # Only now: a tick that could not be committed is evaluated again, from where it stood.
        self._states |= {change.fingerprint: change.outcome.state for change in changed}
        for content in contents:
            _told(content)
        return len(contents) * len(self._configuration.receivers)

    def _commit(self, changed: list[Change], contents: list[dict[str, Any]], now: float) -> None:
        dialect = postgresql if self._engine.dialect.name == "postgresql" else sqlite
        rows = [
            {
                "fingerprint": change.fingerprint,
                "alert": change.rule.alert,
                "target": change.sample.target,
                "labels": dict(change.sample.labels),
                "state": change.outcome.state.name,
                "since": change.outcome.state.since,
            }
            for change in changed
        ]
        statement = dialect.insert(alerts)
        replaced = {"state": statement.excluded.state, "since": statement.excluded.since}
        with self._engine.begin() as connection:
            connection.execute(statement.on_conflict_do_update(index_elements=["fingerprint"], set_=replaced), rows)
            outbox.put(connection, self._configuration.receivers, contents, now)


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


def _told(content: Mapping[str, Any]) -> None:
    """The alert in our own log: the last resort of who has no receiver, and a record for the others."""
    say = _log.warning if content["status"] == "firing" else _log.info
    about = {name: content[name] for name in ("alert", "target", "severity", "condition", "value", "scope", "fingerprint")}
    fields = {"event.kind": "alert", "event.action": content["status"], "event.reason": content["reason"]}
    say(content["summary"], **fields, **about, **{f"label_{name}": text for name, text in content["labels"].items()})


def run(configuration: Configuration, engine: Engine, stopping: threading.Event, clock: Callable[[], float] = time.time) -> None:
    """Tick until `stopping` is set. Ticks are `interval` apart from start to start; one that is late is not made up."""
    monitor = Monitor(configuration, engine)
    prober = Prober(configuration.targets)
    sender = outbox.Outbox(engine, configuration.receivers, clock)
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
