"""Long lists in pages: newest first, each page found by where the one before it ended, however much comes in meanwhile."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, tuple_

Position = Sequence[str | float]
LARGEST = 2**63  # beyond any number in the database
Equal = tuple[ColumnElement[Any], str | None]


class PositionError(ValueError):
    """This is no position in this list."""


def page(
    connection: Connection, query: Select[Any], keys: Sequence[ColumnElement[Any]], limit: int, after: Position | None
) -> tuple[Sequence[Row[Any]], Position | None]:
    """So many rows behind a position, sorted by `keys`, the largest first; and the position of the last, None at the end.

    The keys together are of one row alone. Raises PositionError.
    """
    query = query.add_columns(*(key.label(f"key_{number}") for number, key in enumerate(keys)))
    if after is not None:
        if len(after) != len(keys) or not all(map(_fits, after, keys)):
            raise PositionError("is no `next` of this list")
        query = query.where(tuple_(*keys) < tuple_(*after))
    rows = connection.execute(query.order_by(*(key.desc() for key in keys)).limit(limit + 1)).all()
    if len(rows) <= limit:
        return rows, None
    rows = rows[:limit]
    return rows, [getattr(rows[-1], f"key_{number}") for number in range(len(keys))]


def _fits(value: object, key: ColumnElement[Any]) -> bool:
    """Whether the database can compare them."""
    if key.type.python_type is str:
        return isinstance(value, str) and value.isprintable()
    return isinstance(value, int | float) and abs(value) < LARGEST


def narrowed(
    query: Select[Any],
    *equal: Equal,
    at: ColumnElement[float] | None = None,
    since: float | None = None,
    until: float | None = None,
) -> Select[Any]:
    """Only what has these values, and lies at `since` or after it and before `until`. None asks for nothing."""
    query = query.where(*(column == value for column, value in equal if value is not None))
    if at is not None and since is not None:
        query = query.where(at >= since)
    if at is not None and until is not None:
        query = query.where(at < until)
    return query
