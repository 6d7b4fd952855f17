"""Every firing is kept: from the first sight of its condition to its end, in the transactions in which these come about."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, event, select, text
from sqlalchemy.exc import SQLAlchemyError

from service import alerts, database, occurrences
from service.alerts import Acknowledgement
from service.database import MIGRATIONS, open_on
from service.monitor import receivers
from service.monitor.healing import Repairs, Seen
from service.monitor.store import Store
from service.monitor.watch import Watch
from service.occurrences import Occurrence
from service.services import Service
from service.tables import messages
from tests.simulation import START, Simulation, configuration, cpu, down, rule, up
from tests.test_incidents import Incident, heals

Start = Callable[..., Simulation]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:
        yield lambda *names, **fields: Simulation(tmp_path, configuration(*names, **fields), stack)


def every(engine: Engine, **asked: Any) -> list[Occurrence]:
    with database.reading(engine) as connection:
        return occurrences.page(connection, **asked)[0]


def kept(engine: Engine) -> list[tuple[Any, ...]]:
    """Of each, the newest first: alert and target, and when it began, fired, was told and ended, counted from START."""
    return [
        (
            f"{each.alert} {each.target}",
            *(None if at is None else at - START for at in (each.began, each.fired, each.told, each.ended)),
        )
        for each in every(engine)
    ]


def test_an_occurrence_has_its_times(start: Start) -> None:
    """It began when the condition was first seen, fired after `for`, was told when a receiver took it, and ended."""
    simulation = start("ops", rules=(rule(**{"for": "20s"}),))
    for _ in range(2):
        simulation.tick(cpu(90))
    assert [] == kept(simulation.engine)
    simulation.tick(cpu(90), deliver=False)
    assert [("High self", 10, 30, None, None)] == kept(simulation.engine)
    simulation.now += 3
    simulation.deliver()
    simulation.now += 7
    simulation.tick(cpu(10))
    assert [("High self", 10, 30, 33, 50)] == kept(simulation.engine)
    (found,) = every(simulation.engine)
    assert ("warning", "self: High, 90 % (threshold 80 %)", {}, 0) == (
        found.severity,
        found.summary,
        found.labels,
        found.restarts,
    )
    assert found.id == simulation.alerts()[0]["occurrence"] == simulation.alerts()[1]["occurrence"]


def test_the_first_receiver_counts(start: Start) -> None:
    """That others are told later changes nothing; a receiver that is away does not hold it up."""
    simulation = start("ops", "chat")
    simulation.servers["ops"].answer = lambda _: 500
    simulation.tick(cpu(90))
    simulation.servers["ops"].answer = lambda _: 204
    simulation.now += 600
    simulation.deliver()
    assert [("High self", 10, 10, 10, None)] == kept(simulation.engine)


def test_what_is_told_late_was_told_then(start: Start) -> None:
    """One whose receiver came back only after it was over was told when that took both."""
    simulation = start("ops")
    simulation.servers["ops"].answer = lambda _: 500
    simulation.tick(cpu(90))
    simulation.tick(cpu(10))
    simulation.servers["ops"].answer = lambda _: 204
    simulation.now += 900
    simulation.deliver()
    assert [("High self", 10, 10, 920, 20)] == kept(simulation.engine)


def test_a_message_knows_since_when_the_oldest_in_it_waits(start: Start) -> None:
    """Also when it was put together anew, as more came in while its receiver was away: what reports call its delay."""
    simulation = start("ops")
    simulation.servers["ops"].answer = lambda _: 503
    simulation.tick(cpu(90))
    simulation.now += 600
    simulation.tick(cpu(90), down("gateway"))
    simulation.servers["ops"].answer = lambda _: 204
    simulation.now += 900
    simulation.deliver()
    with database.reading(simulation.engine) as connection:
        (message,) = connection.execute(select(messages)).all()
    assert (2, START + 10, START + 1520) == (len(message.parts), message.since, message.delivered)
    assert message.created > START + 600


def test_what_is_silenced_is_kept_and_told_to_nobody(start: Start) -> None:
    """It has an end, and no time at which it was told."""
    simulation = start("ops")
    simulation.silence("target=self")
    simulation.tick(cpu(90))
    simulation.tick(cpu(10))
    assert [("High self", 10, 10, None, 20)] == kept(simulation.engine)


def test_each_firing_is_one(start: Start) -> None:
    """Of one alert again and again, and of several at once; also after a restart of the monitor in between."""
    simulation = start("ops")
    simulation.tick(cpu(90), down("gateway"))
    simulation.restart()
    simulation.tick(cpu(10), down("gateway"))
    simulation.tick(cpu(90), up("gateway"))
    assert [("High self", 30, 30, None), ("Down gateway", 10, 10, 30), ("High self", 10, 10, 20)] == [
        (name, began, fired, ended) for name, began, fired, _, ended in kept(simulation.engine)
    ]


@pytest.mark.parametrize(
    "changed", [{"rules": ()}, {"targets": ()}, {"rules": (rule("Higher"),)}], ids=["rule", "target", "another name"]
)
def test_what_is_no_longer_watched_has_ended(start: Start, changed: dict[str, Any]) -> None:
    """A rule or a target that is taken out of the configuration ends what fires."""
    simulation = start("ops")
    simulation.tick(cpu(90))
    simulation.reload(configuration("ops", **changed))
    simulation.tick()
    assert [("High self", 10, 10, 10, 20)] == kept(simulation.engine)


def test_who_took_it_on_is_kept_with_it(start: Start) -> None:
    """An acknowledgement is of the firing that lasts, and of no other."""
    simulation = start("ops")
    for value in (90, 10, 90):
        simulation.tick(cpu(value))
    with simulation.engine.begin() as connection:
        fingerprint = every(simulation.engine)[0].fingerprint
        alerts.acknowledge(connection, fingerprint, Acknowledgement(author="ann"), simulation.now + 5)
    simulation.tick(cpu(10))
    assert [(35.0, "ann"), (None, None)] == [
        (None if each.acknowledged is None else each.acknowledged - START, each.acknowledged_by)
        for each in every(simulation.engine)
    ]


def test_restarts_are_counted_and_giving_up_is_critical(start: Start) -> None:
    """How often its service was restarted for it, also when all is over; and again from nothing the next time."""
    services = (Service(name="web", supervisord="web"),)
    incident = Incident(start("ops", rules=(heals(),), services=services))
    restarts = []
    for _ in range(60):
        incident.tick(down("self"))
        (found,) = every(incident.simulation.engine)
        restarts.append((found.severity, found.restarts))
    assert [("warning", 0), ("warning", 1), ("warning", 2), ("warning", 3), ("critical", 3)] == list(dict.fromkeys(restarts))
    incident.ticks(4, up("self"))
    (found,) = every(incident.simulation.engine)
    assert ("critical", 3, True) == (found.severity, found.restarts, found.ended is not None)


def test_it_is_written_with_the_transition_or_not_at_all(start: Start) -> None:
    """When the tick cannot be committed there is neither; the next one writes both, with the time at which it was so."""
    simulation = start("ops")
    simulation.tick(cpu(10))

    def fail(*given: object) -> None:
        if "UPDATE monitor" in str(given[2]):
            raise sqlite3.OperationalError("disk I/O error")

    event.listen(simulation.engine, "before_cursor_execute", fail)
    for value in (90, 10, 90):
        with pytest.raises(SQLAlchemyError):
            simulation.tick(cpu(value))
    event.remove(simulation.engine, "before_cursor_execute", fail)
    assert [] == kept(simulation.engine)
    simulation.tick(cpu(90), deliver=False)
    assert [("High self", 40, 40, None, None), ("High self", 20, 20, None, 30)] == kept(simulation.engine)


def test_a_lost_database_is_given_back_what_fires(start: Start) -> None:
    """What was open when the file was damaged is in the new one, with its times, and ends there."""
    simulation = start("ops", rules=(rule(**{"for": "20s"}),))
    for _ in range(3):
        simulation.tick(cpu(90))
    simulation.store.replace(simulation.watch, simulation.now)
    simulation.tick(cpu(90))
    assert [("High self", 10, 30, 40, None)] == kept(simulation.engine)
    simulation.tick(cpu(10))
    assert [("High self", 10, 30, 40, 50)] == kept(simulation.engine)


def test_what_was_evaluated_on_nothing_is_dropped_with_it(start: Start, tmp_path: Path) -> None:
    """A firing that the database knew of already is not a second one, although the monitor could not read it at first."""
    simulation = start("ops")
    simulation.tick(cpu(90))
    engine = open_on(f"sqlite:///{tmp_path}/tocsin.db")
    watch, store = Watch(simulation.configuration), Store(engine)
    watch.tick([cpu(90)], START + 20)
    store.look(watch, START + 30)
    watch.tick([cpu(90)], START + 30)
    store.commit(watch, simulation._figures, START + 30)
    engine.dispose()
    assert [("High self", 10, 10, 10, None)] == kept(simulation.engine)


def test_a_program_that_was_given_up_is_one_too(start: Start) -> None:
    """Its alert comes from no rule; it is kept by who announces it, and ended by the monitor when it runs again."""
    simulation = start("ops", services=(Service(name="web", supervisord="web"),))
    simulation.tick()
    assert simulation.store.give_notice(simulation.configuration, "web", START + 15)
    assert [("ServiceFailure web", 15, 15, None, None)] == kept(simulation.engine)
    seen = Repairs({"web": Seen("running", START + 15)})
    for _ in range(3):
        simulation.tick(repairs=seen)
    assert [("ServiceFailure web", 15, 15, 20, 30)] == kept(simulation.engine)


def test_they_are_found_by_what_they_are_about(start: Start) -> None:
    """By alert, target, time, and whether they still fire; page by page, the newest first."""
    simulation = start("ops")
    simulation.tick(cpu(90), down("gateway"))
    simulation.tick(cpu(10), down("gateway"))
    simulation.tick(cpu(90, "gateway"), down("gateway"))

    def found(**asked: Any) -> list[str]:
        return [f"{each.alert} {each.target}" for each in every(simulation.engine, **asked)]

    assert ["High gateway"] == found(alert="High", target="gateway")
    assert ["High self"] == found(fires=False)
    assert 2 == len(found(fires=True))
    assert 2 == len(found(until=START + 30))
    assert ["High gateway"] == found(since=START + 30)
    with database.reading(simulation.engine) as connection:
        first, position = occurrences.page(connection, limit=2)
        rest, end = occurrences.page(connection, limit=2, after=position)
        assert first[0] == occurrences.find(connection, first[0].id)
        with pytest.raises(occurrences.UnknownError):
            occurrences.find(connection, "nothing")
    assert every(simulation.engine) == [*first, *rest]
    assert end is None


def test_an_upgrade_keeps_what_fires(start: Start, tmp_path: Path) -> None:
    """What fired before there were occurrences has one afterwards, and ends as others do."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    engine = open_on(f"sqlite:///{tmp_path}/tocsin.db")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0003")
        said = receivers.own("High", "it is down", "", START, instance="", target="self") | {"metric": "cpu_usage"}
        columns = "fingerprint, alert, target, labels, state, since, content, announced"
        for name, state, content in ((said["fingerprint"], "firing", json.dumps(said)), ("0" * 16, "inactive", None)):
            row = {"f": name, "state": state, "since": START, "content": content}
            connection.execute(
                text(f"INSERT INTO alerts ({columns}) VALUES (:f, 'High', 'self', '{{}}', :state, :since, :content, '[]')"), row
            )
    engine.dispose()
    simulation = start("ops", rules=())
    assert [("High self", 0, 0, None, None)] == kept(simulation.engine)
    simulation.tick()
    assert [("High self", 0, 0, None, 10)] == kept(simulation.engine)


def test_a_monitor_of_the_version_before_left_no_occurrence_open(start: Start) -> None:
    """Ending what is not there is no error."""
    simulation = start("ops")
    simulation.tick(cpu(90))
    with closing(sqlite3.connect(simulation.engine.url.database or "")) as other:
        other.execute("DELETE FROM occurrences")
        other.commit()
    simulation.tick(cpu(10))
    assert [] == kept(simulation.engine)
