"""What receivers are to know: put with the state, claimed as one message, told late and once, closed, given up."""

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, event, func, select
from sqlalchemy.exc import DatabaseError

from service import totals
from service.database import connect
from service.monitor import gone, outbox, receivers
from service.monitor.composing import LARGEST, Message
from service.monitor.outbox import GIVE_UP, Entry
from service.monitor.rules import State
from service.receiver import Receiver
from service.tables import backlog, deliveries, notifications
from tests.test_receivers import told

OPS = Receiver(name="ops", webhook=SecretStr("http://127.0.0.1:9/"))
BOTH = [OPS, Receiver(name="chat", webhook=SecretStr("http://127.0.0.1:9/chat"))]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = connect(f"sqlite:///{tmp_path}/tocsin.db")
    yield engine
    # Whatever the test has done: the numbers that the database keeps are those that can be counted.
    of = notifications.c
    counts = func.count().filter(of.waiting), func.count().filter(of.dead.is_not(None))
    with engine.connect() as connection:
        counted = connection.execute(select(of.receiver, *counts).group_by(of.receiver).order_by(of.receiver)).all()
        assert counted == connection.execute(select(backlog).order_by(backlog.c.receiver)).all()
    engine.dispose()


def firing(target: str = "self", at: float = 100.0) -> dict[str, Any]:
    return told(91.0, State(), at, target=target)


def resolved(target: str = "self", since: float = 100.0, at: float = 160.0) -> dict[str, Any]:
    return told(12.0, State("firing", since), at, target=target)


def put(engine: Engine, *contents: dict[str, Any], now: float = 100.0, receivers: list[Receiver] | None = None) -> None:
    with engine.begin() as connection:
        for status, kept in (("firing", outbox.announce), ("resolved", outbox.close)):
            entries = [Entry(to.name, each) for to in receivers or [OPS] for each in contents if each["status"] == status]
            kept(connection, entries, now)


def claim(engine: Engine, now: float = 200.0, receiver: Receiver = OPS) -> Message | None:
    with engine.begin() as connection:
        return next(iter(outbox.claim(connection, receiver, now)), None)


def deliver(engine: Engine, now: float = 200.0) -> list[tuple[str, str, bool]]:
    """Deliver all there is; status, target and lateness of each alert told."""
    said = []
    while message := claim(engine, now):
        said += [(each["status"], each["target"], each["late"]) for each in message.contents]
        with engine.begin() as connection:
            outbox.delivered(connection, [message], now)
    return said


def claim_several(engine: Engine, now: float = 200.0, most: int = 10) -> list[Message]:
    with engine.begin() as connection:
        return outbox.claim(connection, OPS, now, most)


def apart(engine: Engine, *targets: str, now: float = 100.0) -> None:
    """These fire, each in a group of its own."""
    with engine.begin() as connection:
        outbox.announce(connection, [Entry("ops", firing(name), {"labels": {"target": name}}) for name in targets], now)


def targets(claimed: list[Message]) -> list[list[str]]:
    return [[each["target"] for each in message.contents] for message in claimed]


def fail(engine: Engine, message: Message, now: float, *, uncertain: bool) -> int:
    with engine.begin() as connection:
        return outbox.failed(connection, message, now, now + 1, "it answered 503", uncertain=uncertain)


def test_what_waits_goes_into_one_message(engine: Engine) -> None:
    """Alerts of one tick are one message, in their order."""
    put(engine, firing("a"), firing("b"), firing("c"))
    message = claim(engine)

    assert message
    assert ["a", "b", "c"] == [each["target"] for each in message.contents]
    assert message.identity == getattr(claim(engine), "identity", None)  # until it is marked, the same again


def test_each_receiver_has_its_own(engine: Engine) -> None:
    """What one receiver was told is still told to the other."""
    put(engine, firing(), receivers=BOTH)

    assert [("firing", "self", False)] == deliver(engine)
    assert claim(engine, receiver=BOTH[1])


