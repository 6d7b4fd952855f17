"""Limits and use of a control group, read from trees as the kernel lays them out."""

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from service.cgroup import Cgroup
from service.measure import CpuTime, cgroup_cpu

MOUNT = "sys/fs/cgroup"
RECORDED = Path(__file__).parent / "recorded/cgroup-v2"
NO_LIMIT = 9223372036854771712  # what v1 shows on a machine with pages of 4096 bytes

# Recorded on a kernel 6.1, shortened to the fields around those that are read.
CPU_STAT = "usage_usec 2500000\nuser_usec 1500000\nsystem_usec 1000000\nnr_periods 12\nnr_throttled 3\nthrottled_usec 41"
MEMORY_STAT = "anon 104857600\nfile 52428800\nkernel 1\ninactive_anon 7\nactive_file 10485760\ninactive_file 41943040\nslab 1"
MEMORY_STAT_V1 = "cache 52428800\ninactive_file 1\nactive_file 2\ntotal_cache 52428800\ntotal_inactive_file 41943040"


def tree(root: Path, files: dict[str, str]) -> Path:
    """A machine's root folder that holds these files."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


def v2(root: Path, group: str, levels: dict[str, dict[str, str]]) -> Cgroup:
    """Groups under the one tree of cgroup v2; the process is in `group`."""
    files = {f"{MOUNT}/cgroup.controllers": "cpuset cpu io memory pids", "proc/self/cgroup": f"0::{group}"}
    for level, own in levels.items():
        files |= {f"{MOUNT}{level}/{name}": text for name, text in own.items()}
    return Cgroup.of_this_process(tree(root, files))


def v1(root: Path, group: str, levels: dict[str, dict[str, dict[str, str]]]) -> Cgroup:
    """Groups under the trees of cgroup v1, by controller; `cpu` is a link as systemd makes it."""
    lines = ["12:pids:/", f"4:cpu,cpuacct:{group}", f"3:memory:{group}", f"1:name=systemd:{group}", "0::/system.slice"]
    files = {"proc/self/cgroup": "\n".join(lines)}
    for controller, groups in levels.items():
        for level, own in groups.items():
            files |= {f"{MOUNT}/{controller}{level}/{name}": text for name, text in own.items()}
    tree(root, files)
    if (root / MOUNT / "cpu,cpuacct").is_dir():
        (root / MOUNT / "cpu").symlink_to("cpu,cpuacct")
        (root / MOUNT / "cpuacct").symlink_to("cpu,cpuacct")
    return Cgroup.of_this_process(root)


def test_a_machine_without_control_groups_has_no_limits(tmp_path: Path) -> None:
    """Where nothing is mounted, every question is answered with None."""
    cgroup = Cgroup.of_this_process(tmp_path)
    assert (None, None, None) == (cgroup.quota(), cgroup.cpu_seconds(), cgroup.memory_used())
    assert (None, None, None) == (cgroup.throttling(), cgroup.oom_kills(), cgroup.pressure_file("cpu"))


def test_p17_v2_without_limits_says_so(tmp_path: Path) -> None:
    """`max` is no limit, and the time used can be read all the same."""
    own = {"cpu.max": "max 100000", "cpu.stat": CPU_STAT, "memory.max": "max", "memory.current": "1", "memory.stat": MEMORY_STAT}
    cgroup = v2(tmp_path, "/app", {"": {"cpu.stat": "usage_usec 9"}, "/app": own})
    assert (None, None) == (cgroup.quota(), cgroup.memory_used())
    assert cgroup.cpu_seconds() == 2.5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("50000 100000", 0.5),
        ("100000 100000", 1.0),
        ("250000 100000", 2.5),
        ("1000 1000000", 0.001),
        ("max 100000", None),
        ("max", None),
        ("", None),
        ("100000", None),
        ("-1 100000", None),
        ("some text", None),
    ],
)
def test_p29_a_v2_quota_is_time_over_period(tmp_path: Path, text: str, expected: float | None) -> None:
    """Cores are the allowed time divided by its period, and None where there is no limit to read."""
    assert expected == v2(tmp_path, "/app", {"/app": {"cpu.max": text}}).quota()


@pytest.mark.parametrize(
    ("quota", "period", "expected"),
    [
        ("50000", "100000", 0.5),
        ("400000", "100000", 4.0),
        ("-1", "100000", None),
        ("0", "100000", None),
        ("50000", "0", None),
        ("50000", "", None),
        ("text", "100000", None),
    ],
)
def test_p29_a_v1_quota_is_time_over_period(tmp_path: Path, quota: str, period: str, expected: float | None) -> None:
    """In v1 -1 means no limit, and a period that cannot be read gives none either."""
    own = {"cpu.cfs_quota_us": quota, "cpu.cfs_period_us": period}
    assert expected == v1(tmp_path, "/app", {"cpu,cpuacct": {"/app": own}}).quota()


def test_a_v2_limit_at_the_own_level_counts(tmp_path: Path) -> None:
    """The group's own limits and its own use are taken, not those of the root."""
    own = {
        "cpu.max": "150000 100000",
        "cpu.stat": CPU_STAT,
        "memory.max": "268435456",
        "memory.current": "157286400",
        "memory.stat": MEMORY_STAT,
    }
    cgroup = v2(tmp_path, "/app", {"": {"cpu.stat": "usage_usec 9"}, "/app": own})
    assert (1.5, 2.5) == (cgroup.quota(), cgroup.cpu_seconds())
    assert (157286400 - 41943040, 268435456) == cgroup.memory_used()


