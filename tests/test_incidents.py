"""One incident, one thread: what reaches a receiver while a service is brought back. Only time and supervisor are simulated."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from service.alerts import find
from service.monitor.healing import Ended, Repairs, Seen
from service.monitor.probe import Sample
from service.monitor.store import FAILURE
from service.services import Service
from service.tables import alerts
from tests.simulation import START, Simulation, configuration, cpu, down, route, rule, simulated, up, window

HEAL = {"service": "web", "after": "20s", "attempts": 3, "within": "15m", "confirm": "20s"}
WEB = (Service(name="web", supervisord="web"), Service(name="nginx", supervisord="nginx"))

Start = Callable[..., "Incident"]


def heals(alert: str = "Down", when: str = "up == 0", **fields: Any) -> Any:
    return rule(alert, when, **{"heal": HEAL, "summary": "{{ target }} is down", **fields})


class Incident:
    """A monitor whose service web is as `state` says; each restart that it orders is made, and ends in the next tick."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.state: str | None = "running"
        self.started, self.counted = START, True
        self.orders: list[str] = []  # services
        self.running: tuple[str, ...] = ()
        self.ended: dict[str, Ended] = {}
        self.made = True  # its supervisor carries out what is asked

    def tick(self, *samples: Any) -> None:
        seen = Seen(self.state, self.started)
        found = Repairs({"web": seen, "nginx": seen}, self.running, self.ended, self.counted)
        self.simulation.tick(*samples, repairs=found)
        orders = self.simulation.watch.orders()
        self.ended = dict.fromkeys(self.running, Ended(self.made, "it does not answer"))
        self.running = tuple(order.id for order in orders)
        self.orders += [order.service for order in orders]

    def ticks(self, number: int, *samples: Any) -> None:
        for _ in range(number):
            self.tick(*samples)

    def restart(self) -> None:
        """Of the monitor: what was under way is not any more."""
        self.simulation.restart()
        self.running, self.ended = (), {}

    def said(self, name: str = "ops") -> list[str]:
        """What has reached a receiver, as `firing critical: summary`."""
        return [f"{each['status']} {each['severity']}: {each['summary']}" for each in self.simulation.alerts(name)]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(*names: str, **fields: Any) -> Incident:
            parts = {"rules": (heals(),), "services": WEB, **fields}
            return Incident(stack.enter_context(simulated(tmp_path, configuration(*names, **parts))))

        yield begin


@pytest.mark.parametrize("restart", [False, True])
def test_firing_restarting_resolved(start: Start, restart: bool) -> None:
    """One restart that helps is three messages with one occurrence, also when the monitor is restarted at every tick."""
    incident = start()
    for sample in (down("self"), down("self"), down("self"), up("self"), up("self"), up("self"), up("self")):
        incident.tick(sample)
        if restart:
            incident.restart()

    assert [
        "firing warning: self is down",
        "firing warning: Restarting web (1 of 3): self is down",
        "resolved warning: Healthy again after 1 restart, down 30 s: self is down",
    ] == incident.said()
    assert ["web"] == incident.orders
    assert 1 == len({each["occurrence"] for each in incident.simulation.alerts()})
    assert [
        None,
        {"service": "web", "state": "restarting", "restarts": 1, "attempt": 1, "of": 3},
        {"service": "web", "state": "healthy", "restarts": 1, "attempt": 1, "of": 3},
    ] == [each["healing"] for each in incident.simulation.alerts()]


@pytest.mark.parametrize("restart", [False, True])
def test_three_attempts_then_one_critical_page(start: Start, restart: bool) -> None:
    """What no restart helps is restarted three times and given up once, and a monitor that is restarted begins nothing anew."""
    incident = start()
    for _ in range(200):
        incident.tick(down("self"))
        if restart:
            incident.restart()

    assert ["web"] * 3 == incident.orders
    said = incident.said()
    assert [f"firing warning: Restarting web ({number} of 3): self is down" for number in (1, 2, 3)] == said[1:4]
    assert ["firing critical: Given up on web after 3 restarts: self is down"] == said[4:]
    assert "restarted at 22:13:50, 22:14:" in incident.simulation.alerts()[4]["reason"]

    incident.ticks(4, up("self"))
    assert ["resolved critical: Resolved after 33 min 20 s: self is down"] == incident.said()[5:]


@pytest.mark.parametrize("target", ["self", "db"])
def test_the_firing_is_told_before_the_restart(start: Start, target: str) -> None:
    """Also with no patience at all, and behind a parent, the firing is a message of its own."""
    incident = start(rules=(heals(heal=HEAL | {"after": "0s"}),))
    incident.ticks(4, down(target), up("gateway"))

    assert [f"firing warning: {text}{target} is down" for text in ("", "Restarting web (1 of 3): ")] == incident.said()


