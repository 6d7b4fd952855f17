"""What happened of late, from the kernel's totals, which only grow and do not say when."""

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import orjson

NAME = "oom-kills.json"
LASTING = 600.0  # seconds for which a kill counts
_WINDOW = 10.0  # seconds


class Throttling:
    """How often a quota held its group back in the last ten seconds."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, int, int]] = deque()

    def percent(self, now: float, periods: int, throttled: int) -> float | None:
        """Of the periods, with the totals of this moment (a clock that is never set); None at the first look.

        An idle group has no periods: nothing held it back.
        """
        if self._looks and periods < self._looks[-1][1]:  # another group, or one that began anew
            self._looks.clear()
        self._looks.append((now, periods, throttled))
        while len(self._looks) > 1 and self._looks[1][0] <= now - _WINDOW:
            self._looks.popleft()
        if len(self._looks) == 1:
            return None
        _, periods_before, throttled_before = self._looks[0]
        more = periods - periods_before
        return min(100.0, max(0.0, 100.0 * (throttled - throttled_before) / more)) if more else 0.0


@dataclass(frozen=True)
class Kills:
    """The total at the last look, and when it was seen to grow (CLOCK_MONOTONIC) by how many."""

    total: int = 0
    seen: tuple[tuple[float, int], ...] = ()

    def then(self, total: int, now: float) -> "Kills":
        """What is known after another look. A total that is less is that of a group that began anew."""
        more = total - self.total if total >= self.total else total
        # What lies ahead was seen before the machine started anew.
        seen = tuple((at, number) for at, number in self.seen if now - LASTING < at <= now)
        return Kills(total, (*seen, (now, more)) if more else seen)

    @property
    def number(self) -> int:
        """How many there were in the time that counts."""
        return sum(number for _, number in self.seen)


class OomKills:
    """Processes that the kernel killed for lack of memory, in the last ten minutes.

    All workers look, and one that was itself killed remembers nothing: what was seen stands in a file of `folder`. It is
    put in its place whole, without a lock that a stopped process could hold: who is overtaken counts the same kills.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / NAME
        self._unsaved: Kills | None = None  # what only this process knows, while the file cannot be written

    def lately(self, total: Callable[[], int]) -> int:
        """`total`: how many since the group began. What it says at the very first look, nobody has told: it is of now.

        Raises OSError when the file is there and cannot be read.
        """
        known = self._unsaved or self._saved()
        # After the file: a total, or a moment, older than what another process has written there would be taken for a new group.
        found, now = total(), time.monotonic()
        after = (known or Kills()).then(found, now)
        if self._unsaved or after != (known or Kills()):
            try:
                self._save(after)
            except OSError:
                # Without a file there was one look or a thousand: a worker that is new must not tell old kills again.
                self._unsaved = after if known else Kills(found)
                return self._unsaved.number
            self._unsaved = None
        return after.number

    def _saved(self) -> Kills | None:
        """None when there is no file yet, or what is in it is not ours."""
        try:
            written = orjson.loads(self._file.read_bytes())
            return Kills(int(written["total"]), tuple((float(at), int(number)) for at, number in written["seen"]))
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None

    def _save(self, kills: Kills) -> None:
        new = self._file.with_name(f"{NAME}.{os.getpid()}")
        try:
            new.write_bytes(orjson.dumps(kills))
            new.replace(self._file)
        finally:
            with contextlib.suppress(OSError):
                new.unlink(missing_ok=True)
