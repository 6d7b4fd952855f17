"""All alerts in memory: what a tick makes of its samples. No clock, no database, no network.

What a tick changes is `unsaved` until `store` has committed it. If it cannot, the next tick goes on from here.
"""

import secrets
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import structlog

from service.configuration import Configuration, Rule
from service.monitor import healing, receivers
from service.monitor.healing import Healing, Repairs
from service.monitor.history import occurrence_of
from service.monitor.matching import about, watched
from service.monitor.outbox import Entry
from service.monitor.probe import Sample
from service.monitor.restarter import Order
from service.monitor.routing import Alert, Circumstances, Notice, hold, moved, tell
from service.monitor.rules import Outcome, State, evaluate, fingerprint
from service.monitor.unsaved import Unsaved
from service.occurrences import Progress
from service.silences import Silence

NOTHING_SEEN = Repairs()
RUNS_AGAIN = 10.0  # seconds that a program which was given up must run for its alert to end

_log = structlog.get_logger()


class _Work:
    """What alerts have done to each service: when it was restarted, and for which one it is being so."""

    def __init__(self, alerts: Iterable[Alert]) -> None:
        self.spent: dict[str, list[float]] = defaultdict(list)
        self.under_way: dict[str, str] = {}
        for alert in alerts:
            if alert.healing.attempts:
                self.spent[alert.healing.service] += alert.healing.attempts
            if alert.healing.restart:
                self.under_way[alert.healing.service] = alert.fingerprint


