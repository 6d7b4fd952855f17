"""docs/api.md is run: each command as it stands there, with bash and curl, and each answer held against what is shown."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr
from sqlalchemy import Engine

from service.configuration import Configuration, Rule, Target
from service.database import connect
from service.monitor.loop import Signals, run
from service.receiver import Receiver
from service.settings import Settings
from service.web import create_app
from tests.receiver import receiving
from tests.sessions import Reader, steps
from tests.stack import ROOT, free_port, web

DOCUMENT = (ROOT / "docs/api.md").read_text(encoding="utf-8")
KEY = "correct-horse-battery-staple"
# Figures that are others each time: only of the same kind.
FIGURES = {"interval_seconds", "ticks", "late_ticks", "last_tick_seconds"}


@contextmanager
def monitoring(engine: Engine, receiver: str, folder: Path) -> Iterator[None]:
    """The real monitor, which finds that `shop` is down."""
    rule = {"alert": "TargetDown", "when": "up == 0", "severity": "critical"}
    configuration = Configuration(
        interval=0.2,
        targets=(Target(name="shop", url=SecretStr(f"http://127.0.0.1:{free_port()}/")),),
        rules=(Rule.model_validate({**rule, "summary": "{{ target }} does not answer as it should"}),),
        receivers=(Receiver(name="ops", webhook=SecretStr(receiver)),),
    )
    signals = Signals()
    thread = threading.Thread(target=run, args=(lambda: configuration, engine, signals), kwargs={"folder": folder})
    thread.start()
    try:
        yield
    finally:
        signals.stopping.set()
        thread.join(30)


def test_the_document_is_what_happens(tmp_path: Path) -> None:
    """Every command of the document, in its order, gives what the document shows after it."""
    engine = connect(f"sqlite:///{tmp_path}/tocsin.db")
    reader = Reader(FIGURES)
    every = steps(DOCUMENT)
    with (
        receiving() as receiver,
        monitoring(engine, receiver.url, tmp_path),
        web(tmp_path, TOCSIN_API_KEY=KEY) as running,
    ):
        receiver.wait_for(1)
        environment = {"TOCSIN": running.url, "TOCSIN_API_KEY": KEY, "TOCSIN_DATA": str(tmp_path)}
        for step in every:
            reader.run(step, environment)
    engine.dispose()

    assert 16 == sum(bool(step.kind) for step in every)
    assert 2 == len(reader.identities) - 1  # two silences, and the alert


def test_every_call_is_in_the_document(settings: Settings) -> None:
    """The table of calls has each address and method that /api/openapi.json has, and no other."""
    app = create_app(settings)
    app.extensions["sampler"].stop()
    described = app.test_client().get("/api/openapi.json").get_json()["paths"]
    known = {(method.upper(), path) for path, methods in described.items() for method in methods if path.startswith("/api/")}
    said = set(re.findall(r"^\| `([A-Z]+) (\S+)` \|", DOCUMENT, re.MULTILINE))
    assert {(method, re.sub(r"{\w+}", "<>", path)) for method, path in known} == {
        (method, re.sub(r"<\w+>", "<>", path)) for method, path in said
    }
