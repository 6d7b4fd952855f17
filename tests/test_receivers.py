"""The body and the headers of a webhook, held against docs/webhook.md and the official verifier."""

import re
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from standardwebhooks import Webhook

from service.configuration import Receiver, Rule
from service.monitor.probe import Sample
from service.monitor.receivers import content, iso, message, message_id
from service.monitor.rules import State, evaluate, fingerprint

SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
RULE = Rule.model_validate({"alert": "HighCpu", "when": "cpu_usage > 80", "summary": "{{ target }}: CPU at {{ value }} %"})
DOCUMENT = Path(__file__).parents[1] / "docs/webhook.md"


def receiver(secret: str | None = SECRET) -> Receiver:
    return Receiver(name="ops", webhook=SecretStr("http://127.0.0.1/hook"), secret=SecretStr(secret) if secret else None)


def told(value: float, previous: State, now: float, rule: Rule = RULE, target: str = "self") -> dict[str, object]:
    sample = Sample(target, "cpu_usage", value, "percent", "host")
    return content(rule, sample, fingerprint(rule.alert, target, {}), previous, evaluate(rule, value, previous, now))


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


def test_p24_each_occurrence_and_transition_has_an_id_of_its_own() -> None:
    """Firing, its resolved and the next firing of the same alert have three different ids."""
    again = told(91.0, State(), 1_700_000_100.0)

    assert 3 == len({message_id(each) for each in (FIRING, RESOLVED, again)})


def test_a_later_try_has_the_same_id_and_body_and_a_new_timestamp() -> None:
    """What is sent again is the same message, signed for its own time."""
    first_body, first = message(receiver(), message_id(FIRING), FIRING, 1_700_000_000.0)
    later_body, later = message(receiver(), message_id(FIRING), FIRING, 1_700_000_500.0)

    assert first_body == later_body
    assert first["webhook-id"] == later["webhook-id"]
    assert ("1700000000", "1700000500") == (first["webhook-timestamp"], later["webhook-timestamp"])
    assert first["webhook-signature"] != later["webhook-signature"]


def test_without_a_secret_a_message_is_not_signed() -> None:
    """A receiver that has no secret gets no signature header, rather than a meaningless one."""
    _, headers = message(receiver(None), "msg_x", FIRING, 1.0)

    assert "webhook-signature" not in headers


@given(summary=st.text(min_size=1, max_size=300).filter(lambda text: "{{" not in text), target=st.text(min_size=1, max_size=50))
def test_p26_no_text_breaks_the_body_or_the_signature(summary: str, target: str) -> None:
    """Whatever stands in a summary or a name, the body is valid JSON that says it, and its signature verifies."""
    import time

    rule = RULE.model_copy(update={"summary": summary})
    body, headers = message(receiver(), "msg_x", told(99.0, State(), 5.0, rule, target), time.time())

    assert summary == orjson.loads(body)["data"]["alerts"][0]["summary"]
    assert orjson.loads(body) == Webhook(SECRET).verify(body, headers)


@pytest.mark.parametrize("example", [FIRING, RESOLVED], ids=["firing", "resolved"])
def test_the_document_shows_the_body_as_it_is(example: dict[str, object]) -> None:
    """docs/webhook.md has an example of each kind, with exactly the keys and types that are sent."""
    examples = [orjson.loads(text) for text in re.findall(r"```json\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)]
    body, _ = message(receiver(), message_id(example), example, 1.0)
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
    body, headers = message(receiver(), "msg_x", FIRING, 1.0)

    assert [] == [name for name in [*orjson.loads(body), *FIRING, *headers] if f"`{name.lower()}" not in text.lower()]


def test_a_time_is_written_in_utc_with_milliseconds() -> None:
    """Times are ISO 8601 with a zone, to the millisecond."""
    assert "1970-01-01T00:00:01.500Z" == iso(1.5)
