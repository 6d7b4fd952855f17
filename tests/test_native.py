"""The whole stack on a machine without Docker, driven from outside: `make up`, alerts, kills, `make down`."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import requests
from standardwebhooks import Webhook

from service import alive
from tests.checkout import copy, make
from tests.load import busy
from tests.receiver import Receiver, receiving
from tests.stack import children, eventually, free_port

pytestmark = [pytest.mark.native, pytest.mark.timeout(300)]

KEY = "a key of 24 characters.."
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
RULES = """
rules:
  - alert: HighCpu
    when: cpu_usage > 97 # of the machine, on which other tests run, too
    for: 3s
    keep_firing_for: 2s
    targets: [self]
    summary: "{{ target }}: CPU at {{ value }} %"
"""


@dataclass
class Native:
    folder: Path
    env: dict[str, str]
    url: str
    receiver: Receiver
    said: str

    def pid(self, program: str) -> int:
        """The process of a program, as supervisord has it."""
        answer = subprocess.run(
            [".venv/bin/supervisorctl", "-s", f"unix://{self.folder}/data/supervisor.sock", "pid", program],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        return int(answer.stdout) if answer.stdout.strip().isdecimal() else 0

    def status(self, path: str = "/readyz") -> int:
        return requests.get(self.url + path, timeout=10).status_code


def processes_of(folder: Path) -> list[str]:
    """The command lines of all processes that work in the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder) in str((process / "cwd").readlink()) or str(folder) in (process / "cmdline").read_text():
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Native]:
    folder = copy(tmp_path_factory.mktemp("native"))
    (folder / "rules.yaml").write_text(RULES)
    port = free_port()
    with receiving() as receiver:
        (folder / ".env").write_text(f"TOCSIN_WEBHOOK_SECRET='{SECRET}'\nTOCSIN_INTERVAL=1s\n")
        env = {
            "DOCKER_HOST": "unix:///nonexistent",  # no engine answers there
            "TOCSIN_HTTP_PORT": str(port),
            "TOCSIN_WEB_ADDRESS": f"127.0.0.1:{free_port()}",
            "TOCSIN_DATA": "data",
            "TOCSIN_DRAIN": "1s",
            "TOCSIN_CONFIG": str(folder / "rules.yaml"),
            "TOCSIN_WEBHOOK_URL": receiver.url,
            "TOCSIN_API_KEY": KEY,
        }
        up = make(folder, "up", env)
        try:
            yield Native(folder, env, f"http://127.0.0.1:{port}", receiver, up.stdout)
        finally:
            make(folder, "down", env)


def test_up_ends_with_the_address_and_the_four_fields_are_there(stack: Native) -> None:
    """`make up` prints where the stack is, and health answers there through nginx."""
    assert f"Tocsin is up: {stack.url}/api/health" == stack.said.splitlines()[-1]

    # Where the test before this one killed the app, nginx may still say so for a second.
    body = eventually(lambda: (answer := requests.get(f"{stack.url}/api/health", timeout=10)).ok and answer.json(), "health")
    assert {"cpu_usage", "mem_usage", "disk_usage", "status"} <= set(body)


def test_a_second_up_changes_nothing(stack: Native) -> None:
    """`make up` on a running stack says so and leaves its processes alone."""
    before = stack.pid("web")

    assert "Already running" in make(stack.folder, "up", stack.env).stdout
    assert before == stack.pid("web")


@pytest.mark.alone
def test_load_gives_one_signed_firing_and_its_end_one_resolved(stack: Native) -> None:
    """Load on the machine reaches the webhook as one firing, its end as one resolved; the official package verifies both."""
    eventually(lambda: requests.get(f"{stack.url}/api/v1/alerts", timeout=10).json()["alerts"] == [], "nothing fires", 60)
    before = len(stack.receiver.requests)
    with busy(os.cpu_count() or 1):
        stack.receiver.wait_for(before + 1, 60)
    stack.receiver.wait_for(before + 2, 60)
    time.sleep(3)  # three more ticks: nothing else comes
    firing, resolved = stack.receiver.requests[before:]

    assert ["alert.firing", "alert.resolved"] == [each.message["type"] for each in (firing, resolved)]
    assert all(Webhook(SECRET).verify(each.body, each.headers) for each in (firing, resolved))
    assert firing.message["data"]["alerts"][0]["occurrence"] == resolved.message["data"]["alerts"][0]["occurrence"]


