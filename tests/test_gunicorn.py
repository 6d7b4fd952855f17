"""gunicorn with deploy/gunicorn.conf.py, as a process: workers and their limits, draining, logs, and the traps of gevent."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import psutil
import pytest
import requests

from service.cgroup import Cgroup
from service.measure import usable_cores
from service.settings import LEAST_MEMORY
from tests.stack import ROOT, children, eventually, nginx, web


def test_p1_tls_works_in_a_worker(tmp_path: Path) -> None:
    """A worker can open a TLS connection: nothing took hold of `ssl` before gevent patched it."""
    with web(tmp_path, "tests.apps:with_tls()") as running:
        assert "no recursion" == running.get("/tls").text


def test_p1_the_master_loads_no_flask_and_no_requests() -> None:
    """The configuration that gunicorn's master runs imports neither Flask nor requests nor urllib3."""
    code = "import runpy, sys; runpy.run_path('deploy/gunicorn.conf.py'); "
    code += "print(sorted({'flask', 'requests', 'urllib3'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert "[]\n" == out


def test_p4_gunicorn_keeps_an_idle_connection_longer_than_nginx() -> None:
    """nginx hangs up first: its upstream keepalive_timeout is below gunicorn's keepalive."""
    upstream = re.search(
        r"upstream web \{.*?keepalive_timeout (\d+)s;", (ROOT / "deploy/nginx/nginx.conf").read_text(), re.DOTALL
    )
    gunicorn = re.search(r"^keepalive = (\d+)$", (ROOT / "deploy/gunicorn.conf.py").read_text(), re.MULTILINE)
    assert upstream
    assert gunicorn

    assert int(upstream[1]) + 2 <= int(gunicorn[1])


def test_the_times_of_a_stop_fit_into_each_other() -> None:
    """Docker waits longer than supervisord, supervisord longer than gunicorn, at the longest drain."""
    conf = (ROOT / "deploy/supervisor/supervisord.conf").read_text()
    web_wait, monitor = (int(wait) for wait in re.findall(r"stopwaitsecs = (\d+)", conf))
    grace = max(int(wait) for wait in re.findall(r"stop_grace_period: (\d+)s", (ROOT / "compose.yaml").read_text()))
    longest_drain, graceful = 30, 30

    assert longest_drain + graceful < web_wait
    assert monitor + web_wait < grace


def test_p5_p13_every_line_is_json_and_said_once(tmp_path: Path) -> None:
    """gunicorn's own lines are ours, once, and its control socket complains about nothing."""
    with web(tmp_path, HOME="/nonexistent") as running:
        running.get("/livez")
        lines = eventually(lambda: [line for line in running.lines() if "/livez" in line["message"]], "the access line")
        messages = [line["message"] for line in running.lines()]

    assert 1 == len(lines)
    assert 1 == sum("Starting gunicorn" in message for message in messages)
    assert [] == [message for message in messages if "control" in message.lower()]


def test_p3_p29_workers_are_chosen_from_what_the_container_may_use(tmp_path: Path) -> None:
    """Without WEB_CONCURRENCY there are as many workers as usable cores, and two at least."""
    import math

    with web(tmp_path, WEB_CONCURRENCY=None) as running:
        assert max(2, math.ceil(usable_cores(Cgroup.of_this_process()))) == len(children(running.process.pid))


def test_a_killed_worker_is_replaced_and_requests_meanwhile_are_answered(tmp_path: Path) -> None:
    """kill -9 of a worker: another one is there within seconds, and new requests find one that lives."""
    with web(tmp_path) as running:
        before = children(running.process.pid)
        os.kill(before[0], signal.SIGKILL)
        eventually(lambda: before[0] not in children(running.process.pid), "the worker is gone")
        assert [200] * 20 == [running.status("/livez") for _ in range(20)]
        eventually(lambda: len(children(running.process.pid)) == 2, "a new worker", 5)


def test_sigterm_drains(tmp_path: Path) -> None:
    """After SIGTERM /readyz and /api/health are 503 while requests are still answered; then it ends with status 0."""
    with web(tmp_path, "tests.apps:slow()", TOCSIN_DRAIN="3s") as running:
        slow: list[str] = []
        thread = threading.Thread(target=lambda: slow.append(running.get("/slow?seconds=4").text))
        thread.start()
        time.sleep(0.3)
        running.process.send_signal(signal.SIGTERM)
        eventually(lambda: running.status("/readyz") == 503, "draining is said", 2)

        assert [503, 200] == [running.status(path) for path in ("/api/health", "/livez")]
        thread.join()
        assert ["done"] == slow
        assert 0 == running.process.wait(20)