def test_a_told_firing_gets_its_resolved(engine: Engine) -> None:
    """Firing and resolved are two messages when the first was told in time."""
    put(engine, firing())
    first = deliver(engine)
    put(engine, resolved(), now=160.0)

    assert [("firing", "self", False), ("resolved", "self", False)] == first + deliver(engine)
    assert [] == deliver(engine)


def test_told_late_and_once(engine: Engine) -> None:
    """What fired and resolved while the receiver was away is told in one message that says so."""
    put(engine, *(firing(f"t{number}") for number in range(5)))
    for number in range(5):
        put(engine, resolved(f"t{number}"), now=160.0)
    message = claim(engine)

    assert message
    assert [("resolved", f"t{number}", True) for number in range(5)] == deliver(engine)
    assert message.contents[0]["summary"].startswith("Told late, 00:01 to 00:02 UTC: Resolved after 1 min: ")


def step(engine: Engine, summary: str, now: float = 120.0) -> None:
    with engine.begin() as connection:
        outbox.update_firing(connection, [Entry("ops", {**firing(), "summary": summary})], now)


def summaries(message: Message | None) -> list[str]:
    return [each["summary"] for each in message.contents] if message else []


def test_a_step_is_told_after_the_firing(engine: Engine) -> None:
    """Whoever was told that it fires is told what is done about it, each step once, and then its end."""
    put(engine, firing())
    deliver(engine)
    step(engine, "Restarting web (1 of 3)")
    assert ["Restarting web (1 of 3)"] == summaries(claim(engine))
    assert [("firing", "self", False)] == deliver(engine)
    put(engine, resolved(), now=160.0)

    assert [("resolved", "self", False)] == deliver(engine)


def test_a_step_while_its_firing_is_on_its_way_is_not_lost(engine: Engine) -> None:
    """A message that is being sent when the step is put says the firing; the step is told by the next one."""
    put(engine, firing())
    message = claim(engine)
    step(engine, "Restarting web (1 of 3)")
    assert message
    with engine.begin() as connection:
        outbox.delivered(connection, [message], 130.0)

    assert ["Restarting web (1 of 3)"] == summaries(claim(engine))
    deliver(engine)
    assert claim(engine) is None


def test_of_steps_that_could_not_be_told_the_newest_is(engine: Engine) -> None:
    """A receiver that was away from the beginning hears where it stands, and not each step."""
    put(engine, firing())
    for number in (1, 2, 3):
        step(engine, f"Restarting web ({number} of 3)")

    assert ["Restarting web (3 of 3)"] == summaries(claim(engine))


def test_a_step_after_the_end_says_nothing(engine: Engine) -> None:
    """What has been closed is not opened again by a step that comes late."""
    put(engine, firing())
    deliver(engine)
    put(engine, resolved(), now=160.0)
    step(engine, "Restarting web (1 of 3)", now=170.0)

    assert [("resolved", "self", False)] == deliver(engine)


def test_a_message_that_surely_did_not_arrive_is_put_together_anew(engine: Engine) -> None:
    """A refused firing that resolved meanwhile is not sent any more; its end is, and says both."""
    put(engine, firing())
    first = claim(engine)
    assert first
    fail(engine, first, 200.0, uncertain=False)
    put(engine, resolved(), now=210.0)
    second = claim(engine, 211.0)

    assert second
    assert first.identity != second.identity
    assert 1 == second.attempts  # the waits go on growing
    assert [("resolved", True)] == [(each["status"], each["late"]) for each in second.contents]


def test_a_message_that_may_have_arrived_is_repeated_as_it_was(engine: Engine) -> None:
    """When nobody knows whether it arrived it is sent again with its id, and the resolved after it."""
    put(engine, firing())
    first = claim(engine)
    assert first
    fail(engine, first, 200.0, uncertain=True)
    again = claim(engine, 201.0)
    assert again
    fail(engine, again, 202.0, uncertain=False)  # a clear no to the second try says nothing about the first
    put(engine, firing("other"), resolved(), now=210.0)
    second = claim(engine, 211.0)

    assert second
    assert (first.identity, first.parts) == (second.identity, second.parts)
    assert [("firing", "self", False), ("resolved", "self", False), ("firing", "other", False)] == deliver(engine, 211.0)


