"""Everything hostile that can reach a log, from everywhere, on a real stack: each line is short, valid JSON, and said once."""

import json
import re
import shutil
import socket
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.fields import KINDS
from tests.elasticsearch import accepted
from tests.receiver import receiving
from tests.stack import ROOT, eventually, free_port, process
from tests.test_exchange import serving

pytestmark = [pytest.mark.native, pytest.mark.timeout(240)]

KEY = "correct-horse-battery-staple"
FORGED = '{"@timestamp":"2026-01-01T00:00:00.000Z","message":"forged","log.level":"info"}'
# Name, and what a client sends.
TEXTS: dict[str, bytes] = {
    "a backslash": b"a\\",
    "a quote": b'a"b',
    "quotes and backslashes": b'\\"\\\\"\\',
    "an apostrophe": b"'",
    "CR LF": b"a\r\nb",
    "LF": b"a\nb",
    "CR": b"a\rb",
    "a tab": b"a\tb",
    "NUL": b"a\0b",
    "DEL": b"a\x7fb",
    "an escape of a terminal": b"\x1b[2J\x1b]0;x\x07",
    "the byte ff": b"a\xffb",
    "half a character": b"a\xed\xa0\x80b",
    "half a character, written out": b"a\\ud800b",
    "a character that was cut": b"a\xe2\x82",
    "a character written too long": b"a\xc0\xafb",
    "beyond Unicode": b"a\xf4\x90\x80\x80",
    "an umlaut": "ä".encode(),
    "an emoji": "🚨".encode(),
    "line ends of Unicode": "a\u2028b\u2029c\x85d".encode(),
    "the other direction": "\u202eabc".encode(),
    "an encoded LF": b"a%0ab",
    "encoded CR LF": b"a%0d%0ab",
    "an encoded NUL": b"a%00b",
    "an encoded ff": b"a%ffb",
    "an encoded half": b"a%ed%a0%80b",
    "a broken encoding": b"a%zz%",
    "signs of formats": b"%s%n%(a)s{0}{{7*7}}${A}$(id)`id`",
    "a line of a log": b'x"}\n' + FORGED.encode() + b"\n",
    "a line of a log, encoded": b"x%22%7D%0A" + FORGED.replace('"', "%22").replace(" ", "").encode(),
    "markup": b"<script>alert(1)</script>",
    "7 KB of quotes": b'"' * 7000,
    "7 KB of ff": b"\xff" * 7000,
    "7 KB of euros": "€".encode() * 2300,
    "100 KB": b"a" * 102_400,
}
PLACES: dict[str, Callable[[bytes], bytes]] = {
    "path": lambda text: b"GET /" + text + b" HTTP/1.1\r\n",
    "query": lambda text: b"GET /livez?q=" + text + b" HTTP/1.1\r\n",
    "method": lambda text: b"GE" + text + b"T /livez HTTP/1.1\r\n",
    "version": lambda text: b"GET /livez HTTP/1." + text + b"\r\n",
    "User-Agent": lambda text: b"GET /livez HTTP/1.1\r\nUser-Agent: " + text + b"\r\n",
    "Referer": lambda text: b"GET /livez HTTP/1.1\r\nReferer: " + text + b"\r\n",
    "X-Request-ID": lambda text: b"GET /livez HTTP/1.1\r\nX-Request-ID: " + text + b"\r\n",
    "traceparent": lambda text: b"GET /livez HTTP/1.1\r\ntraceparent: " + text + b"\r\n",
    "X-Forwarded-For": lambda text: b"GET /livez HTTP/1.1\r\nX-Forwarded-For: " + text + b"\r\n",
    "Authorization": lambda text: b"DELETE /api/v1/silences/x HTTP/1.1\r\nAuthorization: Bearer " + text + b"\r\n",
    "a header's name": lambda text: b"GET /livez HTTP/1.1\r\nX-" + text + b": a\r\n",
    "body": lambda text: with_body(b"application/json", text),
    "a text in JSON": lambda text: with_body(b"application/json", silence(text)),
    "form": lambda text: (
        b"POST /login HTTP/1.1\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        + b"Content-Length: %d\r\n\r\n" % (len(text) + 13)
        + b"key=a&author="
        + text
    ),
}


