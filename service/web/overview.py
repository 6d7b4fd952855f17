"""What the page shows, as values, and what it comes to: the verdict at its head."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from service.alerts import Alert, Figures
from service.measure import Measurement
from service.notifications import Notification
from service.plot import Plot
from service.supervision import Status
from service.targets import Standing

OWN = "self"  # the target that is this server


@dataclass(frozen=True)
class Line:
    """What was measured of late, drawn, and in words."""

    plot: Plot
    words: str


@dataclass(frozen=True)
class Gauge:
    """A reading of this server. `missing` says why there is no value."""

    metric: str
    name: str
    value: Measurement | None
    threshold: float
    lasting: bool  # over the threshold in the mean of the last minute
    line: Line
    missing: str

    @property
    def over(self) -> bool:
        return self.value is not None and self.value.value > self.threshold


@dataclass(frozen=True)
class Watched:
    """A target; nothing is known of one that no tick has asked yet."""

    name: str
    standing: Standing | None
    line: Line | None  # of its latency

    @property
    def own(self) -> bool:
        """Whether it is this server, whose readings are shown anyway."""
        return self.name == OWN


@dataclass(frozen=True)
class Served:
    """A service, and how it is or why that is not known."""

    name: str
    supervisor: str
    status: Status | None
    fault: str
    restarting: bool


@dataclass(frozen=True)
class Stored:
    """What is in the database."""

    alerts: Sequence[Alert]  # perhaps not all; `figures` counts them
    critical: int  # that fire
    figures: Figures
    told: Sequence[Notification]
    standings: Mapping[str, Standing]

    @property
    def every(self) -> int:
        """How many alerts there are."""
        return sum(self.figures.states.values())

    @property
    def more(self) -> int:
        """How many of them are not among these."""
        return self.every - len(self.alerts)


@dataclass(frozen=True)
class Overview:
    """All of it. Without `stored` the database cannot be used; `unread` says why there are no targets and services."""

    at: float
    instance: str
    fault: str | None  # why this server wants no requests
    gauges: Sequence[Gauge]
    stored: Stored | None
    watched: Sequence[Watched]
    served: Sequence[Served] | None  # None: their supervisors have not answered yet
    unread: str

    @property
    def late(self) -> bool:
        """Whether the monitor should have ticked long ago."""
        if self.stored is None or (figures := self.stored.figures).ticked is None:
            return False
        return self.at - figures.ticked > 15 + 3 * max(figures.interval or 0.0, figures.seconds or 0.0)

    @property
    def verdict(self) -> tuple[str, str]:
        """How it is, in one word for the eye and in a sentence: the worst that is so."""
        return next(self._verdicts())

    def _verdicts(self) -> Iterator[tuple[str, str]]:
        if self.stored is None:
            yield "bad", "The database cannot be used"
            return
        if self.late:
            yield "bad", "The monitor does not tick"
        if fires := self.stored.figures.states.get("firing", 0):
            yield "bad" if self.stored.critical else "warn", _counted(fires, self.stored.critical)
        if self.fault:
            yield "warn", f"This server is {self.fault}"
        if down := [target.name for target in self.watched if target.standing and not target.standing.up]:
            yield "warn", f"{_named(down, 'targets')} down"
        if failed := [service.name for service in self.served or () if service.status and service.status.state == "failed"]:
            yield "warn", f"{_named(failed, 'services')} not running"
        # A moment over it is for the gauge to say: the head would change each second.
        if over := [gauge.name for gauge in self.gauges if gauge.over and gauge.lasting]:
            yield "warn", f"{' and '.join(over)} over the threshold"
        if self.unread:
            yield "unknown", "The configuration has a fault"
        if self.stored.figures.ticked is None:
            yield "unknown", "The monitor has not ticked yet"
        yield "good", f"Nothing fires; {self.stored.every} pending" if self.stored.every else "All is well"


def _named(names: Sequence[str], kind: str) -> str:
    return f"{names[0]} is" if len(names) == 1 else f"{len(names)} {kind} are"


def _counted(fires: int, critical: int) -> str:
    words = "1 alert fires" if fires == 1 else f"{fires} alerts fire"
    if not critical:
        return words
    return f"{words}, critical" if fires == 1 else f"{words}, {critical} critical"
