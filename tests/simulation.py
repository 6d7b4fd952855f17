"""The real monitor, tick by tick, with real receivers and a real database. Only the time is simulated."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from service import database, silences
from service.checking import checked
from service.configuration import Configuration, Maintenance, Route, Rule, Target
from service.monitor.delivery import deliver_next
from service.monitor.exchange import Client
from service.monitor.healing import Repairs
from service.monitor.outbox import Entry
from service.monitor.probe import Sample
from service.monitor.store import Figures, Store
from service.monitor.watch import NOTHING_SEEN, Watch
from service.receiver import Receiver
from tests.receiver import receiving

START = 1_700_000_000.0  # Tuesday, 2023-11-14 22:13:20 UTC
TICK = 10.0  # seconds
NOWHERE = SecretStr("http://127.0.0.1:9/")


def rule(alert: str = "High", when: str = "cpu_usage > 80", **fields: Any) -> Rule:
    return Rule.model_validate({"alert": alert, "when": when, "keep_firing_for": "0s", **fields})


def route(*receivers: str, **fields: Any) -> Route:
    return Route.model_validate({"receivers": list(receivers), **fields})


def window(**fields: Any) -> Maintenance:
    return Maintenance.model_validate({"name": "nightly", "from": "22:00", "until": "23:00", **fields})


def configuration(*names: str, rules: tuple[Rule, ...] = (rule(), rule("Down", "up == 0")), **fields: Any) -> Configuration:
    """Targets `self`, `gateway`, `db` behind it and `shop` behind that, and receivers of these names, else `ops`."""
    parents = {"self": None, "gateway": None, "db": "gateway", "shop": "db"}
    targets = tuple(Target(name=name, url=NOWHERE, parent=parent) for name, parent in parents.items())
    receivers = tuple(Receiver(name=name, webhook=NOWHERE) for name in names or ("ops",))
    return Configuration(**{"interval": TICK, "targets": targets, "receivers": receivers, "rules": rules, **fields})


def cpu(value: float, target: str = "self") -> Sample:
    return Sample(target, "cpu_usage", value, "percent", "host")


def up(target: str) -> Sample:
    return Sample(target, "up", 1.0)


def down(target: str) -> Sample:
    return Sample(target, "up", 0.0)


class Simulation:
    """Ticks, deliveries and restarts; `told` is what has reached each receiver."""

    def __init__(self, folder: Path, configuration: Configuration, stack: ExitStack) -> None:
        self.now = START
        self._address, self._stack = f"sqlite:///{folder}/tocsin.db", stack
        self.servers = {each.name: stack.enter_context(receiving()) for each in configuration.receivers}
        self.configuration = configuration
        self._figures = Figures(START, TICK)
        self._client = Client()
        stack.callback(self._client.close)
        self.restart()

    def restart(self) -> None:
        """Forget all that is in memory, as a process that ends does."""
        self.engine = database.connect(self._address)
        self._stack.callback(self.engine.dispose)
        self.watch, self.store = Watch(self.configuration), Store(self.engine)

    def reload(self, configuration: Configuration) -> None:
        self.configuration = configuration
        for each in configuration.receivers:
            if each.name not in self.servers:
                self.servers[each.name] = self._stack.enter_context(receiving())
        self.watch.configure(configuration)

    def tick(self, *samples: Sample, deliver: bool = True, repairs: Repairs = NOTHING_SEEN) -> list[Entry]:
        """One tick, which TICK after the last one, and what it puts out is sent."""
        self.now += TICK
        self.store.look(self.watch, self.now)
        news = self.watch.tick(samples, self.now, repairs)
        self._figures = self._figures.after(self.now, 0.1, TICK, late=False)
        self.store.commit(self.watch, self._figures, self.now)
        if deliver:
            self.deliver()
        return news

    def deliver(self) -> None:
        for each in self.configuration.receivers:
            receiver = each.model_copy(update={"webhook": SecretStr(self.servers[each.name].url)})
            while deliver_next(self.engine, receiver, self._client, lambda: self.now) == 0.0:
                pass

    def silence(self, *matchers: str, seconds: float = 3600.0, heal: bool = True) -> str:
        said = {"matchers": list(matchers), "duration": f"{seconds:g}s", "author": "ann", "heal": heal}
        draft = checked(silences.Draft, said, self.now)
        with self.engine.begin() as connection:
            return silences.add(connection, draft, self.now).id

    def expire(self, identity: str) -> None:
        with self.engine.begin() as connection:
            silences.expire(connection, identity, self.now)

    def alerts(self, name: str = "ops") -> list[dict[str, Any]]:
        """What has reached a receiver, in its order."""
        return [alert for each in self.servers[name].requests for alert in each.message["data"]["alerts"]]

    def told(self, name: str = "ops") -> list[str]:
        """The same, as `firing High self`."""
        return [f"{each['status']} {each['alert']} {each['target']}" for each in self.alerts(name)]

    def messages(self, name: str = "ops") -> list[list[str]]:
        """The same, message by message."""
        return [
            [f"{each['status']} {each['alert']} {each['target']}" for each in received.message["data"]["alerts"]]
            for received in self.servers[name].requests
        ]


@contextmanager
def simulated(folder: Path, configuration: Configuration) -> Iterator[Simulation]:
    with ExitStack() as stack:
        yield Simulation(folder, configuration, stack)
