"""The application class gives what Flask's own gives, however often it is asked."""

from collections.abc import Iterator
from typing import Any

import pytest
from apiflask import APIFlask
from flask import Request, Response
from werkzeug.exceptions import HTTPException
from werkzeug.test import EnvironBuilder

from service.settings import Settings
from service.web import create_app
from service.web.app import Answer, App


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    app = create_app(Settings(data=tmp_path_factory.mktemp("data")))
    yield app
    app.extensions["sampler"].stop()


@pytest.fixture
def app(made: App) -> App:
    """It has been asked nothing yet."""
    made.known.clear()
    return made


def asked(app: App, path: str, method: str = "GET", **environ: str) -> Request:
    """A request as gunicorn hands it over; without a Host where there is none."""
    made = EnvironBuilder(method=method, base_url="http://localhost/").get_environ()
    made |= {"PATH_INFO": path, **environ}
    return app.request_class({name: value for name, value in made.items() if value != "-"})


def led(app: App, request: Request, kind: type[APIFlask]) -> Any:
    """Where the address leads, and what the request's host is then; or what is wrong with it."""
    try:
        way = kind.create_url_adapter(app, request)
        assert way
        found = way.match(return_rule=True)
    except HTTPException as error:
        return type(error), error.code, getattr(error, "new_url", None), getattr(error, "valid_methods", None)
    return found, request.host, way.server_name, way.script_name, way.url_scheme, way.build("live.index", force_external=True)


ADDRESSES = [
    ("/api/health", {}),
    ("/api/health/", {}),
    ("//api/health", {}),
    ("/api//health", {}),
    ("/", {}),
    ("", {}),
    ("*", {}),
    ("/alerts/<fingerprint>/acknowledge", {"method": "POST"}),
    ("/api/v1/alerts/1f3b", {}),
    ("/api/v1/alerts/<fingerprint>", {}),
    ("/api/v1/alerts", {"QUERY_STRING": "state=firing"}),
    ("/api/v1//alerts", {"QUERY_STRING": "q=\xc3\xa4\xff"}),
    ("/static/style.css", {}),
    ("/\xc3\xa4\xff", {}),
    ("/nothing", {}),
    ("/api/health", {"method": "HEAD"}),
    ("/api/health", {"method": "POST"}),
    ("/api/health", {"method": "OPTIONS"}),
    ("/api/health", {"SCRIPT_NAME": "/below"}),
    ("/api/health", {"wsgi.url_scheme": "https"}),
    ("/api/health", {"HTTP_CONNECTION": "Upgrade", "HTTP_UPGRADE": "websocket"}),
    *(
        ("/api/health", {"HTTP_HOST": host})
        for host in (
            "-",
            "",
            "example.org:80",
            "EXAMPLE.org:8080",
            "[::1]:8080",
            "b\xfccher.example",
            "a" * 64 + ".org",
            'a"b<',
            "a:b:c",
            "..",
        )
    ),
]


@pytest.mark.parametrize(("path", "environ"), ADDRESSES, ids=repr)
def test_an_address_leads_where_flask_leads_it(app: App, path: str, environ: dict[str, str]) -> None:
    """The same route, variables, host or error, at the first request and at those that come after others."""
    wanted = led(app, asked(app, path, **environ), APIFlask)
    others = [asked(app, other, **about) for other, about in ADDRESSES]

    assert wanted == led(app, asked(app, path, **environ), App)
    for other in others:
        led(app, other, App)
    assert wanted == led(app, asked(app, path, **environ), App)


def test_nothing_that_a_client_makes_up_is_remembered(app: App) -> None:
    """Only routes are, each at most once for a method, whatever else is asked for."""
    for number in range(500):
        for path in (f"/api/v1/alerts/{number}", f"/nothing/{number}", "/" * number + "api/health"):
            led(app, asked(app, path), App)

    assert {("GET", "/api/health")} == set(app.known)


@pytest.mark.parametrize("name", ["SERVER_NAME", "TRUSTED_HOSTS"])
def test_a_host_that_matters_to_flask_is_left_to_it(app: App, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a blueprint of somebody's own has set one, it holds."""
    monkeypatch.setitem(app.config, name, "example.org" if name == "SERVER_NAME" else ["example.org"])

    for host in ("example.org", "other.org"):
        assert led(app, asked(app, "/", HTTP_HOST=host), APIFlask) == led(app, asked(app, "/", HTTP_HOST=host), App)


@pytest.mark.parametrize("status", [100, 200, 201, 204, 206, 302, 304, 404])
@pytest.mark.parametrize(
    "headers",
    [{}, {"X-Own": "1"}, {"Location": "/ä?b"}, {"Content-Location": "/ä"}, {"Content-Length": "7"}, {"content-length": "4"}],
    ids=repr,
)
@pytest.mark.parametrize("body", [b"four", None, [b"fo", b"ur"]], ids=repr)
def test_an_answer_has_the_headers_that_werkzeug_gives_it(status: int, headers: dict[str, str], body: Any) -> None:
    """Each header once and as it must be, whatever the status and the body."""
    environ = EnvironBuilder().get_environ()

    assert list(Response(body, status, headers).get_wsgi_headers(environ)) == list(
        Answer(body, status, headers).get_wsgi_headers(environ)
    )


def test_what_views_give_is_an_answer(app: App) -> None:
    """Those of any view, also of one that makes Flask's own kind: every route has the short way."""
    with app.test_request_context():
        assert isinstance(app.make_response(Response("text")), Answer)
        assert isinstance(app.make_response("text"), Answer)
