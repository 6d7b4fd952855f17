"""What a deploy costs, on the Compose stack: down, a stop, a container made anew, and a new version as docs/deploys.md says."""

import json
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count

import pytest
import requests

from tests.composed import Stack, composed, needs_engine
from tests.stack import ROOT, eventually

OVERRIDE = """
services:
  app:
    environment: {PYTHONPATH: /mine, COUNTED: /data/executed}
    volumes: ["./mine:/mine:ro"]
"""
pytestmark = needs_engine
numbers = count()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """With a blueprint that writes down what it executes."""
    folder = tmp_path_factory.mktemp("deploys")
    (folder / "mine").mkdir()
    shutil.copy(ROOT / "tests/counted.py", folder / "mine")
    settings = {"TOCSIN_BLUEPRINTS": "counted:counted", "TOCSIN_DRAIN": "5s"}
    with composed(folder, "deploys", "", OVERRIDE, **settings) as running:
        yield running


def executed(stack: Stack) -> Counter[str]:
    return Counter(stack.compose("exec", "-T", "app", "sh", "-c", "cat /data/executed || true").split())


@contextmanager
def in_flight(stack: Stack, seconds: int) -> Iterator[list[requests.Response]]:
    """A GET and a POST that take so long, and have begun. Their answers are there when the block has ended."""
    names = [f"slow{next(numbers)}" for _ in range(2)]
    answers: list[requests.Response] = []
    with ThreadPoolExecutor(2) as pool:
        asked = [
            pool.submit(requests.request, method, f"{stack.url}/counted/{name}?seconds={seconds}", timeout=60)
            for method, name in zip(("GET", "POST"), names, strict=True)
        ]
        eventually(lambda: set(names) <= set(executed(stack)), "both are executed")
        yield answers
        answers.extend(each.result() for each in asked)


def ends(stack: Stack, since: float) -> Counter[str]:
    """With which codes the project's containers have ended since then."""
    events = ["docker", "events", "--since", f"{since:.3f}", "--until", str(int(time.time() + 1)), "--format", "{{json .}}"]
    filters = ["--filter", f"label=com.docker.compose.project={stack.project}", "--filter", "event=die"]
    shown = subprocess.run([*events, *filters], capture_output=True, text=True, check=True).stdout
    died = [json.loads(line)["Actor"]["Attributes"] for line in shown.splitlines()]
    return Counter(f"{each['com.docker.compose.service']} {each['exitCode']}" for each in died)


def problem(answer: requests.Response) -> bool:
    """Whether it is an error as ours are, with the id of the request."""
    said: tuple[str, str] = (answer.headers["Content-Type"], answer.json()["request_id"])
    return said == ("application/problem+json", answer.headers["X-Request-ID"])


def test_down_answers_what_is_in_flight(stack: Stack) -> None:
    """`docker compose down` while a GET and a POST take 5 s: both are answered, and both containers end by themselves."""
    began = time.time()
    with in_flight(stack, 5) as answers:
        stack.compose("down")
    codes = ends(stack, began)
    stack.compose("up", "--detach", "--wait")

    assert [200, 200] == [each.status_code for each in answers]
    assert {"app 0": 1, "nginx 0": 1} == codes


def test_a_stop_of_the_app_drains_and_then_nginx_says_so(stack: Stack) -> None:
    """503 at once to who asks whether it is ready, 200 to all else, what is in flight is answered; then 502 with the id."""
    began, drained = time.time(), set()
    with in_flight(stack, 8) as answers, ThreadPoolExecutor(1) as pool:
        stopped = pool.submit(stack.compose, "stop", "app")
        eventually(lambda: stack.status("/readyz") == 503, "draining is said")
        for _ in range(5):
            drained.add(requests.post(f"{stack.url}/counted/late{next(numbers)}", timeout=10).status_code)
            drained.add(stack.status("/livez"))
        ready = requests.get(f"{stack.url}/readyz", timeout=10)
        stopped.result()
    gone = requests.get(f"{stack.url}/livez", timeout=30)
    codes = ends(stack, began)
    stack.compose("up", "--detach", "--wait")
    eventually(lambda: stack.status() == 200, "nginx finds it")

    assert (503, True) == (ready.status_code, problem(ready))
    assert {200} == drained
    assert [200, 200] == [each.status_code for each in answers]
    assert (True, True) == (gone.status_code in (502, 503, 504), problem(gone))
    assert {"app 0": 1} == codes


def test_p15_an_app_made_anew_is_found(stack: Stack) -> None:
    """`up --force-recreate app`: nginx goes on as it is, and answers again soon after the new container has started."""
    before = stack.inspect("nginx")["State"]["StartedAt"], stack.container("app")
    stack.compose("up", "--detach", "--force-recreate", "app")
    started = time.monotonic()
    eventually(lambda: stack.status() == 200, "health answers again")
    print(f"answered {time.monotonic() - started:.1f} s after the new container's start")

    assert before[0] == stack.inspect("nginx")["State"]["StartedAt"]
    assert before[1] != stack.container("app")


def deploy(stack: Stack) -> "subprocess.CompletedProcess[str]":
    env = stack.env | {"COMPOSE_PROJECT_NAME": stack.project}
    command = ["sh", "deploy/deploy.sh"]  # what `make deploy` runs
    return subprocess.run(command, cwd=stack.folder, env=env, capture_output=True, text=True, check=False)


def test_a_version_that_does_not_start_costs_nothing(stack: Stack) -> None:
    """It is taken away, and says why; the old container and the name of its image are as before."""
    before = stack.container("app"), stack.inspect("app")["Image"]
    file = stack.folder / "deploy/gunicorn.conf.py"
    good = file.read_text()
    file.write_text(f"{good}\nraise OSError('this version has a fault')\n")
    try:
        done = deploy(stack)
    finally:
        file.write_text(good)

    assert 1 == done.returncode
    assert "The new version does not become healthy. The old version goes on." in done.stderr
    assert "this version has a fault" in done.stderr
    assert [before[0]] == stack.compose("ps", "--all", "--quiet", "app").split()
    named = ["docker", "image", "inspect", "--format", "{{.Id}}", stack.project]
    assert before[1] == subprocess.run(named, capture_output=True, text=True, check=True).stdout.strip()
    assert 200 == stack.status()


def test_a_new_version_costs_no_request(stack: Stack) -> None:
    """`make deploy`: a second container, then the first one goes; GETs, health questions and POSTs are all answered, and each
    POST is executed once."""
    answers: list[tuple[str, int | str]] = []
    posted, over, before = [], threading.Event(), stack.container("app")

    def ask() -> None:
        for turn in count():
            name = f"deployed{next(numbers)}"
            method, path = (("POST", f"/counted/{name}"), ("GET", "/api/health"), ("GET", "/"))[turn % 3]
            if method == "POST":
                posted.append(name)
            try:
                answers.append((method, requests.request(method, stack.url + path, timeout=60).status_code))
            except requests.RequestException as error:
                answers.append((method, type(error).__name__))
            if over.wait(0.15):  # within the limit of one address
                return

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        try:
            done = deploy(stack)
            time.sleep(3)  # nginx looks every two
        finally:
            over.set()
        for each in asking:
            each.result()

    assert 0 == done.returncode, done.stderr
    assert {("GET", 200), ("POST", 200)} == set(answers), Counter(answers)
    assert len(posted) > 30
    assert dict.fromkeys(posted, 1) == {name: times for name, times in executed(stack).items() if name in posted}
    assert before != stack.container("app")
    assert 1 == len(stack.compose("ps", "--all", "--quiet", "app").split())
