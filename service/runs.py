"""Runs of jobs: every one that was begun, and what came of it. Times are seconds since 1970.

The monitor writes them, each before anything is done (`service.monitor.claims`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Row, select

from service import pages
from service.pages import Position
from service.tables import jobs, runs

Kind = Literal["report", "prune", "backup", "probe"]
Outcome = Literal["done", "failed", "skipped", "interrupted"]


class UnknownError(LookupError):
    """There is no such run."""


@dataclass(frozen=True)
class Run:
    """One run. Without `asked_by` it was due at `due`; else somebody wanted it at that time.

    Skipped: it was missed, and the job says so. Interrupted: the monitor ended in the midst of it.
    """

    id: str
    job: str
    kind: Kind
    due: float
    asked_by: str | None
    started: float
    ended: float | None = None
    outcome: Outcome | None = None
    detail: str = ""


def page(
    connection: Connection,
    *,
    job: str | None = None,
    outcome: Outcome | None = None,
    since: float | None = None,
    until: float | None = None,
    limit: int = 100,
    after: Position | None = None,
) -> tuple[list[Run], Position | None]:
    """So many runs behind a position, newest first; and the position of the last, None at the end."""
    equal = ((runs.c.job, job), (runs.c.outcome, outcome))
    query = pages.narrowed(select(runs), *equal, at=runs.c.started, since=since, until=until)
    rows, position = pages.page(connection, query, [runs.c.started, runs.c.id], limit, after)
    return [read(row) for row in rows], position


def find(connection: Connection, identity: str) -> Run:
    """Raises UnknownError."""
    row = connection.execute(select(runs).where(runs.c.id == identity)).first()
    if row is None:
        raise UnknownError(f"there is no run {identity!r}")
    return read(row)


def last(connection: Connection, names: Iterable[str]) -> Mapping[str, Run]:
    """The newest run of each of these jobs that has had one."""
    newest = select(runs.c.id).where(runs.c.job == jobs.c.name).order_by(runs.c.started.desc(), runs.c.id.desc()).limit(1)
    identities = select(newest.scalar_subquery()).select_from(jobs).where(jobs.c.name.in_(list(names)))
    rows = connection.execute(select(runs).where(runs.c.id.in_(identities))).all()
    return {row.job: read(row) for row in rows}


def read(row: Row[Any]) -> Run:
    return Run(**{column.name: getattr(row, column.name) for column in runs.columns})