def with_body(kind: bytes, body: bytes) -> bytes:
    head = b"POST /api/v1/silences HTTP/1.1\r\nAuthorization: Bearer " + KEY.encode() + b"\r\nContent-Type: " + kind
    return head + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def silence(text: bytes) -> bytes:
    said = text.decode("utf-8", "surrogateescape")
    return json.dumps({"matchers": ['alert="none"'], "duration": "1h", "author": said[:150], "comment": said}).encode()


def request(place: str, text: bytes) -> bytes:
    """The whole of it: one request on one connection."""
    head, separator, body = PLACES[place](text).partition(b"\r\n")
    return head + separator + b"Host: tocsin\r\nConnection: close\r\n" + (body if b"\r\n\r\n" in body else body + b"\r\n")


# Each request comes from an address of its own, by which its lines are found whatever became of its id.
SENT = {
    f"127.{way}.{number // 250 + 1}.{number % 250 + 1}": (place, name)
    for way in (10, 20)
    for number, (place, name) in enumerate((place, name) for place in PLACES for name in TEXTS)
}


@dataclass
class Stack:
    """The folder of a native stack, where its nginx and its gunicorn listen, and what was answered to whom."""

    folder: Path
    front: int
    app: int
    answers: dict[str, tuple[int, str]] = field(default_factory=dict)  # status and id

    def texts(self) -> list[bytes]:
        return [line for path in sorted((self.folder / "log").iterdir()) for line in path.read_bytes().split(b"\n")[:-1]]

    def lines(self, program: str) -> list[dict[str, Any]]:
        path = self.folder / "log" / f"{program}.log"
        return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]

    def send(self, source: str, sent: bytes) -> None:
        """What was answered, if anything was: of what is far too long only the beginning is read."""
        port = self.front if source.startswith("127.10.") else self.app
        with socket.create_connection(("127.0.0.1", port), 20, (source, 0)) as connection, suppress(OSError, HTTPException):
            with suppress(OSError):  # it has hung up before it was told all
                connection.sendall(sent)
            answer = HTTPResponse(connection)
            answer.begin()
            answer.read()
            self.answers[source] = (answer.status, answer.getheader("X-Request-ID", ""))


SUPERVISE = """
import sys
from pathlib import Path
sys.path.insert(0, "deploy/supervisor")
import supervise
supervise.HOME = Path({home!r})
sys.argv[1:] = ["--native"]
sys.exit(supervise.main())
"""
# Names that a person could give to a program, each of which ends at once; and one that cannot be started.
PROGRAMS = [
    'quo"te',
    "back\\slash",
    "ümläut",
    "🚨",
    "per%%cent",
    "brace{0}",
    "no\u2028line",
    FORGED.replace(":", "=").replace("%", "%%"),
]


def checkout(folder: Path) -> Path:
    """As this one, with more programs in supervisord's configuration."""
    home = folder / "home"
    (home / "deploy/supervisor").mkdir(parents=True)
    for part in ("service", "deploy/nginx", "deploy/gunicorn.conf.py"):
        (home / part).symlink_to(ROOT / part)
    for file in (ROOT / "deploy/supervisor").glob("*.conf"):
        shutil.copy(file, home / "deploy/supervisor")
    with (home / "deploy/supervisor/native.conf").open("a", encoding="utf-8") as native:
        for name in PROGRAMS:
            native.write(
                f"\n[program:{name}]\ncommand = sh -c 'exit 3'\nstartretries = 1\nstdout_logfile = NONE\nredirect_stderr = true\n"
            )
        native.write("\n[program:nowhere]\ncommand = '/no\"where\\\\/ümläut'\nstartretries = 0\n")
    return home


# What a monitor.yaml can hold of it; a name has at most 200 characters.
SHOWN = {
    name: text.decode()[:150]
    for name, text in TEXTS.items()
    if text.isascii() or name in ("an umlaut", "an emoji", "7 KB of euros")
}
SHOWN |= {"line ends of Unicode": "a\u2028b\u2029c\x85d", "the other direction": "\u202eabc"}


