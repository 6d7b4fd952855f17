"""Readings: what is measured, on whose scale, and that nothing missing ever reads as 0."""

import os
import threading
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.cgroup import Cgroup
from service.measure import (
    METRICS,
    CpuTime,
    Measurement,
    Reading,
    Sampler,
    _mounts,
    cpu_percent,
    host_cpu,
    stalled,
    usable_cores,
)

MOUNT = "sys/fs/cgroup"
PRESSURE = "some avg10={} avg60=2.22 avg300=1.11 total=58761459\nfull avg10=9.99 avg60=0.00 avg300=0.00 total=0\n"
TIMES = st.floats(min_value=0, max_value=1e12)


def machine(root: Path, own: dict[str, str], pressure: dict[str, str] | None = None) -> Cgroup:
    """A machine whose group `/app` has these files, and which tells its pressure if it does."""
    files = {f"{MOUNT}/cgroup.controllers": "cpu memory", "proc/self/cgroup": "0::/app"}
    files |= {f"{MOUNT}/app/{name}": text for name, text in own.items()}
    files |= {f"proc/pressure/{name}": text for name, text in (pressure or {}).items()}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / MOUNT / "app").mkdir(exist_ok=True)
    return Cgroup.of_this_process(root)


LIMITED = {
    "cpu.max": "50000 100000",
    "cpu.stat": "usage_usec 2500000",
    "memory.max": "1000",
    "memory.current": "500",
    "memory.stat": "inactive_file 250",
}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (CpuTime(0, 0), CpuTime(0, 10), 0.0),
        (CpuTime(0, 0), CpuTime(5, 10), 50.0),
        (CpuTime(0, 0), CpuTime(10, 10), 100.0),
        (CpuTime(100, 1000), CpuTime(100.25, 1001), 25.0),
        (CpuTime(0, 0), CpuTime(11, 10), 100.0),  # a group may use more than its quota for a moment
        (CpuTime(5, 0), CpuTime(4, 10), 0.0),  # counters of a host may step back a little
        (CpuTime(5, 10), CpuTime(5, 10), None),
        (CpuTime(5, 10), CpuTime(6, 10), None),
        (CpuTime(5, 10), CpuTime(6, 9), None),
    ],
)
def test_cpu_use_is_the_share_of_what_was_available(before: CpuTime, after: CpuTime, expected: float | None) -> None:
    """Use is the used part of the time between two moments, held to 0 to 100, and None when no time has passed."""
    assert expected == cpu_percent(before, after)


@given(before=st.builds(CpuTime, TIMES, TIMES), after=st.builds(CpuTime, TIMES, TIMES))
def test_cpu_use_is_a_percentage_or_none(before: CpuTime, after: CpuTime) -> None:
    """Whatever the counters do, use is between 0 and 100 or not told."""
    found = cpu_percent(before, after)
    assert found is None or 0 <= found <= 100
    assert (found is None) == (after.available <= before.available)


def test_the_hosts_cpu_time_only_grows() -> None:
    """Time passes on the host's processors, and no more is used than there is."""
    before = host_cpu()
    time.sleep(0.05)
    after = host_cpu()
    assert after.available > before.available
    assert 0 <= after.used <= after.available


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (PRESSURE.format("0.00"), 0.0),
        (PRESSURE.format("3.33"), 3.33),
        (PRESSURE.format("100.00"), 100.0),
        ("full avg10=9.99 avg60=0.00 avg300=0.00 total=0\nsome avg10=1.50 avg60=0.00 avg300=0.00 total=0", 1.5),
        ("some avg10=1.50", 1.5),
        ("some new=x avg10=1.50 more=y=z", 1.5),
    ],
)
def test_pressure_is_the_share_of_ten_seconds_that_some_task_waited(text: str, expected: float) -> None:
    """The `some` line's avg10 is taken, wherever it stands."""
    assert expected == stalled(text)


@pytest.mark.parametrize("text", ["", "full avg10=9.99 avg60=0.00", "something avg10=1.0", "\n", "some avg10=text", "some avg10"])
def test_text_that_is_no_pressure_is_a_value_error(text: str) -> None:
    """What is not in the kernel's format is refused and never read as 0."""
    with pytest.raises(ValueError):
        stalled(text)


