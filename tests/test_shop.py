"""examples/shop in the real Compose stack, both ways: as a blueprint, and in a container of its own."""

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.checkout import copy
from tests.composed import gateway, needs_engine
from tests.receiver import Received, Receiver, receiving
from tests.shopping import shown, variables
from tests.stack import eventually, free_port

pytestmark = needs_engine


@dataclass
class Stack:
    """One Compose project in a copy of the checkout, and who gets its alerts."""

    folder: Path
    way: str
    settings: dict[str, str]
    receiver: Receiver
    port: int = field(default_factory=free_port)

    @property
    def project(self) -> str:
        return f"tocsin-{self.way}-{os.getpid()}"

    def command(self, *command: str, output: int = subprocess.DEVNULL) -> str:
        env = os.environ | {
            "COMPOSE_PROJECT_NAME": self.project,
            **self.settings,
            "TOCSIN_HTTP_PORT": str(self.port),
            "TOCSIN_INTERVAL": "1s",
            "TOCSIN_DRAIN": "0s",
            "TOCSIN_WEBHOOK_URL": self.receiver.url,
        }
        done = subprocess.run(command, cwd=self.folder, env=env, stdout=subprocess.PIPE, stderr=output, text=True, check=False)
        assert 0 == done.returncode, done.stdout
        return done.stdout

    def compose(self, *arguments: str) -> str:
        return self.command("docker", "compose", *arguments)

    def ask(self, path: str, method: str = "GET") -> requests.Response:
        return requests.request(method, f"http://127.0.0.1:{self.port}{path}", timeout=10, allow_redirects=False)

    def shell(self, commands: str) -> str:
        """Commands as the document shows them; no terminal is there."""
        return self.command("sh", "-ec", commands.replace("compose exec ", "compose exec -T "))

    def containers(self, service: str) -> list[str]:
        return self.compose("ps", "--all", "--quiet", service).split()

    def inspect(self, service: str) -> Any:
        return json.loads(self.command("docker", "inspect", *self.containers(service)))[0]

    def of(self, service: str, identity: str) -> list[str]:
        """The messages of one request; raises where a line of the container's log is not a JSON object."""
        log = self.command("docker", "logs", *self.containers(service), output=subprocess.STDOUT)
        lines = [json.loads(line) for line in log.splitlines()]
        return [line["message"] for line in lines if line.get("http.request.id") == identity]

    def told(self, alert: str, status: str) -> Received:
        """What the receiver was told of an alert, once it was."""

        def find() -> Received | None:
            return next((each for each in self.receiver.requests if {alert, status} <= set(_texts(each.message))), None)

        return eventually(find, f"{alert} {status}", 40)


def _texts(message: Any) -> Iterator[str]:
    if isinstance(message, dict):
        for value in message.values():
            yield from _texts(value)
    elif isinstance(message, list):
        for value in message:
            yield from _texts(value)
    elif isinstance(message, str):
        yield message


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Stack]]:
    """Both at once, with alerts that fire within seconds."""
    folder = copy(tmp_path_factory.mktemp("shop"))
    (folder / ".venv").unlink()
    for parent in [folder, *folder.parents]:  # the containers' users read what is mounted
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    file = folder / "examples/shop/monitor.yaml"
    assert 2 == file.read_text().count("for: 30s")
    file.write_text(file.read_text().replace("for: 30s", "for: 1s\n    keep_firing_for: 0s", 1))
    with ExitStack() as cleanup, ThreadPoolExecutor() as pool:
        (blueprint,), (own,) = shown("With Docker", "ini"), shown("A container of its own", "ini")
        both = [
            Stack(folder, way, variables(settings), cleanup.enter_context(receiving(gateway())))
            for way, settings in (("blueprint", blueprint), ("own", own))
        ]
        for each in both:  # the second finds every layer there
            each.compose("build", "--quiet")
        try:
            list(pool.map(lambda each: each.compose("up", "--detach", "--wait"), both))
            yield {each.way: each for each in both}
        finally:
            list(pool.map(lambda each: each.compose("down", "--volumes", "--rmi", "local", "--timeout", "20"), both))
            subprocess.run(
                ["docker", "image", "rm", "--force", *(each.project for each in both)], capture_output=True, check=False
            )


def only_new(stack: Stack, answers: list[requests.Response]) -> bool:
    """Ask once more; whether the last ten answers are of the new version."""
    answers.append(stack.ask("/shop/"))
    time.sleep(0.1)  # within the limit of one address
    return [True] * 10 == ["The new shop" in each.text for each in answers[-10:]]


@pytest.mark.parametrize(("way", "service", "logged"), [("blueprint", "app", 2), ("own", "shop", 1)])
def test_a_sale_is_in_the_logs(stacks: dict[str, Stack], way: str, service: str, logged: int) -> None:
    """Through nginx: the page with its own policy, a sale; every line is JSON, and those of the sale have one id."""
    stack = stacks[way]
    page, sold = stack.ask("/shop/"), stack.ask("/shop/buy/rope", "POST")
    identity = sold.headers["X-Request-ID"]

    assert (200, 303) == (page.status_code, sold.status_code)
    assert "style-src 'self'" in page.headers["Content-Security-Policy"]
    assert ["sold one rope", "POST /shop/buy/rope 303"][:logged] == eventually(
        lambda: found if len(found := stack.of(service, identity)) == logged else None, "the line of the sale"
    )
    assert ["POST /shop/buy/rope 303"] == eventually(lambda: stack.of("nginx", identity), "nginx' line")
    assert 200 == stack.ask("/api/health").status_code


