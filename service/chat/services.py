"""The services whose own addresses are pasted in: what each of them is sent, and how it answers, as it documents that.

Posted by hand and not by Apprise, which hands on neither how long a service asks to be left alone nor why it refuses.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from service.chat.answers import Answering, encoded
from service.chat.text import LONGEST, in_bytes, in_utf16, markdown, plain


@dataclass(frozen=True)
class Service:
    """How one service is told. `longest` is in what `length` counts; `where` splits a pasted address into where to
    post, and what of it belongs into the body; `critical` is put into the body of what is critical."""

    pattern: re.Pattern[str]
    body: Callable[[str], dict[str, Any]]
    longest: int
    length: Callable[[str], int] = in_utf16
    escape: Callable[[str], str] = plain
    where: Callable[[str], tuple[str, dict[str, Any]]] = lambda address: (address, {})
    critical: Mapping[str, Any] = field(default_factory=dict)
    answers: Answering = field(default_factory=Answering)


def _address(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


def _slack(text: str) -> dict[str, Any]:
    return {"text": text, "mrkdwn": False, "unfurl_links": False, "unfurl_media": False}


def _slack_text(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")  # `html` is 1.5 MB, of names of characters


def _text(text: str) -> dict[str, Any]:
    return {"text": text}


def _discord(text: str) -> dict[str, Any]:
    return {"content": text, "allowed_mentions": {"parse": []}, "flags": 1 << 2}  # no previews of links


def _waiting(address: str) -> tuple[str, dict[str, Any]]:
    # Without it Discord answers 204 also when it could not keep the message.
    parts = urlsplit(address)
    return parts._replace(query=urlencode(dict(parse_qsl(parts.query)) | {"wait": "true"})).geturl(), {}


def _card(text: str) -> dict[str, Any]:
    # A TextRun draws no Markdown, and takes the end of a line for a space.
    lines = [{"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": line}]} for line in text.splitlines()]
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.2",
        "body": lines,
    }
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [attachment]}


def _feishu(text: str) -> dict[str, Any]:
    return {"msg_type": "text", "content": {"text": text}}


def _bot(text: str) -> dict[str, Any]:
    return {"msgtype": "text", "text": {"content": text}}


def _telegram(text: str) -> dict[str, Any]:
    return {"text": text, "link_preview_options": {"is_disabled": True}}


def _chat(address: str) -> tuple[str, dict[str, Any]]:
    # Nothing else of the query, such as a parse_mode, that would draw the text.
    parts = urlsplit(address)
    given = dict(parse_qsl(parts.query))
    chat: dict[str, Any] = {name: given[name] for name in ("chat_id", "message_thread_id") if name in given}
    return parts._replace(query="").geturl(), chat


def _ntfy(text: str) -> dict[str, Any]:
    return {"title": "Tocsin", "message": text}


def _topic(address: str) -> tuple[str, dict[str, Any]]:
    return "https://ntfy.sh/", {"topic": urlsplit(address).path.strip("/")}


SERVICES = (
    # https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks and /apis/web-api/rate-limits;
    # text: 4,000 characters are advised, beyond 40,000 it is cut. &, < and > are escaped.
    Service(
        _address(r"https://hooks\.slack(?:-gov)?\.com/services/\w+/\w+/\w+/?"),
        _slack,
        longest=4000,
        escape=_slack_text,
        answers=Answering(ok=True),
    ),
    # https://slack.com/help/articles/360041352714: a workflow that begins with a webhook gets the variables it declares.
    Service(
        _address(r"https://hooks\.slack(?:-gov)?\.com/(?:workflows|triggers)/[\w-]+(?:/[\w-]+){2,3}/?"),
        _text,
        longest=4000,
        answers=Answering(ok=True, why=("error",)),
    ),
    # https://discord.com/developers/docs/resources/webhook#execute-webhook and /docs/topics/rate-limits
    Service(
        _address(r"https://(?:\w+\.)?discord(?:app)?\.com/api/(?:v\d+/)?webhooks/\d+/[\w-]+/?(?:\?.*)?"),
        _discord,
        longest=2000,
        escape=markdown,
        where=_waiting,
        answers=Answering(why=("message",), wait=("retry_after",)),
    ),
    # https://learn.microsoft.com/connectors/teams/#microsoft-teams-webhook: 28 KB, of which Teams needs some itself
    Service(
        _address(
            r"https://[\w.:-]+/(?:powerautomate/automations/direct/(?:cu/\d+/)?)?workflows/[\w-]+/triggers/manual/paths/invoke.*"
        ),
        _card,
        longest=24_000,
        length=lambda text: len(encoded(_card(text))),
        answers=Answering(why=("error", "code")),
    ),
    # https://open.feishu.cn/document/client-docs/bot-v3/add-custom-bot: 20 KB; 100 messages a minute, 5 a second;
    # https://open.feishu.cn/document/server-docs/api-call-guide/frequency-control
    Service(
        _address(r"https://open\.(?:feishu\.cn|larksuite\.com)/open-apis/bot/v2/hook/[\w-]+/?"),
        _feishu,
        longest=20_000,
        length=lambda text: len(encoded(_feishu(text))),
        answers=Answering(
            zero=True,
            number=("code", "StatusCode"),
            why=("msg",),
            headers=("x-ogw-ratelimit-reset", "Retry-After"),
            too_fast={11232: 60, 99991400: 60},
        ),
    ),
    # https://open.dingtalk.com/document/orgapp/custom-robots-send-group-messages: 20 messages a minute, else none for ten
    Service(
        _address(r"https://oapi\.dingtalk\.com/robot/send/?\?(?:.*&)?access_token=\w+.*"),
        _bot,
        longest=LONGEST,
        length=in_bytes,
        answers=Answering(zero=True, number=("errcode",), why=("errmsg",), too_fast={130101: 600, 410100: 600}),
    ),
    # https://developer.work.weixin.qq.com/document/path/91770: 2048 bytes, 20 messages a minute
    Service(
        _address(r"https://qyapi\.weixin\.qq\.com/cgi-bin/webhook/send/?\?(?:.*&)?key=[\w-]+.*"),
        _bot,
        longest=2048,
        length=in_bytes,
        answers=Answering(zero=True, number=("errcode",), why=("errmsg",), too_fast={45009: 60}),
    ),
    # https://core.telegram.org/bots/api#sendmessage and #responseparameters
    Service(
        _address(r"https://api\.telegram\.org/bot\d+:[\w-]+/sendMessage/?\?(?:.*&)?chat_id=(?:@|%40)?[\w-]+.*"),
        _telegram,
        longest=4096,
        where=_chat,
        answers=Answering(ok=True, why=("description",), wait=("parameters", "retry_after")),
    ),
    # https://developers.mattermost.com/integrate/webhooks/incoming; any host: what tells it is the key, always of this form
    Service(
        _address(r"https?://[^/?#\s]+(?:/[^?#\s]+)?/hooks/[a-z0-9]{26}/?"),
        _text,
        longest=16_383,
        length=len,
        escape=markdown,
        answers=Answering(why=("message",), headers=("Retry-After", "X-Ratelimit-Reset")),
    ),
    # https://docs.ntfy.sh/publish/#publish-as-json: 4,096 bytes; 60 requests at once, then one in five seconds
    Service(
        _address(r"https://ntfy\.sh/[\w-]{1,64}/?"),
        _ntfy,
        longest=4096,
        length=in_bytes,
        where=_topic,
        critical={"priority": 4},
        answers=Answering(number=("code",), why=("error",), too_fast={42901: 5}),
    ),
)


def service_of(address: str) -> Service | None:
    """Whose address it is; None: of none of these."""
    return next((service for service in SERVICES if service.pattern.fullmatch(address)), None)
