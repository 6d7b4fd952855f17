"""docs/faults.md, row by row: what is served, alerted and logged while something is wrong, and what comes back by itself."""

import os
import re
import resource
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import psutil
import pytest

from service.monitor.room import has_files, has_memory
from tests.machine import FAKETIME, NOWHERE, Machine, machine
from tests.receiver import receiving
from tests.stack import ROOT, children, eventually, unless
from tests.test_loop import needs_mount, told

pytestmark = [needs_mount, pytest.mark.native, pytest.mark.timeout(300)]

HOLD = "import sqlite3, sys; sqlite3.connect(sys.argv[1], isolation_level=None).execute('BEGIN EXCLUSIVE'); sys.stdin.read()"
READABLE = {"/api/v1/alerts": 200, "/metrics": 200, "/": 200, "/api/health": 200, "POST": 503}
JOBS: list[tuple[dict[str, str], dict[str, str]]] = [
    ({"kind": "probe", "target": "b"}, {"type": "interval", "every": "1h"}),
    ({"kind": "prune"}, {"type": "cron", "cron": "0 0 1 1 *"}),
    ({"kind": "backup"}, {"type": "interval", "every": "30d"}),
    ({"kind": "report", "since": "1h"}, {"type": "interval", "every": "7h", "jitter": "1m"}),
]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with machine(tmp_path_factory.mktemp("faults")) as found:
        yield found


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One whose clock can be set. Something of each kind that is counted by a clock is under way."""
    with machine(tmp_path_factory.mktemp("clock"), clock=True) as found:
        said = {"matchers": ['target="d"'], "duration": "30d", "author": "ann"}
        assert 201 == found.call("POST", "/api/v1/silences", json=said).status_code
        for number, (task, trigger) in enumerate(JOBS):
            job = {"name": f"job{number}", "task": task, "trigger": trigger, "author": "ann"}
            assert 201 == found.call("POST", "/api/v1/jobs", json=job).status_code
        found.world.down |= {"b", "c", "d"}
        found.heard(f"firing Down {found.down()}")  # a reminder and an escalation are to come
        eventually(lambda: {"Kept b", "Down d"} <= {f"{each['alert']} {each['target']}" for each in firing(found)}, "all fire")
        found.world.down.discard("b")  # now it is kept firing
        found.tick()
        yield found


def firing(stack: Machine) -> list[dict[str, Any]]:
    return [each for each in stack.call("GET", "/api/v1/alerts").json()["alerts"] if each["state"] == "firing"]


def counted(stack: Machine) -> dict[str, Any]:
    """Whom it has told what, how every alert stands, and what waits."""
    items = stack.call("GET", "/api/v1/alerts").json()["alerts"]
    return {
        "told": stack.told(),
        "boss": len(stack.boss.requests),
        "alerts": sorted((each["alert"], each["target"], each["state"], bool(each["silenced"])) for each in items),
        "waiting": stack.monitor()["waiting"],
        "dead": stack.monitor()["dead"],
    }


def runs(stack: Machine) -> Counter[str]:
    return Counter(each["job"] for each in stack.call("GET", "/api/v1/runs").json()["runs"])


def fires(stack: Machine) -> tuple[str, list[str]]:
    """A target goes down, which is told, and marked as told: killed before that, the next one would tell it again."""
    since, name = len(stack.lines()), stack.down()
    stack.heard(f"firing Down {name}")
    told = stack.ops.requests[-1].headers["webhook-id"]
    eventually(lambda: told in [each["labels.message_id"] for each in stack.said("message delivered", since)], "it is marked")
    return name, stack.told()


def begun_anew(stack: Machine, program: str, before: int) -> None:
    """supervisord has started it again."""
    eventually(lambda: stack.process(program) not in (0, before), f"another {program}", 60)


def fails(stack: Machine, since: int, reason: str) -> str:
    """The database cannot be written, a target goes down: both are told past it, and logged. The target's name."""
    name = stack.down()
    stack.heard(f"firing Down {name}", 60)
    assert "firing DatabaseFailure monitor" in stack.told()
    assert reason in stack.said("alerts are evaluated in memory", since)[0]["error.message"]
    assert stack.said("told past the outbox", since)
    return name


