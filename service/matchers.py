"""Which alerts a silence, a maintenance window or a route is about, in Alertmanager's notation.

    target="db"   severity!=info   alert=~"High.*"   mount!~"/(srv|home)"

Regular expressions are RE2's, as in Alertmanager: a pattern that a client sends takes no more than linear time. They
are anchored at both ends. A label that an alert does not have counts as empty.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from service.values import suggestion

LABELS = ("alert", "target", "severity", "metric", "scope", "mount")
LONGEST = 1000  # characters of a value

# `==` is no operator: it would be taken for `=` and a value that no alert has.
_FORM = re.compile(r"([A-Za-z_][A-Za-z0-9_]{0,63})\s*(=~|!~|!=|=)(?![=~])\s*(.*)", re.DOTALL)
_QUOTES = 'has quotes that do not fit; write \\" for a quote inside quotes'
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True)
class Matcher:
    label: str
    operator: str
    value: str

    def __str__(self) -> str:
        value = self.value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'{self.label}{self.operator}"{value}"'

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.label, "")
        if self.operator in ("=", "!="):
            return (value == self.value) is (self.operator == "=")
        # What no UTF-8 has, RE2 does not take.
        found = self._pattern.fullmatch(value.encode("utf-8", "backslashreplace").decode())
        return (found is not None) is (self.operator == "=~")

    @cached_property
    def _pattern(self) -> Any:
        return _compiled(self.value)  # where more are in use than that keeps, it would compile each for each alert

    @classmethod
    def parse(cls, text: object) -> Self:
        """Raises ValueError for text of another form, a label that no alert has, and a pattern that RE2 refuses."""
        if isinstance(text, cls):
            return text
        match = _FORM.fullmatch(text.strip()) if isinstance(text, str) else None
        if match is None:
            raise ValueError('is not a matcher; write <label><op><value> with =, !=, =~ or !~, such as target="db"')
        label, operator, value = match.groups()
        if label not in LABELS:
            raise ValueError(f"{label!r} is not a label of an alert{suggestion(label, LABELS)}")
        if value.startswith('"'):
            inside = value[1:-1]
            if (
                len(value) < 2
                or not value.endswith('"')
                or '"' in _ESCAPED.sub("", inside)
                or _ESCAPED.sub("", inside).endswith("\\")
            ):
                raise ValueError(_QUOTES)
            value = _ESCAPED.sub(lambda found: "\n" if found[1] == "n" else found[1] if found[1] in '"\\' else found[0], inside)
        elif '"' in value:
            raise ValueError(_QUOTES)
        if len(value) > LONGEST:
            raise ValueError(f"has a value of more than {LONGEST} characters")
        if operator in ("=~", "!~"):
            _compiled(value)
        return cls(label, operator, value)


@lru_cache(256)
def _compiled(pattern: str) -> Any:
    import re2  # type: ignore[import-untyped]  # noqa: PLC0415 - it brings no types, and a megabyte for those who have such a pattern

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except (re2.error, UnicodeError):
        raise ValueError("is not a regular expression that RE2 takes; see https://github.com/google/re2/wiki/Syntax") from None


def labels_of(content: Mapping[str, Any]) -> dict[str, str]:
    """What matchers look at in an alert, from what its notification says."""
    return {**content["labels"], **{name: content[name] for name in ("alert", "target", "severity", "metric", "scope")}}


def all_match(matchers: tuple[Matcher, ...], labels: Mapping[str, str]) -> bool:
    return all(matcher.matches(labels) for matcher in matchers)


_schema = {"type": "string", "examples": ['target="db"', 'alert=~"High.*"']}
MatcherText = Annotated[Matcher, BeforeValidator(Matcher.parse), PlainSerializer(str), WithJsonSchema(_schema)]
