"""The dead man's switch: one call at a time, and what it says when nobody takes it."""

import threading
import time
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from service.monitor.heartbeat import Heartbeat
from tests.conftest import Lines
from tests.stack import free_port
from tests.test_loop import World, until


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


def heart_of(url: str) -> Heartbeat:
    return Heartbeat(SecretStr(url))


def test_a_beat_is_a_call(world: World) -> None:
    """Each beat asks the address once, and none is made without."""
    heart = heart_of(f"{world.url}/beat")
    for number in range(1, 4):
        heart.beat()
        until(lambda number=number: world.beats == number)  # type: ignore[misc]
    time.sleep(0.2)
    heart.stop()

    assert 3 == world.beats


def test_beats_are_left_out_while_a_call_hangs(world: World) -> None:
    """They do not pile up: after the one that hung there is one more."""
    world.hanging.set()
    heart = heart_of(f"{world.url}/beat")
    heart.beat()
    until(lambda: world.beats == 1)
    began = time.monotonic()
    for _ in range(100):
        heart.beat()
    assert time.monotonic() - began < 5
    world.hanging.clear()
    world.released.set()
    until(lambda: world.beats == 2)
    time.sleep(0.2)
    heart.stop()

    assert 2 == world.beats


def test_that_it_does_not_arrive_is_said_once_and_without_its_address(world: World, lines: Lines) -> None:
    """And once more when it arrives again; the address may be a key, and is in no line."""
    heart = heart_of(f"{world.url}/SECRET")
    for status_down in (True, True, True, False, False):
        (world.down.add if status_down else world.down.discard)("SECRET")
        before = world.calls
        heart.beat()
        until(lambda before=before: world.calls == before + 1)  # type: ignore[misc]
        time.sleep(0.1)
    heart.stop()

    assert [("the heartbeat does not arrive", "it answered 503"), ("the heartbeat arrives again", None)] == [
        (line["message"], line.get("error.message")) for line in lines()
    ]


def test_nobody_there_is_said_without_the_address(lines: Lines) -> None:
    """A connection that is refused is a fault like any other."""
    heart = heart_of(f"http://127.0.0.1:{free_port()}/SECRET")
    heart.beat()
    until(lines)
    heart.stop()

    assert ["it refuses the connection"] == [line["error.message"] for line in lines()]


def test_without_an_address_there_is_no_thread() -> None:
    """No heartbeat is configured: beats go nowhere, and cost nothing."""
    before = threading.active_count()
    heart = Heartbeat(None)
    heart.beat()
    heart.stop()

    assert before == threading.active_count()
