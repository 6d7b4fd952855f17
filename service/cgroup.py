"""What a control group is allowed and what it used: cgroup v2, and v1 as older engines still give it.

Files and formats: the kernel's Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# v1 says "no limit" with a number near 2**63, rounded down to a page.
_NO_LIMIT = 1 << 60


@dataclass(frozen=True)
class Cgroup:
    """The levels that bind this process, from its own group upwards; a limit is the tightest of them."""

    cpu: tuple[Path, ...]
    cpu_account: tuple[Path, ...]
    memory: tuple[Path, ...]
    unified: bool

    @classmethod
    def of_this_process(cls, root: Path = Path("/")) -> "Cgroup":
        """Look where the kernel mounts control groups; a machine without any gives one without levels."""
        mount = root / "sys/fs/cgroup"
        groups = dict(_groups(root / "proc/self/cgroup"))
        if (mount / "cgroup.controllers").is_file():
            levels = _levels(mount, groups.get("", "/"))
            return cls(levels, levels, levels, unified=True)
        cpu, account, memory = (_levels(mount / name, groups.get(name, "/")) for name in ("cpu", "cpuacct", "memory"))
        return cls(cpu, account, memory, unified=False)

    def quota(self) -> float | None:
        """Cores this process may use; None without a limit."""
        return self._tightest_cpu()[0]

    def cpu_seconds(self) -> float | None:
        """Processor time used so far within the quota's level, in seconds; None where it cannot be read."""
        _, depth = self._tightest_cpu()
        if len(self.cpu_account) <= depth:
            return None
        level = self.cpu_account[depth]
        if self.unified:
            microseconds = _field(level / "cpu.stat", "usage_usec")
            return None if microseconds is None else microseconds / 1e6
        nanoseconds = _number(level / "cpuacct.usage")
        return None if nanoseconds is None else nanoseconds / 1e9

    def memory_used(self) -> tuple[int, int] | None:
        """Bytes in use and bytes allowed; None without a limit.

        Page cache that the kernel can drop at once is not in use, as `docker stats` and the kubelet count it.
        """
        limit_name, used_name, cache = (
            ("memory.max", "memory.current", "inactive_file")
            if self.unified
            else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        )
        limits = [(limit, level) for level in self.memory if (limit := _number(level / limit_name)) is not None]
        limits = [(limit, level) for limit, level in limits if limit < _NO_LIMIT]
        if not limits:
            return None
        limit, level = min(limits, key=lambda pair: pair[0])
        used = _number(level / used_name)
        if used is None:
            return None
        return max(0, used - (_field(level / "memory.stat", cache) or 0)), limit

    def throttling(self) -> tuple[int, int] | None:
        """Periods that the quota's level has had so far, and how many of them it was held back in; None without a quota."""
        quota, depth = self._tightest_cpu()
        if quota is None:
            return None
        periods, throttled = (_field(self.cpu[depth] / "cpu.stat", name) for name in ("nr_periods", "nr_throttled"))
        return None if periods is None or throttled is None else (periods, throttled)

    def oom_kills(self) -> int | None:
        """Processes of this group that the kernel has killed for lack of memory since it began; None where nothing tells."""
        if not self.memory:
            return None
        return _field(self.memory[0] / ("memory.events" if self.unified else "memory.oom_control"), "oom_kill")

    def pressure_file(self, resource: str) -> Path | None:
        """The group's own pressure stall file for `cpu`, `memory` or `io`; v1 has none."""
        file = self.memory[0] / f"{resource}.pressure" if self.unified and self.memory else None
        return file if file and file.is_file() else None

    def _tightest_cpu(self) -> tuple[float | None, int]:
        quotas = [(quota, depth) for depth, level in enumerate(self.cpu) if (quota := self._quota(level)) is not None]
        return min(quotas) if quotas else (None, 0)

    def _quota(self, level: Path) -> float | None:
        if self.unified:
            allowed, _, period = (_text(level / "cpu.max") or "max").partition(" ")
            return int(allowed) / int(period) if allowed.isdecimal() and period.isdecimal() and int(period) else None
        quota, span = _number(level / "cpu.cfs_quota_us"), _number(level / "cpu.cfs_period_us")
        return quota / span if quota and span and quota > 0 else None


def _groups(file: Path) -> Iterator[tuple[str, str]]:
    for line in (_text(file) or "").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            yield controller, path


def _levels(mount: Path, group: str) -> tuple[Path, ...]:
    """The group's folder and those above it. Inside a container its own group is mounted as the root."""
    if not mount.is_dir():
        return ()
    own = mount / group.lstrip("/")
    if ".." in own.parts or not own.is_dir():
        own = mount
    return (own, *(above for above in own.parents if above.is_relative_to(mount)))


def _text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeError):
        return None


def _number(file: Path) -> int | None:
    text = _text(file)
    return int(text) if text and text.removeprefix("-").isdecimal() else None


def _field(file: Path, name: str) -> int | None:
    for line in (_text(file) or "").splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isdecimal():
            return int(value)
    return None
