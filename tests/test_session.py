"""Logging in: the cookie, what it is worth, the token in the forms, and where a form may come from."""

import base64
import re
import time
from collections.abc import Callable
from http.cookies import SimpleCookie
from typing import Any

import orjson
import pytest
from flask import Flask
from flask.testing import FlaskClient
from itsdangerous import URLSafeTimedSerializer
from pydantic import SecretStr
from werkzeug.test import TestResponse

from service.settings import Settings
from service.web import create_app, session

KEY = "correct-horse-battery-staple"
OTHER = "another-key-of-some-length"
OWN = {"Origin": "http://localhost"}
Lines = Callable[[], list[dict[str, Any]]]


def app(settings: Settings, key: str | None = KEY) -> Flask:
    return create_app(settings.model_copy(update={"api_key": SecretStr(key) if key else None}))


def log_in(client: FlaskClient, key: str = KEY, author: str = "ann", **given: Any) -> TestResponse:
    return client.post("/login", data={"key": key, "author": author}, **given)


def cookie(answer: TestResponse) -> Any:
    (found,) = SimpleCookie(answer.headers["Set-Cookie"]).values()
    assert found.key.startswith(f"{session.COOKIE}-")
    return found


def token(client: FlaskClient) -> str:
    found = re.search('name="csrf" value="([^"]+)"', client.get("/").text)
    assert found
    return found[1]


def is_logged_in(client: FlaskClient) -> bool:
    return "Log out" in client.get("/").text


@pytest.fixture
def client(settings: Settings) -> FlaskClient:
    return app(settings).test_client()


def test_with_the_key_one_is_logged_in_and_out_again(client: FlaskClient, lines: Lines) -> None:
    """The answer leads back to the page, which says who is logged in; logging out ends it. Both are logged."""
    assert not is_logged_in(client)
    answer = log_in(client, author="ann <b>")
    assert (303, "/") == (answer.status_code, answer.headers["Location"])
    assert is_logged_in(client)
    assert "ann &lt;b&gt;" in client.get("/").text
    assert 303 == client.post("/logout", data={"csrf": token(client)}).status_code
    assert not is_logged_in(client)
    assert [("log-in", "ann <b>"), ("log-out", "ann <b>")] == [
        (line["event.action"], line["labels.author"]) for line in lines() if line.get("event.category") == "authentication"
    ]


@pytest.mark.parametrize(("scheme", "secure"), [("http", False), ("https", True)])
def test_the_cookie_is_kept_from_scripts_and_other_sites(client: FlaskClient, scheme: str, secure: bool) -> None:
    """HttpOnly, SameSite=Strict, an end, and Secure where the client speaks TLS; the key is not in it."""
    answer = log_in(client, headers={"X-Forwarded-Proto": scheme})
    found = cookie(answer)

    assert (True, "Strict", "/", "") == (found["httponly"], found["samesite"], found["path"], found["domain"])
    assert secure == bool(found["secure"])
    assert found["expires"]
    assert KEY not in str(answer.headers)


@pytest.mark.parametrize("key", [OTHER, "", KEY[:-1], KEY + "x", KEY.upper(), "é" * 20, "\0" * 20, "x" * 50_000], ids=range(8))
def test_another_key_opens_nothing(client: FlaskClient, key: str, lines: Lines) -> None:
    """403 with a page that says what is wrong, no cookie, and one line in the log, without the key."""
    answer = client.post(
        "/login", data=b"author=ann&key=" + key.encode("utf-8", "surrogatepass"), content_type="application/x-www-form-urlencoded"
    )

    assert (403, "text/html") == (answer.status_code, answer.mimetype)
    assert "That is not the API key" in answer.text
    assert "Set-Cookie" not in answer.headers
    assert [("authentication", "failure", "ann")] == [
        (line["event.category"], line["event.outcome"], line["labels.author"])
        for line in lines()
        if line.get("event.action") == "log-in"
    ]
    assert not key or all(key not in text for text in (answer.text, str(lines())))


def test_the_name_is_asked_for(client: FlaskClient) -> None:
    """Whoever acts is to be named; what is no name is refused with the reason."""
    for author, fault in ((" ", "at least 1"), ("a\nb", "more than one line"), ("x" * 201, "at most 200")):
        answer = log_in(client, author=author)
        assert 422 == answer.status_code
        assert fault in answer.text
        assert KEY not in answer.text


def test_without_a_key_the_page_says_how_to_set_one(settings: Settings) -> None:
    """Nobody can log in, whatever is sent; the page is there all the same."""
    client = app(settings, None).test_client()

    assert "Set TOCSIN_API_KEY" in client.get("/login").text
    assert 403 == log_in(client, "").status_code
    for path in ACTIONS:
        refused = client.post(path)
        assert (403, True) == (refused.status_code, "No API key is configured" in refused.text)
    assert 200 == client.get("/").status_code


def forged(secret: bytes, **said: Any) -> str:
    """A cookie as Flask makes them, signed with this."""
    found = Flask("forger")
    found.secret_key = secret
    signer = session._Sessions().get_signing_serializer(found)
    assert isinstance(signer, URLSafeTimedSerializer)
    content = {"author": "eve", "token": "t", "until": time.time() + 1000, "_permanent": True, **said}
    return str(signer.dumps({name: value for name, value in content.items() if value is not None}))


