"""What is on the page, made once a second for all who watch it, and only while somebody does.

Whoever watches gets the sections that differ from those they have. The id of an event holds a digest of each section, so a
reader who comes back, to whichever worker, gets what has changed meanwhile and no more. Nothing is kept for anybody: a
reader who is slow misses what lies between.
"""

import hashlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import orjson
import structlog

PACE = 1.0  # seconds between two frames
ALIVE = 5.0  # seconds after which a reader hears that nothing has changed
SILENT = 15.0  # seconds without any frame, after which a comment keeps the connection
AGAIN = 1.0  # seconds after which a reader that was cut off comes back
MOST = 200  # streams in one worker; nginx has a limit of its own on all of them

_log = structlog.get_logger()


class FullError(Exception):
    """As many watch as may."""


@dataclass(frozen=True)
class Frame:
    """The page at one time: HTML, by the id of its element."""

    at: float  # seconds since 1970
    sections: Mapping[str, str]

    @cached_property
    def marks(self) -> tuple[str, ...]:
        return tuple(hashlib.blake2b(text.encode(), digest_size=6).hexdigest() for text in self.sections.values())

    @property
    def id(self) -> str:
        return "-".join(self.marks)

    def since(self, identity: str) -> dict[str, str]:
        """The sections that differ from those of the frame with this id; all of them when it is none of ours."""
        known = identity.split("-")
        if len(known) != len(self.marks):
            return dict(self.sections)
        pairs = zip(self.sections.items(), self.marks, known, strict=True)
        return {name: text for (name, text), mark, seen in pairs if mark != seen}


Frames = Mapping[bool, Frame]  # by whether the reader is logged in


class Feed:
    """`make` gives the page as it is now. It is called by one thread at a time."""

    def __init__(self, make: Callable[[], Frames], most: int = MOST) -> None:
        self._make, self._most = make, most
        self._making, self._news = threading.Lock(), threading.Condition()
        self._frames: Frames = {}
        self._begun = -math.inf  # when they began to be made, on the monotonic clock
        self._number = 0  # of the frames that were made
        self._readers = 0
        self._running = self._ended = False

    def latest(self, oldest: float = 0.9 * PACE) -> Frames:
        """The page as it was so many seconds before this was asked at most; who waits for the same one gets the same one."""
        asked = time.monotonic()
        with self._making:
            if self._begun <= asked - oldest:
                begun = time.monotonic()
                made = self._make()
                with self._news:
                    self._frames, self._begun = made, begun
                    self._number += 1
                    self._news.notify_all()
            return self._frames

    def join(self) -> None:
        """One more reader; each one leaves again. Raises FullError."""
        with self._news:
            if self._readers >= self._most:
                raise FullError
            self._readers += 1
            if not self._running and not self._ended:
                self._running = True
                threading.Thread(target=self._run, name="feed", daemon=True).start()

    def leave(self) -> None:
        with self._news:
            self._readers -= 1
            self._news.notify_all()

    def end(self) -> None:
        """End all streams, and each new one at once: their readers come back, and find another worker."""
        with self._news:
            self._ended = True
            self._news.notify_all()

    def stream(self, seen: str, finished: Callable[[str], str], *, member: bool, until: float) -> Iterator[str]:
        """Server-sent events for one reader, who has the frame with the id `seen`, until that time at the latest.

        `finished` is done to each section for this reader alone.
        """
        yield f"retry: {round(AGAIN * 1000)}\n\n"
        number, told = 0, time.monotonic() - ALIVE
        if not self._ended:
            self.latest()
        while not self._ended and time.time() < until:
            with self._news:
                made = self._news.wait_for(partial(self._is_news, number), SILENT)
                number, frames = self._number, self._frames
            if self._ended:
                return
            if not made:  # who hears nothing but this takes what is shown for stale, and so it is
                yield ": still here\n\n"
                continue
            frame, now = frames[member], time.monotonic()
            if changed := frame.since(seen):
                seen, told = frame.id, now
                yield _event(
                    "sections", {"at": frame.at, "sections": {name: finished(text) for name, text in changed.items()}}, seen
                )
            elif now - told >= ALIVE:
                told = now
                yield _event("alive", {"at": frame.at})

    def _is_news(self, number: int) -> bool:
        return self._ended or self._number != number

    def _run(self) -> None:
        while True:
            try:
                self.latest()
            except Exception:  # noqa: BLE001 - the thread must not end; its readers see that nothing comes
                _log.exception("the page cannot be made")
            with self._news:
                if self._news.wait_for(lambda: self._ended or not self._readers, PACE):
                    self._running = False
                    return


def _event(kind: str, said: Any, identity: str = "") -> str:
    named = f"id: {identity}\n" if identity else ""
    return f"event: {kind}\n{named}data: {orjson.dumps(said).decode()}\n\n"
