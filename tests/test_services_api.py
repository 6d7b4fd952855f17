"""/api/service/ and /api/v1/restarts, each status by its name, with gunicorn and nginx under a real supervisord."""

import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient
from pydantic import SecretStr

from service.services import Service
from service.settings import Settings
from service.web import create_app
from service.web.way import is_passed
from tests.stack import BIN, ROOT, eventually, free_port, web
from tests.supervised import STOPPED, Supervised, alive, answers, is_mute, supervised

KEY = "correct-horse-battery-staple"
LONGEST = 600  # seconds that a service may be given
ONCE = {"Connection": "close"}  # one that is kept would be waited for when web ends
WITH_KEY = {"Authorization": f"Bearer {KEY}", **ONCE}
NASTY = 'ann "\\ \U0001f514'
RESTART = ["id", "service", "asked_by", "author", "comment", "alert", "started_at", "ended_at", "seconds"]
RESTART += ["outcome", "detail", "old_pid", "new_pid"]
TIME = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@dataclass
class Stack(Supervised):
    """A supervisord that runs nginx, web and others; `url` is web's own, `front` that of nginx."""

    url: str
    front: str

    def get(self, path: str) -> Any:
        answer = requests.get(self.url + path, timeout=30)
        assert 200 == answer.status_code, answer.content
        return answer.json()

    def service(self, name: str) -> dict[str, Any]:
        return dict(self.get(f"/api/service/status?name={name}")["services"][0])

    def restart(self, name: str, *, through: str = "", **said: str) -> requests.Response:
        address = f"{through or self.url}/api/service/restart"
        return requests.post(address, json={"name": name, **said}, headers=WITH_KEY, timeout=60)

    def ended(self, place: str) -> dict[str, Any]:
        """A restart once it has ended, asked for where a 202 says."""

        def look() -> dict[str, Any] | None:
            answer = requests.get(self.url + place, timeout=10)
            return dict(answer.json()) if answer.ok and answer.json()["outcome"] else None

        return eventually(look, "the restart has ended", 40)

    def lines(self) -> list[dict[str, Any]]:
        """Of web's log; raises where one is not a JSON object."""
        return [json.loads(line) for line in (self.folder / "web.log").read_text().splitlines()]

    def said(self, restart: str) -> list[tuple[Any, ...]]:
        """What the log has about a restart: what was done, by whom, and the outcome."""
        about = [line for line in self.lines() if line.get("labels.restart") == restart]
        assert {"process"} <= {line["event.category"] for line in about} <= {"process"}, about
        return [(line["event.action"], line["labels.author"], line.get("event.outcome")) for line in about]


@contextmanager
def running(folder: Path, **env: str) -> Iterator[Stack]:
    ports = {name: free_port() for name in ("web", "front", "steady", "mute")}
    at = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    (folder / "monitor.yaml").write_text(
        "services:\n"
        f"- {{name: web, supervisord: web, url: '{at['web']}/readyz', timeout: 40s}}\n"
        f"- {{name: nginx, supervisord: nginx, url: '{at['front']}/robots.txt'}}\n"
        f"- {{name: steady, supervisord: steady, url: '{at['steady']}/robots.txt'}}\n"
        f"- {{name: mute, supervisord: mute, url: '{at['mute']}', timeout: 1s}}\n"
        "- {name: idle, supervisord: idle}\n"
        "- {name: missing, supervisord: no-such-program}\n"
        f"- {{name: silent, supervisord: web, socket: {folder}/nobody.sock}}\n"
    )
    programs = {
        "web": f"command = {BIN}/gunicorn -c deploy/gunicorn.conf.py\ndirectory = {ROOT}\nstopwaitsecs = 30",
        "nginx": f"command = sh {ROOT}/deploy/nginx/start.sh\nstopsignal = QUIT",
        "steady": answers(ports["steady"]),
        "mute": is_mute(ports["mute"]),
        "idle": STOPPED,
    }
    settings = {
        "NGINX_PREFIX": f"{folder}/nginx",
        "NGINX_LISTEN": at["front"].removeprefix("http://"),
        "NGINX_UPSTREAM": at["web"].removeprefix("http://"),
        "NGINX_STATIC": f"{ROOT}/service/web/static",
        "TOCSIN_WEB_ADDRESS": at["web"].removeprefix("http://"),
        "TOCSIN_DATA": str(folder),
        "TOCSIN_CONFIG": f"{folder}/monitor.yaml",
        "TOCSIN_DRAIN": "0s",
        "TOCSIN_API_KEY": KEY,
        "WEB_CONCURRENCY": "2",
        **env,
    }
    with supervised(folder, programs, **settings):
        eventually(lambda: requests.get(f"{at['front']}/readyz", timeout=5).status_code == 200, "web and nginx answer")
        yield Stack(folder, at["web"], at["front"])


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("api")) as found:
        yield found


