"""Who is told, and why not: routes, escalation, reminders, silences, parents."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.configuration import Configuration
from service.matchers import Matcher
from service.monitor.healing import Healing
from service.monitor.routing import Alert, Circumstances, Notice, hold, tell
from service.monitor.rules import State
from service.monitor.watch import Watch
from service.silences import Silence
from tests.simulation import START, configuration, cpu, route, rule, window

HOUR = 3600.0
EVERYONE: list[tuple[str, dict[str, Any]]] = [("ops", {}), ("chat", {})]


def alert(severity: str = "warning", target: str = "self", **fields: Any) -> Alert:
    """One that fires since START, as a tick leaves it."""
    about = rule(severity=severity)
    watch = Watch(configuration("ops", rules=(about,), routes=(route(),)))
    watch.tick([cpu(90, target)], START)
    (found,) = watch.alerts.values()
    return replace(found, **fields)


def silence(*matchers: str, starts: float = START, ends: float = START + HOUR) -> Silence:
    return Silence("s1", tuple(Matcher.parse(each) for each in matchers), starts, ends, "ann", "", starts, starts)


def decide(alert: Alert, parts: Configuration, found: Circumstances, now: float) -> tuple[Alert, list[Notice]]:
    """A whole tick: what holds it, and who is told."""
    return tell(hold(alert, parts, found, now), parts, now)


def told(notices: list[Notice]) -> list[tuple[str, dict[str, Any]]]:
    return [(notice.receiver, dict(notice.grouping)) for notice in notices]


def group(number: int, **labels: str) -> dict[str, Any]:
    return {"route": str(number), "labels": labels}


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        ((), EVERYONE),
        ((route("chat"),), [("chat", group(0))]),
        ((route("chat", severity=["critical"]),), EVERYONE),  # no route takes it
        ((route("chat", severity=["info", "warning"]),), [("chat", group(0))]),
        ((route("chat", matchers=["target=self"]),), [("chat", group(0))]),
        ((route("chat", matchers=["target=self", "alert!=High"]),), EVERYONE),  # all matchers must match
        ((route("chat", matchers=["metric=~cpu.*"], severity=["critical"]),), EVERYONE),
        ((route(),), []),  # to the log only
        ((route(), route("chat")), [("chat", group(1))]),
        ((route("ops"), route("ops", "chat")), [("ops", group(0)), ("chat", group(1))]),  # told once, by the first
        ((route("ops", group_by=["target", "mount"]),), [("ops", group(0, target="self", mount=""))]),
        ((route("chat", after="30m"),), [("ops", {})]),  # no route takes it at once, so everyone else is told
        ((route("ops", "chat", after="30m"),), EVERYONE),  # nobody else is left
        ((route("ops"), route("chat", after="30m")), [("ops", group(0))]),
    ],
)
def test_routes_say_who_is_told(routes: tuple[Any, ...], expected: list[tuple[str, dict[str, Any]]]) -> None:
    """Every route that takes an alert tells its receivers, each of them once; what no route takes goes to everyone."""
    after, notices = decide(alert(), configuration("ops", "chat", routes=routes), Circumstances(), START + 10)

    assert expected == told(notices)
    assert tuple(name for name, _ in expected) == after.announced
    assert [] == decide(after, configuration("ops", "chat", routes=routes), Circumstances(), START + 20)[1]


@pytest.mark.parametrize(
    ("passed", "acknowledged", "escalated"),
    [(1799.9, False, False), (1800, False, True), (1800, True, False), (-3600, False, True)],  # the last: the clock was ahead
)
def test_a_route_with_after_joins_when_nobody_has_acknowledged(passed: float, acknowledged: bool, escalated: bool) -> None:
    """After so long, and not before, its receivers are told that nobody has acknowledged it; not when somebody has."""
    parts = configuration("ops", "boss", routes=(route("ops"), route("boss", after="30m")))
    before = alert(announced=("ops",), reminded=START, acknowledged=acknowledged)
    after, notices = decide(before, parts, Circumstances(), START + passed)

    assert [Notice("boss", group(1), "escalated")] * escalated == notices
    assert ("ops", "boss")[: 1 + escalated] == after.announced


@pytest.mark.parametrize(
    ("repeat", "passed", "changed", "reminded"),
    [
        (HOUR, HOUR - 0.1, {}, False),
        (HOUR, HOUR, {}, True),
        (0.0, 1000 * HOUR, {}, False),  # 0: never
        (HOUR, HOUR, {"acknowledged": True}, False),
        (HOUR, 10, {"reminded": START + 1000 * HOUR}, True),  # the clock was ahead
        (HOUR, HOUR, {"state": State("firing", START, cleared=START + 5)}, False),  # it is clear, and only kept firing
    ],
)
def test_reminders_come_at_repeat_interval(repeat: float, passed: float, changed: dict[str, Any], reminded: bool) -> None:
    """Whoever was told is reminded, at each interval and not before, and not once it is acknowledged."""
    parts = configuration("ops", "chat", repeat_interval=repeat)
    before = alert(**{"announced": ("ops", "chat"), "reminded": START, **changed})
    after, notices = decide(before, parts, Circumstances(), START + passed)

    assert [Notice(name, kind="reminder") for name in ("ops", "chat")] * reminded == notices
    assert [] == decide(after, parts, Circumstances(), START + passed + 0.05)[1]


@pytest.mark.parametrize("acknowledged", [False, True])
def test_each_step_of_a_repair_is_told_once_to_who_knows(acknowledged: bool) -> None:
    """Those who were told that it fires hear of a restart, whoever has acknowledged it; at the next tick of nothing."""
    parts = configuration("ops", "chat", repeat_interval=HOUR, routes=(route("chat"),))
    one = alert(announced=("ops", "chat"), reminded=START, acknowledged=acknowledged, healing=Healing("web", tried=1))
    one, notices = decide(one, parts, Circumstances(), START + HOUR)

    assert [Notice("ops", {}, "step"), Notice("chat", group(0), "step")] == notices
    assert [] == decide(one, parts, Circumstances(), START + HOUR + 10)[1]
    again = replace(one, healing=Healing("web", tried=1, gave_up=True))
    assert ["step", "step"] == [notice.kind for notice in decide(again, parts, Circumstances(), START + HOUR + 20)[1]]


@pytest.mark.parametrize(
    ("found", "state"),
    [
        (Circumstances([silence("target=self")]), State("firing", START)),
        (Circumstances(), State("firing", START, cleared=START + 5)),
    ],
)
def test_a_step_in_silence_is_told_when_the_silence_is_over(found: Circumstances, state: State) -> None:
    """While it is silenced, or clear, no step is told; afterwards the newest one is."""
    before = alert(announced=("ops",), reminded=START, state=state, healing=Healing("web", tried=2))
    after, notices = decide(before, configuration(), found, START + 10)
    assert [] == notices

    late = replace(after, state=State("firing", START))
    assert ["step"] == [each.kind for each in decide(late, configuration(), Circumstances(), START + 20)[1]]


def test_a_silence_may_keep_hands_off_too() -> None:
    """Only a silence, or a window, with `heal: false` keeps services from being restarted."""
    kept = replace(silence("target=self"), heal=False)
    nightly = window(heal=False)
    assert [False, False, True, True] == [
        hold(alert(), parts, found, START + 10).kept_off
        for parts, found in (
            (configuration(), Circumstances()),
            (configuration(maintenance=(window(),)), Circumstances([silence("target=self")])),
            (configuration(), Circumstances([silence("target=self"), kept])),
            (configuration(maintenance=(nightly,)), Circumstances()),
        )
    ]


def test_who_is_no_longer_to_know_is_not_reminded() -> None:
    """After a reload a receiver that no route names any more gets its resolved, but no reminders."""
    parts = configuration("ops", "chat", repeat_interval=HOUR, routes=(route("chat"),))
    before = alert(announced=("ops", "chat"), reminded=START)

    assert ["chat"] == [notice.receiver for notice in decide(before, parts, Circumstances(), START + HOUR)[1]]


@pytest.mark.parametrize(
    ("found", "windows", "names"),
    [
        ([silence("target=self")], (), ("s1",)),
        ([silence("target=shop")], (), ()),
        ([silence("target=self", ends=START + 10)], (), ()),  # it has ended since it was read
        ([silence("target=self", starts=START + 11)], (), ()),
        ([], (window(),), ("nightly",)),
        ([], (window(matchers=["target=shop"]),), ()),
        ([], (window(**{"from": "23:00", "until": "23:30"}),), ()),
        ([silence("severity=warning")], (window(),), ("s1", "nightly")),
    ],
)
def test_silences_and_windows_hold_it(found: list[Silence], windows: tuple[Any, ...], names: tuple[str, ...]) -> None:
    """What matches, and holds at this time, keeps it from everyone; the alert knows by what it is silenced."""
    after, notices = decide(alert(), configuration(maintenance=windows), Circumstances(found), START + 10)

    assert (names, not names) == (after.silenced, bool(notices))


@pytest.mark.parametrize(
    ("target", "reachable", "missing", "held"),
    [
        ("self", 0, (), None),  # no parent
        ("db", 0, (), "gateway"),  # as in the tick in which it fires: that the parent is down may be seen in the next
        ("db", 1, (), None),
        ("db", 1, ("gateway",), "gateway"),
        ("db", 2, ("gateway",), "gateway"),
        ("db", 1, ("shop",), None),  # its child
        ("shop", 2, ("gateway",), "gateway"),  # its parent's parent
        ("shop", 2, ("db", "gateway"), "db"),  # the nearest
    ],
)
def test_a_parent_that_is_down_holds_its_children(
    target: str, reachable: int, missing: tuple[str, ...], held: str | None
) -> None:
    """While a parent, or its parent, is down nobody is told of a child; the alert knows for whom it is held."""
    before = alert(target=target, reachable=reachable)
    after, notices = decide(before, configuration(), Circumstances((), missing), START + 10)

    assert (held, held is None) == (after.held, bool(notices))


def test_what_is_clear_is_not_announced() -> None:
    """An alert that was held, and is clear by now and only kept firing, wakes nobody; when it is back, it does."""
    clear = alert(state=State("firing", START, cleared=START + 20))

    assert [] == decide(clear, configuration(), Circumstances(), START + 30)[1]
    assert decide(replace(clear, state=State("firing", START)), configuration(), Circumstances(), START + 30)[1]


@given(
    st.lists(
        st.tuples(st.sampled_from(["silenced", "held", "free"]), st.booleans(), st.booleans(), st.floats(1, 4 * HOUR)),
        max_size=40,
    )
)
def test_nobody_is_told_twice_and_no_silence_is_broken(steps: list[tuple[str, bool, bool, float]]) -> None:
    """Whatever happens to an alert that fires: each receiver is told once, reminded in its time, and not while it is silent."""
    parts = configuration("ops", "boss", routes=(route("ops"), route("boss", after="1h")), repeat_interval=2 * HOUR)
    one, now, known, last = alert(target="db"), START, [], START
    for how, acknowledged, is_clear, passed in steps:
        now += passed
        state = replace(one.state, cleared=now if is_clear else None)
        found = Circumstances(
            [silence("target=db", ends=now + 1)] if how == "silenced" else [], ("gateway",) if how == "held" else ()
        )
        one, notices = decide(replace(one, acknowledged=acknowledged, state=state), parts, found, now)
        assert how == "free" or not notices
        assert not (is_clear and notices)
        for notice in notices:
            reminder = notice.kind == "reminder"
            assert reminder is (notice.receiver in known)
            assert not reminder or (now - last >= 2 * HOUR and not acknowledged)
        known += [notice.receiver for notice in notices if notice.kind != "reminder"]
        last = now if any(notice.kind != "escalated" for notice in notices) else last

    assert len(set(known)) == len(known)
