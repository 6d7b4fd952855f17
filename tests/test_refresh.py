"""What an Alertmanager is posted, and what it is told again: by a real HTTP server that writes down what it gets."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from sqlalchemy import Engine, event

from service import database
from service.configuration import Target
from service.monitor import gone, outbox, receivers
from service.monitor.alertmanager import EXPIRES, Alertmanager, posted
from service.monitor.delivery import Delivery, deliver_next
from service.monitor.refresh import AT_ONCE, Refresh
from service.monitor.sending import client_for
from service.monitor.store import Figures, Store
from service.monitor.watch import Watch
from service.receiver import Receiver
from service.values import iso
from tests.conftest import Lines
from tests.proxy import proxying
from tests.receiver import Receiver as Server
from tests.receiver import receiving
from tests.simulation import NOWHERE, configuration, cpu, rule
from tests.stack import eventually
from tests.test_chat import tocsin
from tests.test_receivers import FIRING, RESOLVED

NOW = 1_700_000_100.0
UNTIL = NOW + 600.0
OVER = {"ends_at": iso(NOW - 30)}
GIVEN_UP = {"severity": "critical", "healing": {"state": "gave_up"}}
FAILURE = receivers.own("DatabaseFailure", "cannot write", "disk full", NOW, instance="here")
TEXTS = st.text(max_size=1200) | st.text(st.characters(), max_size=50)


Start = Callable[..., "Fires"]


@pytest.fixture
def server() -> Iterator[Server]:
    with receiving() as server:
        yield server


def to(server: Server, **fields: Any) -> Receiver:
    return Receiver(name="central", alertmanager=SecretStr(server.url), **fields)


class Fires:
    """A monitor whose CPU alert is as it was told to be, for so many targets, and its receiver's refresh."""

    def __init__(self, engine: Engine, receiver: Receiver, *names: str, every: float = 3600.0) -> None:
        self.engine, self.receiver = engine, receiver
        targets = tuple(Target(name=name, url=NOWHERE) for name in (*names, "new"))
        self.watch = Watch(configuration(rules=(rule(),), receivers=(receiver,), targets=targets))
        self.store = Store(engine)
        self.client = client_for(receiver)
        self.again = Refresh(engine, receiver, lambda: NOW, every=every)
        self.tick(*names)
        while deliver_next(engine, receiver, self.client, lambda: NOW) == 0.0:
            pass

    def tick(self, *names: str, value: float = 91) -> None:
        self.watch.tick([cpu(value, name) for name in names], NOW)
        self.store.commit(self.watch, Figures(NOW, 1.0), NOW)

    def refresh(self, posts: int = 100) -> None:
        """Tell again until there is nothing more to tell, or so many posts were made."""
        while posts and self.again.send(self.client) == 0.0:
            posts -= 1


@pytest.fixture
def fires(engine: Engine) -> Iterator[Start]:
    with ExitStack() as stack:

        def start(receiver: Receiver, *names: str, **fields: Any) -> Fires:
            started = Fires(engine, receiver, *names, **fields)
            stack.callback(started.client.close)
            return started

        yield start


def said(server: Server, since: int = 0) -> list[list[str]]:
    """The targets in each request."""
    return [[alert["labels"]["target"] for alert in each.message] for each in server.requests[since:]]


@pytest.mark.parametrize(
    ("content", "times"),
    [
        (FIRING, ("2023-11-14T22:13:20.000Z", iso(UNTIL))),
        (RESOLVED, ("2023-11-14T22:13:20.000Z", "2023-11-14T22:14:21.500Z")),
        (FIRING | {"starts_at": iso(UNTIL + 60)}, (iso(UNTIL), iso(UNTIL))),  # the clock was set back since
        (RESOLVED | {"ends_at": iso(NOW - 3600)}, (iso(NOW - 3600), iso(NOW - 3600))),
    ],
    ids=["firing", "resolved", "begins later", "ends before"],
)
def test_its_end_is_put_off_while_it_fires(content: dict[str, Any], times: tuple[str, str]) -> None:
    """What fires ends later than now, what is resolved when it did; and never before it began."""
    (alert,) = posted(content, NOW, UNTIL)
    assert times == (alert["startsAt"], alert["endsAt"])


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"healing": {"state": "restarting"}}, [("warning", UNTIL)]),
        (GIVEN_UP, [("info", NOW), ("warning", NOW), ("critical", UNTIL)]),
        (GIVEN_UP | OVER, [("info", NOW - 30), ("warning", NOW - 30), ("critical", NOW - 30)]),
    ],
    ids=["restarting", "given up", "given up and over"],
)
def test_another_severity_ends_the_one_before(more: dict[str, Any], expected: list[tuple[str, float]]) -> None:
    """What is critical as it was given up comes with the end of the less severe, and all of them begin before they end."""
    alerts = posted(FIRING | more, NOW, UNTIL)
    assert [(severity, iso(end)) for severity, end in expected] == [
        (each["labels"]["severity"], each["endsAt"]) for each in alerts
    ]
    assert all(each["startsAt"] <= each["endsAt"] for each in alerts)


