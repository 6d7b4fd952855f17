"""Which job is run next, and what becomes of a run: the database's side of it.

A run is noted, and its job given its next time, in one transaction that is committed before anything is done. So a job
whose time has come is run by one monitor and once, whoever else looks and wherever the process is killed; what is cut off
is known to have been begun.
"""

import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, func, insert, or_, select, update

from service import jobs as store
from service import runs as ran
from service.jobs import Job
from service.runs import Outcome, Run
from service.tables import jobs, runs

PUNCTUAL = 30.0  # seconds; a run is not missed as long as somebody begins to watch so soon after its time
MOST_BEGUN = 2  # runs for one time: what ends the monitor itself must not do so for ever


@dataclass(frozen=True)
class Claim:
    """A run that is to be made now."""

    run: Run
    job: Job


def decided(job: Job, now: float, watched: float) -> Literal["wanted", "run", "skip"] | None:
    """What is to be done with a job now; `watched`: since when somebody has looked without a gap. Pure."""
    if job.wanted is not None:
        return "wanted"
    if job.paused or job.due is None or job.due > now:
        return None
    return "skip" if job.missed == "skip" and job.due < watched - PUNCTUAL else "run"


def coming(connection: Connection, kinds: Collection[str], busy: Collection[str], now: float) -> list[Job]:
    """Jobs of these kinds that are not busy and are due or wanted, in the order in which they came to be so."""
    query = select(jobs).where(or_(jobs.c.wanted.is_not(None), jobs.c.due <= now))
    query = query.where(jobs.c.kind.in_(kinds), jobs.c.name.not_in(busy))
    return store.readable(connection.execute(query.order_by(func.coalesce(jobs.c.wanted, jobs.c.due), jobs.c.name)).all())


def claim(
    connection: Connection, kinds: Collection[str], busy: Collection[str], now: float, watched: float
) -> tuple[Claim | None, list[Run]]:
    """The run that is to be made next of these kinds, by jobs that are not busy; the caller commits before it is made.

    And those that are skipped, which are noted on the way.
    """
    skipped: list[Run] = []
    for job in coming(connection, kinds, busy, now):
        decision = decided(job, now, watched)
        if decision is None or not _taken(connection, job, now, wish=decision == "wanted"):
            continue
        if decision == "skip":
            missed = f"nobody ran it for {round(watched - (job.due or now))} s after its time"
            skipped.append(_note(connection, job, now, ended=now, outcome="skipped", detail=missed))
        else:
            return Claim(_note(connection, job, now, wish=decision == "wanted"), job), skipped
    return None, skipped


def finish(connection: Connection, run: Run, now: float, outcome: Outcome, detail: str) -> None:
    """A run has ended. What was said of its end before stays."""
    lasts = update(runs).where(runs.c.id == run.id, runs.c.ended.is_(None))
    connection.execute(lasts.values(ended=now, outcome=outcome, detail=detail))


def recover(connection: Connection, now: float) -> list[Run]:
    """Note as interrupted what a monitor has left that is gone; the caller is the only one there is.

    A job that runs what it has missed is due again for it, once.
    """
    left = [ran.read(row) for row in connection.execute(select(runs).where(runs.c.ended.is_(None))).all()]
    for run in left:
        finish(connection, run, now, "interrupted", "the monitor ended in the midst of it")
        begun = select(func.count()).where(runs.c.job == run.job, runs.c.due == run.due, runs.c.outcome == "interrupted")
        if connection.execute(begun).scalar_one() >= MOST_BEGUN:
            continue
        # What was changed or resumed meanwhile counts from then.
        again = update(jobs).where(jobs.c.name == run.job, jobs.c.updated <= run.started, jobs.c.missed == "run")
        if run.asked_by is not None:
            connection.execute(again.where(jobs.c.wanted.is_(None)).values(wanted=run.due, wanted_by=run.asked_by))
        else:
            connection.execute(again.where(jobs.c.paused.is_(False)).values(due=run.due))
    return left


def _taken(connection: Connection, job: Job, now: float, *, wish: bool) -> bool:
    """Give it its next time, or its wish away; False where somebody else was first."""
    mine = update(jobs).where(jobs.c.name == job.name)
    if wish:
        mine = mine.where(jobs.c.wanted == job.wanted).values(wanted=None, wanted_by=None)
    else:
        # Forward only: where the clock was set back, nothing has a second turn.
        mine = mine.where(jobs.c.due == job.due).values(due=job.after(max(now, job.due or now)))
    return connection.execute(mine).rowcount == 1


def _note(
    connection: Connection,
    job: Job,
    now: float,
    *,
    wish: bool = False,
    ended: float | None = None,
    outcome: Outcome | None = None,
    detail: str = "",
) -> Run:
    due, asked_by = (job.wanted, job.wanted_by) if wish else (job.due, None)
    identity = secrets.token_hex(8)
    run = Run(identity, job.name, job.task.kind, due or now, asked_by, now, ended, outcome, detail)
    connection.execute(insert(runs).values(vars(run)))
    return run
