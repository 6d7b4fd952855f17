"""A report that a job makes, on its way to the receiver: by the outbox, as certain as an alert, and in no alert's way."""

import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, select
from standardwebhooks import Webhook

from service import chat, jobs, reports, runs
from service.checking import checked
from service.configuration import Configuration, Target
from service.database import connect, reading
from service.jobs import Draft
from service.monitor import outbox, receivers
from service.monitor.composing import Message
from service.monitor.delivery import IDLE, deliver_next
from service.monitor.exchange import Client
from service.monitor.loop import Signals, run
from service.monitor.outbox import GIVE_UP, NO_PLACE, Entry
from service.receive import lines
from service.receiver import Receiver
from service.reports import gather
from service.runs import Run
from service.settings import Settings
from service.tables import notifications
from service.web import create_app
from tests import receiver as real
from tests.receiver import receiving
from tests.stack import BIN, ROOT, eventually
from tests.test_outbox import OPS, claim, firing, put

SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PUBLIC = "https://tocsin.example/health"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = connect(f"sqlite:///{tmp_path}/tocsin.db")
    yield engine
    engine.dispose()


@contextmanager
def monitoring(engine: Engine, folder: Path, *to: Receiver) -> Iterator[None]:
    """The real monitor, with these receivers."""
    shop = Target(name="shop", url=SecretStr("http://127.0.0.1:9/"))
    found = Configuration(interval=0.2, targets=(shop,), rules=(), receivers=to, instance="shop-1", public=PUBLIC)
    signals = Signals()
    thread = threading.Thread(target=run, args=(lambda: found, engine, signals), kwargs={"folder": folder})
    thread.start()
    try:
        yield
    finally:
        signals.stopping.set()
        thread.join(30)


def wanted(engine: Engine, receiver: str | None, name: str = "weekly") -> None:
    """A job that tells this receiver, wanted now."""
    task = {"kind": "report", "since": "7d", **({} if receiver is None else {"receiver": receiver})}
    said = {"name": name, "task": task, "trigger": {"type": "cron", "cron": "0 8 * * mon"}, "author": "ann"}
    with engine.begin() as connection:
        jobs.add(connection, checked(Draft, said, time.time()), time.time())
        jobs.want(connection, name, "ann", time.time())


def ended(engine: Engine, name: str = "weekly") -> Run:
    def found() -> list[Run]:
        with reading(engine) as connection:
            every, _ = runs.page(connection, job=name)
        return [run for run in every if run.outcome]

    (run,) = eventually(found, "it has run")
    return run


def content(identity: str = "0123456789abcdef", text: str = "Health report\nall is well") -> dict[str, Any]:
    url = f"{PUBLIC}/api/v1/reports/{identity}/download?format=html"
    return receivers.report(identity, "Health report of shop-1", text, url=url, since=0.0, until=604_800.0, instance="shop-1")


def announce(engine: Engine, *identities: str, now: float = 100.0) -> None:
    with engine.begin() as connection:
        outbox.announce(connection, [Entry("ops", content(identity)) for identity in identities], now)


def statuses(message: Message | None) -> list[str]:
    return [] if message is None else [each["status"] for each in message.contents]


def deliver(engine: Engine, message: Message | None, now: float = 200.0) -> None:
    assert message is not None
    with engine.begin() as connection:
        outbox.delivered(connection, [message], now)


def fail(engine: Engine, message: Message | None, now: float = 200.0, *, uncertain: bool) -> int:
    assert message is not None
    with engine.begin() as connection:
        return outbox.failed(connection, message, now, now + 1, "it answered 500", uncertain=uncertain)


