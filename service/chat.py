"""Chat services, by Apprise: which address is one's, and what is said there.

Apprise's own addresses: https://appriseit.com/services/.
"""

import json
import logging
import re
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from pydantic import SecretStr

MOST = 10  # alerts in one message
LONGEST = 1800  # bytes of one message; Discord takes 2000 characters, WeCom 2048 bytes
ANSWER = 4096  # bytes read of an answer
LONGEST_PART = 200  # characters of a summary or a reason
NO_CHAT = "is not an address of a chat service; paste the service's own, or write one as on https://appriseit.com/services/"
NOT_TAKEN = "the chat service did not take it"
NO_CONNECTOR = "is a connector of Teams, which Microsoft has ended; make a Workflow in Teams and paste its address"

# It writes addresses into its log. What it says of one message is taken from the result, for which it must be said.
_apprise = logging.getLogger("apprise")
_apprise.addHandler(logging.NullHandler())
_apprise.propagate = False
_apprise.setLevel(logging.WARNING)

_CONNECTOR = re.compile(r"https://(?:[\w.-]+\.webhook\.office\.com|outlook\.office(?:365)?\.com)/webhook.+", re.IGNORECASE)
# The addresses that chat services give out, and what Apprise calls them. Those without it Apprise knows as they are.
_SERVICES = tuple(
    (re.compile(pattern, re.IGNORECASE), template)
    for pattern, template in (
        (r"https://hooks\.slack(?:-gov)?\.com/(?:services|workflows|triggers)/.+", None),
        (r"https://(?:\w+\.)?discord(?:app)?\.com/api/(?:v\d+/)?webhooks/(\d+)/([\w-]+)/?(?:\?.*)?", r"discord://\1/\2/"),
        (
            r"https://[\w.:-]+/(?:powerautomate/automations/direct/(?:cu/\d+/)?)?workflows/[\w-]+/triggers/manual/paths/invoke.*",
            None,
        ),
        # Any host; what tells it is the key, always of this form.
        (r"http(s?)://([^/?#\s]+(?:/[^?#\s]+)?)/hooks/([a-z0-9]{26})/?", r"mmost\1://\2/\3/"),
        (r"https://api\.telegram\.org/bot(\d+:[\w-]+)/sendMessage/?\?(?:.*&)?chat_id=((?:@|%40)?[\w-]+).*", r"tgram://\1/\2/"),
    )
)
# These answer 200 also to what they refuse, with a number in the body that Apprise does not read. So without it.
_BOTS = tuple(
    (re.compile(pattern, re.IGNORECASE), kind)
    for pattern, kind in (
        (r"https://open\.(?:feishu\.cn|larksuite\.com)/open-apis/bot/v2/hook/[\w-]+/?", "feishu"),
        (r"https://oapi\.dingtalk\.com/robot/send/?\?(?:.*&)?access_token=\w+.*", "dingtalk"),
        (r"https://qyapi\.weixin\.qq\.com/cgi-bin/webhook/send/?\?(?:.*&)?key=[\w-]+.*", "wecom"),
    )
)
_DRAW_MARKDOWN = ("NotifyDiscord", "NotifyMattermost")  # in what Apprise takes for plain text
_MARKDOWN = re.compile(r"([\\*_~`|\[\]#])")
_CALL = re.compile(r"@(?=\w)|<(?=[!@#/a-z])", re.IGNORECASE)
_STATUS = re.compile(r"(?:error=|failed: )([3-5]\d\d)\b")


def is_chat(address: SecretStr) -> bool:
    """Whether an http(s) address is one that a chat service gives out."""
    text = address.get_secret_value()
    return _CONNECTOR.match(text) is not None or any(pattern.fullmatch(text) for pattern, _ in (*_BOTS, *_SERVICES))


def chat_address(value: object) -> SecretStr:
    """An address at which a chat can be told, kept as a secret. Raises ValueError, without repeating it, for any other."""
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not isinstance(text, str) or any(character.isspace() for character in text):
        raise ValueError(NO_CHAT)
    if _CONNECTOR.match(text):
        raise ValueError(NO_CONNECTOR)
    if _bot(text) is None and _service(text) is None:
        raise ValueError(NO_CHAT)
    return SecretStr(text)


def told(contents: Sequence[Mapping[str, Any]], longest: int = LONGEST, *, markdown: bool = False) -> str:
    """What a person reads of alerts: two lines for each of the first ones, as many as fit into `longest` bytes.

    Of a report, which is alone: its text, as much as fits, and its address. `markdown`: it is drawn as Markdown, so what
    looks like that is escaped.
    """
    if contents[0]["status"] == "report":
        return _report(contents[0], longest, markdown=markdown)
    parts: list[str] = []
    for content in contents[:MOST]:
        part = _alert(content, markdown=markdown)
        if parts and len("\n".join([*parts, part]).encode()) > longest - 20:  # room for the last line
            break
        parts.append(part)
    if len(parts) < len(contents):
        parts.append(f"and {len(contents) - len(parts)} more")
    return "\n".join(parts).encode()[:longest].decode(errors="ignore")


def _plain(text: object, *, markdown: bool) -> str:
    line = " ".join(str(text).split())
    line = line if len(line) <= LONGEST_PART else f"{line[: LONGEST_PART - 1]}…"
    # Nobody is called and no link is made by a name: a space without width stands in between.
    line = _CALL.sub("\\g<0>\u200b", line)
    return _MARKDOWN.sub(r"\\\1", line) if markdown else line


