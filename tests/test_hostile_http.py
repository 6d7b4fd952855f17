"""Hostile HTTP, byte for byte: one answer for one request, the expected one, and nobody else's request in between."""

import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import flask
import pytest
import requests

from service.settings import Settings
from service.web import create_app
from service.web.forwarded import Forwarded
from tests.raw import answers, connect
from tests.stack import ROOT, Running, children, eventually, nginx, web

KEY = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with web(tmp_path_factory.mktemp("web"), "tests.apps:seeing()", TOCSIN_API_KEY=KEY) as running:
        yield running


@pytest.fixture(scope="module")
def front(app: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with nginx(tmp_path_factory.mktemp("nginx"), app.url.removeprefix("http://")) as running:
        yield running


def request(line: str, *headers: str, body: bytes = b"", host: str | None = "x") -> bytes:
    """Latin-1, so that every byte can be written."""
    lines = [line, *([] if host is None else [f"Host: {host}"]), *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


GET, POST = "GET /livez HTTP/1.1", "POST /livez HTTP/1.1"
CHUNKED = "Transfer-Encoding: chunked"
SMUGGLED = request("GET /smuggled HTTP/1.1", "X-Request-ID: smuggled-one")
# The end of an empty chunked body, and what a reader by Content-Length takes for a part of it.
ENDED = b"0\r\n\r\n" + SMUGGLED
LONG = f"Content-Length: {len(ENDED)}"

# What is sent; the status that nginx answers; and gunicorn's, asked directly, where that says something.
TABLE: dict[str, tuple[bytes, int, int | None]] = {
    "honest": (request(GET), 200, 200),
    # --- Where a body ends: RFC 9112, section 6 ---
    "length and chunked": (request(POST, LONG, CHUNKED, body=ENDED), 400, 400),
    "chunked and length": (request(POST, CHUNKED, "Content-Length: 4", body=b"0\r\n\r\n"), 400, 400),
    "chunked with a space before the colon": (request(POST, "Transfer-Encoding : chunked", LONG, body=ENDED), 400, 400),
    "chunked after a vertical tab": (request(POST, "Transfer-Encoding: \x0bchunked", LONG, body=ENDED), 501, 400),
    "chunked on a folded line": (request(POST, "Transfer-Encoding:\r\n chunked", LONG, body=ENDED), 400, 400),
    "chunked with an underscore": (request(POST, "Transfer_Encoding: chunked", LONG, body=ENDED), 405, 405),
    "xchunked": (request(POST, "Transfer-Encoding: xchunked", LONG, body=ENDED), 501, 501),
    "chunked twice": (request(POST, CHUNKED, CHUNKED, body=ENDED), 400, 400),
    "chunked, then identity": (request(POST, CHUNKED, "Transfer-Encoding: identity", body=ENDED), 400, 400),
    "identity and length": (request(POST, "Transfer-Encoding: identity", LONG, body=ENDED), 501, 400),
    "gzip, chunked": (request(POST, "Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), 501, None),
    "chunked in HTTP/1.0": (request("POST /livez HTTP/1.0", CHUNKED, LONG, "Connection: keep-alive", body=ENDED), 400, 400),
    "two lengths that agree": (request(POST, "Content-Length: 0", "Content-Length: 0"), 400, 400),
    "two lengths": (request(POST, "Content-Length: 0", f"Content-Length: {len(SMUGGLED)}", body=SMUGGLED), 400, 400),
    "a list of lengths": (request(POST, "Content-Length: 0, 0"), 400, 400),
    "a length with a plus": (request(POST, "Content-Length: +0", body=SMUGGLED), 400, 400),
    "a length below zero": (request(POST, "Content-Length: -1", body=SMUGGLED), 400, 400),
    "a length in hexadecimal": (request(POST, "Content-Length: 0x10", body=SMUGGLED), 400, 400),
    "a length past 64 bits": (request(POST, "Content-Length: 99999999999999999999999", body=SMUGGLED), 400, None),
    "no length": (request(POST, "Content-Length:", body=SMUGGLED), 400, 400),
    "a body for a GET": (request(GET, f"Content-Length: {len(SMUGGLED)}", body=SMUGGLED), 200, 200),
    "a body for a file": (request("GET /robots.txt HTTP/1.1", f"Content-Length: {len(SMUGGLED)}", body=SMUGGLED), 200, None),
    "a chunk of 0x1": (request(POST, CHUNKED, body=b"0x1\r\na\r\n0\r\n\r\n"), 400, None),
    "a chunk of -1": (request(POST, CHUNKED, body=b"-1\r\na\r\n0\r\n\r\n"), 400, None),
    "a chunk past 64 bits": (request(POST, CHUNKED, body=b"fffffffffffffffff\r\na\r\n0\r\n\r\n"), 400, None),
    "a chunk that does not end": (request(POST, CHUNKED, body=b"1\r\naX0\r\n\r\n"), 400, None),
    "an extension of a chunk": (request(POST, CHUNKED, body=b"1;a=b\r\na\r\n0\r\n\r\n"), 405, 405),
    "headers after the body": (request(POST, CHUNKED, body=b"0\r\nContent-Length: 50\r\nHost: y\r\n\r\n"), 405, None),
    "70,000 bytes in chunks": (request(POST, CHUNKED, body=b"11170\r\n" + b"a" * 70_000 + b"\r\n0\r\n\r\n"), 413, None),
    "Expect: 100-continue": (request(POST, "Expect: 100-continue", "Content-Length: 1", body=b"a"), 405, 405),
    "Expect: something else": (request(POST, "Expect: 200-ok", "Content-Length: 1", body=b"a"), 405, 417),
    # --- Where a line ends, and what stands in it: sections 2, 3 and 5. nginx leaves strange headers out. ---
    "bare LF": (b"GET /livez HTTP/1.1\nHost: x\n\n", 200, 400),
    "bare LF after a header": (b"GET /livez HTTP/1.1\r\nHost: x\nX-A: b\r\n\r\n", 200, 400),
    "bare CR": (b"GET /livez HTTP/1.1\rHost: x\r\r\r\n\r\n", 400, 400),
    "CR in a header": (request(GET, "X-A: a\rX-B: b"), 400, 400),
    "NUL in a header": (request(GET, "X-A: a\0b"), 400, 400),
    "NUL in a header's name": (request(GET, "X-\0A: b"), 400, 400),
    "a control character in a header": (request(GET, "X-A: \x01"), 400, 400),
    "bytes that are no text in a header": (request(GET, "X-A: \xff\xfe"), 200, 200),
    "bytes that are no text in a header's name": (request(GET, "X-\xff: b"), 200, 400),
    "no name": (request(GET, ": b"), 400, 400),
    "no colon": (request(GET, "nonsense"), 200, 400),
    "a folded header": (request(GET, "X-A: b\r\n c"), 400, 400),
    "a header of 8,180 bytes": (request(GET, "X-A: " + "a" * 8175), 200, 200),
    "a header of 8,190 bytes": (request(GET, "X-A: " + "a" * 8185), 431, 431),
    "a header of 100,000 bytes": (request(GET, "X-A: " + "a" * 100_000), 400, 431),
    "90 headers": (request(GET, *(f"X-{n}: b" for n in range(90))), 200, 200),
    "200 headers": (request(GET, *(f"X-{n}: b" for n in range(200))), 431, 431),
    "1,000 headers": (request(GET, *(f"X-{n}: {n:030}" for n in range(1000))), 400, 431),
    "an empty line before": (b"\r\n\r\n" + request(GET), 200, 400),
    "a byte of each kind": (bytes(range(256)) * 4, 400, 400),
    "a TLS handshake": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 32 + b"\r\n\r\n", 400, 400),
    # --- The first line ---
    "HTTP/0.9": (b"GET /livez\r\n\r\n", 0, 400),
    "HTTP/1.0 without a host": (request("GET /livez HTTP/1.0", host=None), 200, 200),
    "a page in HTTP/1.0 without a host": (request("GET / HTTP/1.0", host=None), 200, 200),
    "HTTP/1.2": (request("GET /livez HTTP/1.2"), 200, 200),
    "HTTP/2.0 in words": (request("GET /livez HTTP/2.0"), 505, 400),
    "HTTP/2's own first line": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, 400),
    "XTTP/1.1": (request("GET /livez XTTP/1.1"), 400, 400),
    "a space in the path": (request("GET /livez x HTTP/1.1"), 400, 400),
    "tabs between": (request("GET\t/livez\tHTTP/1.1"), 400, 400),
    "an address of 8,000 bytes": (request(f"GET /livez?{'a' * 8000} HTTP/1.1"), 200, 200),
    "an address of 8,200 bytes": (request(f"GET /livez?{'a' * 8200} HTTP/1.1"), 414, 414),
    "an address of 100,000 bytes": (request(f"GET /livez?{'a' * 100_000} HTTP/1.1"), 414, 414),
    "a method in small letters": (request("get /livez HTTP/1.1"), 400, 400),
    "an unknown method": (request("BREW /livez HTTP/1.1"), 405, 405),
    "an unknown method for a file": (request("BREW /robots.txt HTTP/1.1"), 405, None),
    "a method of 100 letters": (request("A" * 100 + " /livez HTTP/1.1"), 400, 400),
    "PROPFIND": (request("PROPFIND / HTTP/1.1"), 405, 405),
    "TRACE": (request("TRACE /livez HTTP/1.1"), 405, 405),
    "CONNECT": (request("CONNECT x:443 HTTP/1.1"), 400, 404),
    "CONNECT to a path": (request("CONNECT /livez HTTP/1.1"), 405, 405),
    "OPTIONS *": (request("OPTIONS * HTTP/1.1"), 400, 404),
    "an address with its host": (request("GET http://x/livez HTTP/1.1"), 200, 200),
    "an address with another host": (request("GET http://evil.example/livez HTTP/1.1"), 200, 200),
    "no slash": (request("GET livez HTTP/1.1"), 400, 400),
    "two slashes": (request("GET //evil.example/livez HTTP/1.1"), 404, 404),
    "a backslash": (request("GET /\\evil.example/livez HTTP/1.1"), 404, 404),
    "%00": (request("GET /livez%00 HTTP/1.1"), 400, 404),
    "NUL in the path": (request("GET /livez\0 HTTP/1.1"), 400, 400),
    "% and no digits": (request("GET /%zz HTTP/1.1"), 400, 404),
    # --- Hosts ---
    "no host": (request(GET, host=None), 400, None),
    "an empty host": (request(GET, host=""), 400, None),
    "two hosts": (request(GET, "Host: y"), 400, 400),
    "a host with a slash": (request(GET, host="x/y"), 400, None),
    "a host with a name before it": (request(GET, host="u@x"), 400, None),
    "a host with angle brackets": (request(GET, host="<b>"), 400, None),
    "a host with a quote": (request(GET, host='a"b'), 400, None),
    "a host that is no text": (request(GET, host="\xff"), 400, None),
    # --- Files that are not to be had ---
    "..": (request("GET /static/../../settings.py HTTP/1.1"), 400, 404),
    "%2e%2e": (request("GET /static/%2e%2e/%2e%2e/settings.py HTTP/1.1"), 400, 404),
    "..%2f": (request("GET /static/..%2f..%2fsettings.py HTTP/1.1"), 400, 404),
    "%252e%252e": (request("GET /static/%252e%252e/settings.py HTTP/1.1"), 404, 404),
    "..%5c": (request("GET /static/..%5c..%5csettings.py HTTP/1.1"), 404, 404),
    "....//": (request("GET /static/....//....//settings.py HTTP/1.1"), 404, 404),
    "dots of three bytes": (request("GET /static/%c0%ae%c0%ae/settings.py HTTP/1.1"), 404, 404),
    "static..": (request("GET /static../web/access.py HTTP/1.1"), 404, 404),
    "static//": (request("GET /static//etc/passwd HTTP/1.1"), 404, None),
    "a file and %00": (request("GET /static/style.css%00.html HTTP/1.1"), 400, 404),
    "a folder": (request("GET /static/ HTTP/1.1"), 403, 404),
    # --- Other protocols, and what hop by hop means ---
    "h2c": (request(GET, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"), 200, 200),
    "a WebSocket": (request(GET, "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"), 200, None),
    "Connection: X-Forwarded-For": (request(GET, "Connection: X-Forwarded-For, X-Request-ID"), 200, 200),
    # --- What the application reads ---
    "500 ranges": (request("GET /static/style.css HTTP/1.1", "Range: bytes=" + ",".join(f"{n}-" for n in range(500))), 200, None),
    "a cookie that is none": (request("GET / HTTP/1.1", 'Cookie: tocsin=\xff;;;==;a="b'), 200, 200),
    "a key that is no text": (request("POST /api/v1/silences HTTP/1.1", "Authorization: Bearer \xff"), 401, 401),
    "a query that is no text": (request("GET /api/v1/alerts?state=%ff%00&limit=99999999999999999999 HTTP/1.1"), 422, 422),
    "a form of 20,000 fields": (
        request("POST /login HTTP/1.1", "Content-Type: application/x-www-form-urlencoded", "Content-Length: 60000")
        + b"a=&" * 20_000,
        422,
        422,
    ),
    "60,000 brackets": (
        request(
            "POST /api/v1/silences HTTP/1.1",
            f"Authorization: Bearer {KEY}",
            "Content-Type: application/json",
            "Content-Length: 60000",
        )
        + b"[" * 60_000,
        400,
        400,
    ),
}
NUMBERS = {name: number for number, name in enumerate(TABLE, 1)}


def is_smuggled(front: Running, app: Running) -> bool:
    return any("/smuggled" in str(line.get("url.original")) for each in (front, app) for line in each.lines())


@pytest.mark.parametrize("name", TABLE)
def test_nginx_answers_once_and_as_expected(front: Running, app: Running, name: str) -> None:
    """The expected status; an error as problem+json, or as the page that was asked for; then the next request's own answer."""
    sent, status, _ = TABLE[name]
    first, *then = answers(front.url, sent, f"127.0.2.{NUMBERS[name]}")

    assert status == first.status
    if status >= 400 and "text/html" not in first.headers["content-type"]:
        assert ("application/problem+json", status) == (first.headers["content-type"], json.loads(first.body)["status"])
        assert json.loads(first.body)["title"] not in ("", "Error")
    assert [(200, "the-second-one")] * len(then) == [(each.status, each.headers["x-request-id"]) for each in then]
    assert len(then) == (first.headers.get("connection") == "keep-alive")
    assert not is_smuggled(front, app)


@pytest.mark.parametrize("name", [name for name, (*_, straight) in TABLE.items() if straight is not None])
def test_gunicorn_alone_is_no_more_generous(front: Running, app: Running, name: str) -> None:
    """Asked past nginx, too, there is one answer for one request, and it is no fault of the server's."""
    sent, _, status = TABLE[name]
    first, *then = answers(app.url, sent, f"127.0.2.{NUMBERS[name]}")

    assert status == first.status
    assert [(200, "the-second-one")] * len(then) == [(each.status, each.headers["x-request-id"]) for each in then]
    assert not is_smuggled(front, app)


CLAIMS = {
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Port": "1",
    "X-Forwarded-Prefix": "/evil",
    "X-Forwarded-Server": "evil.example",
    "X-Forwarded-Ssl": "on",
    "X-Forwarded-Scheme": "https",
    "X-Forwarded-Protocol": "https",
    "X-Url-Scheme": "https",
    "Front-End-Https": "on",
    "X-Real-IP": "203.0.113.9",
    "X-Client-IP": "203.0.113.9",
    "True-Client-IP": "203.0.113.9",
    "CF-Connecting-IP": "203.0.113.9",
    "X-Cluster-Client-IP": "203.0.113.9",
    "Forwarded": "for=203.0.113.9;proto=https;host=evil.example",
    "X-Original-URL": "/evil",
    "X-Rewrite-URL": "/evil",
    "X_Forwarded_For": "203.0.113.9",
    "X_Forwarded_Proto": "https",
    "Script-Name": "/evil",
    "Remote-Addr": "203.0.113.9",
}
FOR, PROTO = "X-Forwarded-For", "X-Forwarded-Proto"
OTHER = "203.0.113.9"
# What the headers say; and who asked over what, when they come from a trusted proxy.
TRUSTED: list[tuple[dict[str, str], str, str]] = [
    ({}, "127.0.0.1", "http"),
    (CLAIMS, "127.0.0.1", "http"),
    ({FOR: OTHER}, OTHER, "http"),
    ({FOR: OTHER, PROTO: "https"}, OTHER, "https"),
    ({FOR: OTHER, PROTO: "https", **CLAIMS}, OTHER, "https"),
    ({FOR: OTHER, PROTO: "gopher"}, OTHER, "http"),
    ({FOR: OTHER, PROTO: "https, http"}, OTHER, "http"),
    ({FOR: f"198.51.100.1, {OTHER}"}, OTHER, "http"),  # the first is the client's own claim
    ({FOR: f"{OTHER}, 127.0.0.1"}, OTHER, "http"),  # the last is a proxy that is trusted, too
    ({FOR: "2001:db8::7"}, "2001:db8::7", "http"),
    ({FOR: "nobody"}, "127.0.0.1", "http"),
    ({PROTO: "https"}, "127.0.0.1", "http"),
]


def seen(url: str, headers: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = requests.get(f"{url}/livez/seen", headers=headers, timeout=10, allow_redirects=False).json()
    return found


@pytest.mark.parametrize("trusted", ["", "127.0.0.2, 10.0.0.0/8, 2001:db8::/32"])
def test_a_strangers_claims_change_nothing(app: Running, tmp_path_factory: pytest.TempPathFactory, trusted: str) -> None:
    """Neither address nor scheme nor host nor path, whichever header claims it, unless who connects is a trusted proxy."""
    with nginx(tmp_path_factory.mktemp("n"), app.url.removeprefix("http://"), NGINX_TRUSTED_PROXIES=trusted) as front:
        honest = {"client": "127.0.0.1", "url": f"{front.url}/livez/seen", "root": ""}
        claims = [{name: value} for name, value in (CLAIMS | {FOR: OTHER, PROTO: "https"}).items()]
        for headers in (CLAIMS, {FOR: OTHER, PROTO: "https"}, *claims):
            time.sleep(0.05)  # as fast as one address may ask
            assert honest == seen(front.url, headers), headers
        assert {"127.0.0.1"} == {line["client.ip"] for line in front.lines() if "client.ip" in line}


@pytest.mark.parametrize("trusted", ["127.0.0.1", "192.0.2.1,127.0.0.0/8"])
def test_a_trusted_proxy_is_believed_in_two_headers(app: Running, tmp_path: Path, trusted: str) -> None:
    """What X-Forwarded-For and X-Forwarded-Proto say counts, as far as the proxy itself has written it; nothing else does."""
    with nginx(tmp_path, app.url.removeprefix("http://"), NGINX_TRUSTED_PROXIES=trusted) as front:
        host = front.url.removeprefix("http://")
        for headers, client, scheme in TRUSTED:
            assert {"client": client, "url": f"{scheme}://{host}/livez/seen", "root": ""} == seen(front.url, headers), headers


@pytest.mark.parametrize(
    ("peer", "believed"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("10.1.2.3", True),
        ("172.18.0.3", True),
        ("192.168.1.1", True),
        ("fd00::3", True),
        ("::ffff:172.18.0.3", True),
        ("172.32.0.1", False),
        ("8.8.8.8", False),
        ("2a00:1450::1", False),
        ("::ffff:8.8.8.8", False),
        ("", False),
        ("nobody", False),
    ],
)
def test_the_app_believes_its_own_nginx_alone(peer: str, believed: bool) -> None:
    """Only from this machine or a private network, where nginx is, does the app take an address and a scheme."""
    app = flask.Flask(__name__)
    app.wsgi_app = Forwarded(app.wsgi_app)  # type: ignore[method-assign]
    app.add_url_rule("/", view_func=lambda: [flask.request.remote_addr, flask.request.url])
    headers = {FOR: OTHER, PROTO: "https", **CLAIMS}
    found = app.test_client().get("/", headers=headers, environ_overrides={"REMOTE_ADDR": peer}).json

    assert ([OTHER, "https://localhost/"] if believed else [peer, "http://localhost/"]) == found


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Host": "evil.example:81", "X-Forwarded-Host": "evil.example"}])
def test_no_answer_leads_to_the_host_that_a_client_made_up(front: Running, headers: dict[str, str]) -> None:
    """Neither in a redirect nor in a page stands the name that came in Host: nobody can plant a link."""
    for path in ("/", "/login", "/logout", "/api/docs", "/api/openapi.json", "/nothing", "/silences/"):
        time.sleep(0.05)
        answer = requests.get(front.url + path, headers=headers, timeout=10, allow_redirects=False)
        assert "evil.example" not in answer.text + str(answer.headers), path


def test_what_is_html_has_a_strict_policy(front: Running, settings: Settings) -> None:
    """Each page and each error that may be HTML: nothing from elsewhere, no script and no style of its own, all headers once."""
    app = create_app(settings)
    app.extensions["sampler"].stop()
    paths = [rule.rule for rule in app.url_map.iter_rules() if "GET" in (rule.methods or ()) and not rule.arguments]
    pages = 0
    for path in (*paths, "/nothing", "/services/nothing", "/alerts/nothing", "/static/nothing", "/static"):
        time.sleep(0.05)
        if path == "/api/stream":
            continue
        answer = requests.get(front.url + path, headers={"Accept": "text/html"}, timeout=10, allow_redirects=False)
        policy = answer.raw.headers.getlist("Content-Security-Policy")
        assert 1 == len(policy), path
        if "text/html" in answer.headers.get("Content-Type", ""):
            pages += 1
            assert policy[0].startswith("default-src 'none'; "), path
            assert "unsafe" not in policy[0]
            assert "frame-ancestors 'none'" in policy[0]
            assert not re.search(r"<style|<script(?![^>]* src=)| style=| on\w+=", answer.text), path
        assert ["nosniff"] == answer.raw.headers.getlist("X-Content-Type-Options")
        assert ["DENY"] == answer.raw.headers.getlist("X-Frame-Options")
    assert pages >= 3


@contextmanager
def trickling(connections: Mapping[socket.socket, bytes]) -> Iterator[None]:
    """Send each of these a byte a second, as long as somebody takes them."""
    over = threading.Event()

    def send() -> None:
        for index in count():
            for connection, content in connections.items():
                with suppress(OSError):
                    connection.sendall(content[index : index + 1])
            if over.wait(1):
                return

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_the_slow_keep_nobody_waiting(front: Running) -> None:
    """200 heads and 300 bodies come at a byte a second, and everybody else is answered at once. A head is given up after ten
    seconds; bodies may take hours, and so one address may have 256."""
    head, body = request(GET, "X-A: " + "a" * 1000), request(POST, "Content-Length: 60000")
    slowest = 0.0
    with ExitStack() as stack:
        heads = [stack.enter_context(connect(front.url, "127.0.4.1")) for _ in range(200)]
        bodies = [stack.enter_context(connect(front.url, "127.0.4.2")) for _ in range(300)]
        for each in bodies:
            each.sendall(body)
        with trickling(dict.fromkeys(heads, head) | dict.fromkeys(bodies, b"a" * 60_000)):

            def given_up() -> bool:
                nonlocal slowest
                began = time.monotonic()
                assert [200] * 3 == [front.status(path) for path in ("/livez", "/", "/static/style.css")]
                slowest = max(slowest, time.monotonic() - began)
                time.sleep(0.5)
                return all(is_answered(each) for each in heads)

            eventually(given_up, "the heads are given up", 60)
        assert 300 - 256 == sum(is_answered(each) for each in bodies)
    assert slowest < 5  # a hundredth of that, on a machine that has time


def is_answered(connection: socket.socket) -> bool:
    """Whether there is an answer to read, or the connection has ended."""
    connection.setblocking(False)
    try:
        connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


@pytest.mark.alone
def test_ten_thousand_connections_are_a_crowd_and_no_more(front: Running) -> None:
    """While they are open health is answered, and none of them is dropped; afterwards all is as before."""
    before = set(children(front.process.pid))
    command = [sys.executable, "-m", "tests.crowd", front.url.removeprefix("http://"), "10000"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as crowd:
        assert crowd.stdout
        try:
            assert "open 10000\n" == crowd.stdout.readline()
            statuses = {front.status("/api/health") for _ in range(50)} | {front.status("/")}
            left, _ = crowd.communicate("\n", timeout=60)
        finally:
            crowd.kill()
    assert {200} == statuses
    assert "10000\n" == left
    assert before == set(children(front.process.pid))
    assert [] == [line["message"] for line in front.lines() if line["log.level"] in ("warn", "alert", "emerg", "crit")]
    assert [200, 200] == [front.status(path) for path in ("/api/health", "/")]
