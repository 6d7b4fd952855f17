"""What people send, to the API, in a form or as options, checked: every fault with its place, in words.

The kinds of value that several such models share are here; times are seconds since 1970.
"""

import unicodedata
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, StringConstraints, ValidationError, WithJsonSchema

from service.document import place
from service.values import explain

Model = TypeVar("Model", bound=BaseModel)
LATEST = 253_402_300_799.0  # the end of the year 9999, the last that ISO 8601 has without agreement


class FaultsError(ValueError):
    """What a person sent is wrong: each place in it, and the fault there in words."""

    def __init__(self, faults: Sequence[tuple[str, str]]) -> None:
        super().__init__("; ".join(": ".join(each) for each in faults))
        self.faults = faults


def checked(model: type[Model], body: object, now: float) -> Model:
    """What a person sent, as what it should be. Raises FaultsError with everything that is wrong with it."""
    try:
        return model.model_validate(body, context={"now": now})
    except ValidationError as error:
        found = error.errors()
    if any(not each["loc"] for each in found):
        raise FaultsError([("the body", "is not a JSON object whose names are texts")])
    known = [field.alias or name for name, field in model.model_fields.items()]
    faults = [(_untagged(each["loc"], body), each) for each in found]
    raise FaultsError([(place(where), explain(each, known if len(where) == 1 else ())) for where, each in faults])


def _untagged(location: tuple[str | int, ...], body: Any) -> list[str | int]:
    """Without the names that pydantic puts where one of several models was chosen: no client has written those there."""
    found: list[str | int] = []
    for number, step in enumerate(location, 1):
        inside = body.get(step) if isinstance(body, dict) else None
        # A `kind` or `type` of the body has its name, and more follows than is there.
        tag = isinstance(body, dict) and step in (body.get("kind"), body.get("type")) and number < len(location)
        if not tag or isinstance(inside, dict | list):
            found.append(step)
            body = inside
    return found


def moment(value: object) -> float:
    """ISO 8601 with a zone, in seconds since 1970. Raises ValueError for anything else."""
    try:
        found = datetime.fromisoformat(value)  # type: ignore[arg-type]  # what is no text is a TypeError
    except (TypeError, ValueError):
        raise ValueError("is not a time; write one such as 2026-10-16T11:41:00Z") from None
    if found.tzinfo is None:
        raise ValueError("has no zone; add Z for UTC, or an offset such as +02:00")
    if not 0 <= (seconds := found.timestamp()) <= LATEST:
        raise ValueError("lies before 1970 or after 9999")
    return seconds


def _shown(text: object) -> str:
    """Text that may appear in a terminal and in JSON: no control characters, nothing that UTF-8 does not have."""
    if not isinstance(text, str):
        raise ValueError("is not text")  # noqa: TRY004 - pydantic's way
    if any(unicodedata.category(each) in ("Cc", "Cs") and each not in "\n\t" for each in text):
        raise ValueError("has a character that cannot be shown; leave it out")
    return text


def _one_line(text: str) -> str:
    if "\n" in text or "\t" in text:
        raise ValueError("has more than one line; write it in one")
    return text


# What the validators above take, for those who write to the API.
HIDDEN = r"\x00-\x1f\x7f-\x9f"  # characters
_LINE = rf"[^{HIDDEN}]*"
_moment_schema = {
    "type": "string",
    "format": "date-time",
    "pattern": r"^(19[7-9][0-9]|[2-9][0-9]{3})-",
}
_author_schema = {"type": "string", "maxLength": 200, "pattern": rf"^{_LINE}[^\s{HIDDEN}]{_LINE}$", "examples": ["ann"]}
_comment_schema = {"type": "string", "maxLength": 2000, "pattern": r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f]*$"}
SHOWN = BeforeValidator(_shown)
Moment = Annotated[float, BeforeValidator(moment), WithJsonSchema(_moment_schema)]
Author = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=200),
    AfterValidator(_one_line),
    SHOWN,
    WithJsonSchema(_author_schema),
]
Comment = Annotated[str, StringConstraints(strip_whitespace=True, max_length=2000), SHOWN, WithJsonSchema(_comment_schema)]
