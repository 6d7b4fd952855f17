"""What a monitoring plugin says of a Tocsin: one line, performance data, and a status of 0 to 3.

The form is that of https://www.monitoring-plugins.org/doc/guidelines.html. Pure: it is told what the API answered. Times are
compared by the clock of the Tocsin that was asked, so that the machine that asks may have another one.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Any

from service.values import length, number

LONGEST_TEXT = 400  # bytes; NRPE hands on 1024, and the performance data has less than 500
MOST_FAULTS = 5
SPARE = 30.0  # seconds by which a tick may be late besides three intervals
_USAGES = ("cpu_usage", "mem_usage", "disk_usage")
_NO_TICK = "what watches does not run"


class State(IntEnum):
    """The exit status, and the word for it."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


class StrangeError(Exception):
    """Raised for an answer that is none of a Tocsin's."""


@dataclass(frozen=True)
class Limits:
    """How long the oldest message may wait to be delivered. Seconds."""

    warning: float = 300.0
    critical: float = 1800.0


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong."""

    state: State
    text: str


def line(state: State, text: str, figures: Iterable[str] = ()) -> str:
    """The one line. Whatever the text holds, it stays one, and the first `|` begins the performance data."""
    printable = "".join(letter if letter.isprintable() else " " for letter in text.replace("|", "/"))
    text = " ".join(printable.split())
    if len(content := text.encode()) > LONGEST_TEXT:
        text = content[: LONGEST_TEXT - 3].decode("utf-8", "ignore") + "..."
    said = f"TOCSIN {state.name} - {text}"
    return f"{said} | {found}" if (found := " ".join(figures)) else said


def judge(
    health: Mapping[str, Any], monitor: Mapping[str, Any], alerts: Iterable[Mapping[str, Any]], limits: Limits
) -> tuple[State, str, list[str]]:
    """State, text and performance data of what /api/health, /api/v1/monitor and the firing of /api/v1/alerts answered.

    Raises StrangeError.
    """
    try:
        now = _figure(health["time"])
        loud = [alert for alert in alerts if not (alert["silenced"] or alert["acknowledged"] or alert["held"])]
        faults = [*_of_health(health), *_of_monitor(monitor, now), *_of_delivery(monitor, limits), *map(_of_alert, loud)]
        figures = [*_usages(health), *_counts(monitor, limits)]
        summary = _summary(health, monitor, now)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
        raise StrangeError from None
    faults = sorted((fault for fault in faults if fault.state), key=lambda fault: -fault.state)
    if not faults:
        return State.OK, summary, figures
    said = [fault.text for fault in faults[:MOST_FAULTS]]
    if len(faults) > MOST_FAULTS:
        said.append(f"and {len(faults) - MOST_FAULTS} more")
    return faults[0].state, "; ".join(said), figures


def _of_health(health: Mapping[str, Any]) -> Iterable[Fault]:
    for reason in health["reasons"]:
        if reason == "stale":
            yield Fault(State.CRITICAL, "the readings are old")
        elif reason in ("draining", "starting"):
            yield Fault(State.WARNING, f"the server is {reason}")
        else:  # a reading over its threshold
            usage = health["checks"].get(str(reason).split()[0], {})
            value = f" ({number(_figure(usage['value']))} %)" if usage else ""
            yield Fault(State.WARNING, f"{reason}{value}")


def _of_monitor(monitor: Mapping[str, Any], now: float) -> Iterable[Fault]:
    if monitor["last_tick_at"] is None:
        yield Fault(State.CRITICAL, f"the monitor has not ticked yet: {_NO_TICK}")
        return
    ago, interval = now - _moment(monitor["last_tick_at"]), _figure(monitor["interval_seconds"])
    if ago > 3 * interval + SPARE:
        yield Fault(State.CRITICAL, f"the monitor has not ticked for {length(ago)}: {_NO_TICK}")


def _of_delivery(monitor: Mapping[str, Any], limits: Limits) -> Iterable[Fault]:
    if dead := int(_figure(monitor["dead"])):
        yield Fault(State.CRITICAL, f"{dead} {'message' if dead == 1 else 'messages'} given up")
    waits = _waits(monitor)
    if waits > min(limits.warning, limits.critical):
        state = State.CRITICAL if waits > limits.critical else State.WARNING
        yield Fault(state, f"a message has waited for {length(waits)}")


def _of_alert(alert: Mapping[str, Any]) -> Fault:
    state = {"critical": State.CRITICAL, "warning": State.WARNING}.get(alert["severity"], State.OK)
    return Fault(state, f"{alert['alert']} {alert['target']}: {alert['summary']} ({alert['severity']})")


def _summary(health: Mapping[str, Any], monitor: Mapping[str, Any], now: float) -> str:
    names = {"cpu_usage": "CPU", "mem_usage": "memory", "disk_usage": "disk"}
    usages = [f"{names[name]} {number(_figure(health[name]))} %" for name in _USAGES if name in health]
    ticked = [] if monitor["last_tick_at"] is None else [f"ticked {length(now - _moment(monitor['last_tick_at']))} ago"]
    firing = int(_figure(monitor["alerts"]["firing"]))
    quiet = f"{firing} {'alert fires' if firing == 1 else 'alerts fire'} and nobody need act" if firing else "nothing fires"
    return ", ".join([quiet, *usages, *ticked])


def _usages(health: Mapping[str, Any]) -> Iterable[str]:
    for name in _USAGES:
        if name in health:
            limit = health["checks"][name].get("threshold")
            yield f"{name}={number(_figure(health[name]))}%;{'' if limit is None else number(_figure(limit))};;0;100"


def _counts(monitor: Mapping[str, Any], limits: Limits) -> Iterable[str]:
    for name in ("firing", "pending"):
        yield f"{name}={int(_figure(monitor['alerts'][name]))};;;0"
    yield f"waiting={int(_figure(monitor['waiting']))};;;0"
    yield f"dead={int(_figure(monitor['dead']))};;0;0"
    yield f"oldest_undelivered={number(_waits(monitor))}s;{number(limits.warning)};{number(limits.critical)};0"


def _waits(monitor: Mapping[str, Any]) -> float:
    waits = monitor["oldest_undelivered_seconds"]
    return 0.0 if waits is None else _figure(waits)


def _figure(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or abs(value) > 1e15:
        raise TypeError
    return float(value)


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
