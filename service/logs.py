"""One JSON object a line, with ECS field names and types, from every process and every logger.

A log call never raises and never writes a line that Elasticsearch would drop: what has no place in ECS goes under
`labels`, what has the wrong type is left out or turned into text, and a line stays below 4096 bytes, which is
what Linux writes to a pipe in one piece (pipe(7), PIPE_BUF).
The fields and their types: `fields`.
"""

import contextlib
import functools
import ipaddress
import logging
import os
import sys
import threading
import time
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import orjson
import structlog

from service.fields import KINDS

LONGEST = 4000  # bytes; the rest of 4096 is the newline and room for who reads it
ECS_VERSION = "8.11.0"
_LONGEST_KEY = 100
_SHORTEST = 80  # characters that are left of a text however much there is
_FIRST = ("@timestamp", "log.level", "message", "ecs.version", "service.name", "process.pid", "http.request.id")

# A name that a caller would naturally use, and that ECS has as an object: where its text belongs instead.
_RENAMED = {"event": "message", "level": "log.level", "logger": "log.logger", "error": "error.message", "url": "url.original"}
_LONG = range(-(2**63), 2**63)
_TYPES = {name: int if kind == "long" else str for name, kind in KINDS.items() if kind != "ip"}  # such a value needs no more


def configure(service: str, level: str = "INFO", fd: int = 1) -> None:
    """Make structlog, the standard library's loggers, warnings and uncaught exceptions all write such lines to `fd`."""
    _OUTPUT.service, _OUTPUT.fd = service, fd
    number = logging.getLevelNamesMapping()[level]
    structlog.configure(
        processors=[],
        wrapper_class=type("Own", (Own, structlog.make_filtering_bound_logger(number)), {}),
        logger_factory=lambda *_: _OUTPUT,
        cache_logger_on_first_use=True,
    )
    logging.root.handlers = [Foreign(_OUTPUT)]
    logging.root.setLevel(number)
    # At DEBUG it logs the path of every request it makes, and a webhook's path may be its key.
    logging.getLogger("urllib3").setLevel(max(number, logging.INFO))
    logging.captureWarnings(capture=True)
    sys.excepthook = _uncaught
    sys.unraisablehook = _unraisable
    threading.excepthook = lambda args: None if args.exc_type is SystemExit else _uncaught(args.exc_type, args.exc_value, None)


def _unraisable(args: Any) -> None:
    with contextlib.suppress(MemoryError):  # no memory for a line about it: Python would say so in its own words
        _uncaught(args.exc_type, args.exc_value, None)


class Output:
    """Makes a line of what was said and writes it with one system call.

    A full disk or a closed pipe costs the line, never the caller.
    """

    def __init__(self, service: str, fd: int) -> None:
        self.service, self.fd = service, fd

    def tell(self, level: str, said: dict[str, Any]) -> None:
        """`said` is what structlog calls an event dict; it is used up."""
        said.pop("level", None)
        line: dict[str, Any] = {
            "@timestamp": _timestamp(time.time()),
            "log.level": level,
            "message": _text(said.pop("event", "")),
            "ecs.version": ECS_VERSION,
            "service.name": self.service,
            "process.pid": os.getpid(),  # asked each time: gunicorn's workers inherit this object by fork
        }
        if exception := _exception(said.pop("exc_info", None)):
            line |= _described(exception)
        for key, value in said.items():
            kind = type(value)
            if kind is _TYPES.get(key) and key not in line and (kind is str or value in _LONG):  # nearly all of them
                line[key] = value
            elif value is not None:  # which says nothing
                _place(line, key, value)
        encoded = _encoded(line) + b"\n"
        try:  # noqa: SIM105 - `suppress` would cost a tenth of the line
            os.write(self.fd, encoded)
        except OSError:
            pass


class Own(structlog.BoundLoggerBase):
    """What structlog.get_logger() gives: straight to the output, as a chain of processors costs more than the line."""

    def _proxy_to_logger(self, method_name: str, event: Any = None, **said: Any) -> None:
        said = {**structlog.contextvars.get_contextvars(), **self._context, **said}
        if event is not None:
            said["event"] = event
        self._logger.tell(method_name, said)


