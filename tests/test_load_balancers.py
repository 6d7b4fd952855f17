"""HAProxy and nginx before two real Tocsins, configured as docs/load-balancers.md says."""

import os
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests
from requests.adapters import HTTPAdapter
from requests.exceptions import ChunkedEncodingError

from tests.stack import ROOT, Running, eventually, free_port, nginx, process, web

DOCUMENT = (ROOT / "docs/load-balancers.md").read_text(encoding="utf-8")
MINIMAL_NGINX = """
pid {folder}/front.pid;
error_log stderr warn;
worker_processes 1;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u;
    scgi_temp_path {folder}/s;
    {shown}
}}
"""


@dataclass
class Tocsin:
    """An app and the nginx before it."""

    app: Running
    front: Running

    @property
    def address(self) -> str:
        return self.front.url.removeprefix("http://")

    def asked(self) -> int:
        """How many requests it has answered that no balancer sent by itself."""
        return sum(line.get("url.original") == "/livez" for line in self.front.lines())


@pytest.fixture
def two(tmp_path: Path) -> Iterator[list[Tocsin]]:
    """Two Tocsins that drain as long as the default says, are always over a threshold, and trust 127.0.0.1 alone."""
    trusted = re.findall(r"^TOCSIN_TRUSTED_PROXIES=(.*)$", DOCUMENT, re.MULTILINE)[0]
    with ExitStack() as stack:
        found = []
        for name in ("one", "two"):
            folder = tmp_path / name
            folder.mkdir()
            app = stack.enter_context(web(folder, TOCSIN_DRAIN="5s", TOCSIN_MEM_THRESHOLD="0"))
            front = stack.enter_context(nginx(folder, app.url.removeprefix("http://"), NGINX_TRUSTED_PROXIES=trusted))
            found.append(Tocsin(app, front))
        yield found
        for server in found:  # sooner than they drain
            kill(server)


def shown(kind: str, servers: list[Tocsin], port: int) -> str:
    """The document's configuration, for these servers."""
    text: str = re.findall(rf"```{kind}\n((?:upstream|defaults).*?)```", DOCUMENT, re.DOTALL)[0]
    for written, here in zip(("127.0.0.1:8080", "192.0.2.2:8080"), servers, strict=True):
        assert 1 == text.count(written)
        text = text.replace(written, here.address)
    assert 1 == text.count("127.0.0.1:8081")
    return text.replace("127.0.0.1:8081", f"127.0.0.1:{port}")


@dataclass
class Load:
    """What came back, of each method."""

    url: str
    answers: Counter[tuple[str, int | str]] = field(default_factory=Counter)
    over: threading.Event = field(default_factory=threading.Event)

    def ask(self, method: str) -> None:
        with requests.Session() as session:
            while not self.over.wait(0.01):
                try:
                    status: int | str = session.request(method, self.url, timeout=10).status_code
                except requests.RequestException as error:
                    status = type(error).__name__
                self.answers[method, status] += 1


@contextmanager
def load(url: str, methods: str) -> Iterator[Load]:
    """Threads that ask, one for each method; a POST there is refused with 405, and that is an answer, too."""
    found = Load(f"{url}/livez")
    threads = [threading.Thread(target=found.ask, args=(method,)) for method in methods.split()]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        found.over.set()
        for thread in threads:
            thread.join()


@contextmanager
def haproxy(folder: Path, servers: list[Tocsin]) -> Iterator[tuple[str, Callable[[str], str]]]:
    """Where it answers, and a way to ask in which state it has a server."""
    port = free_port()
    text = shown("haproxy", servers, port)
    (folder / "haproxy.cfg").write_text(f"global\n    stats socket {folder}/haproxy.sock mode 600\n{text}")

    def state(server: str) -> str:
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(f"{folder}/haproxy.sock")
            control.sendall(b"show stat\n")
            table = control.makefile().read().splitlines()
        return str(next(line.split(",")[17] for line in table if line.startswith(f"tocsin,{server},")))

    with process(["haproxy", "-db", "-f", folder / "haproxy.cfg"], {}, folder / "haproxy.log"):
        eventually(lambda: [state("one"), state("two")] == ["UP", "UP"], "HAProxy takes both up")
        yield f"http://127.0.0.1:{port}", state


@contextmanager
def nginx_before(folder: Path, servers: list[Tocsin]) -> Iterator[str]:
    """A second nginx, with nothing but what the document shows; where it answers."""
    port = free_port()
    text = MINIMAL_NGINX.format(folder=folder, shown=shown("nginx", servers, port))
    (folder / "front.conf").write_text(text if os.geteuid() else f"user root;\n{text}")
    command: list[str | Path] = ["nginx", "-p", folder, "-c", folder / "front.conf", "-e", "stderr", "-g", "daemon off;"]
    with process(command, {}, folder / "front.log"):
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: requests.get(f"{url}/livez", timeout=5).ok, "nginx answers")
        yield url


