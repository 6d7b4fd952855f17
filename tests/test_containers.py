"""The image and the Compose stack, driven from outside with a real engine."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
from standardwebhooks import Webhook

from tests.composed import Stack, composed, gateway, needs_engine
from tests.receiver import Received, Receiver, receiving
from tests.stack import ROOT, eventually

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEY = "a key of 24 characters.."
SECURITY = (ROOT / "docs/security.md").read_text(encoding="utf-8")
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
    key: str = KEY  # a test changes it


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    folder = tmp_path_factory.mktemp("secrets")
    for name, secret in (("api_key", KEY), ("webhook_secret", SECRET)):
        (folder / name).write_text(secret)
        if os.getuid() == 0:
            (folder / name).chmod(0o400)
            os.chown(folder / name, 10001, 10001)
        else:  # who may not give files away lets others read them
            (folder / name).chmod(0o644)
    override = re.findall(r"```yml\n(services:.*?)```", SECURITY, re.DOTALL)[0]
    with receiving(gateway()) as receiver:
        settings = {
            "TOCSIN_WEBHOOK_URL": receiver.url,
            "DOCKER_GROUP": str(Path("/var/run/docker.sock").stat().st_gid),
        }
        override = override.replace("/etc/tocsin/", f"{folder}/")
        with composed(tmp_path_factory.mktemp("compose"), "test", RULES, override, **settings) as running:
            yield Told(**vars(running), receiver=receiver)


def health(stack: Told) -> dict[str, Any]:
    """What it says; where the test before killed the app, nginx may still say so for a second."""
    ask = partial(requests.get, f"{stack.url}/api/health", timeout=10)
    found: dict[str, Any] = eventually(lambda: answer.json() if (answer := ask()).ok else None, "health")
    return found


def test_both_services_are_healthy(stack: Told) -> None:
    """`docker compose up --wait` ends with both services healthy, and health answers through nginx."""
    states = [json.loads(line) for line in stack.compose("ps", "--format", "json").splitlines()]

    assert {"app": "healthy", "nginx": "healthy"} == {state["Service"]: state["Health"] for state in states}
    assert {"cpu_usage", "mem_usage", "disk_usage", "status"} <= set(health(stack))


def test_the_check_runs_in_the_container(stack: Told) -> None:
    """As docs/check.md says, it asks nginx there and answers as a plugin."""
    assert re.match(
        r"TOCSIN (OK|WARNING) - [^|\n]+ \| cpu_usage=[^|\n]+\n\Z",
        stack.compose("exec", "-T", "app", "tocsin", "check", check=False),
    )


def test_p17_memory_is_the_containers_own(stack: Told) -> None:
    """In a limited container memory and CPU are measured against its limits, and the answer says so."""
    checks = health(stack)["checks"]

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


def answer_to(stack: Stack, key: str) -> int:
    """The status of a call that changes nothing, as its body is empty: 422 where the key counts."""
    headers = {"Authorization": f"Bearer {key}"}
    return requests.post(f"{stack.url}/api/v1/silences", json={}, headers=headers, timeout=10).status_code


def workers_of(stack: Stack) -> set[str]:
    """The processes of gunicorn's workers, by their numbers in the container."""
    find = (
        "import psutil\n"
        "for process in psutil.process_iter(['cmdline', 'ppid']):\n"
        "    is_gunicorn = (process.info['cmdline'] or [])[1:2] == ['/opt/venv/bin/gunicorn']\n"
        "    if is_gunicorn and process.info['ppid'] != 1: print(process.pid)"
    )
    return set(stack.compose("exec", "-T", "app", "python", "-c", find).split())


