"""Delivery: in order, marked after the 2xx, tried again with growing waits."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, select

from service.configuration import Receiver
from service.database import connect, notifications
from service.monitor.exchange import Client
from service.monitor.outbox import FIRST_WAIT, IDLE, LONGEST_WAIT, Outbox, deliver_next, put, wait_after
from tests.receiver import receiving
from tests.test_receivers import FIRING, RESOLVED


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = connect(f"sqlite:///{tmp_path}/tocsin.db")
    yield engine
    engine.dispose()


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client()
    yield client
    client.close()


def to(url: str, name: str = "ops", timeout: float = 10.0) -> Receiver:
    return Receiver.model_construct(name=name, webhook=SecretStr(url), secret=None, timeout=timeout)


def add(engine: Engine, receiver: Receiver, *contents: dict[str, object], now: float = 100.0) -> None:
    with engine.begin() as connection:
        put(connection, [receiver], contents, now)


def rows(engine: Engine) -> list[tuple[float | None, int, str | None]]:
    with engine.connect() as connection:
        found = connection.execute(select(notifications).order_by(notifications.c.id))
        return [(row.delivered, row.attempts, row.error) for row in found]


def test_a_2xx_marks_it_delivered(engine: Engine, client: Client) -> None:
    """A notification that was answered with 204 is marked with the time, and asks for no wait."""
    with receiving() as receiver:
        add(engine, to(receiver.url), FIRING)

        assert 0.0 == deliver_next(engine, to(receiver.url), client, lambda: 101.0)
        assert [(101.0, 1, None)] == rows(engine)
        assert "alert.firing" == receiver.requests[0].message["type"]


@pytest.mark.parametrize("status", [300, 301, 400, 404, 500, 503])
def test_any_other_answer_leaves_it_waiting(engine: Engine, client: Client, status: int) -> None:
    """Only a 2xx counts: after any other answer the notification stays, with the reason and a later time."""
    with receiving() as receiver:
        receiver.answer = lambda _: status
        add(engine, to(receiver.url), FIRING)
        pause = deliver_next(engine, to(receiver.url), client, lambda: 101.0)

        assert FIRST_WAIT / 2 <= pause <= FIRST_WAIT
        assert [(None, 1, f"it answered {status}")] == rows(engine)


def test_what_is_not_due_is_not_tried(engine: Engine, client: Client) -> None:
    """Between two tries the receiver is left alone."""
    with receiving() as receiver:
        receiver.answer = lambda _: 500
        add(engine, to(receiver.url), FIRING)
        deliver_next(engine, to(receiver.url), client, lambda: 101.0)

        assert deliver_next(engine, to(receiver.url), client, lambda: 101.1) > 0
        assert 1 == len(receiver.requests)


def test_a_resolved_waits_for_its_firing(engine: Engine, client: Client) -> None:
    """The order within a receiver holds: nothing overtakes a notification that failed."""
    clock = [101.0]
    with receiving() as receiver:
        receiver.answer = lambda number: 500 if number == 1 else 204
        add(engine, to(receiver.url), FIRING, RESOLVED)
        for _ in range(4):
            clock.append(clock[-1] + deliver_next(engine, to(receiver.url), client, lambda: clock[-1]))

        assert ["alert.firing", "alert.firing", "alert.resolved"] == [each.message["type"] for each in receiver.requests]
        assert receiver.requests[0].headers["webhook-id"] == receiver.requests[1].headers["webhook-id"]


def test_an_empty_outbox_asks_for_a_long_wait(engine: Engine, client: Client) -> None:
    """With nothing to send the thread sleeps until it is woken."""
    assert IDLE == deliver_next(engine, to("http://127.0.0.1:9/"), client, lambda: 1.0)


@pytest.mark.parametrize(
    ("attempts", "longest"), [(1, 1.0), (2, 2.0), (3, 4.0), (6, 32.0), (7, LONGEST_WAIT), (1000, LONGEST_WAIT)]
)
def test_waits_double_up_to_a_limit_below_a_minute(attempts: int, longest: float) -> None:
    """A wait lies between half of the doubled one and all of it, and never grows past the limit."""
    assert (longest / 2, longest) == (wait_after(attempts, 0.0), wait_after(attempts, 1.0))


def test_a_secret_address_is_in_no_error(engine: Engine, client: Client) -> None:
    """What is kept about a failure does not repeat the receiver's address, whose path may be its key."""
    add(engine, to("http://127.0.0.1:9/services/T0/SECRET"), FIRING)
    deliver_next(engine, to("http://127.0.0.1:9/services/T0/SECRET"), client, lambda: 101.0)

    assert [(None, 1, "it refuses the connection")] == rows(engine)


def test_p23_a_receiver_that_hangs_delays_no_other(engine: Engine) -> None:
    """While one receiver holds its request open, another gets all of its messages."""
    release = threading.Event()
    with receiving() as stuck, receiving() as quick:
        stuck.answer = lambda _: 204 if release.wait(20) else 500
        both = [to(stuck.url, "stuck"), to(quick.url, "quick")]
        sender = Outbox(engine, both, time.time)
        sender.start()
        with engine.begin() as connection:
            put(connection, both, [FIRING, RESOLVED], time.time())
        sender.wake()
        try:
            assert 2 == len(quick.wait_for(2))
            assert 1 == len(stuck.requests)
        finally:
            release.set()
            sender.stop(10)
