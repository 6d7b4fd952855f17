"""A receiver to try alerts with, and to read how one is written: it verifies, drops nothing, and says what came.

It understands Tocsin's own format and Alertmanager's.
"""

import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson
from pydantic import SecretStr

from service.signing import verify

LARGEST = 1_048_576  # bytes of a body
REMEMBERED = 10_000  # ids of messages; who stores what comes keeps those instead
PATIENCE = 10.0  # seconds for a request to arrive

Say = Callable[[str], object]


class Receiver(ThreadingHTTPServer):
    """Says each alert in a line, or each message as `raw` JSON; without secrets nothing is verified. Raises OSError.

    What it refused it says to `complain`.
    """

    daemon_threads = True

    def __init__(self, host: str, port: int, *, secrets: Sequence[SecretStr], say: Say, complain: Say, raw: bool = False) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.secrets, self.say, self.complain, self.raw = secrets, say, complain, raw
        self._seen: OrderedDict[str, None] = OrderedDict()
        super().__init__((host, port), _Handler)

    def is_again(self, identity: str) -> bool:
        """Whether this id came before: a second copy, as a message is sent at least once."""
        if not identity:
            return False
        again = identity in self._seen
        self._seen[identity] = None
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return again


class _Handler(BaseHTTPRequestHandler):
    server: Receiver
    timeout = PATIENCE

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()):
            return self.answer(HTTPStatus.LENGTH_REQUIRED, "a body without Content-Length")
        if len(length) > 9 or int(length) > LARGEST:
            return self.answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body of more than {LARGEST} bytes")
        body = self.rfile.read(int(length))
        headers = {name.lower(): text for name, text in self.headers.items()}
        if self.server.secrets:
            try:
                verify(self.server.secrets, headers, body, time.time())
            except ValueError as error:
                return self.answer(HTTPStatus.UNAUTHORIZED, str(error))
        try:
            message = orjson.loads(body)
        except orjson.JSONDecodeError:
            return self.answer(HTTPStatus.BAD_REQUEST, "a body that is not JSON")
        again = self.server.is_again(headers.get("webhook-id", ""))
        if self.server.raw:
            self.server.say(orjson.dumps(message).decode())
        else:
            for line in lines(message):
                self.server.say(f"again: {line}" if again else line)
        return self.answer(HTTPStatus.NO_CONTENT)

    def answer(self, status: HTTPStatus, refused: str = "") -> None:
        """Answer, and say why not."""
        if refused:
            self.server.complain(f"refused with {status.value}: {refused}")
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """What there is to say is said."""


def lines(message: Any) -> list[str]:
    """A line for each alert in a message of either format, or for its report; JSON of another form is one line as it is."""
    try:
        if message.get("type") == "report":
            report = message["data"]["report"]
            return [_printable("  ".join((report["until"], "report", report["summary"], report["url"])))]
        own = "data" in message
        alerts = [_own(alert) if own else _foreign(alert) for alert in (message["data"] if own else message)["alerts"]]
    except (KeyError, TypeError, AttributeError):
        return [f"not a message of alerts: {orjson.dumps(message).decode()}"]
    return [_printable("  ".join(map(str, alert))) for alert in alerts]


def _printable(text: str) -> str:
    """What others write must not move the cursor of a terminal."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def _own(alert: Mapping[str, Any]) -> list[object]:
    words = [word for word in ("late", "flapping", "reminder", "escalated") if alert.get(word)]
    status = ", ".join([alert["status"], *words])
    return [alert["ends_at"] or alert["starts_at"], status, alert["severity"], alert["alert"], alert["target"], alert["summary"]]


def _foreign(alert: Mapping[str, Any]) -> list[object]:
    labels, resolved = alert["labels"], alert["status"] == "resolved"
    named = [labels.get(name, "-") for name in ("severity", "alertname", "target")]
    return [alert["endsAt" if resolved else "startsAt"], alert["status"], *named, alert["annotations"].get("summary", "-")]
