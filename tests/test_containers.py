"""The image and the Compose stack, driven from outside with a real engine."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from standardwebhooks import Webhook

from tests.composed import Stack, composed, gateway, needs_engine
from tests.receiver import Received, Receiver, receiving
from tests.stack import eventually

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEY = "a key of 24 characters.."
RULES = """
rules:
  - alert: HighCpu
    when: cpu_usage > 60
    for: 4s # longer than what a start of the stack costs
    keep_firing_for: 2s
    targets: [self]
    summary: "{{ target }}: CPU at {{ value }} % ({{ scope }})"
  - {alert: TargetDown, when: up == 0, for: 20s, severity: critical, summary: "{{ target }} is down"}
  - alert: WebHangs
    when: up == 0
    for: 2s
    keep_firing_for: 0s
    targets: [self]
    heal: {service: web, after: 1s, confirm: 3s}
    summary: "{{ target }} hangs"
services:
  - {name: web, supervisord: web, url: "http://127.0.0.1:8000/readyz"}
  - {name: monitor, supervisord: monitor}
  - {name: nginx, docker: PROJECT-nginx-1, url: "http://nginx:8080/robots.txt"}
"""

pytestmark = needs_engine


@dataclass
class Told(Stack):
    """The stack, and who gets its alerts."""

    receiver: Receiver


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    with receiving(gateway()) as receiver:
        settings = {
            "TOCSIN_WEBHOOK_URL": receiver.url,
            "TOCSIN_WEBHOOK_SECRET": SECRET,
            "TOCSIN_API_KEY": KEY,
            "DOCKER_GROUP": str(Path("/var/run/docker.sock").stat().st_gid),
        }
        with composed(tmp_path_factory.mktemp("compose"), "test", RULES, **settings) as running:
            yield Told(**vars(running), receiver=receiver)


def test_both_services_are_healthy(stack: Told) -> None:
    """`docker compose up --wait` ends with both services healthy, and health answers through nginx."""
    states = [json.loads(line) for line in stack.compose("ps", "--format", "json").splitlines()]

    assert {"app": "healthy", "nginx": "healthy"} == {state["Service"]: state["Health"] for state in states}
    assert {"cpu_usage", "mem_usage", "disk_usage", "status"} <= set(requests.get(f"{stack.url}/api/health", timeout=10).json())


def test_the_check_runs_in_the_container(stack: Told) -> None:
    """As docs/check.md says, it asks nginx there and answers as a plugin."""
    assert re.match(
        r"TOCSIN (OK|WARNING) - [^|\n]+ \| cpu_usage=[^|\n]+\n\Z",
        stack.compose("exec", "-T", "app", "tocsin", "check", check=False),
    )


def test_p17_memory_is_the_containers_own(stack: Told) -> None:
    """In a limited container memory and CPU are measured against its limits, and the answer says so."""
    checks = requests.get(f"{stack.url}/api/health", timeout=10).json()["checks"]

    assert ["cgroup", "cgroup"] == [checks[name]["scope"] for name in ("cpu_usage", "mem_usage")]
    assert {"host_cpu_usage", "host_mem_usage"} <= set(checks)
    assert 1 < checks["mem_usage"]["value"] < 100


@pytest.mark.alone
def test_load_gives_one_signed_firing_and_its_end_one_resolved(stack: Told) -> None:
    """Load in the container reaches the webhook as one firing, its end as one resolved, both verified."""
    # What another test has loaded it with is over, and told.
    eventually(lambda: "HighCpu" not in firing_now(stack) and len(told_of(stack.receiver, "HighCpu")) % 2 == 0, "quiet", 60)
    before = len(about(stack.receiver, "HighCpu"))
    burn = "import time\nend = time.monotonic() + 9\nwhile time.monotonic() < end: pass"
    stack.compose("exec", "--detach", "app", "python", "-c", burn)
    eventually(lambda: len(about(stack.receiver, "HighCpu")) >= before + 2, "both messages", 60)
    time.sleep(3)  # three more ticks: nothing else comes
    firing, resolved = about(stack.receiver, "HighCpu")[before:]

    assert ["alert.firing", "alert.resolved"] == [each.message["type"] for each in (firing, resolved)]
    assert all(Webhook(SECRET).verify(each.body, each.headers) for each in (firing, resolved))
    assert "cgroup" == firing.message["data"]["alerts"][0]["scope"]


def test_a_killed_monitor_comes_back(stack: Told) -> None:
    """kill -9 of the monitor inside: it is back, and HTTP did not notice."""
    find = "import psutil; print([p.pid for p in psutil.process_iter() if 'monitor' in p.cmdline()][0])"
    before = stack.compose("exec", "app", "python", "-c", find)
    stack.compose("exec", "app", "python", "-c", f"import os; os.kill({before.strip()}, 9)")
    statuses = set()

    def back() -> bool:
        statuses.add(stack.status())
        found = stack.compose("exec", "app", "python", "-c", find, check=False)
        return found not in ("", before)

    eventually(back, "the monitor is back", 20)
    assert {200} == statuses


def test_a_killed_worker_costs_no_answer(stack: Told) -> None:
    """kill -9 of a gunicorn worker inside: requests meanwhile are answered, and another one takes its place."""
    find = (
        "import psutil; print(*[p.pid for p in psutil.process_iter() if 'gunicorn' in ' '.join(p.cmdline()) and p.ppid() != 1])"
    )
    workers = stack.compose("exec", "app", "python", "-c", find).split()
    stack.compose("exec", "app", "python", "-c", f"import os; os.kill({workers[0]}, 9)")

    assert {200} == {stack.status() for _ in range(50)}
    eventually(
        lambda: len(set(stack.compose("exec", "app", "python", "-c", find).split()) - {workers[0]}) >= 2, "a new worker", 15
    )


def told_of(receiver: Receiver, alert: str) -> list[str]:
    """What the receiver got about one alert, as `firing critical: summary`."""
    alerts = [each for request in list(receiver.requests) for each in request.message["data"]["alerts"]]
    return [f"{each['status']} {each['severity']}: {each['summary']}" for each in alerts if each["alert"] == alert]


def test_a_web_that_hangs_is_restarted_and_healthy_again(stack: Told) -> None:
    """SIGSTOP of gunicorn's master and workers: the monitor restarts web; exactly firing, restarting, resolved arrive."""
    hang = (
        "import psutil\n"
        "for process in psutil.process_iter(['cmdline']):\n"
        "    if process.info['cmdline'][1:2] == ['/opt/venv/bin/gunicorn']: process.suspend()"
    )
    stack.compose("exec", "-T", "app", "python", "-c", hang)

    eventually(lambda: len(told_of(stack.receiver, "WebHangs")) >= 3, "its end", 60)
    time.sleep(3)  # three more ticks: nothing else comes
    *before, end = told_of(stack.receiver, "WebHangs")
    assert ["firing warning: self hangs", "firing warning: Restarting web (1 of 3): self hangs"] == before
    assert re.fullmatch(r"resolved warning: Healthy again after 1 restart, down \d+ s: self hangs", end)
    eventually(lambda: stack.status() == 200, "health answers", 10)
    (restart,) = requests.get(f"{stack.url}/api/v1/restarts?service=web", timeout=10).json()["restarts"]
    assert ("web", "monitor", "healthy") == tuple(restart[name] for name in ("service", "asked_by", "outcome"))


