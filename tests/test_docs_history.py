"""docs/history.md is run: each command as it stands there, on a month that is known, with the real web and the real monitor."""

import re
import threading
from pathlib import Path

from flask import Flask

from service.database import connect
from service.monitor.loop import Signals, run
from service.settings import Settings
from service.web import occurrences, readings, reports
from tests import month
from tests.sessions import Reader, steps
from tests.stack import ROOT, web

DOCUMENT = (ROOT / "docs/history.md").read_text(encoding="utf-8")
KEY = "correct-horse-battery-staple"


def test_the_document_is_what_happens(tmp_path: Path) -> None:
    """Every command of the document, in its order, gives what the document shows after it."""
    engine = connect(f"sqlite:///{tmp_path}/tocsin.db")
    month.make(engine, days=2)
    signals = Signals()
    configuration = month.CONFIGURATION.model_copy(update={"targets": (), "rules": (), "receivers": ()})
    thread = threading.Thread(target=run, args=(lambda: configuration, engine, signals), kwargs={"folder": tmp_path})
    thread.start()
    try:
        with web(tmp_path, TOCSIN_API_KEY=KEY) as running:
            reader = Reader(())
            for step in steps(DOCUMENT):
                reader.run(step, {"TOCSIN": running.url, "TOCSIN_API_KEY": KEY, "TOCSIN_DATA": str(tmp_path)})
    finally:
        signals.stopping.set()
        thread.join(30)
        engine.dispose()

    assert 7 == sum(bool(step.kind) for step in steps(DOCUMENT))


def test_every_call_is_in_the_document() -> None:
    """Each address that these routes answer is named, with its method."""
    app = Flask("small")
    for routes in (occurrences, readings, reports):
        app.register_blueprint(routes.blueprint(Settings()))
    known = {
        (method, rule.rule.replace("<identity>", "<id>"))
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.rule.startswith("/api/")
    }
    named = set(re.findall(r"`(GET|POST|DELETE) (/api/v1/[^`?]+)", DOCUMENT))
    assert known - {("GET", "/api/v1/occurrences/<id>")} == named
