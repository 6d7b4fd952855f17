"""How the processor time of one tick grows: with rules, with targets, and with silences."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

from pydantic import SecretStr

from bench.answers import answering
from bench.result import Curve, Row, Size
from service import database, logs, silences
from service.checking import checked
from service.configuration import Configuration, Rule, Target
from service.monitor.probe import Prober, Sample
from service.monitor.standing import standing
from service.monitor.store import Figures, Store
from service.monitor.watch import Watch

RULES = (10, 100, 1000, 10_000, 100_000)
TARGETS = (1, 10, 100, 1000, 5000)
SILENCES = (0, 1, 10, 100, 1000)
CONDITIONS = ("up == 0", "latency_ms > 2000", "http_status >= 500", "cpu_usage > 80")
FIRE = 100  # every so many-th rule fires
NOWHERE = "http://127.0.0.1:9/"
INTERVAL = 15.0


class Ticking:
    """A monitor's evaluation and its database, with the samples of each tick at hand."""

    def __init__(self, folder: Path, targets: Sequence[Target], rules: Sequence[Rule]) -> None:
        self.engine = database.connect(f"sqlite:///{Path(tempfile.mkdtemp(dir=folder)) / 'tocsin.db'}")
        configuration = Configuration(interval=INTERVAL, targets=tuple(targets), rules=tuple(rules), receivers=())
        self._watch, self._store = Watch(configuration), Store(self.engine)
        self._figures, self.now = Figures(time.time(), INTERVAL), time.time()

    def tick(self, samples: Sequence[Sample]) -> None:
        self.now += INTERVAL
        self._store.look(self._watch, self.now)
        self._watch.tick(samples, self.now)
        self._figures = Figures(self._figures.started, INTERVAL, targets=standing(samples, self.now))
        self._store.commit(self._watch, self._figures, self.now)


def bench(size: Size) -> Iterator[Row | Curve]:
    with tempfile.TemporaryDirectory() as name, answering() as url:
        logs.configure("tocsin-monitor", "CRITICAL", 2)  # that thousands of alerts fire is no news here
        folder = Path(name)
        points = [(float(number), _of_rules(folder, number, size.rounds)) for number in _up_to(RULES, size)]
        yield Curve("rules", "processor time of a tick, with more rules of which one in a hundred fires", "rules", "s", points)
        points = [(float(number), _of_targets(folder, number, size.rounds, url)) for number in _up_to(TARGETS, size)]
        yield Curve("targets", "processor time of a tick, with more targets that are asked in it", "targets", "s", points)
        points = [(float(number), _of_silences(folder, number, size.rounds)) for number in _up_to(SILENCES, size)]
        yield Curve(
            "silences", "processor time of a tick with 1,000 alerts that fire, with more silences", "silences", "s", points
        )


def _up_to(numbers: Sequence[int], size: Size) -> Iterator[int]:
    return (number for number in numbers if number <= max(numbers[1], numbers[-1] * size.largest))


def _cost(tick: Callable[[], None], rounds: int) -> float:
    """The median of so many ticks, in CPU seconds of this process. The first, which makes what is kept, is left out."""
    tick()
    costs = []
    for _ in range(rounds):
        began = time.process_time()
        tick()
        costs.append(time.process_time() - began)
    return median(costs)


def _of_rules(folder: Path, number: int, rounds: int) -> float:
    targets = [Target(name=f"shop-{each}", url=SecretStr(NOWHERE)) for each in range(100)]
    rules = [
        Rule.model_validate(
            {
                "alert": f"rule-{each}",
                "when": CONDITIONS[each % len(CONDITIONS)] if each % FIRE else "up == 1",
                "targets": [targets[each // FIRE % 100].name],
            }
        )
        for each in range(number)
    ]
    values = {"up": 1.0, "latency_ms": 12.5, "http_status": 200.0, "cpu_usage": 40.0}
    samples = [Sample(target.name, metric, value) for target in targets for metric, value in values.items()]
    ticking = Ticking(folder, targets, rules)
    cost = _cost(lambda: ticking.tick(samples), rounds)
    ticking.engine.dispose()
    return cost


def _of_targets(folder: Path, number: int, rounds: int, url: str) -> float:
    targets = [Target(name=f"shop-{each}", url=SecretStr(f"{url}/shop/{each}")) for each in range(number)]
    rules = [Rule.model_validate({"alert": f"rule-{each}", "when": when}) for each, when in enumerate(CONDITIONS)]
    ticking, prober = Ticking(folder, targets, rules), Prober(targets)
    cost = _cost(lambda: ticking.tick(prober.probe()), rounds)
    prober.close()
    ticking.engine.dispose()
    return cost


def _of_silences(folder: Path, number: int, rounds: int) -> float:
    """None of the silences is about what fires, so each is held against each alert; every other one has a pattern."""
    targets = [Target(name=f"shop-{each}", url=SecretStr(NOWHERE)) for each in range(1000)]
    ticking = Ticking(folder, targets, [Rule.model_validate({"alert": "TargetDown", "when": "up == 0"})])
    for each in range(number):
        matcher = f'target="other-{each}"' if each % 2 else f'target=~"other-{each}-.*"'
        said = {"matchers": [matcher], "duration": "1d", "author": "ann"}
        with ticking.engine.begin() as connection:
            silences.add(connection, checked(silences.Draft, said, ticking.now), ticking.now)
    samples = [Sample(target.name, "up", 0.0) for target in targets]
    cost = _cost(lambda: ticking.tick(samples), rounds)
    ticking.engine.dispose()
    return cost
