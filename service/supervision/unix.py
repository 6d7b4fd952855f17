"""One HTTP request to a server on a unix socket, bounded in time and size."""

import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPMessage
from pathlib import Path
from typing import Any

from service.supervision.supervisor import SupervisorError

LIMIT = 4 << 20  # bytes of an answer

_FAULTS: dict[type[OSError], str] = {
    FileNotFoundError: "has no socket at",
    ConnectionRefusedError: "does not listen at",
    PermissionError: "does not let this user in at",
    ConnectionError: "closes the connection without an answer at",
}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: HTTPMessage
    content: bytes


@dataclass(frozen=True)
class Server:
    """Who listens at a path. `remedies`: what to do when the socket cannot be opened, by the kind of error."""

    name: str
    path: Path
    remedies: Mapping[type[OSError], str]

    def ask(
        self, method: str, target: str, seconds: float, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """The whole answer, whatever its status. Raises SupervisorError when there is none within `seconds`."""
        connection = _Connection(self.path, seconds)
        try:
            # Who has answered before all was read, and closed: the answer is there.
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, target, body, {"Connection": "close"} | dict(headers or {}))
            response = connection.getresponse()
            answer = Answer(response.status, response.headers, response.read(LIMIT + 1))
        except TimeoutError:
            raise SupervisorError(f"{self.name} gives no complete answer at {self.path} within {seconds:g} s") from None
        except OSError as error:
            raise SupervisorError(self._unreached(error)) from None
        except HTTPException:
            raise self.stranger() from None
        finally:
            connection.close()
        if len(answer.content) > LIMIT:
            raise self.stranger()
        return answer

    def stranger(self) -> SupervisorError:
        """What to raise when the answer makes no sense."""
        return SupervisorError(f"what answers at {self.path} is not {self.name}; name its socket with `socket:`")

    def _unreached(self, error: OSError) -> str:
        fault = next((text for kind, text in _FAULTS.items() if isinstance(error, kind)), "cannot be reached at")
        reason = "" if fault in _FAULTS.values() else f": {error.strerror or error}"
        remedy = self.remedies.get(type(error))
        return f"{self.name} {fault} {self.path}{reason}{f'; {remedy}' if remedy else ''}"


class _Connection(HTTPConnection):
    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path
        self._seconds = seconds

    def connect(self) -> None:
        self.sock = _Socket(self._seconds)
        self.sock.connect(str(self._path))


class _Socket(socket.socket):
    """Its time is for everything together: a server that sends a byte now and then does not hold it open."""

    def __init__(self, seconds: float) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM)
        self._end = time.monotonic() + seconds
        self.settimeout(seconds)

    def recv_into(self, *arguments: Any, **named: Any) -> int:
        self.settimeout(max(self._end - time.monotonic(), 0.001))
        return super().recv_into(*arguments, **named)
