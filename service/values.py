"""The kinds of value that settings and monitor.yaml share: durations, sizes, percentages, addresses, and faults in them."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, WithJsonSchema
from pydantic_core import ErrorDetails

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d{1,9}(?:\.\d{1,9})?(?:ms|s|m|h|d))+", re.ASCII)
_PART = re.compile(r"([\d.]+)(ms|s|m|h|d)", re.ASCII)
_BYTES = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_SIZE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(KiB|MiB|GiB)", re.ASCII)


MOST_FAULTS, LONGEST_FAULT = 100, 1000  # the second in characters: nobody reads more, and a line of the log holds no more
MOST_COMPARED, MOST_SHOWN = 1000, 100  # names that a misspelt one may have been meant for


class ConfigurationError(Exception):
    """Everything that is wrong in one source of configuration; each fault names its place and the remedy."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = [_bounded(each) for each in faults[:MOST_FAULTS]]
        if len(faults) > MOST_FAULTS:
            self.faults.append("and more; mend these first")
        super().__init__("\n".join(self.faults))


def _bounded(fault: str) -> str:
    half = LONGEST_FAULT // 2  # the place is at its beginning, the remedy at its end
    return fault if len(fault) <= LONGEST_FAULT else f"{fault[:half]}…{fault[-half:]}"


def seconds(text: object) -> float:
    """A duration such as `10s`, `500ms` or `1h30m`, in seconds.

    Raises ValueError for anything else, a bare number included: it does not say its unit.
    """
    if isinstance(text, str) and _DURATION.fullmatch(text.strip()):
        return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    raise ValueError(f"{text!r} is not a duration; write a number with ms, s, m, h or d, such as 10s or 1h30m")


def size(text: object) -> int:
    """A size such as `256MiB` or `1.5GiB`, in bytes.

    Raises ValueError for anything else: a bare number does not say its unit, and MB is not the same to everyone.
    """
    if isinstance(text, str) and (found := _SIZE.fullmatch(text.strip())):
        return int(float(found[1]) * _BYTES[found[2]])
    raise ValueError(f"{text!r} is not a size; write a number with KiB, MiB or GiB, such as 256MiB")


def http_address(value: object) -> SecretStr:
    """An http or https address, kept as a secret: those of chat services carry their key in the path."""
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    # The address itself stays out of the message.
    remedy = "is not an address; write http://HOST/… or https://HOST/…"
    if not isinstance(text, str) or any(character.isspace() for character in text):
        raise ValueError(remedy)
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 - reading it is what checks it
    except ValueError:
        raise ValueError(remedy) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(remedy)
    return SecretStr(text)


# For editors; `${NAME}` is filled in before the check.
_duration_schema = {"type": "string", "pattern": r"^((\d+(\.\d+)?(ms|s|m|h|d))+|\$\{\w+\})$", "examples": ["10s", "1h30m"]}
_address_schema = {"type": "string", "pattern": r"^(https?://|\$\{\w+\})"}
Duration = Annotated[float, BeforeValidator(seconds), WithJsonSchema(_duration_schema)]
Size = Annotated[int, BeforeValidator(size)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Percent = Annotated[float, Field(ge=0, le=100)]
HttpAddress = Annotated[SecretStr, BeforeValidator(http_address), WithJsonSchema(_address_schema)]


class Part(BaseModel):
    """A part of monitor.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean …?` where a known word is close, else the list of them."""
    known = sorted(set(known))
    if not known:
        return "; there are none"
    close = difflib.get_close_matches(word, known, n=1) if len(known) <= MOST_COMPARED else []
    more = ", …" if len(known) > MOST_SHOWN else ""
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known[:MOST_SHOWN])}{more}"


_NO_LIST = "is not a list; write [ ] around it, or each of them on a line of its own after a -"
_NO_MAP = "is not a map; write `name: value` on lines of their own"
_SAID = {
    "missing": "is required",
    **dict.fromkeys(("tuple_type", "list_type"), _NO_LIST),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), _NO_MAP),
}


def explain(error: ErrorDetails, known: Iterable[str] = (), *, secret: bool = False) -> str:
    """What pydantic found, in words for the one who wrote the value, which is repeated unless it is a secret."""
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind in _SAID:
        return _SAID[kind]
    if kind == "extra_forbidden":
        known = list(known)
        return f"is not known here{suggestion(str(error['loc'][-1]), known) if known else ''}"
    if kind == "value_error":
        return str(context["error"])
    if kind.startswith("union_tag_"):
        return _tag(context)
    message = error["msg"][0].lower() + error["msg"][1:]
    if kind == "literal_error":
        message = "is none of " + str(context["expected"]).replace(" or ", ", ").replace("'", "")
    if secret or isinstance(value, dict | list | tuple):  # what a list holds may be one
        return message
    try:
        text = repr(value)
    except ValueError:  # a number of thousands of digits
        text = "this number"
    text = text if len(text) <= 60 else text[:59] + "…"
    return f"{text} {message}" if kind == "literal_error" else f"{text}: {message}"


def _tag(context: Mapping[str, Any]) -> str:
    """What is wrong with the field that says which of several models it is."""
    name = str(context["discriminator"]).strip("'")
    if "expected_tags" in context:
        return f"has a `{name}` that is none of " + str(context["expected_tags"]).replace("'", "")
    return f"has no `{name}`, which says what it is"


def number(value: float) -> str:
    """As a person would write it: `80`, `0.5`, `1500000`; nine decimals at most."""
    return f"{value:.9f}".rstrip("0").rstrip(".")


def length(seconds: float) -> str:
    """A length of time in its two largest units: `41 s`, `2 min 5 s`, `3 h`, `1 d 4 h`."""
    whole = max(0, round(seconds))
    parts = ((whole // 86_400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s"))
    first = next((index for index, (number, _) in enumerate(parts) if number), 3)
    return " ".join(f"{number} {unit}" for number, unit in parts[first : first + 2] if number) or "0 s"


def iso(moment: float) -> str:
    """Seconds since 1970 as ISO 8601 in UTC, with milliseconds."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
