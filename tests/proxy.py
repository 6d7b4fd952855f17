"""Real proxies on loopback, and certificates of an authority of one's own."""

import base64
import contextlib
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from urllib.parse import urlsplit

from tests.serving import serving

LOGIN, PASSWORD = "somebody", "pr0xy-s3cret"


@dataclass
class Proxy:
    """Where it listens, and what it was asked for, such as `CONNECT alerts.example:443`."""

    url: str = ""
    asked: list[str] = field(default_factory=list)


@contextlib.contextmanager
def proxying(  # noqa: C901 - a server and how it treats a connection
    *, password: bool = False, lead: tuple[str, int] | None = None, hang: bool = False, context: ssl.SSLContext | None = None
) -> Iterator[Proxy]:
    """Run a proxy for the length of a `with` block: plain requests and CONNECT.

    `lead`: where it leads every host to. `hang`: it takes the request and says nothing. `context`: it speaks TLS itself.
    """
    proxy = Proxy()
    expected = base64.b64encode(f"{LOGIN}:{PASSWORD}".encode()).decode()

    class Handler(StreamRequestHandler):
        def setup(self) -> None:
            if context is not None:
                self.request = context.wrap_socket(self.request, server_side=True)
            super().setup()

        def finish(self) -> None:
            super().finish()
            self.request.close()

        def handle(self) -> None:
            with contextlib.suppress(OSError):
                self.lead()

        def lead(self) -> None:
            method, target, _ = self.rfile.readline().decode().split()
            proxy.asked.append(f"{method} {target}")
            headers = {}
            while (line := self.rfile.readline().decode().strip()) != "":
                name, _, text = line.partition(":")
                headers[name.lower()] = text.strip()
            if password and headers.get("proxy-authorization") != f"Basic {expected}":
                self.request.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                return
            if hang:
                time.sleep(20)
            parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
            with socket.create_connection(lead or (parts.hostname, parts.port or 80), timeout=10) as upstream:
                if method == "CONNECT":
                    self.request.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                else:
                    sent = "".join(f"{name}: {text}\r\n" for name, text in headers.items() if name != "connection")
                    body = self.rfile.read(int(headers.get("content-length", 0)))
                    upstream.sendall(f"{method} {parts.path} HTTP/1.1\r\nConnection: close\r\n{sent}\r\n".encode() + body)
                back = threading.Thread(target=pass_on, args=(upstream, self.request), daemon=True)
                back.start()
                pass_on(self.request, upstream)
                back.join(10)

    def pass_on(source: socket.socket, to: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while part := source.recv(65_536):
                to.sendall(part)
        with contextlib.suppress(OSError):
            to.shutdown(socket.SHUT_WR)

    class Server(ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True
        block_on_close = False

        def handle_error(self, *_: object) -> None:
            """A client that does not believe the certificate."""

    server = Server(("127.0.0.1", 0), Handler)
    login = f"{LOGIN}:{PASSWORD}@" if password else ""
    proxy.url = f"http{'s' if context else ''}://{login}127.0.0.1:{server.server_address[1]}"
    with serving(server):
        yield proxy


def issue(folder: Path, *names: str) -> tuple[Path, ssl.SSLContext]:
    """The file of a new authority, and a server's context with a certificate of it for these names."""
    run("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.pem", folder)
    run("req -newkey rsa:2048 -nodes -subj /CN=server -keyout server.key -out server.csr", folder)
    (folder / "names").write_text(f"subjectAltName={','.join(names)}\n")
    run("x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.pem", folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    return folder / "ca.pem", context


def run(arguments: str, folder: Path) -> None:
    subprocess.run(["openssl", *arguments.split()], cwd=folder, check=True, capture_output=True)
