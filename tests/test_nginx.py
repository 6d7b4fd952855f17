"""nginx with deploy/nginx, in front of the real gunicorn: ids, addresses, limits, errors, logs."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path

import pytest
import requests

from service.fields import KINDS
from service.web import html
from service.web.live import LIFE
from tests.stack import ROOT, Running, children, eventually, free_port, nginx, web

NOTHING = "default-src 'none'; frame-ancestors 'none'"


KEY = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with web(tmp_path_factory.mktemp("web"), "tests.apps:slow()", TOCSIN_API_KEY=KEY) as running:
        yield running


@pytest.fixture(scope="module")
def shared(app: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with nginx(tmp_path_factory.mktemp("nginx"), app.url.removeprefix("http://")) as running:
        yield running


@pytest.fixture
def front(shared: Running) -> Running:
    """One nginx for many tests, all from one address, which may ask twenty times a second: a test asks once or twice."""
    time.sleep(0.15)
    return shared


def line_of(running: Running, request_id: str) -> dict[str, object]:
    def find() -> dict[str, object] | None:
        return next(
            (line for line in running.lines() if line.get("http.request.id") == request_id and "url.original" in line), None
        )

    return eventually(find, f"the line of {request_id}")


def raw(running: Running, request: bytes) -> tuple[bytes, bytes]:
    """Head and body of the answer to bytes that no HTTP library would send."""
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 15) as connection:  # nginx lingers 5 s for a body it refused
        connection.sendall(request)
        head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
    return head, body


def test_one_id_in_both_logs_and_in_the_answer(app: Running, front: Running) -> None:
    """nginx makes the id of a request; its line, the app's line and the answer have the same."""
    answer = front.get("/livez")
    identity = answer.headers["X-Request-ID"]

    assert 200 == answer.status_code
    assert re.fullmatch("[0-9a-f]{32}", identity)
    assert "/livez" == line_of(front, identity)["url.original"] == line_of(app, identity)["url.original"]


@pytest.mark.parametrize(
    ("claimed", "taken"), [("my-own-id-0001", True), ("bad id", False), ('"quoted-id"', False), ("x" * 65, False)]
)
def test_an_id_is_taken_only_when_it_looks_like_one(front: Running, claimed: str, taken: bool) -> None:
    """The client's X-Request-ID passes through only in the agreed form, and once."""
    given = front.get("/livez", headers={"X-Request-ID": claimed}).headers["X-Request-ID"]

    assert taken == (claimed == given)
    assert "," not in given


def test_p14_a_claimed_address_is_not_believed(app: Running, front: Running) -> None:
    """X-Forwarded-For of a stranger changes client.ip neither in nginx' line nor in the app's."""
    forged = {"X-Forwarded-For": "203.0.113.9", "X-Real-IP": "203.0.113.9", "Forwarded": "for=203.0.113.9"}
    identity = front.get("/livez", headers=forged).headers["X-Request-ID"]

    assert ("127.0.0.1", "127.0.0.1") == (line_of(front, identity)["client.ip"], line_of(app, identity)["client.ip"])


def test_a_trusted_proxy_is_believed(app: Running, tmp_path: Path) -> None:
    """Of a proxy that is named the X-Forwarded-For is the client's address in both logs."""
    with nginx(tmp_path, app.url.removeprefix("http://"), NGINX_TRUSTED_PROXIES="127.0.0.1") as front:
        identity = front.get("/livez", headers={"X-Forwarded-For": "203.0.113.9"}).headers["X-Request-ID"]

        assert ("203.0.113.9", "203.0.113.9") == (line_of(front, identity)["client.ip"], line_of(app, identity)["client.ip"])


