"""The outbox: notifications committed, sent and marked a second; and what a tick and a message cost while ever more wait.

All of it is the monitor's own: ticks commit what they announce (`Store`), and the receiver's thread (`Sender`) sends it to a
receiver in a process of its own, on loopback. The database is a file beside this one: what is in memory needs no fsync.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from pydantic import SecretStr
from sqlalchemy import Engine, func, select, text

from bench.result import Curve, Row, Size
from service import database, logs, totals
from service.configuration import Configuration, Rule
from service.monitor import receivers
from service.monitor.delivery import Delivery, deliver_next
from service.monitor.exchange import Client
from service.monitor.history import occurrence_of
from service.monitor.outbox import Entry
from service.monitor.probe import Sample
from service.monitor.routing import Alert
from service.monitor.rules import Outcome, State, fingerprint
from service.monitor.sending import LONGEST_WAIT
from service.monitor.store import Figures, Store
from service.monitor.watch import Watch
from service.receiver import Receiver
from service.tables import notifications

RATE = 1000  # notifications a second: the goal, and so many for each second that a round lasts
TICK = 500  # of them in one commit
COUNTS = (0, 1_000, 10_000, 100_000, 1_000_000)  # waiting
LONG = 3600.0  # seconds that the first of them waits already
STEPS = 25  # ticks at each of these
PATIENCE = 60.0  # seconds until what does not come is a fault
NOWHERE = "http://127.0.0.1:9/"
RULE = Rule.model_validate({"alert": "HighCpu", "when": "cpu_usage > 80", "severity": "critical"})


@dataclass
class Sink:
    """The receiver, and what it has to say at its end."""

    url: str
    messages: int = 0
    notifications: int = 0
    early: int = 0  # messages that came before they were committed


@contextmanager
def sink(file: Path) -> Iterator[Sink]:
    command = [sys.executable, "-m", "bench.sink", str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        found = Sink(f"http://127.0.0.1:{int(running.stdout.readline())}/hook")
        yield found
        said, _ = running.communicate("", timeout=10)
        found.messages, found.notifications, found.early = map(int, said.split())


class World:
    """A monitor without its probes: a tick commits what it is told to announce."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.store = engine, Store(engine)
        self.watch = Watch(Configuration(interval=10, targets=(), rules=(), receivers=()))
        self.store.look(self.watch, time.time())
        self.number = 0

    def tick(self, count: int, *, apart: bool) -> None:
        """So many alerts begin to fire. `apart`: each is a group of its own."""
        now, unsaved = time.time(), self.watch.unsaved
        for _ in range(count):
            self.number += 1
            alert = firing(f"target{self.number}", now)
            self.watch.alerts[alert.fingerprint] = alert
            unsaved.changed.add(alert.fingerprint)
            unsaved.turned.add(alert.fingerprint)
            assert alert.content
            grouping = {"route": "0", "labels": {"target": alert.target} if apart else {}}
            unsaved.announced.append(Entry("ops", alert.content, grouping))
            unsaved.begun.append(occurrence_of(alert, alert.content))
        self.store.commit(self.watch, Figures(now, 10.0), now)


def firing(target: str, now: float) -> Alert:
    state, identity = State("firing", now), fingerprint(RULE.alert, target, {})
    sample = Sample(target, "cpu_usage", 91.5, unit="percent", scope="host", labels={})
    content = receivers.content(RULE, sample, State(), Outcome(state, "firing", ""), fingerprint=identity)
    return Alert(identity, RULE.alert, target, {}, state, content, ("ops",))


def to(url: str) -> Receiver:
    return Receiver(name="ops", webhook=SecretStr(url))


@contextmanager
def opened(folder: Path) -> Iterator[tuple[Engine, Path]]:
    """A new database in this folder."""
    file = folder / "tocsin.db"
    engine = database.connect(f"sqlite:///{file}")
    try:
        yield engine, file
    finally:
        engine.dispose()
        for each in folder.glob("tocsin.db*"):
            each.unlink()


def waits(engine: Engine) -> bool:
    """Whether there is still something to tell."""
    with database.reading(engine) as connection:
        return connection.execute(select(notifications.c.id).where(notifications.c.waiting).limit(1)).first() is not None


