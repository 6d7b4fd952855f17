"""What is kept for how long, and deleting what is older. docs/history.md has the rest of it."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Engine, Table, and_, delete, exists, select, tuple_

from service import database, readings
from service.configuration import Keep
from service.readings import HOUR, MINUTE, Series
from service.tables import alerts, messages, notifications, occurrences, reports, restarts, runs, silences

AT_ONCE = 2000  # rows in one transaction: some milliseconds
PAUSE = 0.02  # seconds between two of them, in which the monitor's tick and the web have their turn


def prune(
    engine: Engine, keep: Keep, now: float, *, stopping: Callable[[], bool] = lambda: False, pause: float = PAUSE
) -> dict[str, int]:
    """Delete what is older than `keep` says; how many rows of what.

    What still fires, waits or runs is left alone. `stopping` is asked now and then; what is left is for the next time.
    Raises SQLAlchemyError.
    """
    deleted: dict[str, int] = {}
    for name, some in _deleting(engine, keep, now):
        deleted.setdefault(name, 0)
        while not stopping() and (number := some()):
            deleted[name] += number
            time.sleep(pause)
    return deleted


def _deleting(engine: Engine, keep: Keep, now: float) -> Iterator[tuple[str, Callable[[], int]]]:
    """What there is to delete, and for each what deletes some of it; how many, 0 when nothing is left."""
    with database.reading(engine) as connection:
        every = list(readings.every(connection))
    for name, step, kept in (("minutes", MINUTE, keep.minutes), ("hours", HOUR, keep.hours)):
        before = (now - kept) // HOUR * HOUR  # by whole hours, so that no question finds half of one
        yield from ((name, partial(_prune, engine, series, step, before)) for series in every)
    yield from ((table.name, partial(_delete, engine, table, old)) for table, old in _old(now - keep.history))


def _old(before: float) -> Iterator[tuple[Table, ColumnElement[bool]]]:
    # What was told as firing gets its end, however long that takes.
    fires = exists().where(occurrences.c.id == notifications.c.occurrence, occurrences.c.ended.is_(None))
    over = ~notifications.c.waiting, ~fires
    yield notifications, and_(notifications.c.changed < before, *over)
    yield messages, messages.c.delivered < before
    yield occurrences, occurrences.c.ended < before
    yield alerts, and_(alerts.c.state == "inactive", alerts.c.since < before)
    yield restarts, restarts.c.started < before
    yield reports, reports.c.ended < before
    yield runs, runs.c.ended < before
    yield silences, silences.c.ends < before


def _prune(engine: Engine, series: Series, step: int, before: float) -> int:
    with database.checked(), database.reading(engine) as connection:
        kept = readings.span(connection, series, step)
    if kept is None or kept[0] >= before:
        return 0  # without the lock
    with engine.begin() as connection:
        return readings.prune(connection, series, step, before, AT_ONCE)


def _delete(engine: Engine, table: Table, old: ColumnElement[bool]) -> int:
    """Some of them. They are looked for before the lock is taken, and looked at again with it."""
    key: ColumnElement[Any] = tuple_(*table.primary_key.columns)
    with database.checked(), database.reading(engine) as connection:
        found = [tuple(row) for row in connection.execute(select(*table.primary_key.columns).where(old).limit(AT_ONCE))]
    if not found:
        return 0
    with engine.begin() as connection:
        return connection.execute(delete(table).where(key.in_(found), old)).rowcount
