"""/api/v1/: alerts and their acknowledgement, silences, and how the monitor does. docs/api.md has the details."""

import time
from typing import Any, get_args

import structlog
from flask import Blueprint, Response, request, url_for
from werkzeug.exceptions import Conflict, NotFound

from service import alerts, silences
from service.alerts import Acknowledgement, Alert
from service.settings import Settings
from service.silences import Draft, Silence, checked
from service.values import iso
from service.web.api import NOT_KEPT, View, answer, guarded, sent, time_of
from service.web.errors import Unprocessable, problem

_log = structlog.get_logger()


def blueprint(settings: Settings) -> Blueprint:
    """The routes, around one database."""
    routes = Blueprint("api", __name__, url_prefix="/api/v1")
    opened = guarded(routes, settings)
    for unknown in (alerts.UnknownError, silences.UnknownError):
        routes.register_error_handler(unknown, lambda error: problem(NotFound(str(error))))
    for refused in (alerts.QuietError, silences.ExpiredError):
        routes.register_error_handler(refused, lambda error: problem(Conflict(str(error))))
    for path, view in (
        ("/alerts", AlertsView),
        ("/alerts/<fingerprint>", AlertView),
        ("/alerts/<fingerprint>/ack", AcknowledgementView),
        ("/silences", SilencesView),
        ("/silences/<identity>", SilenceView),
        ("/monitor", MonitorView),
    ):
        routes.add_url_rule(path, view_func=view.as_view(view.__name__, opened))
    return routes


class AlertsView(View):
    def get(self) -> Response:
        wanted = _state(("firing", "pending"))
        with self.reading() as connection:
            found = alerts.every(connection)
        return answer({"alerts": [_alert(alert) for alert in found if wanted in (None, alert.state)]})


class AlertView(View):
    def get(self, fingerprint: str) -> Response:
        with self.reading() as connection:
            found = alerts.find(connection, fingerprint)
        return answer(_alert(found))


class AcknowledgementView(View):
    def post(self, fingerprint: str) -> Response:
        now = time.time()
        said = checked(Acknowledgement, sent(), now)
        with self.changing() as connection:
            found = alerts.acknowledge(connection, fingerprint, said, now)
        _changed("alert-acknowledged", said.author, alert=found.alert, target=found.target, fingerprint=fingerprint)
        return answer(_alert(found))


class SilencesView(View):
    def get(self) -> Response:
        now = time.time()
        wanted = _state(get_args(silences.State))
        with self.reading() as connection:
            found = silences.every(connection)
        return answer({"silences": [_silence(each, now) for each in found if wanted in (None, each.state(now))]})

    def post(self) -> Response:
        now = time.time()
        draft = checked(Draft, sent(), now)
        with self.changing() as connection:
            made = silences.add(connection, draft, now)
        _changed("silence-created", made.author, silence=made.id)
        place = url_for("api.SilenceView", identity=made.id)
        return answer(_silence(made, now), 201, {"Location": place})


class SilenceView(View):
    def get(self, identity: str) -> Response:
        with self.reading() as connection:
            found = silences.find(connection, identity)
        return answer(_silence(found, time.time()))

    def put(self, identity: str) -> Response:
        now = time.time()
        draft = checked(Draft, sent(), now)
        with self.changing() as connection:
            made = silences.replace(connection, identity, draft, now)
        _changed("silence-changed", made.author, silence=made.id)
        return answer(_silence(made, now))

    def delete(self, identity: str) -> Response:
        with self.changing() as connection:
            ended = silences.expire(connection, identity, time.time())
        _changed("silence-expired", ended.author, silence=ended.id)
        return Response(status=204, headers=NOT_KEPT)


class MonitorView(View):
    def get(self) -> Response:
        now = time.time()
        with self.reading() as connection:
            found = alerts.figures(connection)
        return answer(
            {
                "started_at": time_of(found.started),
                "interval_seconds": found.interval,
                "ticks": found.ticks,
                "late_ticks": found.late,
                "last_tick_at": time_of(found.ticked),
                "last_tick_seconds": found.seconds,
                "alerts": found.states,
                "deliveries": found.deliveries,
                "waiting": found.waiting,
                "dead": found.dead,
                "oldest_undelivered_seconds": None if found.oldest is None else round(max(0.0, now - found.oldest), 3),
            }
        )


def _alert(alert: Alert) -> dict[str, Any]:
    said = alert.content or {}
    return {
        "fingerprint": alert.fingerprint,
        "state": alert.state,
        "since": iso(alert.since),
        "alert": alert.alert,
        "target": alert.target,
        "labels": alert.labels,
        # What its firing says: unknown while it is pending.
        **{name: said.get(name) for name in ("severity", "summary", "condition", "reason", "metric", "value", "unit", "scope")},
        "silenced": [
            *({"silence": each.id, "author": each.author, "comment": each.comment} for each in alert.silences),
            *({"maintenance": name} for name in alert.windows),
        ],
        "acknowledged": _acknowledged(alert),
        "held": alert.held,
        "flapping": alert.flapping,
        "clear_since": time_of(alert.cleared),
        "receivers": alert.receivers,
        "healing": _healing(alert),
    }


def _healing(alert: Alert) -> dict[str, Any] | None:
    """What is done to bring its service back, and why nothing is although it is time."""
    known = alert.healing
    if known is None or alert.state != "firing":
        return None
    said = {"service": known["service"], "restarts": known["tried"], "restart": known["restart"]}
    return {**said, "gave_up": known["gave_up"], "held": known["held"] or None}


def _acknowledged(alert: Alert) -> dict[str, Any] | None:
    said = alert.acknowledgement
    return None if said is None else {"by": said.author, "at": time_of(alert.acknowledged), "comment": said.comment}


def _silence(silence: Silence, now: float) -> dict[str, Any]:
    return {
        "id": silence.id,
        "state": silence.state(now),
        "matchers": [str(matcher) for matcher in silence.matchers],
        "starts_at": iso(silence.starts),
        "ends_at": iso(silence.ends),
        "author": silence.author,
        "comment": silence.comment,
        "heal": silence.heal,
        "created_at": iso(silence.created),
        "updated_at": iso(silence.updated),
    }


def _state(known: tuple[str, ...]) -> str | None:
    """The state that is asked for; None for any."""
    wanted = request.args.get("state")
    if wanted is not None and wanted not in known:
        raise Unprocessable([("state", f"is none of {', '.join(known)}")])
    return wanted


def _changed(action: str, author: str, **about: str) -> None:
    fields = {"event.category": "configuration", "event.action": action}
    _log.info(action.replace("-", " "), **fields, author=author, **about)
