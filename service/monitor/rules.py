"""Whether an alert fires. Pure: a rule, a value, the state so far and the time give the next state, and why.

The only place where the state of an alert changes. A state is inactive, pending or firing; resolved is what is said
when firing ends.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from service.conditions import ABSENT
from service.configuration import Rule
from service.values import length

FLAPS = 3  # so many beginnings within FLAP_WINDOW, and an alert flaps
FLAP_WINDOW = 30 * 60.0  # seconds
CALM = 10 * 60.0  # seconds that a flapping alert must be clear to be resolved

Name = Literal["inactive", "pending", "firing"]
Transition = Literal["firing", "resolved"]


@dataclass(frozen=True)
class State:
    """Where an alert stands, and since when (seconds since 1970)."""

    name: Name = "inactive"
    since: float = 0.0
    cleared: float | None = None  # it fires, but since then the condition does not hold
    starts: tuple[float, ...] = ()  # when it began to fire, of late
    flapping: bool = False


@dataclass(frozen=True)
class Outcome:
    """The next state, what people are to be told (None: nothing), and why it came out so."""

    state: State
    transition: Transition | None
    reason: str


def evaluate(rule: Rule, value: float | None, previous: State, now: float) -> Outcome:
    """Decide one alert at the time `now`. A value of None is missing: only absent() takes it for an answer.

    1. Inactive and the condition holds: pending, or firing at once when the rule has no `for`.
    2. Pending and it still holds: firing once it has held for as long as `for` says.
    3. Pending and it no longer holds: inactive, and nobody hears of it.
    4. Firing and `until` holds (without one: the condition no longer does): it is clear, since that moment.
    5. Firing and clear for as long as `keep_firing_for` says: resolved, at the moment since which it is clear.
    6. Firing and no longer clear: as if it had never been.
    7. Firing for the third time within half an hour: it flaps, and must be clear for ten minutes to be resolved.
    """
    if value is None and rule.when.operator != ABSENT:
        return Outcome(previous, None, "no value")
    if previous.name == "firing":
        return _firing(rule, value, previous, now)
    if not rule.when.holds(value):
        state = previous if previous.name == "inactive" else State("inactive", now, starts=previous.starts)
        return Outcome(state, None, f"not {rule.when}")
    since = min(previous.since, now) if previous.name == "pending" else now  # a clock may have been set back
    if now - since < rule.hold:
        state = State("pending", since, starts=previous.starts)
        return Outcome(state, None, f"{rule.when} for {now - since:g} of {rule.hold:g} s")
    starts = (*(start for start in previous.starts if now - FLAP_WINDOW < start <= now), now)[-FLAPS:]
    flapping = len(starts) == FLAPS
    reason = f"{rule.when}{f' for {rule.hold:g} s' if rule.hold else ''}"
    if flapping:
        reason += f"; flapping: it fires for the third time in {length(now - starts[0])}"
    return Outcome(State("firing", now, starts=starts, flapping=flapping), "firing", reason)


def _firing(rule: Rule, value: float | None, previous: State, now: float) -> Outcome:
    clear = rule.until.holds(value) if rule.until else not rule.when.holds(value)
    if not clear:
        return Outcome(replace(previous, cleared=None), None, "still firing")
    cleared = now if previous.cleared is None else min(previous.cleared, now)
    keep = max(rule.clear_for, CALM if previous.flapping else 0.0)
    if now - cleared < keep:
        return Outcome(replace(previous, cleared=cleared), None, f"clear for {now - cleared:g} of {keep:g} s")
    state = State("inactive", cleared, starts=previous.starts)
    return Outcome(state, "resolved", f"{rule.until or f'not {rule.when}'}{f' for {keep:g} s' if keep else ''}")


def fingerprint(alert: str, target: str, labels: Mapping[str, str]) -> str:
    """The identity of an alert: 16 hexadecimal digits, the same for the same rule, target and labels for ever."""
    parts = [alert, target, *(text for pair in sorted(labels.items()) for text in pair)]
    digest = hashlib.sha256("".join(f"{len(part)}:{part}" for part in parts).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]
