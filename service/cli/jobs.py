"""`tocsin jobs`: scheduled work. What is written here, the monitor does within a second."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import click

from service import jobs, loading
from service import runs as ran
from service.cli.opening import connected
from service.cli.options import author_option, given
from service.cli.table import table
from service.jobs import Change, Draft, Job, Person
from service.runs import Run
from service.values import ConfigurationError, iso, length

Wanted = TypeVar("Wanted", bound=Change)
_connection = partial(connected, jobs.UnknownError, jobs.TakenError)

KINDS = ("report", "prune", "backup", "probe")
# The options, where a fault in what they give is told.
PLACES = {
    **{f"task.{name}": f"--{name}" for name in ("since", "receiver", "keep", "target")},
    **{f"trigger.{name}": f"--{name}" for name in ("cron", "every", "at", "timezone", "start", "end", "jitter")},
    "missed": "--missed",
    "name": "NAME",
    "trigger": "the time",
    "author": "--author",
}


@click.group("jobs")
def job_commands() -> None:
    """Jobs: what is done at its time, and how that went."""


@job_commands.command("list")
def list_jobs() -> None:
    """List all jobs, with their next and their last run."""
    with _connection() as connection:
        found = jobs.every(connection)
        last = ran.last(connection, [job.name for job in found])
    table(
        ("NAME", "KIND", "WHEN", "NEXT", "LAST"),
        [(job.name, job.task.kind, str(job.trigger), _next(job), _ended(last.get(job.name))) for job in found],
    )


@job_commands.command()
@click.argument("name")
def show(name: str) -> None:
    """Show all of the job NAME."""
    with _connection() as connection:
        job = jobs.find(connection, name)
        last = ran.last(connection, [name]).get(name)
    parts = {**job.task.model_dump(exclude_none=True), **job.trigger.model_dump(exclude_none=True, exclude={"type"})}
    rows = {"name": job.name, **{place: str(value) for place, value in parts.items()}, "missed": job.missed}
    rows |= {"author": job.author, "created": iso(job.created), "changed": iso(job.updated), "next": _next(job)}
    rows |= {"last": _ended(last), "detail": last.detail if last else ""}
    table(("FIELD", "VALUE"), list(rows.items()))


SAID = (
    click.option("--kind", type=click.Choice(KINDS), required=True, help="What is done."),
    click.option("--cron", help="When: a line of a crontab, such as '0 8 * * mon'."),
    click.option("--every", metavar="DURATION", help="When: so often, such as 1h."),
    click.option("--at", metavar="TIME", help="When: once, in ISO 8601."),
    click.option(
        "--timezone", metavar="ZONE", help="The zone of --cron, and of times without an offset.  [default: UTC for --cron]"
    ),
    click.option("--start", metavar="TIME", help="Not before."),
    click.option("--end", metavar="TIME", help="Not after."),
    click.option("--jitter", metavar="DURATION", help="Each run is late by some part of it."),
    click.option(
        "--missed",
        type=click.Choice(["run", "skip"]),
        default="run",
        show_default=True,
        help="What was due while no monitor ran.",
    ),
    click.option("--since", metavar="DURATION", help="report: about so long before.  [default: 7d]"),
    click.option("--receiver", metavar="NAME", help="report: to whom; to nobody, if left out."),
    click.option("--keep", type=int, metavar="NUMBER", help="backup: so many copies.  [default: 7]"),
    click.option("--target", metavar="NAME", help="probe: of what."),
    author_option,
)


def said_options(command: Callable[..., None]) -> Callable[..., None]:
    """What is done and when: the options of `add` and `change`."""
    for option in reversed(SAID):
        command = option(command)
    return command


@job_commands.command()
@click.argument("name")
@said_options
def add(name: str, **said: Any) -> None:
    """Add the job NAME."""
    now = time.time()
    draft = _checked(Draft, {"name": name}, said, now)
    with _connection(changing=True) as connection:
        made = jobs.add(connection, draft, now)
    click.echo(f"{made.name}  next: {_next(made)}")


@job_commands.command()
@click.argument("name")
@said_options
def change(name: str, **said: Any) -> None:
    """Put another task and another time into the job NAME. What is left out is as with `add`, not as it was."""
    now = time.time()
    wanted = _checked(Change, {}, said, now)
    with _connection(changing=True) as connection:
        made = jobs.replace(connection, name, wanted, now)
    click.echo(f"{made.name}  next: {_next(made)}")


def _checked(model: type[Wanted], named: dict[str, Any], given_options: dict[str, Any], now: float) -> Wanted:
    said = {option: value for option, value in given_options.items() if value is not None}
    kinds = {option: kind for option, kind in (("cron", "cron"), ("every", "interval"), ("at", "date")) if option in said}
    if len(kinds) != 1:
        raise ConfigurationError(["say when, with exactly one of --cron, --every and --at"])
    body: dict[str, Any] = {**named, **{option: said.pop(option) for option in ("missed", "author")}}
    body["task"] = {option: said.pop(option) for option in ("kind", "since", "receiver", "keep", "target") if option in said}
    body["trigger"] = {"type": next(iter(kinds.values())), **said}
    found = given(model, body, now, PLACES)
    _, configuration = loading.from_environment()
    if faults := jobs.faults_of(found, configuration):
        raise ConfigurationError([f"{PLACES[place]}: {fault}" for place, fault in faults])
    return found


@job_commands.command()
@click.argument("name")
def pause(name: str) -> None:
    """Pause the job NAME: it is not due until it is resumed."""
    with _connection(changing=True) as connection:
        jobs.pause(connection, name)
    click.echo(f"{name}  paused")


@job_commands.command()
@click.argument("name")
def resume(name: str) -> None:
    """Resume the job NAME: it is due at its next time."""
    with _connection(changing=True) as connection:
        found = jobs.resume(connection, name, time.time())
    click.echo(f"{name}  next: {_next(found)}")


@job_commands.command()
@click.argument("name")
@author_option
def run(name: str, author: str) -> None:
    """Have the job NAME run now; `tocsin jobs runs NAME` tells what came of it."""
    now = time.time()
    person = given(Person, {"author": author}, now)
    with _connection(changing=True) as connection:
        jobs.want(connection, name, person.author, now)
    click.echo(f"{name}  wanted; the monitor runs it within a second")


@job_commands.command()
@click.argument("name")
def remove(name: str) -> None:
    """Remove the job NAME. Its runs stay to be read."""
    with _connection(changing=True) as connection:
        jobs.remove(connection, name)
    click.echo(f"{name}  removed")


@job_commands.command()
@click.argument("name", required=False)
@click.option("--limit", type=click.IntRange(1, 500), default=20, show_default=True, help="How many.")
def runs(name: str | None, limit: int) -> None:
    """List the runs of the job NAME, else of all, the newest first."""
    with _connection() as connection:
        found, _ = ran.page(connection, job=name, limit=limit)
    table(
        ("ID", "JOB", "DUE", "STARTED", "TOOK", "OUTCOME", "DETAIL"),
        [(run.id, run.job, iso(run.due), iso(run.started), _took(run), _outcome(run), run.detail) for run in found],
    )


def _next(job: Job) -> str:
    if job.wanted is not None:
        return "now"
    return "paused" if job.paused else "never" if job.due is None else iso(job.due)


def _ended(run: Run | None) -> str:
    return "" if run is None else f"{_outcome(run)} {iso(run.ended or run.started)}"


def _outcome(run: Run) -> str:
    return run.outcome or "running"


def _took(run: Run) -> str:
    return "" if run.ended is None else length(run.ended - run.started)
