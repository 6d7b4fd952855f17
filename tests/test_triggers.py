"""When a job is due: crontab's words, time zones and their changes, bounds, jitter, and what is never due."""

import subprocess
import sys
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from service.crontab import DAYS, weekdays
from service.triggers import Trigger, never, overtaken
from service.values import iso, seconds

TRIGGER: TypeAdapter[Trigger] = TypeAdapter(Trigger)
HOUR, DAY = 3600.0, 86_400.0
# Clocks that change at 2 o'clock, at midnight, by half an hour, and never.
ZONES = ["Europe/Zurich", "America/New_York", "Asia/Beirut", "Australia/Lord_Howe", "UTC", "Asia/Kathmandu"]


def trigger(**said: object) -> Trigger:
    return TRIGGER.validate_python(said)


def cron(text: str, zone: str = "Europe/Zurich", **more: object) -> Trigger:
    return trigger(type="cron", cron=text, timezone=zone, **more)


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def following(found: Trigger, after: str, number: int, zone: str = "Europe/Zurich") -> list[str]:
    """The next times by the clock on the wall, with its distance from UTC."""
    now, times = at(after), []
    for _ in range(number):
        due = found.due(now, now, 0.0)
        if due is None:
            break
        assert due > now
        now = due
        times.append(datetime.fromtimestamp(now, ZoneInfo(zone)).strftime("%a %d %H:%M%z"))
    return times


@pytest.mark.parametrize(
    ("text", "after", "times"),
    [
        ("0 8 * * mon", "2026-10-16T12:00Z", ["Mon 19 08:00+0200", "Mon 26 08:00+0100"]),
        ("0 8 * * 1", "2026-10-16T12:00Z", ["Mon 19 08:00+0200", "Mon 26 08:00+0100"]),  # crontab's Monday
        ("0 8 * * 0", "2026-10-16T12:00Z", ["Sun 18 08:00+0200", "Sun 25 08:00+0100"]),
        ("0 8 * * 7", "2026-10-16T12:00Z", ["Sun 18 08:00+0200", "Sun 25 08:00+0100"]),
        ("0 8 1 * *", "2026-10-16T12:00Z", ["Sun 01 08:00+0100", "Tue 01 08:00+0100"]),
        ("0 8 31 * *", "2026-10-16T12:00Z", ["Sat 31 08:00+0100", "Thu 31 08:00+0100"]),  # November has none
        ("*/30 9-10 * * mon-fri", "2026-10-16T08:15Z", ["Fri 16 10:30+0200", "Mon 19 09:00+0200"]),
        ("0 0 29 feb *", "2026-10-16T12:00Z", ["Tue 29 00:00+0100", "Sun 29 00:00+0100"]),
        # The clock is put forward at 02:00 on 29 March.
        ("30 2 * * *", "2026-03-28T00:00Z", ["Sat 28 02:30+0100", "Sun 29 03:30+0200", "Mon 30 02:30+0200"]),
        ("0 2 * * *", "2026-03-28T00:00Z", ["Sat 28 02:00+0100", "Sun 29 03:00+0200", "Mon 30 02:00+0200"]),
        ("*/30 * * * *", "2026-03-29T00:00Z", ["Sun 29 01:30+0100", "Sun 29 03:00+0200", "Sun 29 03:30+0200"]),
        ("0,30 2-3 * * *", "2026-03-29T00:00Z", ["Sun 29 03:00+0200", "Sun 29 03:30+0200", "Mon 30 02:00+0200"]),
        # It is put back at 03:00 on 25 October.
        ("30 2 * * *", "2026-10-24T00:00Z", ["Sat 24 02:30+0200", "Sun 25 02:30+0200", "Mon 26 02:30+0100"]),
        ("0 3 * * *", "2026-10-24T00:00Z", ["Sat 24 03:00+0200", "Sun 25 03:00+0100", "Mon 26 03:00+0100"]),
        ("30 * * * *", "2026-10-25T00:00Z", ["Sun 25 02:30+0200", "Sun 25 02:30+0100", "Sun 25 03:30+0100"]),
        ("30 2 * * *", "2026-10-25T01:10Z", ["Mon 26 02:30+0100"]),  # in the second of the two hours
    ],
)
def test_cron_is_due(text: str, after: str, times: list[str]) -> None:
    """As crontab has it, by the clock on the wall: a time that comes twice is one, one that is left out comes later."""
    assert times == following(cron(text), after, len(times))


