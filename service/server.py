"""What gunicorn takes from us: a worker that drains, knows its limits and answers in JSON, and a logger that leaves the
writing to logs.

On the ground floor, for gunicorn's master imports it before gevent has patched anything: it must load neither Flask
nor requests, or the workers' first TLS connection fails (RecursionError in ssl, gunicorn issue 1559).
"""

import contextlib
import logging
import mmap
import sys
import time
import uuid
from pathlib import Path
from types import FrameType
from typing import Any

import gevent
import orjson
import psutil
import structlog
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger
from gunicorn.workers.ggevent import GeventWorker

from service import counting
from service.values import ConfigurationError

_log = structlog.get_logger()


class StuckError(Exception):
    """Raised where the code stands that lets nothing else in its worker run."""


class Worker(GeventWorker):  # type: ignore[misc]  # gunicorn has no types
    """On SIGTERM from a stopping gunicorn: /readyz and /api/health answer 503 at once, and everything else is
    answered, for `drain` seconds; only then the socket is closed. A load balancer has that long to look elsewhere.

    When gunicorn reloads, the old workers get the same signal as soon as their successors are forked. They say nothing of
    draining, and accept until one of those does. Streams end with the first word of a stop, whichever it is.

    One that has more than `memory` bytes, or whose loop has stood still, is replaced as after `max_requests`: it accepts
    no more, answers what it has, and says nothing of draining, since its siblings go on.
    """

    alive: bool  # gunicorn's: it accepts while this is true
    drain = 0.0
    memory = sys.maxsize
    stopping_at: float | None = None
    reloads: mmap.mmap  # of the master and all workers: how many there have been (a byte), and after which of them one accepts
    generation = 0  # how many there had been when it was forked
    leaving = False  # another one does: it goes when that accepts
    counted: tuple[Path | None, int] = (None, 0)  # where it counts requests, and under which number

    def load_wsgi(self) -> None:
        """gunicorn's, after gevent's patch. A fault of the configuration is one line, with the stack of what caused it."""
        counting.share(*self.counted)
        gevent.get_hub().print_exception = _unhandled
        try:
            super().load_wsgi()
        except ConfigurationError as error:
            for fault in error.faults:
                _log.critical(fault, exc_info=error.__cause__)
            sys.exit(Arbiter.WORKER_BOOT_ERROR)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.booted or self.leaving:  # one that still starts has nothing to finish; told again, it is a stop
            super().handle_exit(sig, frame)
        elif self.replaced():
            self.leaving = True
        elif self.stopping_at is None:
            self.wsgi.extensions["readiness"].drain()
            self.stopping_at = time.monotonic() + self.drain

    def notify(self) -> None:
        """gunicorn's heartbeat, once a second: the place to see that the time is up, outside the signal handler."""
        super().notify()
        if self.stopping_at is not None or self.leaving or not self.alive:
            self.wsgi.extensions["feed"].end()  # it would not end by itself, and its readers find another worker
        if self.leaving:
            if self.succeeded():
                self.alive = False
        elif self.stopping_at is not None:
            if time.monotonic() >= self.stopping_at:
                self.alive = False
        elif self.alive and (fault := self.fault()):
            _log.warning(f"worker {fault}; it is replaced", **{"event.category": "process", "event.action": "worker-replaced"})
            self.alive = False

    def fault(self) -> str:
        """Why it is to be replaced; empty while it is well."""
        try:
            used = psutil.Process().memory_info().rss
        except OSError as error:  # out of descriptors, it can accept nothing either
            return f"can open nothing ({error.strerror})"
        return f"has {used >> 20} MiB, and may have {self.memory >> 20} MiB" if used > self.memory else ""

    def handle_abort(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - gunicorn's signature
        """From a master that has had no heartbeat for `timeout`; unless it gets one now, KILL follows.

        gunicorn's own would end the process, and with it every request that waits behind the one that does not end.
        """
        self.tmp.notify()
        self.alive = False
        if isinstance(gevent.getcurrent(), gevent.Greenlet):  # and not the loop itself, which then goes on already
            raise StuckError(f"nothing else in this worker has run for {self.cfg.timeout} s")

    def replaced(self) -> bool:
        """Whether gunicorn has begun a reload since this worker was forked."""
        return self.reloads[0] != self.generation

    def succeeded(self) -> bool:
        """Whether a worker that was forked after the last reload accepts."""
        return self.reloads[1] == self.reloads[0]

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


def _unhandled(_context: object, _kind: type[BaseException], error: BaseException | None, _stack: object) -> None:
    """gevent's last resort for what nobody has caught, as where a connection cannot be accepted: a line like any other."""
    _log.error("unhandled error", exc_info=error)


class _Kept:
    """Takes the HTML page that gunicorn would have sent, for its status."""

    content = b""

    def gettimeout(self) -> float:
        return 0.0

    def sendall(self, content: bytes) -> None:
        self.content += content


class PropagatingLogger(Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's own messages go up to the root logger, once, and so are lines like all others."""

    def setup(self, cfg: Any) -> None:  # noqa: ARG002 - gunicorn's signature
        self.error_log.setLevel(logging.getLogger().level)
        self.error_log.handlers.clear()
        self.error_log.propagate = True
