"""What happened of late, from totals that only grow: told once, by whichever worker, and over by itself."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.recent import LASTING, NAME, Kills, OomKills, Throttling
from tests.stack import ROOT

NOW = 5000.0


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        ([(0, 10, 5)], None),
        ([(0, 10, 5), (1, 20, 5)], 0.0),
        ([(0, 10, 5), (1, 20, 10)], 50.0),
        ([(0, 10, 5), (1, 20, 15)], 100.0),
        ([(0, 10, 5), (1, 10, 5)], 0.0),  # idle: no periods
        ([(0, 0, 0), (5, 50, 50), (12, 100, 50), (15, 150, 50)], 0.0),  # of the last ten seconds
        ([(0, 0, 0), (4, 50, 50), (12, 100, 50)], 50.0),  # what lies across their beginning counts
        ([(0, 100, 50), (1, 3, 3)], None),  # a group that began anew
        ([(0, 100, 50), (1, 3, 3), (2, 5, 4)], 50.0),
        ([(0, 10, 5), (1, 12, 9)], 100.0),  # two files are read at two moments
    ],
)
def test_throttling_is_the_share_of_the_last_periods(looks: list[tuple[float, int, int]], expected: float | None) -> None:
    """In percent of the periods of ten seconds; None before there are two looks."""
    throttling = Throttling()
    assert expected == [throttling.percent(*look) for look in looks][-1]


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 1000), st.integers(0, 1000)), max_size=30))
def test_throttling_is_a_percentage_or_none(looks: list[tuple[float, int, int]]) -> None:
    throttling = Throttling()
    for look in looks:
        found = throttling.percent(*look)
        assert found is None or 0 <= found <= 100


@pytest.mark.parametrize(
    ("known", "total", "expected"),
    [
        (Kills(), 0, Kills()),
        (Kills(), 2, Kills(2, ((NOW, 2),))),
        (Kills(2), 2, Kills(2)),
        (Kills(2, ((NOW - 1, 2),)), 2, Kills(2, ((NOW - 1, 2),))),
        (Kills(2, ((NOW - 1, 2),)), 3, Kills(3, ((NOW - 1, 2), (NOW, 1)))),
        (Kills(2, ((NOW - LASTING, 2),)), 2, Kills(2)),
        (Kills(2, ((NOW - LASTING, 2),)), 3, Kills(3, ((NOW, 1),))),
        (Kills(7, ((NOW - 1, 2),)), 0, Kills(0, ((NOW - 1, 2),))),  # the group began anew
        (Kills(7), 1, Kills(1, ((NOW, 1),))),
        (Kills(2, ((NOW + 1, 2),)), 2, Kills(2)),  # the machine did
    ],
)
def test_kills_count_from_when_they_were_seen_for_ten_minutes(known: Kills, total: int, expected: Kills) -> None:
    assert expected == known.then(total, NOW)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 3)), max_size=40))
def test_each_kill_counts_once_and_not_for_ever(steps: list[tuple[int, int]]) -> None:
    """Whatever is killed when: those of the last ten minutes are told, no others."""
    known, now, total, seen = Kills(), 0, 0, []
    for pause, more in steps:
        now, total = now + pause, total + more
        seen.append((now, more))
        known = known.then(total, now)
        assert sum(number for at, number in seen if now - LASTING < at) == known.number
    assert Kills(total) == known.then(total, now + LASTING)


def test_what_one_worker_has_seen_its_successor_knows(tmp_path: Path) -> None:
    """At the very first look all are of now; then each is told once, whoever looks, also one that has just started."""
    first, second = OomKills(tmp_path), OomKills(tmp_path)
    assert [0, 0] == [first.lately(lambda: 0), second.lately(lambda: 0)]
    assert [2, 2, 2] == [first.lately(lambda: 2), second.lately(lambda: 2), OomKills(tmp_path).lately(lambda: 2)]
    assert [3, 3] == [second.lately(lambda: 3), first.lately(lambda: 3)]
    assert [NAME] == [file.name for file in tmp_path.iterdir()]
    (tmp_path / NAME).unlink()
    assert 5 == OomKills(tmp_path).lately(lambda: 5)


def test_what_is_long_past_is_not_told_by_a_worker_that_starts(tmp_path: Path) -> None:
    """The total stays, and says nothing any more; the next kill is told anew."""
    past = time.monotonic() - LASTING
    (tmp_path / NAME).write_text(f'{{"total": 2, "seen": [[{past}, 2]]}}')
    assert 0 == OomKills(tmp_path).lately(lambda: 2)
    assert 1 == OomKills(tmp_path).lately(lambda: 3)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"total": 1}', '{"total": "x", "seen": []}', '{"total": 1, "seen": [1]}'])
def test_a_file_that_is_not_ours_is_as_good_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text)
    assert [4, 4] == [OomKills(tmp_path).lately(lambda: 4) for _ in range(2)]


def test_without_a_place_for_the_file_each_process_tells_what_it_sees(tmp_path: Path) -> None:
    """Old kills are not told again by each new worker. When there is a place, what was seen is kept there."""
    kills = OomKills(tmp_path / "later")
    assert [0, 0, 1, 1] == [kills.lately(lambda total=total: total) for total in (3, 3, 4, 4)]  # type: ignore[misc]
    assert 0 == OomKills(tmp_path / "later").lately(lambda: 4)
    (tmp_path / "later").mkdir()
    assert [1, 1] == [kills.lately(lambda: 4), OomKills(tmp_path / "later").lately(lambda: 4)]


def test_a_file_that_can_no_longer_be_written_does_not_repeat_a_kill(tmp_path: Path) -> None:
    """A kill that could not be noted is of when it was seen, and not of each look after that."""
    kills = OomKills(tmp_path / "runtime")
    (tmp_path / "runtime").mkdir()
    assert 1 == kills.lately(lambda: 1)
    (tmp_path / "runtime").rename(tmp_path / "old")
    (tmp_path / "runtime").symlink_to("old")
    (tmp_path / "old" / f"{NAME}.{os.getpid()}").mkdir()  # where it would write
    assert [2, 2, 2] == [kills.lately(lambda: 2) for _ in range(3)]
    assert '{"total":1' == (tmp_path / "old" / NAME).read_text()[:10]


def test_a_file_that_is_there_and_cannot_be_read_is_a_fault(tmp_path: Path) -> None:
    """As without a free descriptor: it must not look like the first look of all."""
    (tmp_path / NAME).mkdir()
    with pytest.raises(OSError):
        OomKills(tmp_path).lately(lambda: 3)


def test_a_look_that_another_process_overtakes_counts_nothing_twice(tmp_path: Path) -> None:
    """The file is read before the total: a total that is older than the file would look like a group that began anew."""
    kills, other = OomKills(tmp_path), OomKills(tmp_path)

    def overtaken() -> int:
        other.lately(lambda: 2)
        return 1

    assert [1, 2] == [kills.lately(overtaken), kills.lately(lambda: 2)]


def test_the_file_is_put_in_its_place_whole(tmp_path: Path) -> None:
    """Who reads it at that moment has all of the old one: half of one would be no file of ours, and tell old kills again."""
    OomKills(tmp_path).lately(lambda: 1)
    before = (tmp_path / NAME).read_bytes()
    with (tmp_path / NAME).open("rb") as file:
        OomKills(tmp_path).lately(lambda: 2)
        assert before == file.read() != (tmp_path / NAME).read_bytes()


LOOKS = """
import sys, time
from pathlib import Path
from service.recent import OomKills
end = time.monotonic() + 30
total, kills, said = Path(sys.argv[1]) / "total", OomKills(Path(sys.argv[1])), [0]
while said[-1] < 50 and time.monotonic() < end:
    said.append(kills.lately(lambda: int(total.read_text())))
print(said == sorted(said) and said[-1] == 50)
"""


def test_processes_that_look_at_once_tell_each_kill_once(tmp_path: Path) -> None:
    """The total grows while four look again and again: each goes up to how many there were, and never beyond."""
    (tmp_path / "total").write_text("0")
    command = [sys.executable, "-c", LOOKS, str(tmp_path)]
    running = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for total in range(1, 51):
        (tmp_path / "new").write_text(str(total))
        (tmp_path / "new").replace(tmp_path / "total")
        time.sleep(0.02)
    assert ["True\n"] * 4 == [each.communicate(timeout=60)[0] for each in running]
    assert 50 == OomKills(tmp_path).lately(lambda: 50)
