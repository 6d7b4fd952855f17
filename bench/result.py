"""What was measured, whether it is good enough, and how figures are written. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Size:
    """How much of it. `largest` bounds how far a curve goes: 1.0 to its end."""

    rounds: int
    seconds: float  # of load in one round
    largest: float


FULL = Size(rounds=3, seconds=4.0, largest=1.0)
TINY = Size(rounds=1, seconds=0.3, largest=0.001)


@dataclass(frozen=True)
class Row:
    """One line of the table: a figure of each round, and with `theirs` the other's in the same round.

    The goal is about the ratio of ours to theirs, where there are theirs, else about ours. `missed`: what was tried and what
    stands in the way, for when it is.
    """

    what: str
    against: str
    unit: str
    ours: Sequence[float]
    theirs: Sequence[float] = ()
    least: float | None = None
    most: float | None = None
    missed: str = ""

    @property
    def figure(self) -> float:
        """What the goal is about: the median of the rounds' ratios, or of ours."""
        if self.theirs:
            return median(mine / other for mine, other in zip(self.ours, self.theirs, strict=True))
        return median(self.ours)

    @property
    def met(self) -> bool:
        return (self.least is None or self.figure >= self.least) and (self.most is None or self.figure <= self.most)


@dataclass(frozen=True)
class Curve:
    """How a cost grows: points of (how many, its cost in `unit`), from few to many."""

    name: str  # of its file, too
    what: str
    count: str  # of what there are more and more
    unit: str
    points: Sequence[tuple[float, float]]
    most: float = 1.15  # the slope that is still taken for linear; measured times scatter
    missed: str = ""

    @property
    def slope(self) -> float:
        """Of the line through the larger half of the points, both axes logarithmic: 0 is constant, 1 linear, 2 quadratic.

        What there is at the start, whatever the number, says nothing of how it grows.
        """
        counted = [(count, cost) for count, cost in self.points if count > 0 and cost > 0]
        larger = [(math.log(count), math.log(cost)) for count, cost in counted[(len(counted) - 1) // 2 :]]
        if len(larger) < 2:
            return 0.0
        mean_x, mean_y = (sum(each) / len(larger) for each in zip(*larger, strict=True))
        spread = sum((x - mean_x) ** 2 for x, _ in larger)
        return sum((x - mean_x) * (y - mean_y) for x, y in larger) / spread if spread else 0.0

    @property
    def met(self) -> bool:
        return self.slope <= self.most


def rounded(value: float) -> str:
    """With the three digits that count."""
    if value == 0:
        return "0"
    decimals = 2 - math.floor(math.log10(abs(value)))
    text = f"{round(value, decimals):,.{max(0, decimals)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def amount(value: float, unit: str) -> str:
    """With its unit. Seconds become milli- and microseconds where they are few."""
    if unit == "s" and 0 < abs(value) < 0.1:
        value, unit = (value * 1e3, "ms") if abs(value) >= 1e-4 else (value * 1e6, "µs")
    return f"{rounded(value)} {unit}".strip()
