"""Workers count together: in files by slot, which lose nothing, do not grow, and stop nobody from starting."""

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client.multiprocess import MultiProcessCollector

from service import counting
from service.counting import Folder, Shared
from service.settings import Settings
from service.web import create_app
from tests.stack import ROOT, Running, children, eventually, web

Lines = Callable[[], list[dict[str, Any]]]
COUNTS = """
import itertools, sys
from pathlib import Path
from service import counting, logs
logs.configure("tocsin-web")
counting.share(Path(sys.argv[1]), 0)
from prometheus_client import CollectorRegistry
from service.web.metrics import Requests
requests = Requests(CollectorRegistry(), counting.Shared.own)
for number in itertools.count() if len(sys.argv) == 2 else range(int(sys.argv[2])):
    requests.count(f"/{number % 500}", "GET", 200, 0.1)
    if number % 100 == 0 and len(sys.argv) == 2:
        print(number, flush=True)
"""


def counted(running: Running, route: str = "/livez") -> float:
    """The requests to a route, by a scrape."""
    found = re.findall(rf'^tocsin_http_requests_total{{.*route="{route}".*}} (\S+)$', running.get("/metrics").text, re.MULTILINE)
    return sum(map(float, found))


def in_files(folder: Path) -> float:
    """All requests that the files in a folder have."""
    merged = MultiProcessCollector.merge([str(file) for file in folder.glob("*.db")])  # type: ignore[no-untyped-call]
    return float(sum(sample.value for metric in merged for sample in metric.samples if sample.name.endswith("requests_total")))


def fresh(running: Running, old: set[int]) -> bool:
    """Whether both workers are others."""
    return len(set(children(running.process.pid)) - old) == 2


def gone(pids: list[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "counts").mkdir()
    return tmp_path / "counts"


def test_the_master_does_not_load_prometheus_client() -> None:
    """It loads ssl, which must not be there when gevent patches the workers (P1)."""
    code = "import runpy, sys; runpy.run_path('deploy/gunicorn.conf.py'); print('prometheus_client' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert "False\n" == out


def test_nothing_is_lost_and_nothing_grows_as_workers_come_and_go(tmp_path: Path) -> None:
    """Workers are killed, reloaded and recycled under load: no count goes back, each answer is counted, once, and there are
    no more files than workers have lived at the same time, times two. So it is for a metric of one's own, made with
    prometheus_client as its documentation has it.
    """
    asked, answered, over = [0], [0], threading.Event()

    def ask(running: Running) -> None:
        while not over.is_set():
            asked[0] += 1
            try:
                answered[0] += running.status("/livez") == 200
            except OSError:  # its worker was killed
                time.sleep(0.01)

    with web(tmp_path, "tests.apps:selling()", GUNICORN_CMD_ARGS="--max-requests 60 --max-requests-jitter 20") as running:
        for _ in range(20):
            assert requests.post(f"{running.url}/orders", timeout=10).ok
        before = counted(running)
        (folder,) = set().union(*map(open_folders, children(running.process.pid)))
        thread = threading.Thread(target=ask, args=(running,))
        thread.start()
        seen, files = [before], set()
        for number in range(5):
            if number == 2:
                running.process.send_signal(signal.SIGHUP)
            else:
                os.kill(random.choice(children(running.process.pid)), signal.SIGKILL)
            for _ in range(4):
                time.sleep(0.1)
                try:
                    seen.append(counted(running))
                except OSError:  # its worker was killed
                    continue
                files |= {path.name for path in folder.glob("*.db")}
        over.set()
        thread.join()
        eventually(lambda: len(children(running.process.pid)) == 2, "two workers again")
        last = counted(running)
        assert sorted(seen) == seen
        assert answered[0] <= last - before <= asked[0]
        assert answered[0] > 50
        assert 4 <= len(files) <= 12
        left = {path.name for path in folder.iterdir()}
        old = set(children(running.process.pid))
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        eventually(partial(fresh, running, old), "new workers")
        eventually(lambda: counted(running) >= last, "a scrape")
        assert 20 == counted(running, "/orders")
        assert 'shop_orders_total{kind="tea"} 40.0' in running.get("/metrics").text
        assert left == {path.name for path in folder.iterdir()}
    assert not folder.exists()


def open_folders(pid: int) -> set[Path]:
    """Where the files of counts are that a worker has open."""
    links = (path.readlink() for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink())
    return {link.parent for link in links if link.suffix == ".db" and "/tocsin-" in str(link)}


def test_a_killed_master_leaves_nothing_that_grows(tmp_path: Path) -> None:
    """The next one, of whatever data folder, deletes what it finds, also while a worker still lives, and begins at nothing."""
    (tmp_path / "next").mkdir()
    with web(tmp_path, WEB_CONCURRENCY="1") as running:
        workers = children(running.process.pid)
        (folder,) = set().union(*map(open_folders, workers))
        for _ in range(20):
            running.get("/readyz")
        assert 20 <= counted(running, "/readyz") < 30
        os.kill(workers[0], signal.SIGSTOP)
        running.process.kill()
        running.process.wait()
        with web(tmp_path / "next", WEB_CONCURRENCY="1") as other:
            assert not folder.exists()  # although a worker of it lives
            assert counted(other, "/readyz") < 10
        os.kill(workers[0], signal.SIGCONT)
        eventually(partial(gone, workers), "its workers end")


def test_two_masters_count_apart(tmp_path: Path) -> None:
    """Each has a folder of its own, private, and deletes none that another one holds, but what one has left that was killed."""
    first = Folder(tmp_path)
    (first.path / "counter_0.db").touch()
    second = Folder(tmp_path)
    assert {first.path, second.path} == set(tmp_path.iterdir())
    assert 0o700 == first.path.stat().st_mode & 0o777 == second.path.stat().st_mode & 0o777
    second.delete()
    assert (first.path / "counter_0.db").exists()
    first.let_go()  # as the end of its process does
    third = Folder(tmp_path)
    assert [third.path] == list(tmp_path.iterdir())
    third.delete()
    assert [] == list(tmp_path.iterdir())


def test_masters_that_start_together_leave_each_other_alone(tmp_path: Path) -> None:
    """Many at once, each of which deletes what nobody holds: each keeps its own."""
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: Folder(tmp_path), range(200)))
    assert sorted(folder.path for folder in made) == sorted(tmp_path.iterdir())
    for folder in made:
        folder.delete()


