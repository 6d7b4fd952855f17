"""/api/health from nginx' memory (deploy/nginx/health.conf), in front of the real gunicorn.

How old an answer is, is reckoned from when it was asked for: nginx, which answers later, has an older one still if it is too old.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from tests.stack import Running, children, eventually, nginx, web

BOUND = 2.0  # seconds: no answer is older
BOARD = "https://board.example"


@contextmanager
def both(folder: Path, **env: str) -> Iterator[tuple[Running, Running]]:
    """The app, and nginx before it."""
    with web(folder, "tests.apps:dated()", **env) as app, nginx(folder, app.url.removeprefix("http://")) as front:
        yield app, front


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Running]]:
    with both(tmp_path_factory.mktemp("cache"), TOCSIN_CORS_ORIGINS=BOARD) as running:
        yield running


def made(answer: requests.Response) -> float:
    return float(answer.headers["Made"])


def asked(app: Running) -> int:
    """How often the app has been asked for its health."""
    return sum(line.get("url.original", "").startswith("/api/health") for line in app.lines())


def until(front: Running, end: float) -> list[tuple[float, requests.Response]]:
    """The answers, and when they were asked for, until one that was asked for after `end`."""
    found: list[tuple[float, requests.Response]] = []
    while not found or found[-1][0] < end:
        found.append((time.time(), front.get("/api/health")))
        time.sleep(0.02)
    return found


def test_no_answer_is_older_than_two_seconds(stack: tuple[Running, Running]) -> None:
    """Many have the same one, each second brings another, and who comes after a pause does not get the one from before it."""
    _, front = stack
    often = until(front, time.time() + BOUND)
    time.sleep(BOUND + 0.1)
    answers = [*often, (time.time(), front.get("/api/health"))]

    assert {200} == {answer.status_code for _, answer in answers}
    assert [] == [sent - made(answer) for sent, answer in answers if sent - made(answer) >= BOUND]
    assert 2 <= len({made(answer) for _, answer in often})
    assert len({made(answer) for _, answer in often}) < len(often) / 2


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/api/health?x={}", {}),
        ("GET", "//api/./health?{}", {}),
        ("GET", "/api/health?{}" + "x" * 8100, {}),
        ("HEAD", "/api/health?x={}", {}),
        ("GET", "/api/health", {"Authorization": "Bearer {}", "Cookie": "session={}"}),
        ("GET", "/api/health", {"Accept": "text/{}", "Accept-Language": "{}", "User-Agent": "{}"}),
        ("GET", "/api/health", {"Cache-Control": "no-cache", "Pragma": "no-cache", "Range": "bytes=0-1{}"}),
        ("GET", "/api/health", {"If-None-Match": '"{}"', "If-Modified-Since": "Sat, 01 Jan 2000 00:00:00 GMT"}),
        ("GET", "/api/health", {f"X-{number}": "x" * 200 + "{}" for number in range(110)}),  # more than gunicorn takes
        ("GET", "/api/health", {"Host": "host-{}", "X-Forwarded-For": "203.0.113.{}", "X-Request-ID": "request-{}"}),
    ],
)
def test_nothing_that_a_client_sends_has_the_app_asked(
    stack: tuple[Running, Running], method: str, path: str, headers: dict[str, str]
) -> None:
    """Each time another one, and all get the answer that is there, whole; the next who asks plainly gets it, too."""
    app, front = stack
    before, whole = asked(app), []
    with requests.Session() as session:
        for number in range(100):
            given = {name: value.format(number) for name, value in headers.items()}
            request = requests.Request(method, front.url, given, data=b"x" * 60_000).prepare()
            request.url = front.url + path.format(number)  # as it is, dots and all
            answer = session.send(request, timeout=10)
            whole.append(
                (answer.status_code, int(answer.headers["Content-Length"]) > 100, answer.content.startswith(b'{"cpu_usage"'))
            )
    plain = front.get("/api/health")

    assert {(200, True, method == "GET")} == set(whole)
    assert (200, True) == (plain.status_code, "cpu_usage" in plain.json())
    assert asked(app) - before <= 20


def test_each_answer_has_its_own_id_and_its_own_line(stack: tuple[Running, Running]) -> None:
    """The app's answer is for all, the request id is not; and only nginx learns how long it may be used."""
    _, front = stack
    answers = [front.get("/api/health") for _ in range(5)]
    ids = [answer.headers["X-Request-ID"] for answer in answers]
    mine = front.get("/api/health", headers={"X-Request-ID": "my-own-id-0001"})

    assert len(set(ids)) == 5
    assert "my-own-id-0001" == mine.headers["X-Request-ID"]
    for answer in (*answers, mine):
        assert "no-store" == answer.headers["Cache-Control"]
        assert not {"X-Accel-Expires", "Expires", "Age", "ETag", "Last-Modified"} & set(answer.headers)
    eventually(lambda: set(ids) <= {line.get("http.request.id") for line in front.lines()}, "their lines")


