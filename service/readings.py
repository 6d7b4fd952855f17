"""What targets measured: a row for each minute of each of their readings, and one for each hour, which is kept longer.

Both are written at once, so an hour is complete whatever becomes of its minutes. A question for steps of an hour or more,
or for a time whose minutes are gone, is answered from the hours. No time is answered from both.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, and_, case, delete, exists, func, select

from service.database import upsert
from service.measure import METRICS
from service.tables import readings

MINUTE, HOUR = 60, 3600  # seconds: the steps of the rows
NOT_KEPT = ("http_status",)  # what is the mean of 200 and 503?
UNITS: Mapping[str, str] = {**METRICS, "up": "", "latency_ms": "milliseconds"}

Means = list[tuple[int, float]]  # seconds since 1970 at which a row begins, and the mean of its samples


class Series(NamedTuple):
    """One reading of one target. `mount` is empty where it is not about a mounted disk."""

    target: str
    metric: str
    mount: str = ""


FIRST = Series("", "", "")  # before all


class Point(NamedTuple):
    """What was measured from `at` on, in seconds since 1970, until the next step."""

    at: int
    mean: float
    least: float
    most: float
    samples: int
    minutes: int  # in which there were any


@dataclass(slots=True)
class Bucket:
    """The samples of a minute that begins at `at`, added up."""

    series: Series
    at: int
    count: int = 0
    total: float = 0.0
    least: float = float("inf")
    most: float = float("-inf")

    def add(self, value: float) -> None:
        self.count += 1
        self.total += value
        self.least, self.most = min(self.least, value), max(self.most, value)


def put(connection: Connection, buckets: Sequence[Bucket]) -> None:
    """Add minutes to what is there, in the caller's transaction. A minute may come in parts, and in any order."""
    rows = [_row(bucket, step) for bucket in buckets for step in (MINUTE, HOUR)]
    if not rows:
        return
    statement = upsert(connection, readings)
    there, new = readings.c, statement.excluded
    # A minute that comes in two parts counts once.
    minutes, most = there.minutes + new.minutes, there.step // MINUTE
    added = {
        "count": there["count"] + new["count"],
        "total": there.total + new.total,
        "least": case((new.least < there.least, new.least), else_=there.least),
        "most": case((new.most > there.most, new.most), else_=there.most),
        "minutes": case((minutes > most, most), else_=minutes),
    }
    connection.execute(statement.on_conflict_do_update(index_elements=list(readings.primary_key.columns), set_=added), rows)


def of_metric(connection: Connection, metric: str, target: str | None = None) -> Iterator[Series]:
    """Those of one metric, in order; which targets have it is found with one question."""
    row = readings.c
    first = select(func.min(row.target).label("target")).where(row.step == HOUR).cte("targets", recursive=True)
    following = select(func.min(row.target)).where(row.step == HOUR, row.target > first.c.target).scalar_subquery()
    targets = first.union_all(select(following).where(first.c.target.is_not(None)))
    has = exists().where(row.step == HOUR, row.target == targets.c.target, row.metric == metric)
    query = select(targets.c.target).where(has).order_by(targets.c.target)
    for name in connection.execute(query).scalars().all() if target is None else [target]:
        of_it = and_(row.step == HOUR, row.target == name, row.metric == metric)
        mount = connection.execute(select(func.min(row.mount)).where(of_it)).scalar()
        while mount is not None:
            yield Series(name, metric, mount)
            mount = connection.execute(select(func.min(row.mount)).where(of_it, row.mount > mount)).scalar()


def every(connection: Connection, target: str | None = None, after: Series = FIRST) -> Iterator[Series]:
    """What there is, in order. It goes from one to the next, as looking at each row would take too long."""
    key = readings.c.step == HOUR if target is None else and_(readings.c.step == HOUR, readings.c.target == target)
    order = (readings.c.target, readings.c.metric, readings.c.mount)
    found = after
    while True:
        behind = (
            and_(readings.c.target == found.target, readings.c.metric == found.metric, readings.c.mount > found.mount),
            and_(readings.c.target == found.target, readings.c.metric > found.metric),
            readings.c.target > found.target,
        )
        queries = (select(*order).where(key, each).order_by(*order).limit(1) for each in behind)
        row = next((row for query in queries if (row := connection.execute(query).first())), None)
        if row is None:
            return
        found = Series(*row)
        yield found


