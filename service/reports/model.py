"""What a report says, whatever it is shown as. In JSON times are ISO 8601 in UTC; shares are 0 to 1, lengths seconds.

The JSON is a promise as the body of a webhook is: within a version fields are added, never changed or removed.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema

from service.checking import moment
from service.values import iso


def _moment(value: object) -> object:
    return moment(value) if isinstance(value, str) else value


_as_text = PlainSerializer(iso, return_type=str, when_used="json")
Moment = Annotated[float, BeforeValidator(_moment), _as_text, WithJsonSchema({"type": "string", "format": "date-time"})]


class Fact(BaseModel):
    """A part of a report."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Period(Fact):
    """From when until before when. Readings are of the whole steps within: of minutes, or of hours where those are gone."""

    since: Annotated[Moment, Field(serialization_alias="from", validation_alias="from")]
    until: Annotated[Moment, Field(serialization_alias="to", validation_alias="to")]
    resolution: Literal["minute", "hour"]

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)


class Line(Fact):
    """The course of a reading: the mean of each step from `since` on; null where nothing was measured."""

    since: Annotated[Moment, Field(serialization_alias="from", validation_alias="from")]
    step: int
    values: tuple[float | None, ...]

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)


class Availability(Fact):
    """How much of the measured time a target was up. Null where nothing was measured."""

    target: str
    share: float | None
    up_seconds: float
    down_seconds: float
    unknown_seconds: Annotated[float, Field(description="Nothing was measured; neither up nor down.")]
    line: Line | None


class Reading(Fact):
    """A reading of a target. Percentiles are of the means of minutes (hours), `least` and `most` of single samples."""

    target: str
    metric: str
    mount: str
    unit: str
    mean: float
    p50: float
    p95: float
    p99: float
    least: float
    most: float
    most_at: Annotated[Moment, Field(description="When the minute (hour) with the largest sample began.")]
    threshold: Annotated[float | None, Field(description="The lowest above which a rule fires.")]
    line: Line


class Disk(Fact):
    """How fast a disk fills. `full_at` is null when it does not, at this pace."""

    target: str
    mount: Annotated[str, Field(description="Empty for the disk that holds the data folder.")]
    verdict: Literal["filling", "not filling", "too little data"]
    usage: float
    per_day: Annotated[float | None, Field(description="Percent of the disk.")]
    full_at: Moment | None
    full_in_seconds: float | None


class Alert(Fact):
    """Firings of one alert on one target, of which any part lies in the period. Lengths are of that part."""

    alert: str
    target: str
    severity: Annotated[str, Field(description="Of the latest.")]
    count: int
    seconds: float
    longest_seconds: float
    open: Annotated[int, Field(description="Firing at the end of the period.")]
    acknowledged: int
    restarts: int


class Times(Fact):
    """Lengths of time, in seconds. Null where there is none."""

    count: int
    median: float | None
    p95: float | None
    worst: float | None


class Reaction(Fact):
    """What alerts that fired in the period took: from when the condition was first seen until told, and until it ended."""

    notice: Times
    until: Annotated[Literal["told", "fired"], Field(description="Without a receiver nobody is told: until it fired.")]
    untold: Annotated[int, Field(description="Told to nobody yet, or never: silenced, held, or over too soon.")]
    recovery: Times
    unrecovered: int


class Restarts(Fact):
    """Restarts of one service that ended alike, asked for by the same one."""

    service: str
    outcome: str
    author: str
    count: int


class Delivery(Fact):
    """Messages to one receiver. The delay is from when the oldest of what a message says came to be until it was taken."""

    receiver: str
    delivered: int
    waiting: Annotated[int, Field(description="Notifications of the period that wait now.")]
    dead: Annotated[int, Field(description="Notifications of the period that were given up.")]
    tries: int
    delay: Times


class Report(Fact):
    """How a Tocsin and its targets did in a period."""

    version: Literal[1] = 1
    instance: str
    made_at: Moment
    period: Period
    availability: tuple[Availability, ...]
    readings: tuple[Reading, ...]
    disks: tuple[Disk, ...]
    alerts: tuple[Alert, ...]
    reaction: Reaction
    restarts: tuple[Restarts, ...]
    deliveries: tuple[Delivery, ...]
