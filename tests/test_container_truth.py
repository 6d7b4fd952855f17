"""What is measured in a container with 256 MiB and half a core, against what its control group and the engine say."""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import pytest
import requests

from tests.composed import gateway, needs_engine
from tests.receiver import Receiver, receiving
from tests.stack import ROOT, eventually, free_port

pytestmark = needs_engine

LIMITS = ("--memory", "256m", "--memory-swap", "256m", "--cpus", "0.5")
POINTS = 2.0
# In the container: its own figures while the service takes readings of them. Prints what each reading says of CPU and memory,
# and the kernel's files for the same time, in percent of the limits.
COMPARE = """
import json, time, urllib.request
from bisect import bisect
from pathlib import Path

group = Path("/sys/fs/cgroup")
unified = (group / "cgroup.controllers").exists()
held = "cpu.stat" if unified else "cpu/cpu.stat"

def number(name):
    return int((group / name).read_text())

def field(name, wanted):
    return next(int(line.split()[1]) for line in (group / name).read_text().splitlines() if line.split()[0] == wanted)

def cpu():  # seconds
    return field("cpu.stat", "usage_usec") / 1e6 if unified else number("cpuacct/cpuacct.usage") / 1e9

def memory():  # percent
    if unified:
        used, limit = number("memory.current") - field("memory.stat", "inactive_file"), number("memory.max")
    else:
        used = number("memory/memory.usage_in_bytes") - field("memory/memory.stat", "total_inactive_file")
        limit = number("memory/memory.limit_in_bytes")
    return 100 * used / limit

def asked():
    with urllib.request.urlopen("http://127.0.0.1:8000/api/health", timeout=10) as answer:
        return json.load(answer)

def at(moment):  # as it was between the two looks around it; None where the machine had no time for us then
    after = bisect([look[0] for look in looks], moment)
    if not 0 < after < len(looks) or looks[after][0] - looks[after - 1][0] > 0.1:
        return None
    one, other = looks[after - 1], looks[after]
    share = (moment - one[0]) / (other[0] - one[0])
    return [before + share * (now - before) for before, now in zip(one, other)]

def pairs():
    for before, after in zip(readings, readings[1:]):
        a, b = at(before["time"]), at(after["time"])
        if a and b:
            yield after["cpu_usage"], 100 * (b[1] - a[1]) / (0.5 * (b[0] - a[0])), after["mem_usage"], b[2]

asked()
looks, readings, began = [], [], time.monotonic()
while (past := time.monotonic() - began) < 12 or past < 60 and len(list(pairs())) < 6:
    looks.append((time.time(), cpu(), memory(), field(held, "nr_periods"), field(held, "nr_throttled")))
    if len(looks) % 10 == 0:
        body = asked()
        if not readings or body["time"] > readings[-1]["time"]:
            readings.append(body)
    time.sleep(0.02)
a, b = next(look for look in looks if look[0] >= readings[-1]["time"] - 10.5), looks[-1]
throttled = readings[-1]["checks"]["cpu_throttled"]["value"], 100 * (b[4] - a[4]) / max(1, b[3] - a[3])
print(json.dumps({"pairs": list(pairs()), "throttled": throttled}))
"""
# Uses so many seconds of processor in each tenth of a second, keeps so many MiB, and has written a file, whose pages the
# kernel could drop.
LOAD = """
import os, sys, time
kept, busy = b"x" * (int(sys.argv[1]) << 20), float(sys.argv[2])
with open("/data/written", "wb") as file:
    file.write(b"x" * (24 << 20))
    os.fsync(file.fileno())
while True:
    end = time.monotonic() + 0.1
    used = time.process_time() + busy
    while time.process_time() < used:
        pass
    time.sleep(max(0.0, end - time.monotonic()))
"""
END = """
import psutil
for process in psutil.process_iter(["cmdline"]):
    if "".join(process.info["cmdline"][2:3]).startswith("\\nimport os, sys, time"):
        process.kill()
"""
HOG = """
open("/proc/self/oom_score_adj", "w").write("1000")
kept = []
while True:
    kept.append(b"x" * (1 << 20))
"""


@dataclass
class Container:
    """One container of the image, where it answers, and who gets its alerts."""

    name: str
    image: str
    url: str
    receiver: Receiver

    def python(self, code: str) -> "subprocess.CompletedProcess[str]":
        command = ["docker", "exec", self.name, "python", "-c", code]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    def health(self) -> Any:
        return requests.get(f"{self.url}/api/health", timeout=10).json()

    def value(self, metric: str) -> float:
        return float(self.health()["checks"][metric]["value"])

    def workers(self) -> list[int]:
        """Process ids, in the container."""
        found = self.python(
            "import psutil\n"
            "for p in psutil.process_iter(['cmdline', 'ppid']):\n"
            "    if p.info['cmdline'][1:2] == ['/opt/venv/bin/gunicorn'] and p.info['ppid'] != 1: print(p.pid)"
        )
        return [int(pid) for pid in found.stdout.split()]


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    name = f"tocsin-truth-{os.getpid()}"
    subprocess.run(["docker", "build", "--quiet", "--tag", name, str(ROOT)], capture_output=True, check=True)
    yield name
    subprocess.run(["docker", "image", "rm", "--force", name], capture_output=True, check=False)