@given(
    text=st.sampled_from(
        ["30 2 * * *", "*/20 * * * *", "15 */3 * * *", "0 0 * * *", "45 1-3 * * sun", "7 0 1 * *", "59 23 * * *"]
    ),
    zone=st.sampled_from(ZONES),
    now=st.floats(at("2026-01-01T00:00Z"), at("2028-01-01T00:00Z")),
    chance=st.floats(0, 1),
)
def test_cron_moves_on(text: str, zone: str, now: float, chance: float) -> None:
    """Whenever it is asked, in any zone: the next is later, one of its minutes, and the one after it is another minute."""
    found = cron(text, zone)
    due = found.due(now, now, chance)
    assert due is not None
    again = found.due(due, now, chance)
    assert again is not None
    assert now < due < again
    assert again - due > 19 * 60
    first, second = (datetime.fromtimestamp(each, ZoneInfo(zone)) for each in (due, again))
    if text.split()[1] != "*":  # a time that comes twice is used once
        assert first.replace(fold=0, tzinfo=None) != second.replace(fold=0, tzinfo=None)
    # However close it is asked, nothing is skipped between.
    assert due == found.due((now + due) / 2, now, chance)


@given(
    every=st.integers(10, 100_000),
    since=st.floats(1.7e9, 1.8e9),
    passed=st.floats(0, 1e7),
    share=st.floats(0, 0.99),
    chance=st.floats(0, 1),
)
def test_an_interval_is_due_within_itself(every: int, since: float, passed: float, share: float, chance: float) -> None:
    """The next is later than now, by the interval and its jitter at most, and asked at that time it is later still."""
    jitter = f"{share * every:.3f}s"
    found = trigger(type="interval", every=f"{every}s", jitter=jitter)
    now = since + passed
    due = found.due(now, since, chance)
    assert due is not None
    assert now < due <= now + every + seconds(jitter) + 0.01
    again = found.due(due, since, chance)
    assert again is not None
    assert due < again <= due + every + seconds(jitter) + 0.01


def test_an_interval_counts_from_its_start() -> None:
    """With `start` its times are those that lie whole intervals from there, else from when the job was made."""
    hourly = trigger(type="interval", every="1h", start="2026-10-16T11:15:00Z")
    assert at("2026-10-16T11:15Z") == hourly.due(at("2026-10-16T09:00Z"), 0.0, 0.0)
    assert at("2026-10-16T13:15Z") == hourly.due(at("2026-10-16T12:15Z"), 0.0, 0.0)
    assert at("2026-10-16T12:40Z") == trigger(type="interval", every="1h").due(
        at("2026-10-16T12:00Z"), at("2026-10-16T10:40Z"), 0.0
    )


@pytest.mark.parametrize(
    ("said", "after", "times"),
    [
        ({"start": "2026-10-20T06:00:00Z"}, "2026-10-16T12:00Z", ["Tue 20 08:00+0200"]),  # at the start itself
        ({"start": "2026-10-20T06:00:01Z"}, "2026-10-16T12:00Z", ["Wed 21 08:00+0200"]),
        ({"end": "2026-10-17T06:00:00Z"}, "2026-10-16T12:00Z", ["Sat 17 08:00+0200"]),  # at the end itself
        ({"end": "2026-10-17T05:59:59Z"}, "2026-10-16T12:00Z", []),
        ({"start": "2026-10-16T00:00:00Z", "end": "2026-10-16T12:00:00Z"}, "2026-10-16T11:00Z", []),
    ],
)
def test_start_and_end_bound_it(said: dict[str, str], after: str, times: list[str]) -> None:
    """Not before the start, not after the end; both are themselves within."""
    assert times == following(cron("0 8 * * *", **said), after, max(1, len(times)))


def test_a_date_is_due_once() -> None:
    """At its time, and never again."""
    once = trigger(type="date", at="2026-10-19T08:00:00+02:00")
    assert at("2026-10-19T06:00Z") == once.due(at("2026-10-16T12:00Z"), 0.0, 0.0)
    assert once.due(at("2026-10-19T06:00Z"), 0.0, 0.0) is None


