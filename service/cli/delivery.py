"""`tocsin outbox`: what was not delivered. `tocsin test-alert` and `tocsin receive`: both ends, to be tried."""

import contextlib
import signal
import sys
import time
import uuid
from collections.abc import Sequence
from typing import Any

import click
from sqlalchemy import Row

from service import loading
from service.cli.opening import complain, opened
from service.cli.table import table
from service.settings import Settings
from service.signing import several
from service.values import ConfigurationError, iso, length, suggestion


@click.group("outbox", invoke_without_command=True)
@click.option("--limit", default=1000, show_default=True, type=click.IntRange(1), help="List so many, the oldest, at most.")
@click.pass_context
def outbox_commands(context: click.Context, limit: int) -> None:
    """List what was not delivered yet, and what was given up."""
    if context.invoked_subcommand is not None:
        return
    from service.monitor import outbox  # noqa: PLC0415

    with opened(Settings.from_environment(), complain).connect() as connection:
        rows, count = outbox.undelivered(connection, limit), outbox.left(connection)
    if rows:
        head = ("SINCE", "RECEIVER", "STATE", "STATUS", "TRIES", "LAST ERROR", "SUMMARY")
        table(head, [_undelivered(row) for row in rows])
    shown = f"; these are the oldest {len(rows)}, see --limit" if len(rows) < count else ""
    click.echo(f"{count} not delivered{shown}", err=True)


def _undelivered(row: Row[Any]) -> Sequence[str]:
    said = row.resolved or row.firing
    state = f"given up {iso(row.dead)}" if row.dead else "waiting"
    return iso(row.changed), row.receiver, state, row.wanted, str(row.attempts), row.error or "", said["summary"]


@outbox_commands.command()
def replay() -> None:
    """Send again what was given up, also to receivers that wanted no more (410)."""
    from service.monitor import outbox  # noqa: PLC0415

    with opened(Settings.from_environment(), complain).begin() as connection:
        revived = outbox.replay(connection, time.time())
    click.echo(f"{revived} wait again; the monitor sends them within a minute", err=True)


@click.command("test-alert")
@click.argument("receiver", required=False)
def send_test_alert(receiver: str | None) -> None:
    """Send a firing and its resolved to RECEIVER, else to all, at once and past the queue; tell what came back.

    An Alertmanager gets the firing alone: with its end at once it would tell nobody.
    """
    from service.monitor.alertmanager import EXPIRES  # noqa: PLC0415 - the other commands need none of it
    from service.monitor.receivers import own, own_resolved  # noqa: PLC0415
    from service.monitor.sending import client_for, send  # noqa: PLC0415

    settings, found = loading.from_environment()
    names = [each.name for each in found.receivers]
    if receiver is not None and receiver not in names:
        raise ConfigurationError([f"{receiver!r} is not a receiver{suggestion(receiver, names)}"])
    if not names:
        raise ConfigurationError(["there is no receiver; set TOCSIN_WEBHOOK_URL, or name one in monitor.yaml"])
    refused = False
    began = time.time()
    summary = "This is a test by `tocsin test-alert`; nothing is wrong"
    firing = own("TestAlert", summary, "somebody tries the way", began, instance=settings.instance) | {"severity": "info"}
    for each in found.receivers:
        if receiver not in (None, each.name):
            continue
        client = client_for(each, found.public)
        resolved = own_resolved(firing, began + 1, 1.0) | {"reason": "the test is over"}
        for content in (firing, resolved) if each.alertmanager is None else (firing,):
            before, now = time.monotonic(), time.time()
            identity = f"msg_{uuid.uuid4().hex}"
            verdict = send(each, client, identity=identity, contents=[content], created=now, now=now)
            refused = refused or verdict.error is not None
            took = round((time.monotonic() - before) * 1000)
            ends = f"; it ends by itself in {length(EXPIRES)}" if each.alertmanager and verdict.error is None else ""
            click.echo(f"{each.name}: {content['status']}: {verdict.error or 'taken'} ({took} ms){ends}")
        client.close()
    sys.exit(refused)


@click.command("receive")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=9000, show_default=True, type=click.IntRange(0, 65535))
@click.option("--verify/--no-verify", default=True, help="Verify with TOCSIN_WEBHOOK_SECRET.  [default: verify]")
@click.option("--json", "raw", is_flag=True, help="Print each message as it is, in a line.")
def receive_alerts(host: str, port: int, verify: bool, raw: bool) -> None:
    """Receive alerts and print them, to try the other end."""
    from service.receive import Receiver  # noqa: PLC0415

    secret = Settings.from_environment().webhook_secret
    if verify and secret is None:
        raise ConfigurationError(["TOCSIN_WEBHOOK_SECRET: is required to verify; set it, or say --no-verify"])
    try:
        secrets = several(secret) if verify and secret else ()
        receiver = Receiver(host, port, secrets=secrets, say=click.echo, complain=complain, raw=raw)
    except OSError as error:
        complain(f"cannot listen on {host}, port {port}: {error.strerror}")
        sys.exit(1)
    shown = f"[{host}]" if ":" in host else host
    complain(f"receiving on http://{shown}:{receiver.server_address[1]}/{'' if verify else ', without verifying'}")
    # Both: a shell makes what it starts in the background deaf to the first.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with receiver, contextlib.suppress(KeyboardInterrupt):
        receiver.serve_forever()
