"""All alerts in memory: what a tick makes of its samples. No clock, no database, no network.

What a tick changes is `unsaved` until `store` has committed it. If it cannot, the next tick goes on from here.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from service.conditions import ABSENT, PROBED
from service.configuration import Configuration, Rule
from service.monitor import receivers
from service.monitor.outbox import Entry
from service.monitor.probe import Sample
from service.monitor.routing import Alert, Circumstances, Notice, decide
from service.monitor.rules import Outcome, State, evaluate, fingerprint
from service.silences import Silence

_log = structlog.get_logger()


@dataclass
class Unsaved:
    """What the database does not have yet."""

    changed: set[str] = field(default_factory=set)  # fingerprints
    turned: set[str] = field(default_factory=set)  # those that began or ended to fire: an acknowledgement ends with it
    announced: list[Entry] = field(default_factory=list)
    reminded: list[Entry] = field(default_factory=list)
    closed: list[Entry] = field(default_factory=list)

    @property
    def entries(self) -> list[Entry]:
        return [*self.announced, *self.reminded, *self.closed]


class Watch:
    """The alerts, and who has been told of them."""

    def __init__(self, configuration: Configuration, alerts: Iterable[Alert] = ()) -> None:
        self.alerts = {alert.fingerprint: alert for alert in alerts}
        self.unsaved = Unsaved()
        self.silences: Sequence[Silence] = ()
        self.acknowledged: frozenset[str] = frozenset()
        self.configure(configuration)

    def restore(self, alerts: Iterable[Alert]) -> None:
        """Begin with what was stored. What has begun to fire since, evaluated on nothing, stays if it is news."""
        stored = {alert.fingerprint: alert for alert in alerts}
        fires = {identity for identity, alert in stored.items() if alert.state.name == "firing"}
        begun = self.unsaved
        begun.turned -= fires
        begun.changed = set(begun.turned)
        self.alerts = stored | {identity: self.alerts[identity] for identity in begun.turned}
        for entries in (begun.announced, begun.reminded, begun.closed):
            entries[:] = [entry for entry in entries if entry.content["fingerprint"] in begun.turned]

    def configure(self, configuration: Configuration) -> None:
        """Go on with another configuration. What it does not watch any more is closed by the next tick."""
        self._configuration = configuration

    def saved(self) -> None:
        self.unsaved = Unsaved()

    def recall(self) -> None:
        """The database has lost everything: store all alerts again, and announce again what fires.

        What was waiting in it to be sent is lost otherwise, and twice is better than not at all.
        """
        self.unsaved.changed |= set(self.alerts)
        known = {(entry.receiver, entry.content["occurrence"]) for entry in self.unsaved.announced}
        for alert in self.alerts.values():
            for name in alert.announced if alert.content else ():
                if alert.content and (name, alert.content["occurrence"]) not in known:
                    self.unsaved.announced.append(Entry(name, alert.content))

    def tick(self, samples: Iterable[Sample], now: float) -> list[Entry]:
        """Evaluate every rule on every sample it is about; what is to be told, and to whom."""
        before = len(self.unsaved.announced), len(self.unsaved.reminded), len(self.unsaved.closed)
        samples = list(samples)
        down = frozenset(sample.target for sample in samples if sample.metric == "up" and sample.value == 0)
        found = Circumstances(self.silences, down)
        seen = {}
        for rule, sample in about(self._configuration.rules, samples):
            identity = fingerprint(rule.alert, sample.target, sample.labels)
            seen[identity] = rule, sample
            self._evaluate(identity, rule, sample, now)
        for alert in [each for each in self.alerts.values() if each.state.name != "inactive"]:
            if not watched(self._configuration, alert):
                self._remove(alert, now)
            elif alert.state.name == "firing":
                alert = replace(alert, acknowledged=alert.fingerprint in self.acknowledged)  # noqa: PLW2901 - as of now
                decided, notices = decide(alert, self._configuration, found, now)
                if (held := (decided.silenced, decided.held)) != (alert.silenced, alert.held) and any(held):
                    about_it = {"alert": alert.name, "target": alert.target, "fingerprint": alert.fingerprint}
                    _log.info("the alert is held", silenced=", ".join(held[0]), held=held[1], **about_it)
                self._keep(decided)
                self._tell(decided, notices, seen.get(alert.fingerprint), now)
        after = self.unsaved
        return [*after.announced[before[0] :], *after.reminded[before[1] :], *after.closed[before[2] :]]

    def _evaluate(self, identity: str, rule: Rule, sample: Sample, now: float) -> None:
        alert = self.alerts.get(identity) or Alert(identity, rule.alert, sample.target, sample.labels)
        outcome = evaluate(rule, sample.value, alert.state, now)
        if outcome.transition is None:
            if outcome.state != alert.state:
                self._keep(replace(alert, state=outcome.state))
            return
        content = self._content(rule, sample, alert, outcome)
        if outcome.transition == "firing":
            alert = Alert(identity, rule.alert, sample.target, sample.labels, outcome.state, content)
            self.acknowledged -= {identity}
            self._turn(alert, content)
        else:
            self._close(alert, content, outcome.state)

    def _remove(self, alert: Alert, now: float) -> None:
        if alert.content is None:
            self._keep(replace(alert, state=State("inactive", now)))
        else:
            self._close(alert, receivers.removed(alert.content, now), State("inactive", now))

    def _close(self, alert: Alert, content: Mapping[str, Any], state: State) -> None:
        self.unsaved.closed += [Entry(name, content) for name in alert.announced]
        self._turn(Alert(alert.fingerprint, alert.name, alert.target, alert.labels, state), content)

    def _turn(self, alert: Alert, content: Mapping[str, Any]) -> None:
        self.unsaved.turned.add(alert.fingerprint)
        self._keep(alert)
        _log_transition(content)

    def _keep(self, alert: Alert) -> None:
        if self.alerts.get(alert.fingerprint) != alert:
            self.alerts[alert.fingerprint] = alert
            self.unsaved.changed.add(alert.fingerprint)

    def _tell(self, alert: Alert, notices: list[Notice], seen: tuple[Rule, Sample] | None, now: float) -> None:
        content = alert.content
        if not notices or content is None:
            return
        calm = replace(alert, state=replace(alert.state, flapping=False))  # that it flaps is said once
        current = self._content(*seen, calm, Outcome(calm.state, "firing", "")) if seen else content
        for notice in notices:
            if notice.reminder:
                said = receivers.reminder(current, content, now)
                self.unsaved.reminded.append(Entry(notice.receiver, said, notice.grouping))
            else:
                said = receivers.escalated(content, now) if notice.escalated else dict(content)
                self.unsaved.announced.append(Entry(notice.receiver, said, notice.grouping))

    def _content(self, rule: Rule, sample: Sample, alert: Alert, outcome: Outcome) -> dict[str, Any]:
        instance = self._configuration.instance
        return receivers.content(rule, sample, alert.state, outcome, fingerprint=alert.fingerprint, instance=instance)


def about(rules: Iterable[Rule], samples: Iterable[Sample]) -> Iterator[tuple[Rule, Sample]]:
    """Each rule with each sample it is about; for absent() with one of no value where there is none."""
    found: dict[str, dict[str, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for sample in samples:
        found[sample.metric][sample.target].append(sample)
    for rule in rules:
        by_target = found.get(rule.when.metric, {})
        for target in rule.targets or by_target:
            here = by_target.get(target, [])
            if rule.when.operator == ABSENT:
                yield rule, Sample(target, rule.when.metric, here[0].value if here else None)
            else:
                yield from ((rule, sample) for sample in here)


def watched(configuration: Configuration, alert: Alert) -> bool:
    """Whether a rule of that name is about that target, and what fires about the same metric."""
    metric = alert.content["metric"] if alert.content else None
    targets = (target for target in configuration.targets if target.name == alert.target)
    known = any(target.readings or metric is None or metric in PROBED for target in targets)
    rules = (rule for rule in configuration.rules if rule.alert == alert.name)
    rules = (rule for rule in rules if metric in (None, rule.when.metric))
    return known and any(not rule.targets or alert.target in rule.targets for rule in rules)


def _log_transition(content: Mapping[str, Any]) -> None:
    """The alert in our own log: the last resort of who has no receiver, and a record for the others."""
    say = _log.warning if content["status"] == "firing" else _log.info
    about_it = {name: content[name] for name in ("alert", "target", "severity", "condition", "value", "scope", "fingerprint")}
    fields = {"event.kind": "alert", "event.action": content["status"], "event.reason": content["reason"]}
    say(content["summary"], **fields, **about_it, **{f"label_{name}": text for name, text in content["labels"].items()})