def recovers(stack: Machine, since: int, name: str) -> None:
    """The database can be written: that is told, and what began meanwhile is in it and is closed."""
    eventually(lambda: stack.said("the database can be written again", since), "it can be written again", 60)
    stack.heard("resolved DatabaseFailure monitor", 60)
    eventually(lambda: name in [each["target"] for each in firing(stack)], "it is stored", 60)
    stack.closed(name)
    stack.ops.requests.clear()
    stack.works()


def test_a_full_disk(stack: Machine) -> None:
    """Every page and reading is served, nothing can be changed; with room again all is as before."""
    since = len(stack.lines())
    filler = stack.disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65_536, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    try:
        name = fails(stack, since, "full")
        assert READABLE == stack.served()
    finally:
        filler.unlink()
    recovers(stack, since, name)


def test_a_read_only_data_folder(stack: Machine) -> None:
    """Started on it: what needs no database is served, and what fires is told; once it can be written it is used."""
    for program in ("monitor", "web"):
        stack.supervisord("stopProcess", program)
    since = len(stack.lines())
    stack.mount("ro")
    try:
        for program in ("web", "monitor"):
            stack.supervisord("startProcess", program, False)  # and wait for nothing
        eventually(lambda: stack.call("GET", "/livez").ok, "web answers")
        name = fails(stack, since, "unable to open database file")
        assert READABLE | {"/api/v1/alerts": 503} == stack.served()
    finally:
        stack.mount("rw")
    recovers(stack, since, name)


def test_a_locked_database(stack: Machine) -> None:
    """Another process holds it for longer than anybody waits: reading goes on, and writing when it lets go."""
    since = len(stack.lines())
    command = stack.inside(sys.executable, "-c", HOLD, str(stack.folder / "data/tocsin.db"))
    with subprocess.Popen(command, stdin=subprocess.PIPE) as other:
        try:
            name = fails(stack, since, "locked")
            assert READABLE == stack.served()
        finally:
            other.kill()
    recovers(stack, since, name)


def test_a_receiver_whose_name_does_not_resolve(stack: Machine) -> None:
    """Others are told meanwhile; what waits is sent when it resolves. Its address is in no line."""
    since = len(stack.lines())
    stack.world.down.add("b")
    failed = "message not delivered"
    eventually(lambda: any(each["labels.receiver"] == "nowhere" for each in stack.said(failed, since)), "a try")
    assert 1 == stack.monitor()["waiting"]
    stack.works()
    with receiving(port=stack.port) as nowhere:
        (stack.folder / "hosts").write_text(f"127.0.0.1 localhost\n127.0.0.1 {NOWHERE}\n")
        eventually(lambda: "firing Kept b" in told(nowhere), "it is told", 60)
        eventually(lambda: not stack.monitor()["waiting"], "nothing waits")
    assert "its name does not resolve" in {line.get("error.message") for line in stack.said("not delivered", since)}
    assert NOWHERE not in (stack.folder / "log").read_text()


def limited(stack: Machine, kind: int, limit: int) -> None:
    """The monitor comes to its limit while an alert fires: a new one goes on, and tells nothing twice or falsely."""
    since, before = len(stack.lines()), stack.process("monitor")
    name, before_it = fires(stack)
    resource.prlimit(before, kind, (limit, resource.prlimit(before, kind)[1]))
    begun_anew(stack, "monitor", before)
    assert {"/api/v1/alerts": 200, "/metrics": 200, "/": 200, "/api/health": 200, "POST": 201} == stack.served()
    eventually(lambda: stack.said("monitor started", since), "it goes on", 60)
    stack.tick()
    assert before_it == stack.told()
    stack.closed(name)