@pytest.mark.parametrize("pause", [0.0, 0.1, 0.3])
def test_a_stop_does_not_wait_for_a_worker_that_still_starts(tmp_path: Path, pause: float) -> None:
    """SIGTERM just when a new worker appears, or while it loads: gunicorn ends well, and long before it would kill it."""
    with web(tmp_path) as running:
        before = children(running.process.pid)
        os.kill(before[0], signal.SIGKILL)
        while not set(children(running.process.pid)) - set(before):
            time.sleep(0.001)
        time.sleep(pause)
        running.process.send_signal(signal.SIGTERM)

        assert 0 == running.process.wait(15)


def test_a_reload_does_not_look_like_draining(tmp_path: Path) -> None:
    """While HUP replaces the workers, /readyz is never 503 and no request fails."""
    with web(tmp_path, TOCSIN_DRAIN="3s") as running:
        before = set(children(running.process.pid))
        running.process.send_signal(signal.SIGHUP)
        statuses = set()
        while before & set(children(running.process.pid)):
            statuses.add(running.status("/readyz"))

    assert {200} == statuses


def test_what_gunicorn_refuses_is_a_problem_document(tmp_path: Path) -> None:
    """A request that never reaches the application gets problem+json too, and the id that is in the log."""
    import json

    with web(tmp_path) as running:
        host, port = running.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), 5) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-A: \x01\r\n\r\n")
            head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
        problem = json.loads(body)
        line = eventually(lambda: next((x for x in running.lines() if "Invalid request" in x["message"]), None), "its line")

    assert b"application/problem+json" in head
    assert 400 == problem["status"]
    assert problem["request_id"] == line["http.request.id"]


@contextmanager
def load(address: str) -> Iterator[list[tuple[str, int | str]]]:
    """Ask all the time, on kept connections: GET /readyz and POST /livez in turn. Gives what came of each."""
    answers: list[tuple[str, int | str]] = []
    stop = threading.Event()

    def ask(body: bytes) -> None:
        with requests.Session() as session:
            for method, path in cycle((("GET", "/readyz"), ("POST", "/livez"))):
                try:
                    answer = session.request(method, address + path, data=body if method == "POST" else None, timeout=60)
                    answers.append((method, answer.status_code))
                except requests.RequestException as error:
                    answers.append((method, type(error).__name__))
                if stop.wait(0.05):
                    return

    threads = [threading.Thread(target=ask, args=(b"x" * size,)) for size in (0, 1, 1000, 60_000) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ({"TOCSIN_WORKER_MEMORY": "128MiB"}, "it is replaced"),
        ({"GUNICORN_CMD_ARGS": "--max-requests 50 --max-requests-jitter 20"}, "Autorestarting worker"),
    ],
    ids=["memory", "requests"],
)
def test_p6_a_worker_at_its_limit_is_replaced_and_no_request_fails(tmp_path: Path, limit: dict[str, str], said: str) -> None:
    """Under load, through nginx, workers reach their limit one after the other: not one GET or POST fails or says 503."""
    with web(tmp_path, "tests.apps:leaking()", **limit) as running, nginx(tmp_path, running.url.removeprefix("http://")) as front:
        seen = set(children(running.process.pid))

        def six() -> bool:
            seen.update(children(running.process.pid))
            return len(seen) >= 6

        with load(front.url) as answers:
            eventually(six, "four replacements", 60)
        lines = [line for line in running.lines() if said in line["message"]]

    assert {("GET", 200), ("POST", 200)} == set(answers)
    assert 200 <= len(answers)  # four were replaced, none before its fiftieth answer
    assert 4 <= len(lines)
    if "TOCSIN_WORKER_MEMORY" in limit:
        assert {("process", "tocsin-web")} == {(line["event.category"], line["service.name"]) for line in lines}
        assert re.fullmatch(r"worker has \d+ MiB, and may have 1\d\d MiB; it is replaced", lines[0]["message"])


