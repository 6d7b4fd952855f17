"""A clock that is set makes nothing fire, end or be told again: what is counted by it moves along."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from service import database
from service.monitor import healing
from service.monitor.clock import STEP, Clock
from service.monitor.healing import Healing, Repairs, Seen
from service.monitor.routing import Alert, Circumstances, hold, moved, tell
from service.monitor.rules import State, evaluate
from service.services import Heal
from service.tables import messages, monitor, notifications, occurrences
from service.values import iso
from tests.simulation import START, TICK, Simulation, configuration, cpu, down, route, rule, simulated, up
from tests.test_outbox import firing

HOUR, DAY = 3600.0, 86_400.0
STEPS = [-30 * DAY, -HOUR, DAY, 30 * DAY]
HIGH, LOW = cpu(90), cpu(10)
DOWN = rule("Down", "up == 0")

Start = Callable[..., Simulation]


class Clocks:
    """A wall clock that can be set, and one that cannot."""

    def __init__(self) -> None:
        self.wall, self.steady = START, 100.0

    def go(self, seconds: float, drift: float = 0.0) -> None:
        self.steady += seconds
        self.wall += seconds + drift


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(-0.9, 0.9) | st.integers(-10_000_000, 10_000_000).filter(bool))))
def test_it_is_the_wall_clock_but_for_steps_that_are_not_followed(passed: list[tuple[float, float]]) -> None:
    """Small corrections are followed at the next look, larger ones are told until somebody follows them."""
    clocks = Clocks()
    clock = Clock(lambda: clocks.wall, lambda: clocks.steady)
    for seconds, set_by in passed:
        clocks.go(seconds)
        before = clock()
        clocks.wall += set_by
        assert before == clock()  # nothing steps by itself
        found = clock.step()
        assert (abs(set_by) >= STEP) is (found != 0.0)
        assert found == clock.step()
        clock.follow(found)
        assert clock() == pytest.approx(clocks.wall, abs=1e-3)


# Everything as much later gives the same decision, as much later. In whole seconds, so that floats are exact.

AGO = st.integers(0, 200_000).map(lambda seconds: START - seconds)
STATES = st.one_of(
    st.builds(State, st.sampled_from(["inactive", "pending"]), AGO, starts=st.lists(AGO, max_size=3).map(sorted).map(tuple)),
    st.builds(State, st.just("firing"), AGO, st.none() | AGO, st.lists(AGO, max_size=3).map(sorted).map(tuple), st.booleans()),
)
TRIED = st.builds(
    Healing,
    service=st.just("web"),
    began=st.just(0.0) | AGO,
    attempts=st.lists(AGO, max_size=4).map(sorted).map(tuple),
    tried=st.integers(0, 4),
    ended=st.none() | AGO,
)
ALERTS = st.builds(
    lambda state, told, tried, announced: Alert(
        "f", "High", "self", {}, state, firing("self"), announced, told, told or 0.0, healing=tried
    ),
    STATES.filter(lambda state: state.name == "firing"),
    st.none() | AGO,
    TRIED,
    st.sampled_from([(), ("ops",)]),
)
SET_BY = st.integers(-30 * 86_400, 30 * 86_400).map(float)


def in_state(state: State) -> Alert:
    return Alert("f", "High", "self", {}, state)


@given(STATES, st.none() | st.sampled_from([10.0, 90.0]), SET_BY, st.sampled_from(["0s", "10m", "1d"]))
def test_rules_decide_as_if_the_clock_had_not_been_set(state: State, value: float | None, set_by: float, length: str) -> None:
    """The next state, what is told and why."""
    tried = rule(**{"for": length}, keep_firing_for=length)
    without, after = (
        evaluate(tried, value, state, START),
        evaluate(tried, value, moved(in_state(state), set_by).state, START + set_by),
    )

    # A state that says nothing of a time has none to move.
    assert replace(without, state=moved(in_state(without.state), set_by).state) == after


@given(ALERTS, SET_BY, st.sampled_from([0.0, 600.0, 4 * HOUR]))
def test_who_is_told_is_decided_as_if_the_clock_had_not_been_set(alert: Alert, set_by: float, repeat: float) -> None:
    """Whether it is announced, escalated or a reminder is due."""
    routes = (route("ops"), route("boss", after="30m"))
    found = configuration("ops", "boss", routes=routes, repeat_interval=repeat)
    held = hold(alert, found, Circumstances(), START)
    without, notices = tell(held, found, START)
    after, then = tell(hold(moved(alert, set_by), found, Circumstances(), START + set_by), found, START + set_by)

    assert notices == then
    # Who has never been told was reminded at no time.
    assert replace(moved(without, set_by), reminded=0.0) == replace(after, reminded=0.0)
    assert without.told is None or without.reminded + set_by == after.reminded


@given(ALERTS, SET_BY, AGO, st.lists(AGO, max_size=5))
def test_restarts_are_decided_as_if_the_clock_had_not_been_set(
    alert: Alert, set_by: float, started: float, spent: list[float]
) -> None:
    """Whether it is time, and what the budget has left."""

    def decided(by: float) -> tuple[Healing, healing.Action | None]:
        known = moved(alert, by)
        seen = Repairs({"web": Seen("running", started + by)}, counted=True)
        past = [each + by for each in spent]
        return healing.decide(Heal(), known.healing, known.state.since, seen, spent=past, hold="", now=START + by)

    (without, action), (after, then) = decided(0.0), decided(set_by)

    assert action == then
    assert moved(replace(alert, healing=without), set_by).healing == after


# The same with a real database and real receivers.


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:
        yield lambda *names, **fields: stack.enter_context(simulated(tmp_path, configuration(*names, **fields)))


def step(simulation: Simulation, seconds: float) -> None:
    """The clock is set."""
    simulation.store.move(simulation.watch, seconds, simulation.now)
    simulation.now += seconds


@pytest.mark.parametrize("set_by", STEPS)
@pytest.mark.parametrize("restarted", [False, True], ids=["in memory", "restarted"])
def test_what_is_told_is_what_would_have_been(start: Start, set_by: float, restarted: bool) -> None:
    """One alert fires, one waits for its `for`, one is clear and kept: each is told in its tick, whenever the clock is set."""
    kept = rule("Kept", "up == 0", keep_firing_for="1m")
    held = rule("Held", **{"for": "1m"})
    simulation = start(rules=(DOWN, held, kept), repeat_interval=120.0)

    def go(ticks: int) -> list[str]:
        before = len(simulation.told())
        for _ in range(ticks):
            simulation.tick(HIGH, down("gateway"), up("self"))
        return simulation.told()[before:]

    simulation.tick(HIGH, down("gateway"), down("self"))
    assert ["firing Down gateway", "firing Down self", "firing Kept gateway", "firing Kept self"] == sorted(simulation.told())
    assert ["resolved Down self"] == go(3)
    step(simulation, set_by)
    if restarted:
        simulation.restart()
        simulation.store.look(simulation.watch, simulation.now)
    assert [] == go(2)  # nothing for the step
    assert ["firing Held self"] == go(1)  # when it has held for a minute
    assert ["resolved Kept self"] == go(1)  # when it has been clear for a minute
    assert [] == go(4)
    assert ["firing Down gateway", "firing Kept gateway"] == sorted(go(1))  # the reminder, two minutes after the firing
    reminded = simulation.alerts()[-1]
    assert reminded["reminder"]
    assert "Still firing" in reminded["summary"]


@pytest.mark.parametrize("set_by", STEPS)
def test_an_end_names_its_firing_and_how_long_it_was(start: Start, set_by: float) -> None:
    """The occurrence and its beginning are as they were told; the length is the true one, also in what is kept."""
    simulation = start(rules=(rule(),))
    for value in (HIGH, HIGH, HIGH):
        simulation.tick(value)
    step(simulation, set_by)
    simulation.tick(LOW)
    first, last = simulation.alerts()
    with database.reading(simulation.engine) as connection:
        (kept,) = connection.execute(select(occurrences)).all()

    assert (first["occurrence"], first["starts_at"]) == (last["occurrence"], last["starts_at"])
    assert last["summary"].startswith("Resolved after 30 s")
    assert iso(simulation.now) == last["ends_at"]
    assert (first["occurrence"], 30.0) == (kept.id, kept.ended - kept.fired)


@pytest.mark.parametrize("set_by", STEPS)
def test_how_long_it_was_is_said_as_it_was(start: Start, set_by: float) -> None:
    """By an escalation, by a reminder, and by the end of what is no longer watched."""
    routes = (route("ops"), route("boss", after="1m"))
    simulation = start("ops", "boss", rules=(DOWN,), routes=routes, repeat_interval=120.0)
    for ticks in (3, 10):
        for _ in range(ticks):
            simulation.tick(down("self"))
        step(simulation, set_by)
    simulation.reload(configuration("ops", "boss", rules=(), routes=routes))
    simulation.tick()
    firing, *later = [each["summary"] for each in simulation.alerts()]

    assert [f"Still firing after 2 min: {firing}", f"No longer watched, after 2 min 10 s: {firing}"] == later
    assert [f"Not acknowledged for 1 min: {firing}"] == [each["summary"] for each in simulation.alerts("boss")][:1]


@pytest.mark.parametrize("set_by", STEPS)
@pytest.mark.parametrize("unwritten", [1, 2], ids=["its end", "all of it"])
def test_what_was_not_written_yet_is_kept_as_long_as_it_was(start: Start, set_by: float, unwritten: int) -> None:
    """A tick that could not be committed, then the clock is set, and then it can be: beginning and end are as far apart."""
    simulation = start(rules=(rule(),))
    for number, value in enumerate((HIGH, LOW)):
        if number < 2 - unwritten:
            simulation.tick(value)
        else:
            simulation.now += TICK
            simulation.store.look(simulation.watch, simulation.now)
            simulation.watch.tick([value], simulation.now)
    step(simulation, set_by)
    simulation.tick(LOW)
    with database.reading(simulation.engine) as connection:
        (kept,) = connection.execute(select(occurrences)).all()

    assert (TICK, TICK) == (kept.ended - kept.fired, kept.ended - kept.began)
    assert simulation.now - TICK == kept.ended


@pytest.mark.parametrize("set_by", STEPS)
def test_the_last_tick_is_as_long_ago_as_it_is(start: Start, set_by: float) -> None:
    """Whoever asks before the next tick, as `tocsin check` does, finds no monitor that stands still."""
    simulation = start(rules=(rule(),))
    simulation.tick(LOW)
    step(simulation, set_by)
    with database.reading(simulation.engine) as connection:
        ticked, started = connection.execute(select(monitor.c.ticked, monitor.c.started)).one()

    assert (simulation.now, simulation.now - TICK) == (ticked, started)


@pytest.mark.parametrize("set_by", STEPS)
def test_what_waits_is_neither_given_up_nor_put_off(start: Start, set_by: float) -> None:
    """A receiver that is away: the message keeps its place, its time and its body, whatever the clock is set to."""
    simulation = start(rules=(DOWN,))
    simulation.servers["ops"].answer = lambda _: 503
    simulation.tick(down("self"))
    for _ in range(20):
        simulation.tick(down("self"))
    assert {first.body for first in simulation.servers["ops"].requests} == {simulation.servers["ops"].requests[0].body}

    def stands() -> tuple[Any, ...]:
        with database.reading(simulation.engine) as connection:
            message = connection.execute(select(messages)).one()
            waits = connection.execute(select(notifications.c.changed, notifications.c.dead, notifications.c.waiting)).one()
        return message.due - simulation.now, message.since - simulation.now, waits.changed - simulation.now, *waits[1:]

    before = stands()
    step(simulation, set_by)
    assert before == stands()
    simulation.servers["ops"].answer = lambda _: 204
    for _ in range(6):
        simulation.tick(down("self"))
    bodies = [each.body for each in simulation.servers["ops"].requests]
    assert 1 == len(set(bodies))
    assert ["firing Down self"] == simulation.told()[-1:]
    with database.reading(simulation.engine) as connection:
        assert (None, False) == tuple(connection.execute(select(notifications.c.dead, notifications.c.waiting)).one())


@pytest.mark.parametrize("set_by", [-30 * DAY, -HOUR, 1.5 * HOUR])
def test_a_silence_that_has_begun_or_ended_still_has(start: Start, set_by: float) -> None:
    """Set back, the clock comes a second time to where one began or ended. When one is to end is what people said."""
    simulation = start(rules=(DOWN,))
    simulation.silence('target="self"', seconds=2 * HOUR)
    simulation.expire(simulation.silence('target="gateway"'))
    simulation.tick(down("self"))
    step(simulation, set_by)
    simulation.tick(down("self"), down("gateway"))
    assert ["firing Down gateway"] == simulation.told()
    simulation.now = START + 2 * HOUR
    simulation.tick(down("self"), down("gateway"))
    assert "firing Down self" in simulation.told()


def test_what_cannot_be_written_does_not_move(start: Start) -> None:
    """While another process has the database, the monitor goes on by the time before: nothing has moved in memory either."""
    simulation = start(rules=(rule(**{"for": "1m"}),))
    simulation.tick(HIGH)
    before = dict(simulation.watch.alerts)
    impatient = database.open_on(str(simulation.engine.url), patience=0.0)
    simulation.store._engine = impatient
    with simulation.engine.begin(), pytest.raises(OperationalError, match="locked"):
        simulation.store.move(simulation.watch, DAY, simulation.now)
    impatient.dispose()

    assert before == simulation.watch.alerts