def configuration(app: int, hostile: str, receiver: str) -> str:
    """Hostile names everywhere, of targets that are down and that answer hostile things, and of who is told."""
    targets = [{"name": text, "url": "http://127.0.0.1:9/"} for text in SHOWN.values()]
    targets += [{"name": "disks", "url": hostile}, {"name": "self", "url": f"http://127.0.0.1:{app}/api/health"}]
    rules = [
        {"alert": f"Down {SHOWN['a line of a log']}", "when": "up == 0", "summary": "{{ target }} \x00 \u2028 {{ alert }}"},
        {"alert": 'Full\t\\"\n', "when": "mount_usage > 50", "summary": "{{ mount }}"},
    ]
    receivers = [
        {"name": SHOWN["a line of a log"], "webhook": receiver},
        {"name": 'central"\\\n', "alertmanager": hostile.rpartition("/")[0]},
    ]
    found = {"targets": targets, "rules": rules, "receivers": receivers, "heartbeat": hostile, "interval": "1s"}
    return yaml.safe_dump(found, allow_unicode=False)


def hostile_server(connection: socket.socket) -> None:
    """Readings of disks with hostile names, to who asks; a refusal with hostile words, to who tells."""
    asked = connection.recv(65_536)
    words = [text.decode() for text in TEXTS.values() if len(text) < 1000 and is_text(text)]
    checks = {f"mount_usage:{n}": {"value": 99, "metric": "mount_usage", "mount": text} for n, text in enumerate(words)}
    body = json.dumps({"checks": checks}).encode() if asked.startswith(b"GET") else json.dumps(FORGED + "".join(words)).encode()
    status = b"200 OK" if asked.startswith(b"GET") else b'400 "\\\xff\x1b[2J%0a'
    connection.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)


