"""What the calls of the API share: the key, the database, bodies in JSON, and what is said when something cannot be done.

Everyone may read; who changes something needs the API key. SQLite blocks the whole worker, so a transaction is a few
statements and waits a second at most.
"""

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import orjson
import structlog
from flask import Blueprint, Response, request
from flask.views import MethodView
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import BadRequest, ServiceUnavailable, UnsupportedMediaType
from werkzeug.wrappers import Response as WerkzeugResponse

from service import database
from service.settings import Settings
from service.silences import FaultsError
from service.values import iso
from service.web.auth import key_required
from service.web.errors import Unprocessable, problem

PATIENCE = 1.0  # seconds
RETRY = 5  # seconds
NOT_KEPT = {"Cache-Control": "no-store"}

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

    def unusable(self, error: SQLAlchemyError) -> None:
        """Log it. Not in the error's own words: those of a database server may repeat what its address holds."""
        why = getattr(getattr(error, "orig", None), "sqlite_errorname", None) or type(error).__name__
        _log.error("cannot use the database", database=database.shown(self.address), reason=why)


class View(MethodView):
    """One address, and the database."""

    init_every_request = False

    def __init__(self, opened: Database) -> None:
        self._opened = opened

    def reading(self) -> Connection:
        return database.reading(self._opened.engine)

    def changing(self) -> AbstractContextManager[Connection]:
        return self._opened.engine.begin()


def guarded(routes: Blueprint, settings: Settings) -> Database:
    """Let these routes ask for the key and answer every error alike; the database that they use."""
    opened = Database(settings.database)

    def unusable(error: SQLAlchemyError) -> WerkzeugResponse:
        opened.unusable(error)
        return problem(ServiceUnavailable("The database cannot be used at the moment.", retry_after=RETRY))

    routes.before_request(key_required(settings.api_key))
    routes.register_error_handler(SQLAlchemyError, unusable)
    routes.register_error_handler(FaultsError, lambda error: problem(Unprocessable(error.faults)))
    return opened


def sent() -> Any:
    """The JSON that came. Raises UnsupportedMediaType or BadRequest."""
    if not request.is_json:
        raise UnsupportedMediaType("Send it as application/json.")
    try:
        return json.loads(request.get_data())  # not orjson: it takes half a character for no JSON at all
    except (ValueError, RecursionError):
        raise BadRequest("The body is not JSON.") from None


def answer(body: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status, {**NOT_KEPT, **(headers or {})}, mimetype="application/json")


def time_of(moment: float | None) -> str | None:
    return None if moment is None else iso(moment)
