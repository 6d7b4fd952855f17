"""Chat services that can be had: a real ntfy, pasted and through Apprise, and a real IRC server, through Apprise."""

import contextlib
import json
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
from pydantic import SecretStr
from sqlalchemy import Engine, select

from service.chat import MOST, Chat, NotTaken
from service.monitor.delivery import Delivery, deliver_next
from service.receiver import Receiver
from service.tables import messages
from tests.chatting import ALERT, RESOLVED, environment
from tests.proxy import issue, proxying
from tests.stack import ROOT, eventually, free_port, process, unless
from tests.test_outbox import firing, put

UNPACKED = ROOT / ".venv/trixie/usr/bin/ntfy"
NTFY = shutil.which("ntfy") or (str(UNPACKED) if UNPACKED.exists() else None)
NGIRCD = shutil.which("ngircd", path="/usr/sbin:/usr/bin")
needs_ntfy = unless(bool(NTFY), "needs ntfy; `make test` fetches it")
needs_ngircd = unless(bool(NGIRCD), "needs ngircd; `make test` installs it")
TEXT = "FIRING: HighCpu (critical), shop on web-1, since 2026-10-16 11:41 UTC\nshop: CPU at 93 % (cpu_usage > 80 for 60 s)"
SOLVED = (
    "RESOLVED: HighCpu (critical), shop on web-1, since 2026-10-16 11:41 to 2026-10-16 11:44 UTC\n"
    "Resolved after 3 min 10 s: shop: CPU at 41 % (not cpu_usage > 80)"
)


@dataclass
class Ntfy:
    """Where it listens, with TLS as ntfy.sh and without; how it is run; and what it has been told."""

    folder: Path
    plain: int = field(default_factory=free_port)
    secure: int = field(default_factory=free_port)

    @contextlib.contextmanager
    def running(self, *options: str) -> Iterator[None]:
        command = [NTFY or "", "serve", "--listen-http", f"127.0.0.1:{self.plain}", "--listen-https", f"127.0.0.1:{self.secure}"]
        command += ["--cert-file", f"{self.folder}/server.pem", "--key-file", f"{self.folder}/server.key"]
        # Who asks what it was told is another visitor, or would use up the limit that is tried.
        command += ["--cache-file", f"{self.folder}/cache.db", "--behind-proxy", *options]
        with process(command, {}, self.folder / "ntfy.log"):
            eventually(lambda: self.get("/v1/health").ok, "ntfy answers")
            yield

    def get(self, path: str) -> requests.Response:
        headers = {"X-Forwarded-For": "192.0.2.1"}
        return requests.get(f"http://127.0.0.1:{self.plain}{path}", headers=headers, timeout=5)

    def told(self, topic: str) -> list[dict[str, Any]]:
        """Its own list of the messages of a topic."""
        return [json.loads(line) for line in self.get(f"/{topic}/json?poll=1").text.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ntfy")
    issue(path, "DNS:ntfy.sh")
    return path


@pytest.fixture
def ntfy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ntfy]:
    """One that is ready to run, and reached as ntfy.sh by the environment's proxy."""
    server = Ntfy(folder)
    (folder / "cache.db").unlink(missing_ok=True)
    with proxying(lead=("127.0.0.1", server.secure)) as proxy:
        for variable, value in environment(folder / "ca.pem", proxy.url, NO_PROXY="127.0.0.1").items():
            monkeypatch.setenv(variable, value)
        yield server


def pasted(_: Ntfy) -> str:
    return "https://ntfy.sh/tocsin"


def by_apprise(server: Ntfy) -> str:
    return f"ntfy://127.0.0.1:{server.plain}/tocsin?priority=high"


WAYS = pytest.mark.parametrize("address", [pasted, by_apprise])


@needs_ntfy
def test_ntfy_has_title_priority_and_text(ntfy: Ntfy) -> None:
    """The address of a topic, pasted in: what is critical has a high priority, what is over the usual one."""
    with ntfy.running():
        chat = Chat(SecretStr(pasted(ntfy)))
        chat.tell([ALERT], 10)
        chat.tell([RESOLVED], 10)
        told = ntfy.told("tocsin")
    assert [("Tocsin", 4, TEXT), ("Tocsin", None, SOLVED)] == [(m["title"], m.get("priority"), m["message"]) for m in told]