@pytest.mark.parametrize(("path", "status"), [("/spin", 500), ("/spin/after", 200)])
def test_a_worker_that_spins_is_replaced_and_no_other_request_fails(tmp_path: Path, path: str, status: int) -> None:
    """Code that never lets go is ended by an error where it stands, and all that waited behind it is answered."""
    with web(tmp_path, "tests.apps:spinning()") as running, nginx(tmp_path, running.url.removeprefix("http://")) as front:
        before = set(children(running.process.pid))
        with load(front.url) as answers:
            eventually(lambda: len(answers) > 50, "load")
            spun = requests.get(front.url + path, timeout=60)
            eventually(lambda: before - set(children(running.process.pid)), "a worker is replaced", 60)
            after = len(answers)
            eventually(lambda: len(answers) > after + 50, "load")
        stack = eventually(lambda: [x for x in running.lines() if x.get("error.type") == "StuckError"], "the line")

    assert status == spun.status_code
    assert {("GET", 200), ("POST", 200)} == set(answers)
    assert 1 == len(stack)
    assert "in spin\n" in stack[0]["error.stack_trace"]


def test_a_worker_that_hears_no_signal_costs_the_posts_it_held(tmp_path: Path) -> None:
    """Code that not even a signal reaches is killed: a GET is asked again, a POST on its connections gets 502, none waits."""
    with web(tmp_path, "tests.apps:spinning()") as running, nginx(tmp_path, running.url.removeprefix("http://")) as front:
        before = set(children(running.process.pid))
        with load(front.url) as answers:
            eventually(lambda: len(answers) > 50, "load")
            with pytest.raises(requests.ConnectionError):  # not through nginx, which would ask another worker for it
                requests.get(f"{running.url}/spin/deaf", timeout=60)
            eventually(lambda: len(set(children(running.process.pid)) - before) == 1, "a new worker")
            after = len(answers)
            eventually(lambda: len(answers) > after + 50, "load")

    failed = [answer for answer in answers if answer[1] != 200]
    assert set(failed) <= {("POST", 502)}
    assert len(failed) <= 8  # one for each connection


def test_p7_what_waits_for_a_spinning_worker_is_answered_before_nginx_gives_up() -> None:
    """Twice gunicorn's `timeout`, and the seconds it takes to see it, are less than nginx waits for any answer.

    But for health: that nothing answers is to show there, and soon.
    """
    files = [file for file in (ROOT / "deploy/nginx").glob("*.conf") if file.name != "health.conf"]
    nginx_waits = [int(x) for file in files for x in re.findall(r"proxy_read_timeout (\d+)s;", file.read_text())]
    gunicorn = re.search(r"^timeout = (\d+)$", (ROOT / "deploy/gunicorn.conf.py").read_text(), re.MULTILINE)
    assert gunicorn

    assert 2 * int(gunicorn[1]) + 5 < min(nginx_waits)


@pytest.mark.parametrize("workers", [1, 2, 64])
def test_the_workers_may_have_six_tenths_of_the_memory(workers: int) -> None:
    """Together, of what the container or the machine has; but each as much as it needs. A setting wins."""
    limits = [psutil.virtual_memory().total]
    if in_cgroup := Cgroup.of_this_process().memory_used():
        limits.append(in_cgroup[1])
    code = "import runpy; print(runpy.run_path('deploy/gunicorn.conf.py')['worker_memory'])"

    def of_a_worker(**env: str) -> int:
        env |= {"WEB_CONCURRENCY": str(workers), "PATH": os.environ["PATH"]}
        return int(subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, check=True).stdout)

    assert max(LEAST_MEMORY, int(0.6 * min(limits) / workers)) == of_a_worker()
    assert 300 << 20 == of_a_worker(TOCSIN_WORKER_MEMORY="300MiB")


def test_a_killed_worker_with_kept_connections_costs_no_get(tmp_path: Path) -> None:
    """nginx keeps connections to it that are dead then; each GET that meets some of them is asked again until one answers."""

    def ask(_: int) -> int:
        return front.status("/api/health")

    with web(tmp_path) as running, nginx(tmp_path, running.url.removeprefix("http://")) as front, ThreadPoolExecutor(12) as pool:
        seen = Counter[int]()
        for _ in range(5):
            list(pool.map(ask, range(40)))
            before = children(running.process.pid)
            os.kill(before[0], signal.SIGKILL)
            seen.update(pool.map(ask, range(60)))
            eventually(lambda before=before: len(set(children(running.process.pid)) - {before[0]}) >= 2, "a new one")  # type: ignore[misc]

    assert {200: 300} == seen
