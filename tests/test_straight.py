"""What is told past the database: in order, with care for the receiver, and not once the outbox has it."""

from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from service.monitor import receivers
from service.monitor.exchange import Client
from service.monitor.straight import IDLE, Straight
from service.receiver import Receiver
from tests.receiver import Receiver as Server
from tests.receiver import receiving
from tests.test_outbox import firing, resolved

FAILURE = receivers.own("DatabaseFailure", "cannot write", "disk full", 100.0, instance="here")


@pytest.fixture
def server() -> Iterator[Server]:
    with receiving() as server:
        yield server


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client()
    yield client
    client.close()


@pytest.fixture
def straight(server: Server) -> Straight:
    return Straight(Receiver(name="ops", webhook=SecretStr(server.url)), lambda: 100.0)


def told(server: Server) -> list[str]:
    return [f"{each['status']} {each['target']}" for got in server.requests for each in got.message["data"]["alerts"]]


def test_what_is_put_is_sent_in_its_order(straight: Straight, server: Server, client: Client) -> None:
    """All that waits goes into one message, and then there is nothing more to do."""
    for content in (FAILURE, firing("a"), resolved("a"), firing("b")):
        straight.put(content)

    assert 0.0 == straight.send(client)
    assert IDLE == straight.send(client)
    assert ["firing monitor", "firing a", "resolved a", "firing b"] == told(server)
    assert 1 == len(server.requests)


def test_once_it_is_stored_only_what_is_about_the_monitor_is_still_told(
    straight: Straight, server: Server, client: Client
) -> None:
    """The outbox tells the rest; told here as well, a firing could come after its own resolved."""
    server.answer = lambda number: 503 if number == 1 else 204
    for content in (FAILURE, firing("a")):
        straight.put(content)
    assert straight.send(client) > 0
    straight.stored()
    straight.put(receivers.own_resolved(FAILURE, 200.0, 60.0))
    straight._due = 0.0  # the wait is over

    assert 0.0 == straight.send(client)
    assert ["firing monitor", "firing a", "firing monitor", "resolved monitor"] == told(server)


def test_a_try_that_failed_is_repeated_as_it_was_after_a_wait(straight: Straight, server: Server, client: Client) -> None:
    """The same id and the same alerts, though more has come; not before its time."""
    server.answer = lambda number: 500 if number == 1 else 204
    straight.put(firing("a"))
    pause = straight.send(client)
    straight.put(firing("b"))

    assert 0 < straight.send(client) <= pause
    assert 1 == len(server.requests)
    straight._due = 0.0
    straight.send(client)
    straight.send(client)
    assert ["firing a", "firing a", "firing b"] == told(server)
    first, again, other = (got.headers["webhook-id"] for got in server.requests)
    assert first == again != other


@pytest.mark.parametrize(("status", "pause"), [(429, 3600.0), (503, 3600.0), (410, IDLE)])
def test_a_receiver_that_says_not_now_or_never_is_obeyed(
    straight: Straight, server: Server, client: Client, status: int, pause: float
) -> None:
    """Retry-After counts here as well, and after a 410 nothing more comes."""
    server.answer = lambda _: status
    server.headers = {"Retry-After": "3600"}
    straight.put(firing("a"))
    straight.send(client)

    assert pause - 5 < straight.send(client) <= pause
    assert 1 == len(server.requests)
