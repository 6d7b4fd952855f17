"""`tocsin receive`, as a process that is sent real messages, by ours and by the official library."""

import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from pydantic import SecretStr
from standardwebhooks import Webhook

from service.monitor.sending import Verdict, client_for, send
from service.receive import LARGEST, lines
from service.receiver import Receiver
from service.settings import CHECKOUT
from tests.test_alertmanager import RESOLVED
from tests.test_receivers import FIRING

SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
FIRED = "2023-11-14T22:13:20.000Z  firing  warning  HighCpu  self  self: CPU at 91 %"


@dataclass
class Running:
    """A receiver that runs. `said` is what it printed, once it has ended."""

    url: str = ""
    said: list[str] = field(default_factory=list)
    complained: list[str] = field(default_factory=list)

    def post(self, body: bytes, headers: dict[str, str] | None = None) -> int:
        return requests.post(self.url, body, headers=headers, timeout=10).status_code

    def post_signed(self, body: str, *, away: float = 0.0, identity: str = "") -> int:
        identity = identity or f"msg_{uuid.uuid4().hex}"
        moment = datetime.fromtimestamp(time.time() + away, UTC)
        signature = Webhook(SECRET).sign(identity, moment, body)
        signed = {"webhook-id": identity, "webhook-timestamp": str(int(moment.timestamp())), "webhook-signature": signature}
        return self.post(body.encode(), signed)


@contextmanager
def tocsin_receive(*arguments: str, secret: str = SECRET) -> Iterator[Running]:
    """Run it for the length of a `with` block."""
    command = [str(Path(sys.executable).with_name("tocsin")), "receive", "--port", "0", *arguments]
    given = os.environ | {"TOCSIN_WEBHOOK_SECRET": secret, "PYTHONUNBUFFERED": "1"}
    running = Running()
    with subprocess.Popen(command, cwd=CHECKOUT, env=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        assert first.startswith("receiving on http://"), first + process.stderr.read()
        running.url = first.split()[2].rstrip(",")
        running.complained.append(first.rstrip())
        try:
            yield running
        finally:
            process.terminate()
            said, complained = process.communicate(timeout=20)
            running.said = said.splitlines()
            running.complained += complained.splitlines()
    assert 0 == process.returncode


@pytest.mark.parametrize("form", ["tocsin", "alertmanager"])
def test_what_we_send_is_verified_and_printed(form: str) -> None:
    """A message of either format, signed with two secrets, of which it knows one, is a line for each alert."""
    newest = "whsec_" + "C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
    with tocsin_receive() as running:
        receiver = Receiver(name="ops", webhook=SecretStr(running.url), secret=(newest, SECRET), format=form)
        client, now = client_for(receiver), time.time()
        verdict = send(receiver, client, identity="msg_1", contents=[FIRING], created=now, now=now)
        client.close()

    assert Verdict() == verdict
    assert [FIRED] == running.said


def test_a_second_copy_is_marked() -> None:
    """The same id again is answered 204 as well, and its lines say so."""
    body = json.dumps({"data": {"alerts": [FIRING]}})
    with tocsin_receive() as running:
        assert [204, 204, 204] == [running.post_signed(body, identity=each) for each in ("msg_1", "msg_2", "msg_1")]

    assert [FIRED, FIRED, f"again: {FIRED}"] == running.said


def test_what_is_not_genuine_is_refused() -> None:
    """Unsigned, of another secret, changed, or more than five minutes old or early: 401, and nothing is printed."""
    with tocsin_receive(secret="whsec_" + "C2FVsBQIhrscChlQIMV+b5sSYspob7oD") as other:
        assert 401 == other.post_signed("{}")
    with tocsin_receive() as running:
        assert [401, 401, 401] == [running.post(b"{}"), running.post_signed("{}", away=-310), running.post_signed("{}", away=310)]
        assert [204, 204] == [running.post_signed("{}", away=-290), running.post_signed("{}", away=290)]

    assert ["not a message of alerts: {}"] * 2 == running.said
    assert 3 == sum(line.startswith("refused with 401: ") for line in running.complained)


def test_what_is_no_json_or_too_large_is_refused() -> None:
    """What is not JSON gets 400, a body beyond the limit 413 before it is read, one without a length 411."""
    with tocsin_receive("--no-verify", secret="") as running:
        assert [400, 400] == [running.post(b"{"), running.post(b"\xff")]
        assert 413 == answer(running, f"Content-Length: {LARGEST + 1}")
        assert 413 == answer(running, "Content-Length: " + "9" * 5000)
        assert [411, 411] == [answer(running, "X: y"), answer(running, "Content-Length: -1")]
        assert 204 == running.post(b"[1]")

    assert ["not a message of alerts: [1]"] == running.said
    assert running.complained[0].endswith("/, without verifying")


def answer(running: Running, header: str) -> int:
    """The status for a request that is not sent by a well-behaved library."""
    host, _, port = running.url.removeprefix("http://").rstrip("/").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(f"POST / HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n".encode())
        return int(connection.recv(1000).split()[1])


def test_json_prints_each_message_as_it_is() -> None:
    """With --json a line is a message, for another program to read."""
    with tocsin_receive("--json") as running:
        running.post_signed('{"a":\n [1, "é"]}')

    assert ['{"a":[1,"é"]}'] == running.said


@pytest.mark.parametrize(
    ("arguments", "secret", "status", "fault"),
    [
        ([], "", 2, "TOCSIN_WEBHOOK_SECRET: is required to verify; set it, or say --no-verify"),
        (["--host", "192.0.2.1"], SECRET, 1, "cannot listen on 192.0.2.1, port 9000: "),
    ],
)
def test_what_it_cannot_do_is_said_at_once(arguments: list[str], secret: str, status: int, fault: str) -> None:
    """Without a secret it does not pretend to verify, and without an address it does not wait."""
    command = [str(Path(sys.executable).with_name("tocsin")), "receive", *arguments]
    given = os.environ | {"TOCSIN_WEBHOOK_SECRET": secret}
    done = subprocess.run(command, cwd=CHECKOUT, env=given, capture_output=True, text=True, timeout=30, check=False)
    assert (status, "") == (done.returncode, done.stdout)
    assert done.stderr.startswith(fault)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            {"data": {"alerts": [RESOLVED | {"late": True, "reminder": True}]}},
            [f"2023-11-14T22:14:21.500Z  resolved, late, reminder  warning  HighCpu  self  {FIRING['summary']}"],
        ),
        (
            {"alerts": [{"status": "firing", "labels": {}, "annotations": {}, "startsAt": "x"}]},
            ["x  firing  -  -  -  -"],
        ),
        (
            {"data": {"alerts": [FIRING | {"summary": "a\x1b[2J\nb\u202e"}]}},
            [FIRED.replace(FIRING["summary"], "a\ufffd[2J\ufffdb\ufffd")],
        ),
        ({"data": {"alerts": []}}, []),
        (None, ["not a message of alerts: null"]),
        (7, ["not a message of alerts: 7"]),
        ("data", ['not a message of alerts: "data"']),
        ({"data": 1}, ['not a message of alerts: {"data":1}']),
        ({"alerts": [{"status": "firing"}]}, ['not a message of alerts: {"alerts":[{"status":"firing"}]}']),
        ({"alerts": [{"status": [], "labels": {}, "annotations": {}, "startsAt": 1}]}, ["1  []  -  -  -  -"]),
    ],
)
def test_whatever_the_json_is_it_is_lines(message: Any, expected: list[str]) -> None:
    """Each alert is a line without control characters; JSON of another form is shown as it is."""
    assert expected == lines(message)