def test_a_v2_limit_at_the_mounted_root_counts(tmp_path: Path) -> None:
    """Inside a container its own group is the root of what is mounted."""
    own = {"cpu.max": "50000 100000", "cpu.stat": CPU_STAT, "memory.max": "100", "memory.current": "40", "memory.stat": ""}
    cgroup = v2(tmp_path, "/", {"": own})
    assert (0.5, 2.5, (40, 100)) == (cgroup.quota(), cgroup.cpu_seconds(), cgroup.memory_used())


@pytest.mark.parametrize("group", ["/not/mounted", "/../outside", "/../../fs/outside", ""])
def test_a_v2_group_that_is_not_mounted_is_the_root(tmp_path: Path, group: str) -> None:
    """A path that leads nowhere, or out of the mount, is not followed: what is mounted is the own group."""
    tree(tmp_path, {"sys/fs/outside/cpu.max": "10000 100000"})
    assert v2(tmp_path, group, {"": {"cpu.max": "50000 100000"}}).quota() == 0.5


def test_a_tighter_v2_limit_of_a_parent_counts_with_its_own_use(tmp_path: Path) -> None:
    """The tightest level binds, and what was used is read at that level."""
    levels = {
        "": {"cpu.stat": "usage_usec 9"},
        "/pod": {"cpu.max": "50000 100000", "cpu.stat": "usage_usec 7000000", "memory.max": "500", "memory.current": "300"},
        "/pod/app": {"cpu.max": "200000 100000", "cpu.stat": CPU_STAT, "memory.max": "1000", "memory.current": "200"},
    }
    cgroup = v2(tmp_path, "/pod/app", levels)
    assert (0.5, 7.0) == (cgroup.quota(), cgroup.cpu_seconds())
    assert (300, 500) == cgroup.memory_used()


def test_a_looser_v2_limit_of_a_parent_does_not_count(tmp_path: Path) -> None:
    """A parent that allows more than the group itself changes nothing."""
    levels = {
        "/pod": {"cpu.max": "400000 100000", "cpu.stat": "usage_usec 7000000", "memory.max": "5000", "memory.current": "3000"},
        "/pod/app": {"cpu.max": "200000 100000", "cpu.stat": CPU_STAT, "memory.max": "1000", "memory.current": "200"},
    }
    cgroup = v2(tmp_path, "/pod/app", levels)
    assert (2.0, 2.5, (200, 1000)) == (cgroup.quota(), cgroup.cpu_seconds(), cgroup.memory_used())


