"""One HTTP request that ends in time, whatever the other side does: hang, drip, redirect, send without end."""

import contextlib
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import RemoteDisconnected
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any

import requests
from pydantic import SecretStr
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, NameResolutionError, NewConnectionError

from service.monitor.room import has_files


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


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: asked for redirects not to be followed, requests still reads their whole body to have the next one ready."""


class Client:
    """Keeps one connection to one address, by a proxy if one is given. For one thread at a time.

    `ca`: a PEM file with the only authorities whose certificates are believed.
    """

    def __init__(self, *, proxy: SecretStr | None = None, ca: Path | None = None) -> None:
        self._running = _Running()
        self._session = _Session()
        # A cookie is nothing to a health check or a webhook, and a hoard of them is one more way to break them.
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        # What is in the environment (proxies, .netrc) is meant for other programs.
        self._session.trust_env = False
        if proxy is not None:
            self._session.proxies = dict.fromkeys(("http", "https"), proxy.get_secret_value())
        if ca is not None:
            self._session.verify = str(ca)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _Adapter(self._running))

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
        sent = {"User-Agent": "tocsin", "Accept-Encoding": "identity", **(headers or {})}
        self._running.begin()
        timer = threading.Timer(timeout, self._running.abort)
        timer.daemon = True
        timer.start()
        try:
            with self._session.request(
                method, url, data=body, headers=sent, timeout=timeout, stream=True, allow_redirects=False
            ) as response:
                content, cut = _read(response, limit)
                if self._running.aborted:
                    raise Unreachable(_late(timeout), sent=True)
                return Answer(response.status_code, response.headers, content, cut, time.monotonic() - began)
        except (requests.RequestException, HTTPError, OSError, ValueError, AttributeError) as error:
            # The last two are what a TLS socket raises when it is closed while another thread reads from it.
            if not has_files():
                raise Exhausted from None
            late = self._running.aborted or isinstance(error, requests.Timeout)
            reason = _late(timeout) if late else _reason(error, to_proxy=self._running.to_proxy)
            raise Unreachable(reason, sent=self._running.sent) from None
        finally:
            timer.cancel()

    def close(self) -> None:
        self._session.close()


class _Running:
    """The connection in use, so that another thread can end it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: HTTPConnection | None = None
        self._socket: socket.socket | None = None
        self.aborted = False
        self.sent = False
        self.fresh = False  # the connection was made for this request
        self.to_proxy = False  # it was the way to the proxy that failed
        self._connecting = False

    def begin(self) -> None:
        with self._lock:
            self._connection, self._socket = None, None
            self.aborted = self.sent = self.fresh = self.to_proxy = self._connecting = False

    @contextlib.contextmanager
    def connecting(self, connection: HTTPConnection) -> Iterator[None]:
        """What is sent meanwhile is for a proxy on the way, not the request."""
        self.fresh = self._connecting = True
        try:
            yield
        except Exception:
            self.to_proxy = connection.proxy is not None and not connection.has_connected_to_proxy
            raise
        self._connecting = False

    def use(self, connection: HTTPConnection) -> None:
        with self._lock:
            # Both: while it connects only the connection knows its socket, and while a body without a length is
            # read the connection has already let go of it.
            self._connection, self._socket = connection, connection.sock
            self.sent = connection.sock is not None and not self._connecting
        if self.aborted:
            raise TimeoutError

    def abort(self) -> None:
        # requests' own time limit is for one read: a byte now and then holds it open for ever.
        with self._lock:
            self.aborted = True
            sock: Any = self._socket or (self._connection.sock if self._connection else None)
            if sock is not None:
                # TLS within the TLS of a proxy is no socket, but has one.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(getattr(sock, "socket", sock), socket.SHUT_RDWR)


class _Adapter(HTTPAdapter):
    """requests' adapter with connections that tell `running` when they are used."""

    def __init__(self, running: _Running) -> None:
        self._running = running
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        running = self._running

        class Plain(HTTPConnection):
            def connect(self) -> None:
                with running.connecting(self):
                    super().connect()
                running.use(self)

            def send(self, data: Any) -> None:
                running.use(self)
                super().send(data)

        class Secure(HTTPSConnection):
            def connect(self) -> None:
                with running.connecting(self):
                    running.use(self)
                    super().connect()
                running.use(self)

            def send(self, data: Any) -> None:
                running.use(self)
                super().send(data)

        # urllib3's documented way to have other connection classes.
        plain: Any = type("PlainPool", (HTTPConnectionPool,), {"ConnectionCls": Plain})
        secure: Any = type("SecurePool", (HTTPSConnectionPool,), {"ConnectionCls": Secure})
        self._pools = {"http": plain, "https": secure}
        self.poolmanager.pool_classes_by_scheme = self._pools

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:  # noqa: ARG002 - its signature
        # requests would believe any certificate of a proxy that is given a request without TLS.
        super().cert_verify(conn, "https:", verify, cert)  # type: ignore[no-untyped-call]

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = self._pools
        return manager


def _read(response: requests.Response, limit: int) -> tuple[bytes, bool]:
    content = bytearray()
    while len(content) <= limit:
        part = response.raw.read(min(65_536, limit + 1 - len(content)), decode_content=False)
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
