"""Many connections at once, from many addresses of this machine: `python -m tests.crowd HOST:PORT COUNT`.

Each asks once, and is kept. Says `open` when all were answered, and for a line on standard input how many are still open.
"""

import resource
import socket
import sys
from contextlib import suppress


def is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    with suppress(BlockingIOError):
        return connection.recv(1) != b""
    return True


def main(address: str, count: str) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    host, _, port = address.rpartition(":")
    crowd = []
    for number in range(int(count)):
        connection = socket.create_connection((host, int(port)), 60, source_address=(f"127.0.3.{number % 100 + 1}", 0))
        connection.sendall(b"GET /robots.txt HTTP/1.1\r\nHost: x\r\n\r\n")
        crowd.append(connection)
    answered = sum(each.recv(4096).startswith(b"HTTP/1.1 200 ") for each in crowd)
    print("open", answered, flush=True)
    sys.stdin.readline()
    print(sum(is_open(each) for each in crowd), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
