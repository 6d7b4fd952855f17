"""Scheduled work: what a job is, and the table `jobs`; `runs` is what comes of it. Times are seconds since 1970.

The table is the truth. APScheduler's triggers say when a job is due (`triggers`); its schedulers and job stores are not
used: a store keeps a pickled function, and notes that a job has run only after it has been begun, so that it runs twice
when the process is killed in between. Here who wants something writes it into the table, and the monitor, which alone runs
anything, notes a run before it begins (`service.monitor.jobs`).

A `Draft` is what a person asks for, checked; a `Job` is what is kept. Only these kinds can be named, never a function.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal

import structlog
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationInfo,
    field_validator,
)
from sqlalchemy import Connection, Row, delete, insert, select, update

from service import pages
from service.checking import Author
from service.configuration import Configuration
from service.pages import Position
from service.tables import jobs
from service.triggers import Length, Trigger, never, overtaken
from service.values import Name, iso, seconds, suggestion

Missed = Literal["run", "skip"]
LONGEST_PERIOD = 366 * 86_400.0  # seconds that a report is about

_log = structlog.get_logger()


class UnknownError(LookupError):
    """There is no such job."""


class TakenError(ValueError):
    """There is a job of this name."""


class _Task(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ReportTask(_Task):
    """A report about the last days, kept and, with a receiver, sent there as text and link."""

    kind: Literal["report"]
    since: Annotated[Length, Field(description="The length of time before the run that it is about.", examples=["7d"])] = "7d"
    receiver: Annotated[Name | None, Field(description="Of monitor.yaml; without one it is only kept.")] = None

    @field_validator("since")
    @classmethod
    def _bounded(cls, since: str) -> str:
        if not 60.0 <= seconds(since) <= LONGEST_PERIOD:
            raise ValueError("is not between 1m and 366d")
        return since


class Prune(_Task):
    """Deletes what is older than `keep` in monitor.yaml says."""

    kind: Literal["prune"]


def _whole(value: object) -> object:
    """7.0 is a whole number to JSON Schema, and to those who write JSON in a language with one kind of number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class Backup(_Task):
    """A consistent copy of the database, in `backups` of the data folder."""

    kind: Literal["backup"]
    keep: Annotated[
        int,
        Field(ge=1, le=1000, strict=True, description="So many copies; older ones are removed."),
        BeforeValidator(_whole),
    ] = 7


class Probe(_Task):
    """Asks a target now, as the monitor does. No alert comes of it."""

    kind: Literal["probe"]
    target: Annotated[Name, Field(description="Of monitor.yaml.")]


Task = Annotated[ReportTask | Prune | Backup | Probe, Field(discriminator="kind")]
JobName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"), Field(examples=["weekly"])]


class Change(BaseModel):
    """What is to be done, when, and what becomes of a run that was due while no monitor ran."""

    model_config = ConfigDict(frozen=True, extra="forbid", title="JobChange")

    task: Task
    trigger: Trigger
    missed: Annotated[Missed, Field(description="`run`: once, late, for all that were missed. `skip`: not at all.")] = "run"
    author: Author

    @field_validator("trigger")
    @classmethod
    def _comes(cls, trigger: Trigger, info: ValidationInfo) -> Trigger:
        if fault := never(trigger, (info.context or {})["now"]) or overtaken(trigger):
            raise ValueError(fault)
        return trigger


class Draft(Change):
    """A job as a person asks for it. Its name is its identity."""

    model_config = ConfigDict(title="JobDraft")

    name: JobName


