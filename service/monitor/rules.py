"""Whether an alert fires. Pure: a rule, a value, the state so far and the time give the next state, and why.

The only place where the state of an alert changes. A state is inactive, pending or firing; resolved is what is said
when firing ends.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from service.configuration import Rule

Name = Literal["inactive", "pending", "firing"]
Transition = Literal["firing", "resolved"]


@dataclass(frozen=True)
class State:
    """Where an alert stands, and since when (seconds since 1970)."""

    name: Name = "inactive"
    since: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """The next state, what people are to be told (None: nothing), and why it came out so."""

    state: State
    transition: Transition | None
    reason: str


def evaluate(rule: Rule, value: float | None, previous: State, now: float) -> Outcome:
    """Decide one alert at the time `now`. A value of None is missing: it neither fires nor resolves anything.

    1. Inactive and the condition holds: pending, or firing at once when the rule has no `for`.
    2. Pending and it still holds: firing once it has held for as long as `for` says.
    3. Pending and it no longer holds: inactive, and nobody hears of it.
    4. Firing and `until` holds (without one: the condition no longer does): resolved.
    """
    if value is None:
        return Outcome(previous, None, "no value")
    holds = rule.when.holds(value)
    if previous.name == "firing":
        cleared = rule.until.holds(value) if rule.until else not holds
        if cleared:
            return Outcome(State("inactive", now), "resolved", f"{rule.until or f'not {rule.when}'}")
        return Outcome(previous, None, "still firing")
    if not holds:
        state = previous if previous.name == "inactive" else State("inactive", now)
        return Outcome(state, None, f"not {rule.when}")
    since = min(previous.since, now) if previous.name == "pending" else now  # a clock may have been set back
    if now - since >= rule.hold:
        held = f" for {rule.hold:g} s" if rule.hold else ""
        return Outcome(State("firing", now), "firing", f"{rule.when}{held}")
    return Outcome(State("pending", since), None, f"{rule.when} for {now - since:g} of {rule.hold:g} s")


def fingerprint(alert: str, target: str, labels: Mapping[str, str]) -> str:
    """The identity of an alert: 16 hexadecimal digits, the same for the same rule, target and labels for ever."""
    parts = [alert, target, *(text for pair in sorted(labels.items()) for text in pair)]
    digest = hashlib.sha256("".join(f"{len(part)}:{part}" for part in parts).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]
