"""From the crossing of a threshold to the webhook: ours beside Prometheus with Alertmanager, every interval a second.

Both watch the same gauges, and every crossing is seen by both. Each gauge is a target, a rule and an alert of its own, and
crosses once: at which moment of its second Prometheus asks a target and evaluates a group is a hash of their names, so many
of them are fairer than one. The crossings are spread over the second for the same reason. No rule has a `for`, and
Alertmanager's group_wait is 0: their best.
"""

import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import mean

import orjson

from bench import peers
from bench.result import Row, Size
from tests.answering import Answering, answering
from tests.receiver import Receiver, receiving
from tests.stack import BIN, eventually, process

CROSSINGS = 9  # in one round
CALM, HIGH = 10.0, 95.0  # percent; the threshold lies between


def show(served: Answering, number: int, value: float) -> None:
    """What a gauge says, to Tocsin and to Prometheus."""
    served.answers[f"/{number}/api/health"] = 200, orjson.dumps({"checks": {"cpu_usage": {"value": value, "scope": "host"}}})
    served.answers[f"/{number}/metrics"] = 200, f"cpu_usage {value}\n".encode()


def was_asked(served: Answering, count: int, path: str) -> bool:
    """For every gauge."""
    return {f"/{number}/{path}" for number in range(count)} <= {asked for asked, _ in served.asked}


@contextmanager
def tocsin(served: Answering, count: int, webhook: str) -> Iterator[None]:
    """Our monitor."""
    targets = [{"name": f"gauge{number}", "url": f"{served.url}/{number}/api/health"} for number in range(count)]
    rules = [{"alert": f"High{number}", "when": "cpu_usage > 80", "targets": [f"gauge{number}"]} for number in range(count)]
    configuration = {"interval": "1s", "targets": targets, "rules": rules, "receivers": [{"name": "ops", "webhook": webhook}]}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "monitor.yaml").write_bytes(orjson.dumps(configuration))
        environment = {"TOCSIN_CONFIG": f"{folder}/monitor.yaml", "TOCSIN_DATA": name}
        with process([BIN / "tocsin", "monitor"], environment, folder / "log"):
            eventually(lambda: was_asked(served, count, "api/health"), "Tocsin has asked every target")
            yield


@contextmanager
def prometheus(served: Answering, count: int, webhook: str) -> Iterator[None]:
    """Prometheus, and Alertmanager to which it tells its alerts."""
    route = {"receiver": "ops", "group_by": ["..."], "group_wait": "0s", "group_interval": "1s", "repeat_interval": "1h"}
    told = {"route": route, "receivers": [{"name": "ops", "webhook_configs": [{"url": webhook}]}]}
    with peers.alertmanager(orjson.dumps(told).decode()) as manager:
        targets, managers = ([{"targets": [url.removeprefix("http://")]}] for url in (served.url, manager.url))
        configuration = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yml"],
            "scrape_configs": [
                {"job_name": f"gauge{number}", "metrics_path": f"/{number}/metrics", "static_configs": targets}
                for number in range(count)
            ],
            "alerting": {"alertmanagers": [{"static_configs": managers}]},
        }
        groups = [
            {"name": f"group{number}", "rules": [{"alert": f"High{number}", "expr": f'cpu_usage{{job="gauge{number}"}} > 80'}]}
            for number in range(count)
        ]
        rules = {"rules.yml": orjson.dumps({"groups": groups}).decode()}
        with peers.prometheus(orjson.dumps(configuration).decode(), rules) as running:
            eventually(lambda: was_asked(served, count, "metrics"), "Prometheus has asked every target")
            eventually(lambda: '"unknown"' not in running.get("/api/v1/rules").text, "Prometheus has evaluated every rule")
            yield


def cross(served: Answering, numbers: Sequence[int]) -> dict[int, float]:
    """Let these gauges cross, one after the other at moments spread over the second; when each did."""
    began, crossed = time.time(), {}
    for place, number in enumerate(numbers):
        due = began + place * (1 + 1 / len(numbers)) + random.random() / len(numbers)
        time.sleep(max(0.0, due - time.time()))
        crossed[number] = time.time()
        show(served, number, HIGH)
    return crossed


def delay(receiver: Receiver, crossed: Mapping[int, float]) -> float:
    """The mean of the seconds until the receiver was told of each."""

    def told(number: int) -> float | None:
        return next((request.at for request in receiver.requests if b'"High%d"' % number in request.body), None)

    return mean(eventually(partial(told, number), f"High{number} is told") - at for number, at in crossed.items())


def bench(size: Size) -> Iterator[Row]:
    each = max(1, round(CROSSINGS * size.largest))
    count = size.rounds * each
    ours: list[float] = []
    theirs: list[float] = []
    with answering() as served, receiving() as mine, receiving() as other:
        served.headers["Content-Type"] = "text/plain; version=0.0.4"
        for number in range(count):
            show(served, number, CALM)
        with tocsin(served, count, mine.url), prometheus(served, count, other.url):
            for first in range(0, count, each):
                crossed = cross(served, range(first, first + each))
                ours.append(delay(mine, crossed))
                theirs.append(delay(other, crossed))
    what = "crossing of a threshold to webhook received, every interval 1 s"
    yield Row(what, "Prometheus + Alertmanager", "s", ours, theirs, most=0.6)
