"""A report in words: headlines, and a table for each part. What is written as HTML and as text is the same. Pure."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from service.plot import Plot, plot
from service.reports.model import Availability, Disk, Line, Reading, Report, Times
from service.values import length, number

SOON = 30 * 86_400.0  # seconds; a disk that is full by then is a headline
NAMED = 3  # targets in the headlines
NOTHING = "–"


@dataclass(frozen=True)
class Row:
    """Cells, the line that belongs to them, and what a screen reader says instead of it."""

    cells: tuple[str, ...]
    plot: Plot | None = None
    label: str = ""


@dataclass(frozen=True)
class Section:
    """A table. The first `words` columns are text, the others numbers; `note` says how these are counted."""

    title: str
    note: str
    head: tuple[str, ...]
    words: int
    rows: tuple[Row, ...]
    nothing: str = "No data."  # what is said where there is no row


def title(report: Report) -> str:
    return f"Health report{f' of {report.instance}' if report.instance else ''}"


def period(report: Report) -> str:
    since, until = report.period.since, report.period.until
    return f"{minute(since)} to {minute(until)} UTC ({length(until - since)})"


def minute(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M")


def headlines(report: Report) -> Iterator[str]:
    """What is to be known by who reads no further."""
    known = [each for each in report.availability if each.share is not None]
    if not known and not report.readings and not report.alerts:
        yield "Nothing was measured in this period."
        return
    down = sorted((each for each in known if each.down_seconds), key=lambda each: -each.down_seconds)
    for each in down[:NAMED]:
        yield f"{each.target} was up {share(each.share)} of the time, and down for {length(each.down_seconds)}."
    if len(down) > NAMED:
        yield f"{_several(len(down) - NAMED, 'more target')} had shorter outages."
    if known and not down:
        yield "Every target was up each time it was asked."
    if unknown := len(report.availability) - len(known):
        yield f"Nothing was measured of {_several(unknown, 'target')}."
    fired, still = sum(each.count for each in report.alerts), sum(each.open for each in report.alerts)
    yield f"{_several(fired, 'alert')} fired{f'; {still} still did at the end' if still else ''}."
    for disk in report.disks:
        if disk.full_in_seconds is not None and disk.full_in_seconds <= SOON:
            yield f"{disk.target}, {_mount(disk.mount)}: {_pace(disk)}."
    if dead := sum(each.dead for each in report.deliveries):
        yield f"{_several(dead, 'notification')} could not be delivered, and {'was' if dead == 1 else 'were'} given up."


def sections(report: Report) -> tuple[Section, ...]:
    steps = f"{report.period.resolution}s"
    receivers = report.reaction.until == "told"
    return (
        Section(
            "Availability",
            "Up is the share of the measured time. A time in which nothing was measured counts neither as up nor as down.",
            ("target", "up", "down", "not measured"),
            1,
            tuple(_availability(each) for each in report.availability),
            "No target.",
        ),
        Section(
            "Readings",
            f"Percentiles are of the means of {steps}, by the nearest rank. The peak is the largest single sample.",
            ("target", "reading", "p50", "p95", "p99", "peak", "at"),
            2,
            tuple(_reading(each) for each in report.readings),
        ),
        Section(
            "Disks",
            "The pace is Theil and Sen's slope over the period: the median of the slopes between each two points. "
            "A single cleanup is taken out first.",
            ("target", "disk", "in use", "a day", "at this pace"),
            2,
            tuple(Row((each.target, _mount(each.mount), *_disk(each))) for each in report.disks),
        ),
        Section(
            "Alerts",
            "Lengths are of what lies in the period.",
            ("alert", "target", "fired", "in all", "longest", "open", "taken on", "restarts"),
            2,
            tuple(
                Row(
                    (
                        each.alert,
                        each.target,
                        str(each.count),
                        length(each.seconds),
                        length(each.longest_seconds),
                        *(str(count) if count else NOTHING for count in (each.open, each.acknowledged, each.restarts)),
                    )
                )
                for each in report.alerts
            ),
            "None fired.",
        ),
        Section(
            "Reaction",
            "Of the alerts that fired in the period, since the condition was first seen. "
            + (
                "Noticed is when the first receiver had taken it."
                if receivers
                else "Without a receiver, noticed is when it fired."
            ),
            ("time", "alerts", "median", "p95", "worst", "never or not yet"),
            1,
            tuple(
                Row((name, str(found.count), *_times(found), str(left) if left else NOTHING))
                for name, found, left in (
                    ("to notice", report.reaction.notice, report.reaction.untold),
                    ("to recover", report.reaction.recovery, report.reaction.unrecovered),
                )
                if found.count or left
            ),
            "None fired.",
        ),
        Section(
            "Restarts",
            "",
            ("service", "outcome", "by", "restarts"),
            3,
            tuple(Row((each.service, each.outcome, each.author, str(each.count))) for each in report.restarts),
            "None.",
        ),
        Section(
            "Deliveries",
            "Delay is from when the oldest that a message says came to be until its receiver took it.",
            ("receiver", "delivered", "waiting", "given up", "tries", "median", "p95", "worst"),
            1,
            tuple(
                Row(
                    (
                        each.receiver,
                        *(str(count) if count else NOTHING for count in (each.delivered, each.waiting, each.dead, each.tries)),
                        *_times(each.delay),
                    )
                )
                for each in report.deliveries
            ),
            "No receiver.",
        ),
    )


def share(of: float | None) -> str:
    """Rounded down: 100 % is said where it is all."""
    return NOTHING if of is None else f"{number(math.floor(of * 10_000) / 100)} %"


def _availability(each: Availability) -> Row:
    if each.share is None:
        return Row((each.target, "no data", NOTHING, length(each.unknown_seconds)))
    times = (length(seconds) if seconds else NOTHING for seconds in (each.down_seconds, each.unknown_seconds))
    cells = (each.target, share(each.share), *times)
    return Row(cells, _outages(each.line), f"{each.target} over the period: up {share(each.share)} of the time")


def _reading(each: Reading) -> Row:
    name = f"{each.metric} {each.mount}".rstrip()
    shown = _shown(each.unit)
    values = tuple(shown(value) for value in (each.p50, each.p95, each.p99, each.most))
    label = f"{name} of {each.target} over the period: {shown(each.least)} to {shown(each.most)}, mostly {shown(each.p50)}"
    return Row((each.target, name, *values, minute(each.most_at)[5:]), _plot(each.line, each.threshold), label)


def _disk(each: Disk) -> tuple[str, ...]:
    per_day = NOTHING if each.per_day is None else f"{each.per_day:+.2f} %"
    return f"{each.usage:.1f} %", per_day, _pace(each)


def _pace(each: Disk) -> str:
    if each.full_at is None or each.full_in_seconds is None:
        return each.verdict
    return f"full in {length(each.full_in_seconds)} ({minute(each.full_at)[:10]})"


def _mount(mount: str) -> str:
    return mount or "data folder"


def _times(found: Times) -> tuple[str, ...]:
    return tuple(NOTHING if each is None else _brief(each) for each in (found.median, found.p95, found.worst))


def _brief(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else length(seconds)


def _outages(line: Line | None) -> Plot | None:
    """It falls to the ground where it was not up all the time: a minute of a month could not be seen otherwise."""
    if line is None:
        return None
    whole = tuple(None if value is None else float(value == 1) for value in line.values)
    return _plot(line.model_copy(update={"values": whole}))


def _plot(line: Line, threshold: float | None = None) -> Plot:
    points = [(line.since + place * line.step, value) for place, value in enumerate(line.values) if value is not None]
    end = line.since + (len(line.values) - 1) * line.step
    return plot(points, line.since, max(end, line.since + 1), gap=1.5 * line.step, threshold=threshold)


def _shown(unit: str) -> Callable[[float], str]:
    if unit == "percent":
        return lambda value: f"{value:.1f} %"
    if unit == "milliseconds":
        return lambda value: f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"
    return lambda value: f"{value:.2f}"


def _several(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
