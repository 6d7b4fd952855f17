"""docs/security.md changes secrets while the stack runs: its commands, run as they stand there."""

import os
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from pydantic import SecretStr

from service import signing
from tests.receiver import Received, Receiver, receiving
from tests.stack import BIN, ROOT, eventually
from tests.test_supervise import Supervised, started, supervised

KEY = "a key of 24 characters.."
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
DOCUMENT = (ROOT / "docs/security.md").read_text(encoding="utf-8")

pytestmark = [pytest.mark.native, pytest.mark.timeout(200)]


def rules(threshold: int) -> str:
    return f"rules: [{{alert: Full, when: disk_usage > {threshold}, targets: [self], keep_firing_for: 0s, summary: full}}]\n"


@dataclass
class Running(Supervised):
    """The stack, where its secrets are, and who gets its alerts."""

    secrets: Path
    receiver: Receiver

    def do(self, heading: str, number: int) -> None:
        """Run a block of commands of the document with the paths of this stack."""
        section = DOCUMENT.partition(f"\n### {heading}\n")[2].partition("\n## ")[0].partition("\n### ")[0]
        commands = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)[number]
        places = {"/etc/tocsin": str(self.secrets), "$PWD/var": str(self.data), ".venv/bin": str(BIN)}
        for shown, here in places.items():
            commands = commands.replace(shown, here)
        env = {**os.environ, "TOCSIN_DATA": str(self.data), "TOCSIN_CONFIG": str(self.data / "monitor.yaml")}
        subprocess.run(["bash", "-euo", "pipefail", "-c", commands], cwd=ROOT, env=env, check=True, timeout=60)

    def is_taken(self, key: str) -> bool:
        """Whether a call with this key is only refused for what it says."""
        headers = {"Authorization": f"Bearer {key}"}
        return requests.post(f"{self.url}/api/v1/silences", json={}, headers=headers, timeout=10).status_code == 422


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    secrets, data = tmp_path_factory.mktemp("secrets"), tmp_path_factory.mktemp("data")
    (secrets / "api_key").write_text(KEY)
    (secrets / "webhook_secret").write_text(SECRET)
    env = {f"TOCSIN_{name.upper()}_FILE": str(secrets / name) for name in ("api_key", "webhook_secret")}
    with receiving() as receiver:
        receiver.answer = lambda number: 500
        with supervised(data, TOCSIN_WEBHOOK_URL=receiver.url, **env) as running:
            (data / "monitor.yaml").write_text(rules(0))
            eventually(lambda: started(running), "it runs", 60)
            yield Running(**vars(running), secrets=secrets, receiver=receiver)


def is_signed_with(secret: str, message: Received) -> bool:
    try:
        signing.verify([SecretStr(secret)], message.headers, message.body, time.time())
    except ValueError:
        return False
    return True


def test_another_key_without_a_stop(stack: Running) -> None:
    """The new key counts and the old one no more, and every request meanwhile has its answer."""
    old = (stack.secrets / "api_key").read_text().strip()
    assert stack.is_taken(old)
    stack.do("The API key", 0)
    new = (stack.secrets / "api_key").read_text().strip()
    statuses = set()

    def changed() -> bool:
        statuses.add(stack.status("/readyz"))
        return stack.is_taken(new) and not stack.is_taken(old)

    eventually(changed, "the new key alone counts", 30)
    assert {200} == statuses


def test_another_webhook_secret_and_no_message_is_lost(stack: Running) -> None:
    """What waits is delivered with a signature of each, then what comes later with one of the new secret alone."""
    receiver = stack.receiver
    first = receiver.wait_for(1, 30)[0]  # refused: it waits
    assert (True, "alert.firing") == (is_signed_with(SECRET, first), first.message["type"])

    stack.do("The webhook secret", 0)
    new = (stack.secrets / "webhook_secret").read_text().split()[0]
    asked = len(receiver.requests)
    receiver.answer = lambda number: 204
    told = receiver.wait_for(asked + 1, 60)[asked]
    assert first.message["data"]["alerts"][0]["occurrence"] == told.message["data"]["alerts"][0]["occurrence"]
    assert (True, True) == (is_signed_with(SECRET, told), is_signed_with(new, told))

    (stack.data / "monitor.yaml").write_text(rules(100))
    stack.do("The webhook secret", 1)
    closed = eventually(lambda: [each for each in receiver.requests if each.message["type"] == "alert.resolved"], "its end", 60)
    assert (False, True) == (is_signed_with(SECRET, closed[0]), is_signed_with(new, closed[0]))
    assert f"{new}\n" == (stack.secrets / "webhook_secret").read_text()
