"""Chat services: which address is one's, what is said there, and telling it over real TLS, by hand and by Apprise."""

import json
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from service.chat import LONGEST, MOST, Chat, NotTaken, is_chat, markdown, plain, told
from service.chat.posting import post
from service.chat.services import service_of
from service.receiver import Receiver
from service.settings import CHECKOUT
from tests.chatting import ADDRESSES, ALERT, BOT, HOSTS, KEY, RESOLVED, Service, chatting, environment
from tests.proxy import issue, proxying
from tests.test_exchange import send, serving


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    return issue(tmp_path_factory.mktemp("authority"), *(f"DNS:{host}" for host in HOSTS))


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


def test_all_were_taken(tried: tuple[Service, subprocess.CompletedProcess[str]]) -> None:
    """The command ends well, having said nothing on standard error."""
    assert (0, "") == (tried[1].returncode, tried[1].stderr)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (f"workflows://hooks.slack.com/{'a' * 32}/{'b' * 43}", "UTC\n\nshop: \\`CPU\\`"),  # a card needs an empty line
        (f"mmosts://chat.example/{KEY}", "UTC\nshop: \\`CPU\\`"),
        ("discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js", "UTC\nshop: \\`CPU\\`"),
        ("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnl", "UTC\nshop: `CPU`"),
    ],
)
def test_apprise_is_given_what_it_draws_as_it_is_written(
    authority: tuple[Path, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch, address: str, shown: str
) -> None:
    """Apprise hands plain text on to services that draw it as Markdown; for others a backslash would be one."""
    with chatting(authority[1]) as service, proxying(lead=("127.0.0.1", service.port)) as proxy:
        for variable, value in environment(authority[0], proxy.url).items():
            monkeypatch.setenv(variable, value)
        Chat(SecretStr(address)).tell([ALERT | {"summary": "shop: `CPU`"}], 10)
    ((place, _),) = service.posted
    assert any(shown in text for text in service.texts(place)), service.texts(place)


def test_apprise_is_not_loaded_for_a_pasted_address() -> None:
    """Its 34 MiB are only for who writes one of its own addresses."""
    code = (
        "import sys; from pydantic import SecretStr; from service.chat import Chat, chat_address;"
        "chat = Chat(chat_address(sys.argv[1])); import service.chat.posting; print('apprise' in sys.modules)"
    )
    for address, loaded in ((ADDRESSES["slack"][0], "False"), ("ntfy://topic", "True")):
        command = [sys.executable, "-c", code, address]
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=True)
        assert loaded == done.stdout.strip()


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
        "https://ntfy.example/topic",
        "https://ntfy.sh/topic/json",
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
    ("name", "status", "reason"),
    [
        ("slack", 302, "it answered 302"),
        ("lark", 503, "it answered 503"),
        ("telegram", 404, "it answered 404"),
        ("wecom", 0, "the chat service did not take it"),
        ("apprise", 302, "it answered 302"),
        ("apprise", 404, "it answered 404"),
        ("apprise", 0, "the chat service did not take it"),
    ],
)
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


@pytest.mark.parametrize("name", ["lark", "wecom"])
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


