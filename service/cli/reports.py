"""`tocsin report`: a health report on the spot, past the monitor."""

import sys
import time
from pathlib import Path
from typing import cast

import click
from sqlalchemy.exc import SQLAlchemyError

from service import database, loading
from service.cli.opening import complain, opened
from service.cli.options import given
from service.values import ConfigurationError

SOON = 1.0  # seconds after which it is said how far it is
_NAMES = {"since": "--since", "from": "--since", "to": "--until"}


@click.command("report")
@click.option("--since", default="7d", show_default=True, help="How long before the end it begins, such as 24h or 30d.")
@click.option("--until", metavar="TIME", help="Its end, in ISO 8601 with a zone; now, if left out.")
@click.option("--format", "form", default="text", show_default=True, type=click.Choice(["html", "json", "csv", "text"]))
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="A file to write it to; else standard output.")
def make_report(since: str, until: str | None, form: str, output: Path | None) -> None:
    """Report on a period: availability, readings, alerts, restarts, deliveries, and when disks are full."""
    from service.reports import Wanted, gather, render  # noqa: PLC0415 - the other commands need none of it

    settings, configuration = loading.from_environment()
    now = time.time()
    said = {"since": since, "author": "command"} | ({} if until is None else {"to": until})
    begin, end = given(Wanted, said, now, _NAMES).period(now)
    engine = opened(settings, complain)
    try:
        report = gather.make(engine, configuration, begin, end, now, _Progress())
    except SQLAlchemyError as error:
        reason = getattr(error, "orig", None) or error
        raise ConfigurationError([f"cannot use the database {database.shown(settings.database)}: {reason}"]) from None
    finally:
        engine.dispose()
    written = render.rendered(report, cast(render.Format, form))
    if output is None:
        click.echo(written, nl=False)
        return
    try:
        output.write_text(written, encoding="utf-8", newline="")
    except OSError as error:
        raise ConfigurationError([f"--output: {output}: {error.strerror}"]) from None


class _Progress:
    """On a terminal, how far it is, once it takes a while."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __call__(self, share: float) -> None:
        if not sys.stderr.isatty() or time.monotonic() - self._began < SOON:
            return
        said = f"making the report: {share:.0%}" if share < 1 else ""
        click.echo(f"\r{said:<25}{'' if said else chr(13)}", err=True, nl=False)
