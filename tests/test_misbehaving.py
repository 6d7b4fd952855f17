"""Whoever is asked or told, and however it misbehaves: what is said of it, soon, and that it is well again afterwards."""

import gzip
import shutil
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from service.chat.answers import NOT_TAKEN
from service.configuration import Target
from service.database import connect, open_on
from service.monitor import heartbeat
from service.monitor.delivery import deliver_next
from service.monitor.heartbeat import Heartbeat
from service.monitor.probe import Prober
from service.monitor.sending import client_for
from service.receiver import Receiver
from service.tables import messages
from tests.chatting import KEY
from tests.conftest import Lines
from tests.proxy import issue
from tests.stack import eventually, free_port
from tests.test_exchange import OK, reading, send, serving
from tests.test_outbox import firing, put

Behaviour = Callable[[socket.socket], None]

TIMEOUT = 1.0  # seconds that everything may take here
RECEIVERS = ("webhook", "alertmanager", "chat", "apprise")
TOLD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
HEAD = b"HTTP/1.1 200 OK\r\n"


def silent(connection: socket.socket) -> None:
    reading(connection)
    time.sleep(10)


def deaf(connection: socket.socket) -> None:
    time.sleep(10)


def closed(connection: socket.socket) -> None:
    """At once."""


def half_closed(connection: socket.socket) -> None:
    """It says that it has said all, goes on listening, and does not hang up."""
    reading(connection)
    connection.shutdown(socket.SHUT_WR)
    connection.recv(1)


def half_closed_in_the_middle(connection: socket.socket) -> None:
    reading(connection)
    connection.sendall(HEAD + b"Content-Length: 10\r\n\r\nhalf")
    connection.shutdown(socket.SHUT_WR)
    connection.recv(1)


