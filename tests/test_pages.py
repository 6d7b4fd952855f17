"""Lists in pages: put together they are the whole list, in order, whatever comes in between two of them."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as bounded
from hypothesis import strategies as st
from sqlalchemy import Engine, StaticPool, create_engine, delete, insert, select

from service import pages
from service.pages import Position, PositionError, narrowed
from service.tables import metadata, silences

KEYS = [silences.c.created, silences.c.id]
TIMES = st.sampled_from([0.0, 0.1, 1.0, 1_792_150_860.412, 1_792_150_860.413])  # few: many are of one time


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = create_engine("sqlite://", poolclass=StaticPool)
    metadata.create_all(engine)
    yield engine
    engine.dispose()


def row(identity: str, created: float) -> dict[str, Any]:
    times = dict.fromkeys(("starts", "ends", "created", "updated"), created)
    return {"id": identity, "matchers": [], "author": "ann", "comment": "", **times}


def newest_first(rows: dict[str, float]) -> list[str]:
    return sorted(rows, key=lambda identity: (rows[identity], identity), reverse=True)


@bounded(deadline=None)
@given(
    rows=st.dictionaries(st.text("abc", min_size=1, max_size=4), TIMES, max_size=12),
    added=st.dictionaries(st.text("def", min_size=1, max_size=4), TIMES, max_size=6),
    limit=st.integers(1, 5),
)
def test_pages_together_are_the_list(engine: Engine, rows: dict[str, float], added: dict[str, float], limit: int) -> None:
    """None is left out and none comes twice, also of those of one time, and though rows are added after each page."""
    with engine.begin() as connection:
        connection.execute(delete(silences))
        for identity, created in rows.items():
            connection.execute(insert(silences).values(row(identity, created)))
        seen: list[str] = []
        position: Position | None = None
        waiting = list(added.items())
        while True:
            found, position = pages.page(connection, select(silences), KEYS, limit, position)
            seen += [each.id for each in found]
            if waiting:
                connection.execute(insert(silences).values(row(*waiting.pop())))
            if position is None:
                break
            assert limit == len(found)
        assert newest_first(rows) == [identity for identity in seen if identity in rows]
        assert len(seen) == len(set(seen))
        assert seen == newest_first({identity: {**rows, **added}[identity] for identity in seen})


@pytest.mark.parametrize(
    "position",
    [[], [1.0], [1.0, "a", "b"], ["a", "b"], [1.0, 2.0], [1.0, None], [True, ["a"]], [1.0, "\x00"], [1e300, "a"], [2**64, "a"]],
    ids=str,
)
def test_what_is_no_position_is_refused(engine: Engine, position: Position) -> None:
    """A list of something else, or of what the database cannot compare."""
    with engine.begin() as connection, pytest.raises(PositionError):
        pages.page(connection, select(silences), KEYS, 10, position)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, "cba"),
        ({"since": 2.0}, "cb"),
        ({"until": 2.0}, "a"),
        ({"since": 2.0, "until": 3.0}, "b"),
        ({"since": 3.0, "until": 2.0}, ""),
    ],
    ids=str,
)
def test_a_period_has_its_start_and_not_its_end(engine: Engine, wanted: dict[str, float], expected: str) -> None:
    """`since` is within, `until` is not, and what is None asks for nothing."""
    with engine.begin() as connection:
        connection.execute(delete(silences))
        for identity, created in (("a", 1.0), ("b", 2.0), ("c", 3.0)):
            connection.execute(insert(silences).values(row(identity, created)))
        query = narrowed(select(silences), (silences.c.author, None), at=silences.c.created, **wanted)
        found, _ = pages.page(connection, query, KEYS, 10, None)
        assert list(expected) == [each.id for each in found]
        none, _ = pages.page(connection, narrowed(query, (silences.c.author, "ben")), KEYS, 10, None)
        assert not none
