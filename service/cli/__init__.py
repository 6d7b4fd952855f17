"""The `tocsin` command."""

import base64
import json
import os
import secrets
import signal
import sys
import threading
import time
import traceback
from functools import partial
from importlib import import_module
from pathlib import Path

import click
import structlog
from dotenv import load_dotenv
from sqlalchemy.exc import SQLAlchemyError

from service import alive, loading, logs, notify
from service.cli.opening import engine_for
from service.settings import CHECKOUT, Settings, variable
from service.values import ConfigurationError

ELSEWHERE = {
    "ack": "alerts:ack",
    "alerts": "alerts:list_alerts",
    "check": "check:check",
    "jobs": "jobs:job_commands",
    "outbox": "delivery:outbox_commands",
    "receive": "delivery:receive_alerts",
    "report": "reports:make_report",
    "service": "services:service_commands",
    "silence": "alerts:silence_commands",
    "test-alert": "delivery:send_test_alert",
}


class Commands(click.Group):
    """Loads a command's module when the command is asked for: the monitor, which runs for months, needs none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *ELSEWHERE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in ELSEWHERE:
            return super().get_command(ctx, cmd_name)
        module, name = ELSEWHERE[cmd_name].split(":")
        command: click.Command = getattr(import_module(f"service.cli.{module}"), name)
        return command


@click.group(cls=Commands)
def cli() -> None:
    """Tocsin: a health API, and a monitor whose alerts arrive."""


@cli.command("check-config")
@click.argument("file", required=False, type=click.Path(path_type=Path))
def check_config(file: Path | None) -> None:
    """Check the environment and FILE (else TOCSIN_CONFIG); tell everything that is wrong, with its place."""
    settings, found = loading.from_environment(file)
    if settings.blueprints:
        _load_blueprints(settings)
    read = file or settings.config or "the defaults"
    click.echo(f"ok: {read}: {len(found.targets)} targets, {len(found.rules)} rules, {len(found.receivers)} receivers")


def _load_blueprints(settings: Settings) -> None:
    """As a worker of gunicorn does, which looks for modules where it was started. What their code raised is shown whole."""
    from service.web import create_app  # noqa: PLC0415 - the other commands need none of it

    sys.path[:0] = [str(Path.cwd()), *filter(None, (variable("PYTHONPATH") or "").split(":"))]
    try:
        create_app(settings)
    except ConfigurationError as error:
        if error.__cause__:
            traceback.print_exception(error.__cause__)
        raise


@cli.command()
def schema() -> None:
    """Print the JSON Schema of monitor.yaml, for editors."""
    click.echo(json.dumps(loading.schema(), indent=2))


@cli.command()
def secret() -> None:
    """Print a new secret for signing webhooks."""
    click.echo(f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}")


@cli.command()
def monitor() -> None:
    """Watch, and tell. supervisord or systemd runs this. SIGHUP reads monitor.yaml again."""
    from service.monitor import loop  # noqa: PLC0415 - the other commands need none of it
    from service.monitor.leader import Leader, lock_of  # noqa: PLC0415

    logs.configure("tocsin-monitor")
    try:
        settings, _ = loading.from_environment()
    except ConfigurationError as error:
        for fault in error.faults:
            structlog.get_logger().critical(fault)
        sys.exit(2)
    logs.configure("tocsin-monitor", settings.log_level)
    signals = loop.Signals()
    # A signal only sets a flag: the tick that runs is finished and committed.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: signals.stopping.set())
    signal.signal(signal.SIGHUP, lambda *_: signals.reload.set())
    uncaught = threading.excepthook

    def begin_anew(error: threading.ExceptHookArgs) -> None:
        """A thread that has ended, for want of memory perhaps, would not be missed: a new process has it again."""
        uncaught(error)
        signals.stopping.set()

    threading.excepthook = begin_anew
    engine = engine_for(settings, structlog.get_logger().critical)

    def promise(seconds: float) -> None:
        alive.promise(settings.runtime, seconds)  # to supervise.py
        notify.promise(seconds)  # to systemd

    try:
        loop.run(
            partial(loading.load, settings),
            engine,
            signals,
            folder=settings.data,
            runtime=settings.runtime,
            alive=promise,
            leads=Leader(lock_of(engine.url, settings.data)).take,
        )
    except ConfigurationError:
        raise
    except Exception as error:  # noqa: BLE001 - what nobody has foreseen
        sys.excepthook(type(error), error, error.__traceback__)
        # At once: where there is no memory, an end in order waits for threads that have never begun.
        os._exit(1)


@cli.command("gave-up", hidden=True)
@click.argument("program")
@click.option("--unless-healed", is_flag=True)
@click.option("--by", type=click.Choice(["supervisord", "systemd"]), default="supervisord")
def gave_up(program: str, unless_healed: bool, by: str) -> None:
    """Announce that supervisord or systemd has given up on PROGRAM: supervise.py and tocsin-gave-up@.service run this."""
    from service.monitor.store import Store  # noqa: PLC0415 - the other commands need none of it

    logs.configure(f"tocsin-{by}")
    log = structlog.get_logger()
    try:
        settings, configuration = loading.from_environment()
    except ConfigurationError as error:
        for fault in error.faults:
            log.critical(fault)
        sys.exit(2)
    engine = engine_for(settings, log.critical)
    try:
        if Store(engine).give_notice(configuration, program, time.time(), by=by, unless_healed=unless_healed):
            log.critical("that it was given up will be told", service=program, **{"event.category": "process"})
    except SQLAlchemyError as error:
        log.critical("that it was given up cannot be told", service=program, error=type(error).__name__)
        sys.exit(1)


def main() -> None:
    """Run the command; a configuration fault is told in lines on standard error, with exit status 2.

    `.env` of the checkout is read as `make up` does: what the environment has wins.
    """
    try:
        load_dotenv(CHECKOUT / ".env")
    except OSError as error:  # it is its owner's alone, and this is another user, such as Nagios'
        click.echo(f"{CHECKOUT / '.env'} cannot be read ({error.strerror}); only the environment counts", err=True)
    except UnicodeDecodeError:
        click.echo(f"{CHECKOUT / '.env'} cannot be read (it is not text in UTF-8); only the environment counts", err=True)
    try:
        cli()
    except ConfigurationError as error:
        for fault in error.faults:
            click.echo(fault, err=True)
        sys.exit(2)
