"""deploy/systemd, held against systemd-analyze, docs/systemd.md and the programs that the units start."""

import json
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
import requests
import yaml

from service import database, loading
from service.alerts import page
from service.monitor.loop import LAST_WORDS
from service.settings import Settings
from tests.stack import BIN, ROOT, eventually, free_port

FOLDER = ROOT / "deploy/systemd"
DOCUMENT = (ROOT / "docs/systemd.md").read_text(encoding="utf-8")
SERVICES = ("tocsin-nginx", "tocsin-web", "tocsin-monitor")
EXPOSURE = 2.0  # of 10


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units with the paths of this checkout."""
    folder = tmp_path / "units"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("*.sh", "*.env", "*.yaml", "*.rules"))
    for file in folder.rglob("*.*"):
        if file.is_file():
            file.write_text(file.read_text().replace("/opt/tocsin", str(ROOT)))
    return folder


def analyze(folder: Path, *arguments: str) -> str:
    """What systemd-analyze says of all units; nothing but what is asked."""
    files = sorted(path.name for path in folder.iterdir() if path.is_file())
    command = ["systemd-analyze", *arguments, *(f"./{name}" for name in files if arguments[0] == "verify" or "service" in name)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert (0, "") == (done.returncode, done.stderr)
    return done.stdout


def test_systemd_finds_nothing_to_say_about_the_units(units: Path) -> None:
    """`systemd-analyze verify` is silent: every directive is known and every program is there."""
    assert 5 == sum(path.is_file() for path in units.iterdir())
    assert "" == analyze(units, "verify", "--recursive-errors=no")


def test_the_sandbox_is_closed(units: Path) -> None:
    """`systemd-analyze security` rates each unit below the limit that the document names."""
    said = analyze(units, "security", "--offline=true", "--no-pager")
    rated = re.findall(r"exposure level for (\S+): ([\d.]+)", said)

    assert {f"{name}.service" for name in SERVICES} | {"tocsin-gave-up@i.service"} == {name for name, _ in rated}
    assert [] == [name for name, level in rated if float(level) >= EXPOSURE]
    assert f"rates each unit below {EXPOSURE:g}," in DOCUMENT


def settings_of(unit: str) -> dict[str, str]:
    return dict(re.findall(r"^(\w+)=(.*)$", (FOLDER / f"{unit}.service").read_text(), re.MULTILINE))


def test_times_to_stop_are_longer_than_what_they_wait_for() -> None:
    """Each unit has the time that its process takes at most, as the document's table says, and one waits for the other."""
    times = {name: int(settings_of(name)["TimeoutStopSec"]) for name in SERVICES}
    shown = dict(re.findall(r"^\| `(tocsin-\w+)` \| (\d+) s \|", DOCUMENT, re.MULTILINE))

    assert {name: str(seconds) for name, seconds in times.items()} == shown
    assert times["tocsin-monitor"] > LAST_WORDS
    assert times["tocsin-web"] > 30 + 30  # graceful_timeout with the longest TOCSIN_DRAIN
    assert times["tocsin-nginx"] > 30  # proxy_read_timeout
    assert "tocsin-web.service" in settings_of("tocsin-monitor")["After"]
    assert "tocsin-nginx.service" in settings_of("tocsin-web")["After"]


def test_the_services_are_those_of_the_document(tmp_path: Path) -> None:
    """The installed monitor.yaml, the document's and polkit's rule name the same units, and the monitor takes them."""
    installed = yaml.safe_load((FOLDER / "monitor.yaml").read_text())
    shown = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)[0])
    found = loading.load(Settings(data=tmp_path), FOLDER / "monitor.yaml")

    assert installed == shown
    assert {f"{name}.service" for name in SERVICES} == {service.systemd for service in found.services}
    assert {f"{name}.service" for name in SERVICES} == set(
        re.findall(r'"(tocsin-\w+\.service)"', (FOLDER / "tocsin.rules").read_text())
    )


@pytest.mark.parametrize("written", ["tocsin-monitor.service", "tocsin-monitor"])
def test_what_systemd_has_given_up_is_told(tmp_path: Path, written: str) -> None:
    """An alert about the service that runs the unit, in systemd's name, once; and none where a rule heals it."""
    (tmp_path / "monitor.yaml").write_text(
        f"services:\n  - {{name: watcher, systemd: {written}}}\n  - {{name: web, systemd: tocsin-web.service}}\n"
    )
    env = {**os.environ, "TOCSIN_DATA": str(tmp_path), "TOCSIN_CONFIG": str(tmp_path / "monitor.yaml")}
    for unit in ("tocsin-monitor.service", "tocsin-monitor.service", "tocsin-web.service"):
        command = [str(BIN / "tocsin"), "gave-up", "--by", "systemd", "--unless-healed", unit]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=60)
        assert {"tocsin-systemd"} >= {json.loads(line)["service.name"] for line in done.stdout.splitlines()}
    engine = database.connect(Settings(data=tmp_path).database)
    with engine.connect() as connection:
        found, _ = page(connection, limit=10)
    engine.dispose()

    assert [("ServiceFailure", "watcher")] == [(each.alert, each.target) for each in found]
    content = found[0].content or {}
    assert "systemd has given up on tocsin-monitor.service: it ended too often soon after its start." == content["summary"]


def test_nginx_logs_to_what_cannot_be_opened_again(tmp_path: Path) -> None:
    """Its standard output is a socket, as the journal's is: every line arrives there, and it ends with nginx."""
    port = free_port()
    ours, theirs = socket.socketpair()
    env = {
        **os.environ,
        "PATH": f"{os.environ['PATH']}:/usr/sbin",
        "RUNTIME_DIRECTORY": str(tmp_path),
        "TOCSIN_HTTP_PORT": str(port),
        "TOCSIN_WEB_ADDRESS": "127.0.0.1:1",
    }
    with ours, subprocess.Popen([str(FOLDER / "nginx.sh")], env=env, stdout=theirs.fileno(), stderr=theirs.fileno()) as child:
        theirs.close()
        eventually(lambda: requests.get(f"http://127.0.0.1:{port}/robots.txt", timeout=5).ok, "nginx answers")
        child.terminate()
        ours.settimeout(20)
        said = b"".join(iter(lambda: ours.recv(65536), b""))

    lines = [json.loads(line) for line in said.splitlines()]
    assert "/robots.txt" in [line.get("url.original") for line in lines]
