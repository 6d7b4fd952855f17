"""A real HTTP server on loopback that answers GETs as a test says."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.serving import serving


@dataclass
class Answering:
    """Where it listens, and for each path the status and the body; after so many seconds where it is to be slow."""

    url: str = ""
    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    delays: dict[str, float] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)  # of every answer
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)


@contextmanager
def answering() -> Iterator[Answering]:
    """Run it for the length of a `with` block."""
    said, over = Answering(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def do_GET(self) -> None:
            said.asked.append((self.path, dict(self.headers.items())))
            over.wait(said.delays.get(self.path, 0))
            status, body = said.answers.get(self.path, (404, b""))
            with suppress(OSError):  # whoever asked may have gone
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                for name, value in said.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Handler)
    said.url = f"http://127.0.0.1:{server.server_address[1]}"
    with serving(server):
        try:
            yield said
        finally:
            over.set()
