"""When a job is due: `cron`, `interval` or `date`, computed by APScheduler's triggers. Times are seconds since 1970.

APScheduler is loaded when a due time is computed, and nothing more of it than the trigger. Two things are done here in
its place. The jitter, as its triggers draw it anew whenever they are asked. And the changes of a zone's clock: in the hour
that comes twice its CronTrigger gives times that have passed (3.11), so it is asked about a clock on the wall that never
changes, and what that shows is put into the zone as RFC 5545 has it, section 3.3.5: a time that comes twice is the first
of the two, one that is left out comes as much later as the clock is put forward.
"""

from abc import abstractmethod
from datetime import UTC, datetime, timedelta, timezone
from difflib import get_close_matches
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from service import crontab
from service.checking import moment
from service.values import length, seconds

SHORTEST = 10.0  # seconds
LONGEST = 366 * 86_400.0  # seconds
LONGEST_JITTER = 86_400.0  # seconds
HORIZON = 10 * 366 * 86_400.0  # seconds: what does not come within ten years never comes. 29 February may take eight
LATEST = 7_258_118_400.0  # the end of the year 2199
_BIT = 0.001  # seconds
ANY_DAY = 1_767_225_600.0  # 2026 in UTC, from which times of a cron are compared
MOST_TIMES = 500


