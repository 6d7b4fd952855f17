"""What is told past the database, from memory, while that cannot be written: without a promise, but not without care."""

import random
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import orjson
import structlog

from service.chat import Chat
from service.monitor.composing import LARGEST
from service.monitor.exchange import Client
from service.monitor.receivers import is_own
from service.monitor.sending import send, wait_after
from service.receiver import Receiver

MOST = 1000  # contents that are kept; beyond it the oldest go
IDLE = 60.0  # seconds

_log = structlog.get_logger()


class Straight:
    """The queue of one receiver. `put` and `stored` may be called by any thread, the rest by the receiver's own."""

    def __init__(self, receiver: Receiver, clock: Callable[[], float]) -> None:
        self._receiver, self._clock = receiver, clock
        self._queue: deque[Mapping[str, Any]] = deque(maxlen=MOST)
        self._stored = threading.Event()
        self._identity, self._sent = "", 0  # of the message that is tried, and how many contents it has
        self._failed, self._due = 0, 0.0
        self._gone = False

    def put(self, content: Mapping[str, Any]) -> None:
        """Content as the outbox has it."""
        self._queue.append(content)

    def stored(self) -> None:
        """The outbox has all that rules have put here, and tells it: told here as well, it might come after its end."""
        self._stored.set()

    def inherit(self, other: "Straight") -> None:
        """Go on with what one before has not sent."""
        self._queue.extendleft(reversed(other._queue))  # noqa: SLF001 - its own kind

    def send(self, client: Client | Chat) -> float:
        """Send what is there, if it is time; seconds until there may be something to do."""
        if self._stored.is_set():
            self._stored.clear()
            for content in list(self._queue):
                if not is_own(content):
                    self._queue.remove(content)
            self._identity = ""
        wait = self._due - time.monotonic()
        if not self._queue or self._gone:
            return IDLE
        if wait > 0:
            return wait
        if not self._identity:
            self._identity, self._sent = f"msg_{uuid.uuid4().hex}", self._fitting()
        contents = list(self._queue)[: self._sent]
        now = self._clock()
        verdict = send(self._receiver, client, identity=self._identity, contents=contents, created=now, now=now)
        about = {"receiver": self._receiver.name, "message_id": self._identity, "alerts": len(contents)}
        if verdict.error is None:
            _log.info("message delivered past the database", **about)
            for content in contents:
                if self._queue[0] is content:  # else it has gone, as there were too many
                    self._queue.popleft()
            self._identity, self._failed = "", 0
            return 0.0
        _log.warning("message past the database not delivered", error=verdict.error, **about)
        self._failed += 1
        self._gone = verdict.gone
        pause = max(verdict.wait, wait_after(self._failed, random.random()))  # noqa: S311 - jitter, not a secret
        self._due = time.monotonic() + pause
        return pause

    def _fitting(self) -> int:
        size = 0
        for number, content in enumerate(list(self._queue)):
            size += len(orjson.dumps(content)) + 1
            if number and size > LARGEST:
                return number
        return len(self._queue)