def problem(answer: requests.Response, status: int) -> dict[str, Any]:
    """A problem document with the id of its request."""
    assert (status, "application/problem+json", "no-store") == (
        answer.status_code,
        answer.headers["Content-Type"],
        answer.headers["Cache-Control"],
    ), answer.content
    body = dict(answer.json())
    assert (status, answer.headers["X-Request-ID"]) == (body["status"], body["request_id"])
    return body


def test_200_every_service_is_told_with_its_state(stack: Stack) -> None:
    """What runs has a process; of what no supervisor knows there is only the reason, and the others are told all the same."""
    stack.ctl("stop", "idle")
    services = {each["name"]: each for each in stack.get("/api/service/status")["services"]}

    assert ["web", "nginx", "steady", "mute", "idle", "missing", "silent"] == list(services)
    assert ["name", "supervisor", "state", "since", "pid", "restarts", "detail", "restarting"] == list(services["web"])
    assert ["running"] * 4 + ["stopped", None, None] == [each["state"] for each in services.values()]
    assert {"supervisord"} == {each["supervisor"] for each in services.values()}
    assert {name: stack.pid(name) for name in ("web", "nginx", "steady", "mute")} == {
        name: services[name]["pid"] for name in ("web", "nginx", "steady", "mute")
    }
    assert TIME.fullmatch(services["steady"]["since"])
    assert (None, None) == (services["idle"]["pid"], services["silent"]["since"])
    assert "no-such-program" in services["missing"]["detail"]
    assert "nobody.sock" in services["silent"]["detail"]
    assert {False} == {each["restarting"] for each in services.values()}


def test_200_one_service_is_told_by_its_name(stack: Stack) -> None:
    """And no other one."""
    assert ["steady"] == [each["name"] for each in stack.get("/api/service/status?name=steady")["services"]]


def test_404_a_service_that_is_not_configured(stack: Stack) -> None:
    """Neither its state is told nor is it restarted, also when the supervisor has a program of that name."""
    for answer in (
        requests.get(f"{stack.url}/api/service/status?name=stedy", timeout=10),
        stack.restart("stedy"),
    ):
        assert "there is no service 'stedy'; did you mean 'steady'?" == problem(answer, 404)["detail"]
    problem(stack.restart("no-such-program"), 404)
    problem(requests.get(f"{stack.url}/api/v1/restarts/none", timeout=10), 404)


def test_502_when_nothing_can_be_said(stack: Stack) -> None:
    """The supervisor of the one service that is asked for does not answer."""
    answer = requests.get(f"{stack.url}/api/service/status?name=silent", timeout=10)
    assert "nobody.sock" in problem(answer, 502)["detail"]