def _text(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("is not text")  # noqa: TRY004 - pydantic's way
    return value.strip()


def _duration(text: str) -> str:
    seconds(text)
    return text


def instant(text: str, zone: str | None) -> float:
    """A time in seconds since 1970; one without an offset is by the clock of the zone. Raises ValueError."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return moment(text)  # which says what is wrong with it
    if found.tzinfo is None and zone is not None:
        text = found.replace(tzinfo=ZoneInfo(zone)).isoformat()
    return moment(text)


def _time(text: str, info: ValidationInfo) -> str:
    if instant(text, info.data.get("timezone")) > LATEST:
        raise ValueError("lies after the year 2199")
    return text


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (OSError, ValueError, KeyError):
        close = get_close_matches(name, available_timezones(), n=1)
        remedy = f"did you mean {close[0]!r}?" if close else "write one such as Europe/Zurich, or UTC"
        raise ValueError(f"{name!r} is not a time zone; {remedy}") from None
    return name


# What the validators above take, for those who write to the API: as much of it as a pattern can say.
_length_schema: dict[str, Any] = {"pattern": r"^(?=.*[1-9])([0-9]{1,9}([.][0-9]{1,9})?(ms|s|m|h|d))+$"}
Length = Annotated[str, BeforeValidator(_text), AfterValidator(_duration), Field(json_schema_extra=_length_schema)]
When = Annotated[
    str,
    BeforeValidator(_text),
    AfterValidator(_time),
    Field(
        json_schema_extra={"format": "date-time", "pattern": r"^(19[7-9][0-9]|2[01][0-9]{2})-"},
        examples=["2100-10-19T08:00:00+02:00"],
    ),
]
Zone = Annotated[str, BeforeValidator(_text), AfterValidator(_zone), Field(examples=["Europe/Zurich"])]


TheirZone = Annotated[Zone | None, Field(description="By its clock are the times here that have no offset.")]
Start = Annotated[When | None, Field(description="Not before.")]
End = Annotated[When | None, Field(description="Not after.")]
Jitter = Annotated[Length | None, Field(description="A run is late by some part of it, another one each time.")]


class _Trigger(BaseModel):
    """What all have in common; each names its fields itself, in the order in which they are shown."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("jitter", check_fields=False)
    @classmethod
    def _bounded(cls, jitter: str | None, info: ValidationInfo) -> str | None:
        if jitter is not None and seconds(jitter) > LONGEST_JITTER:
            raise ValueError("is longer than a day")
        if jitter is not None and "every" in info.data and seconds(jitter) >= seconds(info.data["every"]):
            raise ValueError("is not shorter than `every`")
        return jitter

    @field_validator("end", check_fields=False)
    @classmethod
    def _lasts(cls, end: str | None, info: ValidationInfo) -> str | None:
        start, zone = info.data.get("start"), info.data.get("timezone")
        if end is not None and start is not None and instant(end, zone) < instant(start, zone):
            raise ValueError("lies before the start")
        return end

    def due(self, after: float, since: float, chance: float) -> float | None:
        """The first time after `after`; None when there is none any more. `since`: when the job was made as it is.

        `chance`, 0 to 1, is how much of the jitter is added.
        """
        found, end = self._next(after + _BIT, since), self._bound("end")
        if found is None or (end is not None and found > end):
            return None
        jitter = getattr(self, "jitter", None)
        late = found + chance * (0.0 if jitter is None else seconds(jitter))
        return late if end is None else min(late, end)

    def _bound(self, name: Literal["start", "end"]) -> float | None:
        text = getattr(self, name, None)
        return None if text is None else instant(text, getattr(self, "timezone", None))

    @abstractmethod
    def _next(self, earliest: float, since: float) -> float | None:
        """The first time that is not before `earliest`, without jitter."""


class Cron(_Trigger):
    """At the times of a crontab's line, by the clock on the wall in a time zone."""

    type: Literal["cron"]
    cron: Annotated[
        str,
        BeforeValidator(_text),
        AfterValidator(crontab.line),
        Field(
            description="Minute, hour, day of the month, month, day of the week.",
            examples=["0 8 * * mon"],
            json_schema_extra=crontab.SCHEMA,
        ),
    ]
    timezone: Zone = "UTC"
    start: Start = None
    end: End = None
    jitter: Jitter = None

    def __str__(self) -> str:
        return f"{self.cron} {self.timezone}"

    def _next(self, earliest: float, since: float) -> float | None:  # noqa: ARG002 - counts from nothing
        earliest = max(earliest, self._bound("start") or 0.0)
        wall, zone = crontab.wall(self.cron, earliest + HORIZON), ZoneInfo(self.timezone)
        there = datetime.fromtimestamp(earliest, zone)
        shown = there.replace(tzinfo=UTC, fold=0)
        while (found := wall.get_next_fire_time(None, shown)) is not None:
            due = float(found.replace(tzinfo=zone).timestamp())
            if self.cron.split()[1] == "*":  # every hour: also the one that comes twice
                unchanged = float(found.replace(tzinfo=timezone(there.utcoffset() or timedelta())).timestamp())
                due = unchanged if unchanged - earliest < 3600.0 else due
            if due >= earliest:
                return due
            shown = found + timedelta(seconds=1)
        return None


class Interval(_Trigger):
    """So often, counted from `start`, or from when the job was added or changed. An hour is an hour, whatever the clocks do."""

    type: Literal["interval"]
    every: Annotated[Length, Field(examples=["1h"])]
    timezone: TheirZone = None
    start: Start = None
    end: End = None
    jitter: Jitter = None

    @field_validator("every")
    @classmethod
    def _sensible(cls, every: str) -> str:
        if not SHORTEST <= seconds(every) <= LONGEST:
            raise ValueError("is not between 10s and 366d")
        return every

    def __str__(self) -> str:
        return f"every {self.every}"

    def _next(self, earliest: float, since: float) -> float | None:
        from apscheduler.triggers.interval import IntervalTrigger  # noqa: PLC0415 - see above

        first = self._bound("start") or since
        trigger = IntervalTrigger(seconds=seconds(self.every), start_date=_utc(first), timezone=UTC)
        return float(trigger.get_next_fire_time(None, _utc(earliest)).timestamp())


class Date(_Trigger):
    """Once."""

    type: Literal["date"]
    timezone: TheirZone = None
    at: When
    jitter: Jitter = None

    def __str__(self) -> str:
        return f"at {self.at}{f' {self.timezone}' if self.timezone else ''}"

    def _next(self, earliest: float, since: float) -> float | None:  # noqa: ARG002 - counts from nothing
        from apscheduler.triggers.date import DateTrigger  # noqa: PLC0415 - see above

        when = instant(self.at, self.timezone)
        at = float(DateTrigger(_utc(when), UTC).get_next_fire_time(None, _utc(earliest)).timestamp())
        return at if at >= earliest else None


Trigger = Annotated[Cron | Interval | Date, Field(discriminator="type")]


def never(trigger: Cron | Interval | Date, now: float) -> str:
    """Why it is never due after `now`; empty when it is."""
    if trigger.due(now, now, 0.0) is not None:
        return ""
    if isinstance(trigger, Date):
        return f"{trigger.at} is past"
    return "is never due: no such time lies between its start, or now, and its end, nor within ten years"


def overtaken(trigger: Cron | Interval | Date) -> str:
    """Why its jitter would have a run come after the time of the next one; empty when it does not."""
    if not isinstance(trigger, Cron) or trigger.jitter is None:
        return ""
    jitter, wall = seconds(trigger.jitter), crontab.wall(trigger.cron, ANY_DAY + HORIZON)
    before = wall.get_next_fire_time(None, _utc(ANY_DAY))
    for _ in range(MOST_TIMES):
        if before is None or (found := wall.get_next_fire_time(None, before + timedelta(seconds=1))) is None:
            break
        if (gap := (found - before).total_seconds()) <= jitter:
            return f"has a jitter that is not shorter than the {length(gap)} between two of its times"
        before = found
    return ""


def _utc(when: float) -> datetime:
    return datetime.fromtimestamp(when, UTC)
