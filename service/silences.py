"""Silences: which alerts are not told, from when to when, by whom and why. Times are seconds since 1970.

A `Draft` is what a person asks for, checked; a `Silence` is what is kept.
"""

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import structlog
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from sqlalchemy import Connection, Row, Select, insert, select, update

from service import pages
from service.checking import HIDDEN, LATEST, SHOWN, Author, Comment, Moment
from service.matchers import LABELS, Matcher, MatcherText, all_match
from service.pages import Position
from service.tables import silences
from service.values import Duration, iso

State = Literal["pending", "active", "expired"]

_log = structlog.get_logger()
MOST_MATCHERS = 20


class UnknownError(LookupError):
    """There is no such silence."""


class ExpiredError(ValueError):
    """It has ended, and stays as it was."""


def _listed(matchers: object) -> object:
    if isinstance(matchers, list | tuple) and 1 <= len(matchers) <= MOST_MATCHERS:
        return tuple(matchers)
    raise ValueError(f"is not a list of 1 to {MOST_MATCHERS} matchers")


# What these take, for those who write to the API.
_duration_schema = {
    "type": "string",
    "pattern": r"^(?=.*[1-9])([0-9]{1,9}([.][0-9]{1,9})?(ms|s|m|h|d))+$",
    "examples": ["2h", "1d12h"],
}
_value = rf'"([^"\\{HIDDEN}]|\\[^{HIDDEN}])*"|[^"~=\s{HIDDEN}][^"{HIDDEN}]*'
_matcher_schema = {
    "type": "string",
    "pattern": rf"^({'|'.join(LABELS)})(=|!=|=~|!~)({_value}|)$",
    "examples": ['target="shop"', "severity!=info", 'alert=~"High.*"'],
}
_ends: dict[str, Any] = {
    "oneOf": [{"required": [name], "properties": {name: {"type": "string"}}} for name in ("ends_at", "duration")]
}


class Draft(BaseModel):
    """A silence as a person asks for it: it ends at `ends_at` or after `duration`, and begins now if nothing is said."""

    model_config = ConfigDict(frozen=True, extra="forbid", title="SilenceDraft", json_schema_extra=_ends)

    matchers: Annotated[
        tuple[Annotated[MatcherText, SHOWN, WithJsonSchema(_matcher_schema)], ...],
        BeforeValidator(_listed),
        Field(json_schema_extra={"minItems": 1, "maxItems": MOST_MATCHERS}),
    ]
    starts_at: Annotated[Moment | None, Field(examples=["2100-10-16T22:00:00+02:00"])] = None
    duration: Annotated[Duration, Field(gt=0), SHOWN, WithJsonSchema(_duration_schema)] | None = None
    ends_at: Annotated[Moment | None, Field(validate_default=True, examples=["2100-10-17T06:00:00+02:00"])] = None
    author: Author
    comment: Comment = ""
    heal: StrictBool = True

    @field_validator("ends_at")
    @classmethod
    def _ends(cls, ends_at: float | None, info: ValidationInfo) -> float | None:
        # Here and not in a validator of the whole, so that it is told together with what is wrong elsewhere.
        if "starts_at" not in info.data or "duration" not in info.data:
            return ends_at  # one of these is wrong, and is told
        if (ends_at is None) is (info.data["duration"] is None):
            raise ValueError("is needed, or a duration: write exactly one of the two")
        now = (info.context or {})["now"]
        starts, ends = _period(info.data["starts_at"], ends_at, info.data["duration"], now)
        if ends <= starts:
            raise ValueError("lies not after the start")
        if ends <= now:
            raise ValueError(f"{iso(ends)} is past; it is {iso(now)}")
        if ends > LATEST:
            raise ValueError("lies after 9999")
        return ends_at

    def period(self, now: float) -> tuple[float, float]:
        """When it begins and when it ends."""
        return _period(self.starts_at, self.ends_at, self.duration, now)


def _period(starts_at: float | None, ends_at: float | None, duration: float | None, now: float) -> tuple[float, float]:
    starts = now if starts_at is None else starts_at
    return starts, starts + (duration or 0.0) if ends_at is None else ends_at


