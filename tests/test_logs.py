"""Log lines as Elasticsearch and a pipe take them: one valid JSON object each, whatever is logged."""

import ipaddress
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from service import logs
from service.fields import KINDS
from service.settings import CHECKOUT

PIPE_BUF = 4096
# Names that ECS has as objects: text directly under one of them makes Elasticsearch drop the line.
OBJECTS = [
    "error",
    "url",
    "event",
    "log",
    "host",
    "service",
    "process",
    "source",
    "client",
    "http",
    "user_agent",
    "labels",
    "ecs",
]
OBJECTS += ["server", "destination", "network", "file", "user", "agent", "container", "trace", "tags", "message", "@timestamp"]


class Written:
    """What was logged to a real file descriptor since the last look, line by line."""

    def __init__(self, path: Path, fd: int) -> None:
        self._path = path
        self._fd = fd
        self._seen = 0
        self.handlers = list(logging.root.handlers)

    def raw(self) -> bytes:
        data = self._path.read_bytes()[self._seen :]
        self._seen += len(data)
        return data

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.raw().decode("utf-8").split("\n")[:-1]]

    def line(self) -> dict[str, Any]:
        """The only line; it is whole, valid, short enough and fits together as ECS nests it."""
        raw = self.raw()
        assert raw.endswith(b"\n")
        assert 1 == raw.count(b"\n")
        assert len(raw) <= PIPE_BUF
        line: dict[str, Any] = json.loads(raw.decode("utf-8"))
        nested(line)
        for key, value in line.items():
            check_type(key, value)
        return line


def nested(line: dict[str, Any]) -> dict[str, Any]:
    """Dotted names as the objects that Elasticsearch makes of them; fails where it would drop the line."""
    found: dict[str, Any] = {}
    for key, value in line.items():
        *objects, name = key.split(".")
        assert "" not in (*objects, name), f"{key!r} has an empty part"
        place = found
        for step in objects:
            place = place.setdefault(step, {})
            assert isinstance(place, dict), f"{key!r} stands beside a value"
        assert name not in place, f"{key!r} stands beside an object"
        place[name] = value
    return found


def check_type(key: str, value: Any) -> None:
    """A field of ours has its ECS type; every other one is text under `labels`."""
    kind = KINDS.get(key)
    if kind is None:
        assert key.startswith("labels.")
        assert isinstance(value, str)
    elif kind == "long":
        assert type(value) is int
        assert -(2**63) <= value < 2**63
    elif kind == "ip":
        ipaddress.ip_address(value)
    elif kind == "date":
        datetime.strptime(value, "%Y-%m-%dT%H:%M:%S.%f%z")
    else:
        assert isinstance(value, str)


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Written]:
    before = (logging.root.handlers, logging.root.level, sys.excepthook, threading.excepthook)
    fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    logs.configure("tocsin-test", "DEBUG", fd)
    try:
        yield Written(tmp_path / "log", fd)
    finally:
        logging.captureWarnings(capture=False)
        logging.root.handlers, sys.excepthook, threading.excepthook = before[0], before[2], before[3]
        logging.root.setLevel(before[1])
        os.close(fd)


@pytest.fixture
def standard(written: Written) -> logging.Logger:
    """A logger of the standard library that writes to our handler, and that pytest does not know and listen to."""
    logger = logging.Logger("some.library")  # noqa: LOG001 - a registered one pytest would give its own handlers
    logger.handlers = written.handlers
    return logger


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Unshowable(Unprintable):
    def __repr__(self) -> str:
        raise RuntimeError("no text")


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def raised(error: BaseException) -> BaseException:
    with pytest.raises(type(error)) as caught:
        raise error
    return caught.value


def test_a_line_has_the_fields_that_every_line_has(written: Written) -> None:
    """Time, level, message, version, service and process are there, and nothing that nobody said."""
    before = datetime.now(UTC)
    structlog.get_logger().info("hello")
    line = written.line()
    moment = datetime.fromisoformat(line.pop("@timestamp"))
    assert abs((moment - before).total_seconds()) < 5
    assert {
        "log.level": "info",
        "message": "hello",
        "ecs.version": logs.ECS_VERSION,
        "service.name": "tocsin-test",
        "process.pid": os.getpid(),
    } == line