@needs_ntfy
def test_ntfy_is_told_through_apprise(ntfy: Ntfy) -> None:
    """A server of one's own, by Apprise's address, with the priority that stands in it."""
    with ntfy.running():
        Chat(SecretStr(by_apprise(ntfy))).tell([ALERT | {"summary": "Zürich: 93 % ☂", "reason": "x"}], 10)
        told = ntfy.told("tocsin")
    assert [(4, f"{TEXT.splitlines()[0]}\nZürich: 93 % ☂ (x)")] == [(m["priority"], m["message"]) for m in told]


@needs_ntfy
@pytest.mark.parametrize("letter", ["a", "ü", "😀", '"'])
def test_ntfy_keeps_the_longest_as_a_message(ntfy: Ntfy, letter: str) -> None:
    """The longest report is still a message: ntfy makes a file of what is longer than it allows, or refuses it."""
    report = {"status": "report", "text": f"{letter * 150}\n" * 90, "url": "https://tocsin.example/r", "severity": "info"}
    with ntfy.running():
        Chat(SecretStr(pasted(ntfy))).tell([report], 10)
        (told,) = ntfy.told("tocsin")
    assert told["message"].endswith("\n…\nhttps://tocsin.example/r")
    assert "attachment" not in told
    assert 3000 < len(told["message"].encode()) <= 4096


@needs_ntfy
@WAYS
def test_ntfy_away_and_back_is_told_once(ntfy: Ntfy, engine: Engine, address: Callable[[Ntfy], str]) -> None:
    """Stopped, an alert waits for it in the outbox; started again it has the alert, once."""
    ops = Receiver(name="ops", chat=SecretStr(address(ntfy)))
    with ntfy.running():
        pass
    put(engine, firing("shop"), now=time.time(), receivers=[ops])
    delivery = Delivery(engine, [ops], time.time)
    delivery.start()
    try:
        eventually(lambda: attempts(engine), "a try that fails")
        with ntfy.running():
            eventually(lambda: ntfy.told("tocsin"), "the alert at ntfy")
            eventually(lambda: delivered(engine), "the mark")
            time.sleep(0.3)
            assert 1 == len(ntfy.told("tocsin"))
    finally:
        delivery.stop(10)


def attempts(engine: Engine) -> int:
    with engine.connect() as connection:
        return sum(row.attempts for row in connection.execute(select(messages)))


def delivered(engine: Engine) -> bool:
    with engine.connect() as connection:
        return all(row.delivered for row in connection.execute(select(messages)))


@needs_ntfy
@pytest.mark.parametrize(
    ("address", "error", "least", "most"),
    [
        (pasted, "it answered 429: limit reached: too many requests", 5.0, 5.0),
        (by_apprise, "it answered 429", 0.5, 1.0),  # Apprise does not hand on what ntfy says
    ],
)
def test_ntfys_own_limit_is_waited_for(
    ntfy: Ntfy, engine: Engine, address: Callable[[Ntfy], str], error: str, least: float, most: float
) -> None:
    """After its real 429 the message waits, and arrives once it lets more through."""
    ops = Receiver(name="ops", chat=SecretStr(address(ntfy)))
    assert ops.chat
    chat = Chat(ops.chat)
    with ntfy.running("--visitor-request-limit-burst", "1", "--visitor-request-limit-replenish", "2s"):
        chat.tell([ALERT], 10)
        put(engine, firing("shop"))
        pause = deliver_next(engine, ops, chat, lambda: 101.0)
        with engine.connect() as connection:
            (found,) = [row.error for row in connection.execute(select(messages))]
        assert found.startswith(error)
        assert least <= pause <= most

        for now in range(200, 230):
            time.sleep(0.2)
            if delivered(engine):
                break
            deliver_next(engine, ops, chat, partial(float, now))
        told = ntfy.told("tocsin")
    assert 2 == len(told)
    assert ": shop" not in told[0]["message"].splitlines()[0]
    assert "shop" in told[1]["message"]


@needs_ntfy
def test_ntfys_reason_is_told(ntfy: Ntfy) -> None:
    """What it does not allow is told in its own words."""
    with ntfy.running("--auth-file", f"{ntfy.folder}/auth.db", "--auth-default-access", "deny-all"):
        with pytest.raises(NotTaken, match=r"^it answered 403: forbidden$"):
            Chat(SecretStr(pasted(ntfy))).tell([ALERT], 10)
        with pytest.raises(NotTaken, match=r"^it answered 403$"):
            Chat(SecretStr(by_apprise(ntfy))).tell([ALERT], 10)


