"""Delivery through a real HTTP server: marked after the 2xx, tried again with growing waits, for days if need be."""

import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from email.utils import formatdate
from tempfile import TemporaryDirectory

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, event, select

from service import database
from service.database import connect
from service.monitor import delivery, outbox
from service.monitor.delivery import AT_ONCE, EVERYONE, IDLE, SHORT, Delivery, Pace, deliver_next
from service.monitor.exchange import Client
from service.monitor.sending import FIRST_WAIT, LONGEST_ORDERED, LONGEST_WAIT, Verdict, judge, retry_after, wait_after
from service.receiver import Receiver
from service.tables import messages, notifications
from tests import receiver as real
from tests.stack import eventually, free_port
from tests.test_outbox import firing, put, refuse_writes, resolved

HOUR = 3600.0


@pytest.fixture
def engine() -> Iterator[Engine]:
    """In memory: three days of tries are fifteen thousand commits, and none has to outlive the machine."""
    with TemporaryDirectory(dir="/dev/shm") as folder:
        engine = connect(f"sqlite:///{folder}/tocsin.db")
        yield engine
        engine.dispose()


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client()
    yield client
    client.close()


def to(url: str, name: str = "ops") -> Receiver:
    return Receiver(name=name, webhook=SecretStr(url))


class Clock:
    """A time that moves only when it is told to."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def run(self, step: Callable[[], float], until: float) -> None:
        """Do what delivery's thread does, with the waits passing at once, until the given time or nothing is left."""
        while self.now < until:
            pause = step()
            if pause == IDLE:
                self.now = until
            self.now += pause


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (200, Verdict()),
        (204, Verdict()),
        (299, Verdict()),
        (199, Verdict("it answered 199")),
        (301, Verdict("it answered 301")),
        (400, Verdict("it answered 400")),
        (404, Verdict("it answered 404")),
        (410, Verdict("it answered 410", gone=True)),
        (429, Verdict("it answered 429", wait=7)),
        (500, Verdict("it answered 500", uncertain=True)),
        (502, Verdict("it answered 502", uncertain=True)),
        (503, Verdict("it answered 503", wait=7)),
    ],
)
def test_a_status_means(status: int, verdict: Verdict) -> None:
    """Only a 2xx is delivered; 429 and 503 say when to come back, 410 never, other 5xx may have taken it."""
    assert verdict == judge(status, {"Retry-After": "7"}, 0.0)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120.0),
        ("0", 0.0),
        (formatdate(1_700_000_060, usegmt=True), 60.0),
        (formatdate(1_600_000_000, usegmt=True), 0.0),  # in the past
        ("999999999", LONGEST_ORDERED),
        ("99999999999999999999", 0.0),
        ("", 0.0),
        ("-5", 0.0),
        ("soon", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 +99999999999999", 0.0),
        ("Wed, 21 Oct 99999999999999999999 07:28:00 GMT", 0.0),
        ("Mon, 99 Xyz 2023 25:61:61 GMT", 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str, seconds: float) -> None:
    """Both forms are understood, nonsense is ignored, and nobody can order more than a day."""
    assert seconds == retry_after(text, 1_700_000_000.0)


@pytest.mark.parametrize(
    ("attempts", "longest"), [(1, 1.0), (2, 2.0), (3, 4.0), (6, 32.0), (7, LONGEST_WAIT), (1000, LONGEST_WAIT)]
)
def test_waits_double_up_to_a_limit_below_a_minute(attempts: int, longest: float) -> None:
    """A wait lies between half of the doubled one and all of it, and never grows past the limit."""
    assert (longest / 2, longest) == (wait_after(attempts, 0.0), wait_after(attempts, 1.0))


def test_a_2xx_marks_it_delivered(engine: Engine, client: Client) -> None:
    """A message that was answered with 204 is marked with the time, and asks for no wait."""
    with real.receiving() as receiver:
        put(engine, firing())

        assert 0.0 == deliver_next(engine, to(receiver.url), client, lambda: 101.0)
        assert "alert.firing" == receiver.requests[0].message["type"]
    with engine.connect() as connection:
        assert [(101.0, 1)] == [(row.delivered, row.attempts) for row in connection.execute(select(messages))]
        assert [("firing", False)] == [(row.told, row.waiting) for row in connection.execute(select(notifications))]


def apart(engine: Engine, *targets: str) -> None:
    """These fire, each in a message of its own."""
    with engine.begin() as connection:
        entries = [outbox.Entry("ops", firing(name), {"labels": {"target": name}}) for name in targets]
        outbox.announce(connection, entries, 100.0)


def targets(receiver: real.Receiver) -> list[str]:
    return [alert["target"] for each in receiver.requests for alert in each.message["data"]["alerts"]]


def test_a_quick_receiver_gets_several_messages_with_two_commits(
    engine: Engine, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them are claimed in one transaction, and marked in one."""
    monkeypatch.setattr(delivery, "SHORT", 60.0)
    commits: list[object] = []
    with real.receiving() as receiver:
        apart(engine, *"abcdefgh")
        event.listen(engine, "commit", commits.append)
        pace = Pace(5)
        assert 0.0 == deliver_next(engine, to(receiver.url), client, lambda: 101.0, pace=pace)
        assert (2, list("abcde"), 10) == (len(commits), targets(receiver), pace.most)
        deliver_next(engine, to(receiver.url), client, lambda: 101.0, pace=pace)
    with engine.connect() as connection:
        assert [101.0] * 8 == connection.execute(select(messages.c.delivered)).scalars().all()


def test_nothing_is_sent_before_it_is_committed(engine: Engine, client: Client) -> None:
    """Whatever arrives is found, with its id, over another connection: also when several are claimed at once."""
    found: list[object] = []

    def look(number: int) -> int:
        with database.reading(engine) as connection:
            identity = messages.c.id == receiver.requests[number - 1].headers["webhook-id"]
            found.append(connection.execute(select(messages.c.delivered).where(identity)).one())
        return 204

    with real.receiving() as receiver:
        receiver.answer = look
        apart(engine, *"abcdefgh")
        pace = Pace(4)
        while deliver_next(engine, to(receiver.url), client, lambda: 101.0, pace=pace) != IDLE:
            pass
    assert [(None,)] * 8 == found


def test_of_several_one_that_fails_is_tried_again_before_the_next(
    engine: Engine, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came before it is told once, and it is not overtaken."""
    monkeypatch.setattr(delivery, "SHORT", 60.0)
    with real.receiving() as receiver:
        receiver.answer = lambda number: 500 if number == 3 else 204
        apart(engine, *"abcde")
        pace = Pace(5)
        assert 0 < deliver_next(engine, to(receiver.url), client, lambda: 101.0, pace=pace) <= FIRST_WAIT
        assert 1 == pace.most
        assert 0 < deliver_next(engine, to(receiver.url), client, lambda: 101.1, pace=pace) < 1
        while deliver_next(engine, to(receiver.url), client, lambda: 103.0, pace=pace) != IDLE:
            pass
        assert list("abccde") == targets(receiver)
        assert receiver.requests[2].body == receiver.requests[3].body


@pytest.mark.parametrize(("short", "stopping"), [(0.0, False), (60.0, True)], ids=["slow", "stopping"])
def test_who_is_slow_gets_one_at_a_time(
    engine: Engine, client: Client, monkeypatch: pytest.MonkeyPatch, short: float, stopping: bool
) -> None:
    """The first is marked before the second is sent; who is told to stop sends no more, and leaves the rest as it was."""
    monkeypatch.setattr(delivery, "SHORT", short)
    with real.receiving() as receiver:
        apart(engine, *"abc")
        pace = Pace(3)
        deliver_next(engine, to(receiver.url), client, lambda: 101.0, pace=pace, stopping=lambda: stopping)
        assert ["a"] == targets(receiver)
    with engine.connect() as connection:
        assert [101.0] == connection.execute(select(messages.c.delivered)).scalars().all()


def test_the_pace_follows_the_receiver() -> None:
    """It doubles while all that was claimed is taken quickly, up to a limit; it halves for who is slow, and a failure ends it."""
    pace = Pace()
    found = []
    for taken, seconds in [
        (1, 0.0),
        (2, 0.0),
        (3, 0.0),
        (4, 0.9 * SHORT),
        (4, 2 * SHORT),
        (0, 0.0),
        *((2**n, 0.0) for n in range(9)),
    ]:
        pace.after(taken, seconds)
        found.append(pace.most)
    assert [2, 4, 4, 4, 2, 1, 2, 4, 8, 16, 32, AT_ONCE, AT_ONCE, AT_ONCE, AT_ONCE] == found


@pytest.mark.parametrize("status", [301, 400, 404, 500, 503])
def test_any_other_answer_leaves_it_waiting(engine: Engine, client: Client, status: int) -> None:
    """After any other answer the message stays, with the reason and a later time, and is left alone until then."""
    with real.receiving() as receiver:
        receiver.answer = lambda _: status
        put(engine, firing())
        pause = deliver_next(engine, to(receiver.url), client, lambda: 101.0)

        assert FIRST_WAIT / 2 <= pause <= FIRST_WAIT
        assert 0 < deliver_next(engine, to(receiver.url), client, lambda: 101.1) < 1
        assert 1 == len(receiver.requests)
    with engine.connect() as connection:
        assert [f"it answered {status}"] == [row.error for row in connection.execute(select(messages))]


def test_retry_after_is_obeyed(engine: Engine, client: Client) -> None:
    """A receiver that asks for ten minutes is left alone for ten minutes."""
    with real.receiving() as receiver:
        receiver.answer = lambda number: 429 if number == 1 else 204
        receiver.headers = {"Retry-After": "600"}
        put(engine, firing())

        assert 600.0 == deliver_next(engine, to(receiver.url), client, lambda: 101.0)
        assert 1.0 == deliver_next(engine, to(receiver.url), client, lambda: 700.0)
        assert 0.0 == deliver_next(engine, to(receiver.url), client, lambda: 701.0)


def test_a_clock_that_was_set_back_delays_nothing(engine: Engine, client: Client) -> None:
    """A try that failed while the clock was a year ahead is made again at once, not in a year."""
    year = 365 * 24 * HOUR
    with real.receiving() as receiver:
        receiver.answer = lambda number: 500 if number == 1 else 204
        put(engine, firing(), now=year)
        deliver_next(engine, to(receiver.url), client, lambda: year)

        assert 0.0 == deliver_next(engine, to(receiver.url), client, lambda: 101.0)
        assert 2 == len(receiver.requests)


def test_a_redirect_is_not_followed(engine: Engine, client: Client) -> None:
    """An alert goes where it was configured to go, and nowhere else."""
    with real.receiving() as elsewhere, real.receiving() as receiver:
        receiver.answer = lambda _: 307
        receiver.headers = {"Location": elsewhere.url}
        put(engine, firing())
        deliver_next(engine, to(receiver.url), client, lambda: 101.0)

        assert [] == elsewhere.requests


def test_410_disables_the_receiver(engine: Engine, client: Client) -> None:
    """After a 410 nothing more is sent, until a replay."""
    with real.receiving() as receiver:
        receiver.answer = lambda number: 410 if number == 1 else 204
        put(engine, firing())
        deliver_next(engine, to(receiver.url), client, lambda: 101.0)
        assert IDLE == deliver_next(engine, to(receiver.url), client, lambda: 500.0)
        assert 1 == len(receiver.requests)

        with engine.begin() as connection:
            outbox.replay(connection, 600.0)
        deliver_next(engine, to(receiver.url), client, lambda: 600.0)
        assert 2 == len(receiver.requests)


@pytest.mark.parametrize(
    ("away", "refused"), [(HOUR, True), (24 * HOUR, True), (71.9 * HOUR, False)], ids=["an hour", "a day", "three days"]
)
def test_receiver_away(engine: Engine, client: Client, away: float, refused: bool) -> None:
    """Away for an hour, a day, three days: all is delivered, in order, the first within a minute of its return.

    The real code on a real socket; only the time is simulated. Every hour of the first day an alert fires; the odd ones
    resolve ten minutes later, the even ones stay.
    """
    start, port = 1_700_000_000.0, free_port()
    clock, ops = Clock(start), to(f"http://127.0.0.1:{port}/hook")
    hours = min(24, int(away // HOUR))
    down = real.receiving(port=port) if not refused else None
    if down:
        server = down.__enter__()
        server.answer = lambda _: 503
    for hour in range(hours):
        at = start + hour * HOUR
        clock.now = max(clock.now, at)
        put(engine, firing(f"t{hour}", at), now=at)
        if hour % 2:
            put(engine, resolved(f"t{hour}", at, at + 600), now=at + 600)
        clock.run(lambda: deliver_next(engine, ops, client, clock), at + HOUR)
    clock.run(lambda: deliver_next(engine, ops, client, clock), start + away)
    if down:
        down.__exit__(None, None, None)
    client.close()

    with real.receiving(port=port) as receiver:
        back = clock.now
        first: list[float] = []

        def step() -> float:
            pause = deliver_next(engine, ops, client, clock)
            if receiver.requests and not first:
                first.append(clock.now)
            return pause

        clock.run(step, back + 600)
        told = [alert for each in receiver.requests for alert in each.message["data"]["alerts"]]

    assert first[0] - back <= 60
    assert sorted(f"t{hour}" for hour in range(hours)) == sorted(alert["target"] for alert in told)
    assert all(alert["late"] and alert["status"] == "resolved" for alert in told if int(alert["target"][1:]) % 2)
    stamps = [alert["ends_at"] or alert["starts_at"] for alert in told]
    assert sorted(stamps) == stamps
    assert len(receiver.requests) <= 1 + hours // 15  # as few messages as their size allows


def test_after_72_hours_it_is_a_dead_letter_and_a_replay_delivers_it(engine: Engine, client: Client) -> None:
    """A receiver away for longer costs a dead letter, which is listed, and sent when it is told to be."""
    start, port = 1_700_000_000.0, free_port()
    clock, ops = Clock(start), to(f"http://127.0.0.1:{port}/hook")
    put(engine, firing(at=start), now=start)
    clock.run(lambda: deliver_next(engine, ops, client, clock), start + 73 * HOUR)
    with engine.begin() as connection:
        (row,) = outbox.undelivered(connection)
        assert start + 72 * HOUR <= row.dead <= start + 72 * HOUR + 60

    with real.receiving(port=port) as receiver:
        clock.run(lambda: deliver_next(engine, ops, client, clock), clock.now + HOUR)
        assert [] == receiver.requests
        with engine.begin() as connection:
            outbox.replay(connection, clock.now)
        clock.run(lambda: deliver_next(engine, ops, client, clock), clock.now + HOUR)
        assert 1 == len(receiver.requests)


def test_a_secret_address_is_in_no_error(engine: Engine, client: Client) -> None:
    """What is kept about a failure does not repeat the receiver's address, whose path may be its key."""
    put(engine, firing())
    deliver_next(engine, to("http://127.0.0.1:9/services/T0/SECRET"), client, lambda: 101.0)
    with engine.connect() as connection:
        assert ["it refuses the connection"] == [row.error for row in connection.execute(select(messages))]


def test_p23_a_receiver_that_hangs_delays_no_other(engine: Engine) -> None:
    """While one receiver holds its request open, another gets all of its messages."""
    release = threading.Event()
    with real.receiving() as stuck, real.receiving() as quick:
        stuck.answer = lambda _: 204 if release.wait(20) else 500
        both = [to(stuck.url, "stuck"), to(quick.url, "quick")]
        sender = Delivery(engine, both, time.time)
        sender.start()
        put(engine, firing("a"), now=time.time(), receivers=both)
        sender.wake()
        try:
            quick.wait_for(1)
            stuck.wait_for(1)
            put(engine, firing("b"), now=time.time(), receivers=both)
            sender.wake()
            assert 2 == len(quick.wait_for(2))
            assert 1 == len(stuck.requests)
        finally:
            release.set()
            sender.stop(10)


def test_a_burst_to_a_slow_receiver_loses_none(engine: Engine) -> None:
    """10,000 alerts at once, with more coming while the receiver takes its time: each is told once."""
    with real.receiving() as receiver:

        def slowly(_: int) -> int:
            time.sleep(0.002)
            return 204

        receiver.answer = slowly
        ops = to(receiver.url)
        put(engine, *(firing(f"t{number}") for number in range(10_000)), now=time.time())
        sender = Delivery(engine, [ops], time.time)
        sender.start()
        put(engine, *(firing(f"u{number}") for number in range(100)), now=time.time())
        sender.wake()
        try:
            end = time.monotonic() + 60
            told: list[str] = []
            while len(told) < 10_100 and time.monotonic() < end:
                time.sleep(0.2)
                told = [alert["target"] for each in list(receiver.requests) for alert in each.message["data"]["alerts"]]
        finally:
            sender.stop(10)

        assert 10_100 == len(told) == len(set(told))
        assert max(len(each.body) for each in receiver.requests) < 20 * 1024


def test_a_burst_grows_no_memory(engine: Engine, client: Client) -> None:
    """To send one message takes as much memory with 10,000 notifications behind it as with 300: they are in the database."""
    peaks = []
    with real.receiving() as receiver:
        ops = to(receiver.url)
        waiting = 0
        for many in (300, 600, 10_000):
            put(engine, *(firing(f"t{number:05}") for number in range(waiting, many)))
            waiting = many
            tracemalloc.start()
            deliver_next(engine, ops, client, lambda: 200.0)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            receiver.requests.clear()

    # The first has warmed up what is kept: statements, the connection.
    assert peaks[2] < 1.3 * peaks[1], peaks


def test_what_was_delivered_and_cannot_be_marked_is_not_sent_every_second(engine: Engine) -> None:
    """The disk is full after the 2xx: the message is repeated, with its id, only once a try can be noted again."""
    full = threading.Event()
    refuse_writes(engine, full.is_set)
    with real.receiving() as receiver:
        receiver.answer = lambda _: full.set() or 204  # type: ignore[func-returns-value]
        put(engine, firing(), now=time.time())
        sender = Delivery(engine, [to(receiver.url)], time.time)
        sender.start()
        try:
            receiver.wait_for(1)
            time.sleep(2.5 * FIRST_WAIT)
            assert 1 == len(receiver.requests)
            receiver.answer = lambda _: 204
            full.clear()
            receiver.wait_for(2)
        finally:
            sender.stop(10)

    assert receiver.requests[0].body == receiver.requests[1].body


@pytest.mark.parametrize("gone_between", [False, True], ids=["changed", "taken out and back in"])
def test_a_reload_never_has_two_senders_for_a_receiver(engine: Engine, gone_between: bool) -> None:
    """Who is still sending finishes before the next one begins, also when the receiver was gone in between."""
    release = threading.Event()
    with real.receiving() as receiver:
        receiver.answer = lambda number: 204 if number > 1 or release.wait(20) else 500
        old, new = to(receiver.url), to(receiver.url).model_copy(update={"timeout": 11.0})
        put(engine, firing("a"), now=time.time())
        sender = Delivery(engine, [old], time.time)
        sender.start()
        try:
            receiver.wait_for(1)
            if gone_between:
                sender.configure([])
                sender.configure([])
            sender.configure([new])
            put(engine, firing("b"), now=time.time())
            sender.wake()
            time.sleep(0.5)
            assert 1 == len(receiver.requests)
            release.set()
            receiver.wait_for(2)
        finally:
            release.set()
            sender.stop(10)

    assert ["a", "b"] == [alert["target"] for each in receiver.requests for alert in each.message["data"]["alerts"]]


def test_a_reload_starts_and_stops_senders(engine: Engine) -> None:
    """A new receiver gets what waits under its name, one that is gone gets no more, and the others are not disturbed."""
    with real.receiving() as one, real.receiving() as two:
        both = [to(one.url, "one"), to(two.url, "two")]
        sender = Delivery(engine, both[:1], time.time)
        sender.start()
        try:
            put(engine, firing("a"), now=time.time(), receivers=both)
            sender.wake()
            one.wait_for(1)
            sender.configure(both)
            two.wait_for(1)
            sender.configure(both[1:])
            # It finishes what it has begun; its thread ends by itself.
            eventually(lambda: "delivery one" not in [each.name for each in threading.enumerate()], "its sender has ended")
            put(engine, firing("b"), now=time.time(), receivers=both)
            sender.wake()
            two.wait_for(2)
            time.sleep(0.3)
            assert 1 == len(one.requests)
        finally:
            sender.stop(10)


def test_past_the_database_everything_is_told_in_messages_of_bounded_size(engine: Engine) -> None:
    """Long texts make more messages, not larger ones; what a receiver refuses is tried again, and survives a reload."""
    contents = [
        {**firing(f"t{number}"), "summary": "x" * 900, "reason": "y" * 900, "condition": "z" * 900} for number in range(30)
    ]
    with real.receiving() as receiver, real.receiving() as other:
        receiver.answer = lambda number: 503 if number == 1 else 204
        ops = [to(receiver.url), to(other.url, "other")]
        sender = Delivery(engine, ops, time.time)
        sender.start()
        try:
            sender.tell([outbox.Entry("ops", content) for content in contents])
            receiver.wait_for(1)
            sender.configure([ops[0].model_copy(update={"timeout": 11.0}), ops[1]])
            until = time.monotonic() + 20
            told: list[str] = []
            while len(told) < 30 and time.monotonic() < until:
                time.sleep(0.05)
                told = [alert["target"] for each in receiver.requests[1:] for alert in each.message["data"]["alerts"]]
            sender.tell([outbox.Entry(EVERYONE, firing("all"))])
            other.wait_for(1)
        finally:
            sender.stop(10)

    assert [f"t{number}" for number in range(30)] == told
    assert max(len(each.body) for each in receiver.requests) < 20 * 1024
    assert ["all"] == [alert["target"] for each in other.requests for alert in each.message["data"]["alerts"]]