def test_200_a_restart_is_answered_when_it_is_healthy(stack: Stack) -> None:
    """With the old and the new process; who asked is in the log and in the list, and the key nowhere."""
    before = stack.pid("steady")
    answer = stack.restart("steady", author=NASTY, comment="why\nnot")
    body = answer.json()

    assert (200, "no-store") == (answer.status_code, answer.headers["Cache-Control"])
    assert ["name", "restart", "outcome", "seconds", "old_pid", "new_pid"] == list(body)
    assert ("steady", "healthy", before, stack.pid("steady")) == tuple(
        body[name] for name in ("name", "outcome", "old_pid", "new_pid")
    )
    assert not psutil.pid_exists(before)
    assert body["seconds"] >= 3

    kept = stack.get(f"/api/v1/restarts/{body['restart']}")
    assert RESTART == list(kept)
    assert ("steady", "api", NASTY, "why\nnot", None, "healthy", "") == tuple(
        kept[name] for name in ("service", "asked_by", "author", "comment", "alert", "outcome", "detail")
    )
    assert (body["seconds"], body["old_pid"], body["new_pid"]) == (kept["seconds"], kept["old_pid"], kept["new_pid"])
    assert kept == stack.get("/api/v1/restarts?service=steady")["restarts"][0]

    assert [("restart-asked", NASTY, None), ("restart", NASTY, "success")] == stack.said(body["restart"])
    identities = {line["http.request.id"] for line in stack.lines() if line.get("labels.restart") == body["restart"]}
    assert {answer.headers["X-Request-ID"]} == identities
    assert KEY not in (stack.folder / "web.log").read_text()


def test_200_nginx_is_waited_for_by_who_does_not_ask_through_it(stack: Stack) -> None:
    """Stopped, it is started by a call to web itself, and the new process is in the answer. Who says nothing else is `api`."""
    stack.ctl("stop", "nginx")
    answer = stack.restart("nginx")
    body = answer.json()
    assert (200, "healthy", None, stack.pid("nginx")) == (
        answer.status_code,
        body["outcome"],
        body["old_pid"],
        body["new_pid"],
    )
    assert "running" == stack.service("nginx")["state"]
    assert 200 == requests.get(f"{stack.front}/livez", timeout=10).status_code
    kept = stack.get(f"/api/v1/restarts/{body['restart']}")
    assert ("api", "") == (kept["author"], kept["comment"])


def test_202_nginx_asked_through_itself(stack: Stack) -> None:
    """The answer comes at once, and says where the outcome is told. Nothing is left over in web."""
    before = stack.pid("nginx")
    answer = stack.restart("nginx", through=stack.front, author="ann")
    body = answer.json()

    assert (202, body["location"]) == (answer.status_code, answer.headers["Location"])
    assert ["name", "restart", "old_pid", "location"] == list(body)
    assert ("nginx", before, f"/api/v1/restarts/{body['restart']}") == (body["name"], body["old_pid"], body["location"])
    kept = stack.ended(body["location"])
    assert ("healthy", before, stack.pid("nginx")) == (kept["outcome"], kept["old_pid"], kept["new_pid"])
    assert before != kept["new_pid"]
    assert 200 == requests.get(f"{stack.front}/api/v1/restarts/{body['restart']}", timeout=10).status_code
    eventually(lambda: len(stack.said(body["restart"])) == 2, "the outcome is in the log")
    assert [("restart-asked", "ann", None), ("restart", "ann", "success")] == stack.said(body["restart"])

    def children() -> list[psutil.Process]:
        return [child for worker in psutil.Process(stack.pid("web")).children() for child in worker.children()]

    eventually(lambda: not children(), "no zombie in a worker")


def test_202_web_restarts_itself(stack: Stack) -> None:
    """What was accepted is done though supervise.py ends web's whole process group, and others can ask before and after."""
    before = stack.pid("web")
    assert 200 == requests.get(f"{stack.front}/livez", timeout=10).status_code
    answer = stack.restart("web", author=NASTY, comment="--evil $(x)")
    place = answer.headers["Location"]
    assert (202, before) == (answer.status_code, answer.json()["old_pid"])

    def ours() -> list[psutil.Process]:  # and not that of a test beside this one
        every = (each for each in psutil.process_iter(["cmdline", "environ"]) if "carry-out" in (each.info["cmdline"] or []))
        return [each for each in every if (each.info["environ"] or {}).get("TOCSIN_DATA") == str(stack.folder)]

    carrying = eventually(ours, "it")
    assert [["service", "carry-out"]] == [each.info["cmdline"][-2:] for each in carrying]
    assert True is stack.service("web")["restarting"]
    assert "web is being restarted" == problem(again := stack.restart("web"), 409)["detail"]
    assert again.headers["Retry-After"]
    eventually(lambda: not alive(before), "the old one ends")
    with suppress(ProcessLookupError):
        os.killpg(before, signal.SIGKILL)  # as supervise.py does with what is left

    kept = stack.ended(place)
    assert ("healthy", before, stack.pid("web")) == (kept["outcome"], kept["old_pid"], kept["new_pid"])
    assert before != kept["new_pid"]
    assert (NASTY, "--evil $(x)") == (kept["author"], kept["comment"])
    assert 200 == requests.get(f"{stack.front}/livez", timeout=10).status_code
    eventually(lambda: not stack.service("web")["restarting"], "it is free again")
    # Its own output ended with the old process; it goes on in that of the new one.
    identity = kept["id"]
    eventually(lambda: len(stack.said(identity)) == 2, "the outcome is in the log")
    assert [("restart-asked", NASTY, None), ("restart", NASTY, "success")] == stack.said(identity)


