"""/api/v1/jobs and /api/v1/runs: scheduled work. docs/jobs.md has the details.

All of this only writes what is wanted into the database. The monitor, the only scheduler, reads it there within a second.
"""

import time
from collections.abc import Callable
from typing import Annotated

from apiflask import APIBlueprint
from flask import Response, url_for
from pydantic import Field
from sqlalchemy import Connection
from werkzeug.exceptions import Conflict, NotFound

from service import jobs, runs
from service.checking import FaultsError
from service.jobs import Change, Draft, Job, Missed, Person, Task
from service.runs import Kind, Outcome, Run
from service.settings import Settings
from service.triggers import Trigger
from service.values import iso
from service.web.api import (
    Database,
    Next,
    Paged,
    Period,
    Shape,
    Time,
    View,
    answer,
    changed,
    guarded,
    next_page,
    nothing,
    operation,
    time_of,
)
from service.web.configured import Configured
from service.web.errors import problem

CHANGE = {
    "task": {"kind": "backup", "keep": 7},
    "trigger": {"type": "cron", "cron": "30 3 * * *", "timezone": "Europe/Zurich"},
    "missed": "run",
    "author": "ann",
}
EXAMPLE = {"name": "nightly", **CHANGE}
WHO = {"author": "ann"}


class RunsAsked(Period):
    """Which runs, in pages; the period is about when they began."""

    job: Annotated[str | None, Field(description="Those of this job.", examples=["nightly"])] = None
    outcome: Annotated[Outcome | None, Field(description="Those that ended so.", examples=["failed"])] = None


class RunShape(Shape):
    """A run of a job and, once it has ended, what came of it."""

    id: str
    job: str
    kind: Kind
    due_at: Annotated[Time, Field(description="When it was to run.")]
    asked_by: Annotated[str | None, Field(description="Who wanted it then; null if it was its time.")]
    started_at: Time
    ended_at: Time | None
    seconds: float | None
    outcome: Annotated[Outcome | None, Field(description="Null while it is under way.")]
    detail: str


class RunsShape(Shape):
    """A page of runs."""

    runs: list[RunShape]
    next: Next


class JobShape(Shape):
    """A job, when it runs next, and how its last run went."""

    name: str
    task: Task
    trigger: Trigger
    missed: Missed
    paused: bool
    due_at: Annotated[Time | None, Field(description="The next run; null when there is none.")]
    wanted_at: Annotated[Time | None, Field(description="Since when it is to be run now; null when it is not.")]
    wanted_by: str | None
    author: str
    created_at: Time
    updated_at: Annotated[Time, Field(description="When it was added, or changed last.")]
    last_run: RunShape | None


class JobsShape(Shape):
    """A page of jobs."""

    jobs: list[JobShape]
    next: Next


def blueprint(settings: Settings) -> APIBlueprint:
    """The routes, around one database and one configuration."""
    routes = APIBlueprint("jobs", __name__, url_prefix="/api/v1", tag="Jobs")
    opened, configured = guarded(routes, settings), Configured(settings)
    for unknown in (jobs.UnknownError, runs.UnknownError):
        routes.register_error_handler(unknown, lambda error: problem(NotFound(str(error))))
    routes.register_error_handler(jobs.TakenError, lambda error: problem(Conflict(str(error))))
    for path, view in (
        ("/jobs", JobsView),
        ("/jobs/<name>", JobView),
        ("/jobs/<name>/pause", PauseView),
        ("/jobs/<name>/resume", ResumeView),
        ("/jobs/<name>/run", RunView),
        ("/runs", RunsView),
        ("/runs/<identity>", RanView),
    ):
        routes.add_url_rule(path, view_func=view.as_view(view.__name__, opened, configured))
    return routes


class JobsBase(View):
    """One address, the database, and what the configuration names."""

    def __init__(self, opened: Database, configured: Configured) -> None:
        super().__init__(opened)
        self._configured = configured

    def _check(self, change: Change) -> None:
        if faults := jobs.faults_of(change, self._configured.configuration()):
            raise FaultsError(faults)

    def _change(self, change: Callable[[Connection], Job]) -> JobShape:
        with self.changing() as connection:
            job = change(connection)
            return _job(job, runs.last(connection, [job.name]).get(job.name))