def test_a_v1_limit_at_the_own_level_counts(tmp_path: Path) -> None:
    """Each controller of v1 has its own tree, nanoseconds, and a cache field with `total_`."""
    cgroup = v1(
        tmp_path,
        "/docker/abc",
        {
            "cpu,cpuacct": {
                "/docker/abc": {"cpu.cfs_quota_us": "150000", "cpu.cfs_period_us": "100000", "cpuacct.usage": "2500000000"},
                "": {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000", "cpuacct.usage": "9000000000"},
            },
            "memory": {
                "/docker/abc": {
                    "memory.limit_in_bytes": "268435456",
                    "memory.usage_in_bytes": "157286400",
                    "memory.stat": MEMORY_STAT_V1,
                },
                "": {"memory.limit_in_bytes": str(NO_LIMIT), "memory.usage_in_bytes": "1", "memory.stat": MEMORY_STAT_V1},
            },
        },
    )
    assert (1.5, 2.5) == (cgroup.quota(), cgroup.cpu_seconds())
    assert (157286400 - 41943040, 268435456) == cgroup.memory_used()


def test_a_tighter_v1_limit_of_a_parent_counts_with_its_own_use(tmp_path: Path) -> None:
    """In v1, too, the tightest level binds and is the one whose use is read."""
    cgroup = v1(
        tmp_path,
        "/pod/app",
        {
            "cpu,cpuacct": {
                "/pod": {"cpu.cfs_quota_us": "50000", "cpu.cfs_period_us": "100000", "cpuacct.usage": "7000000000"},
                "/pod/app": {"cpu.cfs_quota_us": "200000", "cpu.cfs_period_us": "100000", "cpuacct.usage": "2500000000"},
            },
            "memory": {
                "/pod": {"memory.limit_in_bytes": "500", "memory.usage_in_bytes": "300"},
                "/pod/app": {"memory.limit_in_bytes": str(NO_LIMIT), "memory.usage_in_bytes": "200"},
            },
        },
    )
    assert (0.5, 7.0, (300, 500)) == (cgroup.quota(), cgroup.cpu_seconds(), cgroup.memory_used())


def test_p17_v1_without_limits_says_so(tmp_path: Path) -> None:
    """-1 and the number near 2**63 are no limits."""
    cgroup = v1(
        tmp_path,
        "/app",
        {
            "cpu,cpuacct": {"/app": {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000", "cpuacct.usage": "5000000000"}},
            "memory": {"/app": {"memory.limit_in_bytes": str(NO_LIMIT), "memory.usage_in_bytes": "200", "memory.stat": ""}},
        },
    )
    assert (None, None, 5.0) == (cgroup.quota(), cgroup.memory_used(), cgroup.cpu_seconds())


def test_p17_a_v1_container_whose_path_is_not_mounted_reads_the_root(tmp_path: Path) -> None:
    """In a v1 container /proc names the host's path, while the container's own group is mounted as the root."""
    cgroup = v1(
        tmp_path,
        "/docker/0123456789abcdef",
        {
            "cpu,cpuacct": {"": {"cpu.cfs_quota_us": "50000", "cpu.cfs_period_us": "100000", "cpuacct.usage": "1000000000"}},
            "memory": {
                "": {"memory.limit_in_bytes": "1000", "memory.usage_in_bytes": "900", "memory.stat": "total_inactive_file 400"}
            },
        },
    )
    assert (0.5, 1.0, (500, 1000)) == (cgroup.quota(), cgroup.cpu_seconds(), cgroup.memory_used())


def test_cache_beyond_what_is_used_leaves_nothing_in_use(tmp_path: Path) -> None:
    """The two files are read at two moments: use never falls below zero."""
    own = {"memory.max": "1000", "memory.current": "300", "memory.stat": "inactive_file 301"}
    assert (0, 1000) == v2(tmp_path, "/app", {"/app": own}).memory_used()


@pytest.mark.parametrize("stat", ["", "anon 5", "inactive_file", "inactive_file x", "inactive_file_more 7"])
def test_memory_without_a_cache_field_is_all_in_use(tmp_path: Path, stat: str) -> None:
    """Where the droppable cache is not told, nothing is taken off."""
    own = {"memory.max": "1000", "memory.current": "300", "memory.stat": stat}
    assert (300, 1000) == v2(tmp_path, "/app", {"/app": own}).memory_used()


@pytest.mark.parametrize("current", [None, "", "text", "1.5"])
def test_memory_use_that_cannot_be_read_is_none(tmp_path: Path, current: str | None) -> None:
    """A limit alone is no reading: it is None and not 0."""
    own = {"memory.max": "1000"} | ({} if current is None else {"memory.current": current})
    assert v2(tmp_path, "/app", {"/app": own}).memory_used() is None


@pytest.mark.parametrize("stat", [None, "", "usage_usec", "usage_usec text", "user_usec 5"])
def test_cpu_time_that_cannot_be_read_is_none(tmp_path: Path, stat: str | None) -> None:
    """A quota alone is no reading: used time is None, and so is the pair of both."""
    own = {"cpu.max": "50000 100000"} | ({} if stat is None else {"cpu.stat": stat})
    cgroup = v2(tmp_path, "/app", {"/app": own})
    assert (0.5, None) == (cgroup.quota(), cgroup.cpu_seconds())
    assert cgroup_cpu(cgroup) is None


@pytest.mark.parametrize("usage", [None, "", "text"])
def test_v1_cpu_time_that_cannot_be_read_is_none(tmp_path: Path, usage: str | None) -> None:
    """In v1, too, used time that is not there is None."""
    own = {"cpu.cfs_quota_us": "50000", "cpu.cfs_period_us": "100000"} | ({} if usage is None else {"cpuacct.usage": usage})
    assert v1(tmp_path, "/app", {"cpu,cpuacct": {"/app": own}}).cpu_seconds() is None


def test_a_file_that_is_a_folder_or_binary_is_as_good_as_none(tmp_path: Path) -> None:
    """What cannot be read as text is no limit and no failure."""
    cgroup = v2(tmp_path, "/app", {"/app": {"cpu.max/x": "", "memory.current": "5"}})
    (tmp_path / MOUNT / "app/memory.max").write_bytes(b"\xff\xfe")
    assert (None, None) == (cgroup.quota(), cgroup.memory_used())


def test_cpu_time_is_measured_against_the_quota(tmp_path: Path) -> None:
    """Half a core makes half a second available in each second."""
    cgroup = v2(tmp_path, "/app", {"/app": {"cpu.max": "50000 100000", "cpu.stat": CPU_STAT}})
    first, second = cgroup_cpu(cgroup), cgroup_cpu(cgroup)
    assert isinstance(first, CpuTime)
    assert isinstance(second, CpuTime)
    assert (2.5, 2.5) == (first.used, second.used)
    assert 0 <= second.available - first.available < 5


def test_cpu_time_without_a_quota_is_none(tmp_path: Path) -> None:
    """Without a limit there is nothing that use could be a share of."""
    assert cgroup_cpu(v2(tmp_path, "/app", {"/app": {"cpu.stat": CPU_STAT}})) is None


def test_the_pressure_file_is_the_groups_own(tmp_path: Path) -> None:
    """A group's pressure is its own file; what it does not have is None."""
    cgroup = v2(tmp_path, "/app", {"": {"io.pressure": "root"}, "/app": {"cpu.pressure": "own"}})
    assert tmp_path / MOUNT / "app/cpu.pressure" == cgroup.pressure_file("cpu")
    assert cgroup.pressure_file("io") is None


def test_v1_has_no_pressure_files(tmp_path: Path) -> None:
    """What lies in a v1 tree under that name is not the group's pressure."""
    assert v1(tmp_path, "/app", {"memory": {"/app": {"cpu.pressure": "x"}}}).pressure_file("cpu") is None


@pytest.mark.parametrize(
    ("state", "seconds", "throttling", "used", "kills"),
    [
        ("quiet", 0.03, (1, 0), 49152, 0),
        ("throttled", 2.56, (54, 50), 36864, 0),
        ("holding", 3.95, (83, 77), 43126784 - 6512640, 0),
        ("killed", 9.44, (196, 186), 45056, 3),
    ],
)
def test_what_a_kernel_with_cgroup_v2_has_written_is_read(
    tmp_path: Path, state: str, seconds: float, throttling: tuple[int, int], used: int, kills: int
) -> None:
    """Half a core and 64 MiB, and what was used of them, as the recorded files have it."""
    (tmp_path / MOUNT).parent.mkdir(parents=True)
    shutil.copytree(RECORDED / state, tmp_path / MOUNT)
    cgroup = Cgroup.of_this_process(tree(tmp_path, {"proc/self/cgroup": "0::/"}))
    assert (0.5, seconds, throttling) == (cgroup.quota(), cgroup.cpu_seconds(), cgroup.throttling())
    assert ((used, 64 << 20), kills) == (cgroup.memory_used(), cgroup.oom_kills())


def test_what_a_v1_group_was_held_back_and_lost_is_read(tmp_path: Path) -> None:
    """As a kernel 6.18 wrote it in a container; the killed are those of the own group."""
    own = {"cpu.cfs_quota_us": "50000", "cpu.cfs_period_us": "100000", "cpu.stat": "nr_periods 165\nnr_throttled 31\nnr_bursts 0"}
    memory = {"memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2"}
    trees = {"cpu,cpuacct": {"/app": own}, "memory": {"/app": memory, "": {"memory.oom_control": "oom_kill 9"}}}
    cgroup = v1(tmp_path, "/app", trees)
    assert ((165, 31), 2) == (cgroup.throttling(), cgroup.oom_kills())


def test_throttling_is_read_at_the_level_of_the_quota(tmp_path: Path) -> None:
    """The tightest level is what holds back."""
    levels = {
        "/pod": {"cpu.max": "50000 100000", "cpu.stat": "nr_periods 7\nnr_throttled 5"},
        "/pod/app": {"cpu.max": "200000 100000", "cpu.stat": CPU_STAT},
    }
    assert (7, 5) == v2(tmp_path, "/pod/app", levels).throttling()


@pytest.mark.parametrize("stat", [None, "", "nr_periods 5", "nr_throttled 5", "nr_periods 5\nnr_throttled x"])
def test_throttling_and_kills_that_are_not_told_are_none(tmp_path: Path, stat: str | None) -> None:
    own = {"cpu.max": "50000 100000"} | ({} if stat is None else {"cpu.stat": stat, "memory.events": stat})
    cgroup = v2(tmp_path, "/app", {"/app": own})
    assert (None, None) == (cgroup.throttling(), cgroup.oom_kills())


def test_without_a_quota_there_is_no_throttling(tmp_path: Path) -> None:
    assert v2(tmp_path, "/app", {"/app": {"cpu.max": "max 100000", "cpu.stat": CPU_STAT}}).throttling() is None


LINES = st.text("0123456789-max usecinactive_filg\n", max_size=40)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(cpu_max=LINES, limit=LINES, used=LINES, stat=LINES)
@example(cpu_max="50000 0", limit="1", used="1", stat="")
@example(cpu_max="max", limit="--5", used="5", stat="")
def test_any_text_in_these_files_is_read_or_none(tmp_path: Path, cpu_max: str, limit: str, used: str, stat: str) -> None:
    """Whatever the files hold, the answers are numbers or None."""
    own = {"cpu.max": cpu_max, "cpu.stat": stat, "memory.max": limit, "memory.current": used, "memory.stat": stat}
    cgroup = v2(tmp_path, "/app", {"/app": own})
    assert cgroup.quota() is None or isinstance(cgroup.quota(), float)
    assert cgroup.cpu_seconds() is None or isinstance(cgroup.cpu_seconds(), float)
    assert cgroup.memory_used() is None or isinstance(cgroup.memory_used(), tuple)
