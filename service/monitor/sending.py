"""One try: a message to a receiver, and what its answer means."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Any

import structlog

from service.chat import Chat, NotTaken
from service.monitor.alertmanager import Alertmanager
from service.monitor.exchange import Client, Unreachable
from service.monitor.receivers import message
from service.receiver import Receiver

_log = structlog.get_logger()
# The longest wait is what a receiver that came back waits for its news.
FIRST_WAIT, LONGEST_WAIT = 1.0, 45.0  # seconds
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
    except (ValueError, OverflowError):
        return 0.0
    return min(max(0.0, moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - now), LONGEST_ORDERED)


def wait_after(attempts: int, chance: float) -> float:
    """Seconds until the next try after so many failed ones: doubling up to a limit, half of it by `chance` (0 to 1).

    Without the chance everybody who lost the same receiver would return to it in the same moment.
    """
    longest = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(attempts - 1, 10))
    return longest * (0.5 + 0.5 * chance)


def client_for(receiver: Receiver, public: str = "") -> Client | Chat:
    """What `send` needs for this receiver, kept from one message to the next. `public` is our own address, for links."""
    if receiver.chat is not None:
        return Chat(receiver.chat)
    if receiver.alertmanager is not None:
        return Alertmanager(receiver, public)
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
    """Send one message at the time `now`. It raises nothing: whatever goes wrong is a try that failed."""
    try:
        if isinstance(client, Chat):
            return _tell(client, contents, receiver.timeout, now)
        if isinstance(client, Alertmanager):
            return _put(receiver, client, contents, now)
        return _post(receiver, client, identity, contents, created, now, grouping)
    except Exception:  # noqa: BLE001 - whatever it is, it ages and waits like any failed try
        _log.exception("a message cannot be sent", receiver=receiver.name, message_id=identity)
        return Verdict("it cannot be sent", uncertain=True)


def _post(  # noqa: PLR0917 - as `send`, by position
    receiver: Receiver,
    client: Client,
    identity: str,
    contents: Sequence[Mapping[str, Any]],
    created: float,
    now: float,
    grouping: Mapping[str, Any],
) -> Verdict:
    body, headers = message(receiver, identity, contents, created, now, grouping=grouping)
    address = receiver.address.get_secret_value()
    try:
        answer = client.ask("POST", address, timeout=receiver.timeout, limit=ANSWER, body=body, headers=headers)
    except Unreachable as error:
        return Verdict(str(error), uncertain=error.sent)
    return judge(answer.status, answer.headers, now)


def _put(receiver: Receiver, client: Alertmanager, contents: Sequence[Mapping[str, Any]], now: float) -> Verdict:
    body, timeout = client.body(contents, now), receiver.timeout
    try:
        answer = client.ask("POST", client.url, timeout=timeout, limit=ANSWER, body=body, headers=client.headers)
    except Unreachable as error:
        return Verdict(str(error), uncertain=error.sent)
    verdict = judge(answer.status, answer.headers, now)
    if verdict.error is None or not (reason := client.reason(answer.body)):
        return verdict
    return replace(verdict, error=f"{verdict.error}: {reason}")


def _tell(chat: Chat, contents: Sequence[Mapping[str, Any]], timeout: float, now: float) -> Verdict:
    try:
        chat.tell(contents, timeout)
    except NotTaken as error:
        if not error.status:
            return Verdict(str(error), uncertain=True)
        return replace(judge(error.status, {"Retry-After": error.wait}, now), error=str(error))
    return Verdict()
