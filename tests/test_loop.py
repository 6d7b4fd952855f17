"""One tick: states and notifications in one transaction, from where the last process stood."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, event, select
from sqlalchemy.exc import OperationalError

from service.configuration import Configuration, Receiver, Rule, Target
from service.database import alerts, connect, notifications
from service.monitor.loop import Monitor, run
from service.monitor.probe import Sample
from tests.receiver import receiving

RULES = (
    Rule.model_validate({"alert": "HighCpu", "when": "cpu_usage > 80", "for": "60s"}),
    Rule.model_validate({"alert": "TargetDown", "when": "up == 0", "severity": "critical"}),
)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = connect(f"sqlite:///{tmp_path}/tocsin.db")
    yield engine
    engine.dispose()


def configuration(*receivers: Receiver, rules: tuple[Rule, ...] = RULES) -> Configuration:
    targets = tuple(Target(name=name, url=SecretStr("http://127.0.0.1:9/")) for name in ("self", "shop", "a", "b", "c"))
    return Configuration(interval=0.05, targets=targets, rules=rules, receivers=receivers)


def receiver(url: str = "http://127.0.0.1:9/", name: str = "ops") -> Receiver:
    return Receiver(name=name, webhook=SecretStr(url))


def told(engine: Engine) -> list[tuple[str, str, str]]:
    with engine.connect() as connection:
        rows = connection.execute(select(notifications).order_by(notifications.c.id))
        return [(row.receiver, row.firing["alert"], row.wanted) for row in rows]


def cpu(value: float, target: str = "self") -> Sample:
    return Sample(target, "cpu_usage", value, "percent", "host")


def test_a_tick_keeps_the_state_and_puts_a_notification_for_each_receiver(engine: Engine) -> None:
    """A transition is stored once as a state and once for each receiver as a notification."""
    monitor = Monitor(configuration(receiver(name="a"), receiver(name="b")), engine)

    assert 1 == monitor.tick([Sample("shop", "up", 0.0)], 100.0)
    assert [("a", "TargetDown", "firing"), ("b", "TargetDown", "firing")] == told(engine)
    with engine.connect() as connection:
        assert [("firing", 100.0)] == [(row.state, row.since) for row in connection.execute(select(alerts))]


def test_a_restarted_monitor_goes_on_where_the_last_one_stood(engine: Engine) -> None:
    """Pending time, firing and resolved survive a new process; a restart with nothing changed says nothing."""
    parts = configuration(receiver())
    Monitor(parts, engine).tick([cpu(90)], 100.0)
    Monitor(parts, engine).tick([cpu(90)], 159.0)
    assert [] == told(engine)

    Monitor(parts, engine).tick([cpu(90)], 160.0)
    Monitor(parts, engine).tick([cpu(90)], 161.0)
    assert [("ops", "HighCpu", "firing")] == told(engine)

    Monitor(parts, engine).tick([cpu(10)], 200.0)
    assert [("ops", "HighCpu", "resolved")] == told(engine)


def test_a_tick_that_cannot_be_committed_is_evaluated_again(engine: Engine) -> None:
    """When the commit fails neither state nor notification is kept, and the next tick says it."""
    monitor = Monitor(configuration(receiver()), engine)

    def fail(*_: object) -> None:
        raise OperationalError("disk full", None, Exception("disk full"))

    event.listen(engine, "commit", fail)
    with pytest.raises(OperationalError):
        monitor.tick([Sample("shop", "up", 0.0)], 100.0)
    event.remove(engine, "commit", fail)
    assert [] == told(engine)

    monitor.tick([Sample("shop", "up", 0.0)], 101.0)
    assert [("ops", "TargetDown", "firing")] == told(engine)


def test_a_rule_looks_at_its_own_targets_only(engine: Engine) -> None:
    """A rule with targets is not evaluated on others, and each target is an alert of its own."""
    rule = Rule.model_validate({"alert": "HighCpu", "when": "cpu_usage > 80", "targets": ["a", "b"]})
    monitor = Monitor(configuration(receiver(), rules=(rule,)), engine)

    assert 2 == monitor.tick([cpu(90, "a"), cpu(95, "b"), cpu(99, "c")], 100.0)


@pytest.mark.parametrize(
    "now",
    [
        {"rules": RULES[:1]},  # the rule is gone
        {"targets": ()},  # the target is gone
        {"rules": (RULES[0], RULES[1].model_copy(update={"targets": ("self",)}))},  # the rule is about others now
    ],
    ids=["no rule", "no target", "not its target"],
)
def test_what_is_no_longer_watched_is_closed_once(engine: Engine, now: dict[str, object]) -> None:
    """A firing that nothing in the configuration explains any more gets its resolved at the next start, and only one."""
    Monitor(configuration(receiver()), engine).tick([Sample("shop", "up", 0.0)], 100.0)
    changed = configuration(receiver()).model_copy(update=now)

    assert 1 == Monitor(changed, engine).tick([], 200.0)
    assert [("ops", "TargetDown", "resolved")] == told(engine)
    assert 0 == Monitor(changed, engine).tick([], 300.0)

    # And it can fire again when it is watched again.
    assert 1 == Monitor(configuration(receiver()), engine).tick([Sample("shop", "up", 0.0)], 400.0)


def test_a_tick_in_which_nothing_changes_writes_nothing(engine: Engine) -> None:
    """A quiet tick does not touch the database."""
    monitor = Monitor(configuration(receiver()), engine)
    monitor.tick([cpu(10)], 100.0)
    statements: list[object] = []
    event.listen(engine, "before_cursor_execute", lambda *parts: statements.append(parts[2]))
    monitor.tick([cpu(11)], 101.0)

    assert [] == statements


def test_a_stop_finishes_the_tick_and_what_is_being_sent(engine: Engine) -> None:
    """The loop ends when it is told to, and by then has delivered what its last tick put out."""
    stopping = threading.Event()
    with receiving() as server:
        parts = configuration(receiver(server.url)).model_copy(
            update={"targets": (Target(name="gone", url=SecretStr("http://127.0.0.1:9/")),)}
        )
        thread = threading.Thread(target=run, args=(parts, engine, stopping))
        thread.start()
        server.wait_for(1)
        stopping.set()
        thread.join(20)

        assert not thread.is_alive()
        assert ["alert.firing"] == [each.message["type"] for each in server.requests]
        assert "it refuses the connection" == server.requests[0].message["data"]["alerts"][0]["reason"]
