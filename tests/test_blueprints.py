"""A team's own blueprint beside Tocsin's: what it gets, and what stops the start."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from flask.testing import FlaskClient

from service.settings import Settings
from service.values import ConfigurationError
from service.web import create_app
from tests.conftest import Lines
from tests.shopping import SHOP
from tests.stack import BIN, ROOT, Running, eventually, free_port, nginx, process, web

TEAM = """
import logging

import structlog
from flask import Blueprint, render_template_string, request

desk = Blueprint("desk", __name__, url_prefix="/desk")
desk.record(lambda state: state.app.config.update(MAX_CONTENT_LENGTH=200_000))

@desk.get("/<int:number>")
def number(number):
    structlog.get_logger().info("looked", shelf=number)
    logging.getLogger("team").warning("said %s", number)
    return {"number": number}

@desk.get("/broken")
def broken():
    raise RuntimeError("SECRET inside")

@desk.post("/body")
def body():
    return str(len(request.get_data()))

@desk.before_request
def before():
    pass
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Callable[[str], str]]:
    """Write a module that can be imported; its name is the test's own."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def written(text: str) -> str:
        name = re.sub(r"\W", "_", request.node.name)
        (tmp_path / f"{name}.py").write_text(text)
        return name

    yield written
    for name in set(sys.modules) - before:
        if name.startswith("test_a_") or name in ("shop", "team"):
            del sys.modules[name]


def client(settings: Settings, *references: str) -> FlaskClient:
    app = create_app(settings.model_copy(update={"blueprints": references}))
    app.extensions["sampler"].stop()
    return app.test_client()


def test_a_request_to_it_is_one_of_ours(settings: Settings, module: Callable[[str], str], lines: Lines) -> None:
    """One access line; what it logs, with structlog or without, has the same shape and the same id; it is counted."""
    asked = client(settings, f"{module(TEAM)}:desk")
    answer = asked.get("/desk/7", headers={"X-Request-ID": "my-own-id-0001"})
    said = [line for line in lines() if line.get("http.request.id") == "my-own-id-0001"]

    assert ({"number": 7}, "my-own-id-0001") == (answer.get_json(), answer.headers["X-Request-ID"])
    assert [("looked", "info"), ("said 7", "warning"), ("GET /desk/7 200", "info")] == [
        (line["message"], line["log.level"]) for line in said
    ]
    assert ("7", "team", "tocsin.access") == (said[0]["labels.shelf"], said[1]["log.logger"], said[2]["event.dataset"])
    counted = asked.get("/metrics").get_data(as_text=True)
    assert 'tocsin_http_requests_total{method="GET",route="/desk/<int:number>",status="200"} 1.0' in counted


def test_a_fault_of_it_is_a_problem_without_its_inside(settings: Settings, module: Callable[[str], str], lines: Lines) -> None:
    """500 as problem+json, the stack in the log under the same id; an address that it has not is a 404 like any other."""
    asked = client(settings, f"{module(TEAM)}:desk")
    broken, missing = asked.get("/desk/broken"), asked.get("/desk/none")
    stacks = [line for line in lines() if "error.stack_trace" in line]

    assert [(500, "application/problem+json"), (404, "application/problem+json")] == [
        (answer.status_code, answer.content_type) for answer in (broken, missing)
    ]
    assert b"SECRET" not in broken.data
    (stack,) = stacks
    assert broken.get_json()["request_id"] == stack["http.request.id"]
    assert "SECRET inside" in stack["error.stack_trace"]


def test_a_larger_body_can_be_allowed(settings: Settings, module: Callable[[str], str]) -> None:
    """MAX_CONTENT_LENGTH is the blueprint's to set when it is registered."""
    asked = client(settings, f"{module(TEAM)}:desk")

    assert [200, 413] == [asked.post("/desk/body", data=b"x" * size).status_code for size in (200_000, 200_001)]
    assert 413 == client(settings).post("/livez", data=b"x" * 200_000).status_code


@pytest.mark.parametrize(
    "text",
    [TEAM, "from apiflask import APIBlueprint\ndesk = APIBlueprint('desk', __name__)\ndesk.get('/api/desk')(lambda: 'x')"],
    ids=["flask", "apiflask"],
)
def test_a_document_of_ours_has_nothing_of_it(settings: Settings, module: Callable[[str], str], text: str) -> None:
    """/api/openapi.json is the same with any kind of blueprint beside ours."""
    expected = client(settings).get("/api/openapi.json").get_json()

    assert expected == client(settings, f"{module(text)}:desk").get("/api/openapi.json").get_json()


