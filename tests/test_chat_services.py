"""What each chat service documents of its address, its limits and its answers, on a server that stands for it, over TLS."""

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from requests.structures import CaseInsensitiveDict
from sqlalchemy import Engine, select

from service.chat import MOST, Chat, NotTaken, is_chat
from service.chat.answers import read
from service.chat.services import SERVICES, service_of
from service.monitor.delivery import deliver_next
from service.monitor.sending import LONGEST_ORDERED, Verdict
from service.monitor.sending import send as try_to_send
from service.receiver import Receiver
from service.settings import CHECKOUT
from service.tables import messages
from tests.chatting import ADDRESSES, ALERT, BOT, FLOW_QUERY, HOSTS, KEY, TAKEN, Service, chatting, environment
from tests.proxy import issue, proxying
from tests.test_exchange import send, serving
from tests.test_outbox import firing, put

BY_HAND = [name for name in ADDRESSES if name != "apprise"]
FIRST = "FIRING: HighCpu (critical), shop on web-1, since 2026-10-16 11:41 UTC"
CONTENT = ALERT | {"summary": "shop: *CPU* & 93 % <b> @here", "reason": "cpu_usage > 80"}
PLAIN = f"{FIRST}\nshop: *CPU* & 93 % <\u200bb> @\u200bhere (cpu_usage > 80)"
DRAWN = f"{FIRST}\nshop: \\*CPU\\* & 93 % <\u200bb> @\u200bhere (cpu\\_usage > 80)"
ESCAPED = f"{FIRST}\nshop: *CPU* &amp; 93 % &lt;\u200bb&gt; @\u200bhere (cpu_usage &gt; 80)"
SLACK = {"text": ESCAPED, "mrkdwn": False, "unfurl_links": False, "unfurl_media": False}
DISCORD = {"content": DRAWN, "allowed_mentions": {"parse": []}, "flags": 4}
CARD = {
    "type": "message",
    "attachments": [
        {
            "contentType": "application/vnd.microsoft.card.adaptive",
            "contentUrl": None,
            "content": {
                "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                "type": "AdaptiveCard",
                "version": "1.2",
                "body": [
                    {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": line}]} for line in PLAIN.splitlines()
                ],
            },
        }
    ],
}
FEISHU = {"msg_type": "text", "content": {"text": PLAIN}}
ROBOT = {"msgtype": "text", "text": {"content": PLAIN}}
TELEGRAM = {"text": PLAIN, "link_preview_options": {"is_disabled": True}, "chat_id": "-100123"}
NTFY = {"title": "Tocsin", "message": PLAIN, "priority": 4, "topic": "tocsin-9f3c"}
# The query and the JSON that must arrive, as the service documents them.
BODIES: dict[str, tuple[str, Any]] = {
    "slack": ("", SLACK),
    "slack workflow": ("", {"text": PLAIN}),
    "slack trigger": ("", {"text": PLAIN}),
    "discord": ("wait=true", DISCORD),
    "discord of a tester": ("wait=true&thread_id=81", DISCORD),
    "teams": (FLOW_QUERY.removeprefix("?"), CARD),
    "power automate": (FLOW_QUERY.removeprefix("?"), CARD),
    "feishu": ("", FEISHU),
    "lark": ("", FEISHU),
    "dingtalk": ("access_token=abc123def", ROBOT),
    "wecom": ("key=5f0b-aa", ROBOT),
    "mattermost": ("", {"text": DRAWN}),
    "telegram": ("", TELEGRAM),
    "ntfy": ("", NTFY),
}


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, dict[str, str]]]:
    """One server for all hosts, and the environment in which they lead to it."""
    ca, context = issue(tmp_path_factory.mktemp("authority"), *(f"DNS:{host}" for host in HOSTS))
    with chatting(context) as service, proxying(lead=("127.0.0.1", service.port)) as proxy:
        yield service, environment(ca, proxy.url)


