"""What a receiver's own fields do to a message, and `tocsin test-alert`, which sends one."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from standardwebhooks import Webhook

from service.loading import load
from service.monitor.exchange import Client
from service.monitor.sending import Verdict, client_for, send
from service.receiver import Receiver
from service.settings import CHECKOUT, Settings
from service.values import ConfigurationError
from tests.chatting import ADDRESSES
from tests.proxy import PASSWORD, issue, proxying
from tests.receiver import receiving
from tests.test_chat import tocsin
from tests.test_receivers import FIRING

OLD, NEW = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_" + "C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
WEBHOOK = "webhook: 'http://a/'"
CENTRAL = "alertmanager: 'http://s3cret'"
ONE_OF = "a receiver has one of `webhook:`, `chat:` and `alertmanager:`"
AN_API = "is the address of its API; leave out what comes from /api/ on"


def sent(receiver: Receiver) -> Verdict:
    client = client_for(receiver)
    now = time.time()
    try:
        return send(receiver, client, identity="msg_x", contents=[FIRING], created=now, now=now)
    finally:
        client.close()


def faults(text: str, tmp_path: Path, **settings: Any) -> list[str]:
    (tmp_path / "monitor.yaml").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load(Settings(data=tmp_path, **settings), tmp_path / "monitor.yaml")
    return [fault.removeprefix(f"{tmp_path}/monitor.yaml: ") for fault in caught.value.faults]


def test_whoever_has_one_of_the_secrets_verifies_it() -> None:
    """With two secrets a message is verified by both, so that the other side can change over when it likes."""
    with receiving() as real:
        assert Verdict() == sent(Receiver(name="ops", webhook=SecretStr(real.url), secret=(NEW, OLD)))
        (request,) = real.requests

    assert 2 == len(request.headers["webhook-signature"].split(" "))
    for secret in (OLD, NEW):
        assert FIRING["summary"] == Webhook(secret).verify(request.body, request.headers)["data"]["alerts"][0]["summary"]


def test_headers_of_ones_own_are_sent() -> None:
    """They come beside those that Tocsin sets itself, in any character that a header can have."""
    headers = {"Authorization": "Bearer s3cret", "X-Tëam".replace("ë", "e"): "Zürich", "User-Agent": "mine"}
    with receiving() as real:
        assert Verdict() == sent(Receiver(name="ops", webhook=SecretStr(real.url), headers=headers))
        (request,) = real.requests

    found = {name: request.headers[name] for name in ("authorization", "x-team", "user-agent", "content-type", "webhook-id")}
    assert {
        "authorization": "Bearer s3cret",
        "x-team": "Zürich",
        "user-agent": "mine",
        "content-type": "application/json",
        "webhook-id": "msg_x",
    } == found


def test_a_proxy_and_an_authority_are_used(tmp_path: Path) -> None:
    """A receiver behind a proxy, with a certificate of an authority of one's own, is told."""
    ca, context = issue(tmp_path, "IP:127.0.0.1")
    with receiving(context=context) as real, proxying(password=True) as proxy:
        receiver = Receiver(name="ops", webhook=SecretStr(real.url), proxy=SecretStr(proxy.url), ca=ca)
        assert Verdict() == sent(receiver)
        assert PASSWORD not in repr(receiver)

    assert [f"CONNECT {real.url.split('/')[2]}"] == proxy.asked


