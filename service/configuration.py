"""monitor.yaml: what to watch, when to tell, and whom. Read once, checked whole, frozen."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from service.document import document_in, place
from service.measure import METRICS as READINGS
from service.settings import Settings, variable
from service.signing import check_secret
from service.values import ConfigurationError, Duration, HttpAddress, explain, number, suggestion

# What a probe adds to the readings of measure.py.
PROBED = {
    "up": "1 when the target answered as expected within its time, else 0",
    "http_status": "the status of its answer",
    "latency_ms": "milliseconds until its answer was complete",
}
NAMED = {"targets": "name", "rules": "alert", "receivers": "name"}  # lists, and the field that must be unique
SECRETS = ("url", "webhook", "secret")  # fields whose value no message repeats
PLACEHOLDERS = ("alert", "target", "value", "unit", "threshold", "severity", "scope", "mount")

_CONDITION = re.compile(r"([a-z_][a-z0-9_]*)\s*(==|!=|>=|<=|>|<)\s*(-?\d{1,15}(?:\.\d{1,9})?)", re.ASCII)
_PLACEHOLDER = re.compile(r"\{\{\s*(.*?)\s*\}\}")
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "==": lambda value, limit: value == limit,
    "!=": lambda value, limit: value != limit,
    ">=": lambda value, limit: value >= limit,
    "<=": lambda value, limit: value <= limit,
    ">": lambda value, limit: value > limit,
    "<": lambda value, limit: value < limit,
}

Name = Annotated[str, Field(min_length=1, max_length=200)]
Severity = Literal["info", "warning", "critical"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Condition(_Part):
    """`<metric> <op> <number>`, such as `cpu_usage > 80`."""

    metric: str
    operator: str
    threshold: float

    def __str__(self) -> str:
        return f"{self.metric} {self.operator} {number(self.threshold)}"

    def holds(self, value: float) -> bool:
        return _COMPARE[self.operator](value, self.threshold)

    @classmethod
    def parse(cls, text: object) -> Self:
        """Raises ValueError for text of another form, and for a metric that nothing measures."""
        if isinstance(text, cls):
            return text
        match = _CONDITION.fullmatch(text.strip()) if isinstance(text, str) else None
        if match is None:
            raise ValueError(f"{text!r} is not \"<metric> <op> <number>\", such as 'cpu_usage > 80'")
        metric, operator, number = match.groups()
        if metric not in READINGS and metric not in PROBED:
            raise ValueError(f"{metric!r} is not a metric{suggestion(metric, [*READINGS, *PROBED])}")
        return cls(metric=metric, operator=operator, threshold=float(number))


_condition_schema = {"type": "string", "pattern": rf"^\s*{_CONDITION.pattern}\s*$", "examples": ["cpu_usage > 80"]}
ConditionText = Annotated[Condition, BeforeValidator(Condition.parse), WithJsonSchema(_condition_schema)]


def fill_summary(summary: str, values: dict[str, str]) -> str:
    """Put values for `{{ name }}`. Not a template engine: what a summary can do is this and no more."""
    return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), summary)


def _check_summary(summary: str) -> str:
    for name in _PLACEHOLDER.findall(summary):
        if name not in PLACEHOLDERS:
            raise ValueError(f"{{{{ {name} }}}} is not a value of an alert{suggestion(name, PLACEHOLDERS)}")
    return summary


class Target(_Part):
    """Something that answers HTTP. It is up when its status is among `expect` (without any: 200 to 299)."""

    name: Name
    url: HttpAddress
    timeout: Annotated[Duration, Field(gt=0, le=60)] = 3.0
    expect: tuple[Annotated[int, Field(ge=100, le=599)], ...] = ()
    readings: bool = True  # take the readings of a Tocsin's /api/health; off for a second way to the same one


class Rule(_Part):
    """A condition and how long it must hold. `until` is the level that clears it, where that is another one."""

    alert: Name
    when: ConditionText
    until: ConditionText | None = None
    hold: Annotated[Duration, Field(ge=0, alias="for")] = 0.0
    severity: Severity = "warning"
    summary: Annotated[str, Field(max_length=2000), AfterValidator(_check_summary)] = (
        "{{ target }}: {{ alert }}, {{ value }}{{ unit }} (threshold {{ threshold }}{{ unit }})"
    )
    targets: tuple[Name, ...] = ()  # without any: every target that has the metric

    @field_validator("until")
    @classmethod
    def _same_metric(cls, until: Condition | None, info: ValidationInfo) -> Condition | None:
        when = info.data.get("when")
        if until and when and until.metric != when.metric:
            raise ValueError(f"asks for {until.metric!r}, but `when` for {when.metric!r}; both must name one metric")
        return until


class Receiver(_Part):
    """Whom to tell. The address is a secret, as it may hold a key."""

    name: Name
    webhook: HttpAddress
    secret: Annotated[SecretStr, AfterValidator(check_secret)] | None = None
    timeout: Annotated[Duration, Field(gt=0, le=60)] = 10.0


class _File(_Part):
    """monitor.yaml as it is written. What is left out comes from the settings."""

    interval: Annotated[Duration, Field(gt=0, le=86400)] | None = None
    targets: tuple[Target, ...] | None = None
    rules: tuple[Rule, ...] | None = None
    receivers: tuple[Receiver, ...] | None = None


class Configuration(_Part):
    """What the monitor works with: the file, and the settings where it is silent."""

    interval: float
    targets: tuple[Target, ...]
    rules: tuple[Rule, ...]
    receivers: tuple[Receiver, ...]


def from_environment(path: Path | None = None) -> tuple[Settings, Configuration]:
    """Settings and configuration; raises ConfigurationError with the faults of both."""
    try:
        settings = Settings.from_environment()
    except ConfigurationError as error:
        faults = error.faults
        named = path or (Path(given) if (given := variable("TOCSIN_CONFIG")) else None)
        try:
            load(Settings.model_construct(), named)
        except ConfigurationError as more:
            faults += more.faults
        raise ConfigurationError(faults) from None
    return settings, load(settings, path)


def load(settings: Settings, path: Path | None = None) -> Configuration:
    """The configuration in `path`, else in TOCSIN_CONFIG, else the defaults.

    Raises ConfigurationError with everything that is wrong, each with its place.
    """
    path = path or settings.config
    if path is None:
        return _with_defaults(_File(), settings)
    try:
        return _with_defaults(_parse(path, settings), settings)
    except ConfigurationError as error:
        raise ConfigurationError([f"{path}: {fault}" for fault in error.faults]) from None


def schema() -> dict[str, Any]:
    """The JSON Schema of monitor.yaml."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | _File.model_json_schema() | {"title": "monitor.yaml"}


