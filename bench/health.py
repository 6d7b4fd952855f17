"""/api/health through nginx: against nginx' own `return 200`, against what others answer, and its 99th percentile.

`return 200` is our configuration but for that location: it has the same body, headers and line in the log. Both write their lines
to /dev/null; a reader of a pipe would take its share of the processor. Requests a second: wrk, all programs running all the time
and asked in turn. node_exporter has no question for health: /metrics is what tells of the machine, as ours does. Its first page
is beside it without a goal.

The percentile: 500 questions a second, each at its own moment whether those before it are answered or not, and timed from that
moment. Meanwhile the monitor runs, nobody listens at its receiver, and where its database was is a folder.
"""

import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from bench import peers, wrk
from bench.process import family, processor_seconds
from bench.result import TINY, Row, Size
from tests.stack import BIN, ROOT, Running, eventually, free_port, nginx, process, web

PATH = "/api/health"
RETURN, ALERTMANAGER = "nginx `return 200`", "Alertmanager /-/healthy"
FIXED = "node_exporter /, a text that is always the same"
OTHERS = {
    ALERTMANAGER: (peers.alertmanager, "/-/healthy"),
    "Netdata /api/v1/alarms": (peers.netdata, "/api/v1/alarms"),
    "Glances /api/4/status": (peers.glances, "/api/4/status"),
    "node_exporter /metrics": (peers.node_exporter, "/metrics"),
    FIXED: (peers.node_exporter, "/"),
}
GOALS = {RETURN: 0.6, FIXED: None}
MISSED = {
    ALERTMANAGER: (
        "The two are within a few percent of each other: what asks needs one of the two cores, and either has the rest. Ours "
        "writes a line in the log for each request, which Alertmanager does not. The row below says what a request takes of "
        "the processor."
    )
}
RATE = 500  # a second
CONNECTIONS = 8  # as many as Alertmanager answers at once, and no more; others get a 503 there
CANNED = """
include headers.conf;
add_header Cache-Control no-store always;
default_type application/json;
return 200 '{body}';
"""
MONITOR = """
interval: 1s
targets: [{{name: self, url: "{app}/api/health"}}, {{name: front, url: "{front}/api/health"}}]
rules: [{{alert: Up, when: up == 1}}]
receivers: [{{name: nobody, webhook: "http://127.0.0.1:{nobody}/"}}]
"""


def bench(size: Size) -> Iterator[Row]:
    with TemporaryDirectory() as name, ExitStack() as running:
        folder = Path(name)
        data = _made(folder / "app")
        app = running.enter_context(web(data))
        upstream = urlsplit(app.url).netloc
        ours = running.enter_context(nginx(_made(folder / "ours"), upstream, _silent(folder / "deployed")))
        canned = _silent(folder / "canned", CANNED.format(body=app.get(PATH).text))
        with nginx(_made(folder / "theirs"), upstream, canned) as fixed, ExitStack() as others:
            theirs = {RETURN: (fixed, PATH)}
            for other, (start, path) in OTHERS.items():
                if size is TINY and start is peers.glances and not peers.GLANCES.exists():
                    continue  # `make test` does not install it
                theirs[other] = others.enter_context(start()), path
            yield from _rates(size, ours, theirs)
        yield _percentile(size, data, app, ours)


def _rates(size: Size, ours: Running, theirs: Mapping[str, tuple[Running, str]]) -> Iterator[Row]:
    every = {"": (ours, PATH), **theirs}
    rounds = [{name: _asked(peer, path, size.seconds) for name, (peer, path) in every.items()} for _ in range(size.rounds)]
    for other in theirs:
        mine, others = zip(*((each[""], each[other]) for each in rounds), strict=True)
        goal, missed = GOALS.get(other, 1.0), MISSED.get(other, "")
        rates = [rate for rate, _ in mine], [rate for rate, _ in others]
        yield Row(f"{PATH} through nginx", other, "requests/s", *rates, least=goal, missed=missed)
        if other in (RETURN, ALERTMANAGER):
            costs = [cost for _, cost in mine], [cost for _, cost in others]
            yield Row(f"processor time of {PATH} through nginx", other, "µs", *costs)


def _asked(peer: Running, path: str, seconds: float) -> tuple[float, float]:
    """Requests a second, and the microseconds of the processor that each cost who answers."""
    pids = family(peer.process.pid)
    before = processor_seconds(pids)
    rate, count = wrk.load(peer.url + path, seconds, CONNECTIONS)
    return rate, 1e6 * (processor_seconds(pids) - before) / count


def _percentile(size: Size, data: Path, app: Running, front: Running) -> Row:
    configuration = data / "monitor.yaml"
    configuration.write_text(MONITOR.format(app=app.url, front=front.url, nobody=free_port()), encoding="utf-8")
    environment = {"TOCSIN_CONFIG": str(configuration), "TOCSIN_DATA": str(data)}
    with process([BIN / "tocsin", "monitor"], environment, data / "monitor.log"):
        eventually(lambda: app.get("/api/v1/alerts").json()["alerts"], "something fires")
        for file in data.glob("tocsin.db*"):
            file.unlink()
        (data / "tocsin.db").mkdir()
        found = [1000 * quantiles(_paced(front.url, size.seconds), n=100)[-1] for _ in range(size.rounds)]
    return Row(f"99th percentile of {PATH} at {RATE} a second, receiver and database down", "", "ms", found, most=10)


def _paced(url: str, seconds: float) -> list[float]:
    """How many seconds after its moment each question was answered. Raises RuntimeError when one was not answered with 200."""
    found: list[float] = []
    faults: list[int] = []
    begin = time.perf_counter() + 0.1

    def ask(number: int) -> None:
        connection = HTTPConnection(urlsplit(url).netloc, timeout=30)
        for due in (begin + each / RATE for each in range(number, round(seconds * RATE), CONNECTIONS)):
            time.sleep(max(0.0, due - time.perf_counter()))
            connection.request("GET", PATH)
            answer = connection.getresponse()
            answer.read()
            found.append(time.perf_counter() - due)
            if answer.status != 200:
                faults.append(answer.status)
        connection.close()

    threads = [threading.Thread(target=ask, args=[number]) for number in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults or len(found) != round(seconds * RATE):
        raise RuntimeError(f"{len(found)} answers, and not with 200: {faults}")
    return found


def _silent(folder: Path, health: str | None = None) -> str:
    """A copy of deploy/nginx whose lines go nowhere; with another health.conf, where one is given."""
    shutil.copytree(ROOT / "deploy/nginx", folder)
    main = folder / "nginx.conf"
    main.write_text(
        main.read_text(encoding="utf-8").replace("access_log /dev/stdout ", "access_log /dev/null "), encoding="utf-8"
    )
    if health is not None:
        (folder / "health.conf").write_text(health, encoding="utf-8")
    return str(folder)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