def test_our_own_fields_fit_together_as_ecs_nests_them() -> None:
    """No field of the table is a value where another needs an object."""
    nested(dict.fromkeys(KINDS, "x"))


@pytest.mark.parametrize(
    ("method", "level"),
    [
        ("debug", "debug"),
        ("info", "info"),
        ("warning", "warning"),
        ("error", "error"),
        ("critical", "critical"),
        ("exception", "error"),
    ],
)
def test_each_method_writes_its_level(written: Written, method: str, level: str) -> None:
    """The level is the one that was called."""
    getattr(structlog.get_logger(), method)("hello")
    assert level == written.line()["log.level"]


@pytest.mark.parametrize(("level", "expected"), [("DEBUG", 4), ("INFO", 3), ("WARNING", 2), ("ERROR", 1)])
def test_lines_below_the_level_are_not_written(written: Written, tmp_path: Path, level: str, expected: int) -> None:
    """The level of the settings holds for our logger and for those of the libraries."""
    with (tmp_path / "other").open("ab") as other:
        logs.configure("tocsin-test", level, other.fileno())
        for logger in (structlog.get_logger(), logging.getLogger("some.library")):
            for method in ("debug", "info", "warning", "error"):
                getattr(logger, method)("hello")
    assert 2 * expected == (tmp_path / "other").read_bytes().count(b"\n")
    assert b"" == written.raw()


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("http.response.status_code", 200, 200),
        ("http.response.status_code", "200", None),
        ("http.response.status_code", True, None),
        ("http.response.status_code", 200.0, None),
        ("event.duration", 2**63 - 1, 2**63 - 1),
        ("event.duration", 2**63, None),
        ("event.duration", -(2**63), -(2**63)),
        ("event.duration", -(2**63) - 1, None),
        ("http.response.body.bytes", None, None),
        ("client.ip", "127.0.0.1", "127.0.0.1"),
        ("client.ip", "2001:db8::1", "2001:db8::1"),
        ("event.action", "start", "start"),
        ("event.action", 5, "5"),
        ("event.outcome", True, "true"),
        ("event.reason", None, None),
        ("url.original", "/a?b=c", "/a?b=c"),
        ("user_agent.original", "", ""),
    ],
)
def test_a_field_has_its_ecs_type_or_is_left_out(written: Written, key: str, value: object, expected: object) -> None:
    """Numbers are numbers within 64 bits, text is text; what does not fit the type is not written."""
    structlog.get_logger().info("hello", **{key: value})
    assert expected == written.line().get(key)


@pytest.mark.parametrize(
    "value", ["-", "", " ", "127.0.0.1:80", "unix:", "localhost", "1.2.3", "::1 ", 5, True, b"\x7f\0\0\1", None]
)
def test_p22_an_address_that_is_none_is_left_out(written: Written, value: object) -> None:
    """`client.ip` is an IP address in text or is not there."""
    structlog.get_logger().info("hello", **{"client.ip": value})
    assert "client.ip" not in written.line()


@pytest.mark.parametrize("value", [["127.0.0.1"], {"a": 1}, {1}, bytearray(b"1")], ids=repr)
def test_p10_p22_an_address_that_cannot_be_hashed_is_left_out(written: Written, value: object) -> None:
    """A list where an address should be costs the field and not the call."""
    structlog.get_logger().info("hello", **{"client.ip": value})
    assert "client.ip" not in written.line()


