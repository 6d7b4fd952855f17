"""What /metrics tells of the database: figures by name and kind, and the count of restarts, which never goes back."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Text, cast, func, select

from service import alerts
from service.alerts import Figures
from service.database import upsert
from service.tables import alerts as alerts_table
from service.tables import backlog, restarted
from service.targets import Standing, standings


@dataclass(frozen=True)
class Some:
    """So many alerts that have all of this in common. What is pending has no severity yet."""

    state: str
    alert: str
    severity: str | None
    silenced: bool
    held: bool
    acknowledged: bool
    count: int


@dataclass(frozen=True)
class Totals:
    """All of it, of one moment."""

    figures: Figures
    alerts: tuple[Some, ...]
    waiting: Mapping[str, int]  # notifications, by receiver
    dead: Mapping[str, int]
    restarts: Mapping[tuple[str, str], int]  # by service and outcome
    targets: Mapping[str, Standing]


def totals(connection: Connection) -> Totals:
    return Totals(
        figures=alerts.figures(connection),
        alerts=_alerts(connection),
        waiting=_by_receiver(connection, backlog.c.waiting),
        dead=_by_receiver(connection, backlog.c.dead),
        restarts={(service, outcome): count for service, outcome, count in connection.execute(select(restarted))},
        targets=standings(connection),
    )


def count_restart(connection: Connection, service: str, outcome: str) -> None:
    """One more that ended so; to be called in the transaction that says how it ended."""
    statement = upsert(connection, restarted).values(service=service, outcome=outcome, count=1)
    more = restarted.c.count + statement.excluded.count
    connection.execute(statement.on_conflict_do_update(index_elements=["service", "outcome"], set_={"count": more}))


def _by_receiver(connection: Connection, such: ColumnElement[int]) -> dict[str, int]:
    """How many notifications are such, where there are any."""
    rows = connection.execute(select(backlog.c.receiver, such).where(such > 0))
    return {receiver: number for receiver, number in rows}  # noqa: C416 - dict() takes a Result for a mapping


def _alerts(connection: Connection) -> tuple[Some, ...]:
    of = alerts_table.c
    kinds = (
        of.state,
        of.alert,
        of.content["severity"].as_string(),
        cast(of.silenced, Text) != "[]",
        of.held.is_not(None),
        of.acknowledged.is_not(None),
    )
    query = select(*kinds, func.count()).where(of.state.in_(("firing", "pending"))).group_by(*kinds)
    return tuple(
        Some(state, alert, severity, bool(silenced), bool(held), bool(acknowledged), count)
        for state, alert, severity, silenced, held, acknowledged, count in connection.execute(query)
    )