def test_a_killed_monitor_comes_back_and_says_nothing_twice(stack: Native) -> None:
    """kill -9 of the monitor: it is back, health was answered throughout, and the receiver hears nothing of it."""
    before, told = stack.pid("monitor"), len(stack.receiver.requests)
    os.kill(before, signal.SIGKILL)
    statuses = set()

    def back() -> bool:
        statuses.add(stack.status())
        return stack.pid("monitor") not in (0, before)

    eventually(back, "the monitor is back", 15)
    assert {200} == statuses
    assert told == len(stack.receiver.requests)


def test_a_monitor_that_stands_still_is_started_again(stack: Native) -> None:
    """A monitor that is stopped in the middle (SIGSTOP) ticks no more: supervisord's side sees it and ends it."""
    promise = stack.folder / "data" / alive.NAME
    # A test before may have killed it: one that is only just starting has two minutes for its first tick.
    eventually(lambda: promise.stat().st_mtime > time.monotonic(), "it ticks")
    before = stack.pid("monitor")
    os.kill(before, signal.SIGSTOP)

    eventually(lambda: stack.pid("monitor") not in (0, before), "another monitor", 90)
    assert "monitor stands still" in (stack.folder / "data/log/supervisord.log").read_text(encoding="utf-8")
    log = stack.folder / "data/log/monitor.log"
    eventually(lambda: log.read_text(encoding="utf-8").count('"monitor started"') >= 2, "its first words", 15)


def test_sighup_reads_the_file_again_and_a_faulty_one_changes_nothing(stack: Native) -> None:
    """After SIGHUP a new rule fires; with a fault in the file the rule stays; without the rule its alert is closed."""
    file, log = stack.folder / "rules.yaml", stack.folder / "data/log/monitor.log"

    def about(status: str) -> list[str]:
        told = [alert for each in stack.receiver.requests for alert in each.message["data"]["alerts"]]
        return [each["summary"] for each in told if (each["alert"], each["status"]) == ("Answers", status)]

    try:
        file.write_text(f"{RULES}  - {{alert: Answers, when: up == 1, targets: [self]}}\n")
        os.kill(stack.pid("monitor"), signal.SIGHUP)
        eventually(lambda: about("firing"), "the new rule", 15)

        file.write_text("rules: [{alert: a, when: nonsense}]\n")
        # supervisord hands it on, as with `docker compose kill -s HUP app`.
        os.kill(int((stack.folder / "data/supervisord.pid").read_text()), signal.SIGHUP)
        eventually(lambda: "the one before stays in force" in log.read_text(encoding="utf-8"), "the fault", 15)
        assert "rules[0].when: 'nonsense' is not" in log.read_text(encoding="utf-8")
        assert [] == about("resolved")
    finally:
        file.write_text(RULES)
        os.kill(stack.pid("monitor"), signal.SIGHUP)
    eventually(lambda: about("resolved"), "its resolved", 15)
    assert 1 == len(about("firing"))
    assert about("resolved")[0].startswith("No longer watched, after ")


def test_a_silence_made_through_nginx_keeps_the_monitor_quiet(stack: Native) -> None:
    """With the key a silence can be made; what begins to fire under it is shown as silenced and told to nobody."""
    silence = {"matchers": ['alert="Quiet"'], "duration": "1h", "author": "ops", "comment": "a test"}
    address = f"{stack.url}/api/v1/silences"
    assert 401 == requests.post(address, json=silence, timeout=10).status_code
    made = requests.post(address, json=silence, headers={"Authorization": f"Bearer {KEY}"}, timeout=10)
    assert 201 == made.status_code

    def quiet() -> list[dict[str, object]]:
        alerts = requests.get(f"{stack.url}/api/v1/alerts?state=firing", timeout=10).json()["alerts"]
        return [alert for alert in alerts if alert["alert"] == "Quiet"]

    file = stack.folder / "rules.yaml"
    try:
        file.write_text(f"{RULES}  - {{alert: Quiet, when: up == 1, targets: [self]}}\n")
        os.kill(stack.pid("monitor"), signal.SIGHUP)
        eventually(quiet, "the alert", 15)
        assert [{"silence": made.json()["id"], "author": "ops", "comment": "a test"}] == quiet()[0]["silenced"]
    finally:
        file.write_text(RULES)
        os.kill(stack.pid("monitor"), signal.SIGHUP)
    eventually(lambda: not quiet(), "its end", 15)
    assert "Quiet" not in {alert["alert"] for each in stack.receiver.requests for alert in each.message["data"]["alerts"]}


