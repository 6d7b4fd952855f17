"""The application as WSGI sees it: health, errors, request ids and log lines. `logs` writes the lines."""

import os
import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from flask import Flask, request
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st

from service import logs
from service.measure import Measurement, Reading
from service.settings import Settings
from service.web import LARGEST_BODY, create_app
from service.web.health import report

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def app(settings: Settings) -> Flask:
    app = create_app(settings)

    @app.post("/test/echo")
    def echo() -> Any:
        return request.get_json()

    @app.get("/test/broken")
    def broken() -> Any:
        raise RuntimeError("SECRET inside")

    time.sleep(0.05)  # the kernel counts processor time in hundredths of a second
    app.extensions["sampler"].sample()  # the first reading has no CPU use yet
    return app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def access(lines: Lines) -> list[dict[str, Any]]:
    return [line for line in lines() if line.get("event.dataset") == "tocsin.access"]


def test_health_has_the_four_fields_and_says_what_each_number_is(client: FlaskClient) -> None:
    """/api/health gives the three usages and the status, and for each reading unit, scope and threshold."""
    answer = client.get("/api/health")
    body = answer.get_json()

    assert (200, "application/json", "0") == (answer.status_code, answer.mimetype, answer.headers["Expires"])
    assert {"cpu_usage", "mem_usage", "disk_usage", "status"} <= set(body)
    assert body["cpu_usage"] == body["checks"]["cpu_usage"]["value"]
    assert ("percent", 80.0) == tuple(body["checks"]["cpu_usage"][name] for name in ("unit", "threshold"))
    assert body["checks"]["cpu_usage"]["scope"] in ("host", "cgroup")


@pytest.mark.parametrize(
    ("value", "status"), [(79.9, "healthy"), (80.0, "healthy"), (80.1, "unhealthy")], ids=["below", "on", "over"]
)
def test_over_its_threshold_is_unhealthy(value: float, status: str) -> None:
    """The status turns unhealthy past the threshold, not on it, and the reason names the reading."""
    reading = Reading(1.0, {"cpu_usage": Measurement("cpu_usage", value, "host")})
    body = report(reading, {"cpu_usage": 80.0})

    assert status == body["status"]
    assert (["cpu_usage is over its threshold"] if status == "unhealthy" else []) == body["reasons"]


def test_p16_a_busy_machine_still_answers_200(settings: Settings) -> None:
    """Over its threshold /api/health says unhealthy with 200, so a busy fleet is not thrown out of its balancer."""
    app = create_app(settings.model_copy(update={"disk_threshold": 0.0}))
    app.extensions["sampler"].sample()
    answer = app.test_client().get("/api/health")

    assert (200, "unhealthy") == (answer.status_code, answer.get_json()["status"])


def test_another_status_for_unhealthy_can_be_chosen(settings: Settings) -> None:
    """TOCSIN_UNHEALTHY_STATUS is the status of an unhealthy answer."""
    app = create_app(settings.model_copy(update={"disk_threshold": 0.0, "unhealthy_status": 503}))
    app.extensions["sampler"].sample()

    assert 503 == app.test_client().get("/api/health").status_code


def test_a_missing_value_is_named_and_never_0() -> None:
    """What could not be read is not among the fields, and its reason is told."""
    body = report(Reading(1.0, {}, {"cpu_usage": "no second sample yet"}), {"cpu_usage": 80.0})

    assert "cpu_usage" not in body
    assert {"cpu_usage": "no second sample yet"} == body["missing"]


def test_a_draining_process_wants_no_requests_and_answers_them(app: Flask, client: FlaskClient) -> None:
    """Once it drains, /readyz and /api/health are 503, while /livez and everything else are answered as before."""
    assert 200 == client.get("/readyz").status_code
    app.extensions["readiness"].drain()

    assert [503, 503, 200, 200] == [client.get(path).status_code for path in ("/readyz", "/api/health", "/livez", "/")]
    assert "draining" in client.get("/api/health").get_json()["reasons"]


def test_health_is_of_the_last_reading(app: Flask, client: FlaskClient) -> None:
    """With another reading, or once the process drains, it is another answer at once."""
    before = client.get("/api/health").get_json()
    app.extensions["sampler"].sample()
    after = client.get("/api/health").get_json()
    app.extensions["readiness"].drain()
    draining = client.get("/api/health")

    assert before["time"] < after["time"]
    assert (503, "draining") == (draining.status_code, draining.get_json()["reasons"][0])


