"""Chat services: which address is one's, what is said there, and the real Apprise posting it over real TLS."""

import contextlib
import json
import os
import re
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from service.chat import LONGEST, MOST, Chat, NotTaken, is_chat, told
from service.configuration import Receiver
from service.settings import CHECKOUT
from tests.proxy import issue, proxying
from tests.test_exchange import send, serving

KEY = "3ccdd11347472237793551abcd"
BOT = "123456789:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"
FLOW = "/workflows/3e61e1a0e1/triggers/manual/paths/invoke"
FLOW_QUERY = "?api-version=2016-06-01&sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0&sig=iXKeS3CRET_a"
# What the service gives out, and where it must be posted to.
ADDRESSES = {
    "slack": ("https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ", None),
    "slack workflow": ("https://hooks.slack.com/workflows/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXr/x", None),
    "discord": ("https://discord.com/api/webhooks/4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js", None),
    "discord of a tester": (
        "https://ptb.discord.com/api/webhooks/4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js?wait=true",
        "discord.com/api/webhooks/4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js",
    ),
    "teams": (f"https://prod-12.westeurope.logic.azure.com:443{FLOW}{FLOW_QUERY}", f"prod-12.westeurope.logic.azure.com{FLOW}"),
    "power automate": (
        f"https://d8d.ee.environment.api.powerplatform.com:443/powerautomate/automations/direct{FLOW}{FLOW_QUERY}",
        f"d8d.ee.environment.api.powerplatform.com/powerautomate/automations/direct{FLOW}",
    ),
    "feishu": ("https://open.feishu.cn/open-apis/bot/v2/hook/0b5a-4c3d", None),
    "lark": ("https://open.larksuite.com/open-apis/bot/v2/hook/0b5a-4c3d", None),
    "dingtalk": ("https://oapi.dingtalk.com/robot/send?access_token=abc123def", "oapi.dingtalk.com/robot/send"),
    "wecom": ("https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=5f0b-aa", "qyapi.weixin.qq.com/cgi-bin/webhook/send"),
    "mattermost": (f"https://chat.example/hooks/{KEY}", None),
    "telegram": (f"https://api.telegram.org/bot{BOT}/sendMessage?chat_id=-100123", f"api.telegram.org/bot{BOT}/sendMessage"),
    "apprise": ("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnl", "hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnl"),
}
HOSTS = sorted({(posted or pasted).removeprefix("https://").partition("/")[0] for pasted, posted in ADDRESSES.values()})
ALERT = {
    "status": "firing",
    "alert": "HighCpu",
    "severity": "critical",
    "target": "shop",
    "instance": "web-1",
    "summary": "shop: CPU at 93 %",
    "reason": "cpu_usage > 80 for 60 s",
    "starts_at": "2026-10-16T11:41:00.412Z",
    "ends_at": None,
}
RESOLVED = ALERT | {
    "status": "resolved",
    "summary": "Resolved after 3 min 10 s: shop: CPU at 41 %",
    "reason": "not cpu_usage > 80",
    "ends_at": "2026-10-16T11:44:10.419Z",
}


@dataclass
class Service:
    """Stands for every chat service: what was posted to which host and path, and what it does then."""

    port: int = 0
    posted: list[tuple[str, Any]] = field(default_factory=list)
    answer: Callable[[int], int] = lambda number: 200  # 0: none at all
    says: bytes = b'{"ok":true,"code":0,"errcode":0}'

    def texts(self, place: str) -> list[str]:
        """All texts in what was posted to a host and path."""
        return [text for where, body in self.posted if where == place for text in texts_in(body)]


def texts_in(part: Any) -> list[str]:
    if isinstance(part, str):
        return [part]
    inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    return [text for each in inner for text in texts_in(each)]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    return issue(tmp_path_factory.mktemp("authority"), *(f"DNS:{host}" for host in HOSTS))


