"""A report as single numbers, each with what it is about: the lines of its CSV. Pure."""

from collections.abc import Iterator

from service.reports.model import Report, Times
from service.values import iso

HEAD = ("section", "name", "measure", "value", "unit")

Fact = tuple[str, str, str, str | float | None, str]


def facts(report: Report) -> Iterator[Fact]:
    yield "report", report.instance, "from", iso(report.period.since), "time"
    yield "report", report.instance, "to", iso(report.period.until), "time"
    yield "report", report.instance, "made_at", iso(report.made_at), "time"
    for up in report.availability:
        yield "availability", up.target, "share", up.share, ""
        yield "availability", up.target, "up", up.up_seconds, "seconds"
        yield "availability", up.target, "down", up.down_seconds, "seconds"
        yield "availability", up.target, "unknown", up.unknown_seconds, "seconds"
    for reading in report.readings:
        name = _name(reading.target, reading.metric, reading.mount)
        for measure in ("mean", "p50", "p95", "p99", "least", "most"):
            yield "readings", name, measure, getattr(reading, measure), reading.unit
        yield "readings", name, "most_at", iso(reading.most_at), "time"
    for disk in report.disks:
        name = _name(disk.target, disk.mount)
        yield "disks", name, "usage", disk.usage, "percent"
        yield "disks", name, "per_day", disk.per_day, "percent"
        yield "disks", name, "verdict", disk.verdict, ""
        yield "disks", name, "full_in", disk.full_in_seconds, "seconds"
        yield "disks", name, "full_at", None if disk.full_at is None else iso(disk.full_at), "time"
    yield from _of_alerts(report)
    for restart in report.restarts:
        yield "restarts", _name(restart.service, restart.author), restart.outcome, restart.count, ""
    for delivery in report.deliveries:
        for measure in ("delivered", "waiting", "dead", "tries"):
            yield "deliveries", delivery.receiver, measure, getattr(delivery, measure), ""
        yield from _of_times("deliveries", delivery.receiver, "delay_", delivery.delay)


def _of_alerts(report: Report) -> Iterator[Fact]:
    for alert in report.alerts:
        name = _name(alert.alert, alert.target)
        yield "alerts", name, "seconds", alert.seconds, "seconds"
        yield "alerts", name, "longest", alert.longest_seconds, "seconds"
        for measure in ("count", "open", "acknowledged", "restarts"):
            yield "alerts", name, measure, getattr(alert, measure), ""
    yield from _of_times("reaction", "notice", "", report.reaction.notice)
    yield "reaction", "notice", "untold", report.reaction.untold, ""
    yield from _of_times("reaction", "recovery", "", report.reaction.recovery)
    yield "reaction", "recovery", "unrecovered", report.reaction.unrecovered, ""


def _of_times(section: str, name: str, prefix: str, times: Times) -> Iterator[Fact]:
    yield section, name, f"{prefix}count", times.count, ""
    for measure in ("median", "p95", "worst"):
        yield section, name, f"{prefix}{measure}", getattr(times, measure), "seconds"


def _name(*parts: str) -> str:
    return " ".join(part for part in parts if part)
