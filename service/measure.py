"""The machine as numbers, taken once a second in the background and never on a request's path.

A reading says for each value whether it is the `host`'s or this container's own (`cgroup`). What could not be
read is named with the reason; it is never 0.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeVar

import psutil
import structlog

from service.cgroup import Cgroup
from service.recent import OomKills, Throttling

Scope = Literal["host", "cgroup"]
T = TypeVar("T")

_log = structlog.get_logger()

# Metric -> unit. A rule can name each of them.
METRICS = MappingProxyType(
    {
        "cpu_usage": "percent",
        "mem_usage": "percent",
        "disk_usage": "percent",
        "host_cpu_usage": "percent",
        "host_mem_usage": "percent",
        "swap_usage": "percent",
        "mount_usage": "percent",
        "load1": "processes",
        "load5": "processes",
        "load15": "processes",
        "cpu_pressure": "percent",
        "mem_pressure": "percent",
        "io_pressure": "percent",
        "cpu_throttled": "percent",
        "oom_kills": "processes",
    }
)
STALE = 15.0  # seconds
_PRESSURE = (("cpu_pressure", "cpu"), ("mem_pressure", "memory"), ("io_pressure", "io"))


@dataclass(frozen=True)
class Measurement:
    """One value. `mount` is set where a metric has one for each mounted disk."""

    metric: str
    value: float
    scope: Scope
    mount: str | None = None

    @property
    def key(self) -> str:
        """The metric, and the mount where there is one: `cpu_usage`, `mount_usage:/srv`."""
        return self.metric if self.mount is None else f"{self.metric}:{self.mount}"


@dataclass(frozen=True)
class Reading:
    """Everything measured at one moment (`at`, seconds since 1970), by key, and why the rest is missing."""

    at: float
    values: Mapping[str, Measurement] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CpuTime:
    """Processor seconds, and the seconds in which they could have been used; only differences mean anything."""

    used: float
    available: float


def cpu_percent(before: CpuTime, after: CpuTime) -> float | None:
    """Use between two moments as percent of what was available; None when no time has passed."""
    available = after.available - before.available
    if available <= 0:
        return None
    return min(100.0, max(0.0, 100.0 * (after.used - before.used) / available))


def host_cpu() -> CpuTime:
    """Of all processors since the machine started; time waiting for a disk is idle."""
    times = psutil.cpu_times()
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)  # both are in user and nice
    return CpuTime(total - times.idle - getattr(times, "iowait", 0.0), total)


def cgroup_cpu(cgroup: Cgroup) -> CpuTime | None:
    """Of this container against its quota; None without one."""
    quota, used = cgroup.quota(), cgroup.cpu_seconds()
    return None if quota is None or used is None else CpuTime(used, time.monotonic() * quota)


def stalled(pressure: str) -> float:
    """The share of the last ten seconds, in percent, that some task waited; raises ValueError for other text.

    Format: the kernel's Documentation/accounting/psi.rst.
    """
    for line in pressure.splitlines():
        kind, *fields = line.split()
        if kind == "some":
            return float(dict(part.split("=", 1) for part in fields)["avg10"])
    raise ValueError("no line `some`")


def usable_cores(cgroup: Cgroup) -> float:
    """Cores this process may use: the quota, the affinity mask, or all of them. psutil and os count the host's."""
    allowed = float(len(os.sched_getaffinity(0)))
    quota = cgroup.quota()
    return allowed if quota is None else min(allowed, quota)