@pytest.mark.parametrize(
    ("key", "place"),
    [
        ("error", "error.message"),
        ("url", "url.original"),
        ("logger", "log.logger"),
        ("host", "labels.host"),
        ("log", "labels.log"),
        ("service", "labels.service"),
        ("process", "labels.process"),
        ("source", "labels.source"),
        ("client", "labels.client"),
        ("target", "labels.target"),
        ("target.name", "labels.target_name"),
        ("message", "labels.message"),
        ("service.name", "labels.service_name"),
        ("process.pid", "labels.process_pid"),
        ("@timestamp", "labels.@timestamp"),
        ("ecs.version", "labels.ecs_version"),
        ("labels", "labels.labels"),
        ("labels.a", "labels.labels_a"),
        ("host.name", "labels.host_name"),
    ],
)
def test_p21_a_name_that_ecs_has_as_an_object_is_put_elsewhere(written: Written, key: str, place: str) -> None:
    """A natural name goes to its ECS field, and everything that we do not know to `labels`, as text."""
    structlog.get_logger().info("hello", **{key: "5"})
    line = written.line()
    assert "5" == line[place]
    assert key in KINDS or key not in line


@pytest.mark.parametrize(
    "value", [5, 2.5, True, {"a": {"b": 1}}, [1, 2], b"x", object, Unprintable(), [Unshowable()], float("nan"), 10**40]
)
@pytest.mark.parametrize("key", OBJECTS)
def test_p21_no_name_of_an_object_ever_holds_a_scalar(written: Written, key: str, value: object) -> None:
    """Whatever is put under the name of an ECS object, the line nests and every value has its type."""
    structlog.get_logger().bind(**{key: value}).info("hello")
    line = written.line()
    assert "hello" == line["message"]
    assert set(line) & set(OBJECTS) <= {"message", "@timestamp"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [(True, "true"), (False, "false"), (5, "5"), (2.5, "2.5"), ([1, "a"], "[1, 'a']"), ({"a": 1}, "{'a': 1}"), ("", "")],
)
def test_a_label_is_always_text(written: Written, value: object, expected: str) -> None:
    """One label has one type in every line, whatever was logged under it."""
    structlog.get_logger().info("hello", own=value)
    assert expected == written.line()["labels.own"]


def test_p10_a_number_too_long_to_print_is_named_by_its_type(written: Written) -> None:
    """Python refuses to print a number of thousands of digits: the line says what it was and leaves it at that."""
    structlog.get_logger().info(10**5000, own=-(10**5000), **{"event.duration": 10**5000, "client.ip": 10**5000})
    line = written.line()
    assert ("<int>", "<int>") == (line["message"], line["labels.own"])
    assert {"event.duration", "client.ip"}.isdisjoint(line)


def test_none_says_nothing(written: Written) -> None:
    """A value of None is as good as not given."""
    structlog.get_logger().info("hello", own=None, error=None)
    assert {"labels.own", "error.message"}.isdisjoint(written.line())


@pytest.mark.parametrize("key", ["", ".", "a..b", " "])
def test_p21_a_label_has_a_name(written: Written, key: str) -> None:
    """Elasticsearch refuses a line with a field whose name is empty: no such name is written."""
    structlog.get_logger().info("hello", **{key: "x"})
    assert "" not in [name.removeprefix("labels.").strip() for name in written.line()]


def test_an_exception_is_told_with_type_message_and_stack(written: Written) -> None:
    """`log.exception` inside `except` fills the three ECS fields."""
    try:
        dict[str, str]().pop("key")
    except KeyError:
        structlog.get_logger().exception("it broke")
    line = written.line()
    assert ("it broke", "error", "KeyError", "'key'") == (
        line["message"],
        line["log.level"],
        line["error.type"],
        line["error.message"],
    )
    assert line["error.stack_trace"].startswith("Traceback (most recent call last):\n")
    assert "test_logs.py" in line["error.stack_trace"]


def test_p11_p21_an_exception_beside_an_error_text_keeps_both(written: Written) -> None:
    """`error="..."` with an exception is no conflict: the exception has the field, the text a label."""
    structlog.get_logger().error("it broke", error="text", exc_info=raised(ValueError("bad")))
    line = written.line()
    assert ("ValueError", "bad", "text") == (line["error.type"], line["error.message"], line["labels.error_message"])


def test_p11_an_address_beside_its_ecs_field_keeps_both(written: Written) -> None:
    """`url` and `url.original` in one call are both told."""
    structlog.get_logger().info("hello", url="first", **{"url.original": "second"})
    line = written.line()
    assert {"first", "second"} == {line["url.original"], line["labels.url_original"]}