def test_the_receiver_is_told_the_report(tmp_path: Path, engine: Engine) -> None:
    """One signed message of the documented form, with the text, and a link under which this Tocsin has the whole."""
    with receiving() as server:
        to = Receiver(name="ops", webhook=SecretStr(server.url), secret=SECRET)
        with monitoring(engine, tmp_path, to):
            wanted(engine, "ops")
            (received,) = server.wait_for(1)
            made = ended(engine)
            time.sleep(1.2)
        assert 1 == len(server.requests)
    message = received.message
    Webhook(SECRET).verify(received.body, received.headers)
    assert ["version", "type", "id", "timestamp", "data"] == list(message)
    assert ("1", "report", []) == (message["version"], message["type"], message["data"]["alerts"])
    report = message["data"]["report"]
    assert ["id", "instance", "summary", "since", "until", "text", "url"] == list(report)
    assert ("done", f"report {report['id']}, for ops") == (made.outcome, made.detail)
    assert report["summary"].startswith("Health report of shop-1, 20")
    assert report["text"].startswith("Health report of shop-1\n")
    assert len(received.body) < 20_480

    path = f"/api/v1/reports/{report['id']}/download?format=html"
    assert f"{PUBLIC}{path}" == report["url"]
    app = create_app(Settings(data=tmp_path))
    client = app.test_client()
    assert (200, "text/html") == ((answer := client.get(path)).status_code, answer.mimetype)
    (told,) = client.get("/api/v1/notifications").get_json()["notifications"]
    assert ("ops", "report", "delivered", report["summary"]) == tuple(
        told[name] for name in ("receiver", "status", "state", "summary")
    )
    app.extensions["sampler"].stop()


def test_a_report_without_a_receiver_is_kept(tmp_path: Path, engine: Engine) -> None:
    """It can be read, is about the time that was asked for, and nobody is told."""
    with receiving() as server:
        with monitoring(engine, tmp_path, Receiver(name="ops", webhook=SecretStr(server.url))):
            wanted(engine, None)
            made = ended(engine)
        assert [] == server.requests
    with reading(engine) as connection:
        found = reports.find(connection, made.detail.removeprefix("report "))
        assert [] == connection.execute(select(notifications)).all()
    assert ("done", "job weekly") == (found.state, found.asked_by)
    assert (made.id, 7 * 86_400, 0) == (found.id, found.until - found.since, found.until % 60)
    assert 0 <= made.due - found.until < 60 + 0.2 + gather.SETTLED


def test_a_receiver_that_is_away_is_told_when_it_is_back(tmp_path: Path, engine: Engine) -> None:
    """The run is done as soon as the outbox has it; the same message is tried again until it is taken, over a restart too."""
    with receiving() as server:
        server.answer = lambda _: 503
        to = Receiver(name="ops", webhook=SecretStr(server.url))
        with monitoring(engine, tmp_path, to):
            wanted(engine, "ops")
            server.wait_for(2)
            assert "done" == ended(engine).outcome
        server.answer = lambda _: 204
        refused = len(server.requests)
        with monitoring(engine, tmp_path, to):
            server.wait_for(refused + 1)
            time.sleep(1.5)
        assert refused + 1 == len(server.requests)
        assert 1 == len({request.message["data"]["report"]["id"] for request in server.requests})


def test_a_report_that_somebody_asked_for_is_made(tmp_path: Path, engine: Engine) -> None:
    """The oldest first, without a job."""
    with engine.begin() as connection:
        asked = [reports.ask(connection, 0.0, 86_400.0 + number, "ann", time.time() + number) for number in range(3)]

    def made() -> list[reports.Asked]:
        with reading(engine) as connection:
            found = [reports.find(connection, each.id) for each in asked]
        return found if all(each.state == "done" for each in found) else []

    with monitoring(engine, tmp_path):
        done = eventually(made, "all are made")
    assert sorted(each.ended or 0.0 for each in done) == [each.ended for each in done]


def test_a_report_is_alone_and_after_alerts(engine: Engine) -> None:
    """What fires is told first, whenever it came; each report then has a message of its own, in their order."""
    announce(engine, "a", "b")
    put(engine, firing(), firing("shop"), now=150.0)
    said = []
    while (message := claim(engine)) is not None:
        said.append([(each["status"], each.get("id")) for each in message.contents])
        deliver(engine, message)
    assert [[("firing", None), ("firing", None)], [("report", "a")], [("report", "b")]] == said


