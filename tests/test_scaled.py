"""Three app containers behind one nginx, from a first start on, with the examples of docs/scale.md: what it says is so."""

import json
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests

from tests.composed import Stack, composed, gateway, needs_engine
from tests.receiver import Receiver, receiving
from tests.stack import ROOT, eventually

KEY = "a key of 24 characters.."
WITH_KEY = {"Authorization": f"Bearer {KEY}"}
DOCUMENT = (ROOT / "docs/scale.md").read_text(encoding="utf-8")
OVERRIDE, *_ = re.findall(r"```yml\n(.*?)```", DOCUMENT, re.DOTALL)
TARGETS: str = re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)[0]
UP, LEADS, RELOAD, RESTART = re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL)

pytestmark = needs_engine


@dataclass
class Scaled(Stack):
    """The stack with its app containers, and who gets its alerts."""

    receiver: Receiver

    def apps(self) -> list[str]:
        """The ids of the containers that run."""
        return self.compose("ps", "--quiet", "app").split()

    def run(self, command: str) -> str:
        """A command of the document."""
        env = self.env | {"COMPOSE_PROJECT_NAME": self.project}
        done = subprocess.run(["sh", "-ec", command], cwd=self.folder, env=env, capture_output=True, text=True, check=False)
        assert 0 == done.returncode, done.stdout + done.stderr
        return done.stdout

    def told(self) -> list[str]:
        return [str(each.message["data"]["alerts"][0]["target"]) for each in list(self.receiver.requests)]

    def watch(self, *names: str) -> None:
        """These are down, beside those of the document."""
        rules = watching(self.receiver, *names).replace("PROJECT", self.project)
        (self.folder / "rules.yaml").write_text(rules)

    def leaders(self) -> list[str]:
        return [app for app in self.apps() if any(line["message"] == "monitor started" for line in lines_of(app))]

    def upstreams(self, since: int) -> Counter[str]:
        """How many requests each app answered, after so many lines of nginx' log."""
        found = [line["labels.upstream"] for line in self.lines("nginx")[since:] if line.get("labels.upstream_status") == "200"]
        return Counter(upstream.split(", ")[-1] for upstream in found)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scaled]:
    with receiving(gateway()) as receiver:
        settings = {"TOCSIN_WEBHOOK_URL": receiver.url, "TOCSIN_API_KEY": KEY, "WEB_CONCURRENCY": "2"}
        settings["TOCSIN_DRAIN"] = "5s"  # long enough for nginx to see it (docs/deploys.md)
        folder = tmp_path_factory.mktemp("compose")
        with composed(folder, "scaled", watching(receiver, "shop"), OVERRIDE, **settings) as running:
            yield Scaled(**vars(running), receiver=receiver)


def watching(receiver: Receiver, *names: str) -> str:
    """monitor.yaml with the targets of the document, and with these, which take no GET and so are down."""
    more = "".join(f'  - {{name: {name}, url: "{receiver.url}"}}\n' for name in names)
    rules = f"rules: [{{alert: TargetDown, when: up == 0, targets: [{', '.join(names)}]}}]\n"
    return TARGETS.replace("tocsin-app", "PROJECT-app") + more + rules


