"""A database that cannot be used is told once, to everyone, with what they would not hear of otherwise, and so is its end."""

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from service.monitor.delivery import EVERYONE
from service.monitor.outbox import Entry
from service.monitor.trouble import PATIENCE, Trouble
from service.monitor.unsaved import Unsaved
from tests.conftest import Lines
from tests.test_outbox import firing

FULL = OperationalError("INSERT INTO alerts VALUES (?)", ("a secret",), sqlite3.OperationalError("database or disk is full"))
FIRST, SECOND = Entry("ops", firing("first")), Entry("ops", firing("second"))


def targets(entries: list[Entry]) -> list[tuple[str, str, str]]:
    return [(entry.receiver, entry.content["status"], entry.content["target"]) for entry in entries]


def test_a_moment_is_nobodys_business() -> None:
    """One failed tick fewer than PATIENCE is told to nobody, and neither is its end."""
    trouble = Trouble("")
    for number in range(PATIENCE - 1):
        assert [] == trouble.failed(FULL, Unsaved(announced=[FIRST]), [FIRST], float(number))

    assert [] == trouble.ended(10.0)


def test_told_once_with_all_that_is_not_stored_then_only_what_is_new() -> None:
    """First the failure and everything unsaved, after it what each tick brings, and at last the end of the failure."""
    trouble, unsaved = Trouble("here"), Unsaved(announced=[FIRST])
    told = [trouble.failed(FULL, unsaved, [FIRST] if not number else [], 100.0 + number) for number in range(PATIENCE)]
    assert [(EVERYONE, "firing", "monitor"), ("ops", "firing", "first")] == targets(told[-1])
    unsaved.announced.append(SECOND)
    assert [("ops", "firing", "second")] == targets(trouble.failed(FULL, unsaved, [SECOND], 150.0))
    assert [] == trouble.failed(FULL, unsaved, [], 160.0)

    (end,) = trouble.ended(200.0)
    assert [(EVERYONE, "resolved", "monitor")] == targets([end])
    assert told[-1][0].content["occurrence"] == end.content["occurrence"]
    assert [] == trouble.ended(210.0)
    assert [] == trouble.failed(FULL, unsaved, [], 220.0)  # and it counts anew


@pytest.mark.parametrize("set_by", [-86_400.0, 0.0, 86_400.0])
def test_its_end_says_how_long_it_was(set_by: float) -> None:
    """Wherever the clock was set meanwhile."""
    trouble = Trouble("")
    for _ in range(PATIENCE):
        trouble.failed(FULL, Unsaved(), [], 100_000.0)
    trouble.move(set_by)
    (end,) = trouble.ended(100_041.0 + set_by)

    assert end.content["summary"].startswith("Resolved after 41 s: ")


def test_a_file_that_was_moved_aside_is_told_at_once() -> None:
    """With its new name, and without waiting for a second tick."""
    (said,) = Trouble("").failed(FULL, Unsaved(), [], 100.0, Path("/data/tocsin.db.corrupt-1"))

    assert "moved to tocsin.db.corrupt-1, and a new one is begun" in said.content["summary"]


def test_a_reason_of_our_own_is_told_in_its_words() -> None:
    """Tables of a newer version are no fault of SQLite's: people read what to do."""
    (said,) = Trouble("").failed(SQLAlchemyError("its tables are of a newer version"), Unsaved(), [], 100.0, Path("kept"))

    assert said.content["reason"].startswith("its tables are of a newer version")


@pytest.mark.parametrize("failed", [1, 5])
def test_the_log_says_it_once_and_without_statement_or_values(failed: int, lines: Lines) -> None:
    """One error, one line when people are told, one when it is over; none of them repeats what was to be written."""
    trouble = Trouble("")
    told = [trouble.failed(FULL, Unsaved(), [], 100.0) for _ in range(failed)]
    trouble.ended(200.0)
    said = lines()

    assert ["error", *["critical"] * (failed >= PATIENCE), "info"] == [line["log.level"] for line in said]
    assert str(failed) == said[-1]["labels.failed_ticks"]
    assert "database or disk is full" == said[0]["error.message"]
    assert not any("secret" in repr(each) or "INSERT" in repr(each) for each in [said, told])