@contextlib.contextmanager
def chatting(context: ssl.SSLContext) -> Iterator[Service]:
    """Run it for the length of a `with` block."""
    service = Service()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            service.posted.append((f"{self.headers['Host'].removesuffix(':443')}{self.path.partition('?')[0]}", body))
            status = service.answer(len(service.posted))
            if not status:
                return
            self.send_response(status)
            self.send_header("Location", "https://hooks.slack.com/services/elsewhere")
            self.end_headers()
            slack = service.posted[-1][0].startswith("hooks.slack.com/services")
            self.wfile.write(b"ok" if slack else service.says)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    service.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def environment(ca: Path, proxy: str, **more: str) -> dict[str, str]:
    return os.environ | {"HTTPS_PROXY": proxy, "NO_PROXY": "", "REQUESTS_CA_BUNDLE": str(ca)} | more


def tocsin(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("tocsin")), *arguments]
    return subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def tried(
    authority: tuple[Path, ssl.SSLContext], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Service, subprocess.CompletedProcess[str]]:
    """What came of `tocsin test-alert` with every address there is."""
    file = tmp_path_factory.mktemp("file") / "monitor.yaml"
    receivers = [{"name": name, "chat": pasted} for name, (pasted, _) in ADDRESSES.items()]
    file.write_text(json.dumps({"receivers": receivers}))
    with chatting(authority[1]) as service, proxying(lead=("127.0.0.1", service.port)) as proxy:
        done = tocsin("test-alert", **environment(authority[0], proxy.url, TOCSIN_CONFIG=str(file), TOCSIN_INSTANCE="web-1"))
    return service, done


@pytest.mark.parametrize("name", ADDRESSES)
def test_a_pasted_address_is_told(tried: tuple[Service, subprocess.CompletedProcess[str]], name: str) -> None:
    """A firing and its resolved arrive at the host and path of each service, in plain text; and it says so."""
    service, done = tried
    pasted, posted = ADDRESSES[name]
    texts = [re.sub(r"[\\\u200b]", "", text) for text in service.texts(posted or pasted.removeprefix("https://"))]
    for status in ("FIRING", "RESOLVED"):
        assert [text for text in texts if text.startswith(f"{status}: TestAlert (info), monitor on web-1, since ")], texts
        assert [True] == [
            line.endswith(" ms)") for line in done.stdout.splitlines() if f"{name}: {status.lower()}: taken" in line
        ]


@pytest.mark.parametrize(("name", "between"), [("teams", "UTC\n\nThis is"), ("slack", "UTC\nThis is"), ("wecom", "UTC\nThis is")])
def test_the_second_line_is_one(tried: tuple[Service, subprocess.CompletedProcess[str]], name: str, between: str) -> None:
    """An Adaptive Card needs an empty line to begin another one; other services do not."""
    pasted, posted = ADDRESSES[name]
    assert any(between in text for text in tried[0].texts(posted or pasted.removeprefix("https://")))


@pytest.mark.parametrize(("name", "shown"), [("discord", r"\`tocsin"), ("mattermost", r"\`tocsin"), ("slack", " `tocsin")])
def test_markdown_is_escaped_for_who_draws_it(
    tried: tuple[Service, subprocess.CompletedProcess[str]], name: str, shown: str
) -> None:
    """Discord and Mattermost draw what Apprise sends as plain text; for others a backslash would be one."""
    assert any(shown in text for text in tried[0].texts(ADDRESSES[name][0].removeprefix("https://")))


def test_all_were_taken(tried: tuple[Service, subprocess.CompletedProcess[str]]) -> None:
    """The command ends well, having said nothing on standard error."""
    assert (0, "") == (tried[1].returncode, tried[1].stderr)


@pytest.mark.parametrize("name", [name for name in ADDRESSES if name != "apprise"])
def test_a_chat_services_own_address_is_known(name: str) -> None:
    """It is told from a webhook by host and path, and refused as one, without being repeated."""
    pasted, _ = ADDRESSES[name]
    assert is_chat(SecretStr(pasted))
    with pytest.raises(ValidationError, match="write `chat:` in place of `webhook:`"):
        Receiver(name="ops", webhook=SecretStr(pasted))


