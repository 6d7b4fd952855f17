"""Promise 5: a value that swings round its threshold wakes nobody twice. Counted are messages that have really left."""

from collections.abc import Callable
from pathlib import Path

import pytest

from service.configuration import Rule
from service.monitor.rules import FLAP_WINDOW
from tests.simulation import START, TICK, Simulation, configuration, cpu, rule, simulated

HOUR = 3600.0


def swing(monitor: Simulation, high: float, low: float, seconds: float = HOUR, levels: tuple[float, float] = (90, 60)) -> None:
    """A value that is above the threshold and below it in turn, for so many seconds each, and low at the end."""
    end = monitor.now + seconds
    while monitor.now < end:
        phase = (monitor.now - START) % (high + low)
        monitor.tick(cpu(levels[phase >= high]))
    for _ in range(70):  # until long after anything keeps firing
        monitor.tick(cpu(levels[1]))


def kept(**fields: str) -> Rule:
    """A rule with the `keep_firing_for` that a rule has when nothing is said."""
    return Rule.model_validate({"alert": "High", "when": "cpu_usage > 80", **fields})


@pytest.mark.parametrize(("high", "low"), [(10, 10), (10, 50), (60, 50), (600, 10), (600, 50)])
def test_clear_phases_shorter_than_keep_firing_for_make_two_messages(tmp_path: Path, high: float, low: float) -> None:
    """However long the value is above its threshold in between: one message says that it fires, one that it is resolved."""
    with simulated(tmp_path, configuration(rules=(kept(),))) as monitor:
        swing(monitor, high, low)

        assert [["firing High self"], ["resolved High self"]] == monitor.messages()


@pytest.mark.parametrize(
    ("rule", "high", "low", "levels"),
    [
        (rule(until="cpu_usage < 70"), 30, 30, (90, 75)),  # it never reaches the level that clears it
        (rule(until="cpu_usage < 70"), 300, 300, (90, 75)),
        (kept(until="cpu_usage < 70"), 20, 50, (90, 60)),
    ],
)
def test_until_keeps_it_quiet(tmp_path: Path, rule: Rule, high: float, low: float, levels: tuple[float, float]) -> None:
    """A value that swings above the level that clears the alert makes one message, and one more when it is below."""
    with simulated(tmp_path, configuration(rules=(rule,))) as monitor:
        swing(monitor, high, low, levels=levels)
        monitor.tick(cpu(10))

        assert [["firing High self"], ["resolved High self"]] == monitor.messages()


@pytest.mark.parametrize("keep", ["0s", "60s"])
@pytest.mark.parametrize("high", [10, 30, 50])
def test_for_keeps_it_quiet(tmp_path: Path, high: float, keep: str) -> None:
    """What is never over its threshold for as long as `for` says is told to nobody."""
    with simulated(tmp_path, configuration(rules=(rule(**{"for": "60s", "keep_firing_for": keep}),))) as monitor:
        swing(monitor, high, 20)

        assert [] == monitor.messages()


@pytest.mark.parametrize(
    ("keep", "high", "low", "hours"),
    [("0s", 10, 10, 1), ("0s", 10, 120, 1), ("0s", 60, 300, 3), ("0s", 300, 540, 1), ("60s", 10, 120, 1), ("60s", 300, 540, 1)],
)
def test_slow_swings_say_flapping_once(tmp_path: Path, keep: str, high: float, low: float, hours: int) -> None:
    """Three firings within half an hour and the third says that it flaps; after it no more is said until it is calm.

    So six messages at most, for an hour as for three.
    """
    assert high + low < FLAP_WINDOW / 2
    with simulated(tmp_path, configuration(rules=(rule(keep_firing_for=keep),))) as monitor:
        swing(monitor, high, low, hours * HOUR)
        told = monitor.alerts()

        assert ["firing", "resolved"] * 3 == [each["status"] for each in told]
        assert [4] == [number for number, each in enumerate(told) if "lapping" in each["summary"]]
        assert monitor.alerts()[-1]["flapping"]


@pytest.mark.parametrize("low", [600, 1200])
def test_slower_than_flapping_is_told_each_time(tmp_path: Path, low: float) -> None:
    """Fewer than three firings in half an hour are no flapping: each is told, at most four an hour and their ends."""
    with simulated(tmp_path, configuration(rules=(rule(),))) as monitor:
        swing(monitor, 300, low)

        assert len(monitor.messages()) <= 8
        assert not any(each["flapping"] for each in monitor.alerts())


@pytest.mark.parametrize(
    "value",
    [lambda minute: 90 if minute % 2 else None, lambda minute: 90 if minute < 2 else None],
    ids=["now and then", "for an hour"],
)
def test_missing_data_neither_resolves_nor_fires(tmp_path: Path, value: Callable[[int], float | None]) -> None:
    """A gap in the values ends no alert, and begins none."""
    with simulated(tmp_path, configuration(rules=(kept(),))) as monitor:
        for tick in range(int(HOUR / TICK)):
            found = value(int(tick * TICK) // 60)
            monitor.tick(*([cpu(found)] if found is not None else []))

        assert ["firing High self"] == monitor.told()


def test_a_restart_in_every_tick_changes_nothing(tmp_path: Path) -> None:
    """What keeps it quiet is stored: an hour of swings with a new process for each minute says the same."""
    with simulated(tmp_path, configuration(rules=(rule(),))) as monitor:
        for tick in range(360):
            monitor.tick(cpu(90 if tick % 18 < 6 else 10))
            if tick % 6 == 5:
                monitor.restart()

        assert ["firing High self", "resolved High self"] * 2 + ["firing High self"] == monitor.told()
        assert monitor.alerts()[-1]["flapping"]