def is_text(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.fixture(scope="module")
def mappings() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "deploy/elk/index-template.json").read_text())["template"]["mappings"]
    return found


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """A stack to which all of it was sent, and which has been stopped."""
    folder = tmp_path_factory.mktemp("corpus")
    found = Stack(folder, free_port(), free_port())
    with receiving() as receiver, serving(hostile_server) as hostile:
        receiver.answer = lambda _: 500
        (folder / "monitor.yaml").write_text(configuration(found.app, hostile, receiver.url), encoding="utf-8")
        env = {
            "TOCSIN_DATA": str(folder),
            "TOCSIN_WEB_ADDRESS": f"127.0.0.1:{found.app}",
            "TOCSIN_HTTP_PORT": str(found.front),
            "TOCSIN_CONFIG": str(folder / "monitor.yaml"),
            "TOCSIN_INSTANCE": 'in"stance\\\n\u2028🚨',
            "TOCSIN_DRAIN": "0s",
            "TOCSIN_API_KEY": KEY,
            "A": "${A}",  # what is put in is not looked at again
            "WEB_CONCURRENCY": "2",
        }
        with process([sys.executable, "-c", SUPERVISE.format(home=str(checkout(folder)))], env, folder / "output"):
            eventually(lambda: (folder / "log/nginx.log").exists() and ready(found), "the stack", 40)
            for source, (place, name) in SENT.items():
                found.send(source, request(place, TEXTS[name]))
            eventually(lambda: len(told(found)) >= len(SHOWN), "the alerts", 30)
            eventually(
                lambda: len([line for line in found.lines("supervisord") if "gave up" in line["message"]]) > len(PROGRAMS),
                "FATAL",
                30,
            )
            eventually(lambda: counted(found.lines("nginx"), "127.10.").total() >= len(SENT) // 2, "nginx' lines", 20)
    return found


def ready(stack: Stack) -> bool:
    with socket.create_connection(("127.0.0.1", stack.front), 5) as connection:
        connection.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
        return b" 200 " in connection.recv(100)


def told(stack: Stack) -> set[str]:
    """The targets that alerts are about."""
    return {line["labels.target"] for line in stack.lines("monitor") if line.get("event.kind") == "alert"}


def counted(lines: list[dict[str, Any]], way: str) -> Counter[str]:
    return Counter(line["client.ip"] for line in lines if line.get("client.ip", "").startswith(way) and "url.original" in line)


def test_every_line_is_short_valid_json(stack: Stack, mappings: dict[str, Any]) -> None:
    """Of nginx, gunicorn, the app, the monitor and supervisord: UTF-8, JSON, below 4096 bytes, as Elasticsearch wants it."""
    texts = stack.texts()
    programs = Counter(accepted(line, mappings)["service.name"] for line in texts)

    assert {"tocsin-nginx", "tocsin-web", "tocsin-monitor", "tocsin-supervisord"} == set(programs)
    assert [] == [line for line in texts if len(line) + 1 > 4096]
    assert "" == (stack.folder / "output").read_text()
    for line in texts:
        unknown = {name for name in json.loads(line.decode("utf-8")) if name not in KINDS and not name.startswith("labels.")}
        assert set() == unknown
        assert "forged" != json.loads(line)["message"]
        assert KEY.encode() not in line


def test_each_request_is_one_line_of_nginx(stack: Stack) -> None:
    """Whatever it was, and whether it was answered or not."""
    found = counted(stack.lines("nginx"), "127.10.")

    assert {} == {SENT[source]: found[source] for source in SENT if source.startswith("127.10.") and found[source] != 1}


def test_each_request_that_reached_the_app_is_one_line_of_it(stack: Stack) -> None:
    """What nginx handed on, and what came straight: one line of the app's, or one of gunicorn's that it did not let it in."""
    lines = stack.lines("web")
    refusals = Counter(match[1] for line in lines if (match := re.match(r"Invalid request from ip=([0-9.]+):", line["message"])))
    by_address, by_id = counted(lines, "127.10."), Counter(line["http.request.id"] for line in lines if "url.original" in line)
    handed_on = [line for line in stack.lines("nginx") if line.get("labels.upstream") and line["client.ip"] in SENT]
    refused = [line for line in handed_on if by_address[line["client.ip"]] == 0]
    straight = {source: identity for source, (_, identity) in stack.answers.items() if source.startswith("127.20.")}
    both = {SENT[source]: by_id[identity] + refusals[source] for source, identity in straight.items()}

    assert set(by_address) <= {line["client.ip"] for line in handed_on}
    assert {0, 1} == {by_address[line["client.ip"]] for line in handed_on}
    assert {"400"} == {line["labels.upstream_status"] for line in refused}
    assert len(refused) == refusals["127.0.0.1"]
    assert {} == {sent: number for sent, number in both.items() if number != 1}
    assert min(len(handed_on) - len(refused), len(straight) - len(set(straight) & set(refusals))) > 150


def test_the_id_is_the_same_everywhere(stack: Stack) -> None:
    """In the answer, in nginx' line and in the app's; and it looks like one."""
    for program in ("nginx", "web"):
        lines = [line for line in stack.lines(program) if "url.original" in line and line.get("client.ip") in stack.answers]
        ids = {line["client.ip"]: (line["http.request.id"], stack.answers[line["client.ip"]][1]) for line in lines}
        assert {} == {SENT[source]: both for source, both in ids.items() if both[0] != both[1]}
        assert len(ids) > 300
    assert all(identity.isascii() and 8 <= len(identity) <= 64 for _, identity in stack.answers.values())
    assert len(stack.answers) > len(SENT) * 0.9


def test_no_answer_is_a_fault_of_ours(stack: Stack) -> None:
    """No 5xx but for a method or a version of HTTP that is none."""
    wrong = {SENT[source]: status for source, (status, _) in stack.answers.items() if status >= 500}

    assert {"method", "version"} >= {place for place, _ in wrong}
    assert {501, 505} >= set(wrong.values())


def test_hostile_names_arrive_whole(stack: Stack) -> None:
    """What people named so is told under its name: targets, disks, alerts, receivers."""
    lines = stack.lines("monitor")
    values = {
        name: {line[name] for line in lines if name in line}
        for name in ("labels.target", "labels.label_mount", "labels.receiver")
    }

    assert set(SHOWN.values()) <= values["labels.target"]
    assert {text.decode() for text in TEXTS.values() if len(text) < 1000 and is_text(text)} <= values["labels.label_mount"]
    assert {SHOWN["a line of a log"], 'central"\\\n'} <= values["labels.receiver"]
    assert any("it answered 400: " in line.get("error.message", "") for line in lines)


def test_supervisords_programs_may_be_called_anything(stack: Stack) -> None:
    """It says what ended and what was given up, each in one line."""
    messages = [line["message"] for line in stack.lines("supervisord")]

    for name in PROGRAMS:
        assert f"gave up on {name}" in messages
    assert any('no"where' in message for message in messages)
