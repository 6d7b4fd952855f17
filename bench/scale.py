"""A monitor with 5,000 targets and 20,000 rules, each about one target by name, as a process of its own."""

import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from bench.answers import answering
from bench.process import processor_seconds, resident
from bench.result import FULL, Curve, Row, Size
from tests.stack import BIN, process

TARGETS = 5000
CONDITIONS = ("up == 0", "latency_ms > 2000", "http_status >= 500", "cpu_usage > 80")
START = 60.0  # seconds that reading the file and the first ticks may take


def written(targets: int, interval: int, url: str) -> str:
    """monitor.yaml with so many targets, and a rule of each condition for each of them."""
    lines = [f"interval: {interval}s", "receivers: []", "services: []", "targets:"]
    lines += [f'  - {{name: shop-{number}, url: "{url}/shop/{number}"}}' for number in range(targets)]
    lines.append("rules:")
    lines += [
        f'  - {{alert: "rule-{kind}-{number}", when: "{condition}", for: 1m, targets: [shop-{number}]}}'
        for number in range(targets)
        for kind, condition in enumerate(CONDITIONS)
    ]
    return "\n".join(lines)


def bench(size: Size) -> Iterator[Row | Curve]:
    full = size == FULL
    targets, interval = (TARGETS, 15) if full else (20, 1)
    with tempfile.TemporaryDirectory() as name, answering() as url:
        folder = Path(name)
        (folder / "monitor.yaml").write_text(written(targets, interval, url))
        shares, largest, late = measured(folder, interval, rounds=size.rounds)
    what = f"monitor, {targets:,} targets, {interval} s interval, {targets * len(CONDITIONS):,} rules"
    yield Row(f"{what}: processor", "", "% of a core", shares, most=60)
    yield Row(f"{what}: resident memory", "", "MiB", [largest], most=250)
    yield Row(f"{what}: late ticks", "", "", [late], most=0)


def measured(folder: Path, interval: int, *, rounds: int) -> tuple[list[float], float, int]:
    """The share of a core in each of so many intervals, in percent; the largest resident memory, in MiB; the late ticks."""
    environment = {"TOCSIN_DATA": str(folder), "TOCSIN_CONFIG": str(folder / "monitor.yaml")}
    with process([BIN / "tocsin", "monitor"], environment, folder / "log") as monitor:
        begun = time.monotonic()
        while ticks(folder)[0] < 2:  # the first one makes the connections
            if monitor.poll() is not None or time.monotonic() - begun > START + 2 * interval:
                raise RuntimeError((folder / "log").read_text()[-2000:])
            time.sleep(0.1)
        shares, largest = [], 0.0
        for _ in range(rounds):
            used, began = processor_seconds([monitor.pid]), time.monotonic()
            time.sleep(interval)
            shares.append(100 * (processor_seconds([monitor.pid]) - used) / (time.monotonic() - began))
            largest = max(largest, resident(monitor.pid))
        return shares, largest, ticks(folder)[1]


def ticks(folder: Path) -> tuple[int, int]:
    """How many there were, and how many of them late, by the monitor's own count."""
    path = folder / "tocsin.db"
    if not path.exists():
        return 0, 0
    with closing(sqlite3.connect(path)) as connection:
        try:
            found = connection.execute("SELECT ticks, late FROM monitor").fetchone()
        except sqlite3.OperationalError:  # its tables are being made
            found = None
    return found or (0, 0)
