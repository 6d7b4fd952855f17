"""Applications of a team's own behind the same nginx: real servers, each with its prefix."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from service.fields import KINDS
from service.settings import OWN_PATHS, Settings
from service.values import ConfigurationError
from service.web import create_app
from tests.serving import serving
from tests.shopping import shop
from tests.stack import ROOT, Running, eventually, free_port, nginx, web

OURS = {
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
}
THEIRS = {
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'self'",
    "Cross-Origin-Resource-Policy": "cross-origin",
}


@contextmanager
def echo() -> Iterator[str]:
    """A server that tells what it was sent, HOST:PORT; a path that ends in `own` gets headers of its own."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = json.dumps({"path": self.path, "headers": [list(each) for each in self.headers.items()]}).encode()
            self.send_response(200)
            for name, value in THEIRS.items() if self.path.endswith("own") else ():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with serving(server):
        yield f"127.0.0.1:{server.server_address[1]}"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with web(tmp_path_factory.mktemp("web")) as running:
        yield running


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with shop(tmp_path_factory.mktemp("shop")) as running:
        yield running


@pytest.fixture(scope="module")
def front(app: Running, own: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with echo() as other:
        apps = f"/shop/={own.url.removeprefix('http://')},/other/place/={other}"
        with nginx(tmp_path_factory.mktemp("nginx"), app.url.removeprefix("http://"), NGINX_APPS=apps) as running:
            yield running


def line(running: Running, dataset: str, identity: str) -> dict[str, Any]:
    """The line of one request."""

    def find() -> dict[str, Any] | None:
        return next((each for each in running.lines() if each.get("http.request.id") == identity and dataset in str(each)), None)

    return eventually(find, f"the line of {identity}")


def test_a_prefix_leads_to_its_application(front: Running) -> None:
    """Each prefix, with and without the slash at its end, and everything else to Tocsin as before."""
    assert "The shop" in front.get("/shop/").text
    assert {"kinds": 3} == front.get("/shop/health").json()
    bare = front.get("/shop", allow_redirects=False)
    assert (308, "/shop/") == (bare.status_code, bare.headers["Location"].removeprefix(front.url))
    assert "/other/place/x?y=%2F" == front.get("/other/place/x?y=%2F").json()["path"]
    assert [200, 404, 404, 200] == [front.status(path) for path in ("/livez", "/shops", "/other/", "/")]
    assert "cpu_usage" in front.get("/api/health").json()


def test_one_id_in_both_logs(front: Running, own: Running) -> None:
    """nginx' line of the request and what the application says meanwhile have the same id, and the same names of fields."""
    answer = requests.post(f"{front.url}/shop/buy/rope", timeout=10, allow_redirects=False)
    identity = answer.headers["X-Request-ID"]
    theirs, ours = line(own, "shop", identity), line(front, "nginx.access", identity)

    assert 303 == answer.status_code
    assert ("sold one rope", "info", "shop") == (theirs["message"], theirs["log.level"], theirs["service.name"])
    assert own.url.removeprefix("http://") == ours["labels.upstream"]
    assert set() == {name for each in own.lines() for name in each if name not in KINDS}


def test_what_an_application_is_told_is_what_nginx_saw(front: Running) -> None:
    """Who asks, how and with which id; a client's claims are not passed on, and each request has a connection of its own."""
    claimed = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Prefix": "/evil", "Forwarded": "for=203.0.113.9"}
    answer = front.get("/other/place/a%2Fb", headers={**claimed, "X-Request-ID": "my-own-id-0001"})
    headers = [(name.lower(), value) for name, value in answer.json()["headers"]]
    told = dict(headers)

    assert "/other/place/a%2Fb" == answer.json()["path"]
    assert len(told) == len(headers)
    assert ("127.0.0.1", "http", front.url.removeprefix("http://"), "my-own-id-0001", "close") == (
        told["x-forwarded-for"],
        told["x-forwarded-proto"],
        told["host"],
        told["x-request-id"],
        told["connection"],
    )
    assert not {"x-forwarded-prefix", "forwarded"} & set(told)


@pytest.mark.parametrize(("path", "expected"), [("/other/place/", OURS), ("/other/place/own", THEIRS)])
def test_an_applications_own_headers_win(front: Running, path: str, expected: dict[str, str]) -> None:
    """Where it says nothing Tocsin's strict ones hold; each is sent once, and nosniff always."""
    headers = front.get(path).raw.headers

    assert {name: [value] for name, value in expected.items()} == {name: headers.getlist(name) for name in expected}
    assert ["nosniff"] == headers.getlist("X-Content-Type-Options")


def test_limits_are_the_same(app: Running, own: Running, tmp_path: Path) -> None:
    """A body that is too large and too many requests are refused before the application hears of them."""
    with nginx(tmp_path, app.url.removeprefix("http://"), NGINX_APPS=f"/shop/={own.url.removeprefix('http://')}") as front:
        refused = requests.post(f"{front.url}/shop/buy/rope", data=b"x" * 70_000, timeout=10)
        statuses = {front.status("/shop/health") for _ in range(80)}

    assert (413, "application/problem+json") == (refused.status_code, refused.headers["Content-Type"])
    assert {200, 429} == statuses


def test_one_that_is_down_harms_no_other(app: Running, tmp_path: Path) -> None:
    """nginx starts without it and answers 502 for its prefix alone; it is found when it comes, and missed when it goes."""
    port = free_port()
    with nginx(
        tmp_path, app.url.removeprefix("http://"), NGINX_APPS=f"/shop/=localhost:{port},/gone/=no.such.invalid:80"
    ) as front:
        for _ in range(2):
            answer = front.get("/shop/")
            assert (502, "application/problem+json") == (answer.status_code, answer.headers["Content-Type"])
            assert answer.headers["X-Request-ID"] == answer.json()["request_id"]
            assert [200, 502, 200] == [front.status(path) for path in ("/api/health", "/gone/", "/")]
            with shop(tmp_path, port):
                assert [200, 502, 200] == [front.status(path) for path in ("/shop/", "/gone/", "/api/health")]
        said = [each for each in front.lines() if each["log.level"] in ("warn", "emerg", "alert", "crit")]

    assert [] == said


def test_without_any_nothing_is_different(app: Running, tmp_path: Path) -> None:
    """NGINX_APPS empty, as Compose passes it when it is unset: no location and no upstream more."""
    with nginx(tmp_path, app.url.removeprefix("http://"), NGINX_APPS="") as front:
        assert 404 == front.status("/shop/")
        assert ["", ""] == [(tmp_path / "nginx" / name).read_text() for name in ("upstreams.conf", "locations.conf")]


MALFORMED = [
    "shop",
    "/shop/",
    "/shop/=shop",
    "/shop=shop:8000",
    "shop/=shop:8000",
    "/=shop:8000",
    "//=shop:8000",
    "/shop/../=shop:8000",
    "/shop/=shop:port",
    "/shop/=http://shop:8000",
    "/shop/=shop:8000;",
    "/shop/{}=shop:8000",
    "/shop/=shop:8000\n}",
    "/a/=a:1,/b",
]


@pytest.mark.parametrize("apps", MALFORMED)
def test_what_is_no_application_stops_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apps: str) -> None:
    """The settings say what is wrong and what would be right; nothing of it becomes part of nginx' configuration."""
    monkeypatch.setenv("TOCSIN_APPS", apps)
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_environment()
    env = {"PATH": f"{os.environ['PATH']}:/usr/sbin", "NGINX_PREFIX": str(tmp_path), "NGINX_APPS": apps}
    env["NGINX_LISTEN"] = f"127.0.0.1:{free_port()}"
    done = subprocess.run(["sh", ROOT / "deploy/nginx/start.sh"], env=env, capture_output=True, timeout=30, check=False)

    assert caught.value.faults[0].startswith("TOCSIN_APPS: ")
    assert "is not /PREFIX/=HOST:PORT, such as /shop/=shop:8000" in caught.value.faults[0]
    assert 1 == done.returncode
    (said,) = [json.loads(each) for each in done.stdout.splitlines()]
    assert "is not /PREFIX/=HOST:PORT, such as /shop/=shop:8000" in said["message"]
    assert ("emerg", "tocsin-nginx") == (said["log.level"], said["service.name"])


