"""Promises 4 and 6: closed once whatever happens, one cause is one message. Counted is what has reached a receiver."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from service.alerts import Acknowledgement, acknowledge, every, find
from service.configuration import Configuration
from service.monitor.matching import about
from service.monitor.probe import Sample
from service.monitor.watch import Watch
from tests.simulation import START, TICK, Simulation, configuration, cpu, down, route, rule, simulated, up, window

HIGH, LOW = cpu(90), cpu(10)
BOTH_UP, BOTH_DOWN = (up("gateway"), up("db")), (down("gateway"), down("db"))
CHILD = rule("Down", "up == 0", targets=["db", "shop"])
KEPT = rule("Down", "up == 0", targets=["db", "shop"], keep_firing_for="60s")

Start = Callable[..., Simulation]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:
        yield lambda *names, **fields: stack.enter_context(simulated(tmp_path, configuration(*names, **fields)))


# Promise 4: closed.


def test_a_firing_is_told_once_and_resolved_once_across_restarts(start: Start) -> None:
    """A restart between any two ticks, with nothing changed, says nothing of its own."""
    monitor = start(rules=(rule(**{"for": "20s"}),))
    for sample in (HIGH, HIGH, HIGH, HIGH, LOW, LOW):
        monitor.tick(sample)
        monitor.restart()

    assert ["firing High self", "resolved High self"] == monitor.told()


@pytest.mark.parametrize("restart", [False, True])
def test_silenced_before_it_fires_nothing_is_told_and_nothing_closed(start: Start, restart: bool) -> None:
    """What fires and is resolved within a silence is told to nobody."""
    monitor = start()
    monitor.silence("target=self")
    for sample in (HIGH, HIGH, LOW):
        monitor.tick(sample)
        if restart:
            monitor.restart()

    assert [] == monitor.told()


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("how", ["expired", "ended"])
def test_a_silence_that_ends_while_it_fires_lets_it_out(start: Start, how: str, restart: bool) -> None:
    """An alert that still fires when its silence is over is told then, once."""
    monitor = start()
    silence = monitor.silence("target=self", seconds=3 * TICK)
    monitor.tick(HIGH)
    if restart:
        monitor.restart()
    assert [] == monitor.told()
    if how == "expired":
        monitor.expire(silence)
    else:
        monitor.now += 3 * TICK
    monitor.tick(HIGH)
    monitor.tick(HIGH)
    monitor.tick(LOW)

    assert ["firing High self", "resolved High self"] == monitor.told()


@pytest.mark.parametrize("restart", [False, True])
def test_told_then_silenced_is_resolved_all_the_same(start: Start, restart: bool) -> None:
    """Whoever was told that it fires is told that it does not, silence or not."""
    monitor = start()
    monitor.tick(HIGH)
    monitor.silence("target=self")
    monitor.tick(HIGH)
    if restart:
        monitor.restart()
    monitor.tick(LOW)

    assert ["firing High self", "resolved High self"] == monitor.told()


def test_a_maintenance_window_holds_as_a_silence_does(start: Start) -> None:
    """From 22:00 to 23:00 nothing is told; at 23:00 what still fires is."""
    monitor = start(maintenance=(window(),))
    monitor.tick(HIGH)
    assert [] == monitor.told()
    monitor.now = START + 47 * 60  # 23:00:20
    monitor.tick(HIGH)

    assert ["firing High self"] == monitor.told()


def test_a_silence_over_before_it_is_resolved_wakes_nobody_for_what_is_clear(start: Start) -> None:
    """An alert that is clear, and only kept firing, when its silence ends is not told any more."""
    monitor = start(rules=(rule(keep_firing_for="60s"),))
    monitor.silence("target=self", seconds=3 * TICK)
    monitor.tick(HIGH)
    for _ in range(12):
        monitor.tick(LOW)

    assert [] == monitor.told()


WITHOUT = {
    "the rule": {"rules": ()},
    "the target": {"targets": ()},
    "its target": {"rules": (rule(targets=["shop"]),)},
    "its metric": {"rules": (rule("High", "mem_usage > 80"),)},
}


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("changed", WITHOUT.values(), ids=WITHOUT)
def test_what_is_no_longer_watched_is_closed_once(start: Start, changed: dict[str, Any], restart: bool) -> None:
    """A firing that nothing in the configuration explains any more gets its resolved, only one, and can fire again."""
    monitor = start()
    before = monitor.configuration
    monitor.tick(HIGH)
    monitor.reload(configuration(**changed))
    if restart:
        monitor.restart()
    monitor.tick()
    monitor.tick()
    assert ["firing High self", "resolved High self"] == monitor.told()
    assert monitor.alerts()[1]["summary"].startswith("No longer watched, after 10 s: ")

    monitor.reload(before)
    monitor.tick(HIGH)
    assert ["firing High self", "resolved High self", "firing High self"] == monitor.told()


def test_removed_while_it_was_silenced_tells_nothing(start: Start) -> None:
    """What nobody was told of is not closed either when its rule is taken out."""
    monitor = start()
    monitor.silence("target=self")
    monitor.tick(HIGH)
    monitor.reload(configuration(rules=()))
    monitor.tick()

    assert [] == monitor.told()


def test_a_pending_alert_whose_rule_is_gone_is_forgotten(start: Start) -> None:
    """What was only pending is inactive then, and its time begins anew when the rule is back."""
    held = rule(**{"for": "30s"})
    monitor = start(rules=(held,))
    monitor.tick(HIGH)
    monitor.reload(configuration(rules=()))
    monitor.tick()
    monitor.reload(configuration(rules=(held,)))
    for _ in range(3):
        monitor.tick(HIGH)
    assert [] == monitor.told()
    monitor.tick(HIGH)

    assert ["firing High self"] == monitor.told()


def test_a_receiver_added_by_a_reload_hears_of_what_fires(start: Start) -> None:
    """It is told what fires already, and its end; the others are not told again."""
    monitor = start("ops")
    monitor.tick(HIGH)
    monitor.reload(configuration("ops", "chat"))
    monitor.tick(HIGH)
    monitor.tick(LOW)

    assert ["firing High self", "resolved High self"] == monitor.told("chat") == monitor.told("ops")


# Promise 6: one cause, one message.


def run(monitor: Simulation, *ticks: tuple[Sample, ...], restart: bool) -> list[str]:
    for number, samples in enumerate(ticks):
        monitor.tick(*samples)
        if restart and number % 2:  # a new process waits for a second tick before it takes a parent for well
            monitor.restart()
    return monitor.told()


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize(
    ("ticks", "told"),
    [
        ([BOTH_UP, BOTH_DOWN, BOTH_DOWN, BOTH_UP, BOTH_UP], []),  # in the same tick
        ([BOTH_UP, (up("gateway"), down("db")), BOTH_DOWN, BOTH_UP, BOTH_UP], []),  # the parent a tick later
        ([BOTH_UP, (down("gateway"), up("db")), BOTH_DOWN, BOTH_UP, BOTH_UP], []),  # the child a tick later
        ([BOTH_UP, *[BOTH_DOWN] * 360, BOTH_UP, BOTH_UP], []),  # for an hour
        ([BOTH_UP, *[BOTH_DOWN] * 5, (up("gateway"), down("db")), BOTH_UP], []),  # the child comes back a tick later
        # It outlasts its parent: told then, once, and closed.
        ([BOTH_UP, BOTH_DOWN, *[(up("gateway"), down("db"))] * 5], ["firing Down db"]),
        ([BOTH_UP, BOTH_DOWN, *[(up("gateway"), down("db"))] * 5, BOTH_UP], ["firing Down db", "resolved Down db"]),
        # It was down before its parent was: told, and closed.
        ([BOTH_UP, *[(up("gateway"), down("db"))] * 3, BOTH_DOWN], ["firing Down db"]),
        ([BOTH_UP, *[(up("gateway"), down("db"))] * 3, BOTH_DOWN, BOTH_UP], ["firing Down db", "resolved Down db"]),
    ],
)
def test_a_child_is_told_only_if_it_outlasts_its_parent(
    start: Start, ticks: list[tuple[Sample, ...]], told: list[str], restart: bool
) -> None:
    """While a parent is down its children are held, across restarts; what is over by then is never told."""
    assert told == run(start(rules=(CHILD,)), *ticks, restart=restart)


def test_a_child_that_is_clear_when_its_parent_is_back_wakes_nobody(start: Start) -> None:
    """With `keep_firing_for` the child's alert outlives its parent's, though the child is well: nobody hears of it."""
    monitor = start(rules=(KEPT,))

    assert [] == run(monitor, BOTH_UP, *[BOTH_DOWN] * 5, *[BOTH_UP] * 10, restart=False)


def test_grandchildren_are_held_for_the_first_cause(start: Start) -> None:
    """The gateway is down, and what lies two targets behind it: one message, about the gateway."""
    monitor = start(rules=(rule("Down", "up == 0"),))
    out = (down("gateway"), down("db"), down("shop"))
    run(monitor, *[out] * 5, restart=False)

    assert ["firing Down gateway"] == monitor.told()
    with monitor.engine.connect() as connection:
        held = {each.target: each.held for each in every(connection)}
    assert {"gateway": None, "db": "gateway", "shop": "db"} == held


def test_a_tick_is_one_message_for_each_receiver_and_route(start: Start) -> None:
    """Alerts of one tick, receiver and route are told together; other routes and other groups never in one message."""
    routes = (
        route("ops", severity=["critical"]),
        route("ops", "chat", matchers=["alert=High"], group_by=["target"]),
        route("chat", severity=["info"]),
    )
    rules = (rule(), rule("Down", "up == 0", severity="critical"), rule("Busy", "cpu_usage > 50", severity="info"))
    monitor = start("ops", "chat", routes=routes, rules=rules)
    for _ in range(2):
        monitor.tick(cpu(90), cpu(90, "gateway"), down("self"), down("gateway"))

    assert [
        ["firing Down gateway", "firing Down self"],
        ["firing High gateway"],
        ["firing High self"],
    ] == sorted(sorted(each) for each in monitor.messages("ops"))
    assert [
        ["firing Busy gateway", "firing Busy self"],
        ["firing High gateway"],
        ["firing High self"],
    ] == sorted(sorted(each) for each in monitor.messages("chat"))


def test_groups_that_wait_keep_their_order(start: Start) -> None:
    """What a receiver missed comes with one message for each group, that which waits longest first."""
    monitor = start(routes=(route("ops", group_by=["target"]),))
    monitor.tick(cpu(90, "gateway"), deliver=False)
    monitor.tick(cpu(90, "self"), deliver=False)
    monitor.tick(down("gateway"), deliver=False)
    monitor.deliver()

    assert [["firing High gateway", "firing Down gateway"], ["firing High self"]] == monitor.messages()


def test_a_parent_that_comes_and_goes_does_not_hold_its_children_for_ever(start: Start) -> None:
    """It is up in every other tick, so no rule tells of it: then its child is told, when it has been up twice."""
    monitor = start(rules=(CHILD, rule("GatewayDown", "up == 0", targets=["gateway"], **{"for": "30s"})))
    for number in range(6):
        monitor.tick((down if number % 2 else up)("gateway"), down("db"))

    assert ["firing Down db"] == monitor.told()


def test_a_target_whose_readings_are_no_longer_taken_is_closed(start: Start) -> None:
    """With `readings: false` there will never be a value again: that is the configuration's doing, and resolves it."""
    monitor = start()
    monitor.tick(HIGH)
    targets = tuple(target.model_copy(update={"readings": False}) for target in monitor.configuration.targets)
    monitor.reload(configuration(targets=targets))
    monitor.tick(up("self"))

    assert ["firing High self", "resolved High self"] == monitor.told()