@pytest.mark.parametrize(
    "error", [UnprintableError(), ValueError("\ud800"), ValueError("a" * 20_000), ExceptionGroup("g", [OSError(5)])]
)
def test_p10_any_exception_is_told(written: Written, error: Exception) -> None:
    """An exception without a text, with half a character, a huge or a nested one is one line like others."""
    structlog.get_logger().error("it broke", exc_info=raised(error))
    assert type(error).__name__ == written.line()["error.type"]


@pytest.mark.parametrize(
    "given_info",
    [None, False, True, 0, "text", (), (None, None, None), (1,), [], {}, object()],
    ids=lambda value: type(value).__name__ + repr(value)[:8],
)
def test_p10_any_exc_info_is_a_line(written: Written, standard: logging.Logger, given_info: Any) -> None:
    """Where `exc_info` holds no exception the line has none, and the call does not fail for it."""
    structlog.get_logger().info("hello", exc_info=given_info)
    line = written.line()
    assert ("hello", False) == (line["message"], "error.type" in line)


def test_p10_an_empty_exc_info_of_the_standard_library_is_a_line(written: Written, standard: logging.Logger) -> None:
    """The same holds for the standard library's loggers."""
    standard.error("hello", exc_info=())  # type: ignore[arg-type]
    assert "hello" == written.line()["message"]


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda log: log.info("hello %s, %d", "you", 5), "hello you, 5"),
        (lambda log: log.info("100 %"), "100 %"),
        (lambda log: log.info("%d", "text"), "%d"),
        (lambda log: log.info(*("%s %s", "one")), "%s %s"),
        (lambda log: log.info(*("none", "more")), "none"),
        (lambda log: log.info("%s", Unprintable()), "%s"),
        (lambda log: log.info(Unprintable()), "<Unprintable>"),
        (lambda log: log.info({"a": 1}), "{'a': 1}"),
        (lambda log: log.info(None), "None"),
        (lambda log: log.info("\ud800"), "\\ud800"),
    ],
)
def test_p10_any_call_of_the_standard_library_is_a_line(
    written: Written, standard: logging.Logger, call: Callable[[logging.Logger], None], expected: str
) -> None:
    """What a library logs arrives, even when its arguments do not fit or cannot be printed."""
    call(standard)
    line = written.line()
    assert (expected, "info", "some.library") == (line["message"], line["log.level"], line["log.logger"])


def test_a_library_gives_the_same_line_as_we_do(written: Written, standard: logging.Logger) -> None:
    """Both ways have the same fields for the same event, the exception among them."""
    error = raised(ValueError("bad"))
    structlog.get_logger().error("it broke", exc_info=error, logger="some.library")
    ours = written.line()
    standard.error("it broke", exc_info=error)
    theirs = written.line()
    assert ours | {"@timestamp": theirs["@timestamp"]} == theirs


def test_what_is_bound_to_the_context_is_in_every_line(written: Written, standard: logging.Logger) -> None:
    """The id of a request stands in our lines and in those of the libraries, until it is cleared."""
    with structlog.contextvars.bound_contextvars(**{"http.request.id": "r1", "own": 5}):
        structlog.get_logger().info("ours")
        standard.info("theirs")
    standard.info("after")
    ours, theirs, after = written.lines()
    assert ("r1", "5") == (ours["http.request.id"], ours["labels.own"])
    assert ("r1", "5") == (theirs["http.request.id"], theirs["labels.own"])
    assert "http.request.id" not in after


