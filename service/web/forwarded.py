"""Who asks, and whether over TLS: our own nginx says so, and nobody else is believed."""

from collections.abc import Iterable
from ipaddress import ip_address
from typing import TYPE_CHECKING

from werkzeug.middleware.proxy_fix import ProxyFix

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class Forwarded:
    """X-Forwarded-For and X-Forwarded-Proto count from this machine and from a private network, where nginx is.

    nginx overwrites both, so each has one value. No other header of this kind counts, whoever sends it.
    """

    def __init__(self, app: "WSGIApplication") -> None:
        self._app, self._forwarded = app, ProxyFix(app, x_for=1, x_proto=1)

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        near = _is_near(environ.get("REMOTE_ADDR", ""))
        return (self._forwarded if near else self._app)(environ, start_response)


def _is_near(peer: str) -> bool:
    try:
        return ip_address(peer).is_private  # loopback and link-local addresses are, too
    except ValueError:
        return False
