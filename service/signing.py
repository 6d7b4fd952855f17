"""Signatures as Standard Webhooks defines them (https://www.standardwebhooks.com, specification 1.0)."""

import base64
import binascii
import hashlib
import hmac

from pydantic import SecretStr

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


def sign(secret: SecretStr, message_id: str, timestamp: int, body: bytes) -> str:
    """The `webhook-signature` of one message; timestamp in whole seconds since 1970."""
    signed = b"%s.%d.%s" % (message_id.encode(), timestamp, body)
    digest = hmac.new(_key(secret.get_secret_value()), signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def _key(secret: str) -> bytes:
    if not secret.startswith(_PREFIX):
        raise ValueError
    return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
