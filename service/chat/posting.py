"""One POST to a chat service, within a time limit for all of it: that of requests is for one read."""

import contextlib
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import BaseHTTPResponse
from urllib3.connection import HTTPConnection

from service.chat.answers import NotTaken, encoded, read
from service.chat.services import Service
from service.chat.text import told

ANSWER = 4096  # bytes read of an answer


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: asked for redirects not to be followed, requests still reads their whole body to have the next one ready."""


class _Adapter(HTTPAdapter):
    """requests' adapter, whose connection another thread can end."""

    def __init__(self) -> None:
        super().__init__()
        self.aborted = False
        self._connection: HTTPConnection | None = None

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        adapter = self

        class Noted(pool.ConnectionCls):  # type: ignore[misc]  # whichever it is
            def connect(self) -> None:
                adapter._connection = self
                super().connect()

            def send(self, data: Any) -> None:
                # Its name may have taken too long to look up: what comes so late is tried again, and would come twice.
                if adapter.aborted:
                    raise TimeoutError
                super().send(data)

        pool.ConnectionCls = Noted
        return pool

    def abort(self) -> None:
        self.aborted = True
        sock: Any = self._connection.sock if self._connection else None
        if sock is not None:
            # TLS within the TLS of a proxy is no socket, but has one.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(getattr(sock, "socket", sock), socket.SHUT_RDWR)


def post(service: Service, address: str, contents: Sequence[Mapping[str, Any]], timeout: float) -> None:
    """Tell it once, by the environment's proxy if there is one, within about `timeout` seconds.

    Raises NotTaken, and whatever requests does.
    """
    text = told(contents, service.longest, length=service.length, escape=service.escape)
    where, more = service.where(address)
    critical = any(content["status"] == "firing" and content["severity"] == "critical" for content in contents)
    body = encoded({**service.body(text), **more, **(service.critical if critical else {})})
    headers = {"Content-Type": "application/json", "User-Agent": "tocsin", "Accept-Encoding": "identity"}
    adapter = _Adapter()
    until = time.monotonic() + timeout
    timer = threading.Timer(timeout, adapter.abort)
    timer.daemon = True
    timer.start()
    try:
        with _Session() as session:
            for scheme in ("http://", "https://"):
                session.mount(scheme, adapter)
            with session.post(where, data=body, headers=headers, timeout=timeout, allow_redirects=False, stream=True) as answer:
                content = _beginning(answer.raw, until)
                adapter.aborted |= time.monotonic() >= until  # the timer's thread may be late
                if not adapter.aborted:
                    read(service.answers, address, answer.status_code, answer.headers, content)
    except requests.Timeout:
        adapter.aborted = True
    except Exception:
        if not adapter.aborted:
            raise
    finally:
        timer.cancel()
    if adapter.aborted:
        raise NotTaken(f"no complete answer within {timeout:g} s")


def _beginning(raw: BaseHTTPResponse, until: float) -> bytes:
    content = b""
    while len(content) < ANSWER and time.monotonic() < until:
        part = raw.read1(ANSWER - len(content), decode_content=True)
        if not part:
            break
        content += part
    return content