def test_nginx_in_its_own_container_is_restarted_where_the_socket_is_given(stack: Told) -> None:
    """Without the engine's socket the state of nginx is not known; with it a restart through nginx itself ends healthy."""

    def status() -> dict[str, Any]:
        body: dict[str, Any] = requests.get(f"{stack.url}/api/service/status?name=nginx", timeout=10).json()
        return body

    assert 502 == status()["status"]
    with_socket = ("--file", "compose.yaml", "--file", "deploy/docker-socket.yaml")
    stack.compose(*with_socket, "up", "--detach", "--wait", "app")
    try:
        (before,) = eventually(lambda: status().get("services"), "its state", 20)
        assert ("running", "docker") == (before["state"], before["supervisor"])
        asked = requests.post(
            f"{stack.url}/api/service/restart",
            json={"name": "nginx"},
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=30,
        )
        assert 202 == asked.status_code
        place = stack.url + asked.headers["Location"]
        ended = eventually(lambda: one if (one := requests.get(place, timeout=5).json()).get("outcome") else None, "its end", 60)
        assert ("nginx", "api", "healthy") == tuple(ended[name] for name in ("service", "asked_by", "outcome"))
        assert ended["old_pid"] != ended["new_pid"]
    finally:
        stack.compose("up", "--detach", "--wait", "app")


