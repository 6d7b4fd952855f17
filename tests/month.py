"""A month as it might have been, in a real database: what was up and when, what fired, who was told, how a disk filled.

The same each time, so that a report can be held against it. `python -m tests.month FILE [DAYS]` makes one to look at.
"""

import math
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr
from sqlalchemy import Engine, insert, text

from service.configuration import Configuration, Rule, Target
from service.database import connect
from service.readings import HOUR, MINUTE
from service.receiver import Receiver
from service.tables import messages, notifications, occurrences, readings, restarts

DAY = 86_400
END = 1_760_572_800  # 2025-10-16T00:00:00Z: past, whatever the clock says
INTERVAL = 10  # seconds
SAMPLES = MINUTE // INTERVAL
NOWHERE = SecretStr("http://127.0.0.1:9/")
TARGETS = ("self", "front", "shop", "db", "mail")
HOLD = 30  # seconds that it must be down to fire
DELAY = 1.5  # seconds until a receiver has taken it
FILLS = 0.9  # percent a day
FREED = 14.0  # percent, once
CLEANED = 12 * DAY  # before the end
AWAY = (9 * DAY, 9 * DAY - 2 * HOUR)  # before the end: the receiver `ops` does not answer
UNWATCHED = (20 * DAY, 20 * DAY - 47 * MINUTE)  # before the end: the monitor does not run

CONFIGURATION = Configuration(
    interval=INTERVAL,
    instance="shop-1",
    targets=tuple(Target(name=name, url=NOWHERE) for name in TARGETS),
    rules=(
        Rule.model_validate({"alert": "HighCpu", "when": "cpu_usage > 80", "for": "1m"}),
        Rule.model_validate({"alert": "TargetDown", "when": "up == 0", "for": "30s", "severity": "critical"}),
    ),
    receivers=(Receiver(name="ops", webhook=NOWHERE), Receiver(name="chat", webhook=NOWHERE)),
)


@dataclass(frozen=True)
class Outage:
    """A target is down, in whole ticks."""

    target: str
    begin: int
    seconds: int

    @property
    def end(self) -> int:
        return self.begin + self.seconds


OUTAGES = (
    Outage("shop", END - 25 * DAY + 3 * HOUR, 41 * MINUTE),
    Outage("shop", END - 11 * DAY + 14 * HOUR + 20, 2 * MINUTE + 30),
    Outage("shop", END - 9 * DAY + 30 * MINUTE, 10 * MINUTE),  # while the receiver is away
    Outage("db", END - 17 * DAY + 2 * HOUR, 3 * HOUR + 10 * MINUTE),
    Outage("db", END - 2 * DAY + 7 * HOUR + 10, 50),
    Outage("mail", END - 35 * MINUTE, 35 * MINUTE),  # at the end it still is
)


def make(engine: Engine, days: int = 30, until: int = END) -> None:
    """Fill an empty database."""
    since = until - days * DAY
    with engine.begin() as connection:
        columns = [column.name for column in readings.columns]
        statement = f"INSERT INTO readings ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
        for series in _series():
            rows = list(_minutes(*series, since, until))
            if rows:
                connection.exec_driver_sql(statement, rows)
        connection.execute(text(_HOURS))
        firings = [row for row in _firings() if row["fired"] >= since]
        if firings:
            connection.execute(insert(occurrences), firings)
            connection.execute(insert(messages), list(_messages(firings)))
            connection.execute(insert(notifications), list(_notifications(firings[0])))
            connection.execute(insert(restarts), list(_restarts(firings)))


_HOURS = """
    INSERT INTO readings SELECT 3600, target, metric, mount, at / 3600 * 3600 AS hour,
      SUM(count), SUM(total), MIN(least), MAX(most), COUNT(*)
    FROM readings WHERE step = 60 GROUP BY target, metric, mount, hour
"""


def _series() -> Iterator[tuple[str, str, str]]:
    for target in TARGETS:
        yield target, "up", ""
        yield target, "latency_ms", ""
    for metric in ("cpu_usage", "mem_usage", "disk_usage", "load1"):
        yield "self", metric, ""
    for mount in ("/", "/data"):
        yield "self", "mount_usage", mount


def watched(at: int) -> bool:
    return not END - UNWATCHED[0] <= at < END - UNWATCHED[1]


def down(target: str, at: int) -> bool:
    """Whether a tick at this time finds it down."""
    return any(outage.target == target and outage.begin <= at < outage.end for outage in OUTAGES)


def disk(at: float) -> float:
    """Percent of /data in use."""
    return 71.0 - FILLS * (END - at) / DAY + (FREED if at < END - CLEANED else 0.0)