def test_a_denied_address_gets_403(app: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deny list file is read at start, and again on reload."""
    import tests.stack

    shutil.copytree(ROOT / "deploy/nginx", tmp_path / "deploy/nginx")
    shutil.copytree(ROOT / "service/web/static", tmp_path / "service/web/static")
    monkeypatch.setattr(tests.stack, "ROOT", tmp_path)
    with nginx(tmp_path, app.url.removeprefix("http://")) as front:
        assert 200 == front.status("/livez")
        (tmp_path / "deploy/nginx/deny.conf").write_text("deny 127.0.0.1;\n")
        front.process.send_signal(signal.SIGHUP)
        eventually(lambda: front.status("/livez") == 403, "denied")


def test_a_dead_app_is_a_problem_document_with_the_id(tmp_path: Path) -> None:
    """Without the app nginx answers 502 as problem+json, with the id that is in its log."""
    with nginx(tmp_path, f"127.0.0.1:{free_port()}") as front:
        answer = front.get("/api/health")
        problem = json.loads(answer.content)

        assert (502, 502, "application/problem+json") == (answer.status_code, problem["status"], answer.headers["Content-Type"])
        assert answer.headers["X-Request-ID"] == problem["request_id"]
        assert 502 == line_of(front, problem["request_id"])["http.response.status_code"]


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 9000 + b"\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 70000\r\nConnection: close\r\n\r\n", 413),
        (b"GET /static/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 403),
        (b"GET /static/../../access.py HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 400),
        (b"GET /static/nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
    ],
)
def test_what_nginx_refuses_is_a_problem_document(front: Running, request_bytes: bytes, status: int) -> None:
    """Errors that never reach the app look like the app's."""
    head, body = raw(front, request_bytes)

    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"application/problem+json" in head
    assert (status, True) == (json.loads(body)["status"], bool(json.loads(body)["request_id"]))


def test_one_address_is_limited_and_health_is_exempt(app: Running, tmp_path: Path) -> None:
    """A burst from one address gets 429 with problem+json, while health is answered at any rate."""
    with nginx(tmp_path, app.url.removeprefix("http://")) as front:
        answers = [front.get("/nothing") for _ in range(120)]  # cheap, so that it is a burst on a busy machine, too
        statuses = [answer.status_code for answer in answers]
        refused = answers[statuses.index(429)]

        assert {404, 429} == set(statuses)
        assert 41 <= statuses.index(429)  # the burst of 40 is let through
        assert (429, "application/problem+json") == (refused.status_code, refused.headers["Content-Type"])
        assert {200} == {front.status("/api/health") for _ in range(80)}


@pytest.mark.parametrize("path", ["/api/health", "/robots.txt", "/static/robots.txt", "/nothing", "/static/nothing"])
def test_p20_security_headers_are_on_every_answer(front: Running, path: str) -> None:
    """Every location, static files and errors included, sends all the security headers."""
    headers = front.get(path).headers
    wanted = re.findall(r"^add_header (\S+)", (ROOT / "deploy/nginx/headers.conf").read_text(), re.MULTILINE)

    assert [] == [name for name in wanted if name not in headers]
    assert "nginx" == headers["Server"]


@pytest.mark.parametrize(
    ("path", "policy"),
    [
        ("/", html.POLICY),
        ("/login", html.POLICY),
        ("/api/health", NOTHING),
        ("/static/style.css", NOTHING),
        ("/static/no", NOTHING),
    ],
)
def test_each_answer_has_exactly_one_policy(front: Running, path: str, policy: str) -> None:
    """A page's own where the app sends one, else that nothing may be loaded."""
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    head, _ = raw(front, request)
    assert [policy.encode()] == re.findall(rb"(?im)^content-security-policy: (.*?)\r?$", head)


@contextmanager
def stream(running: Running) -> Iterator[Iterator[bytes]]:
    """The lines of a stream, as they come."""
    with running.get("/api/stream", stream=True) as answer:
        assert (200, "text/event-stream; charset=utf-8") == (answer.status_code, answer.headers["Content-Type"])
        assert "Content-Encoding" not in answer.headers
        yield answer.iter_lines(chunk_size=1)


def test_a_stream_comes_as_it_is_said(front: Running) -> None:
    """Nothing is held back in a buffer: each event is there long before there is enough to fill one."""
    with stream(front) as lines:
        began = time.monotonic()
        assert b"retry: 1000" == next(lines)
        arrived = [time.monotonic() - began for line in islice((each for each in lines if each.startswith(b"data: ")), 3)]
    assert arrived[0] < 1.5
    assert arrived[2] - arrived[0] > 1  # one after the other, and not together


def test_streams_are_bounded_for_each_address(app: Running, tmp_path: Path) -> None:
    """The ninth of one address is refused with what is wrong, and when to come again; one that is closed makes room."""
    with nginx(tmp_path, app.url.removeprefix("http://")) as front, ExitStack() as watching:
        seven = [watching.enter_context(stream(front)) for _ in range(7)]
        assert [b"retry: 1000"] * 7 == [next(lines) for lines in seven]
        with stream(front) as eighth:
            next(eighth)
            refused = front.get("/api/stream")
            assert (503, "application/problem+json", "10") == (
                refused.status_code,
                refused.headers["Content-Type"],
                refused.headers["Retry-After"],
            )
            assert "Too many watch the page already" in refused.json()["detail"]
            assert 200 == front.status("/")

        def room() -> bool:
            with front.get("/api/stream", stream=True) as answer:
                return answer.status_code == 200

        eventually(room, "room")


@pytest.mark.parametrize("end", [signal.SIGQUIT, signal.SIGHUP], ids=["stop", "reload"])
def test_nginx_waits_no_longer_than_a_stream_lasts(app: Running, tmp_path: Path, end: signal.Signals) -> None:
    """Neither a stop nor a reload leaves workers behind for as long as somebody watches: streams end by themselves."""
    with nginx(tmp_path, app.url.removeprefix("http://")) as front, stream(front) as lines:
        next(lines)
        before = set(children(front.process.pid))
        front.process.send_signal(end)
        eventually(
            lambda: front.process.poll() is not None or len(set(children(front.process.pid)) & before) <= 1, "they end", LIFE + 8
        )


def test_a_reload_cuts_off_no_answer(app: Running, tmp_path: Path) -> None:
    """Nobody sends a POST again that was cut off: what takes its time is answered by the worker that is to go."""
    with nginx(tmp_path, app.url.removeprefix("http://")) as front:
        before = set(children(front.process.pid))
        reload = threading.Timer(1, front.process.send_signal, [signal.SIGHUP])
        reload.start()
        answer = requests.post(f"{front.url}/slow?seconds=8", timeout=30)
        assert (200, "done") == (answer.status_code, answer.text)
        eventually(lambda: len(set(children(front.process.pid)) & before) <= 1, "the old workers are gone")


def test_who_guesses_at_the_key_is_slowed_down(app: Running, tmp_path: Path) -> None:
    """After six wrong ones it is 429; to look at the form is free."""
    with nginx(tmp_path, app.url.removeprefix("http://")) as front:
        wrong = {"author": "eve", "key": "guess"}
        answers = [requests.post(f"{front.url}/login", data=wrong, timeout=10) for _ in range(8)]
        assert [(403, None)] * 6 + [(429, "6")] * 2 == [(each.status_code, each.headers.get("Retry-After")) for each in answers]
        assert {200} == {front.status("/login") for _ in range(10)}


@pytest.mark.parametrize(("trusted", "secure"), [("127.0.0.1", True), ("", False)])
def test_whether_it_is_tls_is_a_trusted_proxys_word(app: Running, tmp_path: Path, trusted: str, secure: bool) -> None:
    """The cookie is Secure when a trusted proxy says https; a stranger's word counts for nothing."""
    with nginx(tmp_path, app.url.removeprefix("http://"), NGINX_TRUSTED_PROXIES=trusted) as front:
        headers = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https", "Origin": front.url}
        said = {"author": "ann", "key": KEY}
        answer = requests.post(f"{front.url}/login", data=said, headers=headers, timeout=10, allow_redirects=False)

    assert 303 == answer.status_code  # the port is part of the origin, and of the Host that the app sees
    assert secure == ("Secure" in answer.headers["Set-Cookie"])


HOSTILE = [
    b"/plain",
    b"/quote%22%0aline?a=%00%ff",
    b'/raw"quote\\backslash',
    b"/\xc3\xa9\xe2\x82\xac",
    b"/\xff\xfe\x80",
    b"/" + b'"' * 5000,
    b"/" + b"\xc3\xa9" * 3000,
    b"/" + b"\xf0\x9f\x98\x80" * 400,
]
AGENTS = [b"curl", b'a"b\\c\td', b"\xff\xfe", b"\xed\xa0\x80", b"\xc3", b"\xc3\xa9" * 3000, b'"' * 6000]


def test_p9_every_line_is_valid_utf8_json_below_4096_bytes(front: Running) -> None:
    """Whatever bytes a client sends, nginx' lines are valid JSON in UTF-8, short, of known fields, and say what was cut."""
    before = len(access_lines(front))
    for path in HOSTILE:
        for agent in AGENTS:
            head = b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            raw(front, head + b"User-Agent: " + agent + b"\r\nReferer: " + agent + b"\r\n\r\n")
    eventually(lambda: len(access_lines(front)) - before >= len(HOSTILE) * len(AGENTS), "the lines")
    lines = access_lines(front)

    assert [] == [line for line in front.log.read_bytes().splitlines(keepends=True) if len(line) >= 4096]
    assert set() == {name for line in lines for name in line if name not in KINDS and not name.startswith("labels.")}
    assert any(str(line["url.original"]).endswith("...") for line in lines)
    assert any(
        line["user_agent.original"] == 'a"b\\c\td' or str(line["user_agent.original"]).startswith('a"b\\c') for line in lines
    )


def access_lines(running: Running) -> list[dict[str, object]]:
    return [line for line in running.lines() if line.get("event.dataset") == "nginx.access"]


def test_a_line_has_the_types_that_elasticsearch_expects(front: Running) -> None:
    """Numbers are numbers, and the duration of an answer is in whole nanoseconds."""
    answer = eventually(lambda: found if (found := front.get("/slow?seconds=0.05")).ok else None, "not limited")
    identity = answer.headers["X-Request-ID"]
    line = line_of(front, identity)

    assert [int, int, int] == [
        type(line[name]) for name in ("event.duration", "http.response.status_code", "http.response.body.bytes")
    ]
    assert 50_000_000 <= int(str(line["event.duration"])) < 5_000_000_000
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(line["@timestamp"]))