@given(
    st.dictionaries(TEXTS | st.just("severity"), TEXTS, max_size=3),
    TEXTS,
    st.sampled_from(["alert", "target", "summary", "reason", "instance"]),
)
def test_any_text_makes_labels_that_it_takes(labels: dict[str, str], text: str, field: str) -> None:
    """Names are of Prometheus' alphabet, values are neither empty nor anything but UTF-8, and what an alert is stays said."""
    short = {receivers.short(name): receivers.short(value) for name, value in labels.items()}
    content = receivers.own("Down", "is down", "x", NOW, instance="here") | {field: receivers.short(text), "labels": short}
    for name, value in posted(content, NOW, UNTIL)[0]["labels"].items():
        assert re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", name, re.ASCII)
        assert value.encode()
    assert "critical" == posted(content, NOW, UNTIL)[0]["labels"]["severity"]


def test_a_label_of_its_own_does_not_change_what_it_is() -> None:
    """Its own labels come along, by names that Prometheus has; none of them takes the place of what an alert is."""
    own = {"mount": "/srv", "mount point": "/a", "severity": "none", "alertname": "none", "target": "none", "instance": "none"}
    (alert,) = posted(FIRING | {"labels": own, "instance": "web-1"}, NOW, UNTIL)
    assert {
        "alertname": "HighCpu",
        "severity": "warning",
        "target": "self",
        "instance": "web-1",
        "metric": "cpu_usage",
        "mount": "/srv",
        "mount_point": "/a",
    } == alert["labels"]


def test_each_try_puts_its_end_off_anew(engine: Engine, fires: Start, server: Server) -> None:
    """What is tried again an hour later ends ten minutes after that, and not before it arrives. It begins when it began."""
    server.answer = lambda number: 500 if number == 1 else 200
    here = fires(to(server), "self")
    deliver_next(engine, here.receiver, here.client, lambda: NOW + 3600)

    first, second = (each.message[0] for each in server.requests)
    assert [iso(NOW + EXPIRES), iso(NOW + 3600 + EXPIRES)] == [first["endsAt"], second["endsAt"]]
    assert iso(NOW) == first["startsAt"] == second["startsAt"]


def test_headers_go_with_it(fires: Start) -> None:
    """Of a path and a name and password in the address, and of headers of its own, it is posted as JSON."""
    with receiving() as server:
        host = server.url.removeprefix("http://").removesuffix("/hook")
        receiver = Receiver(name="a", alertmanager=SecretStr(f"http://ann:s3cret@{host}/am/"), headers={"X-Team": "platform"})
        fires(receiver, "self")
        headers = server.requests[0].headers
    assert ("Basic YW5uOnMzY3JldA==", "platform") == (headers["authorization"], headers["x-team"])
    assert "application/json" == headers["content-type"]
    assert "/am/api/v2/alerts" == server.requests[0].path


def test_a_proxy_is_the_way_to_it(fires: Start, server: Server) -> None:
    """`proxy` counts here as it does for a webhook."""
    with proxying() as proxy:
        fires(to(server, proxy=SecretStr(proxy.url)), "self")
    assert 1 == len(proxy.asked)
    assert [["self"]] == said(server)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b'"invalid label set: invalid name \\"1a\\""', 'it answered 400: invalid label set: invalid name "1a"'),
        (b'{"code":601,"message":"0.generatorURL\\nin body\\u001b[31m"}', "it answered 400: 0.generatorURL in body [31m"),
        (b"<html>nginx</html>", "it answered 400"),
        (b'"' + b"x" * 5000 + b'"', "it answered 400"),  # cut, and so no JSON any more
        (b'"' + b"x" * 400 + b'"', f"it answered 400: {'x' * 299}…"),
        (b"[1]", "it answered 400"),
        (b'{"message": 1}', "it answered 400"),
        (b"", "it answered 400"),
        (b'"no 127.0.0.1 for hook, t0ken"', "it answered 400: no … for …, …"),
    ],
)
def test_its_own_words_are_the_reason(
    engine: Engine, fires: Start, server: Server, lines: Lines, content: bytes, error: str
) -> None:
    """What it says stands in `tocsin outbox` and in the log, in one line and bounded, without address and key."""
    server.answer, server.content = lambda _: 400, content
    fires(to(server, headers={"Authorization": "Bearer t0ken"}), "self")

    with engine.begin() as connection:
        assert [error] == [row.error for row in outbox.undelivered(connection)]
    assert [error] == [line["error.message"] for line in lines() if line["message"] == "message not delivered"]