def test_killed_after_the_claim_is_repeated_as_it_was(engine: Engine) -> None:
    """A claim that was never marked, as after a kill, gives the same message though more is waiting by now."""
    put(engine, firing())
    first = claim(engine)
    put(engine, firing("other"), now=210.0)

    again = claim(engine, 300.0)

    assert first
    assert again
    assert (first.identity, first.parts) == (again.identity, again.parts)


def test_p25_a_resolved_without_its_firing_is_never_put(engine: Engine) -> None:
    """Closing what was never announced tells nobody anything."""
    put(engine, resolved())

    assert [] == deliver(engine)


@pytest.mark.parametrize("most", [1, 64])
def test_a_burst_is_told_in_messages_of_bounded_size(engine: Engine, most: int) -> None:
    """A thousand alerts at once are told completely, each message below the limit, and none smaller than need be."""
    put(engine, *(firing(f"target {number}") for number in range(1000)))
    said, sizes = [], []
    while claimed := claim_several(engine, most=most):
        for message in claimed:
            sizes.append(len(orjson.dumps(message.contents)))
            said += [each["target"] for each in message.contents]
        with engine.begin() as connection:
            outbox.delivered(connection, claimed, 200.0)

    assert [f"target {number}" for number in range(1000)] == said
    assert max(sizes) <= LARGEST + 2
    assert min(sizes[:-1]) > LARGEST - len(orjson.dumps(firing("target 999"))) - 2


@pytest.mark.parametrize(("age", "given_up"), [(GIVE_UP - 1, 0), (GIVE_UP, 1)])
def test_after_72_hours_of_trying_it_is_a_dead_letter(engine: Engine, age: float, given_up: int) -> None:
    """A notification is given up when it has waited for 72 hours, not before, and only when a try has failed."""
    put(engine, firing(), now=100.0)
    message = claim(engine, 100.0 + age)
    assert message

    assert given_up == fail(engine, message, 100.0 + age, uncertain=False)
    assert (claim(engine, 200.0 + age) is None) == bool(given_up)


def test_a_dead_letter_is_listed_and_can_be_sent_again(engine: Engine) -> None:
    """`replay` makes what was given up wait again; what resolved meanwhile is told late and once."""
    put(engine, firing(), now=100.0)
    message = claim(engine, 100.0 + GIVE_UP)
    assert message
    fail(engine, message, 100.0 + GIVE_UP, uncertain=False)
    put(engine, resolved(), now=100.0 + GIVE_UP + 5)
    assert [] == deliver(engine, 200.0 + GIVE_UP)  # never a resolved without its firing

    with engine.begin() as connection:
        assert [True] == [row.dead is not None for row in outbox.undelivered(connection)]
        assert 1 == outbox.replay(connection, 300.0 + GIVE_UP)
    assert [("resolved", "self", True)] == deliver(engine, 300.0 + GIVE_UP)


def test_a_disabled_receiver_gets_nothing_until_its_address_changes(engine: Engine) -> None:
    """After a 410 nothing is claimed for that address; a new address under the name gets what waits."""
    put(engine, firing())
    with engine.begin() as connection:
        gone.disable(connection, OPS, 150.0)

    assert claim(engine) is None
    assert claim(engine, receiver=Receiver(name="ops", webhook=SecretStr("http://127.0.0.1:9/new")))


def remind(engine: Engine, now: float) -> None:
    content = {**firing(), "reminder": True, "value": 97.0}
    with engine.begin() as connection:
        outbox.remind(connection, [Entry("ops", content), Entry("chat", content)], now)


