"""What a chat service's answer means: taken, or why not and when it may be tried again."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

NOT_TAKEN = "the chat service did not take it"
LONGEST_REASON = 100  # characters


class NotTaken(Exception):  # noqa: N818 - it names what is so, not a fault of the program
    """The chat service did not take it; the text says why, without the address.

    `status` is HTTP's, or the one of HTTP that means the same where a 200 refuses; 0 when nobody knows whether it was taken.
    `wait` is how long it asks to be left alone, as Retry-After has it.
    """

    def __init__(self, reason: str, status: int = 0, wait: str = "") -> None:
        super().__init__(reason)
        self.status = status
        self.wait = wait


@dataclass(frozen=True)
class Answering:
    """Where a service says what: `number` are fields that may hold its own code; `why` and `wait` the way to the reason
    and to the seconds in its JSON; `headers` those that may hold the seconds. A 2xx is a delivery, with `ok` only when it
    says so, with `zero` only when its code is 0. `too_fast`: its codes for a limit, and the seconds until that lets more
    through."""

    ok: bool = False
    zero: bool = False
    number: tuple[str, ...] = ()
    why: tuple[str, ...] = ()
    wait: tuple[str, ...] = ()
    headers: tuple[str, ...] = ("Retry-After",)
    too_fast: Mapping[int, int] = field(default_factory=dict)


def encoded(body: Mapping[str, Any]) -> bytes:
    """JSON as it is sent: in UTF-8, as limits in bytes count it."""
    return json.dumps(body, ensure_ascii=False).encode()


def read(answering: Answering, address: str, status: int, headers: Mapping[str, str], content: bytes) -> None:
    """Return when the answer says that the message was taken. Raises NotTaken.

    `headers` are found in any case. The address is given so that it is not repeated.
    """
    said = _parsed(content)
    number = next((found for name in answering.number if type(found := _at(said, (name,))) is int), None)
    agreed = 200 <= status < 300
    if agreed and not (answering.ok and not _is_ok(said)) and not (answering.zero and number != 0):
        return
    if agreed and number is None:
        raise NotTaken(NOT_TAKEN)
    reason = f"it answered {status}" + (f", but refused it with {number}" if agreed else "")
    why = _at(said, answering.why)  # of a text, that
    if isinstance(why, str) and (line := _harmless(why, address)):
        reason += f": {line}"
    pause = answering.too_fast.get(number) if number is not None else None
    told = next((headers[name] for name in answering.headers if name in headers), "")
    if re.fullmatch(r"\d{1,9}\.\d+", told):  # Retry-After has whole seconds, or a date
        told = _seconds(float(told))
    wait = (_seconds(_at(said, answering.wait)) if answering.wait else "") or told or str(pause or "")
    raise NotTaken(reason, 429 if pause else 400 if agreed else status, wait)


def _is_ok(said: Any) -> bool:
    return said == "ok" or (isinstance(said, dict) and said.get("ok") is True)


def _parsed(content: bytes) -> Any:
    text = content.decode(errors="replace").strip()
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _at(said: Any, way: tuple[str, ...]) -> Any:
    for name in way:
        said = said.get(name) if isinstance(said, dict) else None
    return said


def _seconds(value: Any) -> str:
    if type(value) not in (int, float) or not 0 < value < 1e9:
        return ""
    return str(math.ceil(value))


def _harmless(text: str, address: str) -> str:
    """One short line of what a service says; empty if that is a page of HTML, or has a piece of the address in it."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    parts = urlsplit(address)
    pieces = [*re.findall(r"[\w-]{6,}", unquote(f"{parts.path} {parts.query}")), parts.hostname, parts.password]
    if line.startswith("<") or any(piece.lower() in line.lower() for piece in pieces if piece):
        return ""
    return line if len(line) <= LONGEST_REASON else f"{line[: LONGEST_REASON - 1]}…"