def plain(connection: socket.socket) -> None:
    """It takes the beginning of TLS for a request, and says what it thinks of it."""
    connection.recv(65_536)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def reset(connection: socket.socket) -> None:
    connection.recv(1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


BOMB = gzip.compress(gzip.compress(b"\0" * 200_000_000, 1), 9)
ZIPPED = b"Content-Encoding: gzip, gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB)
EVERYBODY = ("target", *RECEIVERS, "heartbeat")
LATE = dict.fromkeys(EVERYBODY, "no complete answer within 1 s")
TOO_LONG = "its answer is longer than 262144 bytes"


def everybody(text: str, **others: str) -> dict[str, str]:
    """The same of all, but for those that are named."""
    return dict.fromkeys(EVERYBODY, text) | others


def closing(text: str) -> dict[str, str]:
    """Of a chat it is not said how."""
    return everybody(text, chat=NOT_TAKEN, apprise=NOT_TAKEN)


def no_http(kind: str) -> dict[str, str]:
    return closing(f"no valid HTTP answer ({kind})")


def redirect(status: int) -> dict[str, str]:
    return everybody(f"it answered {status}", target=f"it answered {status}, a redirect; name the address it leads to")


# A receiver has taken what it answers 200 to, however much it goes on to say.
ENDLESS = everybody("", target=TOO_LONG, apprise=LATE["target"])
# What is said of it as a target, as a receiver of each kind, and as the heartbeat's address. Empty: it is up, or told.
MISBEHAVIOURS: dict[str, tuple[Behaviour, Mapping[str, str]]] = {
    "it reads and says nothing": (silent, LATE),
    "it does not even read": (deaf, LATE),
    "a reply that takes an hour": (send(OK[:10], b"0", pause=0.2, forever=True), LATE),
    "headers that take an hour": (send(HEAD, b"X: y\r\n", pause=0.2, forever=True), LATE),
    "a body that takes an hour": (send(HEAD + b"\r\n", b"a", pause=0.2, forever=True), LATE),
    "a hundred Continues a second": (send(b"HTTP/1.1 100 Continue\r\n\r\n", pause=0.01, forever=True), LATE),
    "chunks that take an hour": (
        send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n", pause=0.2, forever=True),
        LATE,
    ),
    "a body without end": (send(HEAD + b"\r\n", b"a" * 65_536, forever=True), ENDLESS),
    "chunks without end": (
        send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + b"a" * 4096 + b"\r\n", forever=True),
        ENDLESS,
    ),
    "headers without end": (send(HEAD, b"X: " + b"a" * 1000 + b"\r\n", forever=True), no_http("HTTPException")),
    "one header without end": (send(HEAD + b"X: ", b"a" * 65_536, forever=True), no_http("LineTooLong")),
    "a status line without end": (send(HEAD[:-2], b"a" * 65_536, forever=True), no_http("LineTooLong")),
    "Continues without end": (send(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, forever=True), LATE),
    "a redirect to itself": (send(b"HTTP/1.1 302 Found\r\nLocation: /SECRET\r\nContent-Length: 0\r\n\r\n"), redirect(302)),
    "a redirect with a body without end": (
        send(b"HTTP/1.1 307 x\r\nLocation: /\r\n\r\n", b"a" * 65_536, forever=True),
        everybody("it answered 307", target=TOO_LONG, apprise=LATE["target"]),
    ),
    "a redirect to a file": (
        send(b"HTTP/1.1 301 x\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n"),
        redirect(301),
    ),
    "half closed": (half_closed, closing("it closed the connection without an answer")),
    "half closed in the middle": (half_closed_in_the_middle, no_http("IncompleteRead")),
    "reset": (reset, closing("it closed the connection")),
    "closed at once": (closed, closing("it closed the connection")),
    "a bomb": (send(HEAD + ZIPPED + BOMB), everybody("", apprise=LATE["target"])),
    "a negative length": (send(HEAD + b"Content-Length: -1\r\n\r\nok"), everybody("")),
    "a length of exabytes": (send(HEAD + b"Content-Length: 9999999999999999999\r\n\r\nok"), no_http("IncompleteRead")),
    "a chunk of exabytes": (
        send(HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nok"),
        no_http("IncompleteRead"),
    ),
    "two lengths": (send(HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok"), no_http("InvalidHeader")),
    "a status of five digits": (send(b"HTTP/1.1 20000 OK\r\nContent-Length: 0\r\n\r\n"), no_http("BadStatusLine")),
    "a status of none": (send(b"HTTP/1.1 OK\r\nContent-Length: 0\r\n\r\n"), no_http("ValueError")),
    "a switch of protocols": (send(b"HTTP/1.1 101 x\r\nUpgrade: x\r\n\r\n"), everybody("it answered 101", apprise=NOT_TAKEN)),
    "bytes": (send(b"\x00\xff\xfe\r\n\r\n" * 100), no_http("BadStatusLine")),
    "NUL in a header": (send(HEAD + b"X: a\x00b\r\nRetry-After: \xff\x00\r\nContent-Length: 2\r\n\r\nok"), everybody("")),
}


class Misbehaving:
    """A server that misbehaves until it is well."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour

    def __call__(self, connection: socket.socket) -> None:
        self.behaviour(connection)


class Asked:
    """Everything that asks and tells, at one address."""

    def __init__(self, url: str, folder: Path, prepared: Path, lines: Lines) -> None:
        self._lines = lines
        self._prober = Prober([Target(name="shop", url=SecretStr(url), timeout=f"{TIMEOUT:g}s")])
        self._heart = Heartbeat(SecretStr(url))
        addresses = {kind: {kind: url} for kind in ("webhook", "alertmanager")}
        addresses |= {
            "chat": {"chat": url.replace("SECRET", f"hooks/{KEY}")},
            "apprise": {"chat": url.replace("http", "json", 1)},
        }
        self._receivers = {kind: Receiver(name="ops", timeout="1s", **given) for kind, given in addresses.items()}
        self._clients = {kind: client_for(receiver) for kind, receiver in self._receivers.items()}
        self._engines = {kind: open_on(f"sqlite:///{shutil.copy(prepared, folder / kind)}") for kind in RECEIVERS}

    def all(self, now: float) -> dict[str, str]:
        """What each says, asked at the same moment."""
        with ThreadPoolExecutor(6) as threads:
            said = {kind: threads.submit(self._told, kind, now) for kind in RECEIVERS}
            said |= {"target": threads.submit(self._up), "heartbeat": threads.submit(self.beaten)}
            return {kind: future.result(60) for kind, future in said.items()}

    def _up(self) -> str:
        return next(sample.reason for sample in self._prober.probe() if sample.metric == "up")

    def _told(self, kind: str, now: float) -> str:
        engine = self._engines[kind]
        deliver_next(engine, self._receivers[kind], self._clients[kind], lambda: now)
        with engine.connect() as connection:
            return str(connection.execute(select(messages.c.error).where(messages.c.delivered.is_(None))).scalar() or "")

    def beaten(self) -> str:
        """What the log says of the heartbeat; that is only when it changes."""
        before = len(self._of_the_heart())
        self._heart.beat()
        (line,) = eventually(lambda: self._of_the_heart()[before:], "a line about the heartbeat")
        return str(line.get("error.message", ""))

    def _of_the_heart(self) -> list[dict[str, Any]]:
        return [line for line in self._lines() if "the heartbeat" in line["message"]]

    def close(self) -> None:
        self._prober.close()
        self._heart.stop()
        for client in self._clients.values():
            client.close()
        for engine in self._engines.values():
            engine.dispose()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database in which an alert waits to be told."""
    path = tmp_path_factory.mktemp("prepared") / "tocsin.db"
    engine = connect(f"sqlite:///{path}")
    put(engine, firing())
    engine.dispose()
    return path


@pytest.fixture
def asked(tmp_path: Path, prepared: Path, lines: Lines, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Asked]]:
    monkeypatch.setattr(heartbeat, "TIMEOUT", TIMEOUT)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    made: list[Asked] = []

    def asking(url: str) -> Asked:
        made.append(Asked(url, tmp_path, prepared, lines))
        return made[-1]

    yield asking
    for each in made:
        each.close()


def words(said: Mapping[str, str]) -> dict[str, str]:
    """A connection that was closed may be seen by who was still sending, and by who already waited. Apprise has a limit of its
    own for a read, which ends in the same moment as ours."""
    found = {kind: text.removesuffix(" without an answer") for kind, text in said.items()}
    return found | {"apprise": "not told"} if said["apprise"] in (LATE["apprise"], NOT_TAKEN) else found


@pytest.mark.parametrize("name", MISBEHAVIOURS)
def test_who_misbehaves_is_told_of_and_costs_no_time(asked: Callable[[str], Asked], name: str) -> None:
    """The words for it, within the time that it may take; once it is well again, everybody finds it so."""
    behaviour, expected = MISBEHAVIOURS[name]
    server = Misbehaving(behaviour)
    with serving(server) as url:
        all_of_them = asked(url)
        if not expected["heartbeat"]:  # its log tells changes only
            server.behaviour = closed
            all_of_them.beaten()
            server.behaviour = behaviour
        began = time.monotonic()
        said = all_of_them.all(1000.0)
        took = time.monotonic() - began
        if not said["heartbeat"]:
            server.behaviour = closed
            all_of_them.beaten()
        server.behaviour = send(TOLD)
        if name == "a bomb" and not said["apprise"]:  # it unpacks all of it, which takes about as long as it may
            said["apprise"] = expected["apprise"]
        afterwards = all_of_them.all(2000.0)

    assert words(expected) == words(said)
    assert took < TIMEOUT + 10
    assert everybody("") == afterwards


@pytest.fixture(scope="module")
def another(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """Of an authority that nobody knows, for another host."""
    return issue(tmp_path_factory.mktemp("authority"), "DNS:elsewhere.example")[1]


UNREACHABLE: dict[str, tuple[Behaviour, str]] = {
    "a certificate of somebody": (send(TOLD), "its TLS certificate is not valid"),
    "no TLS": (plain, "TLS failed"),
    "a handshake that takes an hour": (send(b"\x16\x03\x03\x40\x00", b"\x02", pause=0.2, forever=True), LATE["target"]),
    "a name that does not resolve": (send(TOLD), "its name does not resolve"),
    "nobody there": (send(TOLD), "it refuses the connection"),
}


@pytest.mark.parametrize("name", UNREACHABLE)
def test_who_cannot_be_reached_is_told_of(asked: Callable[[str], Asked], another: ssl.SSLContext, name: str) -> None:
    """A certificate of somebody else, no TLS, half of a handshake, a name that does not resolve: in words, and in time."""
    behaviour, reason = UNREACHABLE[name]
    with serving(behaviour, another if "certificate" in name else None) as url:
        elsewhere = {"a name that does not resolve": "tocsin.invalid", "nobody there": f"127.0.0.1:{free_port()}"}
        host = elsewhere.get(name, url.split("/")[2])
        began = time.monotonic()
        said = asked(f"https://{host}/SECRET").all(1000.0)

    assert closing(reason) | {"chat": said["chat"], "apprise": said["apprise"]} == said
    assert {said["chat"], said["apprise"]} <= {NOT_TAKEN, LATE["target"]}
    assert time.monotonic() - began < TIMEOUT + 10
