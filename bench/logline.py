"""A line with every field that the access log writes, against the least that a line can cost, and against others' loggers.

All write the same fields to the same pipe, which `cat` reads, as supervisord and Docker read ours; what is told is the time of
this process alone on the processor. Ours is `structlog.get_logger().info(...)` as service.logs configures it.
"""

import json
import logging
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import ecs_logging
import orjson
import structlog
from pythonjsonlogger.json import JsonFormatter

from bench.result import Row, Size
from service import logs

LINES = 5000  # for each second of load
SERVICE = "tocsin-web"
# Of a request that came with `traceparent`: what is bound for all its lines, and what its access log says.
BOUND = {
    "http.request.id": "f1e3631d4a87f6552d07728bd630d855",
    "trace.id": "0af7651916cd43dd8448eb211c80319c",
    "span.id": "b7ad6b7169203331",
}
MESSAGE = "GET /api/v1/alerts 200"
SAID = {
    "event.dataset": "tocsin.access",
    "event.category": "web",
    "event.duration": 1234567,
    "http.request.method": "GET",
    "http.request.referrer": "https://example.org/",
    "http.response.status_code": 200,
    "http.response.body.bytes": 743,
    "url.original": "/api/v1/alerts?state=firing",
    "client.ip": "192.0.2.7",
    "user_agent.original": "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0",
}
MISSED = (
    "Tried: no chain of processors, types looked up once, the second's text kept, no context manager around the write. It took a "
    "third off. What stands in the way: the call through structlog and what is bound to the context take 2.8 µs, twice what "
    "the other side takes in all; then each field's name and type are looked at, which keeps Elasticsearch from dropping a line."
)
Say = Callable[[], object]


def bench(size: Size) -> Iterator[Row]:
    # In a process of its own: `configure` changes the whole of it.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        found = pool.submit(measured, size.rounds, int(LINES * size.seconds)).result()
    for name, goal in GOALS.items():
        missed = MISSED if goal > 1 else ""
        yield Row("a log line with the full ECS set", name, "µs", found["ours"], found[name], most=goal, missed=missed)


def measured(rounds: int, lines: int) -> dict[str, list[float]]:
    """Microseconds of a line, in each round, of ours and of each other."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as reader:
        assert reader.stdin
        writers = {name: writer(reader.stdin.fileno()) for name, writer in WRITERS.items()}
        found: dict[str, list[float]] = {name: [] for name in writers}
        for _ in range(rounds):
            for name, say in writers.items():
                found[name].append(_cost(say, lines))
        reader.stdin.close()
    return found


def _cost(say: Say, lines: int) -> float:
    for _ in range(lines // 10):
        say()
    began = time.process_time()
    for _ in range(lines):
        say()
    return 1e6 * (time.process_time() - began) / lines


def _ours(fd: int) -> Say:
    logs.configure(SERVICE, fd=fd)
    structlog.contextvars.bind_contextvars(**BOUND)
    log = structlog.get_logger()
    return lambda: log.info(MESSAGE, **SAID)


def _least(fd: int) -> Say:
    """What ours writes, without saying it: as if it had been a dict from the beginning."""
    read, write = os.pipe()
    _ours(write)()
    line = json.loads(os.read(read, 4096))
    os.close(read)
    os.close(write)
    logs.configure(SERVICE, fd=fd)
    return lambda: os.write(fd, orjson.dumps(line) + b"\n")


def _ecs(fd: int) -> Say:
    """As its documentation has it, and what is bound to the context besides."""
    log = structlog.wrap_logger(
        structlog.PrintLogger(os.fdopen(fd, "w", encoding="utf-8", closefd=False)),
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            ecs_logging.StructlogFormatter(),  # type: ignore[list-item]  # it says dict where structlog says mapping
        ],
        wrapper_class=structlog.BoundLogger,
        context_class=dict,
        cache_logger_on_first_use=True,
    )
    about = {"service.name": SERVICE, "process.pid": os.getpid()}
    return lambda: log.info(MESSAGE, **about, **SAID)


def _json_logger(fd: int) -> Say:
    handler = logging.StreamHandler(os.fdopen(fd, "w", encoding="utf-8", closefd=False))
    handler.setFormatter(
        JsonFormatter(
            "%(levelname)s %(message)s %(process)d",
            rename_fields={"levelname": "log.level", "process": "process.pid"},
            static_fields={"ecs.version": logs.ECS_VERSION, "service.name": SERVICE},
            timestamp="@timestamp",
        )
    )
    log = logging.Logger("bench", logging.INFO)  # noqa: LOG001 - of its own, below no other
    log.addHandler(handler)
    return lambda: log.info(MESSAGE, extra={**BOUND, **SAID})


WRITERS: dict[str, Callable[[int], Say]] = {
    "orjson.dumps of the same dict and one os.write": _least,
    "structlog with ecs-logging": _ecs,
    "python-json-logger": _json_logger,
    "ours": _ours,
}
GOALS = dict(zip(WRITERS, (3.0, 1 / 3, 1 / 1.5), strict=False))
