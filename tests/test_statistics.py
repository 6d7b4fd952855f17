"""Percentiles and trends: what they must be whatever the numbers are."""

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.reports.statistics import full_after, levelled, percentile, slope

DAY = 86_400.0
VALUES = st.lists(st.floats(-1e6, 1e6, allow_nan=False), min_size=1, max_size=200)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([7], 0.5, 7),
        ([1, 2], 0.5, 1),
        ([1, 2, 3], 0.5, 2),
        ([15, 20, 35, 40, 50], 0.30, 20),  # the example of Wikipedia's article
        ([15, 20, 35, 40, 50], 0.40, 20),
        ([15, 20, 35, 40, 50], 1.00, 50),
        (list(range(1, 101)), 0.95, 95),
        (list(range(1, 101)), 0.99, 99),
    ],
)
def test_a_percentile_is_the_nearest_rank(values: list[float], share: float, expected: float) -> None:
    """As the definition has it."""
    assert expected == percentile(values, share)


@given(values=VALUES, share=st.floats(0.01, 1))
def test_a_percentile_is_one_of_the_values(values: list[float], share: float) -> None:
    """At least its share of the values does not exceed it, and what is below it is less than that share."""
    found = percentile(sorted(values), share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    assert sum(value < found for value in values) < share * len(values) + 1e-9


@given(values=VALUES)
def test_percentiles_do_not_cross(values: list[float]) -> None:
    """A larger share is no smaller value."""
    found = [percentile(sorted(values), share) for share in (0.01, 0.5, 0.95, 0.99, 1)]
    assert sorted(found) == found


@given(pace=st.floats(-5, 5), begin=st.floats(0, 100), number=st.integers(2, 60))
def test_the_slope_of_a_line_is_its_own(pace: float, begin: float, number: int) -> None:
    """Points on a line give that line."""
    assert slope([(at, begin + pace * at) for at in range(number)]) == pytest.approx(pace, abs=1e-9)


@given(seed=st.integers(), places=st.sets(st.integers(0, 59), max_size=12))
def test_the_slope_is_not_moved_by_a_fifth_that_lies_anywhere(seed: int, places: set[int]) -> None:
    """Where a least-squares line would be led astray, it stays near that of the others."""
    chance = random.Random(seed)
    points = [(float(at), 0.5 * at + (chance.uniform(-1000, 1000) if at in places else 0.0)) for at in range(60)]
    assert slope(points) == pytest.approx(0.5, abs=0.25)


def course(days: int, value: Callable[[float], float], noise: float = 0.0) -> list[tuple[float, float]]:
    chance = random.Random(days)
    return [(hour * 3600.0, value(hour / 24) + chance.uniform(-noise, noise)) for hour in range(days * 24)]


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("cleaned", [0.5, 3.0, 6.9])
def test_one_cleanup_does_not_change_the_pace(cleaned: float, noise: float) -> None:
    """Wherever it was: it fills as fast as before, from where it is now."""
    found = full_after(course(7, lambda day: 50 + 2 * day - (20 if day >= cleaned else 0), noise))
    assert found is not None
    assert found[0] == pytest.approx(2, rel=0.1)
    assert found[1] == pytest.approx((100 - 44) / 2 * DAY, rel=0.15)


def test_a_cleanup_that_takes_hours_is_one() -> None:
    """Falls that follow each other are one fall."""
    points = course(7, lambda day: 50 + 2 * day - 20 * min(1, max(0, (day - 3) * 8)))
    found = full_after(points)
    assert found is not None
    assert found[0] == pytest.approx(2, rel=0.1)


def test_what_is_cleaned_each_day_is_not_filling() -> None:
    """What it gains by day and loses by night is its pace: none."""
    points = course(14, lambda day: 40 + 10 * (day % 1))
    assert points == levelled(points)
    found = full_after(points)
    assert found is not None
    assert abs(found[0]) < 0.2
    assert found[1] is None


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([], None),
        (course(1, lambda day: 50 + day)[:11], None),
        (course(7, lambda _: 50.0), (0.0, None)),
        (course(7, lambda day: 50 - day), (-1.0, None)),
        (course(7, lambda day: 50 + day / 1000), (0.001, None)),  # a hundred years are no forecast
        (course(7, lambda day: 93 + day), (1.0, DAY / 24)),
        (course(7, lambda _: 100.0), (0.0, None)),
    ],
)
def test_when_a_disk_is_full(points: list[tuple[float, float]], expected: tuple[float, float | None] | None) -> None:
    """The pace in percent a day, and how long it takes from the last point on; None for what is not known."""
    found = full_after(points)
    if expected is None or found is None:
        assert expected == found
        return
    assert found[0] == pytest.approx(expected[0], abs=1e-6)
    assert (expected[1] is None) is (found[1] is None)
    if found[1] is not None and expected[1] is not None:
        assert math.isclose(found[1], expected[1], rel_tol=1e-3)
