"""One try: a message to a receiver, and what its answer means."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Any

from service.chat import Chat, NotTaken
from service.configuration import Receiver
from service.monitor.exchange import Client, Unreachable
from service.monitor.receivers import message

LONGEST_ORDERED = 24 * 3600.0  # seconds that a receiver can ask for with Retry-After
ANSWER = 4096  # bytes read of a receiver's answer; only status and headers matter


@dataclass(frozen=True)
class Verdict:
    """What an answer means. `error` is None for a 2xx; `wait` is what Retry-After asks for, in seconds."""

    error: str | None = None
    wait: float = 0.0
    gone: bool = False
    uncertain: bool = False  # the receiver may have taken it all the same


def judge(status: int, headers: Mapping[str, str], now: float) -> Verdict:
    """An HTTP status -> delivered, tried again (when), or wanted no more. A redirect is not followed.

    Retry-After as RFC 9110, section 10.2.3, has it: seconds or a date.
    """
    if 200 <= status < 300:
        return Verdict()
    error = f"it answered {status}"
    if status == 410:
        return Verdict(error, gone=True)
    wait = retry_after(headers.get("Retry-After", ""), now) if status in (429, 503) else 0.0
    # A 5xx may come from somebody on the way, behind whom the receiver has taken it. 503 means "not now".
    return Verdict(error, wait, uncertain=status >= 500 and status != 503)


def retry_after(text: str, now: float) -> float:
    """Seconds that Retry-After asks for; 0 for what is neither seconds nor a date."""
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return min(float(text), LONGEST_ORDERED)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    return min(max(0.0, moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - now), LONGEST_ORDERED)


def client_for(receiver: Receiver) -> Client | Chat:
    """What `send` needs for this receiver, kept from one message to the next."""
    if receiver.chat is not None:
        return Chat(receiver.chat)
    return Client(proxy=receiver.proxy, ca=receiver.ca)


def send(
    receiver: Receiver,
    client: Client | Chat,
    *,
    identity: str,
    contents: Sequence[Mapping[str, Any]],
    created: float,
    now: float,
    grouping: Mapping[str, Any] = MappingProxyType({}),
) -> Verdict:
    """Send one message at the time `now`."""
    if isinstance(client, Chat):
        return _tell(client, contents, receiver.timeout, now)
    body, headers = message(receiver, identity, contents, created, now, grouping=grouping)
    address = receiver.address.get_secret_value()
    try:
        answer = client.ask("POST", address, timeout=receiver.timeout, limit=ANSWER, body=body, headers=headers)
    except Unreachable as error:
        return Verdict(str(error), uncertain=error.sent)
    return judge(answer.status, answer.headers, now)


def _tell(chat: Chat, contents: Sequence[Mapping[str, Any]], timeout: float, now: float) -> Verdict:
    try:
        chat.tell(contents, timeout)
    except NotTaken as error:
        return judge(error.status, {}, now) if error.status else Verdict(str(error), uncertain=True)
    return Verdict()
