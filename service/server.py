"""Two parts that gunicorn takes from us: a worker that drains, and a logger that leaves the writing to service.logs.

On the ground floor, for gunicorn's master imports it before gevent has patched anything: it must load neither Flask
nor requests, or the workers' first TLS connection fails (RecursionError in ssl, gunicorn issue 1559).
"""

import logging
import time
from types import FrameType
from typing import Any

from gunicorn.glogging import Logger
from gunicorn.workers.ggevent import GeventWorker


class DrainingWorker(GeventWorker):  # type: ignore[misc]  # gunicorn has no types
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


class PropagatingLogger(Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's own messages go up to the root logger, once, and so through the one chain."""

    def setup(self, cfg: Any) -> None:  # noqa: ARG002 - gunicorn's signature
        self.error_log.setLevel(logging.getLogger().level)
        self.error_log.handlers.clear()
        self.error_log.propagate = True