@pytest.mark.parametrize("key", ["event", "level", "logger", "exc_info", "error"])
@pytest.mark.parametrize("value", ["bound", Unprintable(), ()], ids=["text", "unprintable", "tuple"])
def test_p10_nothing_bound_to_the_context_replaces_what_a_library_said(
    written: Written, standard: logging.Logger, key: str, value: object
) -> None:
    """A name bound to the context that is one of ours neither breaks the line nor takes the message's place."""
    with structlog.contextvars.bound_contextvars(**{key: value}):
        standard.warning("theirs")
    line = written.line()
    assert ("theirs", "warning", "some.library") == (line["message"], line["log.level"], line["log.logger"])


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\x0b", "\x85", "\u2028", "\0"])
def test_p8_no_newline_makes_a_second_line(written: Written, standard: logging.Logger, end: str) -> None:
    """A line that a client forged in a path, a key or a header stays inside the one that it came in."""
    forged = f'/path{end}{{"message":"forged","log.level":"error"}}'
    structlog.get_logger().info(forged, **{"url.original": forged, "own": forged, f"key{end}x": "x"})
    line = written.line()
    assert (forged, forged, forged) == (line["message"], line["url.original"], line["labels.own"])
    standard.info(forged)
    assert forged == written.line()["message"]


@pytest.mark.parametrize("text", ['"', "\\", "\t", '","message":"forged', "%0a", "\x1b[31m", "\x7f", "é😀", "%s %(x)s {x}"])
def test_p8_any_character_arrives_as_it_was(written: Written, text: str) -> None:
    """Quotes, backslashes, control characters and format signs change nothing about the line."""
    structlog.get_logger().info(text, own=text)
    line = written.line()
    assert (text, text) == (line["message"], line["labels.own"])


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\udcff" * 50])
def test_p9_p10_half_a_character_is_written_out(written: Written, text: str) -> None:
    """What UTF-8 cannot hold is spelt out, in the message, in a value and in a key, and the line is valid UTF-8."""
    structlog.get_logger().info(text, own=text, **{f"k{text}": "x"})
    spelt = text.encode("utf-8", "backslashreplace").decode()
    line = written.line()
    assert (spelt, spelt, "x") == (line["message"], line["labels.own"], line[f"labels.k{spelt}"])


@pytest.mark.parametrize(
    ("length", "cut"),
    [(1, False), (3000, False), (4000, True), (6000, True), (20_000, True), (1_000_000, True)],
)
@pytest.mark.parametrize("character", ["a", "\\", "é", "😀", "\0"])
def test_p12_a_long_text_is_cut_and_says_by_how_much(written: Written, length: int, cut: bool, character: str) -> None:
    """A line stays below what a pipe takes in one piece, and what was cut is counted in its place."""
    length = length if cut else length // len(json.dumps(character, ensure_ascii=False).encode())
    structlog.get_logger().info(character * length)
    message = written.line()["message"]
    kept = message.count(character) if character != "a" else len(message) - len(message.lstrip("a"))
    if cut:
        assert message == f"{character * kept}…[{length - kept} characters cut]"
        assert kept > 200
    else:
        assert character * length == message


def test_p12_as_much_is_kept_as_a_line_can_hold(written: Written) -> None:
    """A cut line is not much shorter than it must be."""
    structlog.get_logger().info("a" * 20_000)
    assert len(written.raw()) > 0.9 * logs.LONGEST


def test_p12_a_long_stack_keeps_its_end(written: Written) -> None:
    """The last lines of a stack say what happened: the cut is at its beginning."""

    def deep(level: int) -> None:
        if level == 0:
            raise ValueError("the cause")
        (deep if level % 2 else lambda n: deep(n))(level - 1)  # noqa: PLW0108

    try:
        deep(200)
    except ValueError:
        structlog.get_logger().exception("it broke")
    line = written.line()
    assert line["error.stack_trace"].startswith("[")
    assert " characters cut]…" in line["error.stack_trace"]
    assert line["error.stack_trace"].endswith("ValueError: the cause\n")
    assert "it broke" == line["message"]


def test_p12_the_longest_text_is_cut_and_the_others_stay(written: Written) -> None:
    """One huge value does not cost the rest of the line."""
    structlog.get_logger().info("hello", body="x" * 20_000, **{"http.request.id": "r1", "url.original": "/short"})
    line = written.line()
    assert ("hello", "r1", "/short") == (line["message"], line["http.request.id"], line["url.original"])
    assert line["labels.body"].endswith(" characters cut]")