# Reminders and acknowledgement.


def test_a_reminder_says_how_it_stands_now(start: Start) -> None:
    """It has the value of the moment, and the beginning and the occurrence of its firing."""
    monitor = start(repeat_interval=3600.0)
    monitor.tick(HIGH)
    monitor.now = START + 3600
    monitor.tick(cpu(97))
    first, second = monitor.alerts()

    assert ("firing", True, 97.0, "Still firing after 1 h: self: High, 97 % (threshold 80 %)") == tuple(
        second[name] for name in ("status", "reminder", "value", "summary")
    )
    assert [first[name] for name in ("starts_at", "occurrence")] == [second[name] for name in ("starts_at", "occurrence")]


def test_flapping_is_said_in_words_once(start: Start) -> None:
    """That it flaps is said in words once; a reminder says that it still fires, and has it as a field."""
    monitor = start(rules=(rule(keep_firing_for="0s"),), repeat_interval=4 * TICK)
    for sample in (HIGH, LOW, HIGH, LOW, HIGH, HIGH, HIGH, HIGH, HIGH):
        monitor.tick(sample)
    flapping, reminder = monitor.alerts()[-2:]

    assert (True, False) == (flapping["flapping"], flapping["reminder"])
    assert flapping["summary"].startswith("Flapping: ")
    assert (True, True) == (reminder["flapping"], reminder["reminder"])
    assert "Flapping" not in reminder["summary"]


