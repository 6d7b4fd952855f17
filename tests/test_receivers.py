"""The body and the headers of a webhook, held against docs/webhook.md and the official verifier."""

import re
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from standardwebhooks import Webhook

from service.configuration import Rule
from service.monitor.probe import Sample
from service.monitor.receivers import LONGEST_TEXT, content, late, message, removed, short
from service.monitor.rules import State, evaluate, fingerprint
from service.receiver import Receiver
from service.values import iso, length

SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
RULE = Rule.model_validate(
    {"alert": "HighCpu", "when": "cpu_usage > 80", "keep_firing_for": "0s", "summary": "{{ target }}: CPU at {{ value }} %"}
)
DOCUMENT = Path(__file__).parents[1] / "docs/webhook.md"


def receiver(secret: str | None = SECRET) -> Receiver:
    return Receiver(name="ops", webhook=SecretStr("http://127.0.0.1/hook"), secret=SecretStr(secret) if secret else None)


def told(value: float, previous: State, now: float, rule: Rule = RULE, target: str = "self") -> dict[str, Any]:
    sample = Sample(target, "cpu_usage", value, "percent", "host")
    return content(rule, sample, previous, evaluate(rule, value, previous, now), fingerprint=fingerprint(rule.alert, target, {}))


FIRING = told(91.0, State(), 1_700_000_000.0)
RESOLVED = told(12.0, State("firing", 1_700_000_000.0), 1_700_000_061.5)


def test_a_firing_says_what_where_since_when_and_how_bad() -> None:
    """The content of a firing has the values of its rule and sample, a start and no end."""
    assert (
        "firing",
        "HighCpu",
        "self",
        "warning",
        "self: CPU at 91 %",
        91.0,
        "percent",
        "host",
        "2023-11-14T22:13:20.000Z",
        None,
    ) == tuple(
        FIRING[name]
        for name in ("status", "alert", "target", "severity", "summary", "value", "unit", "scope", "starts_at", "ends_at")
    )


def test_a_resolved_belongs_to_its_firing() -> None:
    """A resolved has the start, fingerprint and occurrence of its firing, and an end of its own."""
    assert [FIRING[name] for name in ("starts_at", "fingerprint", "occurrence")] == [
        RESOLVED[name] for name in ("starts_at", "fingerprint", "occurrence")
    ]
    assert "2023-11-14T22:14:21.500Z" == RESOLVED["ends_at"]


def test_p24_each_occurrence_has_an_id_of_its_own() -> None:
    """The next time the same alert fires it is another occurrence, with the same fingerprint."""
    again = told(91.0, State(), 1_700_000_100.0)

    assert FIRING["fingerprint"] == again["fingerprint"]
    assert FIRING["occurrence"] != again["occurrence"]


def test_a_later_try_has_the_same_id_and_body_and_a_new_timestamp() -> None:
    """What is sent again is the same message, signed for its own time."""
    first_body, first = message(receiver(), "msg_x", [FIRING], 5.0, 1_700_000_000.0)
    later_body, later = message(receiver(), "msg_x", [FIRING], 5.0, 1_700_000_500.0)

    assert first_body == later_body
    assert first["webhook-id"] == later["webhook-id"]
    assert ("1700000000", "1700000500") == (first["webhook-timestamp"], later["webhook-timestamp"])
    assert first["webhook-signature"] != later["webhook-signature"]


def test_without_a_secret_a_message_is_not_signed() -> None:
    """A receiver that has no secret gets no signature header, rather than a meaningless one."""
    _, headers = message(receiver(None), "msg_x", [FIRING], 1.0, 1.0)

    assert "webhook-signature" not in headers


hostile = st.text(st.characters(codec=None), max_size=300) | st.text('"\\\n\0\ud800😀é', max_size=70_000)