@pytest.mark.parametrize(("chance", "late"), [(0.0, 0.0), (0.5, 300.0), (1.0, 600.0)])
def test_jitter_is_some_part_of_itself(chance: float, late: float) -> None:
    """A run is late by as much of it as chance says, but not past the end."""
    for said in ({"type": "cron", "cron": "0 8 * * *"}, {"type": "date", "at": "2026-10-17T08:00:00Z"}):
        assert at("2026-10-17T08:00Z") + late == trigger(**said, jitter="10m").due(at("2026-10-16T12:00Z"), 0.0, chance)
    bounded = cron("0 8 * * *", "UTC", jitter="10m", end="2026-10-17T08:04:00Z")
    assert at("2026-10-17T08:00Z") + min(240.0, late) == bounded.due(at("2026-10-16T12:00Z"), 0.0, chance)


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("*", "*"),
        ("mon", "mon"),
        ("MON".lower(), "mon"),
        ("0", "sun"),
        ("7", "sun"),
        ("1-5", "mon,tue,wed,thu,fri"),
        ("mon-fri", "mon,tue,wed,thu,fri"),
        ("sat-sun", "sun,sat"),
        ("fri-mon", "sun,mon,fri,sat"),
        ("5-7", "sun,fri,sat"),
        ("*/2", "sun,tue,thu,sat"),
        ("1-5/2", "mon,wed,fri"),
        ("1,3,sat", "mon,wed,sat"),
        ("0-7", "*"),
        ("mon-mon", "mon"),
        ("1-1", "mon"),
        ("7-7", "sun"),
        ("7-1", "sun,mon"),
        ("7/3", "sun,wed,sat"),
    ],
)
def test_days_of_the_week_are_those_of_crontab(text: str, days: str) -> None:
    """Numbers count from Sunday, ranges may go past Saturday, and 7 is Sunday, too."""
    assert days == weekdays(text)


@given(first=st.sampled_from(range(7)), length=st.integers(1, 6), names=st.booleans())
def test_a_range_of_days_is_its_days(first: int, length: int, *, names: bool) -> None:
    """Every day from the first to the last, however it is written."""
    last = (first + length) % 7
    text = f"{DAYS[first]}-{DAYS[last]}" if names else f"{first}-{last}"
    expected = {DAYS[(first + step) % 7] for step in range(length + 1)}
    assert expected == (set(DAYS) if (found := weekdays(text)) == "*" else set(found.split(",")))


NO_CRON = (
    "is no line of a crontab; write five fields: minute, hour, day of the month, month and day of the week, such as 0 8 * * mon"
)
NO_DURATION = "is not a duration; write a number with ms, s, m, h or d, such as 10s or 1h30m"


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ({"type": "cron", "cron": "@daily"}, NO_CRON),
        ({"type": "cron", "cron": "0 8 * *"}, NO_CRON),
        ({"type": "cron", "cron": "0 0 8 * * mon"}, NO_CRON),
        ({"type": "cron", "cron": "0 8 * * $(id)"}, NO_CRON),
        ({"type": "cron", "cron": "0 8 * * mon\n"}, None),
        ({"type": "cron", "cron": 8}, "is not text"),
        ({"type": "cron", "cron": "61 8 * * *"}, "cannot be read: error validating expression '61'"),
        ({"type": "cron", "cron": "0 8 * * 8"}, "'8' is no day of the week; write one of sun, mon, tue, wed, thu, fri, sat"),
        ({"type": "cron", "cron": "0 8 * * monday"}, "'monday' is no day of the week"),
        ({"type": "cron", "cron": "0 8 13 * fri"}, "names days of the month and of the week"),
        (
            {"type": "cron", "cron": "0 8 * * *", "timezone": "Europe/Zurick"},
            "'Europe/Zurick' is not a time zone; did you mean 'Europe/Zurich'?",
        ),
        ({"type": "cron", "cron": "0 8 * * *", "timezone": "../../etc/passwd"}, "is not a time zone; write one such as"),
        ({"type": "interval", "every": "1h", "start": "2026-10-19T08:00:00"}, "has no zone"),
        ({"type": "date", "at": "2026-10-19T08:00:00"}, "has no zone"),
        ({"type": "date", "at": "2026-10-19T08:00:00", "timezone": "Europe/Zurick"}, "did you mean 'Europe/Zurich'?"),
        ({"type": "cron", "cron": "0 8 * * *", "end": "9999-12-31T23:59:59Z"}, "lies after the year 2199"),
        (
            {"type": "cron", "cron": "0 8 * * *", "start": "2026-10-19T08:00:00Z", "end": "2026-10-18T08:00:00Z"},
            "lies before the start",
        ),
        ({"type": "interval", "every": "9s"}, "is not between 10s and 366d"),
        ({"type": "interval", "every": "367d"}, "is not between 10s and 366d"),
        ({"type": "interval", "every": "10"}, f"'10' {NO_DURATION}"),
        ({"type": "interval", "every": 10}, "is not text"),
        ({"type": "interval", "every": "1m", "jitter": "1m"}, "is not shorter than `every`"),
        ({"type": "interval", "every": "2d", "jitter": "25h"}, "is longer than a day"),
        ({"type": "date", "at": "tomorrow"}, "is not a time; write one such as 2026-10-16T11:41:00Z"),
    ],
)
def test_what_is_no_trigger_is_refused(said: dict[str, object], fault: str | None) -> None:
    """Each with a reason that says what would be right."""
    if fault is None:
        TRIGGER.validate_python(said)
        return
    with pytest.raises(ValidationError) as caught:
        TRIGGER.validate_python(said)
    assert fault in str(caught.value.errors()[0]["msg"])


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ({"type": "cron", "cron": "0 0 30 2 *"}, "is never due"),
        ({"type": "cron", "cron": "0 0 31 4,6,9,11 *"}, "is never due"),
        ({"type": "cron", "cron": "0 8 * * *", "end": "2026-10-16T13:00:00Z"}, "is never due"),
        ({"type": "interval", "every": "1h", "end": "2026-10-16T12:30:00Z"}, "is never due"),
        ({"type": "date", "at": "2026-10-16T12:00:00Z"}, "2026-10-16T12:00:00Z is past"),
        ({"type": "cron", "cron": "0 0 29 2 *"}, ""),
        ({"type": "cron", "cron": "0 8 * * *", "start": "2199-01-01T00:00:00Z"}, ""),
        ({"type": "date", "at": "2026-10-16T12:00:01Z"}, ""),
    ],
)
def test_what_is_never_due_is_told(said: dict[str, object], fault: str) -> None:
    """A date in the past, a day that no month has, an end before the first time: each with the reason."""
    found = never(trigger(**said), at("2026-10-16T12:00Z"))
    assert found.startswith(fault)
    assert bool(found) is bool(fault)