@pytest.mark.parametrize(
    ("about", "good"),
    [
        ("its own", True),
        ("ended", False),
        ("no end", False),
        ("no token", False),
        ("another key's", False),
        ("unsigned", False),
        ("cut", False),
        ("garbage", False),
    ],
)
def test_a_cookie_is_worth_what_its_signature_and_its_end_say(settings: Settings, about: str, good: bool) -> None:
    """Whatever is not signed with this key, or is past its end, is nobody's."""
    ours, others = app(settings).secret_key, app(settings, OTHER).secret_key
    assert isinstance(ours, bytes)
    assert isinstance(others, bytes)
    plain = base64.urlsafe_b64encode(orjson.dumps({"author": "eve", "token": "t", "until": 4e9})).decode().rstrip("=")
    value = {
        "its own": forged(ours),
        "ended": forged(ours, until=time.time() - 1),
        "no end": forged(ours, until=None),
        "no token": forged(ours, token=None),
        "another key's": forged(others),
        "unsigned": f"{plain}.aaaaaa.{'a' * 43}",
        "cut": forged(ours)[:-1],
        "garbage": "\x7f;;..",
    }[about]
    made = app(settings)
    client = made.test_client()
    client.set_cookie(made.config["SESSION_COOKIE_NAME"], value)

    assert good == is_logged_in(client)


def test_all_workers_agree_and_another_key_logs_everybody_out(settings: Settings) -> None:
    """What one worker has signed another takes; after a change of the key nobody does."""
    one, two, changed = app(settings).test_client(), app(settings).test_client(), app(settings, OTHER).test_client()
    found = cookie(log_in(one))
    for client in (two, changed):
        client.set_cookie(found.key, found.value)
        client.set_cookie(changed.application.config["SESSION_COOKIE_NAME"], found.value)

    assert (True, False) == (is_logged_in(two), is_logged_in(changed))


def test_two_of_them_on_one_host_have_cookies_of_their_own(settings: Settings) -> None:
    """A browser sends a cookie to each port of a host: logging in to one leaves the session of the other as it is."""
    names = [cookie(log_in(app(settings, key).test_client(), key)).key for key in (KEY, OTHER)]
    assert 2 == len(set(names))
    assert not [name for name in names if KEY in name or OTHER in name]


def test_a_session_ends_after_twelve_hours_whatever_is_done_with_it(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end is in what is signed: a cookie that is made anew for a message does not move it."""
    client = app(settings).test_client()
    log_in(client)
    began = time.time()
    with client.session_transaction() as known:
        first = known["until"]
    assert began + session.LIFETIME - 5 < first < began + session.LIFETIME + 5
    client.post("/silences", data={"csrf": token(client), "alert": "none"})  # leaves a message
    with client.session_transaction() as known:
        assert first == known["until"]
    monkeypatch.setattr(time, "time", lambda: began + session.LIFETIME + 10)
    assert not is_logged_in(client)


ACTIONS = ["/alerts/0123456789abcdef/acknowledge", "/silences", "/services/web/restart", "/logout"]


@pytest.mark.parametrize("path", ACTIONS)
@pytest.mark.parametrize(
    ("headers", "given", "said"),
    [
        ({}, None, "earlier session"),
        ({}, "", "earlier session"),
        ({}, "wrong", "earlier session"),
        ({}, "é", "earlier session"),
        ({"Origin": "http://evil.example"}, "right", "somewhere else"),
        ({"Origin": "http://localhost:81"}, "right", "somewhere else"),
        ({"Origin": "null"}, "right", "somewhere else"),
        ({"Origin": "http://["}, "right", "somewhere else"),
        ({"Sec-Fetch-Site": "cross-site"}, "right", "somewhere else"),
        ({"Sec-Fetch-Site": "same-site", **OWN}, "right", "somewhere else"),
    ],
    ids=range(10),
)
def test_a_form_from_elsewhere_does_nothing(
    client: FlaskClient, path: str, headers: dict[str, str], given: str | None, said: str
) -> None:
    """Without the token of the session, or sent by another site's page, a form is refused with a page that says so."""
    log_in(client)
    data = {"csrf": token(client) if given == "right" else given} if given is not None else {}
    answer = client.post(path, data=data, headers=headers)

    assert (403, "text/html") == (answer.status_code, answer.mimetype)
    assert said in answer.text
    assert is_logged_in(client)


@pytest.mark.parametrize(
    "headers", [OWN, {"Sec-Fetch-Site": "same-origin", "Origin": "https://behind-a-proxy.example"}, {}], ids=range(3)
)
def test_a_form_of_the_page_counts(client: FlaskClient, headers: dict[str, str]) -> None:
    """With the token, from this site as the browser says, or from what is no browser."""
    log_in(client, headers=headers)
    assert 303 == client.post("/logout", data={"csrf": token(client)}, headers=headers).status_code
    assert not is_logged_in(client)


@pytest.mark.parametrize("path", ACTIONS)
def test_nobody_acts_without_being_logged_in(client: FlaskClient, path: str) -> None:
    """The answer is a page that says so, with the way to log in."""
    answer = client.post(path, data={"csrf": ""})
    assert 403 == answer.status_code
    assert 'href="/login"' in answer.text


def test_logging_in_from_elsewhere_is_refused(client: FlaskClient) -> None:
    """Nor does another site's page log anybody in."""
    assert 403 == log_in(client, headers={"Origin": "http://evil.example"}).status_code
    assert not is_logged_in(client)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/v1/silences"),
        ("POST", "/api/v1/alerts/1/ack"),
        ("POST", "/api/service/restart"),
        ("DELETE", "/api/v1/silences/1"),
    ],
)
def test_the_api_takes_no_cookie(client: FlaskClient, method: str, path: str) -> None:
    """So what a page makes a browser send does not reach it, with the token or without."""
    log_in(client)
    answer = client.open(path, method=method, headers={**OWN, "X-CSRF-Token": token(client)}, json={"csrf": token(client)})
    assert 401 == answer.status_code
