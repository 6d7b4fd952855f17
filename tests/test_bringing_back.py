"""What stops is brought back, natively: `make up`, then things are hung, stopped and broken, and receivers are counted."""

import os
import re
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.checkout import copy, make
from tests.receiver import receiving
from tests.stack import children, eventually, free_port
from tests.test_native import KEY, Native

pytestmark = [pytest.mark.native, pytest.mark.timeout(300)]

RULES = """
rules:
  - alert: TargetDown
    when: up == 0
    for: 1s
    keep_firing_for: 0s
    heal: {after: 1s, attempts: 3, within: 15m, confirm: 2s}
    summary: "{{ target }} does not answer"
"""
WITH_KEY = {"Authorization": f"Bearer {KEY}"}


class Stack(Native):
    web = ""  # where gunicorn itself answers

    def told(self, alert: str = "TargetDown") -> list[str]:
        """What the receiver got about one alert, as `firing critical: summary`."""
        alerts = [each for request in list(self.receiver.requests) for each in request.message["data"]["alerts"]]
        return [f"{each['status']} {each['severity']}: {each['summary']}" for each in alerts if each["alert"] == alert]

    def restarts(self) -> list[tuple[Any, ...]]:
        """Every restart as it is stored: service, who asked, outcome; oldest first."""
        with closing(sqlite3.connect(self.folder / "data/tocsin.db")) as database:
            return database.execute("SELECT service, asked_by, outcome FROM restarts ORDER BY started").fetchall()

    def tocsin(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [str(self.folder / ".venv/bin/tocsin"), *arguments]
        env = {**os.environ, **self.env, "TOCSIN_DATA": str(self.folder / "data")}
        return subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, check=False, timeout=120)

    def supervisorctl(self, *arguments: str) -> None:
        socket = f"unix://{self.folder}/data/supervisor.sock"
        subprocess.run([".venv/bin/supervisorctl", "-s", socket, *arguments], cwd=self.folder, capture_output=True, check=False)

    def hang(self, program: str) -> int:
        """Stop a master and its workers in the middle of what they do; the master's pid."""
        master = self.pid(program)
        for process in (master, *children(master)):
            os.kill(process, signal.SIGSTOP)
        return master


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    folder = copy(tmp_path)
    (folder / "rules.yaml").write_text(RULES)
    # A person's restart waits so long for a process that hangs.
    conf = folder / "deploy/supervisor/supervisord.conf"
    conf.write_text(conf.read_text(encoding="utf-8").replace("stopwaitsecs = 75", "stopwaitsecs = 12"), encoding="utf-8")
    port, web = free_port(), free_port()
    with receiving() as receiver:
        env = {
            "DOCKER_HOST": "unix:///nonexistent",  # no engine answers there
            "TOCSIN_HTTP_PORT": str(port),
            "TOCSIN_WEB_ADDRESS": f"127.0.0.1:{web}",
            "TOCSIN_DATA": "data",
            "TOCSIN_DRAIN": "1s",
            "TOCSIN_INTERVAL": "1s",
            "TOCSIN_CONFIG": str(folder / "rules.yaml"),
            "TOCSIN_WEBHOOK_URL": receiver.url,
            "TOCSIN_API_KEY": KEY,
        }
        up = make(folder, "up", env)
        try:
            running = Stack(folder, env, f"http://127.0.0.1:{port}", receiver, up.stdout)
            running.web = f"http://127.0.0.1:{web}"
            yield running
        finally:
            make(folder, "down", env)


