"""/api/v1/: alerts and their acknowledgement, silences, and how the monitor does. docs/api.md has the details.

Everyone may read; who changes something needs the API key. SQLite blocks the whole worker, so a transaction is a few
statements and waits a second at most.
"""

import json
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, get_args

import orjson
import structlog
from flask import Blueprint, Response, request, url_for
from flask.views import MethodView
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import BadRequest, Conflict, NotFound, ServiceUnavailable, UnsupportedMediaType
from werkzeug.wrappers import Response as WerkzeugResponse

from service import alerts, database, silences
from service.alerts import Acknowledgement, Alert
from service.settings import Settings
from service.silences import Draft, FaultsError, Silence, checked
from service.values import iso
from service.web.auth import key_required
from service.web.errors import Unprocessable, problem

PATIENCE = 1.0  # seconds
RETRY = 5  # seconds
_NOT_KEPT = {"Cache-Control": "no-store"}

_log = structlog.get_logger()


class Database:
    """Opened at first use and then kept, so that a server starts, and answers for its health, without one."""

    def __init__(self, address: str) -> None:
        self.address = address

    @cached_property
    def engine(self) -> Engine:
        try:
            return database.connect(self.address, patience=PATIENCE, pooled=False)
        except ImportError as error:
            raise SQLAlchemyError("its driver is missing") from error


def blueprint(settings: Settings) -> Blueprint:
    """The routes, around one database."""
    routes = Blueprint("api", __name__, url_prefix="/api/v1")
    opened = Database(settings.database)
    routes.before_request(key_required(settings.api_key))
    routes.register_error_handler(SQLAlchemyError, lambda error: _unusable(opened, error))
    routes.register_error_handler(FaultsError, lambda error: problem(Unprocessable(error.faults)))
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


class View(MethodView):
    """One address, and the database."""

    init_every_request = False

    def __init__(self, opened: Database) -> None:
        self._opened = opened

    def reading(self) -> Connection:
        return database.reading(self._opened.engine)

    def changing(self) -> AbstractContextManager[Connection]:
        return self._opened.engine.begin()


class AlertsView(View):
    def get(self) -> Response:
        wanted = _state(("firing", "pending"))
        with self.reading() as connection:
            found = alerts.every(connection)
        return _json({"alerts": [_alert(alert) for alert in found if wanted in (None, alert.state)]})


class AlertView(View):
    def get(self, fingerprint: str) -> Response:
        with self.reading() as connection:
            found = alerts.find(connection, fingerprint)
        return _json(_alert(found))


class AcknowledgementView(View):
    def post(self, fingerprint: str) -> Response:
        now = time.time()
        said = checked(Acknowledgement, _body(), now)
        with self.changing() as connection:
            found = alerts.acknowledge(connection, fingerprint, said, now)
        _changed("alert-acknowledged", said.author, alert=found.alert, target=found.target, fingerprint=fingerprint)
        return _json(_alert(found))


class SilencesView(View):
    def get(self) -> Response:
        now = time.time()
        wanted = _state(get_args(silences.State))
        with self.reading() as connection:
            found = silences.every(connection)
        return _json({"silences": [_silence(each, now) for each in found if wanted in (None, each.state(now))]})

    def post(self) -> Response:
        now = time.time()
        draft = checked(Draft, _body(), now)
        with self.changing() as connection:
            made = silences.add(connection, draft, now)
        _changed("silence-created", made.author, silence=made.id)
        place = url_for("api.SilenceView", identity=made.id)
        return _json(_silence(made, now), 201, {"Location": place})


class SilenceView(View):
    def get(self, identity: str) -> Response:
        with self.reading() as connection:
            found = silences.find(connection, identity)
        return _json(_silence(found, time.time()))

    def put(self, identity: str) -> Response:
        now = time.time()
        draft = checked(Draft, _body(), now)
        with self.changing() as connection:
            made = silences.replace(connection, identity, draft, now)
        _changed("silence-changed", made.author, silence=made.id)
        return _json(_silence(made, now))

    def delete(self, identity: str) -> Response:
        with self.changing() as connection:
            ended = silences.expire(connection, identity, time.time())
        _changed("silence-expired", ended.author, silence=ended.id)
        return Response(status=204, headers=_NOT_KEPT)


class MonitorView(View):
    def get(self) -> Response:
        now = time.time()
        with self.reading() as connection:
            found = alerts.figures(connection)
        return _json(
            {
                "started_at": _time(found.started),
                "interval_seconds": found.interval,
                "ticks": found.ticks,
                "late_ticks": found.late,
                "last_tick_at": _time(found.ticked),
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
        "receivers": alert.receivers,
    }


def _acknowledged(alert: Alert) -> dict[str, Any] | None:
    said = alert.acknowledgement
    return None if said is None else {"by": said.author, "at": _time(alert.acknowledged), "comment": said.comment}


def _silence(silence: Silence, now: float) -> dict[str, Any]:
    return {
        "id": silence.id,
        "state": silence.state(now),
        "matchers": [str(matcher) for matcher in silence.matchers],
        "starts_at": iso(silence.starts),
        "ends_at": iso(silence.ends),
        "author": silence.author,
        "comment": silence.comment,
        "created_at": iso(silence.created),
        "updated_at": iso(silence.updated),
    }


def _time(moment: float | None) -> str | None:
    return None if moment is None else iso(moment)


def _state(known: tuple[str, ...]) -> str | None:
    """The state that is asked for; None for any."""
    wanted = request.args.get("state")
    if wanted is not None and wanted not in known:
        raise Unprocessable([("state", f"is none of {', '.join(known)}")])
    return wanted


def _body() -> Any:
    if not request.is_json:
        raise UnsupportedMediaType("Send it as application/json.")
    try:
        return json.loads(request.get_data())  # not orjson: it takes half a character for no JSON at all
    except (ValueError, RecursionError):
        raise BadRequest("The body is not JSON.") from None


def _changed(action: str, author: str, **about: str) -> None:
    fields = {"event.category": "configuration", "event.action": action}
    _log.info(action.replace("-", " "), **fields, author=author, **about)


def _unusable(opened: Database, error: SQLAlchemyError) -> WerkzeugResponse:
    # Not the error's own words: those of a database server may repeat what its address holds.
    why = getattr(getattr(error, "orig", None), "sqlite_errorname", None) or type(error).__name__
    _log.error("cannot use the database", database=database.shown(opened.address), reason=why)
    return problem(ServiceUnavailable("The database cannot be used at the moment.", retry_after=RETRY))


def _json(body: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status, {**_NOT_KEPT, **(headers or {})}, mimetype="application/json")