@pytest.mark.parametrize(
    "address",
    [
        "https://alerts.example/tocsin",
        "https://alerts.example/hooks/tocsin",
        "https://discord.com/channels/1/2",
        "https://slack.com/services/T1/B1/x",
        "https://hooks.slack.com.evil.example/services/T1JJ3T3L2/A1BRTD4JD/TIiajk",
        f"https://api.telegram.org/bot{BOT}/getMe",
    ],
)
def test_another_address_is_a_webhooks(address: str) -> None:
    """What no chat service gives out stays a webhook."""
    assert not is_chat(SecretStr(address))
    assert address == Receiver(name="ops", webhook=SecretStr(address)).address.get_secret_value()


@pytest.mark.parametrize(
    ("address", "remedy"),
    [
        ("https://alerts.example/tocsin", "is not an address of a chat service"),
        ("slack://s3cret", "is not an address of a chat service"),
        ("nothing://s3cret", "is not an address of a chat service"),
        ("", "is not an address of a chat service"),
        ("https://hooks.slack.com/services/s3cret", "is not an address of a chat service"),
        ("https://x.webhook.office.com/webhookb2/s3cret@a/IncomingWebhook/b/c", "make a Workflow in Teams"),
    ],
)
def test_what_nothing_recognises_is_refused(address: str, remedy: str, capfd: pytest.CaptureFixture[str]) -> None:
    """An address that neither the table nor Apprise knows is a fault with a remedy, and nobody repeats it."""
    with pytest.raises(ValidationError) as caught:
        Receiver(name="ops", chat=SecretStr(address))
    assert remedy in str(caught.value.errors()[0]["ctx"]["error"])
    assert "s3cret" not in "".join(capfd.readouterr()) + str(caught.value.errors()[0]["msg"])


@pytest.mark.parametrize(
    ("status", "reason"),
    [(404, "it answered 404"), (302, "it answered 302"), (503, "it answered 503"), (0, "the chat service did not take it")],
)
@pytest.mark.parametrize("name", ["slack", "lark", "telegram", "wecom", "apprise"])
def test_what_is_not_taken_is_told_without_the_address(
    authority: tuple[Path, ssl.SSLContext], tmp_path: Path, name: str, status: int, reason: str
) -> None:
    """A refusal, a redirect (not followed) and a closed connection are reasons, with exit status 1 and no key in them."""
    pasted, _ = ADDRESSES[name]
    more = {"TOCSIN_WEBHOOK_URL": pasted}
    if name == "apprise":
        (tmp_path / "monitor.yaml").write_text(json.dumps({"receivers": [{"name": "webhook", "chat": f"{pasted}?redirect=yes"}]}))
        more = {"TOCSIN_CONFIG": str(tmp_path / "monitor.yaml")}
    with chatting(authority[1]) as service, proxying(lead=("127.0.0.1", service.port)) as proxy:
        service.answer = lambda _: status
        done = tocsin("test-alert", **environment(authority[0], proxy.url, **more))

    assert (1, "") == (done.returncode, done.stderr)
    assert [f"webhook: firing: {reason}", f"webhook: resolved: {reason}"] == [
        line.rpartition(" (")[0] for line in done.stdout.splitlines()
    ]
    assert 2 == len(service.posted)


