"""What monitor.yaml can say: targets, rules, receivers, routes, maintenance windows. Frozen; `loading` reads the file."""

import re
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from service.conditions import ABSENT, ConditionText
from service.matchers import LABELS, MatcherText
from service.receiver import Receiver
from service.services import Heal, Service, ServiceName
from service.values import Duration, HttpAddress, Name, Part, suggestion

PLACEHOLDERS = ("alert", "target", "value", "unit", "threshold", "severity", "scope", "mount")
KEEP_FIRING = 60.0  # seconds
DAY = 86_400.0  # seconds
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_PLACEHOLDER = re.compile(r"\{\{\s*(.*?)\s*\}\}")
_CLOCK = re.compile(r"([01]\d|2[0-3]):([0-5]\d)", re.ASCII)


Severity = Literal["info", "warning", "critical"]


def fill_summary(summary: str, values: dict[str, str]) -> str:
    """Put values for `{{ name }}`. Not a template engine: what a summary can do is this and no more."""
    return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), summary)


def _check_summary(summary: str) -> str:
    for name in _PLACEHOLDER.findall(summary):
        if name not in PLACEHOLDERS:
            raise ValueError(f"{{{{ {name} }}}} is not a value of an alert{suggestion(name, PLACEHOLDERS)}")
    return summary


class Target(Part):
    """Something that answers HTTP. It is up when its status is among `expect` (without any: 200 to 299)."""

    name: Name
    url: HttpAddress
    timeout: Annotated[Duration, Field(gt=0, le=60)] = 3.0
    expect: tuple[Annotated[int, Field(ge=100, le=599)], ...] = ()
    readings: bool = True  # take the readings of a Tocsin's /api/health; off for a second way to the same one
    parent: Name | None = None  # the target without which this one cannot be reached
    service: ServiceName | None = None  # what answers there, for a rule that heals


class Rule(Part):
    """A condition and how long it must hold. `until` is the level that clears it, where that is another one."""

    alert: Name
    when: ConditionText
    until: ConditionText | None = None
    hold: Annotated[Duration, Field(ge=0, alias="for")] = 0.0
    keep_firing_for: Annotated[Duration | None, Field(ge=0)] = None  # so long it must be clear to be resolved
    severity: Severity = "warning"
    summary: Annotated[str, Field(max_length=2000), AfterValidator(_check_summary)] = (
        "{{ target }}: {{ alert }}, {{ value }}{{ unit }} (threshold {{ threshold }}{{ unit }})"
    )
    targets: Annotated[tuple[Name, ...], Field(validate_default=True)] = ()  # without any: every one that has the metric
    heal: Heal | None = None

    @property
    def clear_for(self) -> float:
        """Seconds that it must be clear to be resolved: what is brought back has stayed so for `confirm`."""
        if self.keep_firing_for is None:
            return KEEP_FIRING if self.heal is None else self.heal.confirm
        return max(self.keep_firing_for, self.heal.confirm if self.heal else 0.0)

    @field_validator("until")
    @classmethod
    def _same_metric(cls, until: ConditionText | None, info: ValidationInfo) -> ConditionText | None:
        when = info.data.get("when")
        if until and when and until.metric != when.metric:
            raise ValueError(f"asks for {until.metric!r}, but `when` for {when.metric!r}; both must name one metric")
        if until and when and ABSENT in (until.operator, when.operator):
            raise ValueError("does not go with absent(); that is cleared by the value's return")
        return until

    @field_validator("targets")
    @classmethod
    def _named(cls, targets: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        when = info.data.get("when")
        if when and when.operator == ABSENT and not targets:
            raise ValueError(f"is required with absent({when.metric}), as not every target has that metric; name those that do")
        return targets


class Route(Part):
    """Which alerts go to which receivers. What no route takes goes to every receiver."""

    severity: tuple[Severity, ...] = ()  # without any: every severity
    matchers: tuple[MatcherText, ...] = ()
    receivers: tuple[Name, ...]  # an empty list: to the log only
    group_by: tuple[Literal[LABELS], ...] = ()  # type: ignore[valid-type]  # a message for each of their values
    after: Annotated[Duration, Field(ge=0)] = 0.0  # only what has fired so long, and nobody has acknowledged


def _clock(text: object) -> int:
    match = _CLOCK.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f'{text!r} is not a time of day; write it as "HH:MM"')
    return int(match[1]) * 60 + int(match[2])


def _some(days: tuple[str, ...]) -> tuple[str, ...]:
    if not days:
        raise ValueError("is empty; name the days, or leave it out")
    return days


def _zone(name: object) -> ZoneInfo:
    if isinstance(name, ZoneInfo):
        return name
    try:
        return ZoneInfo(name if isinstance(name, str) else "")
    except (OSError, ValueError, KeyError):
        raise ValueError(f"{name!r} is not a time zone; write one such as UTC or Europe/Berlin") from None