@pytest.mark.parametrize(
    ("text", "jitter", "gap"),
    [
        ("* * * * *", "1m", "1 min"),
        ("* * * * *", "59s", ""),
        ("0 8,9 * * *", "1h", "1 h"),
        ("0 8,9 * * *", "59m", ""),
        ("59,0 23,0 * * *", "1m", "1 min"),  # across midnight
        ("0 8 * * mon", "24h", ""),
    ],
)
def test_a_jitter_that_reaches_the_next_time_is_told(text: str, jitter: str, gap: str) -> None:
    """As a run would come after the one that follows it."""
    found = overtaken(cron(text, jitter=jitter))
    assert (f"has a jitter that is not shorter than the {gap} between two of its times" if gap else "") == found


def test_only_the_triggers_of_apscheduler_are_loaded() -> None:
    """No scheduler, no store of jobs; and nothing at all before a time is computed."""
    program = """
import sys
from service import jobs
from service.triggers import Interval
assert not [name for name in sys.modules if name.startswith("apscheduler")]
Interval(type="interval", every="1h").due(0.0, 0.0, 0.0)
others = ("apscheduler.schedulers", "apscheduler.jobstores", "apscheduler.executors")
print([name for name in sys.modules if name.startswith(others)])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert "[]\n" == done.stdout


def test_utc_is_what_holds_without_a_zone() -> None:
    """Whatever zone the machine has."""
    found = trigger(type="cron", cron="0 8 * * *")
    due = found.due(at("2026-07-01T00:00Z"), 0.0, 0.0)
    assert due is not None
    assert datetime(2026, 7, 1, 8, tzinfo=UTC).timestamp() == due


@pytest.mark.parametrize(
    ("text", "due"),
    [
        ("2026-10-19T08:00:00", "2026-10-19T06:00:00.000Z"),
        ("2026-11-19T08:00:00", "2026-11-19T07:00:00.000Z"),
        ("2026-10-25T02:30:00", "2026-10-25T00:30:00.000Z"),  # shown twice: the first
        ("2027-03-28T02:30:00", "2027-03-28T01:30:00.000Z"),  # left out: as much later
        ("2026-10-19T08:00:00+00:00", "2026-10-19T08:00:00.000Z"),
    ],
)
def test_a_time_without_an_offset_is_by_the_clock_of_its_zone(text: str, due: str) -> None:
    """Once, and as the start of what comes again and again; a time that has an offset needs no zone."""
    after = at("2026-10-01T00:00:00Z")
    for said in ({"type": "date", "at": text}, {"type": "interval", "every": "366d", "start": text}):
        found = trigger(**said, timezone="Europe/Zurich").due(after, after, 0.0)

        assert due == iso(found or 0.0)