def test_another_origins_page_gets_an_answer_of_its_own(stack: tuple[Running, Running]) -> None:
    """Neither gets what was made for the other."""
    _, front = stack
    for origin, allowed in ((None, None), (BOARD, BOARD), (None, None), ("https://evil.example", None), (BOARD, BOARD)):
        answer = front.get("/api/health", headers={"Origin": origin} if origin else {})
        assert (200, allowed) == (answer.status_code, answer.headers.get("Access-Control-Allow-Origin"))
        if origin:
            assert answer.headers["X-Request-ID"] == answer.headers["Made-For"]


def test_only_that_path_and_only_what_reads_it(stack: tuple[Running, Running]) -> None:
    """/livez and /readyz always ask the app, and what is not GET or HEAD is refused by it."""
    _, front = stack
    for path in ("/livez", "/readyz"):
        answers = [front.get(path) for _ in range(5)]
        assert [answer.headers["X-Request-ID"] for answer in answers] == [answer.headers["Made-For"] for answer in answers]
    refused = requests.post(f"{front.url}/api/health", data=b"{}", timeout=10)
    assert (405, "application/problem+json") == (refused.status_code, refused.headers["Content-Type"])
    assert 200 == front.status("/api/health")


def test_an_app_that_is_gone_is_not_covered_for(tmp_path: Path) -> None:
    """Within two seconds it is a 502 with the id of the request, however many ask meanwhile; and it is found again."""
    with both(tmp_path) as (app, front):
        assert 200 == front.status("/api/health")
        app.process.send_signal(signal.SIGQUIT)
        app.process.wait(20)
        gone = time.time()
        answers = until(front, gone + BOUND + 0.5)
        late = [answer for sent, answer in answers if sent >= gone + BOUND]

        assert {200, 502} >= {answer.status_code for _, answer in answers}
        assert {(502, "application/problem+json")} == {(answer.status_code, answer.headers["Content-Type"]) for answer in late}
        assert [answer.headers["X-Request-ID"] for answer in late] == [answer.json()["request_id"] for answer in late]
        with web(tmp_path, TOCSIN_WEB_ADDRESS=app.url.removeprefix("http://")):
            eventually(lambda: front.status("/api/health") == 200, "it is found again")


def test_an_app_that_hangs_is_covered_for_so_long_and_no_longer(tmp_path: Path) -> None:
    """In the next second its last answer is still there, and nobody waits for another; after two it is a 504."""
    with both(tmp_path) as (app, front):
        everything = [app.process.pid, *children(app.process.pid)]

        def while_it_hangs(end: float) -> list[tuple[float, requests.Response]]:
            for pid in everything:
                os.kill(pid, signal.SIGSTOP)
            try:
                return until(front, end)
            finally:
                for pid in everything:
                    os.kill(pid, signal.SIGCONT)

        def covered() -> bool:
            last = made(eventually(lambda: front.get("/api/health"), "an answer"))  # a 504 is none
            answers = while_it_hangs(int(last) + 1.05)
            return answers[-1][1].ok and made(answers[-1][1]) == last

        eventually(covered, "its last answer, in the next second")
        hung = time.time()
        answers = while_it_hangs(hung + BOUND)
        assert {504} == {answer.status_code for sent, answer in answers if sent >= hung + BOUND}


def test_a_server_that_drains_says_so(tmp_path: Path) -> None:
    """Its 503 takes the place of the 200 before it, while it still answers."""
    with both(tmp_path, TOCSIN_DRAIN="6s") as (app, front):
        assert 200 == front.status("/api/health")
        app.process.send_signal(signal.SIGTERM)
        eventually(lambda: front.status("/api/health") == 503, "a 503", 6)
        refused = front.get("/api/health")

        assert (503, "draining", 200) == (refused.status_code, refused.json()["reasons"][0], front.status("/livez"))
        app.process.send_signal(signal.SIGQUIT)


def test_an_unhealthy_503_is_kept_like_another_answer(tmp_path: Path) -> None:
    """A balancer that is to see 503 sees it each time, and the app is asked no more often than else."""
    with both(tmp_path, TOCSIN_MEM_THRESHOLD="0.01", TOCSIN_UNHEALTHY_STATUS="503") as (app, front):
        assert {(503, "unhealthy")} == {
            (each.status_code, each.json()["status"]) for each in (front.get("/api/health") for _ in range(50))
        }
        assert asked(app) <= 20


def test_an_answer_of_another_clock_is_not_kept(tmp_path: Path) -> None:
    """An app on a machine a minute ahead: nginx would go on with its answer until then, whatever becomes of the app."""
    with both(tmp_path, AHEAD="1") as (_, front):
        assert len({made(front.get("/api/health")) for _ in range(5)}) == 5
