"""A request id for every request, and exactly one log line."""

import re
import time
import uuid

import structlog
from flask import Flask, Response
from werkzeug.exceptions import RequestEntityTooLarge

from service.web.current import asked, kept

_REQUEST_ID = re.compile(r"[A-Za-z0-9-]{8,64}", re.ASCII)
# As in deploy/nginx/log.conf. Version 00 ends after 55 characters, a later one may go on after a hyphen; ff is none.
_TRACEPARENT = re.compile(r"(?!ff)(?!00.{54})[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?")
_log = structlog.get_logger()


class Access:
    """The Flask extension that gives each request its id, and logs it once, whatever becomes of it."""

    def __init__(self, app: Flask | None = None) -> None:
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        app.before_request(_begin)
        app.after_request(_finish)


def _begin() -> None:
    request, about = asked(), kept()
    environ = request.environ
    about["began"] = time.perf_counter_ns()
    claimed = environ.get("HTTP_X_REQUEST_ID", "")
    about["request_id"] = identity = claimed if _REQUEST_ID.fullmatch(claimed) else uuid.uuid4().hex
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**{"http.request.id": identity}, **trace(environ.get("HTTP_TRACEPARENT", "")))
    # Also for a view that never reads the body: it must not depend on the view what is too large.
    if "CONTENT_LENGTH" in environ:
        limit = request.max_content_length
        if limit is not None and (request.content_length or 0) > limit:
            raise RequestEntityTooLarge


def trace(traceparent: str) -> dict[str, str]:
    """ECS' fields for a header of W3C Trace Context (https://www.w3.org/TR/trace-context/); none for one that is not valid."""
    found = _TRACEPARENT.fullmatch(traceparent)
    return {"trace.id": found[1], "span.id": found[2]} if found else {}


def _finish(response: Response) -> Response:
    request, about = asked(), kept()
    response.headers["X-Request-ID"] = about["request_id"]
    about["status"] = response.status_code
    environ = request.environ
    original = _decoded(environ.get("RAW_URI") or environ.get("PATH_INFO")) or "/"
    path = original.partition("?")[0]
    _log.info(
        f"{request.method} {path} {response.status_code}",
        **{
            "event.dataset": "tocsin.access",
            "event.category": "web",
            "event.duration": time.perf_counter_ns() - about["began"],
            "http.request.method": request.method,
            "http.request.referrer": _decoded(environ.get("HTTP_REFERER")),
            "http.response.status_code": response.status_code,
            "http.response.body.bytes": response.content_length,
            "url.original": original,
            "client.ip": request.remote_addr,
            "user_agent.original": _decoded(environ.get("HTTP_USER_AGENT")),
        },
    )
    return response


def _decoded(header: str | None) -> str | None:
    """WSGI hands bytes over as Latin-1 (PEP 3333); clients mean UTF-8."""
    if not header or header.isascii():
        return header or None
    return header.encode("latin-1", "replace").decode("utf-8", "replace")
