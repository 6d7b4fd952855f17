"""The `tocsin` command."""

import base64
import json
import secrets
import signal
import sys
import threading
from pathlib import Path

import click
import structlog
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
    found = configuration.load(Settings.from_environment(), file)
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

    settings = Settings.from_environment()
    found = configuration.load(settings)
    logs.configure("tocsin-monitor", settings.log_level)
    try:
        settings.data.mkdir(parents=True, exist_ok=True)
        engine = database.connect(settings.database)
    except (OSError, SQLAlchemyError, ImportError) as error:
        cause = getattr(error, "orig", None) or error
        structlog.get_logger().critical(f"cannot use the database {database.shown(settings.database)}: {cause}")
        sys.exit(1)
    stopping = threading.Event()
    # A signal only sets a flag: the tick that runs is finished and committed.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    loop.run(found, engine, stopping)


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
