"""Every error as application/problem+json (RFC 9457), with the request id and nothing of the inside."""

import orjson
from flask import Flask, g
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response


def init_app(app: Flask) -> None:
    # For HTTPException alone: Flask logs any other exception and hands it on as an InternalServerError,
    # so this one place answers for both (Flask's documentation, "Generic Exception Handlers").
    app.register_error_handler(HTTPException, problem)


def problem(error: HTTPException) -> Response:
    """The answer for an error, with the headers it brings (`Allow`, `Retry-After`)."""
    response = error.get_response()
    if error.code is None or error.code < 400:  # a redirect raised by routing is an answer, not a fault
        return response
    response.data = orjson.dumps(
        {
            "type": "about:blank",
            "title": error.name,
            "status": error.code,
            "detail": error.description,
            "request_id": g.get("request_id"),
        }
    )
    response.content_type = "application/problem+json"
    return response