def test_a_given_up_alert_goes_where_critical_ones_go(start: Start) -> None:
    """Who is told of critical alerts alone hears nothing before it is given up, then that, and its end."""
    incident = start("ops", "boss", routes=(route("ops"), route("boss", severity=["critical"])))
    incident.ticks(40, down("self"))
    incident.ticks(4, up("self"))

    assert [
        "firing critical: Given up on web after 3 restarts: self is down",
        "resolved critical: Resolved after 6 min 40 s: self is down",
    ] == incident.said("boss")
    assert 6 == len(incident.said())


def test_an_incident_that_comes_back_has_what_is_left_of_the_budget(start: Start) -> None:
    """Of three restarts in a quarter of an hour one was used up a minute before; the third incident is given up."""
    incident = start(rules=(heals(heal=HEAL | {"attempts": 2}),))
    for _ in range(3):
        incident.ticks(3, down("self"))
        incident.ticks(4, up("self"))
        incident.restart()

    assert ["web"] * 2 == incident.orders
    assert [
        "Restarting web (1 of 2)",
        "Healthy again after 1 restart, down 30 s",
        "Restarting web (2 of 2)",
        "Healthy again after 1 restart, down 30 s",
        "Given up on web after 2 restarts",
    ] == [said for text in incident.said() if "restart" in (said := text.split(": ")[1]).lower()]


def test_it_is_not_healthy_again_while_it_is_being_restarted(start: Start) -> None:
    """A service that answers although its restart is under way is about to be ended: what it says counts from then on."""
    incident = start()
    incident.ticks(3, down("self"))
    running = incident.running
    for _ in range(5):
        incident.running = running
        incident.tick(up("self"))
    assert 2 == len(incident.said())

    incident.running = ()
    incident.ticks(3, up("self"))
    assert 3 == len(incident.said())


def test_what_came_back_by_itself_was_not_brought_back(start: Start) -> None:
    """A restart that the supervisor did not carry out is no restart that helped, and the end does not say so."""
    incident = start()
    incident.made = False
    incident.ticks(3, down("self"))
    incident.ticks(5, up("self"))

    assert incident.said()[-1].startswith("resolved warning: Resolved after ")
    assert incident.simulation.alerts()[-1]["healing"] is None


def test_without_a_value_nothing_is_healthy(start: Start) -> None:
    """A reading that is well once, then missing, then well again was not well in between."""
    incident = start(rules=(heals("High", "cpu_usage > 80"),))
    incident.ticks(3, cpu(90))
    incident.tick(cpu(10))
    incident.ticks(60)
    incident.tick(cpu(10))
    assert "resolved" not in " ".join(incident.said())
    incident.ticks(2, cpu(10))

    assert incident.said()[-1].startswith("resolved")


def test_an_alert_older_than_its_heal_was_not_down_since_1970(start: Start) -> None:
    """An alert that an older version has stored while it fires counts from when it began to."""
    incident = start()
    incident.ticks(2, down("self"))
    with incident.simulation.engine.begin() as connection:
        connection.execute(update(alerts).values(healing=None))  # as the migration leaves it
    incident.restart()
    incident.ticks(3, down("self"))
    incident.ticks(5, up("self"))

    assert re.fullmatch(r"resolved warning: Healthy again after 1 restart, down \d+ s: self is down", incident.said()[-1])


def test_what_cannot_be_counted_is_taken_back(start: Start) -> None:
    """A commit that fails takes the restart back, and what was to be told of it; the next one that succeeds decides anew."""
    incident = start()
    incident.ticks(2, down("self"))
    simulation = incident.simulation
    simulation.now += 10
    found = Repairs({"web": Seen("running", START)}, counted=True)
    assert 1 == len(simulation.watch.tick([down("self")], simulation.now, found))
    simulation.watch.withdraw()
    assert ([], []) == (simulation.watch.orders(), simulation.watch.unsaved.entries)

    incident.tick(down("self"))
    assert (["web"], 2) == (incident.orders, len(incident.said()))


def test_rules_with_budgets_of_their_own_forget_nothing_of_each_others(start: Start) -> None:
    """A rule that counts a minute does not make the one that counts hours forget."""
    short, hours = HEAL | {"within": "1m"}, HEAL | {"within": "6h"}
    incident = start(rules=(heals("Short", heal=short), heals("Long", heal=hours)))
    for _ in range(6):
        incident.ticks(6, down("self"))
        incident.ticks(65, up("self"))  # until nothing that flaps fires any more
    with incident.simulation.engine.connect() as connection:
        kept = [tuple((find(connection, identity).healing or {})["attempts"]) for identity in incident.simulation.watch.alerts]

    assert len(incident.orders) == sum(map(len, kept))


def test_two_alerts_share_one_service_and_its_budget(start: Start) -> None:
    """Two alerts about one service never restart it at the same time, nor more often than one would."""
    incident = start(rules=(heals(), heals("Slow", "latency_ms > 1000")))
    for _ in range(100):
        incident.tick(down("self"), Sample("self", "latency_ms", 5000.0))
        assert len(incident.running) <= 1

    assert ["web"] * 3 == incident.orders