def test_a_killed_worker_costs_no_answer(stack: Told) -> None:
    """kill -9 of a gunicorn worker inside: requests meanwhile are answered, and another one takes its place."""
    worker = max(workers_of(stack), key=int)  # the newest: an old one may be about to end
    stack.compose("exec", "app", "python", "-c", f"import os; os.kill({worker}, 9)")

    assert {200} == {stack.status() for _ in range(50)}
    eventually(lambda: len(workers_of(stack) - {worker}) >= 2, "a new worker", 15)


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
    files = ("compose.yaml", "compose.override.yaml", "deploy/docker-socket.yaml")
    with_socket = [word for file in files for word in ("--file", file)]
    stack.compose(*with_socket, "up", "--detach", "--wait", "app")
    try:
        (before,) = eventually(lambda: status().get("services"), "its state", 20)
        assert ("running", "docker") == (before["state"], before["supervisor"])
        asked = requests.post(
            f"{stack.url}/api/service/restart",
            json={"name": "nginx"},
            headers={"Authorization": f"Bearer {stack.key}"},
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


# All that a container may write, besides what /proc has of its own processes. All but the volume is in memory.
WRITABLE = {"app": {"/data", "/tmp", "/dev/shm", "/dev/mqueue"}, "nginx": {"/tmp", "/dev/shm", "/dev/mqueue"}}


def in_container(stack: Stack, service: str, script: str) -> list[str]:
    """The lines that a script in a container prints."""
    return stack.compose("exec", "-T", service, "sh", "-c", script).splitlines()


@pytest.mark.parametrize("service", ["app", "nginx"])
def test_nothing_is_writable_but_data_and_memory(stack: Told, service: str) -> None:
    """Of every folder and file only those below the volume and the tmpfs may be written; nothing in memory can be run."""
    find = r"find / -path /proc -prune -o \( -type d -o -type f \) -writable ! -exec test -c {} \; -print 2>/dev/null"
    found = in_container(stack, service, f"{find} || true")  # what it may not even look into
    below = {path: {place for place in WRITABLE[service] if f"{path}/".startswith(f"{place}/")} for path in found}
    mounts = [line.split() for line in in_container(stack, service, "cat /proc/mounts")]
    in_memory = {where: set(options.split(",")) for _, where, kind, options, *_ in mounts if kind == "tmpfs" and where in found}

    assert [] == [path for path, places in below.items() if not places]
    assert WRITABLE[service] == {place for places in below.values() for place in places}
    assert {"/tmp", "/dev/shm"} == set(in_memory)
    assert all({"nosuid", "nodev", "noexec"} <= options for options in in_memory.values())


@pytest.mark.parametrize("service", ["app", "nginx"])
def test_no_process_has_a_right_that_it_does_not_need(stack: Told, service: str) -> None:
    """Each process of a container: its own user, no capability and none to get, no new privileges."""
    script = "cat /proc/[0-9]*/status 2>/dev/null | grep -E '^(Uid|CapEff|CapBnd|CapAmb|NoNewPrivs):' | sort -u"
    user = stack.inspect(service)["Config"]["User"].partition(":")[0]

    assert {
        "Uid": {user},
        "CapEff": {"0" * 16},
        "CapBnd": {"0" * 16},
        "CapAmb": {"0" * 16},
        "NoNewPrivs": {"1"},
    } == {name: set(values) for name, *values in (line.replace(":", "").split() for line in in_container(stack, service, script))}


def test_the_key_is_changed_as_the_document_says(stack: Told) -> None:
    """The two lines of docs/security.md give the running stack another key: it alone counts, and every request has its answer."""
    (source,) = [each["Source"] for each in stack.inspect("app")["Mounts"] if each["Destination"] == "/run/secrets/api_key"]
    commands = re.findall(r"```sh\n(.*?)```", SECURITY.partition("\n### The API key\n")[2], re.DOTALL)[1]
    env, old, before = stack.env | {"COMPOSE_PROJECT_NAME": stack.project}, stack.key, workers_of(stack)
    text = commands.replace("/etc/tocsin/api_key", source)
    subprocess.run(["sh", "-ec", text], cwd=stack.folder, env=env, capture_output=True, check=True, timeout=60)
    stack.key = Path(source).read_text().strip()
    statuses = set()

    def replaced() -> bool:
        statuses.add(stack.status())
        now = workers_of(stack)
        return bool(now) and not now & before

    eventually(replaced, "other workers", 40)
    assert [422, 401] == [answer_to(stack, key) for key in (stack.key, old)]
    assert {200} == statuses


@pytest.mark.parametrize(("service", "ends_it"), [("app", {"TERM", "HUP"}), ("nginx", {"QUIT", "TERM", "HUP"})])
def test_p30_a_signal_from_inside_is_heard_or_does_nothing(stack: Told, service: str, ends_it: set[str]) -> None:
    """PID 1 handles what is to end or reload it; SIGKILL of it from inside its own container changes nothing."""
    (status,) = in_container(stack, service, "grep ^SigCgt /proc/1/status")
    caught = int(status.split()[1], 16)
    began = stack.inspect(service)["State"]["StartedAt"]
    stack.compose("exec", "-T", service, "sh", "-c", "kill -KILL 1")

    assert [] == [name for name in sorted(ends_it) if not caught >> (signal.Signals[f"SIG{name}"] - 1) & 1]
    assert 200 == stack.status()
    assert ("running", began) == tuple(stack.inspect(service)["State"][name] for name in ("Status", "StartedAt"))


def test_a_secret_from_a_file_is_nowhere_else(stack: Told) -> None:
    """As docs/security.md brings them in: the app's user reads both; no inspection, environment, mount or log has them."""
    read = in_container(stack, "app", "cat /run/secrets/api_key; echo; cat /run/secrets/webhook_secret")
    assert [stack.key, SECRET] == [line for line in read if line]

    # A call with the key, and a message that is signed, have been made by now at the latest.
    assert 422 == answer_to(stack, stack.key)
    stack.compose("exec", "-T", "app", "tocsin", "test-alert")
    shown = [stack.compose("config"), json.dumps([stack.inspect(service) for service in WRITABLE])]
    for service in WRITABLE:
        environments = in_container(stack, service, "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null || true")
        shown.append("\n".join(environments))
        shown.append(json.dumps(stack.lines(service)))
    assert [] == [
        text[:200] for text in shown for secret in (KEY, stack.key, SECRET, SECRET.removeprefix("whsec_")) if secret in text
    ]
    assert all(len(text) > 100 for text in shown)
    holders = (
        "cd /run/secrets && grep --recursive --text --fixed-strings --files-with-matches --file api_key --file webhook_secret"
    )
    assert [] == in_container(stack, "app", f"{holders} /data /tmp || true")
    assert [] == in_container(stack, "app", f"grep --recursive --text --files-with-matches {stack.receiver.url} /data || true")
    assert ["/run/secrets/api_key", "/run/secrets/webhook_secret"] == sorted(
        in_container(stack, "app", f"{holders} /run/secrets/")
    )


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
    refused = re.compile(r"EROFS|EACCES|EPERM|Read-only file system|Permission denied|Operation not permitted|Errno (1|13|30)\\b")
    assert [] == [line for line in lines if refused.search(json.dumps(line))]


def test_down_ends_everything_without_a_kill(stack: Told) -> None:
    """`docker compose stop` ends both containers by themselves: no 137."""
    stack.compose("stop", "--timeout", "60")

    codes = [stack.inspect(service)["State"]["ExitCode"] for service in ("app", "nginx")]
    stack.compose("up", "--detach", "--wait")

    assert [0, 0] == codes