def test_a_reminder_is_for_who_was_told_and_not_for_who_waits_for_the_first(engine: Engine) -> None:
    """What is still waiting to be told says enough; what was told is told once more, and then resolved."""
    put(engine, firing(), receivers=BOTH)
    first = deliver(engine)
    remind(engine, 300.0)
    message = claim(engine, 300.0)
    assert message
    assert [(True, 97.0)] == [(each["reminder"], each["value"]) for each in message.contents]
    other = claim(engine, 300.0, BOTH[1])
    assert other
    assert [False] == [each["reminder"] for each in other.contents]

    assert [("firing", "self", False)] * 2 == first + deliver(engine, 300.0)
    put(engine, resolved(), now=310.0)
    remind(engine, 320.0)
    assert [("resolved", "self", False)] == deliver(engine, 320.0)
    remind(engine, 330.0)
    assert [] == deliver(engine, 330.0)


def test_groupings_never_share_a_message(engine: Engine) -> None:
    """Each message has one grouping, that which waits longest first, and within it the order is kept."""
    entries = [Entry("ops", firing(f"t{number}"), {"labels": {"target": "ab"[number % 2]}}) for number in range(6)]
    with engine.begin() as connection:
        outbox.announce(connection, entries, 100.0)
    told = []
    while message := claim(engine):
        told.append((message.grouping, [each["target"] for each in message.contents]))
        with engine.begin() as connection:
            outbox.delivered(connection, [message], 200.0)

    assert [({"labels": {"target": "a"}}, ["t0", "t2", "t4"]), ({"labels": {"target": "b"}}, ["t1", "t3", "t5"])] == told


def test_several_messages_are_claimed_at_once(engine: Engine) -> None:
    """They are those that would be claimed one after the other, in their order, and no more than were asked for."""
    apart(engine, "a", "b", "c")
    put(engine, firing("d"), firing("e"), now=110.0)

    claimed = claim_several(engine, most=3)
    assert [["a"], ["b"], ["c"]] == targets(claimed)
    assert [{"labels": {"target": name}} for name in "abc"] == [message.grouping for message in claimed]
    with engine.begin() as connection:
        outbox.delivered(connection, claimed, 200.0)
        assert [("delivered", 3)] == [tuple(row)[1:] for row in connection.execute(select(deliveries))]
    assert [["d", "e"]] == targets(claim_several(engine))


def test_what_was_claimed_and_not_sent_is_put_together_anew(engine: Engine) -> None:
    """The second of three is refused: it stays as it is, and the third says what has become of its alert meanwhile."""
    apart(engine, "a", "b", "c")
    first, second, third = claim_several(engine)
    with engine.begin() as connection:
        outbox.delivered(connection, [first], 200.0)
        outbox.release(connection, [third])
        outbox.failed(connection, second, 200.0, 210.0, "it answered 500", uncertain=True)
    put(engine, resolved("c"), now=205.0)

    again = claim_several(engine, 210.0)  # alone: one that was tried in vain is waited for
    assert [second.identity] == [message.identity for message in again]
    assert [("firing", "b", False), ("resolved", "c", True)] == deliver(engine, 210.0)


def test_what_is_tried_again_is_claimed_alone(engine: Engine) -> None:
    """Also where it is put together anew, as it surely did not arrive: the waits go on growing for one message."""
    apart(engine, "a", "b", "c")
    first, *others = claim_several(engine)
    with engine.begin() as connection:
        outbox.release(connection, others)
    fail(engine, first, 200.0, uncertain=False)
    put(engine, resolved("a"), now=205.0)

    (again,) = claim_several(engine, 210.0)
    assert (["b"], 1) == ([each["target"] for each in again.contents], again.attempts)
    assert [("firing", "b", False), ("firing", "c", False), ("resolved", "a", True)] == deliver(engine, 210.0)


