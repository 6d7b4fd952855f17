"""docs/api.md is run: each command as it stands there, with bash and curl, and each answer held against what is shown."""

import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from sqlalchemy import Engine

from service.configuration import Configuration, Receiver, Rule, Target
from service.database import connect
from service.monitor.loop import Signals, run
from service.web.alerts import blueprint
from tests.receiver import receiving
from tests.stack import ROOT, eventually, free_port, web

DOCUMENT = (ROOT / "docs/api.md").read_text(encoding="utf-8")
KEY = "correct-horse-battery-staple"
TIME = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
IDENTITY = re.compile(r"\b[0-9a-f]{16}\b")
REQUEST = re.compile(r"\b[0-9a-f]{32}\b")
# Figures that are others each time: only of the same kind.
FIGURES = {"interval_seconds", "ticks", "late_ticks", "last_tick_seconds"}


def steps() -> list[tuple[str, str, str]]:
    """Each command, the kind of the block that shows its answer, and that answer; empty where none is shown."""
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)
    found: list[tuple[str, str, str]] = []
    for number, (kind, text) in enumerate(blocks):
        if kind == "sh":
            after = blocks[number + 1] if number + 1 < len(blocks) else ("", "")
            answered = text.startswith(("curl ", ".venv/bin/"))
            found.append((text, *(after if answered else ("", ""))))
    return found


@contextmanager
def monitoring(engine: Engine, receiver: str) -> Iterator[None]:
    """The real monitor, which finds that `shop` is down."""
    rule = {"alert": "TargetDown", "when": "up == 0", "severity": "critical"}
    configuration = Configuration(
        interval=0.2,
        targets=(Target(name="shop", url=SecretStr(f"http://127.0.0.1:{free_port()}/")),),
        rules=(Rule.model_validate({**rule, "summary": "{{ target }} does not answer as it should"}),),
        receivers=(Receiver(name="ops", webhook=SecretStr(receiver)),),
    )
    signals = Signals()
    thread = threading.Thread(target=run, args=(lambda: configuration, engine, signals))
    thread.start()
    try:
        yield
    finally:
        signals.stopping.set()
        thread.join(30)


class Reader:
    """Compares what is shown with what came; the ids that are shown stand for those that came."""

    def __init__(self) -> None:
        self.identities: dict[str, str] = {}

    def command(self, shown: str) -> str:
        return IDENTITY.sub(lambda found: self.identities.get(found[0], found[0]), shown)

    def same(self, shown: Any, came: Any, name: str = "") -> bool:
        if name in FIGURES:
            return type(shown) is type(came) or {type(shown), type(came)} == {int, float}
        if isinstance(shown, dict) and isinstance(came, dict):
            return list(shown) == list(came) and all(self.same(shown[key], came[key], key) for key in shown)
        if isinstance(shown, list) and isinstance(came, list):
            return len(shown) == len(came) and all(self.same(*pair) for pair in zip(shown, came, strict=True))
        if isinstance(shown, str) and isinstance(came, str):
            return self._text(shown) == self._text(self._learnt(shown, came))
        return bool(shown == came)

    def _learnt(self, shown: str, came: str) -> str:
        for here, there in zip(IDENTITY.findall(shown), IDENTITY.findall(came), strict=False):
            self.identities.setdefault(here, there)
        back = {there: here for here, there in self.identities.items()}
        return IDENTITY.sub(lambda found: back.get(found[0], found[0]), came)

    @staticmethod
    def _text(text: str) -> list[str]:
        return REQUEST.sub("request", TIME.sub("time", text)).split()  # columns are as wide as they must be


def test_the_document_is_what_happens(tmp_path: Path) -> None:
    """Every command of the document, in its order, gives what the document shows after it."""
    engine = connect(f"sqlite:///{tmp_path}/tocsin.db")
    reader = Reader()
    shown_answers = 0
    with (
        receiving() as receiver,
        monitoring(engine, receiver.url),
        web(tmp_path, TOCSIN_API_KEY=KEY) as running,
    ):
        receiver.wait_for(1)
        environment = {**os.environ, "TOCSIN": running.url, "TOCSIN_API_KEY": KEY, "TOCSIN_DATA": str(tmp_path)}
        for shown, kind, answer in steps():

            def ran(shown: str = shown) -> str:
                command = ["bash", "-euo", "pipefail", "-c", reader.command(shown)]
                finished = subprocess.run(
                    command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
                )
                assert (0, "") == (finished.returncode, finished.stderr), shown
                return finished.stdout

            def as_shown(came: str, kind: str = kind, answer: str = answer) -> bool:
                return reader.same(json.loads(answer), json.loads(came)) if kind == "json" else reader.same(answer, came)

            if not kind:
                ran()
            elif "--json" in shown or "-X " in shown or "tocsin ack" in shown or "tocsin silence" in shown:
                assert as_shown(came := ran()), f"{shown}\n{came}\nis not\n{answer}"
            else:
                # What is only read may have to wait for a tick.
                eventually(lambda: as_shown(ran()), f"{shown}\nas\n{answer}")
            shown_answers += bool(kind)
    engine.dispose()

    assert 15 == shown_answers
    assert 2 == len(reader.identities) - 1  # two silences, and the alert


def test_every_call_is_in_the_document() -> None:
    """The table of calls has each address and method that the application answers, and no other."""
    from flask import Flask

    from service.settings import Settings

    app = Flask("small")
    app.register_blueprint(blueprint(Settings()))
    known = {
        (method, re.sub(r"<identity>", "<id>", rule.rule))
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.rule.startswith("/api/v1")
    }
    assert known == set(re.findall(r"^\| `([A-Z]+) (\S+)` \|", DOCUMENT, re.MULTILINE))
