"""Readings as a line."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.plot import HEIGHT, WIDTH, plot


def test_a_line_goes_from_the_left_to_the_right() -> None:
    """Time is x, and a value is the higher the smaller its y."""
    drawn = plot([(0.0, 0.0), (30.0, 50.0), (60.0, 100.0)], 0.0, 60.0, gap=30.0, threshold=80.0)

    assert ("0,100 300,50 600,0",) == drawn.lines
    assert (20.0, 0.0, 100.0, 100.0) == (drawn.threshold, drawn.least, drawn.most, drawn.latest)


def test_where_nothing_was_measured_the_line_has_a_gap() -> None:
    """Two runs are two lines, and a point between two gaps is a dot."""
    points = [(0.0, 1.0), (10.0, 1.0), (100.0, 1.0), (190.0, 1.0), (200.0, 1.0)]
    drawn = plot(points, 0.0, 200.0, gap=60.0)

    assert (2, ((300.0, 0.0),)) == (len(drawn.lines), drawn.dots)


def test_without_a_reading_there_is_nothing_to_draw() -> None:
    """Also when all that is known lies outside."""
    assert ((), (), None) == ((drawn := plot([(-5.0, 1.0)], 0.0, 60.0, gap=60.0)).lines, drawn.dots, drawn.latest)


@pytest.mark.parametrize(("largest", "top"), [(0, 1), (0.5, 1), (1, 1), (1.1, 2), (4, 5), (9, 10), (51, 100), (101, 200)])
def test_the_box_ends_at_a_round_number(largest: float, top: float) -> None:
    """So that its height says something."""
    assert top == plot([(0.0, largest)], 0.0, 60.0, gap=60.0).most


@given(
    st.lists(st.tuples(st.floats(0, 900), st.floats(-1e9, 1e9)), max_size=50),
    st.floats(-1e9, 1e9) | st.none(),
)
def test_nothing_lies_outside_the_box(points: list[tuple[float, float]], threshold: float | None) -> None:
    """Whatever the values, and a threshold below all of them."""
    drawn = plot(sorted(points), 0.0, 900.0, gap=60.0, threshold=threshold)
    places = [tuple(map(float, each.split(","))) for line in drawn.lines for each in line.split()]
    for x, y in [*places, *drawn.dots, *([] if drawn.threshold is None else [(0.0, drawn.threshold)])]:
        assert -0.1 <= x <= WIDTH + 0.1
        assert -0.1 <= y <= HEIGHT + 0.1
        assert math.isfinite(y)
