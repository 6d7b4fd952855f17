"""Signatures, checked by the official verifier of Standard Webhooks."""

import base64
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import SecretStr
from standardwebhooks import Webhook, WebhookVerificationError

from service.signing import TOLERANCE, check_secret, check_secrets, several, sign, verify

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEYS = st.binary(min_size=24, max_size=64)
# What may stand in an HTTP header.
IDS = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-", min_size=1, max_size=64)


def secret_of(key: bytes) -> str:
    return f"whsec_{base64.b64encode(key).decode()}"


def headers(message_id: str, timestamp: int, signature: str) -> dict[str, str]:
    return {"webhook-id": message_id, "webhook-timestamp": str(timestamp), "webhook-signature": signature}


def test_the_example_of_the_specification_has_its_signature() -> None:
    """The published secret, id, time and body give the published signature."""
    signature = sign(SecretStr(SECRET), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" == signature


@given(key=KEYS, message_id=IDS, text=st.text())
def test_the_official_verifier_accepts_what_we_sign(key: bytes, message_id: str, text: str) -> None:
    """Whatever the key, the id and the body are, the official library verifies the signature."""
    secret, now = secret_of(key), int(time.time())
    body = json.dumps({"text": text}, ensure_ascii=False).encode()
    said = headers(message_id, now, sign(SecretStr(secret), message_id, now, body))
    assert {"text": text} == Webhook(secret).verify(body, said)


@pytest.mark.parametrize(
    ("message_id", "later", "body"),
    [("msg_2", 0, b"{}"), ("msg_1", 1, b"{}"), ("msg_1", 0, b"{} ")],
    ids=["id", "time", "body"],
)
def test_the_official_verifier_refuses_what_was_changed(message_id: str, later: int, body: bytes) -> None:
    """The signature covers the id, the time and every byte of the body."""
    now = int(time.time())
    signature = sign(SecretStr(SECRET), "msg_1", now, b"{}")
    assert {} == Webhook(SECRET).verify(b"{}", headers("msg_1", now, signature))
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body, headers(message_id, now + later, signature))


def test_another_secret_gives_another_signature() -> None:
    """A receiver with a different secret refuses the message."""
    now = int(time.time())
    signature = sign(SecretStr(secret_of(b"a" * 24)), "msg_1", now, b"{}")
    with pytest.raises(WebhookVerificationError):
        Webhook(secret_of(b"b" * 24)).verify(b"{}", headers("msg_1", now, signature))


@given(body=st.binary())
def test_a_body_of_any_bytes_is_signed_as_the_same_text(body: bytes) -> None:
    """The same bytes always get the same signature, `v1` and the base64 of 32 bytes."""
    version, _, digest = sign(SecretStr(SECRET), "msg_1", 1, body).partition(",")
    assert "v1" == version
    assert 32 == len(base64.b64decode(digest, validate=True))
    assert f"v1,{digest}" == sign(SecretStr(SECRET), "msg_1", 1, body)


@pytest.mark.parametrize("length", [24, 25, 32, 63, 64])
def test_a_key_of_24_to_64_bytes_is_a_secret(length: int) -> None:
    """Both ends of the range that the specification allows are accepted, unchanged."""
    secret = SecretStr(secret_of(b"\xff" * length))
    assert secret == check_secret(secret)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "whsec_",
        secret_of(b"k" * 23),
        secret_of(b"k" * 65),
        secret_of(b"k" * 24).removeprefix("whsec_"),
        secret_of(b"k" * 24).upper(),
        secret_of(b"k" * 25).rstrip("="),
        secret_of(b"k" * 24) + "\n",
        secret_of(b"k" * 24) + "!",
        "whsec_" + "-_" * 16,
        "whsec_" + "é" * 32,
        "whsec_" + "\udcff" * 32,
    ],
)
def test_another_text_is_refused_without_being_repeated(text: str) -> None:
    """What is no secret is refused with the remedy, and the text stays out of the message."""
    with pytest.raises(ValueError, match="`tocsin secret` makes one") as caught:
        check_secret(SecretStr(text))
    assert not text.removeprefix("whsec_") or text.removeprefix("whsec_") not in str(caught.value)


@given(text=st.text() | st.text("whsec_ABCab+/=").map("whsec_{}".format))
def test_any_text_is_a_secret_that_signs_or_a_value_error(text: str) -> None:
    """A secret that passes the check can sign; every other text is a ValueError."""
    try:
        secret = check_secret(SecretStr(text))
    except ValueError:
        return
    assert sign(secret, "msg_1", 1, b"").startswith("v1,")