def _report(content: Mapping[str, Any], longest: int, *, markdown: bool) -> str:
    room = longest - len(content["url"].encode()) - len("\n…\n".encode())
    said: list[str] = []
    for line in content["text"].splitlines():
        said.append(_plain(line, markdown=markdown))
        if len("\n".join(said).encode()) > room:
            said[-1] = "…"
            break
    return "\n".join([*said, content["url"]])


def _alert(content: Mapping[str, Any], *, markdown: bool) -> str:
    plain = partial(_plain, markdown=markdown)
    words = [word for word in ("late", "flapping", "reminder", "escalated") if content.get(word)]
    status = ", ".join([content["status"].upper(), *words])
    where = " on ".join(plain(content[name]) for name in ("target", "instance") if content.get(name))
    since = content["starts_at"][:16].replace("T", " ")
    until = f" to {content['ends_at'][:16].replace('T', ' ')}" if content["ends_at"] else ""
    return (
        f"{status}: {plain(content['alert'])} ({content['severity']}), {where}, since {since}{until} UTC\n"
        f"{plain(content['summary'])} ({plain(content['reason'])})"
    )


class NotTaken(Exception):  # noqa: N818 - it names what is so, not a fault of the program
    """The chat service did not take it; the text says why, without the address. `status` is HTTP's, 0 without one."""

    def __init__(self, reason: str, status: int = 0) -> None:
        super().__init__(reason)
        self.status = status


class Chat:
    """Tells one chat service. For one thread at a time."""

    def __init__(self, address: SecretStr) -> None:
        self._address = address
        self._sending: threading.Thread | None = None

    def tell(self, contents: Sequence[Mapping[str, Any]], timeout: float) -> None:
        """Returns when the service has taken it, within `timeout` seconds. Raises NotTaken.

        The time limits of Apprise and requests are for one read, so they work in a thread that can be left behind; at
        most one is.
        """
        if self._sending is not None and self._sending.is_alive():
            raise NotTaken("the try before this one has not ended yet")
        address = self._address.get_secret_value()
        post = _by_hand if _bot(address) else _by_apprise
        outcome: list[NotTaken | None] = []

        def send() -> None:
            try:
                post(address, contents, timeout)
            except NotTaken as error:
                outcome.append(error)
            except Exception:  # noqa: BLE001 - its text may hold the address
                outcome.append(NotTaken(NOT_TAKEN))
            else:
                outcome.append(None)

        self._sending = threading.Thread(target=send, name="chat", daemon=True)
        self._sending.start()
        self._sending.join(timeout)
        if not outcome:
            raise NotTaken(f"no complete answer within {timeout:g} s")
        if outcome[0] is not None:
            raise outcome[0]

    def close(self) -> None:
        """There is nothing to close: it keeps no connection."""


def _bot(address: str) -> str | None:
    return next((kind for pattern, kind in _BOTS if pattern.fullmatch(address)), None)


def _by_hand(address: str, contents: Sequence[Mapping[str, Any]], timeout: float) -> None:
    import requests  # noqa: PLC0415 - gunicorn must not load it before gevent has patched what it uses

    text = told(contents)
    feishu = _bot(address) == "feishu"
    body = {"msg_type": "text", "content": {"text": text}} if feishu else {"msgtype": "text", "text": {"content": text}}
    with requests.post(address, json=body, timeout=timeout, allow_redirects=False, stream=True) as answer:
        if answer.status_code != 200:
            raise NotTaken(NOT_TAKEN, answer.status_code if answer.status_code >= 300 else 0)
        said = json.loads(answer.raw.read(ANSWER, decode_content=True))
    number = next(said[name] for name in ("code", "StatusCode", "errcode") if name in said)
    if number != 0:
        raise NotTaken(f"it answered 200, but refused it with {int(number)}")


def _by_apprise(address: str, contents: Sequence[Mapping[str, Any]], timeout: float) -> None:
    from apprise import Apprise, NotifyType  # noqa: PLC0415 - a third of a second and 34 MiB, only for those who chat

    service = _service(address)
    service.socket_connect_timeout = service.socket_read_timeout = timeout
    plugin = type(service).__name__
    markdown = plugin in _DRAW_MARKDOWN and service.resolve_format("text") == "text"
    body = told(contents, min(LONGEST, service.body_maxlen), markdown=markdown)
    if plugin == "NotifyWorkflows":
        body = body.replace("\n", "\n\n")  # an Adaptive Card takes the end of one line for a space
    firing = [content["severity"] for content in contents if content["status"] == "firing"]
    kind = NotifyType.FAILURE if "critical" in firing else NotifyType.WARNING if firing else NotifyType.SUCCESS
    kind = NotifyType.INFO if contents[0]["status"] == "report" else kind
    result = Apprise(service, asset=service.asset).notify(body, body_format="text", notify_type=kind)
    if not result:
        statuses = [found[1] for entry in result.logs() if (found := _STATUS.search(entry.message))]
        raise NotTaken(NOT_TAKEN, int(statuses[-1]) if statuses else 0)


def _service(address: str) -> Any:
    """Apprise's service for an address, None when it knows none. It tries once and follows no redirect."""
    from apprise import Apprise, AppriseAsset  # noqa: PLC0415 - as above

    for pattern, template in _SERVICES:
        if template and (match := pattern.fullmatch(address)):
            address = match.expand(template)
    # In the thread that asks for it, and without pictures, which a chat service would fetch from Apprise's repository.
    asset = AppriseAsset(app_id="Tocsin", app_desc="Tocsin", async_mode=False, service_timeout=0, image_url_mask="")
    service = Apprise.instantiate(address, asset=asset)
    if service is not None:
        service.redirects = False  # whatever the address says
        service.request_rate_per_sec = 0.0  # delivery waits when the service says so
    return service
