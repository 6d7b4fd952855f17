"""The `tocsin` command."""

import base64
import json
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import click
import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from service import configuration, database, logs
from service.settings import Settings
from service.values import ConfigurationError


@click.group()
def cli() -> None:
    """Tocsin: a health API, and a monitor whose alerts arrive."""


@cli.command("check-config")
@click.argument("file", required=False, type=click.Path(path_type=Path))
def check_config(file: Path | None) -> None:
    """Check the environment and FILE (else TOCSIN_CONFIG); tell everything that is wrong, with its place."""
    _, found = configuration.from_environment(file)
    click.echo(f"ok: {len(found.targets)} targets, {len(found.rules)} rules, {len(found.receivers)} receivers")


@cli.command()
def schema() -> None:
    """Print the JSON Schema of monitor.yaml, for editors."""
    click.echo(json.dumps(configuration.schema(), indent=2))


@cli.command()
def secret() -> None:
    """Print a new secret for signing webhooks."""
    click.echo(f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}")


@cli.command()
def monitor() -> None:
    """Watch, and tell. supervisord runs this."""
    from service.monitor import loop  # noqa: PLC0415 - the other commands need none of it

    logs.configure("tocsin-monitor")
    try:
        settings, found = configuration.from_environment()
    except ConfigurationError as error:
        for fault in error.faults:
            structlog.get_logger().critical(fault)
        sys.exit(2)
    logs.configure("tocsin-monitor", settings.log_level)
    stopping = threading.Event()
    # A signal only sets a flag: the tick that runs is finished and committed.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    loop.run(found, _database(settings, structlog.get_logger().critical), stopping)


@cli.group("outbox", invoke_without_command=True)
@click.pass_context
def outbox_commands(context: click.Context) -> None:
    """List what was not delivered yet, and what was given up."""
    if context.invoked_subcommand is not None:
        return
    from service.monitor import outbox  # noqa: PLC0415
    from service.monitor.receivers import iso  # noqa: PLC0415

    with _database(Settings.from_environment(), _complain).connect() as connection:
        rows = outbox.undelivered(connection)
    for row in rows:
        state = f"given up {iso(row.dead)}" if row.dead else "waiting"
        content = row.resolved or row.firing
        click.echo(f"{iso(row.changed)}  {row.receiver}  {state}  {row.wanted}  {content['summary']}")
    click.echo(f"{len(rows)} not delivered", err=True)


@outbox_commands.command()
def replay() -> None:
    """Send again what was given up, also to receivers that wanted no more (410)."""
    from service.monitor import outbox  # noqa: PLC0415

    with _database(Settings.from_environment(), _complain).begin() as connection:
        revived = outbox.replay(connection, time.time())
    click.echo(f"{revived} wait again; the monitor sends them within a minute", err=True)


def _database(settings: Settings, say: Callable[[str], object]) -> Engine:
    """The database, or one line that says why not and exit status 1."""
    try:
        settings.data.mkdir(parents=True, exist_ok=True)
        return database.connect(settings.database)
    except (OSError, SQLAlchemyError, ImportError) as error:
        say(f"cannot use the database {database.shown(settings.database)}: {getattr(error, 'orig', None) or error}")
        sys.exit(1)


def _complain(fault: str) -> None:
    click.echo(fault, err=True)


def main() -> None:
    """Run the command; a configuration fault is told in lines on standard error, with exit status 2."""
    try:
        cli()
    except ConfigurationError as error:
        for fault in error.faults:
            click.echo(fault, err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