@pytest.fixture(scope="module")
def container(image: str) -> Iterator[Container]:
    port = free_port()
    with receiving(gateway()) as receiver:
        env = {
            "TOCSIN_WEBHOOK_URL": receiver.url,
            "TOCSIN_FRONT_URL": "http://127.0.0.1:8000/livez",
            "TOCSIN_INTERVAL": "1s",
            "TOCSIN_DRAIN": "0s",
        }
        settings = [part for name, value in env.items() for part in ("--env", f"{name}={value}")]
        contained = ["--read-only", "--tmpfs", "/tmp:size=16m", "--cap-drop", "ALL", "--publish", f"127.0.0.1:{port}:8000"]
        command = ["docker", "run", "--detach", "--name", image, *LIMITS, *contained, *settings, image]
        try:
            subprocess.run(command, capture_output=True, check=True)
            running = Container(image, image, f"http://127.0.0.1:{port}", receiver)
            # The start itself takes all of half a core for some seconds.
            eventually(lambda: running.health()["status"] == "healthy", "healthy in 256 MiB", 60)
            yield running
        finally:
            subprocess.run(["docker", "rm", "--force", "--volumes", image], capture_output=True, check=False)


@pytest.mark.alone
def test_p17_cpu_and_memory_are_what_the_cgroup_says(container: Container) -> None:
    """Within two points of the group's own files, in percent of half a core and of 256 MiB, and as the engine counts them."""
    load = ["docker", "exec", "--detach", container.name, "python", "-c", LOAD]
    subprocess.run([*load, "24", "0.035"], check=True)
    try:
        found = container.python(COMPARE)
        assert "" == found.stderr
        stats = ["docker", "stats", "--no-stream", "--format", "{{.MemPerc}}", container.name]
        engine = subprocess.run(stats, capture_output=True, text=True, check=True).stdout.strip("%\n")
        checks = container.health()["checks"]
    finally:
        container.python(END)
    said = json.loads(found.stdout)
    assert len(said["pairs"]) >= 3
    assert median(abs(cpu - min(100.0, own)) for cpu, own, _, _ in said["pairs"]) <= POINTS, said
    assert median(abs(memory - own) for _, _, memory, own in said["pairs"]) <= POINTS, said
    assert abs(float(engine) - checks["mem_usage"]["value"]) <= POINTS
    throttled, own = said["throttled"]
    assert abs(throttled - own) <= 20, said  # of about the same ten seconds
    assert ["cgroup"] * 4 == [checks[name]["scope"] for name in ("cpu_usage", "mem_usage", "cpu_throttled", "oom_kills")]


def test_a_kill_is_told_with_its_scope_and_known_to_a_worker_that_starts(container: Container) -> None:
    """What takes more than there is is killed; the default rule tells it, and a new worker tells it no second time."""
    assert 0 == container.value("oom_kills")
    done = container.python(HOG)
    assert 137 == done.returncode
    eventually(lambda: container.value("oom_kills") == 1, "it is seen", 30)

    def told() -> list[Any]:
        alerts = [each for request in list(container.receiver.requests) for each in request.message["data"]["alerts"]]
        return [each for each in alerts if each["alert"] == "OutOfMemory"]

    (alert,) = eventually(told, "it is told", 40)
    assert ("firing", "warning", "cgroup", 1.0) == tuple(alert[name] for name in ("status", "severity", "scope", "value"))
    assert "self: processes killed for lack of memory in ten minutes: 1 (cgroup)" == alert["summary"]

    before = container.workers()
    container.python(f"import os; [os.kill(pid, 9) for pid in {before}]")
    eventually(lambda: (now := container.workers()) and not set(now) & set(before), "a new worker", 30)
    assert 1 == eventually(lambda: container.value("oom_kills"), "the new worker answers", 30)
    assert 1 == len(told())


def test_p29_workers_come_from_the_quota_and_the_memory(container: Container) -> None:
    """Half a core and 256 MiB are one worker, which is healthy; with more memory it is two, and a setting wins."""
    assert 1 == len(container.workers())
    code = "import runpy; print(runpy.run_path('/app/deploy/gunicorn.conf.py')['workers'])"

    def chosen(*given: str) -> int:
        command = ["docker", "run", "--rm", "--cpus", "0.5", *given, container.image, "python", "-c", code]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert [2, 2] == [chosen("--memory", "512m"), chosen("--memory", "256m", "--env", "WEB_CONCURRENCY=2")]