BLUEPRINT = "from flask import Blueprint\n"
FAULTS = [
    ("", "absent_module:desk", "there is no module absent_module; put it beside `service`, install it, or name the folder"),
    ("", "absent.module:desk", "there is no module absent; put it beside"),
    ("", ":desk", "the module {module} has no desk; name one of the module's blueprints: it has none"),
    ("desk = 1", ":desk", "is not a flask.Blueprint; name one of the module's blueprints: it has none"),
    (BLUEPRINT + "till = Blueprint('t', __name__)", ":desk", "has no desk; name one of the module's blueprints: it has till"),
    ("import absent_library", ":desk", "raised ModuleNotFoundError: No module named 'absent_library'"),
    ("1 / 0", ":desk", "importing {module} raised ZeroDivisionError: division by zero"),
    ("def (", ":desk", "raised SyntaxError: "),
    (BLUEPRINT + "desk = Blueprint('health', __name__)", ":desk", "could not be registered: ValueError: The name 'health' is al"),
    (
        BLUEPRINT + "desk = Blueprint('desk', __name__)\ndesk.record(lambda state: 1 / 0)",
        ":desk",
        "could not be registered: ZeroDivisionError: division by zero",
    ),
    *(
        (
            BLUEPRINT + f"desk = Blueprint('desk', __name__)\ndesk.post({rule!r})(lambda **_: 'x')",
            ":desk",
            f"has the route {rule}, which Tocsin has already; give the blueprint a `url_prefix` of its own, such as /shop",
        )
        for rule in (
            "/",
            "/livez",
            "/api/v1/alerts",
            "/api/v1/alerts/<name>",
            "/api/v1/runs/mine",
            "/static/mine.css",
            "/metrics",
        )
    ),
]


@pytest.mark.parametrize(("text", "reference", "fault"), FAULTS)
def test_a_fault_stops_the_start(settings: Settings, module: Callable[[str], str], text: str, reference: str, fault: str) -> None:
    """The variable, its value and the remedy are told; what their own code raised is the cause."""
    name = module(text)
    reference = reference if reference[0] != ":" else name + reference
    with pytest.raises(ConfigurationError) as caught:
        client(settings, reference)

    (said,) = caught.value.faults
    assert said.startswith(f"TOCSIN_BLUEPRINTS: '{reference}': ")
    assert fault.format(module=name) in said
    assert ("raised" in said or "registered" in said) is (caught.value.__cause__ is not None)