def span(connection: Connection, series: Series, step: int = HOUR) -> tuple[int, int] | None:
    """When the first and the last of its rows begin; None without any."""
    first, last = (
        connection.execute(select(readings.c.at).where(_of(series, step)).order_by(order).limit(1)).scalar()
        for order in (readings.c.at, readings.c.at.desc())
    )
    return None if first is None or last is None else (first, last)


def recent(connection: Connection, target: str, metrics: Collection[str], since: float) -> dict[str, Means]:
    """The minutes of these readings since then, by metric, each in order of time; not those of single mounted disks."""
    row, found = readings.c, defaultdict[str, Means](list)
    key = and_(row.step == MINUTE, row.target == target, row.metric.in_(metrics), row.mount == "", row.at >= since)
    for metric, at, mean in connection.execute(select(row.metric, row.at, row.total / row["count"]).where(key).order_by(row.at)):
        found[metric].append((at, mean))
    return dict(found)


def points(connection: Connection, series: Series, since: float, until: float, step: int) -> list[Point]:
    """What was measured from `since` until before `until`, in steps that begin at multiples of `step`, in order of time.

    `step`: seconds, whole minutes; from an hour on whole hours. Where only hours are left, they are steps of an hour.
    """
    return [point for part in _parts(connection, series, since, until, step) for point in _read(connection, part)]


def prune(connection: Connection, series: Series, step: int, before: float, most: int) -> int:
    """Delete some of its rows that begin before then, the oldest first, so many and the rest of an hour; how many.

    `before` is a whole hour. No question finds half of one.
    """
    old = select(readings.c.at).where(_of(series, step), readings.c.at < before).order_by(readings.c.at).limit(most)
    ats = connection.execute(old).scalars().all()
    if not ats:
        return 0
    end = ats[-1] // HOUR * HOUR + HOUR
    return connection.execute(delete(readings).where(_of(series, step), readings.c.at < end)).rowcount


def _parts(connection: Connection, series: Series, since: float, until: float, step: int) -> list[Select[Any]]:
    """One question of the hours, one of the minutes, or one of each, the first up to the hour in which the second begins."""
    begin = since // step * step
    kept = None if step >= HOUR else span(connection, series, MINUTE)
    if kept is None:
        return [_query(series, HOUR, begin // HOUR * HOUR, until, max(step, HOUR))]
    seam = kept[0] // HOUR * HOUR  # minutes go by whole hours
    if begin >= seam:
        return [_query(series, MINUTE, begin, until, step)]
    before = _query(series, HOUR, begin // HOUR * HOUR, min(seam, until), HOUR)
    return [before, _query(series, MINUTE, seam, until, step)]


def _query(series: Series, rows: int, since: float, until: float, step: int) -> Select[Any]:
    begins = (readings.c.at // step * step).label("begins")
    sums = (func.sum(readings.c[name]).label(name) for name in ("count", "total", "minutes"))
    extremes = func.min(readings.c.least).label("least"), func.max(readings.c.most).label("most")
    within = and_(_of(series, rows), readings.c.at >= since, readings.c.at < until)
    return select(begins, *sums, *extremes).where(within).group_by(begins).order_by(begins)


def _read(connection: Connection, query: Select[Any]) -> Iterator[Point]:
    for begins, count, total, minutes, least, most in connection.execute(query):
        # Added up, a mean may come out a hair beyond what it is the mean of.
        yield Point(begins, min(max(total / count, least), most), least, most, count, minutes)


def _of(series: Series, step: int) -> ColumnElement[bool]:
    row = readings.c
    return and_(row.step == step, row.target == series.target, row.metric == series.metric, row.mount == series.mount)


def _row(bucket: Bucket, step: int) -> dict[str, Any]:
    target, metric, mount = bucket.series
    key = {"step": step, "target": target, "metric": metric, "mount": mount, "at": bucket.at // step * step}
    sums = {"count": bucket.count, "total": bucket.total, "least": bucket.least, "most": bucket.most}
    return {**key, **sums, "minutes": 1}
