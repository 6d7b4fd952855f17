"""What processes cost: processor seconds and memory, from /proc (proc(5))."""

import contextlib
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

MIB = 1 << 20


def family(pid: int) -> list[int]:
    """A process and all that it has started."""
    process = psutil.Process(pid)
    return [pid, *(child.pid for child in process.children(recursive=True))]


def processor_seconds(pids: Iterable[int]) -> float:
    """User and system time that these have used so far; nothing of those that have ended."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])  # utime and stime
    return ticks / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> float:
    """VmRSS in MiB."""
    return psutil.Process(pid).memory_info().rss / MIB


def proportional(pids: Iterable[int]) -> float:
    """PSS in MiB: what several share counts for each in part. Needs the right to look at them (root)."""
    kilobytes = 0
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):  # a health check, which has ended meanwhile
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            kilobytes += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kilobytes / 1024
