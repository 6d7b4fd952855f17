"""/api/v1/readings: what was measured, minute by minute or hour by hour. docs/history.md has the details."""

import math
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, Literal

from apiflask import APIBlueprint
from flask import Response, request
from pydantic import ConfigDict, Field, ValidationInfo, WithJsonSchema, field_validator
from sqlalchemy import Connection

from service import readings, spreadsheet
from service.checking import Moment
from service.readings import FIRST, HOUR, MINUTE, UNITS, Point, Series
from service.settings import Settings
from service.values import Duration, iso, length, suggestion
from service.web.api import ASKED_AGAIN, Asked, Next, Paged, Shape, Time, View, answer, asked_again, guarded, next_page, operation
from service.web.errors import Unprocessable

MOST_POINTS = 11_000  # in one answer
MOST_ROWS = 100_000  # to make it of: a tenth of a second in which this worker does nothing else
MOST_SERIES = 100  # in one answer
GOOD = 500  # points: as many as a picture of them can show
DEFAULT = 3600.0  # seconds
LONGEST = 3 * 366 * 86_400.0
STEPS = (60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400)
HEAD = ("time", "target", "metric", "mount", "unit", "mean", "least", "most", "samples")


_step_schema = {
    "type": "string",
    "pattern": "^(([1-9]|[1-5][0-9]|60)m|[1-9][0-9]{0,2}h|[1-9][0-9]?d)$",
    "examples": ["5m"],
}


class ReadingsAsked(Asked):
    """Which reading, from when to when, and in which steps."""

    metric: Annotated[
        str,
        Field(
            description="What was measured (docs/monitor.md).", examples=["cpu_usage"], json_schema_extra={"enum": list(UNITS)}
        ),
    ]
    target: Annotated[
        str | None, Field(description="Of this target; without it of each, at most 100 series.", examples=["self"])
    ] = None
    mount: Annotated[str | None, Field(description="Of this mounted disk; without it of each.")] = None
    end: Annotated[
        Moment | None,
        Field(alias="to", description="Before this time, ISO 8601 with a zone; now.", examples=["2026-10-16T12:41:00Z"]),
    ] = None
    begin: Annotated[
        Moment | None,
        Field(
            alias="from",
            description="At this time or after it; an hour before `to`.",
            examples=["2026-10-16T11:41:00Z"],
        ),
    ] = None
    step: Annotated[
        Annotated[Duration, WithJsonSchema(_step_schema)] | None,
        Field(description=f"Whole minutes; from `1h` on whole hours. Without it as long as gives {GOOD} points at most."),
    ] = None
    format: Annotated[
        Literal["json", "csv"] | None, Field(description="Without it as `Accept` says, else JSON.", examples=["json"])
    ] = None

    @field_validator("metric")
    @classmethod
    def _known(cls, metric: str) -> str:
        if metric not in UNITS:
            raise ValueError(f"is none that is kept{suggestion(metric, UNITS)}")
        return metric

    @field_validator("begin")
    @classmethod
    def _lasts(cls, begin: float | None, info: ValidationInfo) -> float | None:
        if "end" in info.data:
            begins, ends = _period(begin, info.data["end"], (info.context or {})["now"])
            if not 0 < ends - begins <= LONGEST:
                raise ValueError(f"must lie before `to`, or now, and by at most {length(LONGEST)}")
        return begin

    @field_validator("step")
    @classmethod
    def _whole(cls, step: float | None) -> float | None:
        if step is not None and (step < MINUTE or step % MINUTE or (step > HOUR and step % HOUR)):
            raise ValueError("is not a number of whole minutes, from an hour on of whole hours; write one such as 5m or 2h")
        return step

    def period(self, now: float) -> tuple[float, float]:
        """From when until before when."""
        return _period(self.begin, self.end, now)


def _period(begin: float | None, end: float | None, now: float) -> tuple[float, float]:
    ends = now if end is None else end
    return max(0.0, ends - DEFAULT) if begin is None else begin, ends


class PointShape(Shape):
    """What was measured in one step. `samples` of them, `mean`, `least` and `most` of their values."""

    at: Time
    mean: float
    least: float
    most: float
    samples: int


class CourseShape(Shape):
    """One reading of one target. `mount` is empty where it is not about a mounted disk. Steps without a sample are left out."""

    target: str
    mount: str
    points: list[PointShape]