@pytest.mark.parametrize(("program", "target"), [("web", "self"), ("nginx", "front")])
def test_what_hangs_is_restarted_and_healthy_again(stack: Stack, program: str, target: str) -> None:
    """SIGSTOP of a master and all its workers: it is restarted, and the receiver has exactly firing, restarting, resolved."""
    before = stack.hang(program)

    eventually(lambda: len(stack.told()) >= 3, "its end", 60)
    time.sleep(3)  # three more ticks: nothing else comes
    down = re.sub(r"down \d+ s", "down N s", stack.told()[-1])
    assert [
        f"firing warning: {target} does not answer",
        f"firing warning: Restarting {program} (1 of 3): {target} does not answer",
        f"resolved warning: Healthy again after 1 restart, down N s: {target} does not answer",
    ] == [*stack.told()[:-1], down]
    assert stack.pid(program) not in (0, before)
    assert 200 == stack.status()
    assert [(program, "monitor", "healthy")] == stack.restarts()


def test_a_web_that_can_never_start_is_given_up_after_three(stack: Stack) -> None:
    """Exactly three restarts, one critical page, nothing after it, through two kills of the monitor; a person mends it."""
    conf = stack.folder / "deploy/gunicorn.conf.py"
    right = conf.read_text(encoding="utf-8")
    conf.write_text("import sys\n\nsys.exit('broken on purpose')\n", encoding="utf-8")
    os.kill(stack.pid("web"), signal.SIGKILL)

    eventually(lambda: any("(2 of 3)" in text for text in stack.told()), "the second restart", 60)
    os.kill(stack.pid("monitor"), signal.SIGKILL)
    eventually(lambda: any("Given up" in text for text in stack.told()), "the page", 90)
    os.kill(stack.pid("monitor"), signal.SIGKILL)
    time.sleep(12)  # longer than the longest wait between two restarts
    about_it = ": self does not answer"
    assert [
        "firing warning: self does not answer",
        *(f"firing warning: Restarting web ({number} of 3){about_it}" for number in (1, 2, 3)),
        f"firing critical: Given up on web after 3 restarts{about_it}",
    ] == stack.told()
    assert ["web"] * 3 == [service for service, *_ in stack.restarts()]
    assert {"monitor"} == {asked_by for _, asked_by, _ in stack.restarts()}
    # supervisord has given it up, too, which the alert that was given up says well enough: one page.
    assert [] == stack.told("ServiceFailure")

    conf.write_text(right, encoding="utf-8")
    done = stack.tocsin("service", "restart", "web")
    assert 0 == done.returncode, done.stdout + done.stderr
    eventually(lambda: len(stack.told()) == 6, "its end", 60)
    assert stack.told()[-1].startswith("resolved critical: Resolved after ")
    assert ("web", "command", "healthy") == stack.restarts()[-1]


def test_nginx_stopped_by_a_person_stays_stopped_until_it_is_asked_for(stack: Stack) -> None:
    """`supervisorctl stop nginx`: nobody starts it, though its alert fires; a POST does, and answers with the new pid."""
    stack.supervisorctl("stop", "nginx")
    eventually(stack.told, "the alert", 30)
    time.sleep(6)  # long past `after`
    assert (["firing warning: front does not answer"], []) == (stack.told(), stack.restarts())
    assert 0 == stack.pid("nginx")

    answer = requests.post(f"{stack.web}/api/service/restart", json={"name": "nginx"}, headers=WITH_KEY, timeout=90)
    assert 200 == answer.status_code
    assert stack.pid("nginx") == answer.json()["new_pid"]
    assert answer.json()["old_pid"] is None
    assert 200 == stack.status()
    eventually(lambda: len(stack.told()) == 2, "its end", 30)
    assert stack.told()[1].startswith("resolved warning: Resolved after ")


def test_an_operators_restart_is_not_interfered_with(stack: Stack) -> None:
    """While a person restarts web, and just after it, the monitor does nothing, though its alert fires."""
    before = stack.hang("web")
    done = stack.tocsin("service", "restart", "web")  # supervisord waits longer for it than the monitor's patience

    assert 0 == done.returncode, done.stdout + done.stderr
    eventually(lambda: any(text.startswith("resolved") for text in stack.told()), "its end", 30)
    assert [("web", "command", "healthy")] == stack.restarts()
    assert ["firing", "resolved"] == [text.split()[0] for text in stack.told()]
    assert stack.pid("web") != before
