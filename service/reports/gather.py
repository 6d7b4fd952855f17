"""The database -> a report. In short questions, one after the other, so that nobody waits for a long one to end."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Select, case, func, or_, select

from service import database, pages, readings
from service.configuration import Configuration
from service.pages import Position
from service.readings import HOUR, MINUTE, Series
from service.reports import compute
from service.reports.compute import Firing, Message, Steps
from service.reports.model import Availability, Disk, Period, Reading, Report
from service.tables import messages, notifications, occurrences, restarts

AT_ONCE = 5000  # rows of one question
SETTLED = 10.0  # seconds after the tick that follows a minute, by which it is written
MOST_MINUTES = 32 * 86_400.0  # seconds; a longer period is told by its hours

Done = Callable[[float], None]  # is told how much is done, 0 to 1


def make(  # noqa: PLR0917 - a period is two of them
    engine: Engine, configuration: Configuration, since: float, until: float, now: float, done: Done = lambda _: None
) -> Report:
    """A report on the time from `since` until before `until`, made at `now`. Raises SQLAlchemyError."""
    with database.checked():
        with database.reading(engine) as connection:
            every = list(readings.every(connection))
            minutes, hours = (_oldest(connection, every, step) for step in (MINUTE, HOUR))
        # As far as that, or as far as there is anything.
        reaches = minutes and (minutes <= since or hours >= minutes // HOUR * HOUR)
        step = MINUTE if reaches and until - since <= MOST_MINUTES else HOUR
        steps = compute.steps_in(since, max(since, min(until, _written(configuration, now))), step)
        up: dict[str, Availability] = {}
        found: list[Reading] = []
        for number, series in enumerate(every):
            done(number / len(every))
            with database.reading(engine) as connection:
                points = readings.points(connection, series, steps.since, steps.until, step)
            if not points:
                continue
            if series.metric == "up":
                up[series.target] = compute.availability(series.target, points, steps, configuration.interval)
            else:
                found.append(compute.reading(series, points, steps, _threshold(configuration, series)))
        targets = list(dict.fromkeys([*(target.name for target in configuration.targets), *up, *(each.target for each in found)]))
        unseen = {name: compute.availability(name, (), steps, configuration.interval) for name in targets}
        firings = [Firing(*row) for row in _firings(engine, since, until)]
        report = Report(
            instance=configuration.instance,
            made_at=now,
            period=Period(since=since, until=until, resolution="minute" if step == MINUTE else "hour"),
            availability=tuple((unseen | up).values()),
            readings=tuple(sorted(found, key=lambda each: targets.index(each.target))),
            disks=tuple(_disks(found, steps, configuration.interval)),
            alerts=tuple(compute.alerts(firings, since, until)),
            reaction=compute.reaction(firings, since, until, receivers=bool(configuration.receivers)),
            restarts=tuple(compute.restarts(_restarts(engine, since, until))),
            deliveries=tuple(
                compute.deliveries(
                    (Message(*row) for row in _messages(engine, since, until)),
                    {row[0]: (row[1], row[2]) for row in _left(engine, since, until)},
                    [receiver.name for receiver in configuration.receivers],
                )
            ),
        )
    done(1.0)
    return report


def end_of(configuration: Configuration, lasts: float, until: float, now: float) -> float:
    """The end of a report that has all of its last step, as the next one begins there: `until`, or a little before."""
    step = MINUTE if lasts <= MOST_MINUTES else HOUR
    return min(until, _written(configuration, now)) // step * step


def _written(configuration: Configuration, now: float) -> float:
    """What comes later is not there yet, which is no gap."""
    return now - configuration.interval - SETTLED


def _oldest(connection: Connection, every: Iterable[Series], step: int) -> int:
    """When the oldest of such rows begins; 0 without any."""
    spans = (readings.span(connection, series, step) for series in every)
    return min((span[0] for span in spans if span is not None), default=0)


def _threshold(configuration: Configuration, series: Series) -> float | None:
    """The lowest above which a rule fires about it."""
    limits = [
        rule.when.threshold
        for rule in configuration.rules
        if rule.when.metric == series.metric
        and rule.when.operator in (">", ">=")
        and (not rule.targets or series.target in rule.targets)
    ]
    return min(limits, default=None)


def _disks(found: Sequence[Reading], steps: Steps, interval: float) -> Iterator[Disk]:
    """Of each mounted disk; of the one that holds the data folder where that is all that is known."""
    mounted = {each.target for each in found if each.metric == "mount_usage"}
    for each in found:
        if each.metric == "mount_usage" or (each.metric == "disk_usage" and each.target not in mounted):
            yield compute.disk(Series(each.target, each.metric, each.mount), each.line, steps.until, interval)


def _firings(engine: Engine, since: float, until: float) -> Iterator[Sequence[Any]]:
    row = occurrences.c
    acknowledged = case((row.acknowledged.is_(None), False), else_=True)
    columns = (row.alert, row.target, row.severity, row.began, row.fired, row.told, row.ended, acknowledged, row.restarts)
    lasted = row.fired < until, or_(row.ended.is_(None), row.ended > since)
    return _rows(engine, select(*columns).where(*lasted), [row.fired, row.id])


def _messages(engine: Engine, since: float, until: float) -> Iterator[Sequence[Any]]:
    row = messages.c
    waited = row.delivered - func.coalesce(row.since, row.created)
    query = select(row.receiver, waited, row.attempts).where(row.created >= since, row.created < until)
    return _rows(engine, query, [row.number])


def _restarts(engine: Engine, since: float, until: float) -> Iterator[Any]:
    row = restarts.c
    query = select(row.service, row.outcome, row.author).where(row.started >= since, row.started < until)
    return _rows(engine, query, [row.started, row.id])


def _left(engine: Engine, since: float, until: float) -> Iterable[Sequence[Any]]:
    """Of each receiver how many notifications of the period wait, and how many were given up."""
    row = notifications.c
    counts = (func.count().filter(row.waiting), func.count().filter(row.dead.is_not(None)))
    query = select(row.receiver, *counts).where(row.changed >= since, row.changed < until, row.waiting | row.dead.is_not(None))
    with database.reading(engine) as connection:
        return connection.execute(query.group_by(row.receiver).order_by(row.receiver)).all()


def _rows(engine: Engine, query: Select[Any], keys: Sequence[ColumnElement[Any]]) -> Iterator[Sequence[Any]]:
    """All of them, AT_ONCE with each question."""
    width = len(query.selected_columns)
    position: Position | None = None
    while True:
        with database.reading(engine) as connection:
            rows, position = pages.page(connection, query, keys, AT_ONCE, position)
        yield from (row[:width] for row in rows)
        if position is None:
            return
