"""A real HTTP server on loopback that takes webhooks, and does what a test tells it to."""

import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson

from tests.serving import serving


@dataclass
class Received:
    """One request as it arrived."""

    headers: dict[str, str]
    body: bytes
    at: float
    path: str = ""

    @property
    def message(self) -> Any:
        return orjson.loads(self.body)


@dataclass
class Receiver:
    """Where it listens, what it got, and the status it answers with (`answer`, asked for each request)."""

    url: str = ""
    requests: list[Received] = field(default_factory=list)
    answer: Callable[[int], int] = lambda number: 204
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes = b""  # what it answers, besides

    def wait_for(self, count: int, seconds: float = 10.0) -> list[Received]:
        """The requests, once there are so many; raises AssertionError when they do not come."""
        end = time.monotonic() + seconds
        while len(self.requests) < count:
            assert time.monotonic() < end, f"{len(self.requests)} of {count} requests came in {seconds} s"
            time.sleep(0.01)
        return self.requests


@contextmanager
def receiving(host: str = "127.0.0.1", port: int = 0, context: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """Run a receiver for the length of a `with` block, with TLS where there is a context for it."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            receiver.requests.append(Received(headers, body, time.time(), self.path))
            self.send_response(receiver.answer(len(receiver.requests)))
            self.send_header("Content-Length", str(len(receiver.content)))
            for name, value in receiver.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(receiver.content)

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128
        allow_reuse_address = True

    server = Server((host, port), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    receiver.url = f"http{'s' if context else ''}://{host}:{server.server_address[1]}/hook"
    with serving(server):
        yield receiver
