"""When a service is restarted and when it is given up: the decision alone, told the time and what is seen."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.monitor.healing import SETTLING, Ended, Healing, Repairs, Seen, decide, pause, settled
from service.services import Heal

FIRED = 1_700_000_000.0
HEAL = Heal(after="30s", attempts=3, within="15m", confirm="10s")
WEB = Healing("web", began=FIRED)
RUNNING = Seen("running", FIRED - 1000)


def repairs(seen: Seen | None = RUNNING, *, running: tuple[str, ...] = (), counted: bool = True) -> Repairs:
    return Repairs({} if seen is None else {"web": seen}, running, {}, counted)


def decided(passed: float, healing: Healing = WEB, found: Repairs | None = None, **given: Any) -> tuple[Healing, str | None]:
    """The decision so many seconds after it began to fire."""
    told = {"spent": healing.attempts, "hold": "", **given}
    return decide(HEAL, healing, FIRED, repairs() if found is None else found, now=FIRED + passed, **told)


@pytest.mark.parametrize(
    ("passed", "action"), [(0, None), (29.9, None), (30, "restart"), (1000, "restart"), (-5, "restart"), (-90_000, "restart")]
)
def test_nothing_is_done_before_it_has_fired_for_after(passed: float, action: str | None) -> None:
    """A restart is due once the alert has fired for `after`, and not before; a clock that was set back delays nothing."""
    assert action == decided(passed)[1]


@pytest.mark.parametrize(
    ("seen", "given", "held"),
    [
        (RUNNING, {}, ""),
        (Seen("failed", FIRED), {}, ""),
        (Seen(None), {}, ""),  # its supervisor does not answer: that it cannot be restarted is to be said, too
        (Seen("running", None), {}, ""),
        (Seen("stopped", FIRED), {}, "somebody has stopped it"),
        (Seen("running", FIRED - 1000, busy=True), {}, "somebody is restarting it"),
        (Seen("running", FIRED + 26), {}, "it has just been started"),
        (Seen("starting", FIRED + 26), {}, "it has just been started"),
        (Seen("running", FIRED + 25), {}, ""),
        (Seen("failed", FIRED + 30), {}, ""),
        (RUNNING, {"hold": "a silence says so"}, "a silence says so"),
    ],
)
def test_what_is_left_alone(seen: Seen, given: dict[str, Any], held: str) -> None:
    """What somebody stopped, restarts or does not want restarted is left alone, and the reason is kept; it counts nothing."""
    healing, action = decided(35, found=repairs(seen), **given)

    assert (held, None if held else "restart") == (healing.held, action)
    assert (0 if held else 1) == healing.tried == len(healing.attempts)


def test_a_service_that_never_stays_is_not_left_alone_for_ever() -> None:
    """A program that is started again every few seconds is always young: after SETTLING it is restarted all the same."""
    young = [decided(30 + late, found=repairs(Seen("running", FIRED + 30 + late - 3)))[1] for late in (0, SETTLING - 1, SETTLING)]

    assert [None, None, "restart"] == young


def test_nothing_is_decided_that_cannot_be_counted() -> None:
    """While the database cannot be written there is no restart: a monitor that ends would have a fresh budget."""
    healing, action = decided(100, found=repairs(counted=False))

    assert (None, "the database cannot be written") == (action, healing.held)


@pytest.mark.parametrize("healing", [replace(WEB, restart="r1"), replace(WEB, gave_up=True)])
def test_one_at_a_time_and_none_after_giving_up(healing: Healing) -> None:
    """While a restart is under way, and after it was given up, nothing is decided, however long it takes."""
    assert (healing, None) == decided(100_000, healing, repairs(running=("r1",)))


def test_a_service_that_was_not_looked_at_is_not_restarted() -> None:
    """A tick that does not know how the service is decides nothing."""
    assert (WEB, None) == decided(100, found=repairs(None))


@pytest.mark.parametrize(
    ("running", "ended", "expected"),
    [
        (("r1",), {}, (None, "", 0)),
        ((), {"r1": Ended(made=True, detail="it is failed")}, (FIRED + 40, "it is failed", 1)),
        ((), {"r1": Ended(made=False, detail="nobody answers")}, (FIRED + 40, "nobody answers", 0)),
        ((), {}, (FIRED + 40, "the monitor was restarted meanwhile", 1)),
    ],
)
def test_what_came_of_a_restart(running: tuple[str, ...], ended: dict[str, Ended], expected: tuple[Any, ...]) -> None:
    """A restart ends with what came of it; one that nobody makes any more has ended, and counts."""
    before = replace(WEB, restart="r1", tried=1, attempts=(FIRED + 30,))
    after = settled(before, Repairs({}, running, ended, counted=True), FIRED + 40)

    assert expected == (after.ended, after.detail, after.made)
    assert (before.tried, before.attempts) == (after.tried, after.attempts)


def test_the_whole_of_an_incident_that_nothing_helps() -> None:
    """Three restarts with growing waits between them, then it is given up, and nothing more for a day."""
    healing, now, found = WEB, FIRED, []
    while now < FIRED + 86_400:
        healing = settled(healing, repairs(), now)
        healing, action = decide(HEAL, healing, FIRED, repairs(), spent=healing.attempts, hold="", now=now)
        if action:
            found.append((now - FIRED, action, healing.number))
            healing = replace(healing, restart="under way" if action == "restart" else None)
        now += 1

    # Each is seen to have ended in the tick after it; then 10, 20 and 40 s pass.
    assert [(30, "restart", 1), (41, "restart", 2), (62, "restart", 3), (103, "give up", 3)] == found


@pytest.mark.parametrize(
    ("spent", "number", "action"),
    [
        ((), 1, "restart"),
        ((-10,), 2, "restart"),
        ((-869, -10), 3, "restart"),
        ((-870, -20, -10), 3, "restart"),  # the oldest is 15 minutes old
        ((-869, -20, -10), 0, "give up"),
        ((40, 50, 60), 0, "give up"),  # the clock was set back
        ((5000, 6000, 7000), 1, "restart"),  # by a day: these say nothing
    ],
)
def test_the_budget_is_the_services(spent: tuple[float, ...], number: int, action: str) -> None:
    """Restarts for whatever alert, within the last 15 minutes, are counted; when there were three it is given up at once."""
    healing, found = decided(30, spent=[FIRED + moment for moment in spent])

    assert (action, number) == (found, healing.number)
    assert (action == "give up") is healing.gave_up


@pytest.mark.parametrize("attempts", [1, 3, 8, 20])
@pytest.mark.parametrize("takes", [0, 10, 70, 310, 610])
@pytest.mark.parametrize("within", [1, 60, 900, 86_400])
def test_an_incident_always_ends_with_giving_up(attempts: int, takes: float, within: float) -> None:
    """However long a restart takes and however short the time that is counted: so many restarts, numbered, and a page."""
    heal = Heal.model_construct(service=None, after=30.0, attempts=attempts, within=float(within), confirm=10.0)
    healing, now = WEB, FIRED + 30
    found: list[int] = []
    while len(found) <= attempts and not healing.gave_up:
        healing, action = decide(heal, healing, FIRED, repairs(), spent=healing.attempts, hold="", now=now)
        now += takes
        if action == "restart":
            found.append(healing.number)
            healing = settled(replace(healing, restart="r"), repairs(), now)
            now += pause(healing.tried, 10)

    assert list(range(1, attempts + 1)) == found
    assert healing.gave_up


@pytest.mark.parametrize("back", [3600, 86_400])
def test_a_clock_that_was_set_back_stops_nothing(back: float) -> None:
    """After a restart the clock goes back an hour, or a day: the next decision does not wait for it to come round."""
    tried = replace(WEB, tried=1, attempts=(FIRED + 30,), ended=FIRED + 40)

    assert ("restart", 2) == (decided(-back, tried)[1], decided(-back, tried)[0].number)


def test_waits_grow() -> None:
    """After each further restart it has twice as long."""
    assert [10, 20, 40, 80] == [pause(tried, 10) for tried in (1, 2, 3, 4)]
    assert [1, 2] == [pause(tried, 0) for tried in (1, 2)]


@given(st.lists(st.tuples(st.floats(0.1, 400), st.sampled_from(["running", "failed", "stopped", "young", None])), max_size=80))
def test_never_more_restarts_than_the_budget_allows(steps: list[tuple[float, str | None]]) -> None:
    """Whatever is seen and whenever: never more than three restarts in any fifteen minutes, none of what was stopped."""
    healing, now = WEB, FIRED
    made: list[float] = []
    for passed, state in steps:
        now += passed
        seen = Seen("running", now - 1) if state == "young" else Seen(state, FIRED)
        healing = settled(healing, repairs(seen), now)
        healing, action = decide(HEAL, healing, FIRED, repairs(seen), spent=made, hold="", now=now)
        if action == "restart":
            assert state != "stopped"
            healing = replace(healing, restart="r")
            made.append(now)
        if action == "give up":
            healing = Healing("web", attempts=healing.attempts)  # resolved, and it fires again

    assert all(len([moment for moment in made if begin <= moment < begin + 900]) <= 3 for begin in made)