def test_killed_with_several_claimed_each_is_repeated_as_it_was(engine: Engine) -> None:
    """Nobody knows which of them were sent: all come again in their order, with their ids, before anything else."""
    apart(engine, "a", "b", "c")
    claimed = claim_several(engine)
    put(engine, resolved("b"), now=205.0)
    apart(engine, "d", now=206.0)

    again = []
    for now in (300.0, 301.0, 302.0):
        (message,) = claim_several(engine, now)
        again.append(message)
        assert 0 == fail(engine, message, now, uncertain=False)  # a clear no says nothing about an earlier try
        (message,) = claim_several(engine, now + 1)
        with engine.begin() as connection:
            outbox.delivered(connection, [message], now + 1)
    assert [(each.identity, each.parts) for each in claimed] == [(each.identity, each.parts) for each in again]
    assert [("resolved", "b", False), ("firing", "d", False)] == deliver(engine, 310.0)


@pytest.mark.parametrize("groups", [1, 7, 240])
def test_several_at_once_tell_the_same_as_one_by_one(engine: Engine, groups: int) -> None:
    """More alerts than are looked at together, some of them twice: all are told, each in its order, in about as few messages."""
    entries = [Entry("ops", firing(f"t{number}"), {"labels": {"target": number % groups}}) for number in range(240)]
    for to in BOTH:
        named = [replace(entry, receiver=to.name) for entry in entries]
        with engine.begin() as connection:
            outbox.announce(connection, named, 100.0)
            outbox.close(connection, [Entry(to.name, resolved(f"t{number}", at=110.0)) for number in range(0, 240, 3)], 110.0)
            again = [Entry(to.name, firing(f"t{number}", 120.0), {"labels": {}}) for number in range(0, 240, 6)]
            outbox.announce(connection, again, 120.0)
    said: list[list[Any]] = []
    for to, most in zip(BOTH, (1, 64), strict=True):
        said.append([])
        while True:
            with engine.begin() as connection:
                if not (claimed := outbox.claim(connection, to, 200.0, most)):
                    break
                outbox.delivered(connection, claimed, 200.0)
            said[-1] += [(each.grouping, [content["occurrence"] for content in each.contents]) for each in claimed]
    one_by_one, several = said

    assert sorted(name for _, each in one_by_one for name in each) == sorted(name for _, each in several for name in each)
    assert len(several) <= 1.1 * len(one_by_one)
    for way in (one_by_one, several):
        began: dict[str, int] = {}
        for alert, _, since in (name.rpartition("-") for _, each in way for name in each):
            assert began.get(alert, 0) < int(since)
            began[alert] = int(since)


def test_what_waits_costs_neither_a_tick_nor_a_message(engine: Engine) -> None:
    """A firing, a try that fails, one that does not, and what is looked at each second: SQLite does as much for 8,000."""
    like_alertmanager = OPS.model_copy(update={"format": "alertmanager"})  # it takes no reports: they are looked for
    count = 0

    def steps() -> int:
        nonlocal count
        counted = 0

        def more() -> int:
            nonlocal counted
            counted += 1
            return 0

        for number in range(5):
            count += 1
            raw = engine.raw_connection()
            raw.set_progress_handler(more, 100)  # sqlite3's own
            raw.close()
            put(engine, firing(f"n{count}"), now=1000.0)
            for receiver in (OPS, like_alertmanager):
                message = claim(engine, 2000.0 + 10 * number, receiver)
                assert message
                fail(engine, message, 2000.0 + 10 * number, uncertain=False)
            message = claim(engine, 2005.0 + 10 * number)
            assert message
            with engine.begin() as connection:
                outbox.delivered(connection, [message], 2005.0)
                assert totals.totals(connection).figures.oldest == 100.0
                assert [] == outbox.stranded(connection, ["ops"])
        return counted

    put(engine, *(firing(f"t{number}") for number in range(1000)))
    few = steps()
    put(engine, *(firing(f"u{number}") for number in range(7_000)))
    assert steps() < 1.5 * few


def test_every_outcome_is_counted(engine: Engine) -> None:
    """Messages that were delivered, tries that failed, and notifications that were given up, for each receiver."""
    put(engine, firing("a"), firing("b"), now=100.0)
    message = claim(engine)
    assert message
    fail(engine, message, 200.0, uncertain=False)
    deliver(engine, 300.0)
    put(engine, firing("c"), firing("d"), now=400.0)
    message = claim(engine, 400.0 + GIVE_UP)
    assert message
    fail(engine, message, 400.0 + GIVE_UP, uncertain=False)
    with engine.connect() as connection:
        rows = connection.execute(select(deliveries).order_by(deliveries.c.outcome)).all()

    assert [("ops", "dead", 2), ("ops", "delivered", 1), ("ops", "failed", 2)] == [tuple(row) for row in rows]