def test_a_program_made_fatal_ends_the_container_and_is_told_when_it_is_back(stack: Told) -> None:
    """The monitor killed until supervisord gives it up: the container ends with 70 within 5 s, is back, and tells it."""
    container, began = stack.container("app"), time.time()
    kill = (
        "import psutil, time\n"
        "while True:\n"
        "    for process in psutil.process_iter(['cmdline']):\n"
        "        if (process.info['cmdline'] or [])[2:] == ['monitor']: process.kill()\n"
        "    time.sleep(0.05)"
    )
    stack.compose("exec", "-T", "app", "python", "-c", kill, check=False)  # ends with the container

    def died() -> Any:
        events = ["docker", "events", "--since", str(int(began)), "--until", str(int(time.time() + 1))]
        filters = ["--filter", f"container={container}", "--filter", "event=die", "--format", "{{json .}}"]
        shown = subprocess.run([*events, *filters], capture_output=True, text=True, check=True).stdout
        return [json.loads(line) for line in shown.splitlines()]

    (ended,) = eventually(died, "the container has ended", 60)
    assert "70" == ended["Actor"]["Attributes"]["exitCode"]
    gave_up = [line["@timestamp"] for line in stack.lines("app") if line["message"].startswith("gave up on monitor")]
    assert (ended["timeNano"] / 1e9 - datetime.fromisoformat(gave_up[-1]).timestamp()) < 5
    assert 1 == stack.inspect("app")["RestartCount"]

    eventually(lambda: stack.status() == 200, "health answers again", 30)
    eventually(lambda: len(told_of(stack.receiver, "ServiceFailure")) == 2, "both messages", 60)
    words = "supervisord has given up on monitor: it ended too often soon after its start."
    firing, resolved = told_of(stack.receiver, "ServiceFailure")
    assert f"firing critical: {words}" == firing
    assert resolved.startswith("resolved critical: Resolved after ")


@pytest.mark.parametrize("service", ["app", "nginx"])
def test_a_container_is_contained(stack: Told, service: str) -> None:
    """No root, a read-only root, no capability, no new privileges, limits on everything, no engine socket, loopback only."""
    found = stack.inspect(service)
    host = found["HostConfig"]

    assert found["Config"]["User"] not in ("", "0", "root", "0:0")
    assert (True, ["ALL"]) == (host["ReadonlyRootfs"], host["CapDrop"])
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert all(host[name] > 0 for name in ("Memory", "NanoCpus", "PidsLimit"))
    assert {"max-size", "max-file"} <= set(host["LogConfig"]["Config"])
    assert [] == [mount["Source"] for mount in found["Mounts"] if "docker.sock" in mount["Source"]]
    assert {"127.0.0.1"} >= {each["HostIp"] for bound in host["PortBindings"].values() for each in bound or []}
    assert [] == [mount["Destination"] for mount in found["Mounts"] if mount["RW"] and mount["Destination"] != "/data"]


def test_p15_a_recreated_app_is_found_without_restarting_nginx(stack: Told) -> None:
    """After the app's container was replaced, nginx answers again within seconds though it was not restarted."""
    started = stack.inspect("nginx")["State"]["StartedAt"]
    stack.compose("up", "--detach", "--force-recreate", "--no-deps", "app")
    eventually(lambda: stack.status() == 200, "health answers again", 20)

    assert started == stack.inspect("nginx")["State"]["StartedAt"]


