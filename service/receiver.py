"""A receiver as monitor.yaml names it: whom to tell, and what its addresses, secrets and headers can be."""

import re
import ssl
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from service.chat import chat_address, is_chat
from service.signing import check_secret, check_secrets, several
from service.values import Duration, HttpAddress, Name, Part

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110, section 5.6.2
_HEADER_TEXT = re.compile(r"[!-~\xa0-\xff](?:[ -~\xa0-\xff]*[!-~\xa0-\xff])?")
_OWN_HEADERS = ("content-type", "content-length", "host", "transfer-encoding", "connection")

_secret_schema = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
_headers_schema = {"type": "object", "additionalProperties": {"type": "string"}}
_one_of: dict[str, Any] = {"oneOf": [{"required": [kind]} for kind in ("webhook", "chat", "alertmanager")]}
Secret = Annotated[SecretStr, AfterValidator(check_secret)]
ChatAddress = Annotated[SecretStr, BeforeValidator(chat_address), WithJsonSchema({"type": "string"})]


def _several(secret: object) -> object:
    if secret is None:
        return ()
    if isinstance(secret, str):
        secret = SecretStr(secret)
    return several(check_secrets(secret)) if isinstance(secret, SecretStr) else secret


def _headers(headers: object) -> dict[str, SecretStr]:
    # All of it here, without a place for each: one written wrongly (`Name:value`) has its value in the name.
    if not isinstance(headers, dict) or not all(isinstance(text, str | SecretStr) for text in headers.values()):
        raise ValueError("is not a map of names and texts; write `Name: text`, numbers in quotes")
    found = {name: SecretStr(text) if isinstance(text, str) else text for name, text in headers.items()}
    for name, text in found.items():
        if not (isinstance(name, str) and _TOKEN.fullmatch(name)):
            raise ValueError("has a name that is none of a header; write letters, digits and hyphens")
        if name.lower() in _OWN_HEADERS or name.lower().startswith("webhook-"):
            raise ValueError(f"{name} is set by Tocsin itself; leave it out")
        if not _HEADER_TEXT.fullmatch(text.get_secret_value()):
            raise ValueError(f"{name} has a text that no header can have: one line in Latin-1, without space around it")
    return found


def _authorities(path: Path) -> Path:
    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:  # ssl.SSLError is one, too
        reason = "not a PEM file with certificates" if isinstance(error, ssl.SSLError) else error.strerror
        raise ValueError(f"{path}: {reason}; name a readable PEM file of authorities") from None
    return path


_API = re.compile(r"/api/v[12](/alerts)?/?$")


def _base(address: SecretStr) -> SecretStr:
    text = address.get_secret_value()
    if _API.search(text):
        raise ValueError("is the address of its API; leave out what comes from /api/ on")
    if any(character in text for character in "?#"):
        raise ValueError("has more than a path; leave out what comes from ? or # on")
    return SecretStr(text.rstrip("/"))


class Receiver(Part):
    """Whom to tell: a webhook, people in a chat, or an Alertmanager. Addresses are secrets, as they may hold a key."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=_one_of)

    name: Name
    chat: ChatAddress | None = None
    alertmanager: Annotated[HttpAddress, AfterValidator(_base)] | None = None
    webhook: Annotated[HttpAddress | None, Field(validate_default=True)] = None
    format: Literal["tocsin", "alertmanager"] = "tocsin"
    # One or several, the newest first.
    secret: Annotated[tuple[Secret, ...], BeforeValidator(_several), WithJsonSchema(_secret_schema)] = ()
    headers: Annotated[dict[str, SecretStr], BeforeValidator(_headers), WithJsonSchema(_headers_schema)] = Field(default={})
    proxy: HttpAddress | None = None
    ca: Annotated[Path, AfterValidator(_authorities)] | None = None
    timeout: Annotated[Duration, Field(gt=0, le=60)] = 10.0

    @field_validator("webhook")
    @classmethod
    def _one_address(cls, webhook: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if webhook is not None and is_chat(webhook):
            raise ValueError("is the address of a chat service; write `chat:` in place of `webhook:`")
        given = [f"`{kind}:`" for kind in ("chat", "alertmanager") if info.data.get(kind) is not None]
        if webhook is not None:
            given.append("`webhook:`")
        if len(given) != 1 and {"chat", "alertmanager"} <= set(info.data):
            state = f"{' and '.join(given)} stand together" if given else "is required"
            raise ValueError(f"{state}; a receiver has one of `webhook:`, `chat:` and `alertmanager:`")
        return webhook

    @field_validator("format", "secret", "headers", "proxy", "ca")
    @classmethod
    def _of_a_webhook(cls, value: object, info: ValidationInfo) -> object:
        if info.data.get("chat") is not None:
            raise ValueError("does not go with `chat:`; leave it out, or tell a `webhook:`")
        if info.data.get("alertmanager") is not None and info.field_name in ("format", "secret"):
            raise ValueError("does not go with `alertmanager:`; leave it out, or tell a `webhook:`")
        return value

    @property
    def address(self) -> SecretStr:
        """Where it is told."""
        address = self.webhook or self.chat or self.alertmanager
        if address is None:
            raise AssertionError("the validators see to it that there is one")
        return address

    @property
    def takes_reports(self) -> bool:
        """Whether there is a place for a report in what it is told."""
        return self.format != "alertmanager" and self.alertmanager is None
