"""Minutes and hours of readings in a real database: sums that stay, and seams where nothing counts twice."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as bounded
from hypothesis import strategies as st
from sqlalchemy import Engine, delete, select

from service import readings
from service.configuration import Keep
from service.database import connect, reading
from service.history import prune
from service.readings import HOUR, MINUTE, Bucket, Series
from service.tables import readings as table

CPU = Series("self", "cpu_usage")
START = 1_792_108_800  # an hour's beginning, and a day's
SAMPLES = st.lists(
    st.tuples(st.integers(0, 239), st.floats(-1000, 1000, allow_nan=False, allow_subnormal=False)), min_size=1, max_size=60
)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = connect(f"sqlite:///{tmp_path}/tocsin.db")
    yield engine
    engine.dispose()


def bucket(minute: int, *values: float, series: Series = CPU) -> Bucket:
    """The minute of this number, counted from START."""
    made = Bucket(series, START + minute * MINUTE)
    for value in values:
        made.add(value)
    return made


def put(engine: Engine, *buckets: Bucket) -> None:
    with engine.begin() as connection:
        readings.put(connection, buckets)


def rows(engine: Engine, step: int) -> list[tuple[Any, ...]]:
    row = table.c
    columns = (row.target, row.metric, row.mount, row.at, row["count"], row.total, row.least, row.most, row.minutes)
    with reading(engine) as connection:
        found = connection.execute(select(*columns).where(row.step == step).order_by(*columns[:4]))
        return [tuple(each) for each in found]


def points(engine: Engine, since: int, until: int, step: int, series: Series = CPU) -> list[tuple[int, float, int]]:
    """When each begins, counted in minutes from START, its mean, and how many samples it has."""
    with reading(engine) as connection:
        found = readings.points(connection, series, START + since * MINUTE, START + until * MINUTE, step)
    return [((point.at - START) // MINUTE, round(point.mean, 6), point.samples) for point in found]


def test_a_minute_that_comes_in_parts_is_one(engine: Engine) -> None:
    """A monitor that is started again within a minute completes it; the minute, and the hour, count it once."""
    put(engine, bucket(61, 1, 9), bucket(62, 4))
    put(engine, bucket(61, 5))

    assert [
        ("self", "cpu_usage", "", START + 61 * 60, 3, 15.0, 1.0, 9.0, 1),
        ("self", "cpu_usage", "", START + 62 * 60, 1, 4.0, 4.0, 4.0, 1),
    ] == rows(engine, MINUTE)
    assert [("self", "cpu_usage", "", START + HOUR, 4, 19.0, 1.0, 9.0, 3)] == rows(engine, HOUR)


@bounded(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(samples=SAMPLES, seed=st.integers())
def test_hours_are_the_sum_of_their_minutes(engine: Engine, samples: list[tuple[int, float]], seed: int) -> None:
    """However samples are cut into minutes, in any order: no sample is lost or counted twice, least and most are theirs."""
    with engine.begin() as connection:
        connection.execute(delete(table))
    buckets = [bucket(minute, value) for minute, value in samples]
    random.Random(seed).shuffle(buckets)
    for number in range(0, len(buckets), 7):
        put(engine, *buckets[number : number + 7])
    hours = {row[3]: row for row in rows(engine, HOUR)}

    expected: dict[int, list[float]] = {}
    for minute, value in samples:
        expected.setdefault(START + minute // 60 * HOUR, []).append(value)
    assert set(expected) == set(hours)
    for at, values in expected.items():
        count, total, least, most, minutes = hours[at][4:]
        assert (len(values), min(values), max(values)) == (count, least, most)
        assert total == pytest.approx(sum(values), abs=1e-6)
        assert minutes <= 60
    assert len(samples) == sum(row[4] for row in rows(engine, MINUTE))


@pytest.mark.parametrize(
    ("since", "until", "step", "expected"),
    [
        (0, 5, 60, [(0, 1.0, 1), (1, 2.0, 1), (4, 5.0, 1)]),
        (1, 4, 60, [(1, 2.0, 1)]),
        (0, 5, 120, [(0, 1.5, 2), (4, 5.0, 1)]),
        (1, 5, 120, [(0, 1.5, 2), (4, 5.0, 1)]),  # a step that has begun is told as a whole
        (0, 180, 3600, [(0, 8 / 3, 3), (120, 7.0, 1)]),
        (0, 180, 7200, [(0, 8 / 3, 3), (120, 7.0, 1)]),
        (0, 180, 86_400, [(0, 3.75, 4)]),
        (5, 100, 60, []),
    ],
)
def test_points_in_steps(engine: Engine, since: int, until: int, step: int, expected: list[tuple[int, float, int]]) -> None:
    """Each step has the mean of its samples; one without a sample is left out."""
    put(engine, bucket(0, 1), bucket(1, 2), bucket(4, 5), bucket(125, 7))
    assert [(at, round(mean, 6), samples) for at, mean, samples in expected] == points(engine, since, until, step)


def test_nothing_counts_twice_where_minutes_end(engine: Engine) -> None:
    """When the older minutes are gone their hours stand in for them, up to the hour with which the minutes begin."""
    put(engine, *(bucket(minute, minute) for minute in range(300)))
    put(engine, *(bucket(minute, 1, series=Series("self", "up")) for minute in range(300)))
    deleted = prune(engine, Keep.model_construct(minutes=2.5 * HOUR), START + 300 * MINUTE)

    assert 2 * 120 == deleted["minutes"]
    found = points(engine, 0, 300, MINUTE)
    assert [(0, 29.5, 60), (60, 89.5, 60)] == found[:2]
    assert [(minute, float(minute), 1) for minute in range(120, 300)] == found[2:]
    assert 300 == sum(samples for _, _, samples in points(engine, 0, 300, 300))
    assert [(60, 89.5, 60), (120, 120.0, 1)] == points(engine, 90, 121, MINUTE)
    assert 5 == len(points(engine, 0, 300, HOUR))


def test_what_there_is_is_found_without_reading_it_all(engine: Engine) -> None:
    """Every series once, in order; of one target; and behind one."""
    every = [
        Series(target, metric, mount) for target in ("a", "b") for metric in ("mount_usage", "up") for mount in ("", "/", "/é")
    ]
    put(
        engine, *(bucket(minute, 1, series=series) for series in random.Random(1).sample(every, len(every)) for minute in (0, 90))
    )
    with reading(engine) as connection:
        assert every == list(readings.every(connection))
        assert every[6:] == list(readings.every(connection, "b"))
        assert every[8:] == list(readings.every(connection, "b", every[7]))
        assert [] == list(readings.every(connection, "c"))
        assert (START, START + HOUR) == readings.span(connection, every[0])
        assert readings.span(connection, Series("c", "up")) is None


def test_the_last_minutes_for_the_page(engine: Engine) -> None:
    """By metric, the means of the minutes since a time, of one target and no single disk."""
    disk = Series("self", "mount_usage", "/")
    put(
        engine,
        bucket(0, 1, 3),
        bucket(1, 4),
        bucket(2, 5),
        bucket(1, 9, series=disk),
        bucket(1, 7, series=Series("shop", "cpu_usage")),
    )
    with reading(engine) as connection:
        found = readings.recent(connection, "self", ("cpu_usage", "mount_usage"), START + MINUTE)

    assert {"cpu_usage": [(START + 60, 4.0), (START + 120, 5.0)]} == found