@dataclass(frozen=True)
class Silence:
    """Alerts that all its matchers match are not told from `starts` until before `ends`."""

    id: str
    matchers: tuple[Matcher, ...]
    starts: float
    ends: float
    author: str
    comment: str
    created: float
    updated: float
    heal: bool = True  # whether services are restarted all the same

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Labels as `matchers.labels_of` has them."""
        return all_match(self.matchers, labels)

    def state(self, now: float) -> State:
        if self.ends <= now:
            return "expired"
        return "active" if self.starts <= now else "pending"


def active(connection: Connection, now: float) -> list[Silence]:
    """Those that hold at this time, oldest first."""
    found = select(silences).where(silences.c.starts <= now, silences.c.ends > now)
    return _all(connection, found.order_by(silences.c.created, silences.c.id))


def every(connection: Connection) -> list[Silence]:
    """All of them, newest first."""
    return _all(connection, select(silences).order_by(silences.c.created.desc(), silences.c.id.desc()))


def page(
    connection: Connection, now: float, state: State | None, limit: int, after: Position | None
) -> tuple[list[Silence], Position | None]:
    """So many of `every`, in one state or all, behind a position; and the position of the last, None at the end."""
    query = select(silences)
    if state == "pending":
        query = query.where(silences.c.starts > now, silences.c.ends > now)
    elif state == "active":
        query = query.where(silences.c.starts <= now, silences.c.ends > now)
    elif state == "expired":
        query = query.where(silences.c.ends <= now)
    rows, position = pages.page(connection, query, [silences.c.created, silences.c.id], limit, after)
    return _read_all(rows), position


def those(connection: Connection, identities: Collection[str]) -> dict[str, Silence]:
    """The ones with these ids, by id; what is no silence is left out."""
    found = _all(connection, select(silences).where(silences.c.id.in_(identities)))
    return {silence.id: silence for silence in found}


def find(connection: Connection, identity: str) -> Silence:
    """Raises UnknownError."""
    for silence in those(connection, [identity]).values():
        return silence
    raise UnknownError(f"there is no silence {identity!r}")


def add(connection: Connection, draft: Draft, now: float) -> Silence:
    silence = _drawn(secrets.token_hex(8), draft, created=now, now=now)
    connection.execute(insert(silences).values(_row(silence)))
    return silence


def replace(connection: Connection, identity: str, draft: Draft, now: float) -> Silence:
    """Put a draft in the place of a silence that has not ended. Raises UnknownError or ExpiredError."""
    silence = _drawn(identity, draft, created=_open(connection, identity, now).created, now=now)
    connection.execute(update(silences).where(silences.c.id == identity).values(_row(silence)))
    return silence


def expire(connection: Connection, identity: str, now: float) -> Silence:
    """End a silence now. Raises UnknownError or ExpiredError."""
    found = _open(connection, identity, now)
    values = {"starts": min(found.starts, now), "ends": now, "updated": now}
    connection.execute(update(silences).where(silences.c.id == identity).values(values))
    return find(connection, identity)


def follow(connection: Connection, before: float, now: float) -> None:
    """The clock was set from one time to another: what had begun has, and what had ended has. Other times are people's own."""
    row, change = silences.c, update(silences)
    connection.execute(change.where(row.starts <= before, row.starts > now).values(starts=now))
    connection.execute(change.where(row.ends <= before, row.ends > now).values(ends=now))


def _open(connection: Connection, identity: str, now: float) -> Silence:
    silence = find(connection, identity)
    if silence.state(now) == "expired":
        raise ExpiredError(f"the silence {identity} ended at {iso(silence.ends)}; add a new one")
    return silence


def _drawn(identity: str, draft: Draft, *, created: float, now: float) -> Silence:
    starts, ends = draft.period(now)
    return Silence(identity, draft.matchers, starts, ends, draft.author, draft.comment, created, now, draft.heal)


def _row(silence: Silence) -> dict[str, Any]:
    return {**vars(silence), "matchers": [str(matcher) for matcher in silence.matchers]}


def _all(connection: Connection, query: Select[Any]) -> list[Silence]:
    return _read_all(connection.execute(query).all())


def _read_all(rows: Sequence[Row[Any]]) -> list[Silence]:
    found = []
    for row in rows:
        try:
            found.append(_read(row))
        except ValueError as error:  # of another version; it must not cost the rest
            _log.error("a silence cannot be read and does not hold", silence=row.id, reason=str(error))
    return found


def _read(row: Row[Any]) -> Silence:
    said = {column.name: getattr(row, column.name) for column in silences.columns}
    return Silence(**{**said, "matchers": tuple(Matcher.parse(text) for text in row.matchers)})