def test_401_without_the_key(stack: Stack) -> None:
    """Nothing is restarted, whatever is sent."""
    before = stack.pid("steady")
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        address = f"{stack.url}/api/service/restart"
        problem(answer := requests.post(address, json={"name": "steady"}, headers=headers, timeout=10), 401)
        assert 'Bearer realm="Tocsin API"' == answer.headers["WWW-Authenticate"]
    assert before == stack.pid("steady")


def test_403_without_a_configured_key(stack: Stack, tmp_path: Path) -> None:
    """A web that has no key restarts nothing, and still tells how services are."""
    given = {"TOCSIN_DATA": str(stack.folder), "TOCSIN_CONFIG": f"{stack.folder}/monitor.yaml"}
    before = stack.pid("steady")
    with web(tmp_path, **given) as other:
        address = f"{other.url}/api/service/restart"
        answer = requests.post(address, json={"name": "steady"}, headers=WITH_KEY, timeout=10)
        assert "Set TOCSIN_API_KEY" in problem(answer, 403)["detail"]
        assert before == other.get("/api/service/status?name=steady").json()["services"][0]["pid"]
    assert before == stack.pid("steady")


def test_409_of_two_at_once_one_is_refused(stack: Stack) -> None:
    """The other one is done, and meanwhile it is told that the service is being restarted.

    They ask through nginx: what does not carry the answer is waited for there, too.
    """
    answers: list[requests.Response] = []
    threads = [threading.Thread(target=lambda: answers.append(stack.restart("steady", through=stack.front))) for _ in range(2)]
    for thread in threads:
        thread.start()
    eventually(lambda: answers, "the first answer")
    assert "steady is being restarted" == problem(answers[0], 409)["detail"]
    assert answers[0].headers["Retry-After"]
    assert True is stack.service("steady")["restarting"]
    for thread in threads:
        thread.join()
    assert (200, "healthy") == (answers[1].status_code, answers[1].json()["outcome"])
    assert False is stack.service("steady")["restarting"]


@pytest.mark.parametrize(("name", "why"), [("missing", "no-such-program"), ("silent", "nobody.sock")])
def test_502_a_supervisor_that_does_not_do_it(stack: Stack, name: str, why: str) -> None:
    """It does not answer, or refuses; that is said and kept."""
    body = problem(stack.restart(name, author="ann"), 502)
    assert ("unreachable", None, None) == (body["outcome"], body["old_pid"], body["new_pid"])
    assert why in body["detail"]
    assert "unreachable" == stack.get(f"/api/v1/restarts/{body['restart']}")["outcome"]
    assert [("restart-asked", "ann", None), ("restart", "ann", "failure")] == stack.said(body["restart"])


def test_504_restarted_and_not_healthy_in_time(stack: Stack) -> None:
    """It runs with a new process and does not answer: what is wrong is said, and that it was restarted."""
    before = stack.pid("mute")
    body = problem(stack.restart("mute"), 504)
    assert ("unhealthy", before, stack.pid("mute")) == (body["outcome"], body["old_pid"], body["new_pid"])
    assert before != body["new_pid"]
    assert body["detail"].startswith("mute was restarted and is not healthy: it does not answer")
    assert "unhealthy" == stack.get(f"/api/v1/restarts/{body['restart']}")["outcome"]


