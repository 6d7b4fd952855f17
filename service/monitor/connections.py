"""Connections that another thread can end, and the one thread that ends them all: each when its time is over."""

import contextlib
import heapq
import itertools
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection


class Running:
    """The connection in use, so that another thread can end it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: HTTPConnection | None = None
        self._socket: socket.socket | None = None
        self.aborted = False
        self.sent = False
        self.fresh = False  # the connection was made for this request
        self.to_proxy = False  # it was the way to the proxy that failed
        self._connecting = False

    def begin(self) -> None:
        with self._lock:
            self._connection, self._socket = None, None
            self.aborted = self.sent = self.fresh = self.to_proxy = self._connecting = False

    @contextlib.contextmanager
    def connecting(self, connection: HTTPConnection) -> Iterator[None]:
        """What is sent meanwhile is for a proxy on the way, not the request."""
        self.fresh = self._connecting = True
        try:
            yield
        except Exception:
            self.to_proxy = connection.proxy is not None and not connection.has_connected_to_proxy
            raise
        self._connecting = False

    def use(self, connection: HTTPConnection) -> None:
        with self._lock:
            # Both: while it connects only the connection knows its socket, and while a body without a length is
            # read the connection has already let go of it.
            self._connection, self._socket = connection, connection.sock
            self.sent = connection.sock is not None and not self._connecting
        self.insist()

    def insist(self) -> None:
        """Raise TimeoutError when it was aborted: what has ended so may look like a whole answer."""
        if self.aborted:
            raise TimeoutError

    def abort(self) -> None:
        # A socket's own time limit is for one read: a byte now and then holds it open for ever.
        with self._lock:
            self.aborted = True
            sock: Any = self._socket or (self._connection.sock if self._connection else None)
            if sock is not None:
                # TLS within the TLS of a proxy is no socket, but has one.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(getattr(sock, "socket", sock), socket.SHUT_RDWR)


class Watchdog:
    """One thread that ends what takes too long: a timer for each request would be a thread for each."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        self._due: list[list[Any]] = []  # a heap of when, a number, and what is to be ended then; None when it is over
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def watching(self, running: Running, seconds: float) -> Iterator[None]:
        """What lasts for longer than so many seconds is aborted."""
        entry = [time.monotonic() + seconds, next(self._numbers), running]
        with self._changed:
            if self._thread is None or not self._thread.is_alive():  # want of memory may have ended it
                self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
                self._thread.start()
            heapq.heappush(self._due, entry)
            if self._due[0] is entry:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                entry[2] = None

    def _watch(self) -> None:
        with self._changed:
            while True:
                now = time.monotonic()
                while self._due and (self._due[0][2] is None or self._due[0][0] <= now):
                    running = heapq.heappop(self._due)[2]
                    if running is not None:
                        running.abort()
                self._changed.wait(self._due[0][0] - now if self._due else None)


watchdog = Watchdog()


class Told(HTTPConnection):
    """A connection that tells when it is used."""

    running: Running

    def connect(self) -> None:
        with self.running.connecting(self):
            self.running.use(self)
            super().connect()
        self.running.use(self)

    def send(self, data: Any) -> None:
        self.running.use(self)
        super().send(data)


class Secure(Told, HTTPSConnection):
    pass