@given(summary=hostile.filter(lambda text: "{{" not in text), target=hostile, mount=hostile, reason=hostile)
def test_p26_no_text_breaks_the_body_or_the_signature(summary: str, target: str, mount: str, reason: str) -> None:
    """Whatever stands in a summary, a name, a label or a reason, the body is valid JSON below 20 KiB and is verified."""
    import time

    rule = RULE.model_copy(update={"summary": summary, "alert": target})
    sample = Sample(target, "cpu_usage", 99.0, "percent", "host", {"mount": mount}, reason)
    said = content(rule, sample, State(), evaluate(rule, 99.0, State(), 5.0), fingerprint="f" * 16)
    body, headers = message(receiver(), "msg_x", [said], 5.0, time.time())

    assert orjson.loads(body) == Webhook(SECRET).verify(body, headers)
    assert len(body) < 20 * 1024
    shown = orjson.loads(body)["data"]["alerts"][0]["summary"]
    assert summary.encode("utf-8", "backslashreplace").decode() == shown or shown.endswith(" characters cut]")


@given(hostile)
def test_a_text_is_cut_visibly_and_only_when_it_is_long(text: str) -> None:
    """A text takes at most so many bytes of JSON; one that fits is unchanged, the other says how much is gone."""
    given = text.encode("utf-8", "backslashreplace").decode()
    shown = short(text)

    assert len(orjson.dumps(shown)) <= LONGEST_TEXT
    if len(orjson.dumps(given)) <= LONGEST_TEXT:
        assert given == shown
    else:
        assert shown.endswith("characters cut]")


def test_what_is_told_late_says_so() -> None:
    """A resolved whose firing was never told has both times, and says that it comes late."""
    said = late(RESOLVED)

    assert (True, "resolved") == (said["late"], said["status"])
    assert "Told late, 22:13 to 22:14 UTC: Resolved after 1 min 2 s: self: CPU at 12 %" == said["summary"]


def test_what_is_no_longer_watched_is_closed() -> None:
    """The resolved of a rule that is gone has the occurrence of its firing, and says why it ends."""
    said = removed(FIRING, 1_700_000_030.0, 30.0)

    assert ("resolved", FIRING["occurrence"]) == (said["status"], said["occurrence"])
    assert "No longer watched, after 30 s: self: CPU at 91 %" == said["summary"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (0.4, "0 s"),
        (41, "41 s"),
        (60, "1 min"),
        (125, "2 min 5 s"),
        (3600, "1 h"),
        (3661, "1 h 1 min"),
        (100_000, "1 d 3 h"),
    ],
)
def test_a_length_of_time_has_its_two_largest_units(seconds: float, text: str) -> None:
    """People read lengths of time, not seconds."""
    assert text == length(seconds)


@pytest.mark.parametrize("example", [FIRING, RESOLVED], ids=["firing", "resolved"])
def test_the_document_shows_the_body_as_it_is(example: dict[str, Any]) -> None:
    """docs/webhook.md has an example of each kind, with exactly the keys and types that are sent."""
    examples = [orjson.loads(text) for text in re.findall(r"```json\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)]
    body, _ = message(receiver(), "msg_x", [example], 1.0, 1.0)
    sent = orjson.loads(body)
    shown = next(each for each in examples if each["type"] == sent["type"])

    def shape(part: object) -> object:
        if isinstance(part, dict):
            return {key: shape(value) for key, value in part.items() if key != "labels"}
        return [shape(each) for each in part] if isinstance(part, list) else type(part)

    assert shape(sent) == shape(shown)


def test_every_field_is_explained() -> None:
    """docs/webhook.md has a row for each field of the body and of an alert in it."""
    text = DOCUMENT.read_text()
    body, headers = message(receiver(), "msg_x", [FIRING], 1.0, 1.0)

    assert [] == [name for name in [*orjson.loads(body), *FIRING, *headers] if f"`{name.lower()}" not in text.lower()]


def test_a_time_is_written_in_utc_with_milliseconds() -> None:
    """Times are ISO 8601 with a zone, to the millisecond."""
    assert "1970-01-01T00:00:01.500Z" == iso(1.5)
