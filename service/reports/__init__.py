"""Health reports: asked for by anybody with the key, made by the monitor, kept, and shown in four forms.

`gather` reads, `compute` counts, `model` is what comes of it; `sections` puts it into words and tables, `render` writes
them. Here is what is kept of each one. Times are seconds since 1970.
"""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, WithJsonSchema, field_validator
from sqlalchemy import Connection, Engine, Row, delete, func, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from service import pages
from service.checking import Author, Moment
from service.configuration import Configuration
from service.pages import Position
from service.reports.model import Report
from service.runs import Run
from service.tables import reports, runs
from service.values import Duration, iso, length

MOST_WAITING = 20
SHORTEST = 60.0  # seconds of a period
LONGEST = 366 * 86_400.0
MOST_AGO = 1.5  # times the length of a job's report: where the last one ended longer ago, the next begins anew
OFTEN = 0.5  # seconds between two notes of how far it is

State = Literal["asked", "running", "done", "failed"]

_UNFINISHED = reports.c.state.in_(("asked", "running"))
_OF_A_JOB = reports.c.id.in_(select(runs.c.id))

_log = structlog.get_logger()


class UnknownError(LookupError):
    """There is no such report."""


class TooManyError(Exception):
    """So many are asked for already."""


class _GoneError(Exception):
    """Somebody has deleted it while it was made."""


_one_of: dict[str, Any] = {
    "oneOf": [{"required": [name], "properties": {name: {"type": "string"}}} for name in ("since", "from")]
}
_since_schema = {"type": "string", "pattern": "^([1-9][0-9]{0,2}d|[1-9][0-9]?h)$", "examples": ["7d", "24h"]}


