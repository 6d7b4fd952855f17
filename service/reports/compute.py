"""Rows -> what a report says of them. Pure."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from service.readings import MINUTE, UNITS, Point, Series
from service.reports import statistics
from service.reports.model import Alert, Availability, Delivery, Disk, Line, Reaction, Reading, Restarts, Times

POINTS = 168  # of a line; a week of hours
FRESH = 3  # steps of a line before its end, by which a disk was measured last
NONE = Times(count=0, median=None, p95=None, worst=None)


@dataclass(frozen=True)
class Steps:
    """The whole minutes or hours of a period: from `since` until before `until`, in seconds since 1970."""

    since: int
    until: int
    step: int

    @property
    def seconds(self) -> int:
        return self.until - self.since

    @property
    def width(self) -> int:
        """Of a step of a line."""
        return max(1, math.ceil(self.seconds / POINTS / self.step)) * self.step


class Firing(NamedTuple):
    """What is counted of an occurrence."""

    alert: str
    target: str
    severity: str
    began: float
    fired: float
    told: float | None
    ended: float | None
    acknowledged: bool
    restarts: int


class Message(NamedTuple):
    """What is counted of a message: how long the oldest in it waited, None while it does."""

    receiver: str
    waited: float | None
    tries: int


def steps_in(since: float, until: float, step: int) -> Steps:
    """Those that lie within it whole."""
    begin = math.ceil(since / step) * step
    return Steps(begin, max(begin, int(until // step) * step), step)


def availability(target: str, points: Sequence[Point], steps: Steps, interval: float) -> Availability:
    """Every minute in which there was a sample is known; one that is asked more seldom is known for the `interval`."""
    known = [(point.minutes * max(MINUTE, interval), point.mean) for point in points]
    all_of_it = sum(seconds for seconds, _ in known)
    # Longer than the period, as the last interval lies partly behind it.
    fits = min(1.0, steps.seconds / all_of_it) if all_of_it else 1.0
    up = sum(seconds * mean for seconds, mean in known) * fits
    down = sum(seconds * (1 - mean) for seconds, mean in known) * fits
    return Availability(
        target=target,
        share=up / (up + down) if points else None,
        up_seconds=round(up, 3),
        down_seconds=round(down, 3),
        unknown_seconds=round(max(0.0, steps.seconds - up - down), 3),
        line=line(points, steps) if points else None,
    )


def reading(series: Series, points: Sequence[Point], steps: Steps, threshold: float | None) -> Reading:
    """Of some points."""
    means = sorted(point.mean for point in points)
    peak = max(points, key=lambda point: point.most)
    return Reading(
        **series._asdict(),
        unit=UNITS.get(series.metric, ""),
        mean=_short(sum(point.mean * point.samples for point in points) / sum(point.samples for point in points)),
        p50=_short(statistics.percentile(means, 0.50)),
        p95=_short(statistics.percentile(means, 0.95)),
        p99=_short(statistics.percentile(means, 0.99)),
        least=_short(min(point.least for point in points)),
        most=_short(peak.most),
        most_at=peak.at,
        threshold=threshold,
        line=line(points, steps),
    )


def line(points: Iterable[Point], steps: Steps) -> Line:
    sums: dict[int, tuple[float, int]] = defaultdict(lambda: (0.0, 0))
    for point in points:
        place = (point.at - steps.since) // steps.width
        total, samples = sums[place]
        sums[place] = total + point.mean * point.samples, samples + point.samples
    places = range(math.ceil(steps.seconds / steps.width))
    means = (sums[place][0] / sums[place][1] if place in sums else None for place in places)
    return Line(since=steps.since, step=steps.width, values=tuple(None if mean is None else _short(mean) for mean in means))


def disk(series: Series, course: Line, end: float, interval: float) -> Disk:
    """By its course: a trend has no need of more. It goes on from `end`; of what was not measured lately it says nothing."""
    points = [(course.since + number * course.step, mean) for number, mean in enumerate(course.values) if mean is not None]
    about = {"target": series.target, "mount": series.mount, "usage": points[-1][1]}
    silent = end - points[-1][0]
    found = statistics.full_after(points) if silent <= max(FRESH * course.step, 2 * interval) else None
    if found is None:
        return Disk(**about, verdict="too little data", per_day=None, full_at=None, full_in_seconds=None)
    per_day, seconds = found
    left = None if seconds is None else max(0.0, seconds - silent)
    return Disk(
        **about,
        verdict="not filling" if left is None else "filling",
        per_day=_short(per_day),
        full_at=None if left is None else round(end + left),
        full_in_seconds=None if left is None else round(left),
    )


def alerts(firings: Iterable[Firing], since: float, until: float) -> list[Alert]:
    """Those of most time first."""
    groups: dict[tuple[str, str], list[Firing]] = defaultdict(list)
    for firing in firings:
        groups[firing.alert, firing.target].append(firing)
    found = []
    for (alert, target), group in groups.items():
        lengths = [_within(firing, since, until) for firing in group]
        found.append(
            Alert(
                alert=alert,
                target=target,
                severity=max(group, key=lambda firing: firing.fired).severity,
                count=len(group),
                seconds=round(sum(lengths), 3),
                longest_seconds=round(max(lengths), 3),
                open=sum(_open(firing, until) for firing in group),
                acknowledged=sum(firing.acknowledged for firing in group),
                restarts=sum(firing.restarts for firing in group),
            )
        )
    return sorted(found, key=lambda alert: (-alert.seconds, alert.alert, alert.target))


def reaction(firings: Iterable[Firing], since: float, until: float, *, receivers: bool) -> Reaction:
    """Of those that fired in the period, as of its end. `receivers`: whether there are any."""
    new = [firing for firing in firings if since <= firing.fired < until]
    heard = [firing.told if receivers else firing.fired for firing in new]
    noticed = [at - firing.began for firing, at in zip(new, heard, strict=True) if at is not None and at < until]
    recovered = [firing.ended - firing.began for firing in new if firing.ended is not None and not _open(firing, until)]
    return Reaction(
        notice=times(noticed),
        until="told" if receivers else "fired",
        untold=len(new) - len(noticed),
        recovery=times(recovered),
        unrecovered=len(new) - len(recovered),
    )


def times(lengths: Iterable[float]) -> Times:
    ordered = sorted(max(0.0, each) for each in lengths)
    if not ordered:
        return NONE
    median, p95 = (round(statistics.percentile(ordered, share), 3) for share in (0.50, 0.95))
    return Times(count=len(ordered), median=median, p95=p95, worst=round(ordered[-1], 3))


def restarts(made: Iterable[tuple[str, str | None, str]]) -> list[Restarts]:
    """From service, outcome and author of each; those without an outcome have not ended."""
    counts = Counter((service, outcome or "not ended", author) for service, outcome, author in made)
    return [
        Restarts(service=service, outcome=outcome, author=author, count=count)
        for (service, outcome, author), count in sorted(counts.items())
    ]


def deliveries(messages: Iterable[Message], left: Mapping[str, tuple[int, int]], receivers: Iterable[str]) -> list[Delivery]:
    """Of each receiver that there is or was; `left` are the notifications that wait, and those that were given up."""
    found: dict[str, list[Message]] = {name: [] for name in (*receivers, *left)}
    for message in messages:
        found.setdefault(message.receiver, []).append(message)
    return [
        Delivery(
            receiver=name,
            delivered=sum(message.waited is not None for message in group),
            waiting=left.get(name, (0, 0))[0],
            dead=left.get(name, (0, 0))[1],
            tries=sum(message.tries for message in group),
            delay=times(message.waited for message in group if message.waited is not None),
        )
        for name, group in found.items()
    ]


def _within(firing: Firing, since: float, until: float) -> float:
    ended = until if firing.ended is None else firing.ended
    return max(0.0, min(ended, until) - max(firing.fired, since))


def _open(firing: Firing, until: float) -> bool:
    return firing.ended is None or firing.ended >= until


def _short(value: float) -> float:
    return round(value, 4)
