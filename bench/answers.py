"""A server on loopback that answers thousands of kept connections, in a process of its own: `python -m bench.answers`.

Every tenth path, those that end in 0, answers as a Tocsin's `/api/health` does, with readings; the others say that they are up.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import orjson

from service.monitor.room import take_files

READINGS = {"cpu_usage": 12.5, "mem_usage": 41.0, "disk_usage": 55.5, "load1": 0.4, "swap_usage": 0.0, "oom_kills": 0}
CONNECTIONS = 10_000  # at once, of which each is an open file
CHECKS = {name: {"value": value, "scope": "host"} for name, value in READINGS.items()}


def _answer(body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


UP, HEALTH = _answer(b'{"status":"up"}'), _answer(orjson.dumps({"status": "healthy", "checks": CHECKS}))


class Answering(asyncio.Protocol):
    """One connection; a request of ours comes in one piece."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        path = data.split(b" ", 2)[1]
        self._transport.write(HEALTH if path.endswith(b"0") else UP)


@contextmanager
def answering() -> Iterator[str]:
    """The address under which any path answers."""
    command = [sys.executable, "-m", "bench.answers"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


async def _serve() -> None:
    take_files(CONNECTIONS)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Answering, "127.0.0.1", 0, backlog=5000)
    print(server.sockets[0].getsockname()[1], flush=True)
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ended.set)  # who has started it is gone
    await ended.wait()
    os._exit(0)  # thousands of connections need no farewell


if __name__ == "__main__":
    asyncio.run(_serve())