def test_a_get_whose_worker_dies_is_asked_again(tmp_path: Path) -> None:
    """kill -9 of the worker that holds a GET: nginx asks another one, and the client gets its answer."""
    with web(tmp_path, "tests.apps:slow()") as app, nginx(tmp_path, app.url.removeprefix("http://")) as front:
        workers = children(app.process.pid)
        answers: list[int] = []
        threads = [threading.Thread(target=lambda: answers.append(front.status("/slow?seconds=1"))) for _ in range(8)]
        for thread in threads:
            thread.start()
        eventually(lambda: sum("/slow" in line.get("message", "") for line in app.lines()) == 0, "none is done yet")
        import time

        time.sleep(0.4)
        os.kill(workers[0], signal.SIGKILL)
        for thread in threads:
            thread.join()

    assert [200] * 8 == answers


def test_nginx_itself_finds_nothing_to_say_about_the_configuration(front: Running) -> None:
    """`nginx -t` accepts the configuration, and its own start gave no warning."""
    assert [] == [line["message"] for line in front.lines() if line["log.level"] in ("warn", "emerg", "alert", "crit")]


def test_start_says_why_nginx_does_not_start(tmp_path: Path) -> None:
    """A port in use is one JSON line that names it, and a status that is not 0."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        env = {
            **os.environ,
            "PATH": f"{os.environ['PATH']}:/usr/sbin",
            "NGINX_PREFIX": str(tmp_path),
            "NGINX_LISTEN": f"127.0.0.1:{port}",
        }
        done = subprocess.run(
            ["sh", str(ROOT / "deploy/nginx/start.sh")],
            env={**env, "NGINX_UPSTREAM": "127.0.0.1:9"},
            capture_output=True,
            timeout=30,
            check=False,
        )

    assert 0 != done.returncode
    assert any(str(port) in json.loads(line)["message"] for line in done.stdout.splitlines())