class ReadingsShape(Shape):
    """A reading, of one target or several. Points begin at multiples of `step`, counted from 1970 in UTC."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)

    metric: str
    unit: str
    begin: Annotated[Time, Field(alias="from")]
    end: Annotated[Time, Field(alias="to")]
    step: Annotated[int, Field(description="Seconds. Where minutes are no longer kept, points are an hour apart.")]
    series: list[CourseShape]


class SeriesAsked(Paged):
    """Which readings, in pages."""

    target: Annotated[str | None, Field(description="Of this target.", examples=["self"])] = None


class SeriesShape(Shape):
    """A reading that is kept, and when the hours of its first and its last sample began."""

    target: str
    metric: str
    mount: str
    unit: str
    first_at: Time
    last_at: Time


class EveryShape(Shape):
    """A page of readings, sorted by target, metric and mount."""

    series: list[SeriesShape]
    next: Next


def blueprint(settings: Settings) -> APIBlueprint:
    """The routes, around one database."""
    routes = APIBlueprint("readings", __name__, url_prefix="/api/v1", tag="Readings")
    opened = guarded(routes, settings)
    for path, view in (("/readings", ReadingsView), ("/readings/series", SeriesView)):
        routes.add_url_rule(path, view_func=view.as_view(view.__name__, opened))
    return routes


class ReadingsView(View):
    @operation(ReadingsShape, query=ReadingsAsked, media=["text/csv"])
    def get(self, query: ReadingsAsked) -> Response:
        """What was measured, in steps; as JSON or as CSV."""
        since, until = query.period(time.time())
        with self.reading() as connection:
            every = list(islice(_asked_for(connection, query), MOST_SERIES + 1))
            step = round(query.step) if query.step else _step(until - since)
            _check(until - since, step, len(every))
            found = {series: readings.points(connection, series, since, until, step) for series in every}
        courses = [
            CourseShape(
                target=series.target,
                mount=series.mount,
                points=[_shape(point) for point in points],
            )
            for series, points in found.items()
        ]
        unit = UNITS[query.metric]
        shape = ReadingsShape(metric=query.metric, unit=unit, begin=iso(since), end=iso(until), step=step, series=courses)
        wanted = query.format or request.accept_mimetypes.best_match(["application/json", "text/csv"])
        response = _table(shape, until) if wanted in ("csv", "text/csv") else answer(shape)
        response.vary.add("Accept")
        return response


class SeriesView(View):
    @operation(EveryShape, query=SeriesAsked)
    def get(self, query: SeriesAsked) -> Response:
        """Which readings are kept."""
        after = _series(query)
        with self.reading() as connection:
            found = list(islice(readings.every(connection, query.target, after), query.limit + 1))
            shapes = [
                SeriesShape(**series._asdict(), unit=UNITS.get(series.metric, ""), first_at=iso(span[0]), last_at=iso(span[1]))
                for series in found[: query.limit]
                if (span := readings.span(connection, series)) is not None
            ]
        more = found[query.limit - 1] if len(found) > query.limit else None
        return answer(EveryShape(series=shapes, next=next_page(more)))


def _shape(point: Point) -> PointShape:
    values = {name: round(getattr(point, name), 4) for name in ("mean", "least", "most")}
    return PointShape(at=iso(point.at), **values, samples=point.samples)


def _asked_for(connection: Connection, query: ReadingsAsked) -> Iterator[Series]:
    found = readings.of_metric(connection, query.metric, query.target)
    return (series for series in found if query.mount in (None, series.mount))


def _step(seconds: float) -> int:
    """The shortest with which there are no more than GOOD points."""
    days = STEPS[-1] * math.ceil(seconds / GOOD / STEPS[-1])
    return next((step for step in STEPS if seconds / step <= GOOD), days)


def _check(seconds: float, step: int, series: int) -> None:
    """Raises Unprocessable with a step that would do."""
    if series > MOST_SERIES:
        raise Unprocessable([("target", f"is needed: more than {MOST_SERIES} series have this metric")])
    rows = seconds / (MINUTE if step < HOUR else HOUR) * series
    if seconds / step * series <= MOST_POINTS and rows <= MOST_ROWS:
        return
    least = seconds * series / MOST_POINTS
    if least > HOUR or rows > MOST_ROWS:
        least = HOUR * math.ceil(least / HOUR)
    good = MINUTE * math.ceil(least / MINUTE)
    about = f" for {series} series" if series > 1 else ""
    raise Unprocessable([("step", f"gives too much{about}: {MOST_POINTS} points at most; a step of {_written(good)} would do")])


def _written(step: int) -> str:
    return f"{step // HOUR}h" if step % HOUR == 0 else f"{step // MINUTE}m"


def _table(shape: ReadingsShape, until: float) -> Response:
    """As CSV, to be kept as a file."""
    rows = (
        (point.at, course.target, shape.metric, course.mount, shape.unit, point.mean, point.least, point.most, point.samples)
        for course in shape.series
        for point in course.points
    )
    name = f"tocsin-{shape.metric}-{datetime.fromtimestamp(until, UTC):%Y%m%dT%H%M%SZ}.csv"
    headers = {**ASKED_AGAIN, "Content-Disposition": f'attachment; filename="{name}"'}
    response = Response(spreadsheet.written(HEAD, rows), headers=headers, content_type="text/csv; charset=utf-8; header=present")
    return asked_again(response)


def _series(query: SeriesAsked) -> Series:
    after = query.cursor()
    if after is None:
        return FIRST
    if len(after) != 3 or not all(isinstance(each, str) and each.isprintable() for each in after):
        raise Unprocessable([("after", "is no `next` of this list")])
    return Series(*map(str, after))