class Wanted(BaseModel):
    """A report as a person asks for it: on so long until now, or from one time to another; without `to` until now."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=_one_of)

    end: Annotated[Moment | None, Field(alias="to", examples=["2026-10-16T00:00:00Z"])] = None
    begin: Annotated[Moment | None, Field(alias="from", examples=["2026-10-01T00:00:00Z"])] = None
    since: Annotated[Annotated[Duration, WithJsonSchema(_since_schema)] | None, Field(validate_default=True)] = None
    author: Author = "api"

    @field_validator("end")
    @classmethod
    def _past(cls, end: float | None, info: ValidationInfo) -> float | None:
        if end is not None and end > (now := (info.context or {})["now"]):
            raise ValueError(f"{iso(end)} is yet to come; it is {iso(now)}")
        return end

    # Of the fields and not of the whole, so that it is told together with what is wrong elsewhere.
    @field_validator("begin", "since")
    @classmethod
    def _lasts(cls, value: float | None, info: ValidationInfo) -> float | None:
        if "end" not in info.data or (info.field_name == "since" and "begin" not in info.data):
            return value  # that is wrong, and is told
        if info.field_name == "since" and (value is None) is (info.data["begin"] is None):
            raise ValueError("is needed, or `from`: write exactly one of the two")
        if value is not None:
            now = (info.context or {})["now"]
            lasts = info.field_name == "since"
            begins, ends = _period(value if lasts else None, None if lasts else value, info.data["end"], now)
            if begins < 0 or not SHORTEST <= ends - begins <= LONGEST:
                raise ValueError(f"makes a period of less than {length(SHORTEST)} or more than {length(LONGEST)}")
        return value

    def period(self, now: float) -> tuple[float, float]:
        """From when until before when."""
        return _period(self.since, self.begin, self.end, now)


def _period(since: float | None, begin: float | None, end: float | None, now: float) -> tuple[float, float]:
    ends = now if end is None else end
    return ends - (since or 0.0) if begin is None else begin, ends


@dataclass(frozen=True)
class Asked:
    """A report that was asked for. `report` is what it says, once it is done."""

    id: str
    state: State
    since: float
    until: float
    asked: float
    asked_by: str
    progress: float = 0.0  # 0 to 1
    ended: float | None = None
    detail: str = ""  # why it failed
    report: Report | None = field(default=None, compare=False)


def ask(connection: Connection, since: float, until: float, author: str, now: float) -> Asked:
    """Ask for a report; the monitor makes it within moments. Raises TooManyError."""
    waiting = select(func.count()).select_from(reports).where(_UNFINISHED, ~_OF_A_JOB)
    if connection.execute(waiting).scalar_one() >= MOST_WAITING:
        raise TooManyError(f"{MOST_WAITING} reports are asked for already; wait until some of them are made")
    return _put(connection, Asked(secrets.token_hex(8), "asked", since, until, now, author))


def ask_for(connection: Connection, run: Run, lasts: float, until: float, now: float) -> Asked:
    """Ask for the report of a job's run, whose id it has, on so many seconds until then.

    It begins where the job's last one ended if that is a little earlier, so that nothing is left out between them.
    """
    before = select(func.max(reports.c.until)).join(runs, runs.c.id == reports.c.id)
    before = before.where(runs.c.job == run.job, runs.c.asked_by.is_(None), reports.c.state == "done")
    last = connection.execute(before.where(reports.c.until >= until - MOST_AGO * lasts, reports.c.until < until)).scalar()
    since = until - lasts if last is None or run.asked_by is not None else min(until - lasts, last)
    return _put(connection, Asked(run.id, "asked", since, until, now, f"job {run.job}"))


def _put(connection: Connection, asked: Asked) -> Asked:
    connection.execute(insert(reports).values({name: value for name, value in vars(asked).items() if name != "report"}))
    return asked


def oldest_asked(connection: Connection) -> str | None:
    """The one to be made next."""
    query = select(reports.c.id).where(reports.c.state == "asked").order_by(reports.c.asked, reports.c.id)
    return connection.execute(query.limit(1)).scalar()


def recover(connection: Connection) -> int:
    """Ask again for those that nobody makes any more: for the one monitor, when it starts. How many there were.

    That of a job goes with its run: if it is to be made once more, that is another run.
    """
    connection.execute(delete(reports).where(_UNFINISHED, _OF_A_JOB))
    left = update(reports).where(reports.c.state == "running")
    return connection.execute(left.values(state="asked", progress=0.0)).rowcount


def carry_out(engine: Engine, configuration: Configuration, identity: str, clock: Callable[[], float]) -> None:
    """Make the report that was asked for, and keep it. One that somebody else makes, or that is gone, is left alone.

    Raises SQLAlchemyError where even that it failed cannot be written.
    """
    with engine.begin() as connection:
        mine = update(reports).where(reports.c.id == identity, reports.c.state == "asked").values(state="running")
        if not connection.execute(mine).rowcount:
            return
        asked = find(connection, identity)
    from service.reports.gather import make  # noqa: PLC0415 - a megabyte, for the one process that makes reports, when it does

    about = {"report": identity, "event.category": "process", "event.action": "report"}
    try:
        report = make(engine, configuration, asked.since, asked.until, clock(), _Noting(engine, identity))
    except _GoneError:
        return
    except Exception as error:  # noqa: BLE001 - whatever it was, it is told, and nobody waits for this report for ever
        _log.exception("a report cannot be made", **about)
        why = "the database cannot be used" if isinstance(error, SQLAlchemyError) else "it cannot be made"
        values = {"state": "failed", "detail": f"{why} ({type(error).__name__})", "ended": clock()}
    else:
        content = report.model_dump(mode="json")
        values = {"state": "done", "progress": 1.0, "content": content, "ended": clock()}
        _log.info("a report is made", **about)
    with engine.begin() as connection:
        connection.execute(update(reports).where(reports.c.id == identity).values(values))


def fail(connection: Connection, identity: str, detail: str, now: float) -> None:
    """It is not made, for a reason that could not be written sooner. One that has ended stays as it is."""
    unfinished = update(reports).where(reports.c.id == identity, _UNFINISHED)
    connection.execute(unfinished.values(state="failed", detail=detail, ended=now))


class _Noting:
    """Notes in the database how far it is."""

    def __init__(self, engine: Engine, identity: str) -> None:
        self._engine, self._identity = engine, identity
        self._noted = time.monotonic()

    def __call__(self, share: float) -> None:
        """Raises _GoneError."""
        if time.monotonic() - self._noted < OFTEN:
            return
        self._noted = time.monotonic()
        mine = update(reports).where(reports.c.id == self._identity, reports.c.state == "running")
        with self._engine.begin() as connection:
            if not connection.execute(mine.values(progress=round(share, 3))).rowcount:
                raise _GoneError


def page(connection: Connection, limit: int, after: Position | None) -> tuple[list[Asked], Position | None]:
    """So many behind a position, newest first, without what they say; and the position of the last, None at the end."""
    row = reports.c
    columns = (column for column in row if column is not row.content)
    rows, position = pages.page(connection, select(*columns), [row.asked, row.id], limit, after)
    return [_read(each) for each in rows], position


def find(connection: Connection, identity: str) -> Asked:
    """With what it says. Raises UnknownError."""
    row = connection.execute(select(reports).where(reports.c.id == identity)).first()
    if row is None:
        raise UnknownError(f"there is no report {identity!r}")
    return _read(row, row.content)


def remove(connection: Connection, identity: str) -> Asked:
    """Delete it, also while it is made. Raises UnknownError."""
    found = find(connection, identity)
    connection.execute(delete(reports).where(reports.c.id == identity))
    return found


def _read(row: Row[Any], content: object = None) -> Asked:
    names = ("id", "state", "since", "until", "asked", "asked_by", "progress", "ended", "detail")
    said = {name: getattr(row, name) for name in names}
    return Asked(**said, report=None if content is None else Report.model_validate(content))
