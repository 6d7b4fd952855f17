"""Who is to be told of an alert that fires, and why not. Pure: it is told the time, the silences and what is down.

An alert is announced to a receiver once; then it hears of each step of bringing the service back. Whoever was to be told
that it fires is told that it is resolved, whatever has been silenced since.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from service.configuration import Configuration, Route
from service.matchers import all_match, labels_of
from service.monitor.healing import Healing
from service.monitor.rules import State
from service.silences import Silence

INACTIVE = State()
OUTLASTED = 2  # ticks


@dataclass(frozen=True)
class Alert:
    """One alert as the monitor knows it. `content` is what its firing says, while it fires."""

    fingerprint: str
    name: str
    target: str
    labels: Mapping[str, str]
    state: State = INACTIVE
    content: Mapping[str, Any] | None = None
    announced: tuple[str, ...] = ()  # receivers that are to know
    told: float | None = None  # since when it is not held: what `after` counts from
    reminded: float = 0.0  # when those who know were last to be told
    silenced: tuple[str, ...] = ()  # ids of silences, names of maintenance windows
    held: str | None = None  # the parent for which it is held
    reachable: int = 0  # ticks since it fires in which all its parents were up
    acknowledged: bool = False
    healing: Healing = field(default_factory=Healing)
    shown: int = 0  # the step of it that those who know were last to be told
    kept_off: bool = False  # by a silence that also says: no restarts


@dataclass(frozen=True)
class Circumstances:
    """What a tick finds besides the samples. `down` are targets whose `up` is 0."""

    silences: Sequence[Silence] = ()
    down: Collection[str] = ()


@dataclass(frozen=True)
class Notice:
    """One receiver is to be told: that it fires, that it does without acknowledgement, that it still does, or what is done."""

    receiver: str
    grouping: Mapping[str, Any] = field(default_factory=dict)
    kind: Literal["firing", "escalated", "reminder", "step"] = "firing"


def moved(alert: Alert, seconds: float) -> Alert:
    """The alert after the clock was set by so many seconds: what was as long ago as it is still is."""

    def at(moment: float) -> float:
        return moment + seconds

    state, healing = alert.state, alert.healing
    return replace(
        alert,
        state=replace(
            state,
            since=at(state.since),
            cleared=None if state.cleared is None else at(state.cleared),
            starts=tuple(map(at, state.starts)),
        ),
        told=None if alert.told is None else at(alert.told),
        reminded=at(alert.reminded),
        healing=replace(
            healing,
            began=at(healing.began) if healing.began else 0.0,
            attempts=tuple(map(at, healing.attempts)),
            ended=None if healing.ended is None else at(healing.ended),
        ),
    )


def hold(alert: Alert, configuration: Configuration, found: Circumstances, now: float) -> Alert:
    """The alert with what holds it in this tick: silences and maintenance windows that match, and a parent that is down.

    A parent also holds it until all parents have been up in two ticks: what took both down may be seen on the child
    first, and gone from it last.
    """
    assert alert.content is not None  # it fires  # noqa: S101 - said to the type checker
    matching = list(_silences(configuration, found.silences, labels_of(alert.content), now))
    ancestors = configuration.ancestors(alert.target)
    parent = next((name for name in ancestors if name in found.down), None)
    if ancestors and parent is None and alert.reachable < OUTLASTED:
        alert = replace(alert, reachable=alert.reachable + 1)
        parent = None if alert.reachable == OUTLASTED else ancestors[0]
    names = tuple(name for name, _ in matching)
    return replace(alert, silenced=names, held=parent, kept_off=not all(heal for _, heal in matching))


def tell(alert: Alert, configuration: Configuration, now: float) -> tuple[Alert, list[Notice]]:
    """The alert after this tick, and the notices that go out in it.

    1. What is held is not told, nor what is clear and only kept firing: nobody should be woken for what has ended.
    2. It is announced to the receivers of each route that takes it, or to all where none does.
    3. A route with `after` joins them so long after that, when nobody has acknowledged it.
    4. Each step of bringing its service back is told to those who know, acknowledged or not.
    5. At each `repeat_interval`, not acknowledged, all of them are reminded.
    """
    assert alert.content is not None  # it fires  # noqa: S101 - said to the type checker
    labels = labels_of(alert.content)
    if alert.silenced or alert.held or alert.state.cleared is not None:
        return alert, []
    if alert.told is None:
        alert = replace(alert, told=now, reminded=now)
    wanted = list(_wanted(alert, configuration, labels, now))
    notices = [notice for notice in wanted if notice.receiver not in alert.announced]
    repeat = configuration.repeat_interval
    if alert.shown != alert.healing.step:
        # Also those whom no route names for it any more: they wait for its end.
        groupings = {notice.receiver: notice.grouping for notice in wanted}
        notices += [Notice(name, groupings.get(name, {}), "step") for name in alert.announced]
        alert = replace(alert, shown=alert.healing.step, reminded=now)
    elif alert.announced and repeat and not alert.acknowledged and not 0 <= now - alert.reminded < repeat:
        notices += [replace(notice, kind="reminder") for notice in wanted if notice.receiver in alert.announced]
        alert = replace(alert, reminded=now)
    new = (notice.receiver for notice in notices if notice.receiver not in alert.announced)
    return replace(alert, announced=(*alert.announced, *new)), notices


def _wanted(alert: Alert, configuration: Configuration, labels: Mapping[str, str], now: float) -> Iterator[Notice]:
    """A notice for each receiver that should know by now, the first route's where several name it."""
    seen: set[str] = set()
    taken = [(number, route) for number, route in enumerate(configuration.routes) if _takes(route, labels)]
    if not any(route.after == 0 for _, route in taken):
        everyone = [receiver.name for receiver in configuration.receivers]
        later = {name for _, route in taken for name in route.receivers}
        for name in [name for name in everyone if name not in later] or everyone:
            seen.add(name)
            yield Notice(name)
    for number, route in taken:
        if route.after and (alert.acknowledged or 0 <= now - (alert.told or now) < route.after):
            continue
        grouping = {"route": str(number), "labels": {name: labels.get(name, "") for name in route.group_by}}
        for name in route.receivers:
            if name not in seen:
                seen.add(name)
                yield Notice(name, grouping, "escalated" if route.after else "firing")


def _takes(route: Route, labels: Mapping[str, str]) -> bool:
    return (not route.severity or labels["severity"] in route.severity) and all_match(route.matchers, labels)


def _silences(
    configuration: Configuration, silences: Sequence[Silence], labels: Mapping[str, str], now: float
) -> Iterator[tuple[str, bool]]:
    """What silences it, and whether services are restarted all the same."""
    # Also those that ended since they were read: the database may be out of reach for longer than they last.
    yield from ((each.id, each.heal) for each in silences if each.state(now) == "active" and each.matches(labels))
    for window in configuration.maintenance:
        if window.holds(now) and all_match(window.matchers, labels):
            yield window.name, window.heal
