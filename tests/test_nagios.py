"""Debian's Nagios runs `tocsin check` as docs/check.md says, against a real Tocsin, and shows what it says."""

import getpass
import re
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.answering import Answering, answering
from tests.stack import BIN, ROOT, Running, eventually, process, web

DEFINITIONS = re.findall(r"```nagios\n(.*?)```", (ROOT / "docs/check.md").read_text(encoding="utf-8"), re.DOTALL)[0]
MAIN = """
cfg_file={folder}/objects.cfg
log_file={folder}/nagios.log
object_cache_file={folder}/objects.cache
status_file={folder}/status.dat
lock_file={folder}/nagios.pid
temp_file={folder}/nagios.tmp
temp_path={folder}
check_result_path={folder}/results
query_socket={folder}/nagios.qh
nagios_user={user}
nagios_group={user}
check_external_commands=0
check_for_updates=0
retain_state_information=0
# A minute of Nagios is a second here.
interval_length=1
status_update_interval=1
check_result_reaper_frequency=1
service_check_timeout=30
"""
OBJECTS = """
define timeperiod {
    timeperiod_name always
    alias always
    sunday 00:00-24:00
    monday 00:00-24:00
    tuesday 00:00-24:00
    wednesday 00:00-24:00
    thursday 00:00-24:00
    friday 00:00-24:00
    saturday 00:00-24:00
}
define command {
    command_name tell
    command_line /bin/true
}
define contact {
    contact_name ops
    service_notification_commands tell
    host_notification_commands tell
    service_notification_period always
    host_notification_period always
}
define host {
    host_name app1
    address 127.0.0.1
    max_check_attempts 1
    check_period always
    notification_period always
    contacts ops
}
"""
RULES = """
targets: [{{name: shop, url: "{shop}/", timeout: 500ms}}]
rules:
  - {{alert: TargetDown, when: up == 0, for: 0s, keep_firing_for: 0s, severity: critical, summary: "{{{{ target }}}} | is down"}}
interval: 300ms
"""


@pytest.fixture(scope="module")
def shop() -> Iterator[Answering]:
    with answering() as server:
        server.answers["/"] = (200, b"")
        yield server


@pytest.fixture(scope="module")
def app(shop: Answering, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """gunicorn, and a monitor beside it. Its thresholds are out of reach: two processors are busy with tests."""
    folder = tmp_path_factory.mktemp("tocsin")
    (folder / "monitor.yaml").write_text(RULES.format(shop=shop.url))
    env = {"TOCSIN_DATA": str(folder), "TOCSIN_CONFIG": str(folder / "monitor.yaml")}
    env |= {f"TOCSIN_{name}_THRESHOLD": "100" for name in ("CPU", "MEM", "DISK")}
    with web(folder, **env) as running, process([BIN / "tocsin", "monitor"], env, folder / "monitor.log"):
        eventually(lambda: running.get("/api/v1/monitor").json()["ticks"], "a tick")
        yield running


def nagios(folder: Path, urls: dict[str, str]) -> None:
    """Its configuration: the document's definitions, once for each address."""
    (folder / "results").mkdir()
    (folder / "nagios.cfg").write_text(MAIN.format(folder=folder, user=getpass.getuser()))
    objects = OBJECTS
    for name, url in urls.items():
        text = DEFINITIONS.replace("/opt/tocsin/.venv/bin", str(BIN)).replace("http://$HOSTADDRESS$:8080", url)
        assert url in text
        objects += text.replace("check_tocsin", f"check_{name}").replace("description     Tocsin", f"description {name}")
    (folder / "objects.cfg").write_text(objects)


def status(folder: Path) -> dict[str, dict[str, Any]]:
    """What Nagios knows of each service, from the file that its pages are made of."""
    text = (folder / "status.dat").read_text(encoding="utf-8")
    found = [
        dict(re.findall(r"^\t(\w+)=(.*)$", block, re.MULTILINE)) for block in re.findall(r"(?s)servicestatus \{(.*?)\}", text)
    ]
    return {service["service_description"]: service for service in found}


def test_nagios_sees_what_is(tmp_path: Path, app: Running, shop: Answering) -> None:
    """OK, CRITICAL while an alert fires, OK again, CRITICAL when nobody answers; and UNKNOWN for what is no Tocsin."""
    shop.answers["/other/api/health"] = (200, b"It works!")
    nagios(tmp_path, {"front": app.url, "other": f"{shop.url}/other"})

    def shown(state: str, text: str, name: str = "front") -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            service = status(tmp_path).get(name, {})
            return service if (state, True) == (service.get("current_state"), text in service.get("plugin_output", "")) else None

        return eventually(look, f"{name} in state {state}, saying {text}", 40)

    with ExitStack() as stack:
        stack.enter_context(process(["nagios4", tmp_path / "nagios.cfg"], {}, tmp_path / "nagios.out"))
        well = shown("0", "TOCSIN OK - nothing fires")
        assert well["performance_data"].startswith("cpu_usage=")
        assert "dead=0;;0;0 oldest_undelivered=0s;300;1800;0" in well["performance_data"]
        assert "0.000" != well["check_execution_time"]
        shown("3", "TOCSIN UNKNOWN - what answers there is no Tocsin", "other")

        shop.answers["/"] = (500, b"")
        ill = shown("2", "TOCSIN CRITICAL - TargetDown shop: shop / is down (critical)")
        assert "firing=1;;;0" in ill["performance_data"]
        assert {"performance_data", "plugin_output", "long_plugin_output"} <= set(ill)
        assert "" == ill["long_plugin_output"]
        shop.answers["/"] = (200, b"")
        shown("0", "TOCSIN OK - nothing fires")

        app.process.send_signal(signal.SIGKILL)
        began = time.monotonic()
        shown("2", "TOCSIN CRITICAL - Tocsin does not answer")
        assert time.monotonic() - began < 40