@contextlib.contextmanager
def ngircd(folder: Path, port: int) -> Iterator[None]:
    """A real IRC server, for the length of a `with` block."""
    (folder / "ngircd.conf").write_text(
        f"[Global]\nName = irc.example.net\nInfo = test\nListen = 127.0.0.1\nPorts = {port}\n"
        "[Limits]\nMaxConnectionsIP = 0\nPingTimeout = 30\n"
        "[Options]\nDNS = no\nIdent = no\nPAM = no\n"
        "[Channel]\nName = #locked\nModes = k\nKey = s3cret\n"
    )
    with process([NGIRCD or "", "-n", "-f", folder / "ngircd.conf"], {}, folder / "ngircd.log"):
        eventually(lambda: listens(port), "ngircd listens")
        yield


def listens(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), 1):
        return True


class Reader(threading.Thread):
    """Somebody in a channel, who notes what is said there."""

    def __init__(self, port: int, channel: str) -> None:
        super().__init__(daemon=True)
        self.lines: list[str] = []
        self._socket = socket.create_connection(("127.0.0.1", port), 10)
        self._socket.sendall(f"NICK reader\r\nUSER reader 0 * :Reader\r\nJOIN {channel}\r\n".encode())

    def run(self) -> None:
        with contextlib.suppress(OSError), self._socket.makefile("rb") as file:
            for line in file:
                self.lines.append(line.decode().rstrip("\r\n"))
                if line.startswith(b"PING"):
                    self._socket.sendall(b"PONG" + line[4:])

    def said(self) -> list[str]:
        """What others said in the channel."""
        return [match[1] for line in self.lines if (match := re.match(r":\S+ PRIVMSG #\S+ :(.*)", line))]

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self.join(10)
        self._socket.close()


@contextlib.contextmanager
def reading(port: int, channel: str = "#ops") -> Iterator[Reader]:
    reader = Reader(port, channel)
    reader.start()
    try:
        eventually(lambda: any(" 366 " in line for line in reader.lines), "the reader in the channel")
        yield reader
    finally:
        reader.close()


@needs_ngircd
def test_irc_has_a_line_each(tmp_path: Path) -> None:
    """It joins the channel, says two lines of each alert in order, whole and in UTF-8, and how many more, and quits."""
    port = free_port()
    with ngircd(tmp_path, port), reading(port) as reader:
        Chat(SecretStr(f"irc://127.0.0.1:{port}/#ops")).tell([ALERT | {"summary": "Zürich: 93 % ☂"}] * 15, 10)
        eventually(lambda: any(" QUIT " in line for line in reader.lines), "it quits")
        assert any(re.match(r":tocsin\S* JOIN :?#ops", line) for line in reader.lines), reader.lines
        *told, rest = reader.said()
    whole = len(told) // 2
    assert [TEXT.splitlines()[0], "Zürich: 93 % ☂ (cpu_usage > 80 for 60 s)"] * whole == told
    assert 1 <= whole <= MOST
    assert f"and {15 - whole} more" == rest


@needs_ngircd
def test_irc_away_and_back_is_told_once(tmp_path: Path, engine: Engine) -> None:
    """Stopped, an alert waits for it in the outbox; started again the channel reads the alert, once."""
    port = free_port()
    ops = Receiver(name="ops", chat=SecretStr(f"irc://127.0.0.1:{port}/#ops"))
    put(engine, firing("shop"), now=time.time(), receivers=[ops])
    delivery = Delivery(engine, [ops], time.time)
    delivery.start()
    try:
        eventually(lambda: attempts(engine), "a try that fails")
        with ngircd(tmp_path, port), reading(port) as reader:
            eventually(lambda: delivered(engine), "the mark", 60)
            eventually(lambda: any(" QUIT " in line for line in reader.lines), "it quits")
            assert 1 == sum("shop" in line for line in reader.said() if line.startswith("FIRING"))
    finally:
        delivery.stop(10)


@needs_ngircd
def test_a_channel_that_cannot_be_joined_is_not_told(tmp_path: Path) -> None:
    """Without its key a channel lets nobody in, and that is seen; with it, it is told."""
    port = free_port()
    with ngircd(tmp_path, port), reading(port, "#locked s3cret") as reader:
        with pytest.raises(NotTaken, match=r"^the chat service did not take it$"):
            Chat(SecretStr(f"irc://127.0.0.1:{port}/#locked")).tell([ALERT], 10)
        assert [] == reader.said()
        Chat(SecretStr(f"irc://127.0.0.1:{port}/#locked:s3cret")).tell([ALERT], 10)
        eventually(reader.said, "it is told")
