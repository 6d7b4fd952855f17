"""Maintenance windows: by the clock on the wall, past midnight, and where that clock is put forward or back."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.configuration import DAYS
from tests.simulation import window

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str, zone: ZoneInfo | None = None, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone or UTC, fold=fold).timestamp()


@pytest.mark.parametrize(
    ("fields", "moment", "holds"),
    [
        # 2023-11-14 is a Tuesday.
        ({"from": "22:00", "until": "23:00"}, "2023-11-14T21:59:59", False),
        ({"from": "22:00", "until": "23:00"}, "2023-11-14T22:00:00", True),
        ({"from": "22:00", "until": "23:00"}, "2023-11-14T22:59:59", True),
        ({"from": "22:00", "until": "23:00"}, "2023-11-14T23:00:00", False),
        ({"from": "22:00", "until": "23:00", "days": ["tue"]}, "2023-11-14T22:30:00", True),
        ({"from": "22:00", "until": "23:00", "days": ["mon", "wed"]}, "2023-11-14T22:30:00", False),
        # Past midnight it belongs to the day it began on.
        ({"from": "22:00", "until": "02:00", "days": ["mon"]}, "2023-11-14T01:59:59", True),
        ({"from": "22:00", "until": "02:00", "days": ["mon"]}, "2023-11-14T02:00:00", False),
        ({"from": "22:00", "until": "02:00", "days": ["mon"]}, "2023-11-14T22:00:00", False),
        ({"from": "22:00", "until": "02:00", "days": ["tue"]}, "2023-11-14T22:00:00", True),
        ({"from": "22:00", "until": "02:00", "days": ["tue"]}, "2023-11-14T01:00:00", False),
        ({"from": "22:00", "until": "02:00", "days": ["sun"]}, "2023-11-13T01:00:00", True),  # the week goes round
        ({"from": "00:00", "until": "23:59"}, "2023-11-14T00:00:00", True),
        ({"from": "23:59", "until": "00:00"}, "2023-11-14T23:59:30", True),
        ({"from": "23:59", "until": "00:00"}, "2023-11-14T00:00:00", False),
        # The clock of the zone counts, and its day: 23:30 UTC on Tuesday is Wednesday in Berlin.
        ({"from": "00:00", "until": "01:00", "timezone": "Europe/Berlin", "days": ["wed"]}, "2023-11-14T23:30:00", True),
        ({"from": "00:00", "until": "01:00", "timezone": "Europe/Berlin", "days": ["tue"]}, "2023-11-14T23:30:00", False),
    ],
)
def test_a_window_holds_by_its_days_and_times(fields: dict[str, object], moment: str, holds: bool) -> None:
    """From its beginning to before its end, on the days on which it begins, by the clock of its time zone."""
    assert holds is window(**fields).holds(at(moment))


@pytest.mark.parametrize(
    ("moment", "fold", "holds"),
    [
        # On 2024-03-31 the clock goes from 02:00 to 03:00: half past two does not exist, and the window ends with it.
        ("2024-03-31T01:59:59", 0, True),
        ("2024-03-31T03:00:00", 0, False),
        # On 2024-10-27 it goes from 03:00 back to 02:00: the window holds both times.
        ("2024-10-27T02:30:00", 0, True),
        ("2024-10-27T02:30:00", 1, True),
        ("2024-10-27T03:00:00", 0, False),
    ],
)
def test_a_window_follows_the_clock_on_the_wall_when_that_is_changed(moment: str, fold: int, holds: bool) -> None:
    """In both directions a window from one to three in the night is over when the clock says three."""
    nightly = window(**{"from": "01:00", "until": "03:00", "timezone": "Europe/Berlin"})

    assert holds is nightly.holds(at(moment, BERLIN, fold))


MINUTES = st.integers(0, 1439)


@given(
    start=MINUTES,
    end=MINUTES,
    days=st.sets(st.sampled_from(DAYS), min_size=1),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Asia/Kathmandu"]),
    now=st.integers(0, 4_000_000_000),
)
def test_it_agrees_with_going_through_its_minutes(start: int, end: int, days: set[str], zone: str, now: int) -> None:
    """A window holds when one of its minutes, counted from its beginning on one of its days, is what the clock shows."""
    if start == end:
        end = (end + 1) % 1440
    clock = [f"{minute // 60:02}:{minute % 60:02}" for minute in (start, end)]
    fields = {"from": clock[0], "until": clock[1], "days": sorted(days), "timezone": zone}
    there = datetime.fromtimestamp(now, ZoneInfo(zone)).replace(tzinfo=None, second=0)
    expected = False
    for before in (0, 1):
        begins = (there - timedelta(days=before)).replace(hour=start // 60, minute=start % 60)
        lasts = {begins + timedelta(minutes=minute) for minute in range((end - start) % 1440)}
        expected |= there in lasts and DAYS[begins.weekday()] in days

    assert expected is window(**fields).holds(now)
