"""Documents that are run: their commands, with bash and curl, and each answer held against the one that is shown."""

import json
import os
import re
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from tests.stack import BIN, ROOT, eventually

TIME = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
IDENTITY = re.compile(r"\b[0-9a-f]{16}\b")
FIRED = re.compile(r"(?<=[0-9a-f]{16}-)\d{13}\b")  # in an occurrence: when, in milliseconds
REQUEST = re.compile(r"\b[0-9a-f]{32}\b")
NUMBER = re.compile(r"\b\d+\b")


@dataclass(frozen=True)
class Step:
    """A command, the kind of the block that shows its answer, and that answer; both empty where none is shown."""

    command: str
    kind: str = ""
    answer: str = ""

    @property
    def changes(self) -> bool:
        """Whether it may be run only once."""
        return any(
            word in self.command for word in ("--json", "-X ", "tocsin ack", "tocsin silence", "service restart", "jobs add")
        )


def steps(document: str) -> list[Step]:
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", document, re.DOTALL | re.MULTILINE)
    found: list[Step] = []
    for number, (kind, text) in enumerate(blocks):
        if kind == "sh":
            after = blocks[number + 1] if number + 1 < len(blocks) else ("", "")
            answered = text.startswith(("curl ", ".venv/bin/tocsin"))
            found.append(Step(text, *(after if answered else ("", ""))))
    return found


class Reader:
    """Compares what is shown with what came; the ids that are shown stand for those that came.

    `figures` are the fields whose number is another one each time, and with `numbers` so is every one in a text.
    `places` are what is shown of this machine, and what it is here.
    """

    def __init__(self, figures: Collection[str], *, numbers: bool = False, places: Mapping[str, str] | None = None) -> None:
        self.identities: dict[str, str] = {}
        self._figures, self._numbers, self._places = figures, numbers, places or {}

    def run(self, step: Step, environment: Mapping[str, str]) -> None:
        """Run a step until its answer is as shown: at once where it changes something, else some ticks may have to pass."""

        def came() -> str:
            command = ["bash", "-euo", "pipefail", "-c", self._here(step.command)]
            env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", **environment}
            done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)
            assert (0, "") == (done.returncode, done.stderr), step.command
            return done.stdout

        if not step.kind:
            came()
        elif step.changes:
            assert self._shown(step, answer := came()), f"{step.command}\n{answer}\nis not\n{step.answer}"
        else:
            eventually(lambda: self._shown(step, came()), f"{step.command}\nas\n{step.answer}", 30)

    def _here(self, command: str) -> str:
        for shown, here in self._places.items():
            command = command.replace(shown, here)
        return IDENTITY.sub(lambda found: self.identities.get(found[0], found[0]), command)

    def _shown(self, step: Step, came: str) -> bool:
        if step.kind == "json":
            return self._same(json.loads(step.answer), json.loads(came))
        return self._same(step.answer, came)

    def _same(self, shown: Any, came: Any, name: str = "") -> bool:
        if name in self._figures and isinstance(shown, int | float):
            return isinstance(came, int | float)
        if isinstance(shown, dict) and isinstance(came, dict):
            return list(shown) == list(came) and all(self._same(shown[key], came[key], key) for key in shown)
        if isinstance(shown, list) and isinstance(came, list):
            return len(shown) == len(came) and all(self._same(*pair) for pair in zip(shown, came, strict=True))
        if isinstance(shown, str) and isinstance(came, str):
            return self._words(shown) == self._words(self._learnt(shown, came))
        return bool(shown == came)

    def _learnt(self, shown: str, came: str) -> str:
        for here, there in zip(IDENTITY.findall(shown), IDENTITY.findall(came), strict=False):
            self.identities.setdefault(here, there)
        back = {there: here for here, there in self.identities.items()}
        return IDENTITY.sub(lambda found: back.get(found[0], found[0]), came)

    def _words(self, text: str) -> list[str]:
        text = FIRED.sub("fired", REQUEST.sub("request", TIME.sub("time", text)))
        if self._numbers:
            text = NUMBER.sub("number", text)
        return text.split()  # columns are as wide as they must be