@pytest.mark.parametrize(
    ("content", "kind", "status", "places"),
    [
        (b"name=steady", "application/x-www-form-urlencoded", 415, []),
        (b"{", "application/json", 400, []),
        (b"[]", "application/json", 422, ["the body"]),
        (b"{}", "application/json", 422, ["name"]),
        (b'{"name": 1, "author": "", "comment": "\\u0000"}', "application/json", 422, ["name", "author", "comment"]),
        (b'{"name": "steady", "command": "x"}', "application/json", 422, ["command"]),
        (b'{"name": "\\ud800"}', "application/json", 422, ["name"]),
        (b'{"name": "' + b"x" * 5000 + b'"}', "application/json", 422, ["name"]),
        (b'{"name": "../../etc\\n\\u001b"}', "application/json", 404, []),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_what_was_not_sent_as_it_should_be(stack: Stack, content: bytes, kind: str, status: int, places: list[str]) -> None:
    """415, 400, 422 with every fault at once, as all calls answer."""
    address = f"{stack.url}/api/service/restart"
    answer = requests.post(address, data=content, headers={**WITH_KEY, "Content-Type": kind}, timeout=10)
    assert places == [each["place"] for each in problem(answer, status).get("errors", [])]


def test_a_restart_can_only_be_posted(stack: Stack) -> None:
    """A GET restarts nothing."""
    answer = requests.get(f"{stack.url}/api/service/restart", timeout=10)
    problem(answer, 405)
    assert {"POST", "OPTIONS"} == set(answer.headers["Allow"].split(", "))


def test_restarts_are_listed_with_the_newest_first(stack: Stack) -> None:
    """Of all services, or of one; of one that never was, none."""
    stack.restart("silent")
    stack.restart("missing")
    stack.restart("silent")
    every = stack.get("/api/v1/restarts")["restarts"]
    assert ["silent", "missing", "silent"] == [each["service"] for each in every[:3]]
    assert sorted((each["started_at"] for each in every), reverse=True) == [each["started_at"] for each in every]
    assert {"silent"} == {each["service"] for each in stack.get("/api/v1/restarts?service=silent")["restarts"]}
    assert [] == stack.get("/api/v1/restarts?service=none")["restarts"]


def test_without_a_database_services_are_restarted(tmp_path: Path) -> None:
    """A 202 names the status as the place to ask, and what was said by whom is in the log alone. Outcomes are told as ever."""
    with running(tmp_path, TOCSIN_DATABASE_URL="sqlite:////nonexistent/tocsin.db") as stack:
        assert "unreachable" == problem(stack.restart("missing"), 502)["outcome"]

        before = stack.pid("web")
        answer = stack.restart("web", author="ann")
        assert (202, "/api/service/status?name=web") == (answer.status_code, answer.headers["Location"])
        eventually(lambda: stack.pid("web") not in (0, before) and not stack.service("web")["restarting"], "it was done", 40)
        identity = answer.json()["restart"]
        eventually(lambda: len(stack.said(identity)) == 2, "the outcome is in the log")
        assert [("restart-asked", "ann", None), ("restart", "ann", "success")] == stack.said(identity)
        problem(requests.get(f"{stack.url}/api/v1/restarts", timeout=10), 503)


@pytest.fixture
def configured(settings: Settings) -> Iterator[tuple[FlaskClient, Path]]:
    """An application, and its configuration file."""
    path = settings.data / "monitor.yaml"
    app = create_app(settings.model_copy(update={"config": path, "api_key": SecretStr(KEY)}))
    yield app.test_client(), path
    app.extensions["sampler"].stop()


def write(path: Path, text: str) -> None:
    """Another file, also for who looks at its time: that may stand still for some milliseconds."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def test_503_until_the_configuration_has_no_fault(configured: tuple[FlaskClient, Path], lines: Any) -> None:
    """A file that is missing or faulty is said once in the log, and read again when it has changed; one that was good stays."""
    client, path = configured

    def asked() -> tuple[int, str]:
        answer = client.get("/api/service/status?name=db")
        return answer.status_code, answer.get_json(force=True)["detail"]

    faulty = (503, "The configuration has a fault; `tocsin check-config` names it.")
    good = "services: [{name: db, supervisord: db}]"
    assert [faulty, faulty] == [asked(), asked()]
    write(path, good.replace("name: db", "name: [db]"))
    assert [faulty, faulty] == [asked(), asked()]
    answer = client.post("/api/service/restart", json={"name": "db"}, headers=WITH_KEY)
    assert (503, "5") == (answer.status_code, answer.headers["Retry-After"])

    write(path, good)
    assert 502 == asked()[0]  # there is no supervisord, but such a service
    write(path, good.replace("services", "servces"))
    assert [502, 502] == [asked()[0], asked()[0]]
    write(path, good.replace("name: db", "name: dbx"))
    assert 404 == asked()[0]

    said = [line for line in lines() if line["message"].startswith("the configuration has a fault")]
    assert [True] * 3 == [f"{path}: " in line["labels.reason"] for line in said]
    assert 200 == client.get("/livez").status_code


def test_without_services_there_is_nothing_to_tell(configured: tuple[FlaskClient, Path]) -> None:
    """An empty list is an answer."""
    client, path = configured
    write(path, "services: []")
    answer = client.get("/api/service/status")
    assert (200, {"services": []}) == (answer.status_code, answer.get_json())


def test_a_supervisor_that_hangs_keeps_nobody_waiting_for_the_others(tmp_path: Path) -> None:
    """Ten services of a supervisord that takes connections and never answers take as long as one."""
    import socket

    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind(str(tmp_path / "hanging.sock"))
        hanging.listen(100)
        every = "".join(f"- {{name: s{n}, supervisord: s, socket: {tmp_path}/hanging.sock}}\n" for n in range(10))
        (tmp_path / "monitor.yaml").write_text(f"services:\n{every}- {{name: gone, supervisord: s}}\n")
        with web(tmp_path, TOCSIN_CONFIG=f"{tmp_path}/monitor.yaml", WEB_CONCURRENCY="1") as running:
            answers: list[requests.Response] = []
            thread = threading.Thread(
                target=lambda: answers.append(requests.get(f"{running.url}/api/service/status", headers=ONCE, timeout=60))
            )
            began = time.monotonic()
            thread.start()
            assert 200 == running.status("/livez")
            assert not answers
            thread.join()
            assert time.monotonic() - began < 25
            problem(answers[0], 502)


def test_nginx_waits_as_long_as_a_restart_may_take() -> None:
    """Ten minutes to be healthy again, after as long as the slowest of our programs has to end."""
    location = re.search(r"location = /api/service/restart \{(.*?)\}", (ROOT / "deploy/nginx/server.conf").read_text(), re.DOTALL)
    waits = re.search(r"proxy_read_timeout (\d+)m;", location[1] if location else "")
    stops = re.findall(r"stopwaitsecs = (\d+)", (ROOT / "deploy/supervisor/supervisord.conf").read_text())
    longest = Service(name="it", supervisord="it", timeout=f"{LONGEST}s").timeout
    with pytest.raises(ValueError):
        Service(name="it", supervisord="it", timeout=f"{LONGEST + 1}s")

    assert waits
    assert longest + max(int(stop) for stop in stops) < 60 * int(waits[1])


@pytest.mark.parametrize(
    ("service", "pid", "passed"),
    [
        (Service(name="web", supervisord="web"), os.getpid(), False),
        (Service(name="web", supervisord="web"), os.getppid(), True),
        (Service(name="web", systemd="web"), os.getppid(), True),
        (Service(name="web", supervisord="web"), 2**22 + 1, True),
        (Service(name="web", supervisord="web"), None, False),
        (Service(name="web", docker="web"), 1, True),
        (Service(name="web", docker="web"), None, False),
    ],
    ids=["a stranger", "a parent", "under systemd too", "cannot be seen", "does not run", "a container", "a stopped container"],
)
def test_what_cannot_be_seen_is_taken_for_the_way(service: Service, pid: int | None, passed: bool) -> None:
    """What we descend from would end us; a container, or a process of another machine, may carry the answer."""
    with Flask("small").test_request_context():
        assert passed is is_passed(service, pid)