def test_p12_hundreds_of_labels_are_counted_and_left_out(written: Written) -> None:
    """Where no single value is long, the labels go, and the line says how many they were."""
    structlog.get_logger().info("hello", **{f"k{number}": "v" * 70 for number in range(200)}, **{"http.request.id": "r1"})
    line = written.line()
    assert ("hello", "r1", "200 labels") == (line["message"], line["http.request.id"], line["labels.cut"])


@pytest.mark.parametrize("character", ["x", "é", "😀", "\0"])
def test_p12_all_fields_full_at_once_are_still_a_short_line(written: Written, character: str) -> None:
    """Where every field is as long as it may stay, the line fits all the same."""
    texts = {key: character * 80 for key, kind in KINDS.items() if kind in {"keyword", "text"}}
    structlog.get_logger().info(character * 80, **texts)
    assert written.line()["message"]


def test_p12_a_long_key_is_cut(written: Written) -> None:
    """A name is no place for a text of thousands of characters."""
    structlog.get_logger().info("hello", **{"k" * 5000: "x"})
    (label,) = [key for key in written.line() if key.startswith("labels.")]
    assert len(label) < 200


WRITER = """
import sys
from service import logs
import structlog
logs.configure("tocsin-test", "INFO", 1)
for number in range(200):
    structlog.get_logger().info(sys.argv[1] * 6144, number=number)
"""


def test_p12_several_processes_write_whole_lines_to_one_pipe() -> None:
    """Four processes that each write 6 KB messages to the same pipe never tear a line of another."""
    read, write = os.pipe()
    command = [sys.executable, "-c", WRITER]
    writers = [subprocess.Popen([*command, name], cwd=CHECKOUT, stdout=write, stderr=subprocess.PIPE) for name in "abcd"]
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        lines = [json.loads(line) for line in pipe]
    assert [b""] * 4 == [writer.communicate()[1] for writer in writers]
    found = sorted((line["message"][0], int(line["labels.number"])) for line in lines)
    assert [(name, number) for name in "abcd" for number in range(200)] == found
    assert all(set(line["message"].partition("…")[0]) == {line["message"][0]} for line in lines)


@pytest.mark.parametrize("close", [True, False], ids=["closed", "broken"])
def test_p10_a_pipe_that_is_gone_costs_the_line_and_not_the_caller(written: Written, close: bool) -> None:
    """Nobody reads any more: the call returns."""
    read, write = os.pipe()
    os.close(read)
    if close:
        os.close(write)
    logs.configure("tocsin-test", "INFO", write)
    structlog.get_logger().info("hello")
    logging.getLogger("some.library").info("hello")
    if not close:
        os.close(write)


def test_a_process_that_was_forked_tells_its_own_id(written: Written) -> None:
    """The workers of a server inherit the logger, not the number of their parent."""
    log = structlog.get_logger()
    log.info("parent")
    child = os.fork()
    if child == 0:
        log.info("child")
        os._exit(0)
    os.waitpid(child, 0)
    assert [os.getpid(), child] == [line["process.pid"] for line in written.lines()]