class JobsView(JobsBase):
    @operation(JobsShape, query=Paged)
    def get(self, query: Paged) -> Response:
        """All jobs, newest first."""
        with self.reading() as connection:
            found, position = jobs.page(connection, query.limit, query.cursor())
            last = runs.last(connection, [job.name for job in found])
        return answer(JobsShape(jobs=[_job(each, last.get(each.name)) for each in found], next=next_page(position)))

    @operation(JobShape, 201, body=Draft, example=EXAMPLE, errors=(409,))
    def post(self, body: Draft) -> Response:
        """Add a job."""
        self._check(body)
        made = self._change(lambda connection: jobs.add(connection, body, time.time()))
        changed("job-added", author=body.author, job=made.name)
        return answer(made, 201, {"Location": url_for("jobs.JobView", name=made.name)})


class JobView(JobsBase):
    @operation(JobShape)
    def get(self, name: str) -> Response:
        """One job."""
        with self.reading() as connection:
            found = jobs.find(connection, name)
            last = runs.last(connection, [name])
        return answer(_job(found, last.get(name)))

    @operation(JobShape, body=Change, example=CHANGE)
    def put(self, name: str, body: Change) -> Response:
        """Put another task and trigger into a job."""
        self._check(body)
        made = self._change(lambda connection: jobs.replace(connection, name, body, time.time()))
        changed("job-changed", author=body.author, job=name)
        return answer(made)

    @operation(None, 204)
    def delete(self, name: str) -> Response:
        """Remove a job. Its runs stay to be read."""
        with self.changing() as connection:
            jobs.remove(connection, name)
        changed("job-removed", job=name)
        return nothing()


class PauseView(JobsBase):
    @operation(JobShape, body=Person, example=WHO)
    def post(self, name: str, body: Person) -> Response:
        """Pause a job: it is not due until it is resumed."""
        found = self._change(lambda connection: jobs.pause(connection, name))
        changed("job-paused", author=body.author, job=name)
        return answer(found)


class ResumeView(JobsBase):
    @operation(JobShape, body=Person, example=WHO)
    def post(self, name: str, body: Person) -> Response:
        """Resume a job: it is due at its next time."""
        found = self._change(lambda connection: jobs.resume(connection, name, time.time()))
        changed("job-resumed", author=body.author, job=name)
        return answer(found)


class RunView(JobsBase):
    @operation(JobShape, 202, body=Person, example=WHO)
    def post(self, name: str, body: Person) -> Response:
        """Have a job run now, also while it is paused. `Location` is where its run appears, within a second."""
        found = self._change(lambda connection: jobs.want(connection, name, body.author, time.time()))
        changed("job-wanted", author=body.author, job=name)
        return answer(found, 202, {"Location": url_for("jobs.RunsView", job=name)})


class RunsView(JobsBase):
    @operation(RunsShape, query=RunsAsked)
    def get(self, query: RunsAsked) -> Response:
        """Runs of all jobs, newest first."""
        with self.reading() as connection:
            found, position = runs.page(connection, **query.model_dump(exclude={"after"}), after=query.cursor())
        return answer(RunsShape(runs=[_run(each) for each in found], next=next_page(position)))


class RanView(JobsBase):
    @operation(RunShape)
    def get(self, identity: str) -> Response:
        """One run."""
        with self.reading() as connection:
            found = runs.find(connection, identity)
        return answer(_run(found))


def _job(job: Job, last: Run | None) -> JobShape:
    return JobShape(
        name=job.name,
        task=job.task,
        trigger=job.trigger,
        missed=job.missed,
        paused=job.paused,
        due_at=time_of(job.due),
        wanted_at=time_of(job.wanted),
        wanted_by=job.wanted_by,
        author=job.author,
        created_at=iso(job.created),
        updated_at=iso(job.updated),
        last_run=None if last is None else _run(last),
    )


def _run(run: Run) -> RunShape:
    return RunShape(
        id=run.id,
        job=run.job,
        kind=run.kind,
        due_at=iso(run.due),
        asked_by=run.asked_by,
        started_at=iso(run.started),
        ended_at=time_of(run.ended),
        seconds=None if run.ended is None else round(max(0.0, run.ended - run.started), 3),
        outcome=run.outcome,
        detail=run.detail,
    )