def test_reminders_go_on_until_it_is_resolved(start: Start) -> None:
    """At each interval, across restarts, until the end; a missing value takes none away."""
    monitor = start(repeat_interval=600.0)
    for number in range(181):
        monitor.tick(*([HIGH] if number < 90 else []))
        if not number % 10:
            monitor.restart()
    monitor.tick(LOW)

    assert ["firing High self"] * 4 + ["resolved High self"] == monitor.told()
    assert [False, True, True, True, False] == [each["reminder"] for each in monitor.alerts()]


@pytest.mark.parametrize("how", ["acknowledged", "silenced", "receiver away", "never"])
def test_no_reminder(start: Start, how: str) -> None:
    """None once it is acknowledged, while it is silenced, before the first message has arrived, or without an interval."""
    monitor = start(repeat_interval=0.0 if how == "never" else 600.0)
    monitor.tick(HIGH, deliver=how != "receiver away")
    if how == "acknowledged":
        monitor.tick(HIGH)
        with monitor.engine.begin() as connection:
            acknowledge(connection, next(iter(monitor.watch.alerts)), Acknowledgement(author="ann"), monitor.now)
    elif how == "silenced":
        monitor.silence("target=self", seconds=20_000)
    monitor.now += 5_000
    for _ in range(120):
        monitor.tick(HIGH, deliver=False)
    monitor.deliver()
    assert [("firing High self", False)] == [
        (text, each["reminder"]) for text, each in zip(monitor.told(), monitor.alerts(), strict=True)
    ]

    monitor.tick(LOW)
    assert ["firing High self", "resolved High self"] == monitor.told()