@pytest.mark.parametrize("uncertain", [True, False])
def test_a_report_that_is_refused_keeps_no_alert_waiting(engine: Engine, *, uncertain: bool) -> None:
    """What fires meanwhile is told at the next try, in a message of its own; the report is told after it."""
    announce(engine, "a")
    first = claim(engine)
    fail(engine, first, uncertain=uncertain)
    put(engine, firing(), now=201.0)
    second = claim(engine, 202.0)
    assert ["firing"] == statuses(second)
    assert getattr(first, "identity", "") != getattr(second, "identity", "")
    deliver(engine, second)
    third = claim(engine, 203.0)
    assert ["report"] == statuses(third)
    deliver(engine, third)
    assert claim(engine, 204.0) is None


def test_an_alert_does_not_wait_as_long_as_a_report(engine: Engine) -> None:
    """Whoever asks by Retry-After to be told the report tomorrow is told at once what fires, as a first try."""
    announce(engine, "a")
    first = claim(engine)
    assert first is not None
    with engine.begin() as connection:
        outbox.failed(connection, first, 200.0, 200.0 + 86_400, "it answered 429", uncertain=False)
    assert ["report"] == statuses(waiting := claim(engine, 201.0))
    assert waiting is not None
    assert 200.0 + 86_400 == waiting.due
    put(engine, firing(), now=202.0)
    second = claim(engine, 203.0)
    assert second is not None
    assert (["firing"], 203.0, 0) == (statuses(second), second.due, second.attempts)


def test_a_report_that_is_tried_again_is_the_same_message(engine: Engine) -> None:
    """While nothing else waits: the same id, which a receiver needs to drop a second copy."""
    announce(engine, "a")
    first = claim(engine)
    fail(engine, first, uncertain=True)
    announce(engine, "b", now=201.0)
    second = claim(engine, 202.0)
    assert first is not None
    assert second is not None
    assert (first.identity, first.parts) == (second.identity, second.parts)


def test_a_report_is_given_up_and_replayed(engine: Engine) -> None:
    """As an alert is: after GIVE_UP of trying it is a dead letter, and a replay makes it wait again."""
    announce(engine, "a")
    assert 1 == fail(engine, claim(engine), 100.0 + GIVE_UP, uncertain=False)
    assert claim(engine, 200.0 + GIVE_UP) is None
    with engine.begin() as connection:
        assert 1 == outbox.replay(connection, 300.0 + GIVE_UP)
    assert ["report"] == statuses(claim(engine, 301.0 + GIVE_UP))


@pytest.mark.parametrize(
    "changed",
    [{"format": "alertmanager"}, {"webhook": None, "alertmanager": SecretStr("http://127.0.0.1:9")}],
    ids=["body", "api"],
)
def test_alertmanager_has_no_place_for_it(engine: Engine, changed: dict[str, Any]) -> None:
    """A receiver that was changed to that is told its alerts; the report is a dead letter, with the reason."""
    announce(engine, "a", "b")
    fail(engine, claim(engine), uncertain=True)  # a try that may have arrived is not repeated either
    put(engine, firing(), now=300.0)
    other = OPS.model_copy(update=changed)
    deliver(engine, found := claim(engine, 300.0, receiver=other))
    assert ["firing"] == statuses(found)
    assert claim(engine, 301.0, receiver=other) is None
    with reading(engine) as connection:
        assert [(300.0, NO_PLACE)] * 2 == [(row.dead, row.error) for row in outbox.undelivered(connection)]


def test_what_was_on_its_way_stays_the_message_it_was(engine: Engine) -> None:
    """A report that is given up so makes no second message of the alert before it."""
    put(engine, firing())
    found = claim(engine)
    announce(engine, "a")
    again = claim(engine, 300.0, receiver=OPS.model_copy(update={"format": "alertmanager"}))
    assert found is not None
    assert again is not None
    assert found.identity == again.identity


def test_who_wants_no_report_is_told_alerts(engine: Engine) -> None:
    """A receiver that answers 410 to a report: this report is given up, and nothing else."""
    announce(engine, "a")
    with receiving() as server:
        server.answer = lambda number: 410 if number == 1 else 204
        to = Receiver(name="ops", webhook=SecretStr(server.url))
        with closing(Client()) as client:
            assert 0.0 == deliver_next(engine, to, client, lambda: 200.0)
            put(engine, firing(), now=201.0)
            assert 0.0 == deliver_next(engine, to, client, lambda: 202.0)
            assert IDLE == deliver_next(engine, to, client, lambda: 203.0)
        assert ["report", "alert.firing"] == [request.message["type"] for request in server.requests]
    with reading(engine) as connection:
        (left,) = outbox.undelivered(connection)
    assert ("report", 200.0, "it answered 410") == (left.wanted, left.dead, left.error)


