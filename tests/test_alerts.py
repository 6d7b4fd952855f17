"""What the monitor leaves in the database as people read it, acknowledging, and the monitor's figures of itself."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert, select, update

from service import alerts, silences
from service.alerts import Acknowledgement, QuietError, UnknownError
from service.checking import checked
from service.database import connect, reading
from service.silences import Draft
from service.tables import deliveries, notifications
from tests.ticking import Ticking, cpu, nightly, up

NOW = 1_792_150_860.0  # 2026-10-16T11:41:00Z


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = connect(f"sqlite:///{tmp_path}/tocsin.db")
    yield engine
    engine.dispose()


def every(engine: Engine) -> list[alerts.Alert]:
    with reading(engine) as connection:
        return alerts.every(connection)


def figures(engine: Engine) -> alerts.Figures:
    with reading(engine) as connection:
        return alerts.figures(connection)


def acknowledge(engine: Engine, fingerprint: str, author: str = "ann", comment: str = "", now: float = NOW) -> alerts.Alert:
    with engine.begin() as connection:
        return alerts.acknowledge(connection, fingerprint, Acknowledgement(author=author, comment=comment), now)


def test_what_fires_comes_first_and_the_newest_of_it(engine: Engine) -> None:
    """Firing, then pending, each with the newest first; what is well again is not listed."""
    monitor = Ticking(engine)
    monitor.tick(NOW, up("shop", 0), cpu("shop", 90))
    monitor.tick(NOW + 10, up("db", 0), cpu("db", 90), up("shop", 0))
    monitor.tick(NOW + 20, up("db", 1), up("shop", 0))
    monitor.tick(NOW + 30, up("db", 0))

    assert [
        ("TargetDown", "db", "firing", NOW + 30),
        ("TargetDown", "shop", "firing", NOW),
        ("HighCpu", "db", "pending", NOW + 10),
        ("HighCpu", "shop", "pending", NOW),
    ] == [(each.alert, each.target, each.state, each.since) for each in every(engine)]


def test_an_alert_says_what_its_firing_said_and_to_whom(engine: Engine) -> None:
    """While it fires its content is there; a pending one has none."""
    Ticking(engine).tick(NOW, up("shop", 0), cpu("db", 90))
    firing, pending = every(engine)

    assert firing.content
    assert ("critical", "shop does not answer") == (firing.content["severity"], firing.content["summary"])
    assert (("ops", "chat"), False, None, None) == (firing.receivers, firing.flapping, firing.held, firing.acknowledgement)
    assert (None, ()) == (pending.content, pending.receivers)


def test_what_keeps_an_alert_quiet_is_named(engine: Engine) -> None:
    """Silences come with who made them, maintenance windows with their name, a hold with the parent that is down."""
    with engine.begin() as connection:
        made = silences.add(
            connection, checked(Draft, {"matchers": ["target=shop"], "duration": "1d", "author": "ann"}, NOW), NOW
        )
    night = NOW + 15 * 3600  # 02:41
    Ticking(engine, maintenance=(nightly(),)).tick(night, *(up(name, 0) for name in ("shop", "db", "web")))
    found = {each.target: each for each in every(engine)}

    assert ((made,), ()) == (found["shop"].silences, found["shop"].windows)
    assert ((), ("nightly",)) == (found["db"].silences, found["db"].windows)
    assert "db" == found["web"].held
    assert [(), (), ()] == [each.receivers for each in found.values()]


def test_acknowledging_again_takes_the_place_of_it(engine: Engine) -> None:
    """Who acknowledged last is who has it, with the time and the comment of that."""
    Ticking(engine).tick(NOW, up("shop", 0))
    (alert,) = every(engine)
    acknowledge(engine, alert.fingerprint, "ann", "looking", NOW + 1)
    found = acknowledge(engine, alert.fingerprint, "ben", "mine", NOW + 2)

    assert [found] == every(engine)
    assert found.acknowledgement
    assert (NOW + 2, "ben", "mine") == (found.acknowledged, found.acknowledgement.author, found.acknowledgement.comment)


def test_an_acknowledgement_ends_with_the_alert(engine: Engine) -> None:
    """It survives the ticks while it fires, and is gone when it is resolved or fires anew."""
    monitor = Ticking(engine)
    monitor.tick(NOW, up("shop", 0))
    (alert,) = every(engine)
    acknowledge(engine, alert.fingerprint)
    seen = []
    for offset, value in ((10, 0), (20, 1), (30, 0)):
        monitor.tick(NOW + offset, up("shop", value))
        with reading(engine) as connection:
            seen.append(alerts.find(connection, alert.fingerprint).acknowledgement is not None)

    assert [True, False, False] == seen


def test_an_acknowledgement_holds_reminders(engine: Engine) -> None:
    """Nobody is reminded of what someone has taken on; without it they are."""
    monitor = Ticking(engine, repeat_interval=60.0)
    monitor.tick(NOW, up("shop", 0), up("db", 0))
    fingerprint = next(each.fingerprint for each in every(engine) if each.target == "shop")
    acknowledge(engine, fingerprint)

    assert 2 == monitor.tick(NOW + 60, up("shop", 0), up("db", 0))  # ops and chat, of db alone


def test_only_what_fires_can_be_acknowledged(engine: Engine) -> None:
    """What is pending or well again is refused with its state, and what never was is unknown."""
    monitor = Ticking(engine)
    monitor.tick(NOW, cpu("shop", 90))
    (pending,) = every(engine)
    with pytest.raises(QuietError, match="HighCpu on shop is pending; only what fires can be acknowledged"):
        acknowledge(engine, pending.fingerprint)
    monitor.tick(NOW + 10, cpu("shop", 10))
    with pytest.raises(QuietError, match="is inactive"):
        acknowledge(engine, pending.fingerprint)
    for fingerprint in ("", "0" * 16, "\0", "é" * 5000):
        with pytest.raises(UnknownError):
            acknowledge(engine, fingerprint)
    assert [] == every(engine)


def test_before_the_first_tick_there_are_no_figures(engine: Engine) -> None:
    """A monitor that has never run has not ticked, and nothing waits."""
    found = figures(engine)
    assert [None] * 6 == [found.started, found.interval, found.ticks, found.late, found.ticked, found.seconds]
    assert ({"firing": 0, "pending": 0}, {}, 0, 0, None) == (
        found.states,
        found.deliveries,
        found.waiting,
        found.dead,
        found.oldest,
    )


def test_the_figures_are_what_the_last_tick_left(engine: Engine) -> None:
    """Ticks are counted, alerts by their state, notifications by what has become of them."""
    monitor = Ticking(engine)
    monitor.tick(NOW, up("shop", 0), cpu("shop", 90), cpu("db", 90))
    monitor.tick(NOW + 10, up("shop", 0), up("db", 0))
    with engine.begin() as connection:
        for receiver, outcome, count in (("ops", "delivered", 7), ("ops", "failed", 2), ("chat", "dead", 1)):
            connection.execute(insert(deliveries).values(receiver=receiver, outcome=outcome, count=count))
        first = connection.execute(select(notifications.c.id).order_by(notifications.c.id)).scalars().first()
        connection.execute(update(notifications).where(notifications.c.id == first).values(waiting=False, dead=NOW + 5))
    found = figures(engine)

    assert (NOW, 10.0, 2, 0, NOW + 10, 0.25) == (
        found.started,
        found.interval,
        found.ticks,
        found.late,
        found.ticked,
        found.seconds,
    )
    assert {"firing": 2, "pending": 2} == found.states
    assert {
        "chat": {"delivered": 0, "failed": 0, "dead": 1},
        "ops": {"delivered": 7, "failed": 2, "dead": 0},
    } == found.deliveries
    assert (3, 1, NOW) == (found.waiting, found.dead, found.oldest)
