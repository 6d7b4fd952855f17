"""Signatures as Standard Webhooks defines them (https://www.standardwebhooks.com, specification 1.0)."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence

from pydantic import SecretStr

TOLERANCE = 300  # seconds that a timestamp may lie from one's own clock
_PREFIX = "whsec_"


def check_secret(secret: SecretStr) -> SecretStr:
    """Raises ValueError, without repeating it, for a secret that is not `whsec_` and base64 of 24 to 64 bytes."""
    try:
        length = len(_key(secret.get_secret_value()))
    except (binascii.Error, ValueError):
        length = 0
    if not 24 <= length <= 64:
        raise ValueError(
            "is not a webhook secret; write whsec_ and the base64 of 24 to 64 random bytes (`tocsin secret` makes one)"
        )
    return secret


def several(secrets: SecretStr) -> tuple[SecretStr, ...]:
    """The secrets in a text, in which white space separates them."""
    return tuple(SecretStr(each) for each in secrets.get_secret_value().split())


def check_secrets(secrets: SecretStr) -> SecretStr:
    """As check_secret, for one or several in a text."""
    for secret in several(secrets) or (secrets,):
        check_secret(secret)
    return secrets


def sign(secret: SecretStr, message_id: str, timestamp: int, body: bytes) -> str:
    """One signature for `webhook-signature`; timestamp in whole seconds since 1970."""
    signed = b"%s.%d.%s" % (message_id.encode("utf-8", "surrogateescape"), timestamp, body)
    digest = hmac.new(_key(secret.get_secret_value()), signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def verify(secrets: Sequence[SecretStr], headers: Mapping[str, str], body: bytes, now: float) -> None:
    """Raises ValueError with the reason when the message is not signed with one of the secrets, or not now.

    The names of the headers are in lower case. `now` in seconds since 1970.
    """
    message_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not (message_id and timestamp.isascii() and timestamp.isdecimal() and len(timestamp) <= 12):
        raise ValueError("webhook-id or webhook-timestamp is missing or unreadable")
    if abs(now - int(timestamp)) > TOLERANCE:
        raise ValueError(f"webhook-timestamp is more than {TOLERANCE} s away from this clock")
    given = [each.encode("utf-8", "surrogateescape") for each in headers.get("webhook-signature", "").split()]
    valid = [sign(secret, message_id, int(timestamp), body).encode() for secret in secrets]
    # All of them, so that the time it takes tells nothing of where they differ.
    if not any([hmac.compare_digest(one, other) for one in given for other in valid]):  # noqa: C419 - as the line above says
        raise ValueError("webhook-signature is not of this message and secret")


def _key(secret: str) -> bytes:
    if not secret.startswith(_PREFIX):
        raise ValueError
    return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