def test_health_opens_nothing(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file and no socket is opened on the path of /api/health."""
    import builtins
    import socket

    def forbidden(*_: Any, **__: Any) -> Any:
        raise AssertionError("/api/health must be answered from memory")

    client.get("/api/health")
    with monkeypatch.context() as patch:
        for module, name in ((builtins, "open"), (os, "open"), (os, "stat"), (os, "statvfs"), (socket, "socket")):
            patch.setattr(module, name, forbidden)
        status = client.get("/api/health").status_code

    assert 200 == status


@pytest.mark.parametrize(
    ("method", "path", "given", "status"),
    [
        ("GET", "/nothing", {}, 404),
        ("POST", "/api/health", {}, 405),
        ("GET", "/test/broken", {}, 500),
        ("POST", "/test/echo", {"data": b"{", "content_type": "application/json"}, 400),
        ("POST", "/test/echo", {"data": b"x"}, 415),
        ("POST", "/test/echo", {"data": b"a" * (LARGEST_BODY + 1)}, 413),
        ("GET", "/livez", {"data": b"a" * (LARGEST_BODY + 1)}, 413),
    ],
)
def test_every_error_is_a_problem_document(
    client: FlaskClient, method: str, path: str, given: dict[str, Any], status: int
) -> None:
    """An error of any kind is application/problem+json (RFC 9457) with the request id and nothing of the inside."""
    answer = client.open(path, method=method, **given)
    problem = orjson.loads(answer.data)

    assert (status, status, "application/problem+json") == (answer.status_code, problem["status"], answer.mimetype)
    assert answer.headers["X-Request-ID"] == problem["request_id"]
    assert {"type", "title", "status", "detail", "request_id"} == set(problem)
    assert b"SECRET" not in answer.data
    assert b"Traceback" not in answer.data


def test_a_405_says_what_is_allowed(client: FlaskClient) -> None:
    """The headers an error brings are kept."""
    assert "GET" in client.post("/api/health").headers["Allow"]


@pytest.mark.parametrize(
    ("claimed", "taken"),
    [
        ("a1b2c3d4", True),
        ("A" * 64, True),
        ("123e4567-e89b-12d3-a456-426614174000", True),
        ("short12", False),
        ("A" * 65, False),
        ("with space", False),
        ("évil-évil", False),
        ("a1b2c3d4;drop", False),
        ("", False),
    ],
)
def test_a_request_id_is_taken_only_when_it_looks_like_one(client: FlaskClient, claimed: str, taken: bool) -> None:
    """The client's X-Request-ID is used when it is 8 to 64 letters, digits and dashes; else a new one is made."""
    given = client.get("/livez", headers={"X-Request-ID": claimed}).headers["X-Request-ID"]

    assert taken == (given == claimed)
    assert 8 <= len(given) <= 64


def test_each_request_gives_one_line_with_its_id(client: FlaskClient, lines: Lines) -> None:
    """Whatever becomes of a request, there is one access line with the id of the answer."""
    answers = [client.get(path) for path in ("/livez", "/nothing", "/test/broken")]
    found = access(lines)

    assert [answer.headers["X-Request-ID"] for answer in answers] == [line["http.request.id"] for line in found]
    assert [200, 404, 500] == [line["http.response.status_code"] for line in found]
    assert all(line["event.duration"] > 0 and line["client.ip"] == "127.0.0.1" for line in found)


def test_an_exception_is_logged_with_the_id_of_its_request(client: FlaskClient, lines: Lines) -> None:
    """What Flask's own logger says within a request carries the request's id, and the stack."""
    answer = client.get("/test/broken")
    error = next(line for line in lines() if "error.type" in line)

    assert (answer.headers["X-Request-ID"], "RuntimeError") == (error["http.request.id"], error["error.type"])


header = st.binary(max_size=300).map(lambda raw: raw.decode("latin-1").translate({10: 32, 13: 32}))


@given(path=st.text(max_size=300), agent=header, referrer=header, request_id=header)
def test_p8_nothing_a_client_sends_breaks_or_forges_a_line(path: str, agent: str, referrer: str, request_id: str) -> None:
    """Any path and any bytes in a header give an answer and exactly one valid line."""
    reader, writer = os.pipe()
    try:
        logs.configure("tocsin-web", fd=writer)
        app = Flask("small")
        from service.web.access import Access

        Access(app)
        app.test_client().open(
            "/" + path.lstrip("/"),
            environ_overrides={"HTTP_USER_AGENT": agent, "HTTP_REFERER": referrer, "HTTP_X_REQUEST_ID": request_id},
        )
        written = os.read(reader, 65_536)
    finally:
        os.close(reader)
        os.close(writer)

    assert written.endswith(b"\n")
    assert 1 == written.count(b"\n")
    assert len(written) < 4096
    assert 404 == orjson.loads(written)["http.response.status_code"]
