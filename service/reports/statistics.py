"""Percentiles and trends. Pure."""

import math
from collections.abc import Sequence
from statistics import median

FEWEST = 12  # points of a trend
SHORTEST = 20 * 3600.0  # seconds that they must span
FALL = 2.0  # percent of a disk; what falls so far at once is a cleanup
LONGEST = 2 * 365 * 86_400.0  # seconds; what takes longer than that to be full is not filling

Point = tuple[float, float]  # seconds since 1970, value


def percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest rank: the smallest value that at least this share of them does not exceed. They are in order, and some.

    https://en.wikipedia.org/wiki/Percentile#The_nearest-rank_method
    """
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def slope(points: Sequence[Point]) -> float:
    """How steep they are, in units a second: Theil and Sen's, the median of the slopes between each two of them.

    A third of the points may be anywhere. https://doi.org/10.1080/01621459.1968.10480934
    """
    return median(
        (later - earlier) / (end - begin) for number, (begin, earlier) in enumerate(points) for end, later in points[number + 1 :]
    )


def levelled(points: Sequence[Point]) -> list[Point]:
    """Without the one cleanup among them: what was before it is lowered by what it freed.

    A disk that is cleaned again and again is left as it is: that is how fast it fills.
    """
    falls: list[tuple[int, float]] = []  # up to which point, and how far
    for number in range(1, len(points)):
        fall = points[number - 1][1] - points[number][1]
        if fall <= 0:
            continue
        if falls and falls[-1][0] == number - 1:
            falls[-1] = number, falls[-1][1] + fall
        else:
            falls.append((number, fall))
    cleanups = [(number, fall) for number, fall in falls if fall >= FALL]
    if len(cleanups) != 1:
        return list(points)
    ((number, fall),) = cleanups
    return [(at, value - fall if place < number else value) for place, (at, value) in enumerate(points)]


def full_after(points: Sequence[Point]) -> tuple[float, float | None] | None:
    """How many percent a day a disk fills, and in how many seconds after the last point it is full; None: not at this pace.

    None alone: too little is known.
    """
    if len(points) < FEWEST or points[-1][0] - points[0][0] < SHORTEST:
        return None
    pace = slope(levelled(points))
    left = max(0.0, 100.0 - points[-1][1])
    seconds = left / pace if pace > 0 else math.inf
    return pace * 86_400, seconds if seconds <= LONGEST else None
