"""Who asks, and whether over TLS: our own nginx says so, and nobody else is believed."""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class Forwarded:
    """X-Forwarded-For and X-Forwarded-Proto count from this machine and from a private network, where nginx is.

    nginx overwrites both, so each has one value; of several the last is the one that whoever connects has written. No other
    header of this kind counts, whoever sends it.
    """

    def __init__(self, app: "WSGIApplication") -> None:
        self._app = app

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        if _is_near(environ.get("REMOTE_ADDR", "")):
            if client := _last(environ.get("HTTP_X_FORWARDED_FOR", "")):
                environ["REMOTE_ADDR"] = client
            if scheme := _last(environ.get("HTTP_X_FORWARDED_PROTO", "")):
                environ["wsgi.url_scheme"] = scheme
        return self._app(environ, start_response)


def _last(values: str) -> str:
    return values.rpartition(",")[2].strip()


@lru_cache(maxsize=256)
def _is_near(peer: str) -> bool:
    try:
        return ip_address(peer).is_private  # loopback and link-local addresses are, too
    except ValueError:
        return False