def test_an_acknowledgement_lasts_until_it_is_resolved(start: Start) -> None:
    """What somebody else writes while the monitor runs is not overwritten by its ticks, and ends with the alert."""
    monitor = start(
        "ops",
        "boss",
        routes=(route("ops"), route("boss", after="10m")),
        repeat_interval=600.0,
        rules=(rule(keep_firing_for="30s"),),
    )
    monitor.tick(HIGH)
    (identity,) = monitor.watch.alerts

    def acknowledged() -> str | None:
        with monitor.engine.connect() as connection:
            said = find(connection, identity).acknowledgement
        return said.author if said else None

    with monitor.engine.begin() as connection:
        acknowledge(connection, identity, Acknowledgement(author="ann", comment="mine"), monitor.now)
    for number in range(100):
        monitor.tick(LOW if number % 10 == 5 else HIGH)  # its row is written again and again
        if number == 50:
            monitor.restart()
    assert ("ann", ["firing High self"], []) == (acknowledged(), monitor.told(), monitor.told("boss"))

    for _ in range(5):
        monitor.tick(LOW)
    assert acknowledged() is None
    for _ in range(70):
        monitor.tick(HIGH)
    assert acknowledged() is None
    assert ["firing High self"] == monitor.told("boss")
    assert monitor.alerts("boss")[0]["summary"].startswith("Not acknowledged for 10 min: ")


