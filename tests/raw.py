"""HTTP byte for byte: what no library would send, and what comes back."""

import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

SECOND = b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Request-ID: the-second-one\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True)
class Answer:
    """`status` is 0 where there is no head: HTTP/0.9."""

    status: int
    headers: dict[str, str]
    body: bytes


def connect(url: str, source: str, seconds: float = 20) -> socket.socket:
    """A connection from one of this machine's addresses, each of which has rate limits of its own."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    return socket.create_connection((host, int(port)), seconds, source_address=(source, 0))


def answers(url: str, sent: bytes, source: str) -> list[Answer]:
    """All that comes back for these bytes and, as far as the connection is open after the first answer, for SECOND."""
    found: list[Answer] = []
    with connect(url, source) as connection, suppress(ConnectionError):
        connection.sendall(sent)
        for answer in _read(connection.makefile("rb")):
            if answer.status == 100:
                continue
            found.append(answer)
            if len(found) == 1:
                connection.sendall(SECOND)
    return found


def _read(stream: BinaryIO) -> Iterator[Answer]:
    while line := stream.readline():
        if not line.startswith(b"HTTP/"):
            yield Answer(0, {}, line + stream.read())
            return
        head = iter(stream.readline, b"\r\n")
        parts = (each.decode("latin-1").partition(":") for each in head)
        headers = {name.lower(): value.strip() for name, _, value in parts}
        status = int(line.split()[1])
        if "chunked" in headers.get("transfer-encoding", ""):
            body = b"".join(stream.read(size + 2)[:-2] for size in iter(lambda: int(stream.readline(), 16), 0))
            stream.readline()
        elif status == 100:
            body = b""
        else:
            body = stream.read(int(headers["content-length"])) if "content-length" in headers else stream.read()
        yield Answer(status, headers, body)