def delivered(folder: Path, count: int, *, apart: bool) -> tuple[float, Sink]:
    """Notifications a second from the first commit to the last mark, and what came to the receiver."""
    with opened(folder) as (engine, file), sink(file) as found:
        world = World(engine)
        delivery = Delivery(engine, [to(found.url)], time.time)
        delivery.start()
        began = time.monotonic()
        for start in range(0, count, TICK):
            world.tick(min(TICK, count - start), apart=apart)
            delivery.wake()
        while waits(engine) and time.monotonic() < began + PATIENCE:
            time.sleep(0.02)
        seconds = time.monotonic() - began
        delivery.stop(10)
    if found.notifications < count:
        raise RuntimeError(f"{found.notifications} of {count} came")
    return count / seconds, found


def wait(engine: Engine, count: int) -> None:
    """Let so many more wait for the receiver: rows as a tick puts them, with a shorter content."""
    content = """json_object('status', 'firing', 'alert', 'HighCpu', 'target', 't' || n, 'summary', 'CPU is high', 'labels', '{}',
      'occurrence', printf('%016x-0', n), 'fingerprint', printf('%016x', n), 'starts_at', '2026-11-21T00:00:00Z')"""
    with engine.begin() as connection:
        newest = connection.execute(select(func.max(notifications.c.id))).scalar() or 0  # no two are called the same
        connection.execute(
            text(
                "WITH RECURSIVE numbers(n) AS (SELECT :first UNION ALL SELECT n + 1 FROM numbers LIMIT :count) "
                "INSERT INTO notifications (receiver, occurrence, wanted, firing, changed, waiting) "
                f"SELECT 'ops', printf('%016x-0', n), 'firing', {content}, :now + n * 0.001, 1 FROM numbers"
            ),
            {"first": newest, "count": count, "now": time.time() - LONG},
        )


def waiting(engine: Engine) -> int:
    with database.reading(engine) as connection:
        return connection.execute(select(func.count()).where(notifications.c.waiting)).scalar_one()


def cost(engine: Engine, url: str) -> float:
    """Milliseconds of processor time of one tick with a firing, a try that fails, one that does not, and a look at /metrics."""
    world, client, clock = World(engine), Client(), time.time()

    def step() -> None:
        nonlocal clock
        world.tick(1, apart=False)
        deliver_next(engine, to(NOWHERE), client, lambda: clock)
        clock += LONGEST_WAIT
        deliver_next(engine, to(url), client, lambda: clock)
        with database.reading(engine) as connection:
            totals.totals(connection)

    step()
    found = [spent(step) for _ in range(STEPS)]
    client.close()
    return median(found) * 1000


def spent(action: Callable[[], object]) -> float:
    began = time.process_time()
    action()
    return time.process_time() - began


def curve(folder: Path, largest: float) -> Iterator[tuple[float, float]]:
    with opened(folder) as (engine, file), sink(file) as found:
        for count in COUNTS:
            if count > largest * COUNTS[-1]:
                break
            wait(engine, count - waiting(engine))
            yield count, cost(engine, found.url)


def fsync(folder: Path) -> float:
    """Milliseconds that the disk takes to have what was written, median."""
    found = []
    with (folder / "fsync").open("wb") as file:
        for _ in range(50):
            file.write(b"x" * 4096)
            file.flush()
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            found.append(time.perf_counter() - began)
    return median(found) * 1000


@contextmanager
def logging(file: Path) -> Iterator[None]:
    """The monitor's log goes to this file."""
    with file.open("wb") as opened:
        logs.configure("tocsin-monitor", "INFO", opened.fileno())
        try:
            yield
        finally:
            logs.configure("tocsin-monitor", "ERROR", 2)


def bench(size: Size) -> Iterator[Row | Curve]:
    count = round(RATE * size.seconds)
    shapes: dict[str, list[float]] = {"together": [], "apart": []}
    early: list[int] = []
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent) as name, logging(Path(name, "log")):
        folder = Path(name)
        disk = f"one fsync here: {fsync(folder):.2g} ms"
        for _ in range(size.rounds):
            for shape, rates in shapes.items():
                rate, found = delivered(folder, count, apart=shape == "apart")
                rates.append(rate)
                early.append(found.early)
        points = list(curve(folder, size.largest))
    what = "notifications committed, sent and marked"
    missed = (
        "The receiver has its share of the same processors. A message is sent when the one before it was answered: order is kept."
    )
    yield Row(f"{what} ({disk})", "", "/s", shapes["together"], least=RATE, missed=missed)
    yield Row(f"{what}, each in a message of its own", "", "/s", shapes["apart"], least=RATE, missed=missed)
    yield Row("messages sent before their commit was durable", "", "", [sum(early)], most=0)
    yield Curve(
        "outbox",
        "processor time of a tick, a failed try, a delivery and /metrics, while notifications wait",
        "notifications waiting",
        "ms",
        points,
        most=0.15,
    )