def test_what_else_has_such_a_name_is_left_alone(tmp_path: Path) -> None:
    """Anybody may put a link or a file there: it is not followed, and nothing waits for it."""
    elsewhere, name = tmp_path / "elsewhere", f"tocsin-{os.getuid()}-"
    elsewhere.mkdir()
    (elsewhere / "mine").touch()
    (tmp_path / f"{name}link").symlink_to(elsewhere)
    (tmp_path / f"{name}file").touch()
    os.mkfifo(tmp_path / f"{name}pipe")
    Folder(tmp_path).delete()
    assert ["elsewhere", f"{name}file", f"{name}link", f"{name}pipe"] == sorted(path.name for path in tmp_path.iterdir())
    assert (elsewhere / "mine").exists()


def test_without_a_folder_it_serves_and_says_so(settings: Settings, tmp_path: Path, lines: Lines) -> None:
    """No place in memory: the scrape has all but the requests."""
    assert counting.folder(tmp_path / "nowhere") is None
    assert ["error"] == [line["log.level"] for line in lines()]
    counting.share(None, 0)
    try:
        app = create_app(settings)
        app.extensions["sampler"].stop()
        text = [app.test_client().get("/metrics").text for _ in range(2)][1]
    finally:
        Shared.own = None
    assert "tocsin_http" not in text
    assert "tocsin_load1 " in text


@pytest.mark.parametrize(("taken", "free"), [([], 0), ([0, 1], 2), ([1, 2], 0), ([0, 2], 1)])
def test_a_slot_is_the_least_that_is_free(taken: list[int], free: int) -> None:
    assert free == counting.slot(taken)


def counting_process(place: Path, *arguments: str, limit: int | None = None) -> "subprocess.Popen[str]":
    """Counts as a worker does; `limit` is how many bytes a file may have."""
    prefix = ["prlimit", f"--fsize={limit}"] if limit is not None else []
    command = [*prefix, sys.executable, "-c", COUNTS, str(place), *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_worker_killed_in_the_midst_of_a_write_breaks_nothing(place: Path) -> None:
    """Files are read meanwhile, the next one on the slot goes on where it was, and the first as the last are as many."""
    before = 0.0
    for _ in range(4):
        with counting_process(place) as process:
            assert process.stdout
            said = [process.stdout.readline()]
            end = time.monotonic() + random.uniform(0, 0.1)
            while time.monotonic() < end:
                assert in_files(place) >= before
            process.kill()
            said += process.stdout.readlines()
        assert in_files(place) > before + int(said[-1])
        before = in_files(place)
    assert ["counter_0.db", "histogram_0.db"] == sorted(path.name for path in place.iterdir())


def test_a_file_that_cannot_be_read_begins_anew(place: Path, lines: Lines) -> None:
    """Whatever stands in it: the worker starts, and says so."""
    for number, content in enumerate(
        (b"", b"\0" * 1000, b"\xff" * 1000, b"\xff\0\0\0" * 100, b"\x28\0\0\0    \x04\0\0\0nope" + b" " * 99)
    ):
        file = place / f"counter_{number}.db"
        file.write_bytes(content)
        Shared(place, number).make()
        assert (1 << 16, b"\x08\0\0\0") == (file.stat().st_size, file.read_bytes()[:4])
    assert 0 == in_files(place)
    assert 5 == len(lines())


@pytest.mark.parametrize(("limit", "least", "most"), [(1 << 16, 5, 60), (1000, 0, 0)], ids=["for more", "for any"])
def test_without_room_it_goes_on_and_says_so_once(place: Path, limit: int, least: int, most: int) -> None:
    """A file may not grow, as on a full file system: what has no room is not counted, what has it still is."""
    with counting_process(place, "1000", limit=limit) as process:
        assert process.stdout
        said = process.stdout.read()
    assert 0 == process.returncode
    assert 1 == said.count("not count"), said
    assert least * 2 <= in_files(place) <= most * 2


def test_a_file_has_room_before_it_is_needed(place: Path) -> None:
    """Memory is reserved, not promised: as many blocks as the file is long, however many routes there are."""
    for routes in ("1", "2999"):
        with counting_process(place, routes) as process:
            pass
        assert 0 == process.returncode
        for file in place.iterdir():
            found = file.stat()
            assert found.st_blocks * 512 >= found.st_size
    assert 3000 == in_files(place)
    assert (place / "histogram_0.db").stat().st_size > 1 << 16


@pytest.fixture(autouse=True)
def nothing_shared() -> Iterator[None]:
    """No test makes this process a worker."""
    yield
    assert Shared.own is None