def test_a_chat_is_not_told_by_a_webhooks_client() -> None:
    """What sends to a receiver follows from its address."""
    webhook = client_for(Receiver(name="ops", webhook=SecretStr("http://127.0.0.1/")))
    chat = client_for(Receiver(name="ops", chat=SecretStr(ADDRESSES["slack"][0])))
    assert [True, False] == [isinstance(client, Client) for client in (webhook, chat)]
    webhook.close()
    chat.close()


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ("timeout: 5s", f"webhook: is required; {ONE_OF}"),
        (f"{WEBHOOK}, chat: 'ntfy://x'", f"webhook: `chat:` and `webhook:` stand together; {ONE_OF}"),
        (f"{WEBHOOK}, {CENTRAL}", f"webhook: `alertmanager:` and `webhook:` stand together; {ONE_OF}"),
        (f"chat: 'ntfy://x', {CENTRAL}", f"webhook: `chat:` and `alertmanager:` stand together; {ONE_OF}"),
        ("alertmanager: s3cret", "alertmanager: is not an address; write http://HOST"),
        *(
            (f"alertmanager: 'http://s3cret{path}'", f"alertmanager: {AN_API}")
            for path in ("/api/v2/alerts", "/x/api/v1/", "/api/v2")
        ),
        ("alertmanager: 'http://a/?s3cret'", "alertmanager: has more than a path; leave out what comes from ? or # on"),
        (f"{CENTRAL}, format: tocsin", "format: does not go with `alertmanager:`; leave it out, or tell a `webhook:`"),
        (f"{CENTRAL}, secret: {OLD}", "secret: does not go with `alertmanager:`; leave it out, or tell a `webhook:`"),
        (f"{CENTRAL}, headers: s3cret", "headers: is not a map of names and texts"),
        ("chat: 'http://s3cret'", "chat: is not an address of a chat service; paste"),
        ("chat: [s3cret]", "chat: is not an address of a chat service; paste"),
        (f"webhook: '{ADDRESSES['slack'][0]}'", "webhook: is the address of a chat service; write `chat:` in place"),
        ("chat: 'ntfy://x', format: alertmanager", "format: does not go with `chat:`; leave it out, or tell"),
        (f"chat: 'ntfy://x', secret: {OLD}", "secret: does not go with `chat:`; leave it out, or tell"),
        ("chat: 'ntfy://x', headers: {A: s3cret}", "headers: does not go with `chat:`; leave it out, or tell"),
        ("chat: 'ntfy://x', proxy: 'http://s3cret'", "proxy: does not go with `chat:`; leave it out, or tell"),
        (f"{WEBHOOK}, format: s3cret", "format: 's3cret' is none of tocsin, alertmanager"),
        (f"{WEBHOOK}, secret: [{OLD}, s3cret]", "secret[1]: is not a webhook secret; write whsec_"),
        (f"{WEBHOOK}, secret: '{OLD} s3cret'", "secret: is not a webhook secret; write whsec_"),
        (f"{WEBHOOK}, secret: ''", "secret: is not a webhook secret; write whsec_"),
        (f"{WEBHOOK}, headers: s3cret", "headers: is not a map of names and texts; write `Name: text`"),
        (f"{WEBHOOK}, headers: {{A:s3cret}}", "headers: is not a map of names and texts; write `Name: text`"),
        (f"{WEBHOOK}, headers: {{A: [s3cret]}}", "headers: is not a map of names and texts; write `Name: text`"),
        (f"{WEBHOOK}, headers: {{'A s3cret': x}}", "headers: has a name that is none of a header"),
        (f"{WEBHOOK}, headers: {{1: x, '': x}}", "headers: has a name that is none of a header"),
        (f"{WEBHOOK}, headers: {{content-type: s3cret}}", "headers: content-type is set by Tocsin itself"),
        (f"{WEBHOOK}, headers: {{Webhook-Id: s3cret}}", "headers: Webhook-Id is set by Tocsin itself"),
        (f'{WEBHOOK}, headers: {{A: "s3cret\\r\\nB: x"}}', "headers: A has a text that no header can have"),
        (f'{WEBHOOK}, headers: {{A: "s3cret\\x7f"}}', "headers: A has a text that no header can have"),
        (f'{WEBHOOK}, headers: {{A: " s3cret"}}', "headers: A has a text that no header can have"),
        (f'{WEBHOOK}, headers: {{A: ""}}', "headers: A has a text that no header can have"),
        (f"{WEBHOOK}, headers: {{A: s3cret✓}}", "headers: A has a text that no header can have"),
        (f"{WEBHOOK}, proxy: 's3cret:8080'", "proxy: is not an address; write http://HOST"),
        (f"{WEBHOOK}, proxy: 'socks5://s3cret'", "proxy: is not an address; write http://HOST"),
        (f"{WEBHOOK}, ca: /nowhere/ca.pem", "ca: /nowhere/ca.pem: No such file or directory; name a readable PEM file"),
        (f"{WEBHOOK}, ca: /", "ca: /: "),
        (f"{WEBHOOK}, ca: {__file__}", f"ca: {__file__}: not a PEM file with certificates; name a readable PEM file"),
    ],
)
def test_a_fault_names_its_place_and_the_remedy(tmp_path: Path, fields: str, fault: str) -> None:
    """What is wrong with a receiver is told where it stands, and never with what may be secret."""
    (told,) = faults(f"receivers:\n  - {{name: a, {fields}}}", tmp_path)
    assert told.startswith(f"receivers[0].{fault}")
    assert "s3cret" not in told or "format" in fault


def test_faults_of_one_receiver_are_told_together(tmp_path: Path) -> None:
    """One wrong field does not hide another."""
    text = "receivers: [{name: a, webhook: 'http://a', proxy: x, ca: /nowhere, headers: {Host: x}, secret: x}]"
    assert ["secret", "headers", "proxy", "ca"] == [each.split(": ")[0].split(".")[1] for each in faults(text, tmp_path)]