def _minutes(target: str, metric: str, mount: str, since: int, until: int) -> Iterator[tuple[Any, ...]]:
    chance = random.Random(f"{target} {metric} {mount}")
    outages = {at for each in OUTAGES if each.target == target for at in range(each.begin, each.end, INTERVAL)}
    for at in range(since, until, MINUTE):
        if not watched(at):
            continue
        ups = SAMPLES - sum(tick in outages for tick in range(at, at + MINUTE, INTERVAL)) if outages else SAMPLES
        if metric == "up":
            yield MINUTE, target, metric, mount, at, SAMPLES, float(ups), float(ups == SAMPLES), float(ups > 0), 1
            continue
        if metric == "latency_ms" and not ups:
            continue
        mean, spread = _value(metric, mount, at, chance)
        count = ups if metric == "latency_ms" else SAMPLES
        yield MINUTE, target, metric, mount, at, count, mean * count, max(0.0, mean - spread), mean + spread, 1


def _value(metric: str, mount: str, at: int, chance: random.Random) -> tuple[float, float]:
    """The mean of a minute, and how far its samples lie from it."""
    load = max(0.0, math.sin((at % DAY / DAY - 0.3) * 2 * math.pi)) * (0.4 if at // DAY % 7 in (2, 3) else 1.0)
    noise = chance.random()
    if metric == "cpu_usage":
        return 8 + 45 * load + 12 * noise**4, 3 + 6 * noise
    if metric == "mem_usage":
        return 41 + 9 * load + noise, 0.4
    if metric == "load1":
        return 0.3 + 2.4 * load + noise / 2, 0.2
    if metric == "latency_ms":
        return 12 + 30 * load + 40 * noise**8, 4 + 60 * noise**12
    return (disk(at) if mount != "/" else 38.0) + noise / 10, 0.01


def _firings() -> Iterator[dict[str, Any]]:
    for number, outage in enumerate(OUTAGES):
        if outage.seconds < HOLD:
            continue
        fired, fingerprint = outage.begin + HOLD, f"{TARGETS.index(outage.target):016x}"
        told = max(fired + DELAY, END - AWAY[1] + DELAY) if END - AWAY[0] <= fired < END - AWAY[1] else fired + DELAY
        yield {
            "id": f"{fingerprint}-{fired * 1000}",
            "fingerprint": fingerprint,
            "alert": "TargetDown",
            "target": outage.target,
            "labels": {},
            "severity": "critical",
            "summary": f"{outage.target} does not answer as it should",
            "began": outage.begin,
            "fired": fired,
            "told": told,
            "ended": None if outage.end >= END else outage.end,
            "acknowledged": fired + 240 if number % 2 else None,
            "acknowledged_by": "ann" if number % 2 else None,
            "restarts": 1 if outage.target == "db" else 0,
        }


def _messages(firings: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for firing in firings:
        for status in ("firing", "resolved"):
            changed = firing["fired"] if status == "firing" else firing["ended"]
            if changed is None:
                continue
            away = END - AWAY[0] <= changed < END - AWAY[1]
            delivered = END - AWAY[1] + DELAY if away else changed + DELAY
            yield {
                "id": f"msg_{firing['id']}_{status}",
                "receiver": "ops",
                "parts": [],
                "since": changed,
                "created": changed + 0.1,
                "due": changed + 0.1,
                "attempts": 9 if away else 1,
                "uncertain": False,
                "delivered": delivered,
            }


def _notifications(firing: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One that the receiver `chat` never took."""
    said = {name: firing[name] for name in ("alert", "target", "severity", "summary", "fingerprint")}
    yield {
        "receiver": "chat",
        "occurrence": firing["id"],
        "wanted": "resolved",
        "told": None,
        "firing": said,
        "resolved": said,
        "changed": firing["fired"],
        "waiting": False,
        "dead": firing["fired"] + 3 * DAY,
        "grouping": {},
    }


def _restarts(firings: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for number, firing in enumerate(each for each in firings if each["target"] == "db"):
        yield {
            "id": f"{number:016x}",
            "service": "postgresql",
            "asked_by": "monitor",
            "author": "monitor",
            "comment": "TargetDown on db, 1 of 3",
            "alert": firing["fingerprint"],
            "started": firing["fired"] + 30,
            "ended": firing["fired"] + 45,
            "outcome": "healthy" if number else "unhealthy",
            "detail": "",
        }
    yield {
        "id": f"{99:016x}",
        "service": "web",
        "asked_by": "command",
        "author": "ann",
        "comment": "",
        "alert": None,
        "started": END - 5 * DAY,
        "ended": END - 5 * DAY + 6,
        "outcome": "healthy",
        "detail": "",
    }


if __name__ == "__main__":
    opened = connect(f"sqlite:///{sys.argv[1]}")
    make(opened, int(sys.argv[2]) if len(sys.argv) > 2 else 30)
    opened.dispose()
