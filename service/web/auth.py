"""The API key, which every call that changes something must bring (RFC 6750)."""

import hashlib
import hmac
from collections.abc import Callable
from typing import Literal

import structlog
from flask import request
from pydantic import SecretStr
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Forbidden, Unauthorized

_log = structlog.get_logger()
_READING = ("GET", "HEAD", "OPTIONS")
NO_KEY = (
    "No API key is configured, so nothing can be changed over HTTP. Set TOCSIN_API_KEY, or TOCSIN_API_KEY_FILE, to a key "
    "of 16 characters or more and restart; `openssl rand -hex 24` makes a good one."
)
_WRONG = "This call changes something. Send the API key in a header: `Authorization: Bearer KEY`."


def key_required(key: SecretStr | None) -> Callable[[], None]:
    """A `before_request` that lets nobody change anything without the key; reading is free."""

    def check() -> None:
        if request.method in _READING:
            return
        if key is None:
            raise Forbidden(NO_KEY)
        # From the environ: WSGI hands bytes over as Latin-1 (PEP 3333), and these may be any.
        scheme, _, given = request.environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        right = is_key(key, given.strip().encode("latin-1", "replace"))
        if given and not right:
            noted("api-key", "failure")
        if scheme.lower() != "bearer" or not right:
            raise Unauthorized(_WRONG, www_authenticate=WWWAuthenticate("bearer", {"realm": "Tocsin API"}))

    return check


def noted(action: str, outcome: Literal["success", "failure"], **about: str) -> None:
    """Log who comes in, goes, or tries to."""
    say = _log.info if outcome == "success" else _log.warning
    fields = {"event.category": "authentication", "event.action": action, "event.outcome": outcome}
    say(f"{action.replace('-', ' ')}: {outcome}", **fields, **{"client.ip": request.remote_addr}, **about)


def is_key(key: SecretStr, given: bytes) -> bool:
    """Digests are of one length, so the time that comparing takes says nothing about the key."""
    wanted = key.get_secret_value().encode("utf-8", "surrogateescape")
    return hmac.compare_digest(hashlib.sha256(given).digest(), hashlib.sha256(wanted).digest())