def test_all_that_fires_is_told_again_in_parts(fires: Start, server: Server) -> None:
    """More than fit into one post are several, each of them once; then nothing until it is time."""
    names = [f"t{number:03}" for number in range(2 * AT_ONCE + 50)]
    here = fires(to(server), *names)
    before = len(server.requests)
    here.refresh()
    here.refresh()

    assert [AT_ONCE, AT_ONCE, 50] == [len(each) for each in said(server, before)]
    assert names == sorted(name for each in said(server, before) for name in each)
    assert 3500 < here.again.send(here.client) <= 3600


def test_it_costs_no_write(engine: Engine, fires: Start, server: Server) -> None:
    """To tell again changes nothing in the database, and looks for it by way of what fires, not through all that was told."""
    here = fires(to(server), "a", "b")
    statements = []
    event.listen(engine, "before_cursor_execute", lambda _c, _u, statement, given, *_: statements.append((statement, given)))
    here.refresh()

    assert {"SELECT"} == {statement.split()[0] for statement, _ in statements if statement != "BEGIN"}
    with engine.connect() as connection:
        query = next(found for found in statements if "JOIN notifications" in found[0])
        plan = " ".join(row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query[0]}", query[1]))
    assert "SEARCH notifications USING INDEX" in plan


def test_what_is_over_or_was_not_told_is_not_told_again(engine: Engine, fires: Start, server: Server) -> None:
    """A resolved that still waits ends it as well as one that was delivered; what waits to be told first is not refreshed."""
    here = fires(to(server), "closed", "stays", "waits", "ended")
    closed = next(alert.content for alert in here.watch.alerts.values() if alert.target == "closed")
    assert closed is not None
    here.tick("ended", value=12)
    deliver_next(engine, here.receiver, here.client, lambda: NOW)
    with engine.begin() as connection:
        outbox.close(connection, [outbox.Entry("central", receivers.own_resolved(closed, NOW, 60.0))], NOW)
    here.tick("waits", value=12)
    here.tick("new")
    before = len(server.requests)
    here.refresh()

    assert [["stays"]] == said(server, before)


def test_one_that_wants_no_more_is_left_alone(engine: Engine, fires: Start, server: Server) -> None:
    """After a 410 nothing is told again, until a replay."""
    here = fires(to(server), "self")
    with engine.begin() as connection:
        gone.disable(connection, here.receiver, NOW)
    here.refresh()
    assert 1 == len(server.requests)


def test_who_asks_to_wait_is_waited_for(fires: Start, server: Server) -> None:
    """Retry-After counts for what is told again, too."""
    here = fires(to(server), "self")
    server.answer, server.headers = lambda _: 503, {"Retry-After": "600"}
    assert 590 < here.again.send(here.client) <= 600


def test_one_that_is_refused_does_not_keep_the_others(engine: Engine, fires: Start, server: Server, lines: Lines) -> None:
    """When a post is refused the next one has its turn, soon. It is no dead letter, and said once."""
    here = fires(to(server), *(f"t{number:03}" for number in range(2 * AT_ONCE)), every=0.0)
    before = len(server.requests)
    server.answer = lambda _: 400

    def two_were_refused() -> bool:
        here.refresh(1)
        return len(server.requests) >= before + 2

    eventually(two_were_refused, "two posts are refused")

    first, second = said(server, before)[:2]
    assert not set(first) & set(second)
    with engine.begin() as connection:
        assert [] == outbox.undelivered(connection)
    assert ["it answered 400"] == [line["error.message"] for line in lines() if "told again" in line["message"]]