def test_a_killed_nginx_comes_back(stack: Native) -> None:
    """kill -9 of nginx' master: the workers it left are ended, so that its successor gets the port."""
    before = stack.pid("nginx")
    workers = children(before)
    os.kill(before, signal.SIGKILL)
    eventually(lambda: stack.pid("nginx") not in (0, before) and stack.status() == 200, "nginx is back", 15)
    assert children(stack.pid("nginx"))
    assert [] == [worker for worker in workers if psutil.pid_exists(worker) and psutil.Process(worker).status() != "zombie"]


def test_a_killed_gunicorn_master_comes_back(stack: Native) -> None:
    """kill -9 of gunicorn's master: its workers go with it, and a new one has the port."""
    before = stack.pid("web")
    os.kill(before, signal.SIGKILL)
    eventually(lambda: stack.pid("web") not in (0, before) and stack.status() == 200, "web is back", 15)


def test_a_killed_worker_costs_no_answer(stack: Native) -> None:
    """kill -9 of one gunicorn worker: every request meanwhile is answered, and it is replaced."""
    worker = children(stack.pid("web"))[0]
    os.kill(worker, signal.SIGKILL)

    assert {200} == {stack.status() for _ in range(50)}
    eventually(lambda: len([x for x in children(stack.pid("web")) if x != worker]) >= 2, "a new worker", 15)


def test_every_line_of_every_log_is_json(stack: Native) -> None:
    """Each program has its file, and every line in it is a JSON object with ECS names, below 4096 bytes."""
    logs = sorted((stack.folder / "data/log").glob("*.log"))

    assert ["monitor.log", "nginx.log", "supervisord.log", "web.log"] == [log.name for log in logs]
    for log in logs:
        for line in log.read_bytes().splitlines(keepends=True):
            assert len(line) < 4096
            assert {"message", "log.level", "service.name"} <= set(json.loads(line))


def test_down_leaves_no_process(stack: Native) -> None:
    """After `make down` no process of the stack is left, the data is, and a new `make up` goes on with it."""
    assert "Tocsin is down." in make(stack.folder, "down", stack.env).stdout
    assert [] == processes_of(stack.folder)

    assert "Tocsin is up" in make(stack.folder, "up", stack.env).stdout
    assert (stack.folder / "data/tocsin.db").is_file()


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("TOCSIN_INTERVAL", "10", "TOCSIN_INTERVAL: '10' is not a duration"),
        ("TOCSIN_CONFIG", "/nonexistent.yaml", "/nonexistent.yaml: No such file or directory"),
        ("TOCSIN_API_KEY_FILE", "/nonexistent", "TOCSIN_API_KEY_FILE: /nonexistent: No such file or directory"),
        ("TOCSIN_DATA", "/proc/tocsin", "The data folder /proc/tocsin cannot be written"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, setting: str, value: str, said: str) -> None:
    """A start that cannot succeed says why, naming the setting, ends non-zero and leaves nothing running."""
    folder = copy(tmp_path)
    env = {
        "DOCKER_HOST": "unix:///nonexistent",
        "TOCSIN_HTTP_PORT": str(free_port()),
        "TOCSIN_WEB_ADDRESS": f"127.0.0.1:{free_port()}",
    }
    done = make(folder, "up", env | {setting: value})

    assert 0 != done.returncode
    assert said in done.stdout
    assert "Traceback" not in done.stdout
    assert [] == processes_of(folder)


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    """When something else listens on the port, one line says where and what to do."""
    import socket

    folder = copy(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        env = {"DOCKER_HOST": "unix:///nonexistent", "TOCSIN_HTTP_PORT": port, "TOCSIN_WEB_ADDRESS": f"127.0.0.1:{free_port()}"}
        done = make(folder, "up", env)

    assert 0 != done.returncode
    assert re.search(rf"cannot listen on 127\.0\.0\.1:{port}: .*TOCSIN_HTTP_PORT", done.stdout)
