"""The line of a crontab, as people write it: five fields, days of the week from Sunday. See crontab(5).

APScheduler reads the rest of it. It is loaded when a line is read, and not before.
"""

import re
from datetime import UTC, datetime
from typing import Any

DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")  # as crontab counts them, from 0; 7 is Sunday, too
_CRON = re.compile(r"[0-9A-Za-z*,/ -]{1,200}", re.ASCII)
_WEEKDAYS = re.compile(r"(?:(\*)|(\w+)(?:-(\w+))?)(?:/(\d{1,2}))?", re.ASCII)
_FIELDS = ("minute", "hour", "day", "month", "day_of_week")

# What `line` takes, for those who write to the API: as much of it as a pattern can say.
SCHEMA: dict[str, Any] = {
    "pattern": r"^[0-9*,/-]+ [0-9*,/-]+ [0-9*,/-]+ [0-9A-Za-z*,/-]+ [0-9A-Za-z*,/-]+$",
    "maxLength": 200,
}


def line(text: str) -> str:
    """A line that can be read, as it was. Raises ValueError."""
    fields = text.split()
    if not _CRON.fullmatch(text) or len(fields) != 5:
        remedy = "write five fields: minute, hour, day of the month, month and day of the week, such as 0 8 * * mon"
        raise ValueError(f"is no line of a crontab; {remedy}")
    if "*" not in (fields[2], fields[4]):
        # crontab would run it on either; a reader may well take it for both.
        raise ValueError("names days of the month and of the week; write * for one of them, and the other in a job of its own")
    wall(text)
    return text


def weekdays(text: str) -> str:
    """Crontab's days of the week as APScheduler names them; it counts them from Monday. Raises ValueError."""
    found: set[int] = set()
    for part in text.lower().split(","):
        match = _WEEKDAYS.fullmatch(part)
        if match is None or match[4] == "0":
            raise ValueError(f"{part!r} is no day of the week; write mon, mon-fri or mon,wed")
        first, last = (0, 6) if match[1] else (_weekday(match[2]), _weekday(match[3] or match[2]))
        if match[4] and not match[1] and not match[3]:
            first, last = first % 7, 6
        if last < first:
            last += 7  # sat-sun
        found |= {day % 7 for day in range(first, last + 1, int(match[4] or 1))}
    return "*" if len(found) == 7 else ",".join(DAYS[day] for day in sorted(found))


def _weekday(text: str) -> int:
    if text in DAYS:
        return DAYS.index(text)
    if text.isdecimal() and int(text) <= 7:
        return int(text)
    raise ValueError(f"{text!r} is no day of the week; write one of {', '.join(DAYS)}")


def wall(text: str, end: float | None = None) -> Any:
    """APScheduler's trigger for a clock that is never put forward or back. Raises ValueError."""
    from apscheduler.triggers.cron import CronTrigger  # noqa: PLC0415 - see above

    fields = dict(zip(_FIELDS, text.lower().split(), strict=True))
    fields["day_of_week"] = weekdays(fields["day_of_week"])
    try:
        return CronTrigger(**fields, timezone=UTC, end_date=None if end is None else datetime.fromtimestamp(end, UTC))
    except ValueError as error:
        message = str(error)
        raise ValueError(f"cannot be read: {message[0].lower()}{message[1:]}") from None