@pytest.mark.parametrize("name", ["feishu", "lark", "dingtalk", "wecom"])
@pytest.mark.parametrize(
    ("says", "reason"),
    [
        (b'{"code":19024,"errcode":310000}', "it answered 200, but refused it with "),
        (b'{"code":"s3cret","errcode":"s3cret"}', "the chat service did not take it"),
        (b"[0]", "the chat service did not take it"),
        (b"ok", "the chat service did not take it"),
    ],
)
def test_a_refusal_with_200_is_no_delivery(
    authority: tuple[Path, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch, name: str, says: bytes, reason: str
) -> None:
    """Bots that answer 200 with a number other than 0 have not told anybody."""
    with chatting(authority[1]) as service, proxying(lead=("127.0.0.1", service.port)) as proxy:
        service.says = says
        for variable, value in environment(authority[0], proxy.url).items():
            monkeypatch.setenv(variable, value)
        with pytest.raises(NotTaken, match=f"^{reason}") as caught:
            Chat(SecretStr(ADDRESSES[name][0])).tell([ALERT], 10)

    assert "s3cret" not in str(caught.value)
    assert 1 == len(service.posted)


def test_a_service_that_hangs_ends_in_time(authority: tuple[Path, ssl.SSLContext], tmp_path: Path) -> None:
    """The time of a try is that of the receiver, and what is left behind does not hold up the end of the process."""
    (tmp_path / "monitor.yaml").write_text(
        json.dumps({"receivers": [{"name": "a", "chat": ADDRESSES["slack"][0], "timeout": "1s"}]})
    )
    given = {"TOCSIN_CONFIG": str(tmp_path / "monitor.yaml")}
    with proxying(hang=True) as proxy:
        began = time.monotonic()
        done = tocsin("test-alert", "a", **environment(authority[0], proxy.url, **given))

    assert "a: firing: no complete answer within 1 s" in done.stdout
    assert time.monotonic() - began < 15


def test_a_service_that_drips_is_left_behind_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer without end costs one thread, not one for each try."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(send(b"H", pause=0.1, forever=True)) as url:
        chat = Chat(SecretStr(url.replace("SECRET", f"hooks/{KEY}")))
        for reason in ("no complete answer within 1 s", "the try before this one has not ended yet"):
            with pytest.raises(NotTaken, match=reason):
                chat.tell([ALERT], 1)


def test_apprise_does_not_wait_by_itself(authority: tuple[Path, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of its services pause for seconds before they send; how fast it may go is the service's to say."""
    with chatting(authority[1]) as service, proxying(lead=("127.0.0.1", service.port)) as proxy:
        for variable, value in environment(authority[0], proxy.url).items():
            monkeypatch.setenv(variable, value)
        Chat(SecretStr("lark://0b5a-4c3d")).tell([ALERT], 5)

    assert 1 == len(service.posted)


def test_no_address_reaches_the_log(authority: tuple[Path, ssl.SSLContext], tmp_path: Path) -> None:
    """With TOCSIN_LOG_LEVEL=DEBUG the monitor's log has neither key nor host, though Apprise says both when it fails."""
    addresses = {name: ADDRESSES[name][0] for name in ("slack", "feishu", "mattermost")} | {"lark": "lark://0b5a-4c3d"}
    (tmp_path / "monitor.yaml").write_text(
        json.dumps(
            {
                "interval": "200ms",
                "targets": [{"name": "away", "url": "http://127.0.0.1:9"}],
                "rules": [{"alert": "Down", "when": "up == 0"}],
                "receivers": [{"name": name, "chat": address} for name, address in addresses.items()],
            }
        )
    )
    with chatting(authority[1]) as service, proxying(lead=("127.0.0.1", service.port)) as proxy:
        service.answer = lambda number: (0, 0, 0, 0, 404, 404, 404, 404)[number - 1] if number <= 8 else 200
        given = environment(
            authority[0],
            proxy.url,
            TOCSIN_CONFIG=str(tmp_path / "monitor.yaml"),
            TOCSIN_DATA=str(tmp_path),
            TOCSIN_LOG_LEVEL="DEBUG",
        )
        command = [str(Path(sys.executable).with_name("tocsin")), "monitor"]
        with (
            (tmp_path / "log").open("wb") as log,
            subprocess.Popen(command, cwd=CHECKOUT, env=given, stdout=log, stderr=subprocess.STDOUT) as monitor,
        ):
            end = time.monotonic() + 60
            while (tmp_path / "log").read_text().count('"message delivered"') < 4 and time.monotonic() < end:
                time.sleep(0.1)
            monitor.terminate()
            assert 0 == monitor.wait(20)

    told = (tmp_path / "log").read_text()
    assert 4 == told.count('"message delivered"')
    assert "it answered 404" in told
    assert '"apprise' not in told
    assert [] == [word for word in ("TIiajk", "0b5a-4c3d", KEY, "larksuite", "hooks.slack", "chat.example") if word in told]


DOWN = "shop: CPU at 93 % (cpu_usage > 80 for 60 s)"
UP = "Resolved after 3 min 10 s: shop: CPU at 41 % (not cpu_usage > 80)"
SINCE, UNTIL = "since 2026-10-16 11:41 UTC", "since 2026-10-16 11:41 to 2026-10-16 11:44 UTC"
CALLS = "<!channel> @everyone <at user_id=all>\n a <b> root@x"
NO_CALLS = "<\u200b!channel> @\u200beveryone <\u200bat user_id=all> a <\u200bb> root@\u200bx (cpu_usage > 80 for 60 s)"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (ALERT, f"FIRING: HighCpu (critical), shop on web-1, {SINCE}\n{DOWN}"),
        (RESOLVED, f"RESOLVED: HighCpu (critical), shop on web-1, {UNTIL}\n{UP}"),
        (
            RESOLVED | {"late": True, "flapping": True, "instance": ""},
            f"RESOLVED, late, flapping: HighCpu (critical), shop, {UNTIL}\n{UP}",
        ),
        (
            ALERT | {"reminder": True, "escalated": True, "summary": CALLS},
            f"FIRING, reminder, escalated: HighCpu (critical), shop on web-1, {SINCE}\n{NO_CALLS}",
        ),
    ],
    ids=["firing", "resolved", "late", "calls"],
)
def test_an_alert_is_two_lines(content: dict[str, Any], text: str) -> None:
    """What, how bad, where, since when; then the summary and the reason, in which nobody is called."""
    assert text == told([content])


def test_markdown_is_escaped_where_it_is_drawn() -> None:
    """A name with stars and brackets is shown as it is written."""
    shown = told([ALERT | {"alert": "a_b", "summary": "*x* [click](http://e) `z`"}], markdown=True)
    assert r"a\_b" in shown
    assert r"\*x\* \[click\](http://e) \`z\`" in shown


def test_of_many_alerts_the_first_are_told_and_the_rest_counted() -> None:
    """At most ten are told, and no more than fit."""
    short = {**ALERT, "summary": "x", "reason": "y", "alert": "A", "instance": ""}
    lines = told([short] * 25).splitlines()
    assert (2 * MOST + 1, "and 15 more") == (len(lines), lines[-1])
    assert "and 23 more" == told([ALERT] * 25, 320).splitlines()[-1]


@given(
    texts=st.lists(st.text(max_size=400), min_size=1, max_size=30),
    longest=st.integers(100, LONGEST),
    markdown=st.booleans(),
)
def test_whatever_the_texts_are_it_fits_and_calls_nobody(texts: list[str], longest: int, markdown: bool) -> None:
    """No text makes the message too long, adds a line, or keeps a form in which a chat service calls people."""
    texts = [text.encode(errors="replace").decode() for text in texts]
    shown = told([ALERT | {"summary": text, "alert": f"@channel {text}"} for text in texts], longest, markdown=markdown)
    assert len(shown.encode()) <= longest
    assert len(shown.splitlines()) <= 2 * MOST + 1
    assert not re.search(r"@\w|<[!@a-z]", shown, re.IGNORECASE)


def test_the_documents_addresses_are_known() -> None:
    """Every pasted address in docs/receivers.md is one that is recognised."""
    _, _, table = (CHECKOUT / "docs/receivers.md").read_text().partition("| service | an address |")
    addresses = re.findall(r"`(https://[^`]+)` \|", table.partition("Everything else")[0])
    assert 10 == len(addresses)
    assert addresses == [Receiver(name="ops", chat=SecretStr(each)).address.get_secret_value() for each in addresses]
    assert [] == [address for address in addresses if not is_chat(SecretStr(address))]