def test_an_acknowledgement_of_an_earlier_time_is_not_taken_for_this_one(start: Start) -> None:
    """While the database cannot be written it still has that of the last time; the alert that fires now has none."""
    monitor = start("ops", "boss", routes=(route("ops"), route("boss", after="10m")))
    monitor.tick(HIGH)
    (identity,) = monitor.watch.alerts
    with monitor.engine.begin() as connection:
        acknowledge(connection, identity, Acknowledgement(author="ann"), monitor.now)
    for number, sample in enumerate((HIGH, LOW, HIGH, HIGH)):  # none of these is committed
        monitor.store.look(monitor.watch, monitor.now + number)
        monitor.watch.tick([sample], monitor.now + number)
    monitor.store.look(monitor.watch, monitor.now + 700)

    assert ["boss"] == [entry.receiver for entry in monitor.watch.tick([HIGH], monitor.now + 700)]


# What a tick looks at.


@pytest.mark.parametrize(
    ("rules", "samples", "expected"),
    [
        ((rule(),), [cpu(1, "self"), cpu(2, "db"), up("db")], [("High", "self", 1.0), ("High", "db", 2.0)]),
        ((rule(targets=["db"]),), [cpu(1, "self"), cpu(2, "db")], [("High", "db", 2.0)]),
        ((rule(targets=["db"]),), [cpu(1, "self")], []),  # missing
        (
            (rule("Gone", "absent(cpu_usage)", targets=["self", "db"]),),
            [cpu(1, "self"), down("db")],
            [("Gone", "self", 1.0), ("Gone", "db", None)],
        ),
    ],
)
def test_a_rule_looks_at_its_own_targets_only(
    rules: tuple[Any, ...], samples: list[Sample], expected: list[tuple[str, str, float | None]]
) -> None:
    """Each rule is held against the values of its metric, of its targets; absent() against their lack, too."""
    assert expected == [(each.alert, sample.target, sample.value) for each, sample in about(rules, samples)]


def test_absent_fires_when_a_value_is_missing_and_is_resolved_when_it_is_back(start: Start) -> None:
    """A target that gives no more readings, whether it is up or not, is what absent() is for."""
    monitor = start(rules=(rule("Gone", "absent(cpu_usage)", targets=["self"], **{"for": "10s"}),))
    for samples in ([LOW], [up("self")], [up("self")], [], [LOW]):
        monitor.tick(*samples)

    assert ["firing Gone self", "resolved Gone self"] == monitor.told()
    assert "no value" in monitor.alerts()[0]["summary"]


def test_each_disk_is_an_alert_of_its_own() -> None:
    """A metric that a target has several of makes an alert for each of its labels."""
    watch = Watch(configuration(rules=(rule("Full", "mount_usage > 80"),)))
    disks = [Sample("self", "mount_usage", 95.0, "percent", "host", {"mount": mount}) for mount in ("/", "/srv")]

    assert ["/", "/srv"] == [entry.content["labels"]["mount"] for entry in watch.tick(disks, START)]


def test_a_tick_of_many_rules_changes_what_has_changed_and_no_more() -> None:
    """Of a thousand rules one begins to fire: that is what there is to write, and nothing when it goes on to."""
    rules = tuple(rule(f"rule {number}", "cpu_usage > 80" if number == 500 else "up == 0") for number in range(1000))
    watch = Watch(configuration(rules=rules))
    changed = []
    for samples in ([up("self"), cpu(10)], [up("self"), cpu(90)], [up("self"), cpu(91)]):
        watch.tick(samples, START)
        changed.append([watch.alerts[identity].name for identity in watch.unsaved.changed])
        watch.saved()

    assert [[], ["rule 500"], []] == changed
    assert 1 == len(watch.alerts)


def test_a_configuration_knows_all_ancestors() -> None:
    """The nearest first; a target without parents has none."""
    parts: Configuration = configuration()

    assert [(), ("gateway",), ("db", "gateway")] == [parts.ancestors(name) for name in ("gateway", "db", "shop")]