@pytest.mark.parametrize("text", ["shop", "shop:", ":shop", "shop:a.b", "shop/a:b", "shop:a,", "1shop:a", "shop a:b"])
def test_what_is_no_reference_is_a_fault_of_the_settings(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Said before anything starts, with what would be right."""
    monkeypatch.setenv("TOCSIN_BLUEPRINTS", text)
    with pytest.raises(ConfigurationError, match=r"TOCSIN_BLUEPRINTS: .* is not MODULE:NAME, such as shop:blueprint"):
        Settings.from_environment()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Running, Path]]:
    """gunicorn with the shop of examples/, and nginx in front of it."""
    folder = tmp_path_factory.mktemp("shop")
    env = {"PYTHONPATH": str(SHOP), "TOCSIN_BLUEPRINTS": "shop:blueprint", "SHOP_DATABASE": str(folder / "shop.db")}
    with web(folder, **env) as app, nginx(folder, app.url.removeprefix("http://")) as front:
        yield app, front, folder


def of(running: Running, identity: str, count: int) -> list[dict[str, Any]]:
    """The lines of one request, once there are so many."""

    def find() -> list[dict[str, Any]] | None:
        found = [line for line in running.lines() if line.get("http.request.id") == identity]
        return found if len(found) >= count else None

    return eventually(find, f"{count} lines of {identity}")


def test_the_shop_sells(shop: tuple[Running, Running, Path]) -> None:
    """Through nginx: its page with its own policy and its style, a sale in the log under the id that nginx gave."""
    app, front, folder = shop
    page = front.get("/shop/")
    sold = requests.post(f"{front.url}/shop/buy/rope", timeout=10, allow_redirects=False)
    identity = sold.headers["X-Request-ID"]

    assert "style-src 'self'" in page.headers["Content-Security-Policy"]
    style = re.findall(r'href="([^"]+)"', page.text)[0]
    assert (200, "text/css; charset=utf-8") == (front.status(style), front.get(style).headers["Content-Type"])
    assert (303, "/shop/") == (sold.status_code, sold.headers["Location"])
    assert ["sold one rope", "POST /shop/buy/rope 303"] == [line["message"] for line in of(app, identity, 2)]
    assert ["POST /shop/buy/rope 303"] == [line["message"] for line in of(front, identity, 1)]
    with sqlite3.connect(folder / "shop.db") as database:
        assert (9,) == database.execute("select pieces from goods where name = 'rope'").fetchone()
    database.close()


def test_what_the_shop_cannot_do_is_a_problem(shop: tuple[Running, Running, Path]) -> None:
    """409 for what is sold out; 500 when its table is gone, without a word of the inside, and the stack in the log."""
    app, front, folder = shop
    refused = requests.post(f"{front.url}/shop/buy/ladder", timeout=10)
    with sqlite3.connect(folder / "shop.db") as database:
        database.execute("alter table goods rename to stolen")
    try:
        broken = front.get("/shop/health")
    finally:
        with database:
            database.execute("alter table stolen rename to goods")
        database.close()

    assert (409, "There is no ladder on the shelf.") == (refused.status_code, refused.json()["detail"])
    assert (500, "application/problem+json") == (broken.status_code, broken.headers["Content-Type"])
    assert "goods" not in broken.text
    stack, access = of(app, broken.json()["request_id"], 2)
    assert ("no such table: goods", "GET /shop/health 500") == (stack["error.message"], access["message"])
    assert 200 == front.status("/shop/health")


def test_a_new_version_comes_without_a_lost_request(tmp_path: Path) -> None:
    """HUP to gunicorn: the workers are replaced by ones with the new code, and every request meanwhile is answered."""
    team = tmp_path / "team.py"
    team.write_text(TEAM.replace('{"number": number}', '{"number": 1}'))
    stop, statuses, seen = threading.Event(), set(), []
    with (
        web(tmp_path, PYTHONPATH=str(tmp_path), TOCSIN_BLUEPRINTS="team:desk", PYTHONDONTWRITEBYTECODE="1") as app,
        nginx(tmp_path, app.url.removeprefix("http://")) as front,
    ):

        def ask() -> None:
            while not stop.wait(0.06):  # below the limit of one address
                answer = front.get("/desk/7")
                statuses.add(answer.status_code)
                seen.append(answer.json().get("number"))

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            eventually(lambda: len(seen) > 5, "the first answers")
            team.write_text(TEAM.replace('{"number": number}', '{"number": 2}'))
            app.process.send_signal(signal.SIGHUP)
            eventually(lambda: seen[-15:] == [2] * 15, "the new version alone")
        finally:
            stop.set()
            asking.join()

    assert {200} == statuses
    assert {1, 2} == set(seen)


def test_a_reload_with_a_faulty_version_ends_gunicorn(tmp_path: Path) -> None:
    """Which is why it is to be checked before: gunicorn does not go on with the old one."""
    team = tmp_path / "team.py"
    team.write_text(TEAM)
    with web(tmp_path, PYTHONPATH=str(tmp_path), TOCSIN_BLUEPRINTS="team:desk", PYTHONDONTWRITEBYTECODE="1") as app:
        team.write_text("import absent_library")
        app.process.send_signal(signal.SIGHUP)
        assert app.process.wait(60) in (1, 3)  # its own 3, or 1 where a second worker fails while it ends
        assert "No module named 'absent_library'" in app.log.read_text()


def test_gunicorn_says_what_is_wrong_and_ends(tmp_path: Path) -> None:
    """A module that raises: one line with the variable, and the traceback of the team's own code."""
    (tmp_path / "team.py").write_text("def stock():\n    raise LookupError('no shelf')\n\nstock()\n")
    env = {"PYTHONPATH": str(tmp_path), "TOCSIN_BLUEPRINTS": "team:desk", "TOCSIN_DATA": str(tmp_path), "WEB_CONCURRENCY": "1"}
    env["TOCSIN_WEB_ADDRESS"] = f"127.0.0.1:{free_port()}"
    with process([BIN / "gunicorn", "-c", "deploy/gunicorn.conf.py"], env, tmp_path / "log") as child:
        assert 0 != child.wait(30)
    said = Running(child, "", tmp_path / "log").lines()
    (line,) = [line for line in said if "error.stack_trace" in line]

    assert ("TOCSIN_BLUEPRINTS: 'team:desk': importing team raised LookupError: no shelf", "critical") == (
        line["message"],
        line["log.level"],
    )
    assert f'{tmp_path}/team.py", line 2, in stock' in line["error.stack_trace"]


@pytest.mark.parametrize(
    ("text", "status", "fault"),
    [(TEAM, 0, ""), ("import team.till\n", 2, "TOCSIN_BLUEPRINTS: 'team:desk': importing team raised ModuleNotFoundError: ")],
)
def test_check_config_says_it_before(tmp_path: Path, text: str, status: int, fault: str) -> None:
    """It imports what a worker would, and shows the traceback."""
    (tmp_path / "team.py").write_text(text)
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "TOCSIN_BLUEPRINTS": "team:desk", "TOCSIN_DATA": str(tmp_path)}
    done = subprocess.run([BIN / "tocsin", "check-config"], cwd=ROOT, env=env, capture_output=True, text=True, check=False)

    assert status == done.returncode
    assert fault in done.stderr
    assert (f'File "{tmp_path}/team.py", line 1' in done.stderr) is bool(fault)


def test_the_master_does_not_import_it() -> None:
    """What a team imports must come after gevent's patch: gunicorn's master has only the name."""
    code = "import runpy, sys; runpy.run_path('deploy/gunicorn.conf.py'); print('shop' in sys.modules)"
    env = {"PYTHONPATH": str(SHOP), "TOCSIN_BLUEPRINTS": "shop:blueprint"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True)

    assert "False\n" == done.stdout