def test_it_is_resolved_only_after_it_has_stayed_up(start: Start) -> None:
    """A service that is up for a moment and gone again is not called healthy: the waiting begins anew."""
    incident = start()
    incident.ticks(3, down("self"))
    for sample in (up("self"), up("self"), down("self"), up("self"), up("self")):
        incident.tick(sample)
    assert 2 == len(incident.said())
    incident.tick(up("self"))

    assert "resolved warning: Healthy again after 1 restart, down 1 min: self is down" == incident.said()[-1]


def test_what_somebody_stopped_stays_stopped(start: Start) -> None:
    """A person who has stopped a service is told that it is down, and it is not started; once it runs again, all is as ever."""
    incident = start()
    incident.state = "stopped"
    incident.ticks(100, down("self"))
    assert (["firing warning: self is down"], []) == (incident.said(), incident.orders)
    with incident.simulation.engine.connect() as connection:
        (identity,) = incident.simulation.watch.alerts
        assert "somebody has stopped it" == (find(connection, identity).healing or {})["held"]

    incident.state = "running"
    incident.tick(down("self"))
    assert ["web"] == incident.orders


@pytest.mark.parametrize(("heal", "expected"), [(True, ["web"]), (False, [])])
@pytest.mark.parametrize("how", ["silence", "window"])
def test_a_silence_with_heal_false_keeps_hands_off(start: Start, how: str, heal: bool, expected: list[str]) -> None:
    """A silence keeps quiet; only one with `heal: false`, or such a window, keeps the service from being restarted too."""
    incident = start(maintenance=(window(heal=heal),) if how == "window" else ())
    if how == "silence":
        incident.simulation.silence("target=self", heal=heal)
    incident.ticks(4, down("self"))

    assert ([], expected) == (incident.said(), incident.orders)


def test_what_was_given_up_in_silence_is_told_when_it_ends(start: Start) -> None:
    """A critical page that a silence held back goes out when the silence is over, as the first word of the alert."""
    incident = start()
    silence = incident.simulation.silence("target=self")
    incident.ticks(40, down("self"))
    assert [] == incident.said()
    incident.simulation.expire(silence)
    incident.tick(down("self"))

    assert ["firing critical: Given up on web after 3 restarts: self is down"] == incident.said()


def test_behind_a_parent_that_is_down_nothing_is_restarted(start: Start) -> None:
    """A target that cannot be reached is not cured by restarting it."""
    incident = start()
    incident.ticks(40, down("gateway"), down("db"))

    assert ["web"] * 3 == incident.orders  # for the gateway alone
    assert {"gateway"} == {each["target"] for each in incident.simulation.alerts()}


def test_a_receiver_that_was_away_hears_the_outcome(start: Start) -> None:
    """Steps that could not be told are not sent one by one afterwards: the newest is."""
    incident = start()
    receiver = incident.simulation.servers["ops"]
    receiver.answer = lambda _: 503
    incident.ticks(40, down("self"))
    receiver.requests.clear()
    receiver.answer = lambda _: 200
    incident.simulation.now += 3600
    incident.tick(down("self"))
    incident.tick(down("self"))

    assert ["firing critical: Given up on web after 3 restarts: self is down"] == list(dict.fromkeys(incident.said()))[-1:]


def test_without_a_service_of_its_own_nothing_is_restarted(start: Start) -> None:
    """`heal` without a service is about the service of each target; a target that has none only fires."""
    parts = configuration()
    targets = (parts.targets[0].model_copy(update={"service": "web"}), parts.targets[1])
    incident = start(targets=targets, rules=(heals(heal={k: v for k, v in HEAL.items() if k != "service"}),))
    incident.ticks(4, down("self"), down("gateway"))

    assert ["web"] == incident.orders


def test_a_program_that_was_given_up_is_told_once_and_closed_when_it_runs(start: Start) -> None:
    """The last alert of a container that ends is told by the next one, once however often, and closed once the program runs."""
    incident = start()
    parts, store = incident.simulation.configuration, incident.simulation.store
    assert [True, False] == [store.give_notice(parts, "web", incident.simulation.now) for _ in range(2)]
    incident.restart()
    assert not incident.simulation.watch.alerts
    incident.state = "starting"
    incident.ticks(2)
    incident.state, incident.started = "running", incident.simulation.now
    incident.ticks(4)

    words = "supervisord has given up on web: it ended too often soon after its start."
    assert [f"firing critical: {words}", f"resolved critical: Resolved after 30 s: {words}"] == incident.said()
    assert {FAILURE} == {each["alert"] for each in incident.simulation.alerts()}


def test_a_program_that_is_no_program_any_more_is_closed(start: Start) -> None:
    """What was given up and has since left supervisord's configuration does not fire for ever."""
    incident = start(services=())
    incident.simulation.store.give_notice(incident.simulation.configuration, "web", incident.simulation.now)
    incident.simulation.deliver()
    incident.state = None  # its supervisor does not answer
    incident.tick()
    assert ["firing"] == [each["status"] for each in incident.simulation.alerts()]
    incident.state = "gone"
    incident.tick()

    assert ["firing", "resolved"] == [each["status"] for each in incident.simulation.alerts()]
    assert incident.said()[1].startswith("resolved critical: No longer watched, after ")
