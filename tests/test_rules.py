"""Every transition of an alert, and its boundaries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.configuration import Rule
from service.monitor.rules import CALM, FLAP_WINDOW, FLAPS, State, Transition, evaluate, fingerprint


def rule(when: str = "cpu_usage > 80", *, hold: str = "0s", keep: str = "0s", until: str | None = None) -> Rule:
    targets = ["self"] if when.startswith("absent") else []
    return Rule.model_validate(
        {"alert": "A", "when": when, "for": hold, "keep_firing_for": keep, "until": until, "targets": targets}
    )


PLAIN, HELD, BAND = rule(), rule(hold="60s"), rule(until="cpu_usage < 70")
KEPT, KEPT_BAND = rule(keep="60s"), rule(until="cpu_usage < 70", keep="60s")
GONE = rule("absent(cpu_usage)")

INACTIVE, T = State(), 1000.0
FIRES = State("firing", T, starts=(T,))


def clear(since: float) -> State:
    return State("firing", T, cleared=since, starts=(T,))


@pytest.mark.parametrize(
    ("rule", "value", "previous", "now", "state", "transition"),
    [
        # Inactive.
        (PLAIN, 80.0, INACTIVE, T, INACTIVE, None),  # on the threshold is not over it
        (PLAIN, 80.1, INACTIVE, T, FIRES, "firing"),  # no `for`: at once
        (HELD, 80.1, INACTIVE, T, State("pending", T), None),
        (HELD, None, INACTIVE, T, INACTIVE, None),
        (BAND, 75.0, INACTIVE, T, INACTIVE, None),  # between the levels nothing begins
        (GONE, 5.0, INACTIVE, T, INACTIVE, None),
        (GONE, None, INACTIVE, T, FIRES, "firing"),  # absent() is about what is missing
        # Pending.
        (HELD, 90.0, State("pending", T), T + 59.9, State("pending", T), None),
        (HELD, 90.0, State("pending", T), T + 60, State("firing", T + 60, starts=(T + 60,)), "firing"),  # exactly `for`
        (HELD, 80.0, State("pending", T), T + 30, State("inactive", T + 30), None),  # nobody hears of it
        (HELD, None, State("pending", T), T + 90, State("pending", T), None),  # missing: not even after `for`
        (HELD, 90.0, State("pending", T), T - 500, State("pending", T - 500), None),  # the clock was set back
        (HELD, 90.0, State("pending", T, starts=(5.0,)), T + 1, State("pending", T, starts=(5.0,)), None),  # not forgotten
        (HELD, 10.0, State("pending", T, starts=(5.0,)), T + 1, State("inactive", T + 1, starts=(5.0,)), None),
        # Firing, and resolved as soon as it is clear.
        (PLAIN, 80.1, FIRES, T + 1, FIRES, None),
        (PLAIN, 80.0, FIRES, T + 1, State("inactive", T + 1, starts=(T,)), "resolved"),
        (PLAIN, None, FIRES, T + 9, FIRES, None),  # missing does not resolve
        (BAND, 75.0, FIRES, T + 1, FIRES, None),  # between the levels nothing ends
        (BAND, 70.0, FIRES, T + 1, FIRES, None),
        (BAND, 69.9, FIRES, T + 1, State("inactive", T + 1, starts=(T,)), "resolved"),
        (GONE, None, FIRES, T + 9, FIRES, None),
        (GONE, 5.0, FIRES, T + 9, State("inactive", T + 9, starts=(T,)), "resolved"),
        # Firing, and kept so while it is clear.
        (KEPT, 10.0, FIRES, T + 5, clear(T + 5), None),
        (KEPT, 10.0, clear(T + 5), T + 64.9, clear(T + 5), None),
        (KEPT, 10.0, clear(T + 5), T + 65, State("inactive", T + 5, starts=(T,)), "resolved"),  # since it is clear
        (KEPT, 90.0, clear(T + 5), T + 64.9, FIRES, None),  # crossed again: as if it had never been clear
        (KEPT, None, clear(T + 5), T + 500, clear(T + 5), None),  # missing while it is clear decides nothing
        (KEPT, 10.0, clear(T + 5), T - 500, clear(T - 500), None),  # the clock was set back
        (KEPT_BAND, 75.0, clear(T + 5), T + 6, FIRES, None),  # clear is what `until` says
        (KEPT_BAND, 69.0, clear(T + 5), T + 65, State("inactive", T + 5, starts=(T,)), "resolved"),
    ],
)
def test_every_transition_and_its_boundary(
    rule: Rule, value: float | None, previous: State, now: float, state: State, transition: Transition | None
) -> None:
    """A rule, a value, the state so far and the time decide the next state and what is told."""
    outcome = evaluate(rule, value, previous, now)

    assert (state, transition) == (outcome.state, outcome.transition)


@pytest.mark.parametrize(
    ("starts", "flapping"),
    [
        ((), False),
        ((T - 60,), False),
        ((T - FLAP_WINDOW + 0.1, T - 60), True),  # the third within half an hour
        ((T - FLAP_WINDOW, T - 60), False),  # half an hour ago is not within it
        ((T - 60, T + 60), False),  # what lies ahead, as after a clock was set back, does not count
    ],
)
def test_an_alert_that_fires_for_the_third_time_in_half_an_hour_flaps(starts: tuple[float, ...], flapping: bool) -> None:
    """Flapping begins with the third firing in the window, and the reason says so."""
    outcome = evaluate(PLAIN, 90.0, State("inactive", T - 1, starts=starts), T)

    assert (flapping, flapping) == (outcome.state.flapping, "flapping" in outcome.reason)
    assert len(outcome.state.starts) <= FLAPS


@pytest.mark.parametrize("keep", ["0s", "60s", "20m"])
def test_a_flapping_alert_is_resolved_once_it_is_calm(keep: str) -> None:
    """It must be clear for ten minutes, or for as long as `keep_firing_for` says where that is longer."""
    flaps = State("firing", T, cleared=T + 10, starts=(T - 2, T - 1, T), flapping=True)
    needed = max(CALM, 1200.0 if keep == "20m" else 0.0)
    before, then = (evaluate(rule(keep=keep), 10.0, flaps, T + 10 + passed) for passed in (needed - 0.1, needed))

    assert (None, True) == (before.transition, before.state.flapping)
    assert ("resolved", False, T + 10) == (then.transition, then.state.flapping, then.state.since)


def test_missing_values_neither_fire_nor_resolve() -> None:
    """Whatever the state, a missing value leaves it as it is."""
    for state in (INACTIVE, State("pending", T), FIRES, clear(T), State("firing", T, flapping=True)):
        outcome = evaluate(KEPT, None, state, T + 10_000)
        assert (state, None) == (outcome.state, outcome.transition)


STEPS = st.lists(st.tuples(st.floats(0, 100) | st.none(), st.floats(-50, 400)), max_size=60)


@given(
    STEPS,
    st.sampled_from(["cpu_usage > 80", "absent(cpu_usage)"]),
    st.sampled_from(["0s", "60s"]),
    st.sampled_from(["0s", "60s", "15m"]),
    st.sampled_from([None, "cpu_usage < 70"]),
)
def test_p25_firing_and_resolved_alternate_whatever_the_values(
    steps: list[tuple[float | None, float]], when: str, hold: str, keep: str, until: str | None
) -> None:
    """No values, gaps and jumps of the clock give a resolved without its firing, or two firings in a row."""
    tried = rule(when, hold=hold, keep=keep, until=None if when.startswith("absent") else until)
    state, now, told = INACTIVE, 10_000.0, []
    for value, passed in steps:
        now += passed
        outcome = evaluate(tried, value, state, now)
        state = outcome.state
        assert state.name == "firing" or (state.cleared is None and not state.flapping)
        told += [outcome.transition] if outcome.transition else []

    assert ["firing", "resolved"] * (len(told) // 2) + ["firing"] * (len(told) % 2) == told


@given(st.text(), st.text(), st.dictionaries(st.text(), st.text(), max_size=3))
def test_a_fingerprint_has_16_digits_and_does_not_depend_on_the_order_of_labels(a: str, b: str, labels: dict[str, str]) -> None:
    """The identity of an alert is the same however its labels are ordered, and has a fixed form for any text."""
    first = fingerprint(a, b, labels)

    assert fingerprint(a, b, dict(reversed(labels.items()))) == first
    assert 16 == len(first)
    assert set(first) <= set("0123456789abcdef")


def test_fingerprints_of_names_that_run_together_differ() -> None:
    """Moving a letter from the alert's name to the target's gives another alert."""
    assert fingerprint("ab", "c", {}) != fingerprint("a", "bc", {})
