"""How each target stands, as the page shows it: written with each tick, and read again."""

from pathlib import Path

from service import database
from service.configuration import Configuration
from service.monitor.probe import Sample
from service.monitor.standing import since, standing
from service.monitor.store import Figures, Store
from service.monitor.watch import Watch
from service.targets import Standing, standings


def up(target: str, value: float = 1.0, reason: str = "") -> Sample:
    return Sample(target, "up", value, reason=reason)


def test_what_a_target_measured_stands_with_it() -> None:
    """Whether it is up, why not, and those of its values that the page shows; disks of its own are not among them."""
    samples = [
        up("shop"),
        Sample("shop", "latency_ms", 12.5),
        Sample("shop", "load1", 0.5),
        Sample("shop", "mount_usage", 5.0, labels={"mount": "/srv"}),
        Sample("shop", "cpu_usage", None),
        up("db", 0.0, "it refuses the connection"),
    ]
    assert {
        "shop": Standing(up=True, since=7.0, why="", values={"latency_ms": 12.5}),
        "db": Standing(up=False, since=7.0, why="it refuses the connection", values={}),
    } == standing(samples, 7.0)


def test_it_stands_so_since_it_changed() -> None:
    """The time is that of the change, and of the first tick for a target that is new; one that is gone is left out."""
    first = standing([up("shop"), up("gone")], 1.0)
    second = since(first, standing([up("shop"), up("new")], 2.0))
    third = since(second, standing([up("shop", 0.0), up("new")], 3.0))

    assert {"shop": 1.0, "new": 2.0} == {name: each.since for name, each in second.items()}
    assert {"shop": (False, 3.0), "new": (True, 2.0)} == {name: (each.up, each.since) for name, each in third.items()}


def test_it_outlives_the_monitor(tmp_path: Path) -> None:
    """A monitor that starts again goes on from what is stored."""
    engine = database.connect(f"sqlite:///{tmp_path}/tocsin.db")
    watch = Watch(Configuration(interval=1.0, targets=(), rules=(), receivers=()))
    for now in (1.0, 2.0):
        Store(engine).commit(watch, Figures(now, 1.0, targets=standing([up("shop")], now)), now)
    with database.reading(engine) as connection:
        assert {"shop": 1.0} == {name: each.since for name, each in standings(connection).items()}
    engine.dispose()
