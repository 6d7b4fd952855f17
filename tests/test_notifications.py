"""Notifications, as the real outbox leaves them: what each receiver was told, whether it arrived, and why it did not."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine

from service import notifications
from service.database import reading
from service.monitor import outbox
from service.notifications import Notification, UnknownError
from service.settings import Settings
from service.web import create_app
from tests.test_cli_alerts import tocsin
from tests.test_outbox import BOTH, claim, fail, firing, put, resolved

FIELDS = ["id", "receiver", "alert", "target", "severity", "summary", "status", "changed_at", "state", "delivered_at", "attempts"]
FIELDS += ["last_error", "occurrence", "fingerprint"]


@pytest.fixture
def client(settings: Settings) -> Iterator[FlaskClient]:
    app = create_app(settings)
    yield app.test_client()
    app.extensions["sampler"].stop()


def found(engine: Engine, **wanted: Any) -> list[Notification]:
    with reading(engine) as connection:
        return notifications.page(connection, **wanted)[0]


def take(engine: Engine, now: float) -> None:
    message = claim(engine, now)
    assert message
    with engine.begin() as connection:
        outbox.delivered(connection, [message], now)


def refuse(engine: Engine, now: float) -> None:
    message = claim(engine, now)
    assert message
    fail(engine, message, now, uncertain=False)


def test_what_becomes_of_one_is_told(engine: Engine) -> None:
    """It waits, is tried in vain, arrives, waits again with its resolved, and is told in the end; each step is seen."""
    put(engine, firing())
    assert [("waiting", 0, None, None)] == seen(engine)
    refuse(engine, 110.0)
    assert [("waiting", 1, None, "it answered 503")] == seen(engine)
    refuse(engine, 120.0)
    take(engine, 130.0)
    assert [("delivered", 3, 130.0, None)] == seen(engine)
    put(engine, resolved(), now=160.0)
    assert [("waiting", 3, 130.0, None)] == seen(engine)
    refuse(engine, 170.0)
    assert [("waiting", 1, 130.0, "it answered 503")] == seen(engine)
    take(engine, 180.0)
    (told,) = found(engine)
    assert ("resolved", "delivered", 2, 180.0, 160.0) == (told.status, told.state, told.attempts, told.delivered, told.changed)
    assert told.content["summary"].startswith("Resolved after 1 min")


def seen(engine: Engine) -> list[tuple[Any, ...]]:
    return [(each.state, each.attempts, each.delivered, each.error) for each in found(engine)]


def test_a_dead_one_says_why(engine: Engine) -> None:
    """Given up after three days, it keeps the number of tries and the last error; made to wait again, it waits."""
    put(engine, firing())
    refuse(engine, 110.0)
    refuse(engine, 101.0 + outbox.GIVE_UP)
    assert [("dead", 2, None, "it answered 503")] == seen(engine)
    with engine.begin() as connection:
        outbox.replay(connection, 300_000.0)
    assert ["waiting"] == [each.state for each in found(engine)]


def test_they_are_found_by_what_they_are_about(engine: Engine) -> None:
    """By receiver, state, alert, target and time, alone and together; the last to change comes first."""
    put(engine, firing("a"), receivers=BOTH)
    put(engine, firing("b", 200.0), now=200.0)
    take(engine, 210.0)

    def targets(**wanted: Any) -> list[tuple[str, str]]:
        return [(each.receiver, each.content["target"]) for each in found(engine, **wanted)]

    every = [("ops", "b"), ("chat", "a"), ("ops", "a")]
    assert every == targets()
    assert [("chat", "a")] == targets(receiver="chat") == targets(state="waiting")
    assert [("ops", "b"), ("ops", "a")] == targets(state="delivered")
    assert [("chat", "a"), ("ops", "a")] == targets(target="a") == targets(until=200.0)
    assert [("ops", "b")] == targets(since=200.0) == targets(target="b", alert="HighCpu", receiver="ops")
    assert [] == targets(alert="Another") == targets(state="dead") == targets(receiver="chat", target="b")


def test_what_changed_last_comes_first(engine: Engine) -> None:
    """The end of an old alert stands before the beginning of a new one."""
    put(engine, firing("a"))
    put(engine, firing("b", 200.0), now=200.0)
    put(engine, resolved("a", at=300.0), now=300.0)
    assert [("a", "resolved"), ("b", "firing")] == [(each.content["target"], each.status) for each in found(engine)]


def test_one_is_found_by_its_id(engine: Engine) -> None:
    """What is none, also a number that no database has, is unknown."""
    put(engine, firing())
    (only,) = found(engine)
    with reading(engine) as connection:
        assert only == notifications.find(connection, only.id)
        for identity in (0, only.id + 1, 2**63, 10**40):
            with pytest.raises(UnknownError, match=f"there is no notification {identity}"):
                notifications.find(connection, identity)


def test_the_api_tells_them(engine: Engine, client: FlaskClient) -> None:
    """With the fields in their order and the times in words; what is no state or no time is a fault, what is unknown 404."""
    put(engine, firing())
    refuse(engine, 110.0)
    answer = client.get("/api/v1/notifications?state=waiting&target=self&since=1970-01-01T00:01:40Z")
    (shown,) = answer.get_json()["notifications"]

    assert FIELDS == list(shown)
    assert {
        "receiver": "ops",
        "alert": "HighCpu",
        "target": "self",
        "severity": "warning",
        "status": "firing",
        "changed_at": "1970-01-01T00:01:40.000Z",
        "state": "waiting",
        "delivered_at": None,
        "attempts": 1,
        "last_error": "it answered 503",
    }.items() <= shown.items()
    assert shown["occurrence"].startswith(shown["fingerprint"])
    assert shown == client.get(f"/api/v1/notifications/{shown['id']}").get_json()
    assert [404] * 3 == [client.get(f"/api/v1/notifications/{each}").status_code for each in ("0", "x", "9" * 40)]
    faults = client.get("/api/v1/notifications?state=lost&since=yesterday&until=2026-10-16T11:41:00").get_json(force=True)
    assert [
        {"place": "since", "fault": "is not a time; write one such as 2026-10-16T11:41:00Z"},
        {"place": "until", "fault": "has no zone; add Z for UTC, or an offset such as +02:00"},
        {"place": "state", "fault": "'lost' is none of waiting, delivered, dead"},
    ] == faults["errors"]


def test_the_command_tells_tries_and_the_last_error(engine: Engine, tmp_path: Path) -> None:
    """`tocsin outbox` lists what waits and what was given up; what was delivered is not in it."""
    assert ("", "0 not delivered\n") == ((said := tocsin(tmp_path, "outbox")).stdout, said.stderr)
    put(engine, firing(), receivers=BOTH)
    refuse(engine, 110.0)
    put(engine, firing("b", 200.0), now=200.0)
    refuse(engine, 101.0 + outbox.GIVE_UP)

    said = tocsin(tmp_path, "outbox")
    head, *rows = said.stdout.splitlines()
    assert ["SINCE", "RECEIVER", "STATE", "STATUS", "TRIES", "LAST ERROR", "SUMMARY"] == re.split("  +", head)
    assert [
        ["ops", "given up 1970-01-04T00:01:41.000Z", "firing", "2", "it answered 503"],
        ["chat", "waiting", "firing", "0"],
        ["ops", "waiting", "firing", "2", "it answered 503"],
    ] == [re.split("  +", row)[1:-1] for row in rows]
    assert "3 not delivered\n" == said.stderr

    less = tocsin(tmp_path, "outbox", "--limit", "2")
    assert [head.split(), *(row.split() for row in rows[:2])] == [line.split() for line in less.stdout.splitlines()]
    assert "3 not delivered; these are the oldest 2, see --limit\n" == less.stderr
