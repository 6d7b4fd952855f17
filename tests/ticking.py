"""The real monitor on a real database, tick by tick: what it leaves there for others to read."""

from dataclasses import replace
from typing import Any

from pydantic import SecretStr
from sqlalchemy import Engine

from service.configuration import Configuration, Maintenance, Rule, Target
from service.monitor.probe import Sample
from service.monitor.store import Figures, Store
from service.monitor.watch import Watch
from service.receiver import Receiver

RULES = (
    Rule.model_validate({"alert": "HighCpu", "when": "cpu_usage > 80", "for": "60s", "keep_firing_for": "0s"}),
    Rule.model_validate(
        {
            "alert": "TargetDown",
            "when": "up == 0",
            "keep_firing_for": "0s",
            "severity": "critical",
            "summary": "{{ target }} does not answer",
        }
    ),
)


class Ticking:
    """A monitor with two rules, targets `shop`, `db` and `web` (behind `db`), and the receivers `ops` and `chat`."""

    def __init__(self, engine: Engine, **changed: Any) -> None:
        nowhere = SecretStr("http://127.0.0.1:9/")
        configuration = Configuration(
            interval=10.0,
            targets=(
                Target(name="shop", url=nowhere),
                Target(name="db", url=nowhere),
                Target(name="web", url=nowhere, parent="db"),
            ),
            rules=RULES,
            receivers=(Receiver(name="ops", webhook=nowhere), Receiver(name="chat", webhook=nowhere)),
        ).model_copy(update=changed)
        self._watch, self._store = Watch(configuration), Store(engine)
        self._figures = Figures(started=0.0, interval=10.0)

    def tick(self, now: float, *samples: Sample) -> int:
        """One tick at a time; how many notifications it put out."""
        self._store.look(self._watch, now)
        news = self._watch.tick(samples, now)
        self._figures = replace(self._figures, started=self._figures.started or now).after(now, 0.25, 10.0, late=False)
        self._store.commit(self._watch, self._figures, now)
        return len(news)


def up(target: str, value: float) -> Sample:
    return Sample(target, "up", value)


def cpu(target: str, value: float) -> Sample:
    return Sample(target, "cpu_usage", value, "percent", "host")


def nightly() -> Maintenance:
    """A window from 02:00 to 04:00 UTC for the target `db`."""
    return Maintenance.model_validate({"name": "nightly", "matchers": ["target=db"], "from": "02:00", "until": "04:00"})