class Sampler:
    """Takes a Reading once a second in one thread. `reading` is always there; the first has no CPU use yet.

    `data` is on the disk that is measured. In `runtime` lies what the samplers of one container tell each other.
    """

    def __init__(self, data: Path, runtime: Path, cgroup: Cgroup | None = None, root: Path = Path("/")) -> None:
        self._data = data
        self._oom_kills = OomKills(runtime)
        self._throttling = Throttling()
        self._root = root
        self._cgroup = cgroup or Cgroup.of_this_process()
        self._cpu: dict[str, CpuTime] = {}
        self._stop = threading.Event()
        self._second = threading.Event()
        self._taken = time.monotonic()
        self.reading = self._take()

    @property
    def fault(self) -> Literal["starting", "stale"] | None:
        """Why the reading is no basis for saying "healthy"; use of the processor needs a second one."""
        if not self._second.is_set():
            return "starting"
        return "stale" if time.monotonic() - self._taken > STALE else None

    def wait_until_ready(self, seconds: float) -> bool:
        """Wait for the second reading; for who starts a process, never for a request."""
        return self._second.wait(seconds)

    def start(self) -> None:
        threading.Thread(target=self._run, name="sampler", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def sample(self) -> Reading:
        """Take one reading now and keep it."""
        self.reading = self._take()
        self._taken = time.monotonic()
        self._second.set()
        return self.reading

    def _run(self) -> None:
        # The first interval is shorter, so that a starting process is soon ready.
        pause = 0.5
        while not self._stop.wait(pause):
            pause = 1.0
            try:
                self.sample()
            except Exception:  # noqa: BLE001 - the thread must not end; a reading that stays away is told by `fault`
                _log.exception("no reading could be taken")

    def _take(self) -> Reading:
        into = _Collector()
        own_cpu = into.attempt("cpu_usage", lambda: cgroup_cpu(self._cgroup))
        if own_cpu is None:
            into.add("cpu_usage", lambda: self._cpu_use("host", host_cpu()), "host")
        else:
            into.add("cpu_usage", lambda: self._cpu_use("cgroup", own_cpu), "cgroup")
            into.add("host_cpu_usage", lambda: self._cpu_use("host", host_cpu()), "host")
        own_memory = into.attempt("mem_usage", self._cgroup.memory_used)
        if own_memory is None:
            into.add("mem_usage", lambda: psutil.virtual_memory().percent, "host")
        else:
            into.add("mem_usage", lambda: 100.0 * own_memory[0] / own_memory[1], "cgroup")
            into.add("host_mem_usage", lambda: psutil.virtual_memory().percent, "host")
        into.add("disk_usage", lambda: psutil.disk_usage(str(self._data)).percent, "host")
        into.add("swap_usage", _swap_percent, "host")
        for mount in into.attempt("mount_usage", _mounts) or ():
            into.add("mount_usage", lambda mount=mount: psutil.disk_usage(mount).percent, "host", mount)  # type: ignore[misc]
        for index, metric in enumerate(("load1", "load5", "load15")):
            into.add(metric, lambda index=index: os.getloadavg()[index], "host")  # type: ignore[misc]
        for metric, resource in _PRESSURE:
            own = self._cgroup.pressure_file(resource)
            file = own or self._root / "proc/pressure" / resource
            into.add(metric, lambda file=file: stalled(file.read_text()), "cgroup" if own else "host")  # type: ignore[misc]
        into.add("cpu_throttled", self._throttled, "cgroup")
        if own_memory is None:  # as in a login session, whose total tells of strangers' processes
            into.missing["oom_kills"] = "no limit on memory holds here"
        else:
            into.add("oom_kills", lambda: self._oom_kills.lately(self._killed), "cgroup")
        return Reading(time.time(), MappingProxyType(into.values), MappingProxyType(into.missing))

    def _throttled(self) -> float | None:
        if self._cgroup.quota() is None:
            raise LookupError("no limit on the processor holds here")
        totals = self._cgroup.throttling()
        if totals is None:
            raise LookupError("the kernel does not tell it")
        return self._throttling.percent(time.monotonic(), *totals)

    def _killed(self) -> int:
        total = self._cgroup.oom_kills()
        if total is None:
            raise LookupError("the kernel does not tell it")
        return total

    def _cpu_use(self, name: str, now: CpuTime) -> float | None:
        before, self._cpu[name] = self._cpu.get(name), now
        return None if before is None else cpu_percent(before, now)


class _Collector:
    """A reading is taken as far as it goes: whatever one source does, the others are still told."""

    def __init__(self) -> None:
        self.values: dict[str, Measurement] = {}
        self.missing: dict[str, str] = {}

    def attempt(self, metric: str, read: Callable[[], T]) -> T | None:
        """What `read` gives; None, and the reason kept, when it raises."""
        try:
            return read()
        except Exception as error:  # noqa: BLE001 - any source, any fault
            self.missing[metric] = str(error) or type(error).__name__
            return None

    def add(self, metric: str, read: Callable[[], float | None], scope: Scope, mount: str | None = None) -> None:
        """Keep a value; one that is None has no second sample yet."""
        key = Measurement(metric, 0.0, scope, mount).key
        value = self.attempt(key, read)
        if value is None:
            self.missing.setdefault(key, "no second sample yet")
        else:
            self.missing.pop(key, None)
            self.values[key] = Measurement(metric, round(value, 1), scope, mount)


def _swap_percent() -> float:
    swap = psutil.swap_memory()
    if not swap.total:
        raise LookupError("this machine has no swap")
    return swap.percent


def _mounts() -> list[str]:
    """One mount point for each disk. Network file systems are left out: asking one that is gone hangs.

    So is one whose name is no text: it could be neither stored nor told.
    """
    found: dict[str, str] = {}
    for partition in psutil.disk_partitions(all=False):
        named = partition.mountpoint.isprintable()
        if partition.device not in found and named and Path(partition.mountpoint).is_dir():
            found[partition.device] = partition.mountpoint
    return sorted(found.values())
