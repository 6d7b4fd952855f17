"""docs/jobs.md is run: its commands with bash and curl, each answer held against what is shown, and its examples taken."""

import json
import re
import time
from pathlib import Path
from typing import get_args

import pytest
from flask import Flask

from service.checking import checked
from service.database import connect
from service.jobs import Draft
from service.runs import Kind, Outcome
from service.settings import Settings
from service.web import jobs
from tests.sessions import Reader, steps
from tests.stack import BIN, ROOT, eventually, free_port, process, web

DOCUMENT = (ROOT / "docs/jobs.md").read_text(encoding="utf-8")
KEY = "correct-horse-battery-staple"
BODIES = [text for text in re.findall(r"```json\n(.*?)```", DOCUMENT, re.DOTALL) if '"task"' in text and '"due_at"' not in text]


def test_the_document_is_what_happens(tmp_path: Path) -> None:
    """Every command of the document, in its order, gives what the document shows after it."""
    engine = connect(f"sqlite:///{tmp_path}/tocsin.db")
    config = tmp_path / "monitor.yaml"
    config.write_text(f"targets:\n  - {{name: shop, url: 'http://127.0.0.1:{free_port()}/'}}\n")
    environment = {"TOCSIN_DATA": str(tmp_path), "TOCSIN_CONFIG": str(config), "TOCSIN_API_KEY": KEY}
    reader = Reader({"seconds"}, numbers=True)
    every = steps(DOCUMENT)
    with process([BIN / "tocsin", "monitor"], environment, tmp_path / "monitor.log"), web(tmp_path, **environment) as running:
        eventually(lambda: b"monitor started" in (tmp_path / "monitor.log").read_bytes(), "the monitor starts")
        for step in every:
            reader.run(step, {**environment, "TOCSIN": running.url})
    engine.dispose()
    assert 5 == sum(bool(step.kind) for step in every)


@pytest.mark.parametrize("text", BODIES, ids=lambda text: json.loads(text)["name"])
def test_an_example_can_be_sent(text: str) -> None:
    """Each body that is shown is a job."""
    checked(Draft, json.loads(text), time.time())


def test_every_kind_has_an_example_and_every_outcome_its_line() -> None:
    """Nothing that there is is left out."""
    shown = {json.loads(text)["task"]["kind"] for text in BODIES}
    assert set(get_args(Kind)) == shown | {"probe"}
    assert {"kind", "type", "outcome", *get_args(Kind), "cron", "interval", "date", *get_args(Outcome)} == set(
        re.findall(r"^\| `(\w+)` \|", DOCUMENT, re.MULTILINE)
    )


def test_every_call_is_in_the_document() -> None:
    """The table of calls has each address and method that the application answers, and no other."""
    app = Flask("small")
    app.register_blueprint(jobs.blueprint(Settings()))
    known = {
        (method, rule.rule.replace("<identity>", "<id>"))
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.rule.startswith("/api/")
    }
    assert known == set(re.findall(r"^\| `([A-Z]+) (\S+)` \|", DOCUMENT, re.MULTILINE))