def test_the_blueprints_requests_are_counted(stacks: dict[str, Stack]) -> None:
    """/metrics has its routes."""
    asked = stacks["blueprint"]
    asked.ask("/shop/health")
    assert 'tocsin_http_requests_total{method="GET",route="/shop/health",status="200"}' in asked.ask("/metrics").text


def test_who_watches_the_blueprint_is_told(stacks: dict[str, Stack]) -> None:
    """A shop that can sell nothing: ShopDown fires, and is resolved when it sells again; Tocsin itself goes on."""
    stack = stacks["blueprint"]
    rename = "import sqlite3; sqlite3.connect('/data/shop.db').execute('alter table {} rename to {}')"
    stack.compose("exec", "-T", "app", "python", "-c", rename.format("goods", "stolen"))
    stack.told("ShopDown", "firing")
    assert [500, 200] == [stack.ask(path).status_code for path in ("/shop/", "/livez")]
    stack.compose("exec", "-T", "app", "python", "-c", rename.format("stolen", "goods"))
    stack.told("ShopDown", "resolved")


def test_a_new_version_of_the_blueprint(stacks: dict[str, Stack]) -> None:
    """check-config says that it is good; a HUP brings it, and no request is lost meanwhile."""
    stack = stacks["blueprint"]
    page = stack.folder / "examples/shop/shop/templates/shop/index.html"
    page.write_text(page.read_text().replace("<h1>The shop</h1>", "<h1>The new shop</h1>"))
    said = stack.shell(shown("A new version", "sh")[1])
    assert re.fullmatch(r"ok: /etc/tocsin/monitor.yaml: 3 targets, 6 rules, \d receivers?\nweb: signalled\n", said)
    answers: list[requests.Response] = []
    eventually(lambda: only_new(stack, answers), "the new version")
    assert {200} == {each.status_code for each in answers}


def test_the_shops_container_has_what_the_others_have(stacks: dict[str, Stack]) -> None:
    """Nothing to write to but its volume and memory, no capability, no root, bounds."""
    own, ours = stacks["own"].inspect("shop"), stacks["own"].inspect("nginx")
    alike = ("ReadonlyRootfs", "CapDrop", "SecurityOpt", "RestartPolicy", "LogConfig", "PidsLimit")

    assert {name: ours["HostConfig"][name] for name in alike} == {name: own["HostConfig"][name] for name in alike}
    assert ("10002:10002", True) == (own["Config"]["User"], own["HostConfig"]["Memory"] > 0)


def test_who_watches_the_shops_container_is_told(stacks: dict[str, Stack]) -> None:
    """Stopped: 502 for its prefix alone, and ShopDown fires. Started: nginx finds it by itself, and it is resolved."""
    stack = stacks["own"]
    before = stack.inspect("nginx")["State"]["StartedAt"]
    stack.compose("stop", "shop")
    stack.told("ShopDown", "firing")
    down = stack.ask("/shop/")
    assert (True, "application/problem+json") == (down.status_code in (502, 504), down.headers["Content-Type"])
    eventually(lambda: stack.ask("/shop/").status_code == 502, "nginx knows that there is none")
    assert 200 == stack.ask("/api/health").status_code
    stack.compose("up", "--detach", "--wait", "--no-deps", "shop")
    eventually(lambda: stack.ask("/shop/").status_code == 200, "the shop is found")
    stack.told("ShopDown", "resolved")
    assert before == stack.inspect("nginx")["State"]["StartedAt"]


def test_a_new_version_of_the_shops_container(stacks: dict[str, Stack]) -> None:
    """A second container of the new version, then the old one goes: no request is lost, and nothing restarted."""
    stack, answers, ended = stacks["own"], [stacks["own"].ask("/shop/")], threading.Event()
    (page,) = (stack.folder / "examples/shop/shop/templates").glob("*/*.html")
    page.write_text(page.read_text().replace("<h1>The shop</h1>", "<h1>The new shop</h1>"))

    def ask() -> None:
        while not ended.is_set():
            only_new(stack, answers)

    old = stack.containers("shop")
    asking = threading.Thread(target=ask)
    asking.start()
    try:
        stack.shell(shown("Its new version", "sh")[0])
        eventually(lambda: len(answers) > 10 and all("The new shop" in each.text for each in answers[-10:]), "the new alone")
    finally:
        ended.set()
        asking.join()
    assert {200} == {each.status_code for each in answers}, stack.command("docker", "logs", *stack.containers("nginx"))
    stack.compose("up", "--detach", "--wait")  # finds nothing to do
    assert not set(old) & set(stack.containers("shop"))
    assert 1 == len(stack.containers("shop"))


def test_an_image_with_more_libraries(stacks: dict[str, Stack]) -> None:
    """blueprint.Dockerfile: what it shows as a comment installs beside Tocsin's own, and the blueprint is found."""
    file = stacks["own"].folder / "examples/shop/blueprint.Dockerfile"
    shows = file.read_text().replace("# USER", "USER").replace("# RUN", "RUN")
    # One that is there already: it needs no network.
    file.write_text(shows.replace("psycopg[binary]", "itsdangerous") + "RUN touch /data/written && id -u | grep -qx 10001\n")
    assert "pip --python /opt/venv/bin/python install --no-cache-dir 'itsdangerous'" in file.read_text()
    commands = (
        shown("With Docker", "sh")[0]
        .replace("tag tocsin-shop", "tag tocsin-shop-test")
        .replace("rm tocsin-shop", "rm tocsin-shop-test")
    )
    try:
        assert stacks["own"].shell(commands.replace("docker build", "docker build --quiet")).splitlines()[-1].startswith("ok: ")
    finally:
        stacks["own"].command("docker", "image", "rm", "--force", "tocsin-shop-test")
