"""`tocsin alerts`, `tocsin ack` and `tocsin silence`: what fires, and who has taken it on or wants to hear no more of it."""

import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import click

from service import alerts, silences
from service.alerts import Acknowledgement, Alert
from service.cli.opening import connected
from service.cli.options import author_option, comment_option, given
from service.cli.table import table
from service.silences import Draft
from service.values import iso

_connection = partial(connected, alerts.UnknownError, alerts.QuietError, silences.UnknownError, silences.ExpiredError)


@click.command("alerts")
def list_alerts() -> None:
    """List what fires and what is pending."""
    with _connection() as connection:
        found = alerts.every(connection)
    table(
        ("FINGERPRINT", "STATE", "SEVERITY", "ALERT", "TARGET", "SINCE", "NOTES"),
        [
            (
                alert.fingerprint,
                alert.state,
                alert.content["severity"] if alert.content else "",
                alert.alert,
                " ".join([alert.target, *alert.labels.values()]),
                iso(alert.since),
                "; ".join(_notes(alert)),
            )
            for alert in found
        ],
    )


@click.command()
@click.argument("fingerprint")
@author_option
@comment_option
def ack(fingerprint: str, author: str, comment: str) -> None:
    """Acknowledge an alert that fires: no reminders, no escalation until it is resolved."""
    now = time.time()
    said = given(Acknowledgement, {"author": author, "comment": comment}, now)
    with _connection(changing=True) as connection:
        found = alerts.acknowledge(connection, fingerprint, said, now)
    click.echo(f"acknowledged: {found.alert} on {found.target}")


@click.group("silence")
def silence_commands() -> None:
    """Silences: alerts that they match are not told."""


@silence_commands.command("add")
@click.argument("matchers", nargs=-1, required=True, metavar="MATCHER...")
@click.option("--for", "duration", required=True, help="How long, such as 2h.")
@click.option("--from", "starts_at", metavar="TIME", help="Since when, in ISO 8601 with a zone; now, if left out.")
@click.option("--no-heal", "heal", is_flag=True, flag_value=False, default=True, help="Keep services from being restarted, too.")
@author_option
@comment_option
def add(matchers: tuple[str, ...], **said: object) -> None:
    """Silence the alerts that all of the MATCHERs match, such as target=db or alert=~High.*"""
    now = time.time()
    draft = given(Draft, {"matchers": list(matchers), **said}, now)
    with _connection(changing=True) as connection:
        made = silences.add(connection, draft, now)
    click.echo(f"{made.id}  until {iso(made.ends)}")


@silence_commands.command("list")
@click.option("--all", "every", is_flag=True, help="Those that have ended, too.")
def list_silences(every: bool) -> None:
    """List silences, the newest first."""
    now = time.time()
    with _connection() as connection:
        found = [each for each in silences.every(connection) if every or each.state(now) != "expired"]
    table(
        ("ID", "STATE", "FROM", "UNTIL", "AUTHOR", "MATCHERS", "COMMENT"),
        [
            (
                each.id,
                each.state(now),
                iso(each.starts),
                iso(each.ends),
                each.author,
                " ".join(str(matcher) for matcher in each.matchers),
                " ".join(each.comment.split()),
            )
            for each in found
        ],
    )


@silence_commands.command("expire")
@click.argument("identity", metavar="ID")
def expire(identity: str) -> None:
    """End a silence now."""
    with _connection(changing=True) as connection:
        silences.expire(connection, identity, time.time())
    click.echo(f"{identity}  expired")


def _notes(alert: Alert) -> Iterator[str]:
    for silence in alert.silences:
        yield f"silenced by {silence.author} ({silence.id})"
    for window in alert.windows:
        yield f"maintenance {window}"
    if alert.healing and (said := _healing(alert.healing)):
        yield said
    if alert.cleared is not None:
        yield f"clear since {iso(alert.cleared)}"
    if alert.held:
        yield f"held for {alert.held}"
    if alert.acknowledgement:
        yield f"acknowledged by {alert.acknowledgement.author}"
    if alert.flapping:
        yield "flapping"


def _healing(known: Mapping[str, Any]) -> str:
    if known["gave_up"]:
        return f"given up on {known['service']} after {known['of']} restarts"
    if known["restart"]:
        return f"restarting {known['service']} ({known['number']} of {known['of']})"
    return f"{known['service']} is not restarted: {known['held']}" if known["held"] else ""