class Person(BaseModel):
    """Who asks for it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    author: Author


@dataclass(frozen=True)
class Job:
    """A job as it is kept. `due` is the next run, None when there is none; `wanted`: since when it is to be run now."""

    name: str
    task: ReportTask | Prune | Backup | Probe
    trigger: Trigger
    missed: Missed
    paused: bool
    due: float | None
    wanted: float | None
    wanted_by: str | None
    author: str
    created: float
    updated: float  # added, changed or resumed: what an interval is counted from

    def after(self, now: float) -> float | None:
        """When it is due next after `now`."""
        return self.trigger.due(now, self.updated, random.random())  # noqa: S311 - jitter, not a secret


_TASK: TypeAdapter[ReportTask | Prune | Backup | Probe] = TypeAdapter(Task)
_TRIGGER: TypeAdapter[Trigger] = TypeAdapter(Trigger)


def faults_of(change: Change, configuration: Configuration) -> list[tuple[str, str]]:
    """What in it the configuration does not have: each place, and the fault there in words."""
    task = change.task
    if isinstance(task, ReportTask) and task.receiver is not None:
        receivers = {each.name: each for each in configuration.receivers}
        if task.receiver not in receivers:
            return [("task.receiver", f"{task.receiver!r} is not a receiver{suggestion(task.receiver, receivers)}")]
        if not receivers[task.receiver].takes_reports:
            return [("task.receiver", f"{task.receiver!r} is told in Alertmanager's format, which has no place for a report")]
    if isinstance(task, Probe) and task.target not in (targets := [each.name for each in configuration.targets]):
        return [("task.target", f"{task.target!r} is not a target{suggestion(task.target, targets)}")]
    return []


def page(connection: Connection, limit: int, after: Position | None) -> tuple[list[Job], Position | None]:
    """So many jobs behind a position, newest first; and the position of the last, None at the end."""
    rows, position = pages.page(connection, select(jobs), [jobs.c.created, jobs.c.name], limit, after)
    return readable(rows), position


def every(connection: Connection) -> list[Job]:
    """All of them, by name."""
    return readable(connection.execute(select(jobs).order_by(jobs.c.name)).all())


def find(connection: Connection, name: str) -> Job:
    """Raises UnknownError."""
    for job in readable(connection.execute(select(jobs).where(jobs.c.name == name)).all()):
        return job
    raise UnknownError(f"there is no job {name!r}")


def add(connection: Connection, draft: Draft, now: float) -> Job:
    """Raises TakenError."""
    if connection.execute(select(jobs.c.name).where(jobs.c.name == draft.name)).first():
        raise TakenError(f"there is a job {draft.name!r}; change that one, or take another name")
    connection.execute(insert(jobs).values(name=draft.name, paused=False, created=now, **_said(draft, now)))
    return _reckoned(connection, draft.name, now)


def replace(connection: Connection, name: str, change: Change, now: float) -> Job:
    """Put another task and trigger into a job. A run that it still has to make up is given up. Raises UnknownError."""
    find(connection, name)
    connection.execute(update(jobs).where(jobs.c.name == name).values(_said(change, now)))
    return _reckoned(connection, name, now)


def remove(connection: Connection, name: str) -> None:
    """Its runs stay to be read; one that is under way goes on. Raises UnknownError."""
    if not connection.execute(delete(jobs).where(jobs.c.name == name)).rowcount:
        raise UnknownError(f"there is no job {name!r}")


def pause(connection: Connection, name: str) -> Job:
    """It is not due any more. One that is under way goes on. Raises UnknownError."""
    find(connection, name)
    connection.execute(update(jobs).where(jobs.c.name == name).values(paused=True, due=None))
    return find(connection, name)


def resume(connection: Connection, name: str, now: float) -> Job:
    """It is due at its next time; what has passed meanwhile is not made up. Raises UnknownError."""
    if not find(connection, name).paused:
        return find(connection, name)
    connection.execute(update(jobs).where(jobs.c.name == name).values(paused=False, updated=now))
    return _reckoned(connection, name, now)


def want(connection: Connection, name: str, author: str, now: float) -> Job:
    """Have it run now, also while it is paused; asked again before that, it is still one run. Raises UnknownError."""
    find(connection, name)
    wish = update(jobs).where(jobs.c.name == name, jobs.c.wanted.is_(None))
    connection.execute(wish.values(wanted=now, wanted_by=author))
    return find(connection, name)


def readable(rows: Sequence[Row[Any]]) -> list[Job]:
    """Rows of `jobs`, without those that are of another version: they must not cost the rest."""
    found = []
    for row in rows:
        try:
            found.append(_read(row))
        except ValueError as error:
            _unreadable(row.name, row.updated, type(error).__name__)
    return found


@lru_cache(maxsize=1000)  # once: the monitor looks twice a second
def _unreadable(name: str, updated: float, reason: str) -> None:
    _log.error("a job cannot be read and does not run", job=name, updated=iso(updated), reason=reason)


def _reckoned(connection: Connection, name: str, now: float) -> Job:
    """With its next time, counted from `now`."""
    due = None if (job := find(connection, name)).paused else job.after(now)
    connection.execute(update(jobs).where(jobs.c.name == name).values(due=due))
    return find(connection, name)


def _said(change: Change, now: float) -> dict[str, Any]:
    parameters = change.task.model_dump(exclude={"kind"}, exclude_none=True)
    trigger = change.trigger.model_dump(exclude_none=True)
    said = {"kind": change.task.kind, "parameters": parameters, "trigger": trigger, "missed": change.missed}
    return {**said, "author": change.author, "updated": now}


def _read(row: Row[Any]) -> Job:
    return Job(
        name=row.name,
        task=_TASK.validate_python({"kind": row.kind, **row.parameters}),
        trigger=_TRIGGER.validate_python(row.trigger),
        missed=row.missed,
        paused=row.paused,
        due=row.due,
        wanted=row.wanted,
        wanted_by=row.wanted_by,
        author=row.author,
        created=row.created,
        updated=row.updated,
    )
