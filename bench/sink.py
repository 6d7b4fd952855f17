"""A receiver in a process of its own: it takes every message, counts, and looks whether what it was sent was committed before.

`python -m bench.sink DATABASE` prints its port; at the end of its input it prints what came: messages, notifications, and
messages that another connection did not find in the database (SQLite shows what is committed, and with synchronous=FULL a
commit is shown once it is on the disk).
"""

import socketserver
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import closing

came = {"messages": 0, "notifications": 0, "early": 0}


class Handler(socketserver.StreamRequestHandler):
    """One connection, kept from one message to the next."""

    disable_nagle_algorithm = True

    def handle(self) -> None:
        with closing(sqlite3.connect(sys.argv[1], isolation_level=None)) as database:
            while self.rfile.readline():
                headers = dict(self._headers())
                body = self.rfile.read(int(headers[b"content-length"]))
                identity = headers[b"webhook-id"].decode()
                found = database.execute("SELECT 1 FROM messages WHERE id = ?", [identity]).fetchone()
                came["early"] += found is None
                came["messages"] += 1
                came["notifications"] += body.count(b'"occurrence":')
                self.wfile.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    def _headers(self) -> Iterator[tuple[bytes, bytes]]:
        while (line := self.rfile.readline()) != b"\r\n":
            name, _, text = line.partition(b":")
            yield name.lower(), text.strip()


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True


def main() -> None:
    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(server.server_address[1], flush=True)
        sys.stdin.read()
        print(came["messages"], came["notifications"], came["early"], flush=True)
        server.shutdown()


if __name__ == "__main__":
    main()
