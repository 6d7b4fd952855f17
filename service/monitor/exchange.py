"""One HTTP request that ends in time, whatever the other side does: hang, drip, redirect, send without end."""

import functools
import re
import socket
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException, RemoteDisconnected
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import certifi
from pydantic import SecretStr
from urllib3 import BaseHTTPResponse, HTTPHeaderDict
from urllib3.connection import HTTPConnection, ProxyConfig
from urllib3.exceptions import HTTPError, NameResolutionError, NewConnectionError
from urllib3.exceptions import TimeoutError as Late
from urllib3.util import Url, parse_url
from urllib3.util.ssl_ import ALPN_PROTOCOLS, create_urllib3_context

from service.monitor.connections import Running, Secure, Told, watchdog
from service.monitor.room import has_files

_READING = threading.Lock()
_ALWAYS = {"User-Agent": "tocsin", "Accept-Encoding": "identity", "Accept": "*/*", "Connection": "keep-alive"}


class Unreachable(Exception):  # noqa: N818 - it names what is so, not a fault of the program
    """There was no complete answer; the text says why, without the address, which may be a secret.

    `sent` says that the request may have reached the other side.
    """

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.sent = sent


class Exhausted(Unreachable):
    """It was not asked: this process can open no more files. That says nothing about the other side."""

    def __init__(self) -> None:
        super().__init__("too many files are open here", sent=False)


@dataclass(frozen=True)
class Answer:
    """`body` has at most the asked-for bytes; `cut` says that there was more. `seconds` it took."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    cut: bool
    seconds: float


class Client:
    """Keeps one connection to one address, by a proxy if one is given. For one thread at a time.

    `ca`: a PEM file with the only authorities whose certificates are believed.

    These are urllib3's connections, without its pools and without requests: thousands of clients are to be small. Nothing
    in the environment (proxies, .netrc) is looked at: that is meant for other programs. Nor is a cookie kept.
    """

    def __init__(self, *, proxy: SecretStr | None = None, ca: Path | None = None) -> None:
        self._running = Running()
        self._proxy = None if proxy is None else parse_url(proxy.get_secret_value())
        self._ca = ca
        self._address, self._parts = "", Url()
        self._connection: HTTPConnection | None = None

    def ask(
        self,
        method: str,
        url: str,
        *,
        timeout: float,
        limit: int,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request; the answer is complete, or cut at `limit` bytes, within `timeout` seconds.

        A redirect is an answer like any other and not followed. Raises Unreachable.
        """
        try:
            return self._ask(method, url, timeout, limit, body, headers)
        except Unreachable:
            # A kept connection that the other side closed just now says nothing about the other side.
            if method != "GET" or self._running.fresh or self._running.aborted:
                raise
            return self._ask(method, url, timeout, limit, body, headers)

    def _ask(  # noqa: PLR0917 - as `ask`, by position
        self, method: str, url: str, timeout: float, limit: int, body: bytes | None, headers: Mapping[str, str] | None
    ) -> Answer:
        began = time.monotonic()
        self._running.begin()
        try:
            with watchdog.watching(self._running, timeout):
                connection = self._to(url, timeout)
                target, sent = self._request(connection, headers or {})
                connection.request(method, target, body, sent, preload_content=False, decode_content=False)
                response = connection.getresponse()
                content, cut = _read(response, limit)
                self._running.insist()
        except (HTTPException, HTTPError, OSError, ValueError, AttributeError) as error:
            # The last two are what a TLS socket raises when it is closed while another thread reads from it.
            self.close()
            if not has_files():
                raise Exhausted from None
            # To urllib3 every connection that is not made was late.
            late = self._running.aborted or (isinstance(error, Late | TimeoutError) and not isinstance(error, NewConnectionError))
            reason = _late(timeout) if late else _reason(error, to_proxy=self._running.to_proxy)
            raise Unreachable(reason, sent=self._running.sent) from None
        if cut:
            response.close()
            self.close()
        return Answer(response.status, response.headers, content, cut, time.monotonic() - began)

    def _to(self, url: str, timeout: float) -> HTTPConnection:
        """The kept connection, or one that will be made with the request."""
        if url != self._address:
            self.close()
            self._address, self._parts = url, parse_url(url)
        connection = self._connection
        if connection is None or not connection.is_connected:
            self.close()
            connection = self._connection = self._connection_for(self._parts)
        connection.timeout = timeout
        return connection

    def _connection_for(self, url: Url) -> HTTPConnection:
        proxy = self._proxy
        nearest = proxy or url
        port = nearest.port or (443 if nearest.scheme == "https" else 80)  # else http.client would look for it in an IPv6 address
        if url.scheme == "https" or nearest.scheme == "https":
            with _READING:  # else the first tick would have them once for each of its threads
                context = _believing(self._ca) if self._ca else _believing_the_usual()
            # urllib3 would believe any certificate of a proxy if it had no word on it.
            by = ProxyConfig(context, use_forwarding_for_https=False, assert_hostname=None, assert_fingerprint=None)
            connection: Told = Secure(_host(nearest), port, proxy=proxy, proxy_config=by, ssl_context=context)
        else:
            connection = Told(_host(nearest), port, proxy=proxy)
        connection.running = self._running
        if proxy is not None and url.scheme == "https":
            words = _authorization("Proxy-Authorization", proxy)
            connection.set_tunnel(url.host or "", url.port or 443, words, proxy.scheme or "http")
        return connection

    def _request(self, connection: HTTPConnection, headers: Mapping[str, str]) -> tuple[str, HTTPHeaderDict]:
        """What is asked for, and all headers; of two of one name, however it is written, the later one."""
        url, sent = self._parts, HTTPHeaderDict(_ALWAYS)
        for each in (headers, _authorization("Authorization", url)):
            for name, text in each.items():
                sent[name] = text
        if not connection.proxy_is_forwarding or self._proxy is None:
            return url.request_uri, sent
        for name, text in _authorization("Proxy-Authorization", self._proxy).items():
            sent[name] = text
        return url._replace(auth=None, path=url.path or "/", fragment=None).url, sent

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@functools.cache
def _believing_the_usual() -> ssl.SSLContext:
    """Once for all: their certificates take a megabyte, and 20 ms to read."""
    return _believing(Path(certifi.where()))