class Watch:
    """The alerts, and who has been told of them."""

    def __init__(self, configuration: Configuration, alerts: Iterable[Alert] = ()) -> None:
        self.alerts = {alert.fingerprint: alert for alert in alerts}
        self.unsaved = Unsaved()
        self.silences: Sequence[Silence] = ()
        self.acknowledged: frozenset[str] = frozenset()
        self._orders: list[Order] = []
        self.adopted = False  # something that waits in the outbox and that no tick has put there
        self.configure(configuration)

    def restore(self, alerts: Iterable[Alert]) -> None:
        """Begin with what was stored. What has begun to fire since, evaluated on nothing, stays if it is news."""
        stored = {alert.fingerprint: alert for alert in alerts}
        fires = {identity for identity, alert in stored.items() if alert.state.name == "firing"}
        begun = self.unsaved
        begun.turned -= fires
        begun.changed = set(begun.turned)
        self.alerts = stored | {identity: _counted(self.alerts[identity], stored.get(identity)) for identity in begun.turned}
        for entries in (begun.announced, begun.stepped, begun.reminded, begun.closed):
            entries[:] = [entry for entry in entries if entry.content["fingerprint"] in begun.turned]
        begun.begun[:] = [each for each in begun.begun if each.fingerprint in begun.turned]

    def configure(self, configuration: Configuration) -> None:
        """Go on with another configuration. What it does not watch any more is closed by the next tick."""
        self._configuration = configuration

    def saved(self) -> None:
        self.unsaved, self.adopted = Unsaved(), False

    def recall(self) -> None:
        """The database has lost everything: store all alerts again, and announce again what fires.

        What was waiting in it to be sent is lost otherwise, and twice is better than not at all.
        """
        self.unsaved.changed |= set(self.alerts)
        self.unsaved.begun += [occurrence_of(alert, alert.content) for alert in self.alerts.values() if alert.content]
        known = {(entry.receiver, entry.content["occurrence"]) for entry in self.unsaved.announced}
        for alert in self.alerts.values():
            for name in alert.announced if alert.content else ():
                if alert.content and (name, alert.content["occurrence"]) not in known:
                    self.unsaved.announced.append(Entry(name, receivers.step(alert.content, alert.healing)))

    def move(self, seconds: float) -> None:
        """The clock was set by so many seconds."""
        self.alerts = {identity: moved(alert, seconds) for identity, alert in self.alerts.items()}
        self.unsaved.move(seconds)

    def adopt(self, alert: Alert) -> None:
        """Look after an alert that somebody else has stored and announced."""
        self.alerts[alert.fingerprint] = alert
        self.adopted = True

    def concerned(self) -> list[str]:
        """The services that something fires about: the next tick is to be told how they are."""
        fires = [alert for alert in self.alerts.values() if alert.content is not None]
        return [alert.target if receivers.is_own(alert.content or {}) else alert.healing.service for alert in fires]

    def orders(self) -> list[Order]:
        """The restarts that were decided on since this was last asked."""
        orders, self._orders = self._orders, []
        return orders

    def withdraw(self) -> None:
        """Take back the restarts that were decided on: they could not be counted."""
        for order in self.orders():
            alert = self.alerts[order.alert]
            before = replace(order.before, held="the database cannot be written")
            self.alerts[order.alert] = replace(alert, healing=before, shown=before.step)
            self.unsaved.progress.pop((alert.content or {}).get("occurrence", ""), None)
            told = self.unsaved.stepped
            told[:] = [entry for entry in told if entry.content["fingerprint"] != order.alert]

    def tick(self, samples: Iterable[Sample], now: float, repairs: Repairs = NOTHING_SEEN) -> list[Entry]:
        """Evaluate every rule on every sample it is about; what is to be told, and to whom."""
        kinds = (self.unsaved.announced, self.unsaved.stepped, self.unsaved.reminded, self.unsaved.closed)
        before = [len(entries) for entries in kinds]
        samples = list(samples)
        down = frozenset(sample.target for sample in samples if sample.metric == "up" and sample.value == 0)
        found = Circumstances(self.silences, down)
        seen = {}
        known = {(alert.name, alert.target) for alert in self.alerts.values()}
        for rule, sample in about(self._configuration.rules, samples):
            # Nearly all of them are well and ever were: they change nothing, and need no identity.
            if (rule.alert, sample.target) not in known and not rule.when.holds(sample.value):
                continue
            identity = fingerprint(rule.alert, sample.target, sample.labels)
            seen[identity] = rule, sample
            self._evaluate(identity, rule, sample, now)
        work = _Work(self.alerts.values())
        heals = {rule.alert for rule in self._configuration.rules if rule.heal}
        for alert in [each for each in self.alerts.values() if each.state.name != "inactive"]:
            asks = seen[alert.fingerprint][0] if alert.fingerprint in seen else None
            if alert.content is not None and receivers.is_own(alert.content):
                ended = self._look_after(alert, alert.content, repairs, now)
            elif ended := not watched(self._configuration, alert):
                self._remove(alert, now)
            if not ended and alert.state.name == "firing":
                alert = replace(alert, acknowledged=alert.fingerprint in self.acknowledged)  # noqa: PLW2901 - as of now
                if alert.fingerprint not in seen and alert.name in heals:  # without a value nothing is known to be well
                    alert = replace(alert, state=replace(alert.state, cleared=None))  # noqa: PLW2901 - as of now
                held = hold(alert, self._configuration, found, now)
                _log_hold(alert, held)
                decided, notices = tell(self._heal(held, asks, repairs, work, now), self._configuration, now)
                self._keep(decided)
                self._tell(decided, notices, seen.get(alert.fingerprint), now)
        return [entry for entries, known in zip(kinds, before, strict=True) for entry in entries[known:]]

    def _heal(self, alert: Alert, rule: Rule | None, repairs: Repairs, work: _Work, now: float) -> Alert:
        """The alert after it was decided whether its service is restarted."""
        known = healing.settled(alert.healing, repairs, now)
        known = replace(known, began=known.began or alert.state.since)  # `heal` may be newer than the alert
        name = self._configuration.healed(rule, alert.target) if rule else None
        # What is told in this very tick is told by itself, and not as the first step of a repair.
        unheard = alert.told is None and not alert.silenced and not alert.held
        if rule is None or rule.heal is None or name is None or alert.state.cleared is not None or unheard:
            return replace(alert, healing=replace(known, held=""))
        reason = f"{alert.held} is down" if alert.held else "a silence says so" if alert.kept_off else ""
        if work.under_way.get(name, alert.fingerprint) != alert.fingerprint:
            reason = reason or "it is restarted for another alert"
        known, spent = replace(known, service=name), work.spent[name]
        decided, action = healing.decide(rule.heal, known, alert.state.since, repairs, spent=spent, hold=reason, now=now)
        about_it = {"alert": alert.name, "target": alert.target, "fingerprint": alert.fingerprint, "service": name}
        about_it |= {"event.category": "process", "event.action": "heal"}
        if action == "restart":
            why = f"{alert.name} on {alert.target}, {decided.number} of {decided.of}"
            order = Order(secrets.token_hex(8), name, alert.fingerprint, why, known)
            self._orders.append(order)
            spent.append(now)
            work.under_way[name] = alert.fingerprint
            decided = replace(decided, restart=order.id)
        elif action == "give up" and alert.content is not None:
            _log.critical("given up: it is not restarted again before the alert is resolved", **about_it)
            alert = replace(alert, content={**alert.content, "severity": "critical"})
        elif decided.held and decided.held != alert.healing.held:
            _log.info("not restarted", reason=decided.held, **about_it)
        return replace(alert, healing=decided)

    def _look_after(self, alert: Alert, content: Mapping[str, Any], repairs: Repairs, now: float) -> bool:
        """Whether an alert about a program of ours has ended: it runs again, or there is no such program any more."""
        seen = repairs.services.get(alert.target)
        if seen is not None and seen.state == "gone":
            self._remove(alert, now)
            return True
        if seen is None or seen.state != "running" or seen.since is None or now - seen.since < RUNS_AGAIN:
            return False
        self._close(alert, receivers.own_resolved(content, now, now - alert.state.since), State("inactive", now))
        return True

    def _evaluate(self, identity: str, rule: Rule, sample: Sample, now: float) -> None:
        alert = self.alerts.get(identity) or Alert(identity, rule.alert, sample.target, sample.labels)
        outcome = evaluate(rule, sample.value, alert.state, now)
        if alert.healing.restart and outcome.transition == "resolved":
            # The restart that is under way may be about to end what answers.
            outcome = Outcome(replace(alert.state, cleared=outcome.state.since), None, "a restart is under way")
        if outcome.transition is None:
            if outcome.state != alert.state:
                self._keep(replace(alert, state=outcome.state))
            return
        content = self._content(rule, sample, alert, outcome)
        if outcome.transition == "firing":
            began = min(alert.state.since, now) if alert.state.name == "pending" else now
            service = self._configuration.healed(rule, sample.target) or ""
            known = Healing(service, began, alert.healing.attempts)
            alert = Alert(identity, rule.alert, sample.target, sample.labels, outcome.state, content, healing=known)
            self.acknowledged -= {identity}
            self.unsaved.begun.append(occurrence_of(alert, content))
            self._turn(alert, content)
        else:
            self._close(alert, content, outcome.state)

    def _remove(self, alert: Alert, now: float) -> None:
        if alert.content is None:
            self._keep(replace(alert, state=State("inactive", now)))
        else:
            self._close(alert, receivers.removed(alert.content, now, now - alert.state.since), State("inactive", now))

    def _close(self, alert: Alert, content: Mapping[str, Any], state: State) -> None:
        self.unsaved.closed += [Entry(name, content) for name in alert.announced]
        self.unsaved.progress[content["occurrence"]] = Progress(content["severity"], alert.healing.tried, state.since)
        budget = Healing(alert.healing.service, attempts=alert.healing.attempts)
        self._turn(Alert(alert.fingerprint, alert.name, alert.target, alert.labels, state, healing=budget), content)

    def _turn(self, alert: Alert, content: Mapping[str, Any]) -> None:
        self.unsaved.turned.add(alert.fingerprint)
        self._keep(alert)
        _log_transition(content)

    def _keep(self, alert: Alert) -> None:
        if self.alerts.get(alert.fingerprint) != alert:
            self.alerts[alert.fingerprint] = alert
            self.unsaved.changed.add(alert.fingerprint)
            if alert.content is not None and alert.healing.tried:
                made = Progress(alert.content["severity"], alert.healing.tried)
                self.unsaved.progress[alert.content["occurrence"]] = made

    def _tell(self, alert: Alert, notices: list[Notice], seen: tuple[Rule, Sample] | None, now: float) -> None:
        content = alert.content
        if not notices or content is None:
            return
        calm = replace(alert, state=replace(alert.state, flapping=False))  # that it flaps is said once
        current = self._content(*seen, calm, Outcome(calm.state, "firing", "")) if seen else content
        for notice in notices:
            said = receivers.step(content, alert.healing)
            if notice.kind == "reminder":
                still = receivers.reminder(receivers.step(current, alert.healing), content, now - alert.state.since)
                self.unsaved.reminded.append(Entry(notice.receiver, still, notice.grouping))
            elif notice.kind == "step":
                self.unsaved.stepped.append(Entry(notice.receiver, said, notice.grouping))
            else:
                said = receivers.escalated(said, now - alert.state.since) if notice.kind == "escalated" else said
                self.unsaved.announced.append(Entry(notice.receiver, said, notice.grouping))

    def _content(self, rule: Rule, sample: Sample, alert: Alert, outcome: Outcome) -> dict[str, Any]:
        names = {"fingerprint": alert.fingerprint, "instance": self._configuration.instance}
        done = Healing() if alert.content is None else alert.healing  # of this incident
        firing = alert.content if alert.content and outcome.transition == "resolved" else {}
        # Named as its firing was, wherever the clock has been set since.
        same = {name: firing[name] for name in ("starts_at", "occurrence") if name in firing}
        return receivers.content(rule, sample, alert.state, outcome, healing=done, **names) | same


def _counted(alert: Alert, stored: Alert | None) -> Alert:
    """The alert with the restarts that are stored for it: they count, whatever has happened since."""
    if stored is None:
        return alert
    attempts = tuple(sorted({*stored.healing.attempts, *alert.healing.attempts}))
    return replace(alert, healing=replace(alert.healing, attempts=attempts))


def _log_hold(before: Alert, after: Alert) -> None:
    held = after.silenced, after.held
    if held != (before.silenced, before.held) and any(held):
        about_it = {"alert": after.name, "target": after.target, "fingerprint": after.fingerprint}
        _log.info("the alert is held", silenced=", ".join(held[0]), held=held[1], **about_it)


def _log_transition(content: Mapping[str, Any]) -> None:
    """The alert in our own log: the last resort of who has no receiver, and a record for the others."""
    say = _log.warning if content["status"] == "firing" else _log.info
    about_it = {name: content[name] for name in ("alert", "target", "severity", "condition", "value", "scope", "fingerprint")}
    fields = {"event.kind": "alert", "event.action": content["status"], "event.reason": content["reason"]}
    say(content["summary"], **fields, **about_it, **{f"label_{name}": text for name, text in content["labels"].items()})
