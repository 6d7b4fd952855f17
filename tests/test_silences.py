"""Silences: what a person may ask for, which alerts it holds and when, on a real database."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, update

from service import silences, tables
from service.checking import LATEST, FaultsError, checked
from service.database import connect, reading
from service.silences import Draft, ExpiredError, UnknownError

NOW = 1_792_150_860.0  # 2026-10-16T11:41:00Z
WISH = {"matchers": ['target="db"'], "duration": "2h", "author": "ann"}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = connect(f"sqlite:///{tmp_path}/tocsin.db")
    yield engine
    engine.dispose()


def wished(**changed: Any) -> dict[str, Any]:
    """The wish with other fields; None leaves one out."""
    return {name: value for name, value in {**WISH, **changed}.items() if value is not None}


def told(body: object) -> dict[str, str]:
    """Place and fault of everything that is wrong."""
    with pytest.raises(FaultsError) as caught:
        checked(Draft, body, NOW)
    return dict(caught.value.faults)


def add(engine: Engine, now: float = NOW, **changed: Any) -> silences.Silence:
    with engine.begin() as connection:
        return silences.add(connection, checked(Draft, wished(**changed), now), now)


@pytest.mark.parametrize(
    ("changed", "period"),
    [
        ({}, (NOW, NOW + 7200)),
        ({"starts_at": "2026-10-16T11:42:00Z"}, (NOW + 60, NOW + 7260)),
        ({"starts_at": "2026-10-16T13:42:00+02:00"}, (NOW + 60, NOW + 7260)),
        ({"starts_at": "2026-10-16T11:40:00Z"}, (NOW - 60, NOW + 7140)),
        ({"duration": None, "ends_at": "2026-10-16T11:42:00.5Z"}, (NOW, NOW + 60.5)),
        ({"duration": None, "starts_at": "2026-10-16T12:41:00Z", "ends_at": "2026-10-16T13:41Z"}, (NOW + 3600, NOW + 7200)),
    ],
)
def test_a_silence_lasts_as_long_as_is_said(changed: dict[str, Any], period: tuple[float, float]) -> None:
    """It begins now or at `starts_at`, and ends after `duration` or at `ends_at`."""
    assert period == checked(Draft, wished(**changed), NOW).period(NOW)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"matchers": None}, {"matchers": "is required"}),
        ({"matchers": []}, {"matchers": "is not a list of 1 to 20 matchers"}),
        ({"matchers": ["target=db"] * 21}, {"matchers": "is not a list of 1 to 20 matchers"}),
        ({"matchers": "target=db"}, {"matchers": "is not a list of 1 to 20 matchers"}),
        ({"matchers": {"target": "db"}}, {"matchers": "is not a list of 1 to 20 matchers"}),
        ({"matchers": ["target=db", 5]}, {"matchers[1]": "is not text"}),
        (
            {"matchers": ["tarket=db"]},
            {"matchers[0]": "'tarket' is not a label of an alert; did you mean 'target'?"},
        ),
        ({"matchers": ["target=\x1b[2J"]}, {"matchers[0]": "has a character that cannot be shown; leave it out"}),
        ({"duration": None}, {"ends_at": "is needed, or a duration: write exactly one of the two"}),
        ({"ends_at": "2030-01-01T00:00:00Z"}, {"ends_at": "is needed, or a duration: write exactly one of the two"}),
        ({"duration": 7200}, {"duration": "is not text"}),
        (
            {"duration": "7200"},
            {"duration": "'7200' is not a duration; write a number with ms, s, m, h or d, such as 10s or 1h30m"},
        ),
        ({"duration": "0s"}, {"duration": "'0s': input should be greater than 0"}),
        ({"duration": "999999999d"}, {"ends_at": "lies after 9999"}),
        ({"starts_at": "2026-10-16T11:41:00"}, {"starts_at": "has no zone; add Z for UTC, or an offset such as +02:00"}),
        ({"starts_at": "2026-10-16"}, {"starts_at": "has no zone; add Z for UTC, or an offset such as +02:00"}),
        ({"starts_at": "soon"}, {"starts_at": "is not a time; write one such as 2026-10-16T11:41:00Z"}),
        ({"starts_at": NOW}, {"starts_at": "is not a time; write one such as 2026-10-16T11:41:00Z"}),
        ({"starts_at": "2026-10-16T11:41:00\ud800"}, {"starts_at": "is not a time; write one such as 2026-10-16T11:41:00Z"}),
        ({"starts_at": "0001-01-01T00:00:00+14:00"}, {"starts_at": "lies before 1970 or after 9999"}),
        ({"duration": None, "ends_at": "9999-12-31T23:59:59-14:00"}, {"ends_at": "lies before 1970 or after 9999"}),
        (
            {"duration": None, "ends_at": "2026-10-16T11:41:00Z", "starts_at": "2026-10-16T11:41:00Z"},
            {"ends_at": "lies not after the start"},
        ),
        (
            {"duration": None, "ends_at": "2026-10-16T11:40:00Z", "starts_at": "2026-10-16T11:00:00Z"},
            {"ends_at": "2026-10-16T11:40:00.000Z is past; it is 2026-10-16T11:41:00.000Z"},
        ),
        (
            {"duration": "1m", "starts_at": "2026-10-16T11:00:00Z"},
            {"ends_at": "2026-10-16T11:01:00.000Z is past; it is 2026-10-16T11:41:00.000Z"},
        ),
        ({"author": None}, {"author": "is required"}),
        ({"author": "  "}, {"author": "'  ': string should have at least 1 character"}),
        ({"author": "a\nb"}, {"author": "has more than one line; write it in one"}),
        ({"author": ["ann"]}, {"author": "is not text"}),
        ({"author": "\ud800"}, {"author": "has a character that cannot be shown; leave it out"}),
        ({"comment": "\0"}, {"comment": "has a character that cannot be shown; leave it out"}),
        ({"commment": "x"}, {"commment": "is not known here; did you mean 'comment'?"}),
    ],
)
def test_what_cannot_be_is_named_with_its_remedy(changed: dict[str, Any], expected: dict[str, str]) -> None:
    """Each fault has its place, and says what would be right."""
    assert expected == told(wished(**changed))


@pytest.mark.parametrize(("field", "longest"), [("author", 200), ("comment", 2000)])
def test_text_has_a_length(field: str, longest: int) -> None:
    """The longest text that is allowed is taken, one character more is not."""
    assert longest == len(getattr(checked(Draft, wished(**{field: "é" * longest}), NOW), field))
    assert [field] == list(told(wished(**{field: "é" * (longest + 1)})))


def test_all_faults_are_told_at_once() -> None:
    """Nobody has to send a silence five times to hear of five mistakes, also not of what the times are together."""
    body = wished(matchers=["x=1", "target=db", "y"], author="", comment=5, until="x", duration=None)
    assert {"matchers[0]", "matchers[2]", "ends_at", "author", "comment", "until"} == set(told(body))


@pytest.mark.parametrize("body", [None, [], "text", 5, {"\ud800": 1}], ids=["null", "list", "text", "number", "half a name"])
def test_what_is_no_object_is_one_fault(body: object) -> None:
    """Whatever else JSON can be is told as such."""
    assert {"the body": "is not a JSON object whose names are texts"} == told(body)


def test_text_of_any_language_is_kept(engine: Engine) -> None:
    """Umlauts, emoji, and lines in a comment come back as they were sent; spaces around do not."""
    made = add(engine, author=" Zoë 👩‍💻 ", comment=" Umzug…\nbis heute Abend\t✓ ", matchers=['target="dé\\"b"'])
    with reading(engine) as connection:
        found = silences.find(connection, made.id)
    assert made == found
    assert ("Zoë 👩‍💻", "Umzug…\nbis heute Abend\t✓") == (found.author, found.comment)


def test_a_silence_holds_from_its_start_until_before_its_end(engine: Engine) -> None:
    """It is pending, active, and expired, and only the active ones are what the monitor reads."""
    made = add(engine, starts_at="2026-10-16T11:42:00Z", duration="1m")
    states = []
    with reading(engine) as connection:
        for moment in (NOW, NOW + 59.9, NOW + 60, NOW + 119.9, NOW + 120):
            assert (silences.active(connection, moment) == [made]) is (made.state(moment) == "active")
            states.append(made.state(moment))
    assert ["pending", "pending", "active", "active", "expired"] == states


@pytest.mark.parametrize(
    ("matchers", "expected"),
    [(["target=db"], True), (["target=web"], False), (["target=db", "severity=info"], False), (["target=~.*", "mount="], True)],
)
def test_a_silence_is_about_alerts_that_all_its_matchers_match(engine: Engine, matchers: list[str], expected: bool) -> None:
    """One matcher that does not match is enough for the alert to be told."""
    made = add(engine, matchers=matchers)
    with reading(engine) as connection:
        (found,) = silences.active(connection, NOW)
    labels = {"alert": "HighCpu", "target": "db", "severity": "warning", "metric": "cpu_usage", "scope": "host"}
    assert [expected, expected] == [made.matches(labels), found.matches(labels)]


def test_they_are_listed_with_the_newest_first(engine: Engine) -> None:
    """All of them, also those that have ended; the monitor reads them the other way round."""
    first, second, third = add(engine, NOW), add(engine, NOW + 1, duration="1s"), add(engine, NOW + 2)
    with reading(engine) as connection:
        assert [third, second, first] == silences.every(connection)
        assert [first, third] == silences.active(connection, NOW + 10)
        assert {first.id: first} == silences.those(connection, [first.id, "nightly"])


def test_replacing_keeps_the_id_and_when_it_was_created(engine: Engine) -> None:
    """Everything else is as the new draft says."""
    made = add(engine, comment="before")
    with engine.begin() as connection:
        draft = checked(Draft, wished(matchers=["severity=info"], duration="1h", author="ben"), NOW + 60)
        changed = silences.replace(connection, made.id, draft, NOW + 60)
    with reading(engine) as connection:
        assert [changed] == silences.every(connection)
    assert (made.id, NOW, NOW + 60) == (changed.id, changed.created, changed.updated)
    assert (NOW + 60, NOW + 3660, "ben", "") == (changed.starts, changed.ends, changed.author, changed.comment)


@pytest.mark.parametrize("starts_at", ["2026-10-16T11:41:00Z", "2026-10-16T13:00:00Z"], ids=["active", "pending"])
def test_expiring_ends_it_at_once(engine: Engine, starts_at: str) -> None:
    """From that moment on it holds nothing, and one that had not begun never will."""
    made = add(engine, starts_at=starts_at)
    with engine.begin() as connection:
        ended = silences.expire(connection, made.id, NOW + 60)
    assert ("expired", True) == (ended.state(NOW + 60), ended.starts <= ended.ends)
    with reading(engine) as connection:
        assert [[], []] == [silences.active(connection, moment) for moment in (NOW + 60, NOW + 7000)]
        assert [ended] == silences.every(connection)


def test_what_has_ended_stays_as_it_was(engine: Engine) -> None:
    """A silence that is over is changed by nothing, so that one can see later what held."""
    made = add(engine, duration="1m")
    changes: list[Callable[[Connection], object]] = [
        lambda connection: silences.expire(connection, made.id, NOW + 60),
        lambda connection: silences.replace(connection, made.id, checked(Draft, WISH, NOW + 60), NOW + 60),
    ]
    for change in changes:
        with (
            pytest.raises(ExpiredError, match=r"ended at 2026-10-16T11:42:00\.000Z; add a new one"),
            engine.begin() as connection,
        ):
            change(connection)
    with reading(engine) as connection:
        assert [made] == silences.every(connection)


@pytest.mark.parametrize("identity", ["", "nightly", "\0", "' OR 1=1 --", "é" * 5000])
def test_what_is_not_there_is_unknown(engine: Engine, identity: str) -> None:
    """Any other id is none."""
    add(engine)
    with engine.begin() as connection:
        changes: list[Callable[[], object]] = [
            lambda: silences.find(connection, identity),
            lambda: silences.expire(connection, identity, NOW),
            lambda: silences.replace(connection, identity, checked(Draft, WISH, NOW), NOW),
        ]
        for change in changes:
            with pytest.raises(UnknownError):
                change()


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(), max_size=5), inner, max_size=3),
    max_leaves=8,
)
TEXTS = st.sampled_from(["target=db", "2h", "2026-10-16T12:00:00Z", "2030-01-01T00:00:00+02:00", "ann"])
bodies = st.dictionaries(st.sampled_from(sorted(Draft.model_fields)), anything | TEXTS | st.lists(TEXTS, max_size=2))


@given(body=bodies | anything)
def test_any_body_is_a_silence_or_faults_that_json_can_say(body: object) -> None:
    """Nothing that JSON can hold makes the check fail in any other way."""
    try:
        starts, ends = checked(Draft, body, NOW).period(NOW)
    except FaultsError as error:
        assert error.faults  # noqa: PT017 - one of two ways
        json.dumps(error.faults, ensure_ascii=False).encode()
    else:
        assert starts < ends <= LATEST
        assert ends > NOW


def test_a_silence_that_cannot_be_read_costs_no_other(engine: Engine) -> None:
    """One of another version, whose matcher makes no sense here, does not hold; the rest does, and nothing breaks."""
    good, strange = add(engine), add(engine)
    with engine.begin() as connection:
        odd = update(tables.silences).where(tables.silences.c.id == strange.id)
        connection.execute(odd.values(matchers=['region="eu"']))
    with reading(engine) as connection:
        assert [good] == silences.active(connection, NOW + 1)
        assert [good] == silences.every(connection)
        with pytest.raises(UnknownError):
            silences.find(connection, strange.id)
