"""The monitor's time: the wall clock's, but a clock that is set is followed only when everything that is counted by it is too.

Between two such moments it goes as CLOCK_MONOTONIC does, which nobody sets and which stands still while a machine sleeps.
"""

import time
from collections.abc import Callable

STEP = 1.0  # seconds; a clock that is kept right by small corrections is followed at once


class Clock:
    """Called, it is the time: seconds since 1970. Only the loop's thread sets it."""

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic) -> None:
        self._wall, self._steady = wall, steady
        self._offset = wall() - steady()

    def __call__(self) -> float:
        return self._steady() + self._offset

    def step(self) -> float:
        """Seconds by which the wall clock has been set since, 0.0 where it has not been."""
        gained = self._wall() - self()
        if abs(gained) >= STEP:
            return gained
        self._offset += gained
        return 0.0

    def follow(self, step: float) -> None:
        """Go by the wall clock again."""
        self._offset += step
