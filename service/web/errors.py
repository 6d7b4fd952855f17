"""Every error as application/problem+json (RFC 9457), with the request id and nothing of the inside."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, cast

import orjson
from flask import Flask, Response, g
from werkzeug.exceptions import HTTPException, UnprocessableEntity


class Unprocessable(UnprocessableEntity):
    """A request that is understood and cannot be done as it stands: every fault, with its place."""

    def __init__(self, faults: Iterable[tuple[str, str]]) -> None:
        self.errors = [{"place": place, "fault": fault} for place, fault in faults]
        super().__init__("This cannot be done as it was sent; `errors` names every fault.")


def init_app(app: Flask) -> None:
    # For HTTPException alone: Flask logs any other exception and hands it on as an InternalServerError,
    # so this one place answers for both (Flask's documentation, "Generic Exception Handlers").
    app.register_error_handler(HTTPException, problem)


def problem(error: HTTPException, members: Mapping[str, Any] = MappingProxyType({})) -> Response:
    """The answer for an error, with the headers it brings (`Allow`, `Retry-After`), and more members (RFC 9457, 3.2)."""
    response = cast("Response", Response.force_type(error.get_response()))  # Flask's kind: APIFlask lets no other pass
    if error.code is None or error.code < 400:  # a redirect raised by routing is an answer, not a fault
        return response
    body = {
        "type": "about:blank",
        "title": error.name,
        "status": error.code,
        "detail": error.description,
        "request_id": g.get("request_id"),
    }
    if isinstance(error, Unprocessable):
        body["errors"] = error.errors
    response.data = orjson.dumps({**body, **members})
    response.content_type = "application/problem+json"
    response.headers["Cache-Control"] = "no-store"
    return response
