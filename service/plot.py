"""Readings as a line: numbers in, coordinates for an SVG out. templates/plot.svg draws it, on the page and in reports."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TEMPLATES = Path(__file__).parent / "templates"  # for Jinja; both wings use what is in it
WIDTH, HEIGHT = 600, 100  # of the picture, in its own units; it is stretched to its place

Point = tuple[float, float]  # seconds since 1970, value


@dataclass(frozen=True)
class Plot:
    """A line in a box of WIDTH by HEIGHT. Where nothing was measured it has a gap."""

    lines: tuple[str, ...]  # each the `points` of a polyline
    dots: tuple[tuple[float, float], ...]  # what stands alone between two gaps
    threshold: float | None  # y
    least: float  # the values at the bottom and at the top
    most: float
    latest: float | None


def plot(points: Sequence[Point], since: float, until: float, *, gap: float, threshold: float | None = None) -> Plot:
    """Draw points, in order of time, from `since` to `until`. More than `gap` seconds without one is a gap.

    The box begins at 0, or below it where a value is, and ends at a round number above the largest value and threshold.
    """
    inside = [(at, value) for at, value in points if since <= at <= until]
    values = [value for _, value in inside]
    least, most = min([0.0, threshold or 0.0, *values]), _top(max([*values, threshold or 0.0, 0.0]))

    def place(at: float, value: float) -> tuple[float, float]:
        return round((at - since) / (until - since) * WIDTH, 1), round((most - value) / (most - least) * HEIGHT, 1)

    runs: list[list[Point]] = []
    for point in inside:
        if not runs or point[0] - runs[-1][-1][0] > gap:
            runs.append([])
        runs[-1].append(point)
    placed = [[place(*point) for point in run] for run in runs]
    return Plot(
        lines=tuple(" ".join(f"{x:g},{y:g}" for x, y in run) for run in placed if len(run) > 1),
        dots=tuple(run[0] for run in placed if len(run) == 1),
        threshold=None if threshold is None else place(since, threshold)[1],
        least=least,
        most=most,
        latest=values[-1] if values else None,
    )


def _top(largest: float) -> float:
    """A round number above: 1, 2, 5, 10, 20, 50, 100, …"""
    top, steps = 1.0, (2.0, 2.5, 2.0)
    step = 0
    while top < largest:
        top *= steps[step % 3]
        step += 1
    return top