class Foreign(logging.Handler):
    """Takes what gunicorn, Flask, urllib3 and the rest say to `logging`, to the same output."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - arguments that do not fit the format, or whose __str__ fails
            message = _text(record.msg)
        said = structlog.contextvars.get_contextvars()
        said.update(event=message, logger=record.name, exc_info=record.exc_info)
        self._output.tell(record.levelname.lower(), said)


# One for a process. Loggers keep it once used, so `configure` changes it in place.
_OUTPUT = Output("tocsin", 1)


def _timestamp(now: float) -> str:
    second = int(now)
    return f"{_second(second)}.{int((now - second) * 1000):03d}Z"


@functools.lru_cache(maxsize=1)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat()[:-6]


def _place(line: dict[str, Any], key: str, value: Any) -> None:
    """Put one value where ECS has a place for it and its type, else under `labels`."""
    key = _RENAMED.get(key, key)
    kind = KINDS.get(key)
    if kind is None or key in line:
        name = _text(key).replace(".", "_").strip()[:_LONGEST_KEY]
        line[f"labels.{name or 'unnamed'}"] = _text(value)
    elif kind == "long":
        if type(value) is int and value in _LONG:
            line[key] = value
    elif kind == "ip":
        if isinstance(value, str) and _is_ip(value):
            line[key] = value
    else:
        line[key] = _text(value)


def _text(value: Any) -> str:
    if type(value) is str:
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - whatever a stranger's __str__ raises
        return f"<{type(value).__name__}>"


@functools.lru_cache(maxsize=1024)
def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _exception(given: Any) -> BaseException | None:
    if isinstance(given, tuple):
        given = given[1] if len(given) > 1 else None
    elif given is True:
        given = sys.exc_info()[1]
    return given if isinstance(given, BaseException) else None


def _described(exception: BaseException) -> dict[str, str]:
    try:
        stack = "".join(traceback.format_exception(exception))
    except Exception:  # noqa: BLE001 - an exception whose own __str__ fails
        stack = ""
    return {"error.type": type(exception).__name__, "error.message": _text(exception), "error.stack_trace": stack}


def _encoded(line: dict[str, Any]) -> bytes:
    try:
        encoded = orjson.dumps(line)
    except TypeError:  # a lone surrogate: no UTF-8 has it
        line = {_writable(key): _writable(value) if isinstance(value, str) else value for key, value in line.items()}
        encoded = orjson.dumps(line)
    return encoded if len(encoded) <= LONGEST else _shortened(line, encoded)


def _shortened(line: dict[str, Any], encoded: bytes) -> bytes:
    """Cut the text that takes most room, again and again until the line fits, and say in its place how much is gone."""
    whole = {key: value for key, value in line.items() if isinstance(value, str)}
    kept = {key: len(value) for key, value in whole.items()}
    while len(encoded) > LONGEST:
        room = {key: len(orjson.dumps(line[key])) for key in whole if kept[key] > _SHORTEST}
        if not room:
            break
        key = max(room, key=room.__getitem__)
        # What is over goes in proportion, as a character may take six bytes; 40 are for saying so.
        share = max(0.0, 1 - (len(encoded) - LONGEST + 40) / room[key])
        kept[key] = max(_SHORTEST, min(int(kept[key] * share), kept[key] - 1))
        line[key] = _cut(key, whole[key], kept[key])
        encoded = orjson.dumps(line)
    if len(encoded) <= LONGEST:
        return encoded
    # Many short values: the labels go, and if that is not enough all but what the line is about.
    few = {key: value for key, value in line.items() if not key.startswith("labels.")}
    encoded = orjson.dumps(few | {"labels.cut": f"{len(line) - len(few)} labels"})
    if len(encoded) <= LONGEST:
        return encoded
    few = {key: line[key] for key in _FIRST if key in line}
    few["message"] = _cut("message", whole["message"], min(len(whole["message"]), 200))
    return orjson.dumps(few | {"labels.cut": f"{len(line) - len(few)} fields"})


def _cut(key: str, text: str, keep: int) -> str:
    if keep >= len(text):
        return text
    said = f"[{len(text) - keep} characters cut]"
    # A stack is told by its end.
    return f"{said}…{text[-keep:]}" if key == "error.stack_trace" else f"{text[:keep]}…{said}"


def _writable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _uncaught(kind: type[BaseException], error: BaseException | None, _: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    structlog.get_logger().critical("uncaught exception", exc_info=error)