@pytest.mark.parametrize("text", ["some", "some avg60=1.0"])
def test_pressure_without_its_average_is_refused(text: str) -> None:
    """A `some` line without avg10 is an error and not 0."""
    with pytest.raises((ValueError, LookupError)):
        stalled(text)


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("50000 100000", 0.5), ("100000 100000", 1.0), ("100000000 100000", None), ("max 100000", None)],
)
def test_p29_usable_cores_come_from_the_quota(tmp_path: Path, quota: str, expected: float | None) -> None:
    """A quota below the affinity mask counts; above it, or without one, the mask does."""
    allowed = float(len(os.sched_getaffinity(0)))
    assert (allowed if expected is None else expected) == usable_cores(machine(tmp_path, {"cpu.max": quota}))


def test_p29_usable_cores_follow_the_affinity_mask(tmp_path: Path) -> None:
    """A process that is pinned to one core has one, however many the machine has."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert usable_cores(machine(tmp_path, {"cpu.max": "max 100000"})) == 1.0
    finally:
        os.sched_setaffinity(0, before)


def test_the_first_reading_has_no_cpu_use(tmp_path: Path) -> None:
    """One look cannot tell use: it is named as missing, and the sampler is not ready."""
    sampler = Sampler(tmp_path, tmp_path, machine(tmp_path, {}), tmp_path)
    assert "no second sample yet" == sampler.reading.missing["cpu_usage"]
    assert "cpu_usage" not in sampler.reading.values
    assert sampler.fault == "starting"


def test_p17_without_limits_the_values_are_the_hosts(tmp_path: Path) -> None:
    """Where nothing limits the group, use is the host's and there is no second number beside it."""
    sampler = Sampler(tmp_path, tmp_path, machine(tmp_path, {}), tmp_path)
    time.sleep(0.05)
    values = sampler.sample().values
    assert ("host", "host") == (values["cpu_usage"].scope, values["mem_usage"].scope)
    assert {"host_cpu_usage", "host_mem_usage"}.isdisjoint({*values, *sampler.reading.missing})


def test_p17_with_limits_the_values_are_the_groups_and_the_hosts_stand_beside(tmp_path: Path) -> None:
    """Inside limits, use is a share of them, and the host's own use has its own name and scope."""
    sampler = Sampler(tmp_path, tmp_path, machine(tmp_path, LIMITED), tmp_path)
    time.sleep(0.05)
    values = sampler.sample().values
    assert Measurement("mem_usage", 25.0, "cgroup") == values["mem_usage"]
    assert Measurement("cpu_usage", 0.0, "cgroup") == values["cpu_usage"]
    assert ("host", "host") == (values["host_cpu_usage"].scope, values["host_mem_usage"].scope)
    assert values["host_mem_usage"].value > 0


def test_cpu_use_of_a_group_is_the_share_of_its_quota(tmp_path: Path) -> None:
    """A group that used its whole quota, and more, stands at 100 percent."""
    sampler = Sampler(tmp_path, tmp_path, machine(tmp_path, LIMITED), tmp_path)
    (tmp_path / MOUNT / "app/cpu.stat").write_text("usage_usec 60000000")
    assert Measurement("cpu_usage", 100.0, "cgroup") == sampler.sample().values["cpu_usage"]