@pytest.mark.parametrize(
    ("apps", "fault"),
    [
        ("/api/shop/=shop:8000", "would take addresses that are Tocsin's own; choose another prefix than /api/shop/"),
        ("/login/=shop:8000", "would take addresses that are Tocsin's own; choose another prefix than /login/"),
        ("/shop/=a:1,/shop/=b:1", "names /shop/ more than once; each prefix leads to one application"),
        ("/shop/=shop:65536", "is not /PREFIX/=HOST:PORT, such as /shop/=shop:8000"),
        ("/shop/=shop:0", "is not /PREFIX/=HOST:PORT, such as /shop/=shop:8000"),
    ],
)
def test_a_prefix_that_is_taken_stops_the_start(monkeypatch: pytest.MonkeyPatch, apps: str, fault: str) -> None:
    """Neither Tocsin's own addresses nor one prefix twice."""
    monkeypatch.setenv("TOCSIN_APPS", apps)
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_environment()

    assert caught.value.faults[0].startswith("TOCSIN_APPS: ")
    assert fault in caught.value.faults[0]


def test_no_address_of_tocsin_is_free(settings: Settings) -> None:
    """What no prefix may begin with has the beginning of each route of the app, and of each location of nginx."""
    app = create_app(settings)
    app.extensions["sampler"].stop()
    firsts = {rule.rule.split("/")[1] for rule in app.url_map.iter_rules()} - {""}
    served = {each.split("/")[1] for each in ("/robots.txt", "/static/")}
    assert set() == (firsts | served) - OWN_PATHS