def test_what_cannot_be_noted_is_not_sent(engine: Engine) -> None:
    """Each claim is written, that of a repetition too: where nothing can be, it fails before a message leaves."""
    put(engine, firing())
    assert claim(engine)
    refuse_writes(engine, lambda: True)

    with pytest.raises(DatabaseError, match="not authorized"):
        claim(engine, 300.0)


def refuse_writes(engine: Engine, when: Callable[[], bool]) -> None:
    """SQLite begins a transaction and refuses what is to be written in it, as on a full disk."""

    def deny(connection: sqlite3.Connection, *_: object) -> None:
        denied = (sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_INSERT) if when() else ()
        connection.set_authorizer(lambda action, *_: sqlite3.SQLITE_DENY if action in denied else sqlite3.SQLITE_OK)

    event.listen(engine, "checkout", deny)


def test_a_reminder_that_was_given_up_does_not_take_the_resolved_along(engine: Engine) -> None:
    """A firing that was told gets its resolved, also when a reminder in between was never taken for 72 hours."""
    put(engine, firing())
    deliver(engine, 100.0)
    with engine.begin() as connection:
        outbox.remind(connection, [Entry("ops", firing())], 110.0)
    message = claim(engine, 110.0 + GIVE_UP)
    assert message
    assert 1 == fail(engine, message, 110.0 + GIVE_UP, uncertain=False)
    put(engine, resolved(), now=120.0 + GIVE_UP)

    assert [("resolved", "self", False)] == deliver(engine, 130.0 + GIVE_UP)


def test_what_waited_for_a_receiver_that_had_said_410_is_not_given_up_at_the_first_try(engine: Engine) -> None:
    """Nothing was tried meanwhile, so a replay begins its 72 hours."""
    put(engine, firing(), now=100.0)
    with engine.begin() as connection:
        gone.disable(connection, OPS, 100.0)
        outbox.replay(connection, 200.0 + GIVE_UP)
    message = claim(engine, 200.0 + GIVE_UP)
    assert message

    assert 0 == fail(engine, message, 210.0 + GIVE_UP, uncertain=False)


def test_no_occurrence_overtakes_the_one_before_it(engine: Engine) -> None:
    """When a reload has given an alert another group, its second firing still waits for the end of its first."""
    old, new = {"route": "0", "labels": {"target": "b"}}, {"route": "0", "labels": {}}
    with engine.begin() as connection:
        outbox.announce(connection, [Entry("ops", firing("a"), new)], 100.0)
        outbox.announce(connection, [Entry("ops", firing("b", 110.0), old)], 110.0)
        outbox.close(connection, [Entry("ops", resolved("b", 110.0, 120.0))], 120.0)
        outbox.announce(connection, [Entry("ops", firing("b", 130.0), new)], 130.0)

    assert [("firing", "a", False), ("resolved", "b", True), ("firing", "b", False)] == deliver(engine, 140.0)


def test_a_message_in_alertmanagers_form_stays_below_20_kib(engine: Engine) -> None:
    """What that form says twice is counted, too."""
    like_alertmanager = OPS.model_copy(update={"format": "alertmanager"})
    long = [{**firing(f"t{number}"), "summary": "s" * 990, "reason": "r" * 990} for number in range(30)]
    put(engine, *long)
    sizes = []
    while message := claim(engine, receiver=like_alertmanager):
        body, _ = receivers.message(like_alertmanager, message.identity, message.contents, 100.0, 100.0)
        sizes.append(len(body))
        with engine.begin() as connection:
            outbox.delivered(connection, [message], 200.0)

    assert len(sizes) > 1
    assert max(sizes) < 20 * 1024
