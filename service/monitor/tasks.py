"""What the kinds of job do. What goes wrong in a way that a person can mend is raised as Failed, in words for that person."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from service import database, reports
from service.backup import BackupError, back_up
from service.configuration import Configuration
from service.history import prune
from service.jobs import Backup, Job, Probe, ReportTask
from service.monitor.exchange import Client
from service.monitor.outbox import Entry
from service.monitor.probe import ask
from service.monitor.receivers import report
from service.runs import Run
from service.values import number, seconds


class Failed(Exception):  # noqa: N818 - it names what is so, not a fault of the program
    """It could not be done; the text says why, without secrets."""


@dataclass(frozen=True)
class Surroundings:
    """What a job works with."""

    engine: Engine
    folder: Path  # of data
    configuration: Configuration
    clock: Callable[[], float]
    stopping: Callable[[], bool]  # whether the monitor ends


@dataclass(frozen=True)
class Done:
    """What came of a run, and who is to be told of it."""

    detail: str
    failed: bool = False
    entries: tuple[Entry, ...] = ()


def carry_out(job: Job, run: Run, at: Surroundings) -> Done:
    """Do what a job is there for. Raises Failed."""
    match job.task:
        case ReportTask():
            return _report(job.task, run, at)
        case Backup():
            return _backup(job.task, run, at)
        case Probe():
            return _probe(job.task, at)
        case _:
            return _prune(at)


def _report(task: ReportTask, run: Run, at: Surroundings) -> Done:
    """Of the time before it was due, also when it is made later."""
    from service.reports import gather, render, sections  # noqa: PLC0415 - with Jinja more than two megabytes, and seldom needed

    receiver = next((each for each in at.configuration.receivers if each.name == task.receiver), None)
    if task.receiver is not None and receiver is None:
        raise Failed(f"there is no receiver {task.receiver!r} any more")
    if receiver is not None and not receiver.takes_reports:
        raise Failed(f"{receiver.name!r} is told in Alertmanager's format now, which has no place for a report")
    lasts = seconds(task.since)
    until = gather.end_of(at.configuration, lasts, run.due, at.clock())
    with at.engine.begin() as connection:
        reports.ask_for(connection, run, lasts, until, at.clock())
    reports.carry_out(at.engine, at.configuration, run.id, at.clock)
    try:
        with database.reading(at.engine) as connection:
            made = reports.find(connection, run.id)
    except reports.UnknownError:
        raise Failed("somebody has deleted it while it was made") from None
    if made.report is None:
        raise Failed(made.detail)
    if receiver is None:
        return Done(f"report {made.id}")
    url = f"{at.configuration.public}/api/v1/reports/{made.id}/download?format=html"
    title = f"{sections.title(made.report)}, {sections.period(made.report)}"
    text, instance = render.text(made.report), at.configuration.instance
    content = report(made.id, title, text, url=url, since=made.since, until=made.until, instance=instance)
    return Done(f"report {made.id}, for {receiver.name}", entries=(Entry(receiver.name, content),))


def _backup(task: Backup, run: Run, at: Surroundings) -> Done:
    try:
        made = back_up(at.engine.url, at.folder, run.job, task.keep, at.clock())
    except BackupError as error:
        raise Failed(str(error)) from error
    return Done(f"{made.name}, {made.stat().st_size / 1_048_576:.1f} MiB")


def _prune(at: Surroundings) -> Done:
    deleted = prune(at.engine, at.configuration.keep, at.clock(), stopping=at.stopping)
    said = ", ".join(f"{number} {name}" for name, number in deleted.items() if number)
    return Done(f"deleted {said}" if said else "nothing was old enough")


def _probe(task: Probe, at: Surroundings) -> Done:
    target = next((each for each in at.configuration.targets if each.name == task.target), None)
    if target is None:
        raise Failed(f"there is no target {task.target!r} any more")
    began = at.clock()
    with closing(Client()) as client:
        up, *_ = ask(target, client)
    took = f"{number(round(max(0.0, at.clock() - began), 3))} s"
    return Done(f"up, in {took}" if up.value else f"not up: {up.reason}, after {took}")
