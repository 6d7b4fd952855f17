"""Asks through nginx at a fixed rate while everything is reloaded, and counts what was not answered well.

    python -m tests.loss --requests 50000 --rate 320

nginx and gunicorn are the real ones with the files in deploy/. Meanwhile gunicorn is reloaded ten times and nginx five
times, and gunicorn's workers are replaced after a thousand answers each. A request is sent once: whatever is not 2xx, and
whatever breaks, is a loss. Each POST has a name of its own and is written down where it is executed, so that one that was
executed twice, or answered and not executed, is seen, too.

Each of these has a connection of its own: an nginx that reloads closes idle ones, and a request that is sent on one at that
very moment gets no answer, as HTTP allows (docs/deploys.md). What kept connections lose otherwise is looked at then: POSTs
two seconds apart.
"""

import argparse
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import orjson
import urllib3
from sqlalchemy import select
from urllib3.exceptions import HTTPError

from service.database import connect
from service.tables import silences
from tests.stack import Running, nginx, web

KEY = "a key of 24 characters.."
# nginx takes 20 requests a second of one address: so many ask that each stays far below that.
CLIENTS = 60
PAUSE = 2.0  # seconds between two POSTs on a kept connection: how long gunicorn keeps one that nobody told otherwise
GETS = ("/api/health", "/livez", "/", "/static/style.css", "/api/v1/alerts", "/readyz", "/api/v1/silences?limit=1")


class Request(NamedTuple):
    """One to be sent, once."""

    due: float  # seconds after the start
    connection: int | None  # which one, of those that are kept; None: one of its own
    path: str
    name: str = ""  # of a POST; a GET has none


class Answer(NamedTuple):
    """What came of a request."""

    request: Request
    outcome: int | str  # the status, or what broke
    seconds: float


def mixed(client: int, requests: int, rate: float) -> Iterator[Request]:
    """A client's share of so many requests at one rate: three POSTs to five GETs, each on a connection of its own."""
    for number in range(client, requests, CLIENTS):
        turn, due = number // CLIENTS, number / rate
        if turn % 8 in (1, 4, 6):
            path = "/api/v1/silences" if turn % 32 == 1 else f"/counted/mixed{number}"
            yield Request(due, None, path, f"mixed{number}")
        else:
            yield Request(due, None, GETS[(turn + client) % len(GETS)])


def sparse(client: int, connections: int, rounds: int) -> Iterator[Request]:
    """On each of a client's connections a POST, all at once, and again after PAUSE: in between, all are idle."""
    for turn in range(rounds):
        for connection in range(client, connections, CLIENTS):
            name = f"kept{connection}x{turn}"
            yield Request(turn * PAUSE, connection, f"/counted/{name}", name)


def ask(url: str, client: int, start: float, requests: Iterable[Request]) -> list[Answer]:
    """Send each at its time, from the client's own address."""
    host, port = url.removeprefix("http://").split(":")
    pools: dict[int | None, urllib3.HTTPConnectionPool] = {}
    answers = []
    for each in requests:
        # Of one connection, which is looked at before it is used: one that the server has closed is opened again.
        pool = pools.setdefault(
            each.connection,
            urllib3.HTTPConnectionPool(host, int(port), maxsize=1, timeout=60, source_address=(f"127.0.1.{client + 1}", 0)),
        )
        time.sleep(max(0.0, start + each.due - time.monotonic()))
        began = time.monotonic()
        outcome = send(pool, each)
        answers.append(Answer(each, outcome, time.monotonic() - began))
    for pool in pools.values():
        pool.close()
    return answers


def send(pool: urllib3.HTTPConnectionPool, request: Request) -> int | str:
    """The status, or the name of the error. Nothing is sent a second time."""
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    if request.connection is None:
        headers["Connection"] = "close"
    silence = {"matchers": ['target="none"'], "duration": "1m", "author": "load", "comment": request.name}
    method, body = ("POST", orjson.dumps(silence)) if request.name else ("GET", None)
    try:
        return pool.urlopen(method, request.path, body, headers, retries=False).status
    except HTTPError as error:
        return type(error).__name__