def lines_of(container: str) -> list[dict[str, Any]]:
    done = subprocess.run(["docker", "logs", container], capture_output=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@dataclass
class Traffic:
    """What clients got that never ask twice: statuses, or errors. Each POST is of a silence with a comment of its own."""

    got: Counter[int | str] = field(default_factory=Counter)
    posted: Counter[int | str] = field(default_factory=Counter)
    comments: list[str] = field(default_factory=list)


@contextmanager
def traffic(stack: Stack) -> Iterator[Traffic]:
    """GETs on new connections and POSTs on a kept one, side by side, slower than nginx' limit."""
    found, over = Traffic(), threading.Event()

    def get() -> int:
        return requests.get(f"{stack.url}/readyz", timeout=20).status_code  # nginx has no answer of its own to it

    def post() -> int:
        found.comments.append(f"traffic {len(found.comments)}")
        wish = {"matchers": ["target=nobody"], "duration": "1h", "author": "ann", "comment": found.comments[-1]}
        return session.post(f"{stack.url}/api/v1/silences", json=wish, headers=WITH_KEY, timeout=20).status_code

    def again_and_again(ask: Callable[[], int], counts: Counter[int | str]) -> None:
        while not over.wait(0.12):
            try:
                counts[ask()] += 1
            except requests.RequestException as error:
                counts[type(error).__name__] += 1

    pairs = ((get, found.got), (post, found.posted))
    threads = [threading.Thread(target=again_and_again, args=pair) for pair in pairs]
    with requests.Session() as session:
        for thread in threads:
            thread.start()
        try:
            yield found
        finally:
            over.set()
            for thread in threads:
                thread.join()


def test_down_to_one_and_up_to_three_loses_no_request(stack: Scaled) -> None:
    """Each GET is answered, each POST done once; within ten seconds of their start all three are used."""
    stack.run(UP)
    with traffic(stack) as found:
        eventually(lambda: sum(found.got.values()) > 10, "it flows")
        stack.compose("up", "--detach", "--wait", "--scale", "app=1")
        assert 1 == len(stack.apps())
        before = len(stack.lines("nginx"))
        stack.run(UP)
        began = time.monotonic()
        eventually(lambda: len(stack.upstreams(before)) == 3, "all three answer", 10)
        print(f"all three are used {time.monotonic() - began:.1f} s after they were healthy")
    listed = requests.get(f"{stack.url}/api/v1/silences?limit=500", timeout=10).json()["silences"]
    comments = [each["comment"] for each in listed if each["comment"].startswith("traffic")]

    def up() -> set[str]:
        return set(re.findall(r'tocsin_target_up{target="([^"]+)"} 1', requests.get(f"{stack.url}/metrics", timeout=10).text))

    eventually(lambda: {"app-1", "app-2", "app-3", "front"} <= up(), "the leader asks each")
    assert ({200}, {201}) == (set(found.got), set(found.posted))
    assert sorted(found.comments) == sorted(comments)


def test_one_watches_and_when_its_container_is_killed_another_does(stack: Scaled) -> None:
    """One alert is one message. Within seconds of `docker kill` another monitor tells what is new, and repeats nothing."""
    stack.run(UP)
    (leader,) = eventually(stack.leaders, "one leads")

    eventually(lambda: stack.told() == ["shop"], "the alert is told")
    deliveries = f"{stack.url}/api/v1/monitor"
    eventually(lambda: requests.get(deliveries, timeout=10).json()["waiting"] == 0, "it is noted that it was")
    stack.watch("shop", "till")  # the one that takes over reads it anew
    subprocess.run(["docker", "kill", leader], capture_output=True, check=True)
    began = time.monotonic()
    eventually(lambda: "till" in stack.told(), "another one tells", 30)
    print(f"another monitor told of a new target {time.monotonic() - began:.1f} s after the kill")
    (successor,) = stack.leaders()
    assert successor != leader
    assert "monitor started" in stack.run(LEADS)
    stack.watch("shop", "till", "desk")
    stack.run(RELOAD)
    eventually(lambda: "desk" in stack.told(), "it has read monitor.yaml again")
    ticks = requests.get(deliveries, timeout=10).json()["ticks"]
    eventually(lambda: requests.get(deliveries, timeout=10).json()["ticks"] > ticks + 2, "three ticks")

    assert ["shop", "till", "desk"] == stack.told()


def test_a_restart_is_of_the_containers_own(stack: Scaled) -> None:
    """`tocsin service restart web` restarts that one's and no other; of one that the API began all know the outcome."""
    stack.run(UP)

    def pids() -> list[str]:
        ask = ("supervisorctl", "-s", "unix:///tmp/tocsin/supervisor.sock", "pid", "web")
        return [stack.compose("exec", "-T", "--index", str(number), "app", *ask).strip() for number in (1, 2, 3)]

    before = pids()
    assert "web is healthy after" in stack.run(RESTART)
    assert [False, True, False] == [old != new for old, new in zip(before, pids(), strict=True)]

    wish = {"name": "web", "author": "ann"}
    asked = requests.post(f"{stack.url}/api/service/restart", json=wish, headers=WITH_KEY, timeout=30)
    assert 202 == asked.status_code
    seen = []

    def ended() -> bool:  # nginx asks one container after the other
        seen.append(requests.get(stack.url + asked.headers["Location"], timeout=10).json()["outcome"])
        return seen[-3:] == ["healthy"] * 3

    eventually(ended, "its end", 60)
    assert {None, "healthy"} >= set(seen)