STRANGERS = {
    "standard library": ("import logging; logging.getLogger('lib').warning('hello %s', 'you')", "hello you", "warning"),
    "standard library, root": ("import logging; logging.error('hello')", "hello", "error"),
    "warning": ("import warnings; warnings.warn('old', DeprecationWarning, stacklevel=1)", "DeprecationWarning: old", "warning"),
    "uncaught": ("raise ValueError('bad')", "uncaught exception", "critical"),
    "uncaught in a thread": (
        "import threading; t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join()",
        "uncaught exception",
        "critical",
    ),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_what_others_say_is_the_same_json(name: str) -> None:
    """Libraries, warnings and uncaught exceptions give one such line, and nothing goes to standard error."""
    code, message, level = STRANGERS[name]
    code = f"from service import logs\nlogs.configure('tocsin-test')\n{code}"
    finished = subprocess.run(
        [sys.executable, "-W", "always", "-c", code], cwd=CHECKOUT, capture_output=True, timeout=30, check=False
    )
    assert b"" == finished.stderr
    (line,) = [json.loads(text) for text in finished.stdout.splitlines()]
    nested(line)
    for key, value in line.items():
        check_type(key, value)
    assert message in line["message"]
    assert (level, "tocsin-test") == (line["log.level"], line["service.name"])
    assert ("uncaught" in name) == ("error.stack_trace" in line)


@pytest.mark.parametrize(
    "code",
    [
        "import sys; sys.exit(3)",
        "import sys, threading; t = threading.Thread(target=sys.exit); t.start(); t.join(); sys.exit(3)",
    ],
    ids=["process", "thread"],
)
def test_an_exit_on_purpose_is_no_uncaught_exception(code: str) -> None:
    """`sys.exit`, in the process or in one of its threads, is logged nowhere, as Python itself does not tell it."""
    code = f"from service import logs\nlogs.configure('tocsin-test')\n{code}"
    finished = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, timeout=30, check=False)
    assert (3, b"", b"") == (finished.returncode, finished.stdout, finished.stderr)


def test_p13_a_line_is_written_once(written: Written) -> None:
    """A logger below others hands its line up, and it is still one line."""
    logging.getLogger("gunicorn.access").info("hello")
    logging.getLogger("a.b.c").info("hello")
    assert 2 == len(written.lines())


def test_p13_configuring_twice_writes_once(written: Written, tmp_path: Path) -> None:
    """The last one to configure owns the output."""
    with (tmp_path / "other").open("ab") as other:
        logs.configure("tocsin-test", "INFO", other.fileno())
        logging.getLogger("lib").info("hello")
        structlog.get_logger().info("hello")
    assert b"" == written.raw()
    assert 2 == (tmp_path / "other").read_bytes().count(b"\n")


TEXT = st.text(st.characters(exclude_categories=()))
LONG = st.builds(
    lambda text, times: text * times, st.text(st.characters(exclude_categories=()), min_size=1, max_size=5), st.integers(1, 5000)
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**63 - 1)
    | st.floats()
    | st.binary()
    | st.datetimes()
    | TEXT
    | LONG
    | st.builds(Unprintable)
    | st.builds(UnprintableError)
    | st.builds(ValueError, TEXT),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3) | st.tuples(inner, inner),
)
# Structlog's own `self` cannot be a name; every other text can.
NAMES = st.sampled_from([*OBJECTS, *KINDS, "level", "logger", "exc_info", "stack_info"])
KEYS = (NAMES | st.text(st.characters(exclude_categories=()), min_size=1, max_size=20)).filter(lambda key: key != "self")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None, max_examples=300)
@given(message=VALUES, fields=st.dictionaries(KEYS, VALUES, max_size=8))
@example(message="x" * 20_480, fields={"a": "\ud800" * 20_480, "b": "\0" * 20_480, "error": Unprintable()})
@example(message=2**64, fields={"http.response.status_code": 2**64, "event.duration": -(2**64), "a": 2**64})
def test_p8_p10_p12_any_call_is_one_valid_short_line(written: Written, message: object, fields: dict[str, Any]) -> None:
    """Whatever is logged under whatever names: one line, valid UTF-8 and JSON, with ECS types, below 4096 bytes."""
    structlog.get_logger().bind(**fields).info(message)
    assert "info" == written.line()["log.level"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@given(message=VALUES, arguments=st.lists(VALUES, max_size=3))
@example(message="%d", arguments=["x"])
def test_p10_p12_any_call_of_a_library_is_one_valid_short_line(
    written: Written, standard: logging.Logger, message: object, arguments: list[Any]
) -> None:
    """The same holds for what comes through the standard library, whatever its arguments are."""
    standard.info(message, *arguments)
    assert "some.library" == written.line()["log.logger"]


def test_urllib3_does_not_log_the_paths_it_asks_for(written: Written) -> None:
    """At DEBUG too: the path of a webhook may be its key."""
    logging.getLogger("urllib3.connectionpool").debug("POST /services/SECRET")
    structlog.get_logger().info("after")

    assert "after" == written.line()["message"]
