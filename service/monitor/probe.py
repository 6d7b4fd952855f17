"""Targets -> samples, all at once and each within its time."""

import math
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson
import structlog

from service.configuration import Target
from service.measure import METRICS
from service.monitor.exchange import Answer, Client, Exhausted, Unreachable
from service.monitor.room import take_files

_log = structlog.get_logger()
LONGEST_ANSWER = 262_144  # bytes
MOST_AT_ONCE = 64
OTHER_FILES = 256  # that this process has open besides kept connections: those in use, the database, receivers, jobs
_SPARE = 0.5  # seconds past a target's time until it is given up, for a name that does not resolve in time
_UNITS = {**METRICS, "up": "", "http_status": "", "latency_ms": "milliseconds"}


@dataclass(frozen=True)
class Sample:
    """One value of one target. `labels` tell apart what one target has several of; `reason` is why it is not up."""

    target: str
    metric: str
    value: float | None  # None: missing, for absent()
    unit: str = ""
    scope: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""


class Prober:
    """Asks the same targets again and again over kept connections."""

    def __init__(self, targets: Iterable[Target]) -> None:
        self._targets = tuple(targets)
        self._clients = {target.name: Client() for target in self._targets}
        # Each kept connection is an open file. Whoever may not have so many makes some of them anew each time.
        files = take_files(len(self._targets) + OTHER_FILES) - OTHER_FILES
        self._kept = frozenset(target.name for target in self._targets[: max(0, files)])
        self._threads = ThreadPoolExecutor(min(MOST_AT_ONCE, len(self._targets)) or 1, thread_name_prefix="probe")
        self._running: dict[str, Future[list[Sample]]] = {}

    def probe(self) -> list[Sample]:
        """Samples of every target, within the longest time one of them has, for each MOST_AT_ONCE of them."""
        for target in self._targets:
            if target.name not in self._running:
                self._running[target.name] = self._threads.submit(self._ask, target)
        wait(self._running.values(), timeout=self.longest)
        samples: list[Sample] = []
        for target in self._targets:
            if self._running[target.name].done():
                samples += self._running.pop(target.name).result()
            else:
                samples += down(target, f"no complete answer within {target.timeout:g} s")
        return samples

    def _ask(self, target: Target) -> list[Sample]:
        client = self._clients[target.name]
        try:
            return ask(target, client)
        finally:
            if target.name not in self._kept:
                client.close()

    @property
    def longest(self) -> float:
        """Seconds that `probe` takes at most."""
        rounds = math.ceil(len(self._targets) / MOST_AT_ONCE)
        return rounds * max((target.timeout for target in self._targets), default=0.0) + _SPARE

    def close(self) -> None:
        """End the connections; one that is in use, with its request."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for name, client in self._clients.items():
            if name in self._running:
                self._running[name].add_done_callback(partial(_closed, client))
            else:
                client.close()


def _closed(client: Client, _: Future[list[Sample]]) -> None:
    client.close()


def ask(target: Target, client: Client) -> list[Sample]:
    """One target's samples; whatever it does, at least `up`. Raises Exhausted, as a fault here is none of its own."""
    try:
        answer = client.ask("GET", target.url.get_secret_value(), timeout=target.timeout, limit=LONGEST_ANSWER)
    except Exhausted:
        raise
    except Unreachable as error:
        return down(target, str(error))
    try:
        return judged(target, answer)
    except Exception:  # noqa: BLE001 - whatever it sends, it must not end the monitor
        _log.exception("a target's answer cannot be read", target=target.name)
        return down(target, "its answer cannot be read")


def down(target: Target, reason: str) -> list[Sample]:
    return [Sample(target.name, "up", 0.0, reason=reason)]


def judged(target: Target, answer: Answer) -> list[Sample]:
    """What an answer says: up or not and why, its status and time, and the readings in it."""
    expected = answer.status in target.expect if target.expect else 200 <= answer.status < 300
    reason = "" if expected else f"it answered {answer.status}"
    if not expected and 300 <= answer.status < 400:
        reason += ", a redirect; name the address it leads to"
    if answer.cut:
        reason = f"its answer is longer than {LONGEST_ANSWER} bytes"
    return [
        Sample(target.name, "up", 0.0 if reason else 1.0, reason=reason),
        Sample(target.name, "http_status", float(answer.status)),
        Sample(target.name, "latency_ms", round(answer.seconds * 1000, 1), "milliseconds"),
        *(readings(target.name, answer.body) if target.readings and not answer.cut else ()),
    ]


def readings(target: str, body: bytes) -> list[Sample]:
    """The checks of a Tocsin's /api/health; nothing for any other body."""
    try:
        document: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return []
    checks = document.get("checks") if isinstance(document, dict) else None
    samples = {}
    for name, check in checks.items() if isinstance(checks, dict) else ():
        if not isinstance(check, dict):
            continue
        metric, value = check.get("metric", name), check.get("value")
        scope, mount = check.get("scope"), check.get("mount")
        if not isinstance(metric, str) or metric not in METRICS:
            continue
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            labels = {"mount": mount} if isinstance(mount, str) else {}
            sample = Sample(target, metric, float(value), METRICS[metric], scope if isinstance(scope, str) else "", labels)
            samples[metric, labels.get("mount")] = sample
    return list(samples.values())