def kill(server: Tocsin) -> None:
    """Without a word: the app, its workers, and the nginx before it."""
    for running in (server.front, server.app):
        with suppress(ProcessLookupError):
            os.killpg(running.process.pid, signal.SIGKILL)


def test_nothing_is_lost_while_a_server_stops(tmp_path: Path, two: list[Tocsin]) -> None:
    """HAProxy has it up although over a threshold, and out while it drains; nginx does not look, and asks the other one for
    what was not accepted."""
    one, other = two
    with (
        haproxy(tmp_path, two) as (url, state),
        nginx_before(tmp_path, two) as another,
        load(url, "GET GET POST") as traffic,
    ):
        eventually(lambda: one.asked() > 20 and other.asked() > 20, "both are asked")
        one.app.process.send_signal(signal.SIGTERM)
        eventually(lambda: state("one").startswith("DOWN"), "HAProxy takes it out", 6)
        assert one.app.process.poll() is None  # still draining: it answers what was sent before HAProxy knew
        assert [503, 200] == [one.front.status(path) for path in ("/readyz", "/livez")]
        time.sleep(1)  # what was under way is answered, and its line has come through the pipe
        before = one.asked()
        time.sleep(0.3)
        assert before == one.asked()  # by HAProxy no more
        with load(another, "GET GET") as unaware:
            eventually(lambda: one.asked() > before, "nginx asks it all the same")
            one.app.process.wait(30)
            one.front.process.send_signal(signal.SIGQUIT)
            one.front.process.wait(30)
            time.sleep(1)
    assert {("GET", 200), ("POST", 405)} == set(traffic.answers)
    assert {("GET", 200)} == set(unaware.answers)


def test_no_get_is_lost_when_a_server_is_killed(tmp_path: Path, two: list[Tocsin]) -> None:
    """First its app, and its nginx answers 502 until HAProxy takes it out; then all of it. Each time the other one is asked.

    An answer that had begun breaks off: at most that for which each of the four threads waited.
    """
    one, other = two
    with (
        haproxy(tmp_path, two) as (url, state),
        nginx_before(tmp_path, two) as another,
        load(url, "GET GET") as traffic,
        load(another, "GET GET") as unaware,
    ):
        eventually(lambda: min(sum(each.answers.values()) for each in (traffic, unaware)) > 50, "both ask")
        assert min(one.asked(), other.asked()) > 0
        os.killpg(one.app.process.pid, signal.SIGKILL)
        eventually(lambda: state("one").startswith("DOWN"), "HAProxy takes it out", 10)
        kill(one)
        before = sum(unaware.answers.values())
        time.sleep(1.5)
        assert sum(unaware.answers.values()) > before + 20
    answers = traffic.answers + unaware.answers
    assert answers.pop(("GET", ChunkedEncodingError.__name__), 0) <= 4
    assert {("GET", 200)} == set(answers)


class From(HTTPAdapter):
    """Asks from another address of this machine."""

    def __init__(self, address: str) -> None:
        self._address = address
        super().__init__()

    def init_poolmanager(self, *args: object, **kwargs: object) -> None:
        super().init_poolmanager(*args, **kwargs, source_address=(self._address, 0))  # type: ignore[arg-type]


def test_a_client_is_who_the_listed_proxy_says(tmp_path: Path, two: list[Tocsin]) -> None:
    """Through either balancer it is the client's own address, whatever the client claims; past them nobody is believed."""
    with haproxy(tmp_path, two) as (one, _), nginx_before(tmp_path, two) as other, requests.Session() as session:
        session.mount("http://", From("127.0.0.5"))
        asked = [
            session.get(f"{place}/livez", headers=headers, timeout=10).headers["X-Request-ID"]
            for place in (one, other, two[0].front.url)
            for headers in ({}, {"X-Forwarded-For": "203.0.113.9"})
        ]
        # As Azure's Application Gateway writes it: with the client's port.
        azure = requests.get(f"{two[0].front.url}/livez", headers={"X-Forwarded-For": "127.0.0.5:4711"}, timeout=10)
        asked.append(azure.headers["X-Request-ID"])

        def seen() -> list[object]:
            lines = [line for server in two for line in (*server.front.lines(), *server.app.lines())]
            return [line["client.ip"] for line in lines if line.get("http.request.id") in asked and "client.ip" in line]

        eventually(lambda: len(seen()) == 14, "each in the log of nginx and of the app")
    assert {"127.0.0.5"} == set(seen())


def test_the_readme_shows_a_part_of_the_document() -> None:
    """Its example is that of the document, word for word."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    example = re.findall(r"```haproxy\n(.*?)```", readme, re.DOTALL)

    assert 1 == len(example)
    assert example[0] in DOCUMENT