def test_of_several_secrets_each_signature_is_accepted() -> None:
    """Two signatures in one header: who has either secret verifies it, who has a third does not."""
    now, keys = int(time.time()), [secret_of(byte * 24) for byte in (b"a", b"b")]
    both = " ".join(sign(secret, "msg_1", now, b"{}") for secret in several(SecretStr(" ".join(keys))))
    for key in keys:
        assert {} == Webhook(key).verify(b"{}", headers("msg_1", now, both))
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(b"{}", headers("msg_1", now, both))


@pytest.mark.parametrize("text", [SECRET, f"{SECRET} {SECRET}", f" {SECRET}\n{SECRET}\n"])
def test_one_secret_or_several_are_secrets(text: str) -> None:
    """White space separates them, also the end of a line."""
    assert text == check_secrets(SecretStr(text)).get_secret_value()
    assert {SECRET} == {secret.get_secret_value() for secret in several(SecretStr(text))}


@pytest.mark.parametrize("text", ["", " ", f"{SECRET} x", f"{SECRET},{SECRET}"])
def test_one_wrong_secret_among_several_is_refused(text: str) -> None:
    """Each of them must be one, and there must be one."""
    with pytest.raises(ValueError, match="`tocsin secret` makes one"):
        check_secrets(SecretStr(text))


@given(keys=st.lists(KEYS, min_size=1, max_size=3), message_id=IDS, text=st.text(), data=st.data())
def test_we_accept_what_the_official_library_signs(keys: list[bytes], message_id: str, text: str, data: st.DataObject) -> None:
    """Whichever of our secrets it was signed with; the time is its own clock's."""
    body, now = json.dumps({"text": text}), time.time()
    signature = Webhook(secret_of(data.draw(st.sampled_from(keys)))).sign(message_id, datetime.fromtimestamp(now, UTC), body)
    verify([SecretStr(secret_of(key)) for key in keys], headers(message_id, int(now), signature), body.encode(), now)


@given(key=KEYS, message_id=IDS, text=st.text(), away=st.integers(-400, 400), flip=st.booleans())
def test_we_accept_what_the_official_library_accepts(key: bytes, message_id: str, text: str, away: int, flip: bool) -> None:
    """Right or wrong, early or late: both come to the same verdict, but for the second in which the tests run."""
    assume(abs(abs(away) - TOLERANCE) > 3)
    body, now = json.dumps({"text": text}).encode(), int(time.time())
    said = headers(message_id, now + away, sign(SecretStr(secret_of(key)), message_id, now + away, body))
    body += b" " if flip else b""

    def accepts(call: Callable[[], object]) -> bool:
        try:
            call()
        except (ValueError, WebhookVerificationError):
            return False
        return True

    ours = accepts(lambda: verify([SecretStr(secret_of(key))], said, body, time.time()))
    assert accepts(lambda: Webhook(secret_of(key)).verify(body, said)) == ours
    assert ours == (not flip and abs(away) < TOLERANCE)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"webhook-id": ""}, "webhook-id or webhook-timestamp is missing or unreadable"),
        ({"webhook-timestamp": ""}, "webhook-id or webhook-timestamp is missing or unreadable"),
        ({"webhook-timestamp": "-1"}, "webhook-id or webhook-timestamp is missing or unreadable"),
        ({"webhook-timestamp": "1e3"}, "webhook-id or webhook-timestamp is missing or unreadable"),
        ({"webhook-timestamp": "9" * 5000}, "webhook-id or webhook-timestamp is missing or unreadable"),
        ({"webhook-timestamp": "1301"}, "webhook-timestamp is more than 300 s away"),
        ({"webhook-timestamp": "699"}, "webhook-timestamp is more than 300 s away"),
        ({"webhook-timestamp": "1001"}, "webhook-signature is not of this message"),
        ({"webhook-id": "msg_2"}, "webhook-signature is not of this message"),
        ({"webhook-id": "\udce9"}, "webhook-signature is not of this message"),
        ({"webhook-signature": ""}, "webhook-signature is not of this message"),
        ({"webhook-signature": "v1,\udce9 v1a,é v1,"}, "webhook-signature is not of this message"),
    ],
)
def test_what_is_not_signed_now_and_so_is_refused(changed: dict[str, str], reason: str) -> None:
    """Every part that is missing, wrong or out of time is a ValueError with the reason; nothing else is raised."""
    said = headers("msg_1", 1000, sign(SecretStr(SECRET), "msg_1", 1000, b"{}"))
    verify([SecretStr(SECRET)], said, b"{}", 1000.0)
    with pytest.raises(ValueError, match=reason):
        verify([SecretStr(SECRET)], said | changed, b"{}", 1000.0)


def test_without_a_secret_nothing_is_accepted() -> None:
    """No secrets is no reason to believe."""
    said = headers("msg_1", 1000, sign(SecretStr(SECRET), "msg_1", 1000, b"{}"))
    with pytest.raises(ValueError, match="webhook-signature is not"):
        verify([], said, b"{}", 1000.0)