_clock_schema = {"type": "string", "pattern": f"^{_CLOCK.pattern}$", "examples": ["02:00"]}
ClockTime = Annotated[int, BeforeValidator(_clock), WithJsonSchema(_clock_schema)]  # minutes since midnight
Zone = Annotated[ZoneInfo, BeforeValidator(_zone), WithJsonSchema({"type": "string", "examples": ["UTC", "Europe/Berlin"]})]


class Maintenance(Part):
    """A silence that comes back: on these days, from one time of day to another, which may be past midnight."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: Name
    matchers: tuple[MatcherText, ...] = ()  # without any: everything
    days: Annotated[tuple[Literal[DAYS], ...], AfterValidator(_some)] = DAYS  # type: ignore[valid-type]  # when it begins
    start: Annotated[ClockTime, Field(alias="from")]
    end: Annotated[ClockTime, Field(alias="until")]
    timezone: Annotated[Zone, Field(default_factory=lambda: ZoneInfo("UTC"))]
    heal: bool = True  # whether services are restarted all the same

    @field_validator("end")
    @classmethod
    def _lasts(cls, end: int, info: ValidationInfo) -> int:
        if end == info.data.get("start"):
            raise ValueError("is the same as `from`; a window that never ends is a rule to be removed")
        return end

    def holds(self, now: float) -> bool:
        """Whether it lasts at the time `now`, by the clock on the wall there. It belongs to the day it begins on."""
        there = datetime.fromtimestamp(now, self.timezone)
        minute, today = there.hour * 60 + there.minute, there.weekday()
        if self.start < self.end:
            return self.start <= minute < self.end and DAYS[today] in self.days
        began_today, began_yesterday = minute >= self.start, minute < self.end
        return (began_today and DAYS[today] in self.days) or (began_yesterday and DAYS[today - 1] in self.days)


class Keep(Part):
    """How long what has happened is kept. `history` is about all that is no reading: alerts, messages, restarts, reports."""

    minutes: Annotated[Duration, Field(ge=3600)] = 30 * DAY
    hours: Duration = 365 * DAY
    history: Annotated[Duration, Field(ge=DAY)] = 365 * DAY

    @model_validator(mode="after")
    def _hours_are_left(self) -> Self:
        if self.hours < self.minutes:
            raise ValueError("`hours` is shorter than `minutes`; the hours are what is left when the minutes are gone")
        return self


class File(Part):
    """monitor.yaml as it is written. What is left out comes from the settings."""

    interval: Annotated[Duration, Field(gt=0, le=86400)] | None = None
    targets: tuple[Target, ...] | None = None
    rules: tuple[Rule, ...] | None = None
    receivers: tuple[Receiver, ...] | None = None
    routes: tuple[Route, ...] | None = None
    services: tuple[Service, ...] | None = None
    maintenance: tuple[Maintenance, ...] | None = None
    repeat_interval: Annotated[Duration, Field(ge=0)] | None = None
    heartbeat: HttpAddress | None = None
    keep: Keep | None = None


class Configuration(Part):
    """What the monitor works with: the file, and the settings where it is silent. Times in seconds."""

    interval: float
    targets: tuple[Target, ...]
    rules: tuple[Rule, ...]
    receivers: tuple[Receiver, ...]
    routes: tuple[Route, ...] = ()
    services: tuple[Service, ...] = ()
    maintenance: tuple[Maintenance, ...] = ()
    repeat_interval: float = 0.0  # 0: no reminders
    heartbeat: SecretStr | None = None  # asked after each tick that was committed
    keep: Keep = Keep()
    instance: str = ""  # which of many Tocsins this is
    public: str = ""  # its address, for links that people follow

    def healed(self, rule: Rule, target: str) -> str | None:
        """The name of the service that is restarted when this rule fires about this target; None for none."""
        if rule.heal is None or rule.heal.service:
            return rule.heal.service if rule.heal else None
        return self.target_named[target].service if target in self.target_named else None

    def ancestors(self, target: str) -> tuple[str, ...]:
        """All targets without which this one cannot be reached, the nearest first."""
        found: dict[str, None] = {}
        while (below := self.target_named.get(target)) and below.parent and below.parent not in found:
            target = below.parent
            found[target] = None
        return tuple(found)

    # Found once: a tick asks for thousands. A copy by `model_copy` would have those of its original.

    @cached_property
    def target_named(self) -> Mapping[str, Target]:
        return {target.name: target for target in self.targets}

    @cached_property
    def rule_named(self) -> Mapping[str, Rule]:
        return {rule.alert: rule for rule in self.rules}
