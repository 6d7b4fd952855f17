"""What gunicorn takes from us: a worker that drains and answers in JSON, and a logger that leaves the writing to logs.

On the ground floor, for gunicorn's master imports it before gevent has patched anything: it must load neither Flask
nor requests, or the workers' first TLS connection fails (RecursionError in ssl, gunicorn issue 1559).
"""

import contextlib
import logging
import time
import uuid
from types import FrameType
from typing import Any

import orjson
import structlog
from gunicorn.glogging import Logger
from gunicorn.workers.ggevent import GeventWorker


class Worker(GeventWorker):  # type: ignore[misc]  # gunicorn has no types
    """On SIGTERM from a stopping gunicorn: /readyz and /api/health answer 503 at once, and everything else is
    answered, for `drain` seconds; only then the socket is closed. A load balancer has that long to look elsewhere.

    When gunicorn reloads, the old workers get the same signal but leave at once: their successors already accept.
    """

    drain = 0.0
    stopping_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.replaced():
            super().handle_exit(sig, frame)
        elif self.stopping_at is None:
            if self.wsgi is not None:  # it may be told to stop while it still starts
                self.wsgi.extensions["readiness"].drain()
            self.stopping_at = time.monotonic() + self.drain

    def notify(self) -> None:
        """gunicorn's heartbeat, once a second: the place to see that the time is up, outside the signal handler."""
        super().notify()
        if self.stopping_at is not None and time.monotonic() >= self.stopping_at:
            self.alive = False

    def replaced(self) -> bool:
        """Whether gunicorn has begun a reload since this worker was forked; deploy/gunicorn.conf.py sets it."""
        return False

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """What gunicorn itself refuses, before the application sees it, is problem+json like every other error."""
        given = dict(getattr(req or getattr(exc, "req", None), "headers", None) or ()).get("X-REQUEST-ID", "")
        answer, identity = _Kept(), given if given.isascii() and given.isalnum() else uuid.uuid4().hex
        with structlog.contextvars.bound_contextvars(**{"http.request.id": identity}):  # gunicorn logs the reason
            super().handle_error(req, answer, addr, exc)
        if not answer.content:  # the connection is beyond an answer
            return
        _, status, title = answer.content.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
        detail = "The request is not valid HTTP."
        problem = {"type": "about:blank", "title": title, "status": int(status), "detail": detail, "request_id": identity}
        body = orjson.dumps(problem)
        head = (
            f"HTTP/1.1 {status} {title}\r\nConnection: close\r\nContent-Type: application/problem+json\r\n"
            f"X-Request-ID: {identity}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        with contextlib.suppress(OSError):
            client.sendall(head.encode("latin-1") + body)


class _Kept:
    """Takes the HTML page that gunicorn would have sent, for its status."""

    content = b""

    def gettimeout(self) -> float:
        return 0.0

    def sendall(self, content: bytes) -> None:
        self.content += content


class PropagatingLogger(Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's own messages go up to the root logger, once, and so through the one chain."""

    def setup(self, cfg: Any) -> None:  # noqa: ARG002 - gunicorn's signature
        self.error_log.setLevel(logging.getLogger().level)
        self.error_log.handlers.clear()
        self.error_log.propagate = True
