"""gunicorn with deploy/gunicorn.conf.py, as a process: workers, draining, logs, and the traps of gevent."""

import os
import re
import signal
import socket
import threading
import time
from pathlib import Path

from tests.stack import ROOT, children, eventually, web


def test_p1_tls_works_in_a_worker(tmp_path: Path) -> None:
    """A worker can open a TLS connection: nothing took hold of `ssl` before gevent patched it."""
    with web(tmp_path, "tests.apps:with_tls()") as running:
        assert "no recursion" == running.get("/tls").text


def test_p1_the_master_loads_no_flask_and_no_requests() -> None:
    """The configuration that gunicorn's master runs imports neither Flask nor requests nor urllib3."""
    import subprocess
    import sys

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
    """gunicorn's own lines go through our chain, once, and its control socket complains about nothing."""
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

    from service.cgroup import Cgroup
    from service.measure import usable_cores

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