def test_a_stopped_app_is_a_502_with_the_request_id(stack: Told) -> None:
    """With the app stopped nginx answers 502 as problem+json, and finds the app when it is back."""
    stack.compose("stop", "--timeout", "40", "app")
    eventually(lambda: stack.status() == 502, "nginx says that the app is gone", 10)
    answer = requests.get(f"{stack.url}/api/health", timeout=20)
    assert "application/problem+json" == answer.headers["Content-Type"]
    assert answer.headers["X-Request-ID"] == answer.json()["request_id"]

    assert 0 == stack.inspect("app")["State"]["ExitCode"]
    stack.compose("up", "--detach", "--wait")
    eventually(lambda: stack.status() == 200, "health answers again", 30)


def test_p2_a_program_that_is_given_up_ends_the_container(stack: Told) -> None:
    """When a program reaches FATAL the container ends non-zero within seconds."""
    image, name = stack.inspect("app")["Config"]["Image"], f"{stack.project}-fatal"
    broken = ["--env", "TOCSIN_DATABASE_URL=postgresql://db/tocsin"]  # its driver is not installed
    run = ["docker", "run", "--detach", "--name", name, *broken, image]
    subprocess.run(run, capture_output=True, check=True)
    try:

        def state() -> Any:
            shown = subprocess.run(["docker", "inspect", name], capture_output=True, text=True, check=True)
            return json.loads(shown.stdout)[0]["State"]

        eventually(lambda: state()["Status"] == "exited", "the container ends", 60)
        assert 70 == state()["ExitCode"]
        log = subprocess.run(["docker", "logs", name], capture_output=True, text=True, check=True).stdout
        lines = [json.loads(line) for line in log.splitlines()]
        assert any("cannot use the database" in line["message"] for line in lines)
        gave_up = next(line["@timestamp"] for line in lines if line["message"].startswith("gave up on"))
        ended = state()["FinishedAt"]
        assert (seconds_of(ended) - seconds_of(gave_up)) % 86_400 < 5
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", name], capture_output=True, check=False)


def firing_now(stack: Told) -> list[str]:
    """The alerts that fire."""
    alerts = requests.get(f"{stack.url}/api/v1/alerts?state=firing", timeout=10).json()["alerts"]
    return [alert["alert"] for alert in alerts]


def about(receiver: Receiver, alert: str) -> list[Received]:
    """What the receiver got about one alert."""
    return [each for each in receiver.requests if each.message["data"]["alerts"][0]["alert"] == alert]


def seconds_of(moment: str) -> float:
    """Seconds into the day of an ISO 8601 time."""
    hours, minutes, seconds = moment.partition("T")[2].rstrip("Z").split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def test_a_bad_setting_ends_the_container_with_2_and_the_list(stack: Told) -> None:
    """A configuration fault is said once for each, and the container does not run half."""
    image = stack.inspect("app")["Config"]["Image"]
    bad = ["--env", "TOCSIN_INTERVAL=10", "--env", "TOCSIN_LOG_LEVEL=LOUD"]
    done = subprocess.run(["docker", "run", "--rm", *bad, image], capture_output=True, text=True, check=False)

    assert 2 == done.returncode
    assert 2 == sum(json.loads(line)["message"].startswith("TOCSIN_") for line in done.stdout.splitlines())


@pytest.mark.parametrize("service", ["app", "nginx"])
def test_p18_p19_every_line_of_the_log_is_json_and_nothing_was_refused(stack: Told, service: str) -> None:
    """Both logs are JSON on every line, below 4096 bytes, without one read-only or permission error."""
    time.sleep(1)
    lines = stack.lines(service)

    assert len(lines) > 5
    assert all({"message", "log.level", "service.name"} <= set(line) for line in lines)
    assert [] == [
        line["message"] for line in lines if "Read-only file system" in line["message"] or "Permission denied" in line["message"]
    ]


def test_down_ends_everything_without_a_kill(stack: Told) -> None:
    """`docker compose stop` ends both containers by themselves: no 137."""
    stack.compose("stop", "--timeout", "60")

    codes = [stack.inspect(service)["State"]["ExitCode"] for service in ("app", "nginx")]
    stack.compose("up", "--detach", "--wait")

    assert [0, 0] == codes
