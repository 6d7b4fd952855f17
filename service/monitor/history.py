"""What a tick leaves for later: minutes of readings, kept in memory until the database has them, and firings. Pure."""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from service.monitor.probe import Sample
from service.monitor.routing import Alert
from service.occurrences import Occurrence
from service.readings import MINUTE, NOT_KEPT, Bucket, Series

MOST = 50_000  # minutes of readings that wait for a database that cannot be written, some 15 MB; beyond it the oldest go
AT_ONCE = 5_000  # of them in one tick, which is to be short; more where a tick measures more, as they would pile up
MOST_MOUNTS = 50  # of one target in one tick: what it calls its disks is its own affair, the database is ours


class History:
    """The minutes that are not written yet."""

    def __init__(self) -> None:
        self._buckets: dict[tuple[int, Series], Bucket] = {}  # in the order in which they began
        self._at_once = AT_ONCE
        self.dropped = 0  # minutes that were too many to wait

    def add(self, samples: Iterable[Sample], now: float) -> None:
        """The samples of one tick."""
        at = int(now) // MINUTE * MINUTE
        mounts: dict[str, int] = {}
        measured = 0
        for sample in samples:
            if sample.value is None or not math.isfinite(sample.value) or sample.metric in NOT_KEPT:
                continue
            series = Series(sample.target, sample.metric, sample.labels.get("mount", ""))
            if series.mount:
                mounts[series.target] = mounts.get(series.target, 0) + 1
                if mounts[series.target] > MOST_MOUNTS:
                    continue
            if (at, series) not in self._buckets:
                self._buckets[at, series] = Bucket(series, at)
            self._buckets[at, series].add(sample.value)
            measured += 1
        self._at_once = max(AT_ONCE, 2 * measured)
        while len(self._buckets) > MOST:
            del self._buckets[next(iter(self._buckets))]
            self.dropped += 1

    def passed(self, now: float) -> list[Bucket]:
        """Minutes that are to be written now: all but the one that lasts, the oldest first, so many at once."""
        lasts = int(now) // MINUTE * MINUTE  # where the clock was set back, what lies ahead has passed, too
        return [bucket for bucket in self._buckets.values() if bucket.at != lasts][: self._at_once]

    def every(self) -> list[Bucket]:
        """All of them, with the one that lasts."""
        return list(self._buckets.values())

    def written(self, buckets: Collection[Bucket]) -> None:
        """Forget what the database has."""
        for bucket in buckets:
            self._buckets.pop((bucket.at, bucket.series), None)


def occurrence_of(alert: Alert, content: Mapping[str, Any]) -> Occurrence:
    """An alert that fires and what its firing says, as it is kept when it is over."""
    fired = alert.state.since
    return Occurrence(
        id=content["occurrence"],
        fingerprint=alert.fingerprint,
        alert=alert.name,
        target=alert.target,
        labels=dict(alert.labels),
        severity=content["severity"],
        summary=content["summary"],
        began=min(alert.healing.began or fired, fired),
        fired=fired,
        restarts=alert.healing.tried,
    )
