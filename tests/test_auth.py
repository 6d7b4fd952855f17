"""The API key: who may change something, whatever bytes come as a header, and that it is in no log."""

import http.client
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from service.settings import Settings
from service.web import create_app
from tests.stack import web

KEY = "correct-horse-battery-staple"
CHANGES = [
    ("POST", "/api/v1/silences"),
    ("PUT", "/api/v1/silences/1"),
    ("DELETE", "/api/v1/silences/1"),
    ("POST", "/api/v1/alerts/1/ack"),
]
Lines = Callable[[], list[dict[str, Any]]]
READS = ["/api/v1/silences", "/api/v1/alerts", "/api/v1/monitor"]


def client(settings: Settings, key: str | None = KEY) -> FlaskClient:
    return create_app(settings.model_copy(update={"api_key": SecretStr(key) if key else None})).test_client()


@pytest.mark.parametrize(("method", "path"), CHANGES)
def test_without_a_configured_key_nothing_can_be_changed(settings: Settings, method: str, path: str) -> None:
    """The answer says that there is none and how to set one, whatever the caller brings."""
    for headers in ({}, {"Authorization": f"Bearer {KEY}"}):
        answer = client(settings, None).open(path, method=method, headers=headers)
        assert (403, "application/problem+json") == (answer.status_code, answer.mimetype)
        assert b"Set TOCSIN_API_KEY, or TOCSIN_API_KEY_FILE" in answer.data


@pytest.mark.parametrize(("method", "path"), CHANGES)
def test_without_the_key_nothing_can_be_changed(settings: Settings, method: str, path: str) -> None:
    """The answer is 401 with the scheme, before the body is looked at."""
    answer = client(settings).open(path, method=method, data=b"{no JSON")
    assert (401, 'Bearer realm="Tocsin API"') == (answer.status_code, answer.headers["WWW-Authenticate"])
    assert ("application/problem+json", "no-store") == (answer.mimetype, answer.headers["Cache-Control"])


@pytest.mark.parametrize("path", READS)
@pytest.mark.parametrize("key", [KEY, None], ids=["key", "no key"])
def test_reading_needs_no_key(settings: Settings, path: str, key: str | None) -> None:
    """Everyone who reaches the service may read."""
    assert 200 == client(settings, key).get(path).status_code


@pytest.mark.parametrize(
    ("header", "right"),
    [
        (f"Bearer {KEY}", True),
        (f"bearer {KEY}", True),
        (f"BEARER   {KEY} ", True),
        (f"Bearer {KEY}x", False),
        (f"Bearer {KEY[:-1]}", False),
        (f"Bearer {KEY.upper()}", False),
        ("Bearer", False),
        ("Bearer ", False),
        ("", False),
        (KEY, False),
        (f"Basic {KEY}", False),
        (f"Bearer Bearer {KEY}", False),
        (f"Bearer {KEY}, Bearer {KEY}", False),
        (f"Bearer {KEY}é", False),
        ("Bearer " + "x" * 100_000, False),
    ],
    ids=lambda value: str(value)[:30],
)
def test_only_the_key_is_the_key(settings: Settings, header: str, right: bool) -> None:
    """The scheme may be written in any case; the key is compared to its last character."""
    answer = client(settings).delete("/api/v1/silences/1", environ_overrides={"HTTP_AUTHORIZATION": header})
    assert (404 if right else 401) == answer.status_code


def test_a_wrong_key_is_logged(settings: Settings, lines: Lines) -> None:
    """As one at the page's form is, without the key; that none is sent is not."""
    for header in ("Bearer wrong-key-of-somebody", f"Bearer {KEY}", ""):
        client(settings).delete("/api/v1/silences/1", environ_overrides={"HTTP_AUTHORIZATION": header})
    found = [line for line in lines() if line.get("event.category") == "authentication"]
    assert [("api-key", "failure", "127.0.0.1")] == [
        (line["event.action"], line["event.outcome"], line["client.ip"]) for line in found
    ]
    assert "wrong-key" not in str(lines())


def test_a_key_may_be_of_any_language(settings: Settings) -> None:
    """A key that is not ASCII is compared by its bytes in UTF-8, as clients send it."""
    key = "пароль-für-später-🔑"
    sent = f"Bearer {key}".encode().decode("latin-1")
    answer = client(settings, key).delete("/api/v1/silences/1", environ_overrides={"HTTP_AUTHORIZATION": sent})
    assert 404 == answer.status_code


@given(header=st.text() | st.binary().map(lambda raw: raw.decode("latin-1")) | st.text().map("Bearer {}".format))
def test_no_header_is_more_than_wrong(header: str) -> None:
    """Whatever comes as a header is answered with 401."""
    from flask import Flask

    from service.web import errors
    from service.web.auth import key_required

    app = Flask("small")
    errors.init_app(app)
    app.before_request(key_required(SecretStr(KEY)))
    answer = app.test_client().post("/", environ_overrides={"HTTP_AUTHORIZATION": header})
    assert 401 == answer.status_code


def test_the_key_is_in_no_log(tmp_path: Path) -> None:
    """Not in gunicorn's and not in ours, right or wrong, whatever else is wrong with the request."""
    with web(tmp_path, TOCSIN_API_KEY=KEY, TOCSIN_LOG_LEVEL="DEBUG") as running:
        host = running.url.removeprefix("http://")
        statuses = []
        for header, body in (
            (KEY.encode(), b"{}"),
            (KEY.encode() + b"\xff\xfe", b"{}"),
            (KEY.encode(), b"{"),
            (KEY.encode() * 3, b""),
            (KEY.encode() * 1000, b""),
        ):
            connection = http.client.HTTPConnection(host, timeout=10)
            headers: dict[str, bytes | str] = {"Authorization": b"Bearer " + header, "Content-Type": "application/json"}
            connection.request("POST", "/api/v1/silences", body, headers)
            statuses.append(connection.getresponse().status)
            connection.close()
        lines = running.lines()

    assert [422, 401, 400, 401] == statuses[:4]
    assert statuses[4] in (400, 401, 431)
    assert sum(line.get("event.dataset") == "tocsin.access" for line in lines) >= 4
    assert KEY not in running.log.read_text()