def test_when_no_time_has_passed_cpu_use_is_missing_and_not_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two looks at the same moment tell no use, rather than none at all."""
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    reading = Sampler(tmp_path, tmp_path, machine(tmp_path, LIMITED), tmp_path).sample()
    assert "cpu_usage" not in reading.values
    assert "no second sample yet" == reading.missing["cpu_usage"]


def test_what_cannot_be_read_is_named_with_the_reason_and_is_never_0(tmp_path: Path) -> None:
    """A disk and pressure files that are not there are missing, each with what the system said."""
    reading = Sampler(tmp_path / "nowhere", tmp_path, machine(tmp_path, {}), tmp_path).reading
    missing = {"disk_usage", "cpu_pressure", "mem_pressure", "io_pressure"}
    assert missing <= set(reading.missing)
    assert missing.isdisjoint(reading.values)
    assert "No such file or directory" in reading.missing["disk_usage"]
    assert str(tmp_path / "proc/pressure/memory") in reading.missing["mem_pressure"]


@pytest.mark.parametrize("text", ["", "garbage", "some avg10=text", "some avg60=1.00"])
def test_pressure_that_makes_no_sense_is_missing_and_not_0(tmp_path: Path, text: str) -> None:
    """A pressure file of another format costs its own value, is named, and leaves the other values alone."""
    cgroup = machine(tmp_path, {}, {"cpu": text, "memory": PRESSURE.format("3.33")})
    reading = Sampler(tmp_path, tmp_path, cgroup, tmp_path).reading
    assert "cpu_pressure" not in reading.values
    assert reading.missing["cpu_pressure"]
    assert Measurement("mem_pressure", 3.3, "host") == reading.values["mem_pressure"]


def test_the_groups_own_pressure_comes_before_the_hosts(tmp_path: Path) -> None:
    """Pressure is the group's where the group tells it, else the host's, and says which."""
    cgroup = machine(
        tmp_path, {"cpu.pressure": PRESSURE.format("12.34")}, {"cpu": PRESSURE.format("1.00"), "io": PRESSURE.format("2.00")}
    )
    values = Sampler(tmp_path, tmp_path, cgroup, tmp_path).reading.values
    assert Measurement("cpu_pressure", 12.3, "cgroup") == values["cpu_pressure"]
    assert Measurement("io_pressure", 2.0, "host") == values["io_pressure"]


def test_a_group_that_cannot_be_read_to_the_end_is_measured_as_the_host(tmp_path: Path) -> None:
    """A limit without its use gives no made-up number: the host's stands there, and says so."""
    sampler = Sampler(tmp_path, tmp_path, machine(tmp_path, {"cpu.max": "50000 100000", "memory.max": "1000"}), tmp_path)
    time.sleep(0.05)
    values = sampler.sample().values
    assert ("host", "host") == (values["cpu_usage"].scope, values["mem_usage"].scope)


def test_kills_and_throttling_are_the_groups_and_missing_without_its_limits(tmp_path: Path) -> None:
    """With limits both are told with their scope; without them each says what there is none of."""
    limited = LIMITED | {"cpu.stat": "usage_usec 1\nnr_periods 10\nnr_throttled 5", "memory.events": "oom 1\noom_kill 2"}
    sampler = Sampler(tmp_path, tmp_path, machine(tmp_path, limited), tmp_path)
    assert "no second sample yet" == sampler.reading.missing["cpu_throttled"]
    assert Measurement("oom_kills", 2.0, "cgroup") == sampler.reading.values["oom_kills"]
    (tmp_path / MOUNT / "app/cpu.stat").write_text("usage_usec 1\nnr_periods 30\nnr_throttled 15")
    (tmp_path / MOUNT / "app/memory.events").write_text("oom 2\noom_kill 3")
    values = sampler.sample().values
    assert Measurement("cpu_throttled", 50.0, "cgroup") == values["cpu_throttled"]
    assert Measurement("oom_kills", 3.0, "cgroup") == values["oom_kills"]

    unlimited = {"cpu.stat": limited["cpu.stat"], "memory.events": limited["memory.events"]}
    reading = Sampler(tmp_path, tmp_path, machine(tmp_path / "other", unlimited), tmp_path).sample()
    assert {"cpu_throttled", "oom_kills"}.isdisjoint(reading.values)
    assert "no limit on the processor holds here" == reading.missing["cpu_throttled"]
    assert "no limit on memory holds here" == reading.missing["oom_kills"]


def test_kills_and_throttling_that_the_kernel_does_not_tell_are_missing(tmp_path: Path) -> None:
    """A limit alone says nothing of them, and that is not 0."""
    missing = Sampler(tmp_path, tmp_path, machine(tmp_path, LIMITED), tmp_path).reading.missing
    assert ["the kernel does not tell it"] * 2 == [missing["oom_kills"], missing["cpu_throttled"]]


