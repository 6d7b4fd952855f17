"""/api/health without the micro-cache: nginx, gunicorn and Flask with a line of access log each, against a bare WSGI function.

The function (`bare`) gives the same bytes under the same gunicorn.conf.py, behind the same nginx, and logs nothing. Each request
says `Origin`, as one from another site's page does: nginx has no answer for it and keeps none (deploy/nginx/health.conf). That
all of them have reached the app is counted in its log. No worker is replaced for the number of requests it has answered
(`max_requests`): that comes once in hours, and is not on the way of a request. Both run all the time, and are asked in turn. As
deployed, nginx makes a new connection for each question about health, on both sides.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from bench import wrk
from bench.process import family, processor_seconds
from bench.result import Row, Size
from tests.stack import Running, eventually, nginx, web

ENDLESS = {"GUNICORN_CMD_ARGS": "--max-requests 0"}
MISSED = (
    "Tried: what we add to Flask (hooks, session, proxy headers, routing, headers, the log line) went from 99 to 26 µs a "
    "request in a loop, beside the 40 µs of an empty Flask view. What stands in the way: between nginx and gunicorn caches are "
    "cold, and Flask with an empty view takes 100 µs and a quarter of the rate, all that the goal allows. The line takes 90 "
    "more, nearly all of it because each wakes its reader, who takes the processor; several in one write would end that, but "
    "lines could be lost with a killed worker."
)


def bench(size: Size) -> Iterator[Row]:
    with TemporaryDirectory() as name, ExitStack() as running:
        ours, theirs, body = (Path(name, part) for part in ("ours", "theirs", "body"))
        for folder in (ours, theirs):
            folder.mkdir()
        app = running.enter_context(web(ours, **ENDLESS))
        body.write_bytes(app.get("/api/health").content)
        bare = running.enter_context(web(theirs, "bench.bare:create_app()", BARE_BODY=str(body), **ENDLESS))
        fronts = [running.enter_context(nginx(each.log.parent, urlsplit(each.url).netloc)) for each in (app, bare)]
        said = _said(app)
        rounds = [
            [_asked(front, behind, size.seconds) for front, behind in zip(fronts, (app, bare), strict=True)]
            for _ in range(size.rounds)
        ]
        asked = sum(mine[2] for mine, _ in rounds)
        eventually(lambda: _said(app) >= said + asked, "each request in the app's log")
    against = "a bare WSGI function that logs nothing"
    for what, unit, column, least in (
        ("/api/health without the micro-cache", "requests/s", 0, 0.75),
        ("processor time of nginx and gunicorn for it", "µs", 1, None),
    ):
        mine, other = zip(*((one[column], two[column]) for one, two in rounds), strict=True)
        yield Row(what, against, unit, mine, other, least=least, missed=MISSED if least else "")


def _asked(front: Running, behind: Running, seconds: float) -> tuple[float, float, int]:
    """Requests a second, the microseconds of the processor that each cost nginx and gunicorn, and how many there were."""
    pids = [*family(front.process.pid), *family(behind.process.pid)]
    before = processor_seconds(pids)
    rate, count = wrk.load(f"{front.url}/api/health", seconds, headers={"Origin": "http://127.0.0.1"})
    return rate, 1e6 * (processor_seconds(pids) - before) / count, count


def _said(app: Running) -> int:
    return app.log.read_bytes().count(b"\n")