def default_rules(settings: Settings) -> tuple[Rule, ...]:
    """CPU, memory and disk of this service over their thresholds for a minute, any target down for half of one."""
    usage = (("HighCpu", "CPU", "cpu_usage"), ("HighMemory", "memory", "mem_usage"), ("DiskFull", "disk", "disk_usage"))
    written = [
        {
            "alert": alert,
            "when": Condition(metric=metric, operator=">", threshold=settings.thresholds[metric]),
            "for": "1m",
            "summary": f"{{{{ target }}}}: {noun} at {{{{ value }}}} % (threshold {{{{ threshold }}}} %)",
        }
        for alert, noun, metric in usage
    ]
    written.append(
        {
            "alert": "TargetDown",
            "when": "up == 0",
            "for": "30s",
            "severity": "critical",
            "summary": "{{ target }} does not answer as it should",
        }
    )
    return tuple(Rule.model_validate(rule) for rule in written)


def default_targets(settings: Settings) -> tuple[Target, ...]:
    """This service asked directly, and once more through nginx."""
    front = settings.front_url or SecretStr(f"http://{settings.bind}:{settings.http_port}/api/health")
    # An unhealthy service still answers: that is the readings' business, not `up`'s.
    expect = tuple(sorted({200, settings.unhealthy_status}))
    host, _, port = settings.web_address.rpartition(":")
    own = SecretStr(f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}/api/health")  # noqa: S104 - compared
    return (
        Target(name="self", url=own, expect=expect),
        Target(name="front", url=front, expect=expect, readings=False),
    )


def _with_defaults(file: _File, settings: Settings) -> Configuration:
    receivers = file.receivers
    if receivers is None:
        own = settings.webhook_url
        receivers = (Receiver(name="webhook", webhook=own, secret=settings.webhook_secret),) if own else ()
    return Configuration(
        interval=settings.interval if file.interval is None else file.interval,
        targets=default_targets(settings) if file.targets is None else file.targets,
        rules=default_rules(settings) if file.rules is None else file.rules,
        receivers=receivers,
    )


def _parse(path: Path, settings: Settings) -> _File:
    document, faults = document_in(path)
    faults = dict(_disagreements(document, settings)) | faults
    try:
        file = _File.model_validate({} if document is None else document)
    except ValidationError as error:
        for fault in error.errors():
            location = fault["loc"]
            # `receivers: ${URL}` puts a secret where a list belongs.
            secret = len(location) < 3 or location[-1] in SECRETS
            said = explain(fault, _known(location), secret=secret and location != ("interval",))
            faults.setdefault(place(location), said)
    if faults:
        raise ConfigurationError([f"{where}: {what}" for where, what in faults.items()])
    return file


def _disagreements(document: Any, settings: Settings) -> Iterator[tuple[str, str]]:
    """Names given twice or to nothing. Looked for in the bare document, to be told together with all other faults."""
    names = {part: _column(document, part, field) for part, field in NAMED.items()}
    for part, column in names.items():
        first: dict[str, int] = {}
        for index, name in column:
            if isinstance(name, str) and first.setdefault(name, index) != index:
                yield place((part, index, NAMED[part])), f"{name!r} is taken by {part}[{first[name]}]; give each its own"
    written = isinstance(document, dict) and isinstance(document.get("targets"), list)
    known = [str(name) for _, name in names["targets"]] if written else [target.name for target in default_targets(settings)]
    for index, wanted in _column(document, "rules", "targets"):
        for position, name in enumerate(wanted if isinstance(wanted, list) else ()):
            if isinstance(name, str) and name not in known:
                yield place(("rules", index, "targets", position)), f"{name!r} is not a target{suggestion(name, known)}"


def _column(document: Any, part: str, field: str) -> list[tuple[int, Any]]:
    rows = document.get(part) if isinstance(document, dict) else None
    return [(index, row.get(field)) for index, row in enumerate(rows if isinstance(rows, list) else ()) if isinstance(row, dict)]


def _known(location: Sequence[str | int]) -> list[str]:
    parts: dict[str, type[BaseModel]] = {"targets": Target, "rules": Rule, "receivers": Receiver}
    model = parts.get(str(location[0]), _File) if len(location) > 1 else _File
    return [field.alias or name for name, field in model.model_fields.items()]