def test_what_is_ready_too_late_is_not_sent(authority: tuple[Path, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that takes longer to look up than the try may: it has failed and is made again, and people read it once."""
    look_up = socket.getaddrinfo

    def slowly(*args: Any, **kwargs: Any) -> Any:
        if threading.current_thread() is threading.main_thread():
            time.sleep(1)
        return look_up(*args, **kwargs)

    address = ADDRESSES["slack"][0]
    known = service_of(address)
    assert known
    with chatting(authority[1]) as service, proxying(lead=("127.0.0.1", service.port)) as proxy:
        for variable, value in environment(authority[0], proxy.url).items():
            monkeypatch.setenv(variable, value)
        monkeypatch.setattr(socket, "getaddrinfo", slowly)
        with pytest.raises(NotTaken, match=r"no complete answer within 0\.5 s"):
            post(known, address, [ALERT], 0.5)

    assert [] == service.posted


@pytest.mark.parametrize("pieces", [(b"H",), (b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65_536)], ids=["drips", "floods"])
def test_what_apprise_cannot_end_is_ended(monkeypatch: pytest.MonkeyPatch, pieces: tuple[bytes, ...]) -> None:
    """An answer without end, slow or as fast as it goes: in time, and none of it in our own memory or left behind."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    memory = psutil.Process().memory_info().rss
    with serving(send(*pieces, pause=0.1 if len(pieces) == 1 else 0.0, forever=True)) as url:
        chat = Chat(SecretStr(url.replace("http:", "json:")))  # by Apprise
        for _ in range(2):
            with pytest.raises(NotTaken):
                chat.tell([ALERT], 2)

    assert psutil.Process().memory_info().rss < memory + (32 << 20)
    assert not [each for each in psutil.Process().children() if "service.chat.others" in each.cmdline()]


def test_apprise_does_not_wait_by_itself(authority: tuple[Path, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of its services pause for seconds before they send; how fast it may go is the service's to say."""
    with chatting(authority[1]) as service, proxying(lead=("127.0.0.1", service.port)) as proxy:
        for variable, value in environment(authority[0], proxy.url).items():
            monkeypatch.setenv(variable, value)
        Chat(SecretStr("lark://0b5a-4c3d")).tell([ALERT], 5)

    assert 1 == len(service.posted)


def test_no_address_reaches_the_log(authority: tuple[Path, ssl.SSLContext], tmp_path: Path) -> None:
    """With TOCSIN_LOG_LEVEL=DEBUG the monitor's log has neither key nor host, though Apprise says both when it fails, and
    the services repeat them in their reasons."""
    addresses = {f"to {name}": address for name, (address, _) in ADDRESSES.items()} | {"ours": "lark://0b5a-4c3d"}
    many = len(addresses)
    everything = " ".join(addresses.values())
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
        service.answer = lambda number: (0, 404, 200)[min((number - 1) // many, 2)]
        service.refuses = json.dumps(dict.fromkeys(("message", "msg", "errmsg", "description", "error"), everything)).encode()
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
            while (tmp_path / "log").read_text().count('"message delivered"') < many and time.monotonic() < end:
                time.sleep(0.1)
            monitor.terminate()
            assert 0 == monitor.wait(20)

    told = (tmp_path / "log").read_text()
    assert many == told.count('"message delivered"')
    assert "it answered 404" in told
    assert '"apprise' not in told
    secrets = ("TIiajk", "JHMHI8", "iXKeS3CRET", "0b5a-4c3d", "abc123def", "5f0b-aa", KEY, BOT, "100123", "tocsin-9f3c")
    assert [] == [word for word in (*secrets, "larksuite", *HOSTS) if word in told]


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
    shown = told([ALERT | {"alert": "a_b", "summary": "*x* [click](http://e) `z`"}], escape=markdown)
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
    escape=st.sampled_from([plain, markdown]),
)
def test_whatever_the_texts_are_it_fits_and_calls_nobody(texts: list[str], longest: int, escape: Callable[[str], str]) -> None:
    """No text makes the message too long, adds a line, or keeps a form in which a chat service calls people."""
    texts = [text.encode(errors="replace").decode() for text in texts]
    shown = told([ALERT | {"summary": text, "alert": f"@channel {text}"} for text in texts], longest, escape=escape)
    assert len(shown.encode()) <= longest
    assert len(shown.splitlines()) <= 2 * MOST + 1
    assert not re.search(r"@\w|<[^\s\u200b]", shown)


def test_the_documents_addresses_are_known() -> None:
    """Every pasted address in docs/receivers.md is one that is recognised."""
    _, _, table = (CHECKOUT / "docs/receivers.md").read_text().partition("| service | an address |")
    addresses = re.findall(r"`(https://[^`]+)` \|", table.partition("Everything else")[0])
    assert 11 == len(addresses)
    assert addresses == [Receiver(name="ops", chat=SecretStr(each)).address.get_secret_value() for each in addresses]
    assert [] == [address for address in addresses if not is_chat(SecretStr(address))]