def asked(url: str, plan: Callable[[int], Iterable[Request]], reloads: Iterable[tuple[float, Running]] = ()) -> list[Answer]:
    """All clients go along with their plan; meanwhile each of these servers is reloaded, so many seconds after the start."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        start = time.monotonic()
        asking = [pool.submit(ask, url, client, start, plan(client)) for client in range(CLIENTS)]
        for due, server in sorted(reloads, key=itemgetter(0)):
            time.sleep(max(0.0, start + due - time.monotonic()))
            server.process.send_signal(signal.SIGHUP)
        return [answer for each in asking for answer in each.result()]


def run(
    folder: Path, requests: int, rate: float, reloads: tuple[int, int], kept: tuple[int, int], recycle: tuple[int, int]
) -> "Result":
    """`reloads`: of gunicorn, of nginx. `kept`: connections, POSTs on each. `recycle`: answers of a worker, jitter."""
    with (
        web(
            folder,
            TOCSIN_BLUEPRINTS="tests.counted:counted",
            COUNTED=str(folder / "executed"),
            TOCSIN_API_KEY=KEY,
            GUNICORN_CMD_ARGS="--max-requests {} --max-requests-jitter {}".format(*recycle),
        ) as app,
        nginx(folder, app.url.removeprefix("http://")) as front,
    ):
        due = [
            ((number + 0.5) / times * requests / rate, server)
            for server, times in zip((app, front), reloads, strict=True)
            for number in range(times)
        ]
        start = time.monotonic()
        answers = asked(front.url, lambda client: mixed(client, requests, rate), due)
        seconds = time.monotonic() - start
        on_kept = asked(front.url, lambda client: sparse(client, *kept))
    return Result(seconds, answers, on_kept, executions(folder), said(app), said(front))


def executions(folder: Path) -> Counter[str]:
    """How often each POST was executed: by the blueprint, or as a silence that is in the database."""
    found = Counter((folder / "executed").read_text().split())
    engine = connect(f"sqlite:///{folder}/tocsin.db")
    with engine.connect() as connection:
        found.update(connection.execute(select(silences.c.comment)).scalars())
    engine.dispose()
    return found


def said(server: Running) -> list[str]:
    return [line["message"] for line in server.lines()]


@dataclass
class Result:
    """What came of it."""

    seconds: float
    answers: list[Answer]
    on_kept: list[Answer]
    executed: Counter[str]
    gunicorn: list[str]  # what they said in their logs
    nginx: list[str]

    @property
    def losses(self) -> tuple[int, int, int, int]:
        """Requests that got no 2xx, among them those on kept connections; POSTs that were executed more than once; those
        that got 2xx and were not executed. All should be 0."""
        well = {answer.request.name for answer in (*self.answers, *self.on_kept) if answer.request.name and good(answer)}
        kept = sum(not good(answer) for answer in self.on_kept)
        return (
            sum(not good(answer) for answer in self.answers) + kept,
            kept,
            sum(count > 1 for count in self.executed.values()),
            len(well - set(self.executed)),
        )

    @property
    def reloads(self) -> tuple[int, int]:
        """Of gunicorn, of nginx."""
        return (
            sum("Handling signal: hup" in message for message in self.gunicorn),
            sum("SIGHUP" in message and "reconfiguring" in message for message in self.nginx),
        )

    @property
    def recycled(self) -> int:
        """Workers that were replaced because they had answered enough."""
        return sum("Autorestarting worker" in message for message in self.gunicorn)

    def __str__(self) -> str:
        lost, kept, twice, never = self.losses
        longest = max(answer.seconds for answer in self.answers)
        return (
            f"{len(self.answers)} requests, {len(self.answers) / self.seconds:.0f} a second, the longest {longest:.1f} s: "
            f"{came(self.answers)}\n"
            "meanwhile gunicorn was reloaded {} times, nginx {} times".format(*self.reloads)
            + f", {self.recycled} workers recycled\n"
            f"{len(self.on_kept)} POSTs {PAUSE:g} s apart on kept connections: {came(self.on_kept)}\n"
            f"{lost} lost, {kept} of them on kept connections; {sum(self.executed.values())} executions of POSTs, "
            f"{twice} executed twice, {never} answered and not executed"
        )


def came(answers: list[Answer]) -> str:
    """Such as `3 GET 200, 2 POST 201`."""
    counted = Counter(f"{'POST' if answer.request.name else 'GET'} {answer.outcome}" for answer in answers)
    return ", ".join(f"{count} {what}" for what, count in sorted(counted.items()))


def good(answer: Answer) -> bool:
    return isinstance(answer.outcome, int) and 200 <= answer.outcome < 300


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=50_000)
    parser.add_argument("--rate", type=float, default=320.0, help="a second")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = run(Path(folder), given.requests, given.rate, reloads=(10, 5), kept=(500, 10), recycle=(1000, 200))
    print(result)
    return int(any(result.losses))


if __name__ == "__main__":
    sys.exit(main())