def _believing(authorities: Path) -> ssl.SSLContext:
    context = create_urllib3_context()
    context.load_verify_locations(authorities)
    # urllib3 sets it again for each connection; while another thread makes one, that is a use after free (CPython's #141012).
    context.set_alpn_protocols(ALPN_PROTOCOLS)
    context.set_alpn_protocols = lambda _: None  # type: ignore[assignment, method-assign]
    return context


def _host(url: Url) -> str:
    return (url.host or "").strip("[]")


def _authorization(header: str, url: Url) -> dict[str, str]:
    """The header for the name and password in an address."""
    if url.auth is None or ":" not in url.auth:
        return {}
    return {header: f"Basic {b64encode(unquote(url.auth).encode('latin-1')).decode()}"}


def _read(response: BaseHTTPResponse, limit: int) -> tuple[bytes, bool]:
    content = bytearray()
    while len(content) <= limit:
        part = response.read(min(65_536, limit + 1 - len(content)), decode_content=False)
        if not part:
            return bytes(content), False
        content += part
    return bytes(content[:limit]), True


def _late(timeout: float) -> str:
    return f"no complete answer within {timeout:.3g} s"


# The first that is found among an error's causes, in our own words: the libraries' messages repeat the address.
_CAUSES: tuple[tuple[type[BaseException], str], ...] = (
    (NameResolutionError, "its name does not resolve"),
    (socket.gaierror, "its name does not resolve"),
    (ssl.SSLCertVerificationError, "its TLS certificate is not valid"),
    (ssl.SSLError, "TLS failed"),
    (ConnectionRefusedError, "it refuses the connection"),
    (RemoteDisconnected, "it closed the connection without an answer"),
    (ConnectionResetError, "it closed the connection"),
    (BrokenPipeError, "it closed the connection"),
    (NewConnectionError, "no connection"),
)

_REFUSED = re.compile(r"Tunnel connection failed: (\d{3})")  # http.client's only word for it


def _reason(error: BaseException, *, to_proxy: bool) -> str:
    seen: list[BaseException] = []
    queue: list[Any] = [error]
    while queue:
        cause = queue.pop()
        if isinstance(cause, BaseException) and cause not in seen:
            seen.append(cause)
            queue += [cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args]
    found = (text for kind, text in _CAUSES if any(isinstance(cause, kind) for cause in seen))
    if refused := next(filter(None, (_REFUSED.match(str(cause)) for cause in seen)), None):
        return f"its proxy answered {refused[1]}"
    reason = next(found, f"no valid HTTP answer ({type(seen[-1]).__name__})")
    return f"its proxy: {reason}" if to_proxy else reason
