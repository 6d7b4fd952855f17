"""gunicorn with the real application, on a database with something of everything, and a supervisor of two services."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr
from sqlalchemy import Engine, insert

from service import readings, reports, restarts
from service.configuration import Configuration
from service.database import connect
from service.loading import load
from service.monitor import outbox
from service.readings import Bucket, Series
from service.receiver import Receiver
from service.settings import Settings
from service.tables import runs
from tests.stack import web
from tests.supervised import SLEEPS, supervised
from tests.ticking import Ticking, cpu, up

KEY = "correct-horse-battery-staple"
NOW = 1_792_150_860.0  # 2026-10-16T11:41:00Z
_CONFIGURATION = """\
targets:
- {name: shop, url: 'http://127.0.0.1:9/'}
- {name: db, url: 'http://127.0.0.1:9/'}
receivers:
- {name: ops, webhook: 'http://127.0.0.1:9/'}
services:
- {name: web, supervisord: web, timeout: 10s}
- {name: nginx, supervisord: nginx, timeout: 10s}
"""


@dataclass
class Populated:
    """gunicorn, which wants KEY from who changes something. The services `web` and `nginx` are programs that sleep."""

    url: str
    engine: Engine
    folder: Path


@contextmanager
def populated(folder: Path) -> Iterator[Populated]:
    (folder / "monitor.yaml").write_text(_CONFIGURATION)
    engine = connect(f"sqlite:///{folder}/tocsin.db")
    _fill(engine)
    _past(engine, load(Settings(data=folder, config=folder / "monitor.yaml")))
    with (
        supervised(folder, {"web": SLEEPS, "nginx": SLEEPS}),
        web(folder, TOCSIN_CONFIG=f"{folder}/monitor.yaml", TOCSIN_API_KEY=KEY) as running,
    ):
        yield Populated(running.url, engine, folder)
    engine.dispose()


def _fill(engine: Engine) -> None:
    """Alerts that fire and are pending, notifications that were told, wait and are dead, restarts of each outcome."""
    monitor = Ticking(engine)
    monitor.tick(NOW, up("shop", 0), up("db", 0), cpu("shop", 90))
    for name, error in (("ops", None), ("chat", "it answered 503")):
        receiver = Receiver(name=name, webhook=SecretStr("http://127.0.0.1:9/"))
        with engine.begin() as connection:
            (message,) = outbox.claim(connection, receiver, NOW + 1)
            if error is None:
                outbox.delivered(connection, [message], NOW + 2)
            else:
                outbox.failed(connection, message, NOW + outbox.GIVE_UP + 1, NOW, error, uncertain=False)
    monitor.tick(NOW + 10, up("shop", 1), up("db", 0), cpu("shop", 90))
    with engine.begin() as connection:
        for number, outcome in enumerate(("healthy", "unhealthy", "unreachable", "declined")):
            asked = restarts.asked("web", "api", "ann", "it hangs")
            done = {"started": NOW + number, "ended": NOW + number + 5, "outcome": outcome, "old_pid": 10, "new_pid": 11}
            restarts.note(connection, restarts.Restart(**{**vars(asked), **done}))


def _past(engine: Engine, configuration: Configuration) -> None:
    """Readings of some minutes, a run of a job, and a report that is done."""
    with engine.begin() as connection:
        buckets = [Bucket(Series("self", "cpu_usage", ""), round(NOW) // 60 * 60 + minute * 60) for minute in range(5)]
        for bucket in buckets:
            bucket.add(12.5)
        readings.put(connection, buckets)
        run = {"id": "5d0a72c1f09be364", "job": "prune", "kind": "prune", "due": NOW, "started": NOW + 1, "ended": NOW + 2}
        connection.execute(insert(runs).values(**run, outcome="done"))
        asked = reports.ask(connection, NOW - 86_400, NOW + 86_400, "ann", NOW + 86_400)
    reports.carry_out(engine, configuration, asked.id, lambda: NOW + 86_401)