def test_every_value_is_a_known_metric_and_told_once(tmp_path: Path) -> None:
    """A reading holds known metrics only; each key is there with a value or missing with a reason, never both."""
    before = time.time()
    reading = Sampler(tmp_path, tmp_path, machine(tmp_path, LIMITED), tmp_path).sample()
    assert {value.metric for value in reading.values.values()} <= set(METRICS)
    assert {key.partition(":")[0] for key in reading.missing} <= set(METRICS)
    assert set(reading.values).isdisjoint(reading.missing)
    assert all(reading.missing.values())
    assert all(key == value.key for key, value in reading.values.items())
    assert all(0 <= value.value <= 100 for value in reading.values.values() if METRICS[value.metric] == "percent")
    assert before <= reading.at <= time.time()


def test_each_metric_is_told_or_missing(tmp_path: Path) -> None:
    """No metric is passed over in silence, apart from disks that a machine does not have."""
    reading = Sampler(tmp_path, tmp_path, machine(tmp_path, LIMITED), tmp_path).sample()
    told = {key.partition(":")[0] for key in (*reading.values, *reading.missing)}
    assert set(METRICS) - {"mount_usage"} <= told


def test_a_reading_cannot_be_changed(tmp_path: Path) -> None:
    """What was handed out stays as it was, also after the next sample."""
    sampler = Sampler(tmp_path, tmp_path, machine(tmp_path, LIMITED), tmp_path)
    first = sampler.reading
    kept = dict(first.values)
    with pytest.raises(TypeError):
        first.values["cpu_usage"] = Measurement("cpu_usage", 0.0, "host")  # type: ignore[index]
    assert sampler.sample() is sampler.reading
    assert sampler.reading is not first
    assert kept == first.values


@pytest.mark.parametrize(("mount", "expected"), [(None, "mount_usage"), ("/srv", "mount_usage:/srv"), ("/", "mount_usage:/")])
def test_a_key_names_the_mount_where_there_is_one(mount: str | None, expected: str) -> None:
    """Each disk has its own key under one metric."""
    assert expected == Measurement("mount_usage", 1.0, "host", mount).key


def test_an_empty_reading_holds_nothing() -> None:
    """A reading without values says nothing, and not 0."""
    assert ({}, {}) == (Reading(1.0).values, Reading(1.0).missing)


def test_taking_a_reading_never_sleeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample looks once and returns: it waits for no second look."""

    def slept(_: float) -> None:
        raise AssertionError("a sample must not wait")

    cgroup = machine(tmp_path, {})
    monkeypatch.setattr(time, "sleep", slept)
    began = time.perf_counter()
    sampler = Sampler(tmp_path, tmp_path, cgroup, tmp_path)
    for _ in range(10):
        sampler.sample()
    assert time.perf_counter() - began < 1.0
    assert {reason for reason in sampler.reading.missing.values() if "must not wait" in reason} == set()


def test_the_sampler_is_soon_ready_and_stops_when_told(tmp_path: Path) -> None:
    """Its one thread has a use of the processor soon after the start, and ends after stop()."""
    sampler = Sampler(tmp_path, tmp_path, machine(tmp_path, LIMITED), tmp_path)
    before = set(threading.enumerate())
    sampler.start()
    (thread,) = set(threading.enumerate()) - before
    try:
        assert sampler.wait_until_ready(5)
        assert sampler.fault is None
        assert "cpu_usage" in sampler.reading.values
        assert thread.daemon
    finally:
        sampler.stop()
        thread.join(5)
    assert not thread.is_alive()


def test_a_mount_whose_name_is_no_text_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that are no UTF-8 could be neither stored nor told, and would take every other reading with them."""
    root, odd = os.fsencode(tmp_path), os.fsencode(tmp_path) + b"/M\xfcller"
    Path(os.fsdecode(odd)).mkdir()
    (tmp_path / "self").mkdir()
    (tmp_path / "filesystems").write_text("\text4\n")
    (tmp_path / "self/mounts").write_bytes(b"/dev/a %s ext4 rw 0 0\n/dev/b %s ext4 rw 0 0\n" % (root, odd))
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))

    assert 2 == len(psutil.disk_partitions(all=False))
    assert [str(tmp_path)] == _mounts()