def test_the_environments_address_may_be_a_chat_services(tmp_path: Path) -> None:
    """A pasted chat address makes a chat receiver, any other a webhook with all the secrets; a connector is refused."""
    secret = SecretStr(f"{NEW}\n{OLD}")
    (chat,) = load(Settings(data=tmp_path, webhook_url=SecretStr(ADDRESSES["slack"][0]), webhook_secret=secret)).receivers
    assert (SecretStr(ADDRESSES["slack"][0]), None, ()) == (chat.chat, chat.webhook, chat.secret)

    (webhook,) = load(Settings(data=tmp_path, webhook_url=SecretStr("http://a/b"), webhook_secret=secret)).receivers
    assert (None, (SecretStr(NEW), SecretStr(OLD))) == (webhook.chat, webhook.secret)

    connector = SecretStr("https://x.webhook.office.com/webhookb2/s3cret")
    with pytest.raises(ConfigurationError, match=r"^TOCSIN_WEBHOOK_URL: is a connector of Teams") as caught:
        load(Settings(data=tmp_path, webhook_url=connector))
    assert "s3cret" not in str(caught.value)


def test_the_file_can_hold_several_secrets_in_one_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`secret: ${TOCSIN_WEBHOOK_SECRET}` works with one secret and with several."""
    monkeypatch.setenv("TOCSIN_WEBHOOK_SECRET", f"{NEW} {OLD}")
    (tmp_path / "monitor.yaml").write_text("receivers: [{name: a, webhook: 'http://a', secret: '${TOCSIN_WEBHOOK_SECRET}'}]")
    (receiver,) = load(Settings(data=tmp_path), tmp_path / "monitor.yaml").receivers
    assert (SecretStr(NEW), SecretStr(OLD)) == receiver.secret


def test_test_alert_sends_a_firing_and_its_resolved(tmp_path: Path) -> None:
    """Each receiver gets both, marked as a test and of one occurrence; one that refuses makes the exit status 1."""
    with receiving() as one, receiving() as other:
        other.answer = lambda _: 500
        receivers = [{"name": "one", "webhook": one.url}, {"name": "other", "webhook": other.url}]
        (tmp_path / "monitor.yaml").write_text(json.dumps({"receivers": receivers}))
        given = {"TOCSIN_CONFIG": str(tmp_path / "monitor.yaml"), "PATH": "/usr/bin:/bin"}
        all_of_them, only_one = tocsin("test-alert", **given), tocsin("test-alert", "one", **given)

    assert (1, 0) == (all_of_them.returncode, only_one.returncode)
    assert [
        "one: firing: taken",
        "one: resolved: taken",
        "other: firing: it answered 500",
        "other: resolved: it answered 500",
    ] == [line.rpartition(" (")[0] for line in all_of_them.stdout.splitlines()]
    assert (4, 2) == (len(one.requests), len(other.requests))
    firing, resolved = (request.message["data"]["alerts"][0] for request in one.requests[:2])
    assert ("firing", "resolved", "TestAlert") == (firing["status"], resolved["status"], firing["alert"])
    assert "This is a test" in firing["summary"]
    assert firing["occurrence"] == resolved["occurrence"]
    assert 4 == len({request.headers["webhook-id"] for request in one.requests})


@pytest.mark.parametrize(
    ("text", "name", "fault"),
    [
        ("receivers: [{name: ops, webhook: 'http://a'}]", "opps", "'opps' is not a receiver; did you mean 'ops'?"),
        ("receivers: []", None, "there is no receiver; set TOCSIN_WEBHOOK_URL"),
    ],
)
def test_test_alert_knows_whom_it_can_tell(tmp_path: Path, text: str, name: str | None, fault: str) -> None:
    """An unknown receiver, or none at all, is a fault with exit status 2, and nothing is sent."""
    (tmp_path / "monitor.yaml").write_text(text)
    done = tocsin("test-alert", *([name] if name else []), TOCSIN_CONFIG=str(tmp_path / "monitor.yaml"))
    assert (2, "") == (done.returncode, done.stdout)
    assert done.stderr.startswith(fault)


def test_every_field_is_explained() -> None:
    """docs/receivers.md has a row for each field of a receiver, and a default that is the one that holds."""
    text = (CHECKOUT / "docs/receivers.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", text.partition("## Trying it")[0], re.MULTILINE))
    assert set(Receiver.model_fields) == set(rows)
    assert ("`10s`", "`tocsin`") == (rows["timeout"], rows["format"])
    assert (10.0, "tocsin") == (Receiver.model_fields["timeout"].default, Receiver.model_fields["format"].default)