def test_it_is_listed_while_it_waits(tmp_path: Path, engine: Engine) -> None:
    """`tocsin outbox` shows it with what it is about."""
    announce(engine, "a")
    given = {"PATH": "/usr/bin:/bin", "TOCSIN_DATA": str(tmp_path)}
    done = subprocess.run([BIN / "tocsin", "outbox"], cwd=ROOT, env=given, capture_output=True, text=True, timeout=60, check=True)
    assert "Health report of shop-1" in done.stdout
    assert "1 not delivered\n" == done.stderr


def test_a_message_is_bounded(engine: Engine) -> None:
    """However long the text, whatever is in it, the body stays below what receivers take; what is cut says so."""
    for text in ("x" * 100_000, "é" * 50_000, '"' * 50_000, "\x00" * 50_000):
        body, _ = receivers.message(OPS, "msg_1", [content(text=text)], 0.0, 0.0)
        assert len(body) < 20_480
        assert b"characters cut]" in body


def test_the_document_shows_the_message_as_it_is() -> None:
    """docs/webhook.md has an example with exactly the keys that are sent, and a row for each of them."""
    text = (ROOT / "docs/webhook.md").read_text(encoding="utf-8")
    (shown,) = [each for each in map(json.loads, re.findall(r"```json\n(.*?)```", text, re.DOTALL)) if each["type"] == "report"]
    body, _ = receivers.message(OPS, "msg_1", [content()], 0.0, 0.0)
    sent = json.loads(body)
    assert list(sent) == list(shown)
    assert (list(sent["data"]), list(sent["data"]["report"])) == (list(shown["data"]), list(shown["data"]["report"]))
    rows = text.partition("| in `data.report` |")[2].partition("\n\n")[0]
    assert list(sent["data"]["report"]) == re.findall(r"`([a-z]+)`(?=[,` a-z]* \|)", rows)


def test_a_line_of_the_receiver_to_try_out() -> None:
    """`tocsin receive` says when, what and where."""
    body = {"version": "1", "type": "report", "data": {"alerts": [], "report": content()}}
    url = f"{PUBLIC}/api/v1/reports/0123456789abcdef/download?format=html"
    assert [f"1970-01-08T00:00:00.000Z  report  Health report of shop-1  {url}"] == lines(body)


@pytest.mark.parametrize("longest", [300, 1800])
@pytest.mark.parametrize("markdown", [True, False])
def test_a_chat_is_told_the_text_and_the_link(longest: int, *, markdown: bool) -> None:
    """As much of the text as fits, the whole address last, and nobody is called by a name in it."""
    text = "Health report\n" + "@channel *shop* <!here> was down\n" * 200
    shown = chat.told([content(text=text)], longest, escape=chat.markdown if markdown else chat.plain)
    assert len(shown.encode()) <= longest
    assert shown.startswith("Health report\n")
    assert [*"…"] == shown.splitlines()[-2:-1]
    assert content()["url"] == shown.splitlines()[-1]
    assert "@channel" not in shown
    assert markdown is ("\\*shop\\*" in shown)
    assert "Health report\nall is well" == chat.told([content()]).rpartition("\n")[0]


def test_a_chat_receiver_takes_it(tmp_path: Path, engine: Engine) -> None:
    """A chat service's own address is told the text and the link, by the real way of a Mattermost hook."""
    with real.receiving() as server:
        address = server.url.replace("http://", "").partition("/")[0]
        to = Receiver(name="team", chat=SecretStr(f"mmost://{address}/{'a' * 26}"))
        server.answer = lambda _: 200
        with monitoring(engine, tmp_path, to):
            wanted(engine, "team")
            (received,) = server.wait_for(1)
    assert "Health report of shop-1" in received.message["text"]
    assert f"{PUBLIC}/api/v1/reports/" in received.message["text"]