@pytest.fixture
def service(standing: tuple[Service, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> Service:
    """That server, as new."""
    found, variables = standing
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    found.posted.clear()
    found.queries.clear()
    found.bodies.clear()
    found.answer, found.says, found.refuses, found.headers = lambda _: 200, TAKEN, b"", {}
    return found


def verdict_of(name: str, now: float = 1_700_000_000.0) -> Verdict:
    receiver = Receiver(name="ops", chat=SecretStr(ADDRESSES[name][0]))
    assert receiver.chat
    return try_to_send(receiver, Chat(receiver.chat), identity="msg_x", contents=[ALERT], created=now, now=now)


@pytest.mark.parametrize("name", BY_HAND)
def test_the_body_is_the_documented_one(service: Service, name: str) -> None:
    """Exactly the documented fields arrive at the address; nobody is called, and what looks like markup is not drawn."""
    assert is_chat(SecretStr(ADDRESSES[name][0]))
    Chat(SecretStr(ADDRESSES[name][0])).tell([CONTENT], 10)

    pasted, posted = ADDRESSES[name]
    assert [(posted or pasted.removeprefix("https://"), BODIES[name][1])] == service.posted
    assert [BODIES[name][0]] == service.queries


@pytest.mark.parametrize(
    ("query", "more"),
    [
        ("chat_id=%40channel&parse_mode=HTML&text=x", {"chat_id": "@channel"}),
        ("message_thread_id=7&chat_id=-100123", {"chat_id": "-100123", "message_thread_id": "7"}),
    ],
)
def test_of_a_telegram_address_chat_and_topic_are_used(service: Service, query: str, more: dict[str, str]) -> None:
    """The chat and a topic go into the body; nothing that would draw the text, or take its place."""
    Chat(SecretStr(f"https://api.telegram.org/bot{BOT}/sendMessage?{query}")).tell([CONTENT], 10)
    (_, body) = service.posted[0]
    assert {"text": PLAIN, "link_preview_options": {"is_disabled": True}} | more == body
    assert [""] == service.queries


def utf16(text: str) -> int:
    return sum(2 if ord(letter) > 0xFFFF else 1 for letter in text)


# How much a service takes, in its own unit, and how that is counted in what arrives.
LIMITS: dict[str, tuple[int, Callable[[Any, bytes], int]]] = {
    "slack": (4000, lambda body, _: utf16(body["text"])),
    "slack workflow": (4000, lambda body, _: utf16(body["text"])),
    "discord": (2000, lambda body, _: utf16(body["content"])),
    "teams": (28 * 1024, lambda _, raw: len(raw)),
    "feishu": (20 * 1024, lambda _, raw: len(raw)),
    "dingtalk": (1800, lambda body, _: len(body["text"]["content"].encode())),
    "wecom": (2048, lambda body, _: len(body["text"]["content"].encode())),
    "mattermost": (16_383, lambda body, _: len(body["text"])),
    "telegram": (4096, lambda body, _: utf16(body["text"])),
    "ntfy": (4096, lambda body, _: len(body["message"].encode())),
}


@pytest.mark.parametrize("letter", ["a", "ü", "😀", "&", "*", '"', "\\"])
@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_is_kept_in_its_own_unit(service: Service, name: str, letter: str) -> None:
    """However long the texts, what arrives fits: whole alerts and how many more there are, or a report and its address."""
    longest, count = LIMITS[name]
    long = letter * 300
    alerts = [ALERT | {"summary": long, "reason": long, "alert": long, "target": long, "instance": long}] * 15
    url = "https://tocsin.example/report"
    report = {"status": "report", "text": f"{letter * 100}\n" * 900, "url": url, "severity": "info"}
    chat = Chat(SecretStr(ADDRESSES[name][0]))
    for contents in (alerts, alerts[:1], [report]):
        chat.tell(contents, 10)

    sizes = [count(body, raw) for (_, body), raw in zip(service.posted, service.bodies, strict=True)]
    assert [] == [size for size in sizes if size > longest]
    assert sizes[2] > longest * 0.75  # what there is room for is used
    place = service.posted[0][0]
    said = [line for text in service.texts(place) for line in text.splitlines()]
    told = [line for line in said if line.startswith("FIRING: ")]
    (rest,) = [line for line in said if re.fullmatch(r"and \d+ more", line)] or [""]
    if rest:  # else not even one fits whole
        assert f"and {15 - (len(told) - 1)} more" == rest
        assert len(told) - 1 <= MOST
    assert url in said


FAST = 429
BUSY = b'{"code":11232,"msg":"frequency limited psm[lark.oapi.app_platform_runtime]appID[1500]"}'
GATEWAY = b'{"code":99991400,"msg":"request trigger frequency limit"}'
PUNISHED = b'{"status":1111,"wait":5,"punish":"deny","errcode":130101,"errmsg":"send too fast, exceed 20 times per minute"}'
LIMITED = b'{"message":"You are being rate limited.","retry_after":64.57,"global":false}'
FLOOD = b'{"ok":false,"error_code":429,"description":"Too Many Requests: retry after 35","parameters":{"retry_after":35}}'
NICE = b'{"code":42901,"http":429,"error":"limit reached: too many requests, please be nice","link":"https://ntfy.sh/docs/"}'
# Whose answer, its status, headers and body; what follows from it.
ANSWERS: list[tuple[str, int, dict[str, str], bytes, Verdict]] = [
    ("slack", 200, {}, b"ok", Verdict()),
    ("slack trigger", 200, {}, b'{"ok":true}', Verdict()),
    ("slack", 200, {}, b"<html>Log in</html>", Verdict("the chat service did not take it", uncertain=True)),
    ("slack", FAST, {"Retry-After": "30"}, b"", Verdict("it answered 429", wait=30)),
    ("slack", FAST, {"Retry-After": "9999999"}, b"", Verdict("it answered 429", wait=LONGEST_ORDERED)),
    ("slack", 400, {}, b"invalid_payload", Verdict("it answered 400: invalid_payload")),
    ("slack", 403, {}, b"action_prohibited", Verdict("it answered 403: action_prohibited")),
    ("slack", 404, {}, b"no_service", Verdict("it answered 404: no_service")),
    ("slack", 410, {}, b"channel_is_archived", Verdict("it answered 410: channel_is_archived", gone=True)),
    ("slack", 500, {}, b"rollup_error", Verdict("it answered 500: rollup_error", uncertain=True)),
    ("slack", 302, {}, b"", Verdict("it answered 302")),
    ("discord", 0, {}, b"", Verdict("the chat service did not take it", uncertain=True)),  # no answer at all
    ("discord", 204, {}, b"", Verdict()),
    ("discord", 200, {}, b'{"id":"1","content":"' + b"x" * 5000 + b'"}', Verdict()),
    ("discord", FAST, {"Retry-After": "65"}, LIMITED, Verdict("it answered 429: You are being rate limited.", wait=65)),
    ("discord", FAST, {"Retry-After": "900"}, b"<html>1015</html>", Verdict("it answered 429", wait=900)),
    ("discord", 404, {}, b'{"message": "Unknown Webhook", "code": 10015}', Verdict("it answered 404: Unknown Webhook")),
    ("teams", 202, {}, b"", Verdict()),
    ("teams", FAST, {"Retry-After": "17"}, b'{"error":{"code":"Throttled"}}', Verdict("it answered 429: Throttled", wait=17)),
    ("teams", 400, {}, b'{"error":{"code":"BadRequest"}}', Verdict("it answered 400: BadRequest")),
    ("teams", 502, {}, b'{"error":{"code":"NoResponse"}}', Verdict("it answered 502: NoResponse", uncertain=True)),
    ("feishu", 200, {}, b'{"StatusCode":0,"StatusMessage":"success","code":0,"data":{},"msg":"success"}', Verdict()),
    ("feishu", 200, {}, b'{"StatusCode":0}', Verdict()),
    ("feishu", 200, {}, BUSY, Verdict(f"it answered 200, but refused it with 11232: {json.loads(BUSY)['msg']}", wait=60)),
    ("lark", 400, {"x-ogw-ratelimit-reset": "52"}, GATEWAY, Verdict("it answered 400: request trigger frequency limit", wait=52)),
    ("lark", 400, {"x-ogw-ratelimit-reset": "6.2"}, GATEWAY, Verdict("it answered 400: request trigger frequency limit", wait=7)),
    (
        "lark",
        FAST,
        {"x-ogw-ratelimit-reset": "52"},
        GATEWAY,
        Verdict("it answered 429: request trigger frequency limit", wait=52),
    ),
    (
        "lark",
        200,
        {},
        b'{"code":19024,"msg":"Key Words Not Found"}',
        Verdict("it answered 200, but refused it with 19024: Key Words Not Found"),
    ),
    ("feishu", 200, {}, b'{"code":9499,"msg":"Bad Request"}', Verdict("it answered 200, but refused it with 9499: Bad Request")),
    ("feishu", 200, {}, b'{"code":false}', Verdict("the chat service did not take it", uncertain=True)),
    ("dingtalk", 200, {}, b'{"errcode":0,"errmsg":"ok"}', Verdict()),
    (
        "dingtalk",
        200,
        {},
        PUNISHED,
        Verdict("it answered 200, but refused it with 130101: send too fast, exceed 20 times per minute", wait=600),
    ),
    ("dingtalk", 200, {}, b'{"errcode":410100}', Verdict("it answered 200, but refused it with 410100", wait=600)),
    (
        "dingtalk",
        200,
        {},
        b'{"errcode":310000,"errmsg":"sign not match"}',
        Verdict("it answered 200, but refused it with 310000: sign not match"),
    ),
    ("wecom", 200, {}, b'{"errcode":0,"errmsg":"ok"}', Verdict()),
    (
        "wecom",
        200,
        {},
        b'{"errcode":45009,"errmsg":"api freq out of limit"}',
        Verdict("it answered 200, but refused it with 45009: api freq out of limit", wait=60),
    ),
    (
        "wecom",
        200,
        {},
        b'{"errcode":93000,"errmsg":"invalid webhook url"}',
        Verdict("it answered 200, but refused it with 93000"),  # a word of the address
    ),
    ("telegram", 200, {}, b'{"ok":true,"result":{"message_id":5}}', Verdict()),
    ("telegram", FAST, {}, FLOOD, Verdict("it answered 429: Too Many Requests: retry after 35", wait=35)),
    (
        "telegram",
        400,
        {},
        b'{"ok":false,"error_code":400,"description":"Bad Request: chat not found"}',
        Verdict("it answered 400: Bad Request: chat not found"),
    ),
    ("telegram", 200, {}, b'{"ok":false}', Verdict("the chat service did not take it", uncertain=True)),
    ("mattermost", 200, {}, b"ok", Verdict()),
    ("mattermost", FAST, {"X-Ratelimit-Reset": "3", "Retry-After": "2"}, b"limit exceeded", Verdict("it answered 429", wait=2)),
    ("mattermost", FAST, {"X-Ratelimit-Reset": "3"}, b"limit exceeded", Verdict("it answered 429", wait=3)),
    ("mattermost", FAST, {}, b"4", Verdict("it answered 429")),
    ("mattermost", 400, {}, b'{"message":"Invalid hook."}', Verdict("it answered 400: Invalid hook.")),
    ("ntfy", 200, {}, b'{"id":"x","event":"message"}', Verdict()),
    ("ntfy", FAST, {}, NICE, Verdict("it answered 429: limit reached: too many requests, please be nice", wait=5)),
    ("ntfy", 403, {}, b'{"code":40301,"http":403,"error":"forbidden"}', Verdict("it answered 403: forbidden")),
    ("ntfy", 503, {"Retry-After": "8"}, b"", Verdict("it answered 503", wait=8)),
]


@pytest.mark.parametrize(
    ("name", "status", "headers", "body", "verdict"), ANSWERS, ids=[f"{each[0]}-{each[1]}-{each[3][:24]!r}" for each in ANSWERS]
)
def test_an_answer_means(
    service: Service, name: str, status: int, headers: dict[str, str], body: bytes, verdict: Verdict
) -> None:
    """Taken; refused, with the reason; too fast, with the seconds that it asks for in its own way; gone; or nobody knows."""
    service.answer, service.headers = lambda _: status, headers
    service.says = service.refuses = body
    assert verdict == verdict_of(name)
    assert 1 == len(service.posted)


TOO_FAST = {
    name: next(
        (status, headers, body, verdict.wait)
        for whose, status, headers, body, verdict in ANSWERS
        if whose == name and verdict.wait
    )
    for name in ("slack", "discord", "teams", "feishu", "lark", "dingtalk", "wecom", "telegram", "mattermost", "ntfy")
}


@pytest.mark.parametrize("name", TOO_FAST)
def test_too_fast_is_waited_for_and_then_told_once(service: Service, engine: Engine, name: str) -> None:
    """Through the outbox: the wait that the service asks for is kept, nothing is sent before, and then it is told once."""
    status, headers, body, wait = TOO_FAST[name]
    ops = Receiver(name="ops", chat=SecretStr(ADDRESSES[name][0]))
    assert ops.chat
    chat = Chat(ops.chat)
    service.answer, service.headers = lambda _: status, headers
    service.says = service.refuses = body
    put(engine, firing())
    pause = deliver_next(engine, ops, chat, lambda: 101.0)
    assert wait <= pause <= max(wait, 1.0)

    service.answer, service.says = lambda _: 200, TAKEN
    assert 0 < deliver_next(engine, ops, chat, lambda: 101.0 + wait - 0.1)
    assert 1 == len(service.posted)
    deliver_next(engine, ops, chat, lambda: 102.0 + wait)
    deliver_next(engine, ops, chat, lambda: 5000.0)
    assert 2 == len(service.posted)
    with engine.connect() as connection:
        assert [(102.0 + wait, 2)] == [(row.delivered, row.attempts) for row in connection.execute(select(messages))]


def test_the_error_of_the_outbox_has_the_reason(service: Service, engine: Engine) -> None:
    """`tocsin outbox` shows why a chat service refused."""
    ops = Receiver(name="ops", chat=SecretStr(ADDRESSES["slack"][0]))
    assert ops.chat
    service.answer, service.refuses = lambda _: 404, b"no_service"
    put(engine, firing())
    deliver_next(engine, ops, Chat(ops.chat), lambda: 101.0)
    with engine.connect() as connection:
        assert ["it answered 404: no_service"] == [row.error for row in connection.execute(select(messages))]


def test_an_answer_without_end_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a redirect, too, no more is read than is looked at, and it is not followed."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    head = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\n\r\n"
    with serving(send(head + b"x" * 8192, pause=0.05, forever=True)) as url:
        chat = Chat(SecretStr(url.replace("SECRET", f"hooks/{KEY}")))
        began = time.monotonic()
        with pytest.raises(NotTaken, match=r"^it answered 302$"):
            chat.tell([ALERT], 30)
    assert time.monotonic() - began < 15


SECRETS = {
    name: [host.partition(":")[0], *re.findall(r"[\w-]{6,}", rest)]
    for name, (address, _) in ADDRESSES.items()
    for host, _, rest in [address.partition("//")[2].partition("/")]
}


@given(
    name=st.sampled_from(BY_HAND),
    status=st.integers(100, 599),
    value=st.text(max_size=300),
    key=st.sampled_from(["msg", "errmsg", "message", "description", "error", "x"]),
    number=st.one_of(st.integers(), st.floats(), st.none(), st.booleans(), st.text(max_size=5)),
    wrap=st.booleans(),
    place=st.integers(0, 5),
)
def test_whatever_it_answers_no_key_is_repeated(
    name: str, status: int, value: str, key: str, number: object, *, wrap: bool, place: int
) -> None:
    """Any answer is taken or a short line of a reason, and a piece of the address in the answer never gets into that."""
    pieces = SECRETS[name]
    said = value + pieces[place % len(pieces)].upper() + value
    fields = {key: said, "code": number, "errcode": number, "retry_after": number, "parameters": {"retry_after": number}}
    body = json.dumps(fields if wrap else said).encode(errors="replace")
    address = ADDRESSES[name][0]
    service = service_of(address)
    assert service
    error = None
    try:
        read(service.answers, address, status, CaseInsensitiveDict({"Retry-After": value}), body)
    except NotTaken as raised:
        error = raised
    assert error or 200 <= status < 300
    assert [] == [piece for piece in pieces if piece.lower() in str(error).lower()]
    assert len(str(error)) < 200
    assert 1 == len(str(error).splitlines())


def test_every_service_is_tried() -> None:
    """Each one of the table has an address here, a documented body, limits, and a way to say that it was too fast."""
    tried = [service_of(ADDRESSES[name][0]) for name in BY_HAND]
    assert [] == [service for service in SERVICES if service not in tried]
    assert set(BY_HAND) == set(BODIES)
    assert set(map(id, SERVICES)) == {id(service_of(ADDRESSES[name][0])) for name in LIMITS}
    slow = [id(service_of(ADDRESSES[name][0])) for name in (*TOO_FAST, "slack workflow")]
    assert set(map(id, SERVICES)) == set(slow)


def test_the_document_has_the_limits() -> None:
    """docs/receivers.md has a row for each service, with what is sent to it at most."""
    text = (CHECKOUT / "docs/receivers.md").read_text(encoding="utf-8")
    table = text.partition("| service | what arrives | at most |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (\w+)[^|]* \| [^|]+ \| ([\d,]+) ", table, re.MULTILINE)
    shown = {name.lower(): int(number.replace(",", "")) for name, number in rows}
    known = {name: service_of(ADDRESSES[name][0]) for name in LIMITS if name != "slack workflow"}
    assert {name: service.longest for name, service in known.items() if service} == shown
