"""`alertmanager: URL` against Debian's Alertmanager: what fires there is what fires here, and is read back with amtool."""

import re
import string
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr
from sqlalchemy import Engine, select

from service import database
from service.monitor import outbox, receivers
from service.monitor.alertmanager import Alertmanager
from service.monitor.delivery import Delivery, deliver_next
from service.monitor.healing import Healing
from service.monitor.outbox import Entry
from service.monitor.refresh import Refresh
from service.monitor.sending import client_for, send
from service.monitor.store import Figures, Store
from service.monitor.watch import Watch
from service.receiver import Receiver
from service.tables import notifications
from service.values import iso
from tests import alertmanager as real
from tests.conftest import Lines
from tests.receiver import receiving
from tests.simulation import configuration, cpu, rule
from tests.stack import eventually, free_port

DOCUMENT = Path(__file__).parents[1] / "docs/receivers.md"
RULES = (rule(), rule("Disk", "mount_usage > 90", severity="critical"))
Start = Callable[..., "Tocsin"]


def to(url: str, name: str = "central", **fields: Any) -> Receiver:
    return Receiver(name=name, alertmanager=SecretStr(url), **fields)


class Tocsin:
    """What a monitor does, tick by tick and by the real clock. It refreshes five times a second."""

    def __init__(self, engine: Engine, *to: Receiver, expires: float = 600.0, instance: str = "shop-1") -> None:
        self.engine, self.receivers = engine, to
        self.watch = Watch(configuration(rules=RULES, receivers=to, instance=instance))
        self.store = Store(engine)
        self.clients = [Alertmanager(each, "http://tocsin.example", expires) for each in to]
        self.refreshes = [Refresh(engine, each, time.time, every=0.2) for each in to]

    def tick(self, value: float) -> None:
        """The CPU is at this, and whoever is to be told is told, if it is there."""
        now = time.time()
        self.store.look(self.watch, now)
        self.watch.tick([cpu(value)], now)
        self.store.commit(self.watch, Figures(now, 1.0), now)
        self.deliver()

    def deliver(self) -> None:
        for receiver, client in zip(self.receivers, self.clients, strict=True):
            deliver_next(self.engine, receiver, client, time.time)

    def refresh(self) -> None:
        for refresh, client in zip(self.refreshes, self.clients, strict=True):
            refresh.send(client)

    def refreshing(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.refresh()
            time.sleep(0.05)

    def waiting(self) -> list[str | None]:
        """Why what waits was not taken."""
        with self.engine.connect() as connection:
            return list(connection.execute(select(notifications.c.error).where(notifications.c.waiting)).scalars())


@pytest.fixture
def tocsin(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def start(*to: Receiver, instance: str = "shop-1", **fields: Any) -> Tocsin:
            engine = database.connect(f"sqlite:///{tmp_path}/{instance}.db")
            stack.callback(engine.dispose)
            started = Tocsin(engine, *to, instance=instance, **fields)
            for client in started.clients:
                stack.callback(client.close)
            return started

        yield start


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[real.Alertmanager]:
    """One that tells nobody, for tests that only look at what it knows. Each has an instance of its own there."""
    with real.alertmanager(tmp_path_factory.mktemp("alertmanager"), free_port()) as started:
        yield started


def test_what_fires_fires_there_until_it_is_resolved(tocsin: Start, running: real.Alertmanager) -> None:
    """amtool shows it with its labels, its times and the way back; and no more once it is resolved."""
    here = tocsin(to(running.url), instance="first")
    here.tick(91)

    (alert,) = running.alerts("instance=first")
    expected = {"alertname": "High", "severity": "warning", "target": "self", "instance": "first", "metric": "cpu_usage"}
    assert expected == alert["labels"]
    assert {"summary": "self: High, 91 % (threshold 80 %)", "description": "cpu_usage > 80"} == alert["annotations"]
    assert "http://tocsin.example" == alert["generatorURL"]
    began, ends = (datetime.fromisoformat(alert[name]).timestamp() for name in ("startsAt", "endsAt"))
    assert time.time() - 60 < began <= time.time() < began + 590 < ends

    here.tick(12)
    assert [] == running.alerts("instance=first")
    assert [] == here.waiting()


def test_it_is_refreshed_before_it_would_expire(tocsin: Start, running: real.Alertmanager) -> None:
    """After twice the time in which it would have ended it still fires; left alone it ends by itself."""
    here = tocsin(to(running.url), instance="refreshed", expires=1.2)
    here.tick(91)
    here.refreshing(2.5)
    assert 1 == len(running.alerts("instance=refreshed"))

    eventually(lambda: not running.alerts("instance=refreshed"), "it has ended", 10)


def test_one_that_was_killed_is_told_again(tocsin: Start, tmp_path: Path, lines: Lines) -> None:
    """It comes back with nothing, and knows what fires. That it was away is said once, and so is its return."""
    port = free_port()
    here = tocsin(to(f"http://127.0.0.1:{port}"))
    with real.alertmanager(tmp_path / "one", port) as first:
        here.tick(91)
        here.refresh()
        first.process.kill()
        first.process.wait()
        here.refreshing(1.5)
    with real.alertmanager(tmp_path / "another", port) as second:
        assert [] == second.alerts()

        def told_again() -> list[str]:
            here.refresh()
            return second.labels("alertname")

        assert ["High"] == eventually(told_again, "it is told again", 30)
    said = [line for line in lines() if "told again" in line["message"]]
    assert ["what fires cannot be told again", "what fires is told again"] == [line["message"] for line in said]
    assert "it refuses the connection" == said[0]["error.message"]


def test_what_it_refuses_is_seen(tocsin: Start, running: real.Alertmanager) -> None:
    """Its own words are the reason why what waits was not delivered; the address is not in them."""
    here = tocsin(to(running.url), instance="refused")
    here.clients[0].public = "nowhere"
    here.tick(91)

    assert ['it answered 422: 0.generatorURL in body must be of type uri: "nowhere"'] == here.waiting()
    assert [] == running.alerts("instance=refused")


def test_given_up_it_is_critical_and_not_there_twice(tocsin: Start, running: real.Alertmanager) -> None:
    """Another severity is another alert to it: the one before ends in the same moment, and so does the last one."""
    here = tocsin(to(running.url), instance="given-up")
    here.tick(91)
    (before,) = running.alerts("instance=given-up")
    given_up = Healing("web", attempts=(1.0,), tried=1, made=1, number=1, of=1, gave_up=True)
    with here.engine.begin() as connection:
        firing = connection.execute(select(notifications.c.firing)).scalar_one()
        critical = receivers.step(firing | {"severity": "critical"}, given_up)
        outbox.update_firing(connection, [Entry("central", critical)], time.time())
    here.deliver()
    (after,) = running.alerts("instance=given-up")
    here.refreshing(1)

    assert ["warning", "critical"] == [each["labels"]["severity"] for each in (before, after)]
    assert 1 == len(running.alerts("instance=given-up"))
    with here.engine.begin() as connection:
        outbox.close(connection, [Entry("central", receivers.own_resolved(critical, time.time(), 60.0))], time.time())
    here.deliver()
    assert [] == running.alerts("instance=given-up")


def test_any_text_is_taken(running: real.Alertmanager) -> None:
    """Names, texts and links of all kinds, a time that went backwards among them: it refuses none."""
    texts = ["", " ", "\x00\x1b[31m", "a\nb", "\ud800", "𝔘 ü", '"}]', "x" * 5000, *string.punctuation]
    now = time.time()
    contents = []
    for number, text in enumerate(texts):
        content = receivers.own(receivers.short(text) or "none", text, text, now + 3600, instance="texts", target=f"{number}")
        contents.append(content | {"labels": {receivers.short(text): receivers.short(text), "1a": "x"}})
    contents.append(receivers.own("Back", "x", "x", now, instance="texts") | {"ends_at": iso(now - 60)})
    receiver = to(running.url)
    for public in ("http://[::1]:8080", 'http://höst/"ä|', "http://x/%zz", "http://x/\x7f"):
        client = client_for(receiver, public)
        verdict = send(receiver, client, identity="x", contents=contents, created=now, now=now)
        client.close()
        assert None is verdict.error
    assert len(texts) == len(running.alerts("instance=texts"))


def example() -> Any:
    """The alertmanager.yml of docs/receivers.md."""
    _, _, section = DOCUMENT.read_text(encoding="utf-8").partition('<a id="alertmanager"></a>')
    return yaml.safe_load(re.findall(r"```yml\n(.*?)```", section, re.DOTALL)[0])


def test_many_are_one_message(tocsin: Start, tmp_path: Path) -> None:
    """With the configuration in the documents two Tocsins of which the same fires are one message, that names both."""
    written = example()
    with receiving() as people, ExitStack() as stack:
        for each in written["receivers"]:
            each["webhook_configs"][0]["url"] = people.url
        written["route"] |= {"group_wait": "1500ms"}
        here = stack.enter_context(real.alertmanager(tmp_path / "alertmanager", free_port(), written))
        for instance in ("shop-1", "shop-2"):
            tocsin(to(here.url), instance=instance).tick(91)
        people.wait_for(1)
        message = people.requests[0].message

    assert "team" == message["receiver"]
    assert ["shop-1", "shop-2"] == sorted(alert["labels"]["instance"] for alert in message["alerts"])
    assert {"alertname": "High"} == message["groupLabels"]


def test_a_cluster_tells_once(tocsin: Start, tmp_path: Path) -> None:
    """Two that know each other, each a receiver: both know what fires, and people hear of it and of its end once."""
    ports, peers = [free_port(), free_port()], [free_port(), free_port()]
    options = ["--cluster.gossip-interval=20ms", "--cluster.peer-timeout=500ms"]
    with receiving() as people, ExitStack() as stack:
        configured, members = real.telling(people.url, group_interval="2s"), []  # more than one waits for the other
        for number, (port, peer) in enumerate(zip(ports, peers, strict=True)):
            known = [f"--cluster.listen-address=127.0.0.1:{peer}", *options, f"--cluster.peer=127.0.0.1:{peers[1 - number]}"]
            folder = tmp_path / f"alertmanager-{number}"
            members.append(stack.enter_context(real.alertmanager(folder, port, configured, known)))
        for member in members:
            eventually(lambda member=member: 2 == peers_of(member), "they know each other")  # type: ignore[misc]
        here = tocsin(*(to(member.url, f"member-{number}") for number, member in enumerate(members)))
        here.tick(91)
        assert [["High"], ["High"]] == [member.labels("alertname") for member in members]
        people.wait_for(1, 20)
        here.refreshing(1.5)  # the second would tell by now
        here.tick(12)
        people.wait_for(2, 20)
        time.sleep(1.5)

    assert ["firing", "resolved"] == [each.message["status"] for each in people.requests]


def peers_of(member: real.Alertmanager) -> int:
    import requests

    return len(requests.get(f"{member.url}/api/v2/status", timeout=5).json()["cluster"]["peers"])


def test_the_threads_of_the_monitor_refresh(tocsin: Start, tmp_path: Path) -> None:
    """A monitor that starts tells an Alertmanager at once what fires, though nothing waits to be told."""
    port = free_port()
    here = tocsin(receiver := to(f"http://127.0.0.1:{port}"))
    with real.alertmanager(tmp_path / "one", port):
        here.tick(91)
    with real.alertmanager(tmp_path / "another", port) as second:
        delivery = Delivery(here.engine, [receiver], time.time, "http://tocsin.example")
        delivery.start()
        try:
            (alert,) = eventually(second.alerts, "it is told again")
        finally:
            delivery.stop(10)
    assert "http://tocsin.example" == alert["generatorURL"]
    assert UTC == datetime.fromisoformat(alert["endsAt"]).tzinfo
