"""/api/v1/alerts and their acknowledgement, and how the monitor does. docs/api.md has the details."""

import time
from typing import Annotated, Any, Literal

from apiflask import APIBlueprint
from flask import Response
from pydantic import Field
from werkzeug.exceptions import Conflict, NotFound

from service import alerts
from service.alerts import Acknowledgement, Alert
from service.configuration import Severity
from service.settings import Settings
from service.values import iso
from service.web.api import Flag, Next, Paged, Shape, Time, View, answer, changed, guarded, next_page, operation, time_of
from service.web.errors import problem

EXAMPLE = {"author": "ann", "comment": "on it"}


class AlertsAsked(Paged):
    """Which alerts, in pages."""

    state: Annotated[Literal["firing", "pending"] | None, Field(description="Those in this state.", examples=["firing"])] = None
    alert: Annotated[str | None, Field(description="Those of this rule.", examples=["TargetDown"])] = None
    target: Annotated[str | None, Field(description="Those of this target.", examples=["shop"])] = None
    severity: Annotated[
        Severity | None, Field(description="Those of this severity. What is pending has none yet.", examples=["critical"])
    ] = None
    acknowledged: Annotated[Flag | None, Field(description="Those that somebody, or nobody, has taken on.")] = None


class SilencedShape(Shape):
    """A silence that keeps an alert from being told."""

    silence: str
    author: str
    comment: str


class MaintenanceShape(Shape):
    """A window of maintenance that keeps an alert from being told."""

    maintenance: str


class AcknowledgementShape(Shape):
    """Who has taken an alert on."""

    by: str
    at: Time
    comment: str


class HealingShape(Shape):
    """What is done to bring its service back, and why nothing is although it is time."""

    service: str
    restarts: int
    restart: str | None
    gave_up: bool
    held: str | None


class AlertShape(Shape):
    """An alert as the last tick of the monitor left it. What its firing says is unknown while it is pending."""

    fingerprint: str
    state: Literal["firing", "pending", "inactive"]
    since: Time
    alert: str
    target: str
    labels: dict[str, str]
    severity: str | None
    summary: str | None
    condition: str | None
    reason: str | None
    metric: str | None
    value: float | None
    unit: str | None
    scope: str | None
    silenced: list[SilencedShape | MaintenanceShape]
    acknowledged: AcknowledgementShape | None
    held: Annotated[str | None, Field(description="The parent that is down and for which it is held.")]
    flapping: bool
    clear_since: Time | None
    receivers: list[str]
    healing: HealingShape | None


class AlertsShape(Shape):
    """A page of alerts."""

    alerts: list[AlertShape]
    next: Next


class MonitorShape(Shape):
    """How the monitor does. What a tick writes is null before the first one."""

    started_at: Time | None
    interval_seconds: float | None
    ticks: int | None
    late_ticks: int | None
    last_tick_at: Time | None
    last_tick_seconds: float | None
    alerts: dict[str, int]
    deliveries: dict[str, dict[str, int]]
    waiting: int
    dead: int
    oldest_undelivered_seconds: float | None


def blueprint(settings: Settings) -> APIBlueprint:
    """The routes, around one database."""
    routes = APIBlueprint("alerts", __name__, url_prefix="/api/v1", tag="Alerts")
    opened = guarded(routes, settings)
    routes.register_error_handler(alerts.UnknownError, lambda error: problem(NotFound(str(error))))
    routes.register_error_handler(alerts.QuietError, lambda error: problem(Conflict(str(error))))
    for path, view in (
        ("/alerts", AlertsView),
        ("/alerts/<fingerprint>", AlertView),
        ("/alerts/<fingerprint>/ack", AcknowledgementView),
        ("/monitor", MonitorView),
    ):
        routes.add_url_rule(path, view_func=view.as_view(view.__name__, opened))
    return routes


class AlertsView(View):
    @operation(AlertsShape, query=AlertsAsked)
    def get(self, query: AlertsAsked) -> Response:
        """What fires, then what is pending, each with the newest first."""
        with self.reading() as connection:
            found, position = alerts.page(connection, **query.model_dump(exclude={"after"}), after=query.cursor())
        return answer(AlertsShape(alerts=[shape(alert) for alert in found], next=next_page(position)))


class AlertView(View):
    @operation(AlertShape)
    def get(self, fingerprint: str) -> Response:
        """One alert that has ever been pending."""
        with self.reading() as connection:
            found = alerts.find(connection, fingerprint)
        return answer(shape(found))


class AcknowledgementView(View):
    @operation(AlertShape, body=Acknowledgement, example=EXAMPLE, errors=(409,))
    def post(self, fingerprint: str, body: Acknowledgement) -> Response:
        """Take an alert on: it is not repeated and not escalated while it fires."""
        with self.changing() as connection:
            found = alerts.acknowledge(connection, fingerprint, body, time.time())
        changed("alert-acknowledged", author=body.author, alert=found.alert, target=found.target, fingerprint=fingerprint)
        return answer(shape(found))


class MonitorView(View):
    @operation(MonitorShape)
    def get(self) -> Response:
        """How the monitor does."""
        now = time.time()
        with self.reading() as connection:
            found = alerts.figures(connection)
        return answer(
            MonitorShape(
                started_at=time_of(found.started),
                interval_seconds=found.interval,
                ticks=found.ticks,
                late_ticks=found.late,
                last_tick_at=time_of(found.ticked),
                last_tick_seconds=found.seconds,
                alerts=dict(found.states),
                deliveries={name: dict(counts) for name, counts in found.deliveries.items()},
                waiting=found.waiting,
                dead=found.dead,
                oldest_undelivered_seconds=None if found.oldest is None else round(max(0.0, now - found.oldest), 3),
            )
        )


def shape(alert: Alert) -> AlertShape:
    said = alert.content or {}
    names = ("severity", "summary", "condition", "reason", "metric", "value", "unit", "scope")
    return AlertShape(
        fingerprint=alert.fingerprint,
        state=alert.state,
        since=iso(alert.since),
        alert=alert.alert,
        target=alert.target,
        labels=dict(alert.labels),
        **{name: said.get(name) for name in names},
        silenced=[
            *(SilencedShape(silence=each.id, author=each.author, comment=each.comment) for each in alert.silences),
            *(MaintenanceShape(maintenance=name) for name in alert.windows),
        ],
        acknowledged=_acknowledged(alert),
        held=alert.held,
        flapping=alert.flapping,
        clear_since=time_of(alert.cleared),
        receivers=list(alert.receivers),
        healing=_healing(alert),
    )


def _healing(alert: Alert) -> HealingShape | None:
    known = alert.healing
    if known is None or alert.state != "firing":
        return None
    said: dict[str, Any] = {"service": known["service"], "restarts": known["tried"], "restart": known["restart"]}
    return HealingShape(**said, gave_up=known["gave_up"], held=known["held"] or None)


def _acknowledged(alert: Alert) -> AcknowledgementShape | None:
    said = alert.acknowledgement
    if said is None or alert.acknowledged is None:
        return None
    return AcknowledgementShape(by=said.author, at=iso(alert.acknowledged), comment=said.comment)
