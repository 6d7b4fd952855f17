"""`tocsin service`: how services are, and their restart."""

import contextlib
import os
import select
import sys
import time

import click
import orjson
import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from service import database, holds, loading, logs, restarts
from service.cli.opening import complain
from service.cli.options import author_option, comment_option, given
from service.cli.table import table
from service.configuration import Configuration
from service.holds import BusyError
from service.restarts import Restart, Wish
from service.services import Service
from service.settings import Settings
from service.supervision import SupervisorError, supervisor_of
from service.values import ConfigurationError, iso, length, suggestion


@click.group("service")
def service_commands() -> None:
    """Services: how they are, and their restart."""


@service_commands.command()
@click.argument("name", required=False)
def status(name: str | None) -> None:
    """Show how the service NAME is, else all; ends with 1 when a supervisor does not answer."""
    settings, configuration = loading.from_environment()
    rows, silent = [], False
    for service in configuration.services if name is None else [_named(configuration, name)]:
        row = [service.name, service.supervisor[0]]
        try:
            found = supervisor_of(service, settings.runtime).status()
        except SupervisorError as error:
            silent = True
            row += ["unknown", "", "", "", str(error)]
        else:
            since = "" if found.since is None else iso(found.since)
            pid, restarted = ("" if number is None else str(number) for number in (found.pid, found.restarts))
            under_way = ["is being restarted"] if holds.under_way(service.name, settings.data) else []
            row += [found.state, since, pid, restarted, "; ".join([*under_way, *filter(None, [found.detail])])]
        rows.append(row)
    table(("NAME", "SUPERVISOR", "STATE", "SINCE", "PID", "RESTARTS", "NOTES"), rows)
    sys.exit(silent)


@service_commands.command()
@click.argument("name")
@author_option
@comment_option
def restart(name: str, author: str, comment: str) -> None:
    """Restart the service NAME; ends with 0 when it is healthy again, and with 1 otherwise."""
    logs.configure("tocsin", "CRITICAL", fd=2)  # to a person it is told in plain lines
    settings, configuration = loading.from_environment()
    wish = given(Wish, {"name": name, "author": author, "comment": comment}, time.time())
    service = _named(configuration, wish.name)
    engine = _engine(settings)
    click.echo(f"restarting {name}; it has {length(service.timeout)} to be healthy again")
    asked = restarts.asked(name, "command", wish.author, wish.comment)
    try:
        done = restarts.perform(service, asked, settings.data, engine, runtime=settings.runtime)
    except BusyError as error:
        complain(f"{error}; `tocsin service status {name}` tells when it is over")
    except OSError as error:
        complain(f"cannot use the data folder {settings.data}: {error.strerror}; set TOCSIN_DATA to the one that the stack uses")
    except KeyboardInterrupt:
        complain(f"no longer waiting for {name}; `tocsin service status {name}` tells how it is")
    else:
        if done.outcome == "healthy":
            click.echo(f"{name} is healthy after {length((done.ended or 0) - done.started)}: {_processes(done)}")
            return
        complain(f"{name} is {done.outcome}: {done.detail}")
    sys.exit(1)


@service_commands.command("carry-out", hidden=True)
def carry_out() -> None:
    """Do a restart that the API has begun, and whose lock this process has inherited; it stands on standard input."""
    settings = Settings.from_environment()
    logs.configure("tocsin-web", settings.log_level)
    order = orjson.loads(sys.stdin.buffer.read())
    structlog.contextvars.bind_contextvars(**{"http.request.id": order["request"]})
    service, begun = Service.model_validate(order["service"]), Restart(**order["restart"])
    try:
        engine = database.connect(settings.database)
    except (SQLAlchemyError, ImportError):
        engine = None  # the API has said so
    done = restarts.carry_out(service, begun, settings.runtime, engine)
    os.close(order["lock"])  # who is told that it is over may ask for the next one
    _log_beside(done.new_pid)
    restarts.tell(done)


def _named(configuration: Configuration, name: str) -> Service:
    known = {service.name: service for service in configuration.services}
    if name not in known:
        raise ConfigurationError([f"{name!r} is not a service{suggestion(name, known)}"])
    return known[name]


def _engine(settings: Settings) -> Engine | None:
    """The database; without one, a line says that this restart is not kept there."""
    try:
        return database.connect(settings.database)
    except (SQLAlchemyError, ImportError) as error:
        reason = getattr(error, "orig", None) or error
        complain(f"cannot use the database {database.shown(settings.database)}: {reason}; this restart is not kept there")
        return None


def _processes(done: Restart) -> str:
    return f"process {done.new_pid}" + ("" if done.old_pid is None else f" in place of {done.old_pid}")


def _log_beside(pid: int | None) -> None:
    """Log where this process does, if our own log is a pipe that nobody reads any more: it ended with the process before."""
    look = select.poll()
    look.register(1, 0)
    if pid is not None and any(event & select.POLLERR for _, event in look.poll(0)):
        with contextlib.suppress(OSError):
            os.dup2(os.open(f"/proc/{pid}/fd/1", os.O_WRONLY), 1)