def test_a_monitor_out_of_file_descriptors(stack: Machine) -> None:
    """It takes no target for down because it cannot ask; it says why it ends."""
    since = len(stack.lines())
    limited(stack, resource.RLIMIT_NOFILE, 1)
    assert "too many files are open here" in {line.get("error.message") for line in stack.said("uncaught exception", since)}


def test_a_monitor_at_its_memory_limit(stack: Machine) -> None:
    """It is not left with threads that never begin, and takes no target for down."""
    since = len(stack.lines())
    limited(stack, resource.RLIMIT_AS, psutil.Process(stack.process("monitor")).memory_info().vms)
    # Which one, depends on what was about to be begun when the limit was reached.
    assert {"MemoryError", "RuntimeError"} & {line.get("error.type") for line in stack.said("uncaught exception", since)}


def test_a_monitor_that_the_kernel_kills(stack: Machine) -> None:
    """As it does where a container has no memory left: nothing is lost, nothing told twice."""
    since, before = len(stack.lines()), stack.process("monitor")
    name, before_it = fires(stack)
    os.kill(before, signal.SIGKILL)
    begun_anew(stack, "monitor", before)
    eventually(lambda: stack.said("terminated by SIGKILL", since), "supervisord says so")
    stack.tick()
    assert before_it == stack.told()
    stack.closed(name)


def test_workers_out_of_file_descriptors(stack: Machine) -> None:
    """No worker spins, or ends in the midst of a request; others take their place, and what has connected is answered."""
    since, master = len(stack.lines()), stack.process("web")
    workers = children(master)
    for pid in workers:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (1, resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]))
    assert 200 == stack.call("GET", "/api/health").status_code
    eventually(lambda: not set(workers) & set(children(master)), "other workers", 60)
    replaced = stack.said("worker can open nothing", since)
    assert set(workers) == {line["process.pid"] for line in replaced}
    assert len(stack.said("unhandled error", since)) < 100
    assert not stack.said("Exception in worker process", since)
    assert master == stack.process("web")
    stack.works()


@unless(FAKETIME is not None, "there is no faketime here; tests/packages.sh installs it")
@pytest.mark.parametrize("ahead", [-3600, 86_400], ids=["back an hour", "forward a day"])
def test_a_clock_that_is_set(timed: Machine, ahead: int) -> None:
    """There and back: nothing fires, ends, is repeated, escalated or given up for it; a job whose time has passed runs once."""
    before, ran = counted(timed), runs(timed)
    for place in (ahead, 0):
        since = len(timed.lines())
        timed.set_clock(place)
        eventually(partial(timed.said, "the clock was set", since), "the step is seen", 40)
        if place > 0:
            eventually(lambda: {"job0", "job3"} <= set(runs(timed) - ran), "what was due in the meantime runs", 40)
        timed.tick(6)
        assert before == counted(timed)
        assert 200 == timed.call("GET", "/api/health").status_code
        assert 1 == len(timed.said("the clock was set", since))
    more = runs(timed) - ran
    assert set(more.values()) <= {1}
    assert ahead > 0 or not more
    timed.works()


def test_what_a_process_may_still_have() -> None:
    """It is asked of the system itself."""
    assert (True, True) == (has_files(), has_memory())


def test_every_row_is_a_test() -> None:
    """The table of docs/faults.md names each test here that breaks something, and no other."""
    rows = re.findall(r"^\|.*\| `(test_\w+)`[^|]*\|$", (ROOT / "docs/faults.md").read_text(encoding="utf-8"), re.MULTILINE)
    ours = re.findall(r"^def (test_\w+)\(\w+: Machine", (ROOT / "tests/test_faults.py").read_text(encoding="utf-8"), re.MULTILINE)

    assert sorted(set(ours)) == sorted(set(rows))
