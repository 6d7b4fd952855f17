"""Every transition of an alert, and its boundaries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.configuration import Rule
from service.monitor.rules import Name, State, Transition, evaluate, fingerprint

PLAIN = Rule.model_validate({"alert": "A", "when": "cpu_usage > 80"})
HELD = Rule.model_validate({"alert": "A", "when": "cpu_usage > 80", "for": "60s"})
BAND = Rule.model_validate({"alert": "A", "when": "cpu_usage > 80", "until": "cpu_usage < 70"})

INACTIVE, T = State(), 1000.0


@pytest.mark.parametrize(
    ("rule", "value", "previous", "now", "name", "since", "transition"),
    [
        # Inactive.
        (PLAIN, 80.0, INACTIVE, T, "inactive", 0.0, None),  # on the threshold is not over it
        (PLAIN, 80.1, INACTIVE, T, "firing", T, "firing"),  # no `for`: at once
        (HELD, 80.1, INACTIVE, T, "pending", T, None),
        (HELD, None, INACTIVE, T, "inactive", 0.0, None),
        (BAND, 75.0, INACTIVE, T, "inactive", 0.0, None),  # between the levels nothing begins
        # Pending.
        (HELD, 90.0, State("pending", T), T + 59.9, "pending", T, None),
        (HELD, 90.0, State("pending", T), T + 60.0, "firing", T + 60, "firing"),  # exactly `for`
        (HELD, 80.0, State("pending", T), T + 30.0, "inactive", T + 30, None),  # nobody hears of it
        (HELD, None, State("pending", T), T + 90.0, "pending", T, None),  # missing: not even after `for`
        (HELD, 90.0, State("pending", T), T - 500.0, "pending", T - 500, None),  # the clock was set back
        # Firing.
        (PLAIN, 80.1, State("firing", T), T + 1, "firing", T, None),
        (PLAIN, 80.0, State("firing", T), T + 1, "inactive", T + 1, "resolved"),
        (PLAIN, None, State("firing", T), T + 9, "firing", T, None),  # missing does not resolve
        (BAND, 75.0, State("firing", T), T + 1, "firing", T, None),  # between the levels nothing ends
        (BAND, 70.0, State("firing", T), T + 1, "firing", T, None),
        (BAND, 69.9, State("firing", T), T + 1, "inactive", T + 1, "resolved"),
    ],
)
def test_every_transition_and_its_boundary(
    rule: Rule, value: float | None, previous: State, now: float, name: Name, since: float, transition: Transition | None
) -> None:
    """A rule, a value, the state so far and the time decide the next state and what is told."""
    outcome = evaluate(rule, value, previous, now)

    assert (State(name, since), transition) == (outcome.state, outcome.transition)


@given(st.lists(st.tuples(st.floats(0, 100) | st.none(), st.floats(0.1, 100)), max_size=60), st.sampled_from([PLAIN, HELD, BAND]))
def test_p25_firing_and_resolved_alternate_whatever_the_values(steps: list[tuple[float | None, float]], rule: Rule) -> None:
    """No sequence of values gives a resolved without its firing, or two firings in a row."""
    state, now, told = INACTIVE, 0.0, []
    for value, passed in steps:
        now += passed
        outcome = evaluate(rule, value, state, now)
        state = outcome.state
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