def test_what_was_told_past_the_database_is_told_again_from_memory(fires: Start, server: Server) -> None:
    """While it cannot be written: what began is refreshed, what ended is not, though the database knows no better."""
    here = fires(to(server), "stays", "ended")
    here.again.put(FAILURE)
    here.again.put(next(entry.content for entry in here.watch.tick([cpu(12, "ended")], NOW)))
    here.again.put(next(entry.content for entry in here.watch.tick([cpu(91, "new")], NOW)))
    before = len(server.requests)
    here.refresh()
    assert [["monitor", "new", "stays"]] == said(server, before)


def test_once_it_is_stored_the_database_is_believed(fires: Start, server: Server) -> None:
    """What is about the monitor itself is in memory alone; all else is as the database has it, from the very commit on."""
    here = fires(to(server), "stays", every=0.0)
    here.again.put(FAILURE)
    here.again.put(next(entry.content for entry in here.watch.tick([cpu(91, "new")], NOW)))
    here.tick("new", value=12)
    here.again.put(FIRING)
    before = len(server.requests)
    here.again.send(here.client)
    here.again.stored()
    here.again.send(here.client)
    here.again.put(receivers.own_resolved(FAILURE, NOW, 60.0))
    here.again.send(here.client)
    assert [["monitor", "self", "stays"], ["monitor", "stays"], ["stays"]] == said(server, before)


def test_a_database_that_cannot_be_read_leaves_what_is_in_memory(
    engine: Engine, fires: Start, server: Server, tmp_path: Path
) -> None:
    """Told again is what was told past it; nothing fails."""
    here = fires(to(server), "self")
    here.again.put(FAILURE)
    engine.dispose()
    file = next(tmp_path.glob("*.db"))
    file.unlink()
    file.mkdir()
    here.refresh()
    assert [["self"], ["monitor"]] == said(server)


def test_damage_that_it_comes_across_is_told_to_the_monitor(engine: Engine, fires: Start, server: Server) -> None:
    """What makes no sense in the database is what nobody else may look at: the monitor hears of it, the thread goes on."""
    here = fires(to(server), "self")
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE notifications SET firing = '{'")
    delivery = Delivery(engine, [here.receiver], time.time)
    delivery.start()
    try:
        assert database.is_corrupt(eventually(delivery.damage, "it is found"))
        here.tick("new")
        delivery.wake()
        server.wait_for(2)
    finally:
        delivery.stop(10)
    assert [["self"], ["new"]] == said(server)


def test_the_next_thread_of_a_receiver_knows_what_was_told_past_the_database(engine: Engine, server: Server) -> None:
    """With another address under the same name what is in memory alone is told there, too; what is stored is not."""
    delivery = Delivery(engine, [to(server)], time.time, "http://tocsin.example")
    delivery.start()
    try:
        delivery.tell([outbox.Entry("", FAILURE), outbox.Entry("", FIRING)])
        eventually(lambda: {"monitor", "self"} <= {name for post in said(server) for name in post}, "both are told")
        delivery.stored()
        with receiving() as other:
            delivery.configure([to(other)])
            other.wait_for(1)
            assert [["monitor"]] == said(other)
            assert "http://tocsin.example" == other.requests[0].message[0]["generatorURL"]
            delivery.stop(10)
    finally:
        delivery.stop(10)


def test_test_alert_tells_it_only_the_firing(tmp_path: Path, server: Server) -> None:
    """With its end at once it would tell nobody: it ends by itself, and the command says when."""
    (tmp_path / "monitor.yaml").write_text(f"receivers: [{{name: central, alertmanager: '{server.url}'}}]")
    done = tocsin("test-alert", TOCSIN_CONFIG=str(tmp_path / "monitor.yaml"), TOCSIN_PUBLIC_URL="https://tocsin.example")

    assert 0 == done.returncode, done.stderr
    assert re.fullmatch(r"central: firing: taken \(\d+ ms\); it ends by itself in 10 min\n", done.stdout)
    ((alert,),) = [each.message for each in server.requests]
    assert ("TestAlert", "https://tocsin.example") == (alert["labels"]["alertname"], alert["generatorURL"])
    assert alert["startsAt"] < alert["endsAt"]


def test_what_is_no_secret_is_not_hidden(server: Server) -> None:
    """A word of a letter or two stands in any sentence: it is left there."""
    client = Alertmanager(Receiver(name="a", alertmanager=SecretStr("http://a/b"), headers={"X": "is"}))
    assert "this is a bad label" == client.reason(b'"this is a bad label"')
    client.close()
