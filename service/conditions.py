"""`cpu_usage > 80`, `absent(cpu_usage)`: what a rule asks of a value."""

import operator
import re
from collections.abc import Callable
from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema

from service.measure import METRICS as READINGS
from service.values import number, suggestion

# What a probe adds to the readings of measure.py.
PROBED = {
    "up": "1 when the target answered as expected within its time, else 0",
    "http_status": "the status of its answer",
    "latency_ms": "milliseconds until its answer was complete",
}
ABSENT = "absent"

_COMPARISON = re.compile(r"([a-z_][a-z0-9_]*)\s*(==|!=|>=|<=|>|<)\s*(-?\d{1,15}(?:\.\d{1,9})?)", re.ASCII)
_ABSENCE = re.compile(r"absent\s*\(\s*([a-z_][a-z0-9_]*)\s*\)", re.ASCII)
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


class Condition(BaseModel):
    """`<metric> <op> <number>`, such as `cpu_usage > 80`; or `absent(<metric>)`, whose operator is ABSENT."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: str
    operator: str
    threshold: float = 0.0

    def __str__(self) -> str:
        if self.operator == ABSENT:
            return f"absent({self.metric})"
        return f"{self.metric} {self.operator} {number(self.threshold)}"

    def holds(self, value: float | None) -> bool:
        """Whether it holds for a value; None is a value that is missing, and compares with nothing."""
        if self.operator == ABSENT:
            return value is None
        return value is not None and _COMPARE[self.operator](value, self.threshold)

    @classmethod
    def parse(cls, text: object) -> Self:
        """Raises ValueError for text of another form, and for a metric that nothing measures."""
        if isinstance(text, cls):
            return text
        written = text.strip() if isinstance(text, str) else ""
        if match := _COMPARISON.fullmatch(written):
            metric, operator, threshold = match[1], match[2], float(match[3])
        elif match := _ABSENCE.fullmatch(written):
            metric, operator, threshold = match[1], ABSENT, 0.0
        else:
            raise ValueError(f"{text!r} is not \"<metric> <op> <number>\", such as 'cpu_usage > 80', nor 'absent(<metric>)'")
        if metric not in READINGS and metric not in PROBED:
            raise ValueError(f"{metric!r} is not a metric{suggestion(metric, [*READINGS, *PROBED])}")
        return cls(metric=metric, operator=operator, threshold=threshold)


_schema = {
    "type": "string",
    "pattern": rf"^\s*({_COMPARISON.pattern}|{_ABSENCE.pattern})\s*$",
    "examples": ["cpu_usage > 80", "absent(cpu_usage)"],
}
ConditionText = Annotated[Condition, BeforeValidator(Condition.parse), WithJsonSchema(_schema)]
