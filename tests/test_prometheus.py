"""deploy/prometheus with Debian's Prometheus: it scrapes a real stack, and every query of the dashboard finds something."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from service.database import connect
from service.web.families import EVERY
from tests.receiver import receiving
from tests.stack import BIN, ROOT, eventually, free_port, nginx, process, unless, web
from tests.supervised import SLEEPS, supervised

DEPLOYED = ROOT / "deploy/prometheus"
DASHBOARD = json.loads((DEPLOYED / "grafana/tocsin.json").read_text(encoding="utf-8"))
RULES = yaml.safe_load((DEPLOYED / "rules.yml").read_text(encoding="utf-8"))
KEY = "correct-horse-battery-staple"
# What is there in a container with limits alone; and some kernels do not say the pressure.
ABSENT = ("cpu_throttled", "oom_kills", *(() if Path("/proc/pressure/cpu").exists() else ("pressure",)))
CONFIGURATION = """\
interval: 500ms
targets:
- {{name: self, url: '{web}/api/health'}}
- {{name: gone, url: 'http://127.0.0.1:9/'}}
rules:
- {{alert: TargetDown, when: up == 0, severity: critical}}
- {{alert: HighLoad, when: load1 >= 0, for: 1h}}
receivers:
- {{name: ops, webhook: '{receiver}'}}
services:
- {{name: sleeps, supervisord: sleeps, timeout: 20s}}
"""
installed = unless(shutil.which("prometheus") is not None, "Prometheus is not installed")


@dataclass
class Prometheus:
    """One that has scraped a Tocsin on which something has happened, a few times. `down` is one that does not answer."""

    url: str
    down: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        answer = requests.get(f"{self.url}/api/v1/query", {"query": expression}, timeout=10).json()
        assert "success" == answer["status"], f"{expression}: {answer}"
        return list(answer["data"]["result"])


@contextmanager
def scraping(folder: Path, target: str) -> Iterator[Prometheus]:
    """Prometheus with our files: of the configuration only the targets and the times are others."""
    port, down = free_port(), f"127.0.0.1:{free_port()}"
    text = (DEPLOYED / "prometheus.yml").read_text(encoding="utf-8")
    text = text.replace("127.0.0.1:8080", f'{target}", "{down}').replace("_interval: 15s", "_interval: 1s")
    (folder / "prometheus.yml").write_text(text.replace("scrape_timeout: 5s", "scrape_timeout: 1s"))
    shutil.copy(DEPLOYED / "rules.yml", folder)
    files = (f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb")
    with process(["prometheus", *files, f"--web.listen-address=127.0.0.1:{port}"], {}, folder / "prometheus.log"):
        found = Prometheus(f"http://127.0.0.1:{port}", down)
        eventually(lambda: requests.get(f"{found.url}/-/ready", timeout=5).status_code == 200, "Prometheus is ready")
        yield found


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("prometheus")
    settings = {"TOCSIN_CONFIG": f"{folder}/monitor.yaml", "TOCSIN_DATA": str(folder)}
    (folder / "monitor.yaml").write_text("targets: []\n")
    with (
        receiving() as receiver,
        supervised(folder, {"sleeps": SLEEPS}),
        web(folder, **settings, TOCSIN_API_KEY=KEY) as running,
        nginx(folder, running.url.removeprefix("http://")) as front,
        scraping(folder, front.url.removeprefix("http://")) as found,
    ):
        receiver.answer = lambda number: 500 if number == 1 else 204
        (folder / "monitor.yaml").write_text(CONFIGURATION.format(web=running.url, receiver=receiver.url))
        connect(f"sqlite:///{folder}/tocsin.db").dispose()
        eventually(lambda: found.query('tocsin_deliveries_total{outcome="failed"} == 0'), "what there is before")
        with process([BIN / "tocsin", "monitor"], settings, folder / "monitor.log"):
            restart = requests.post(
                f"{running.url}/api/service/restart",
                json={"name": "sleeps"},
                headers={"Authorization": f"Bearer {KEY}"},
                timeout=30,
            )
            assert 200 == restart.status_code, restart.text
            receiver.wait_for(2, 30)
            eventually(lambda: found.query('tocsin_deliveries_total{outcome="delivered"} == 1'), "the delivery")
            eventually(lambda: found.query('tocsin_restarts_total{outcome="healthy"} == 1'), "the restart")
            eventually(lambda: found.query("instance:tocsin_http_request_duration_seconds:p99_rate5m > 0"), "the last rule")
            yield found


def panels() -> Iterator[tuple[str, str]]:
    """The title of each panel, and each of its queries."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


@installed
@pytest.mark.parametrize("command", ["check rules rules.yml", "check config prometheus.yml", "test rules rules.test.yml"])
def test_promtool_finds_nothing(command: str) -> None:
    done = subprocess.run(["promtool", *command.split()], cwd=DEPLOYED, capture_output=True, text=True, check=False, timeout=60)
    assert 0 == done.returncode, done.stdout + done.stderr
    assert "FAILED" not in done.stdout


def test_the_document_has_every_alert() -> None:
    """docs/metrics.md names each alert with its severity, and no other."""
    rows = re.findall(r"^\| `(Tocsin\w+)` \| (\w+) \|", (ROOT / "docs/metrics.md").read_text(encoding="utf-8"), re.MULTILINE)
    alerts = [rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule]
    assert rows == [(rule["alert"], rule["labels"]["severity"]) for rule in alerts]


def test_every_alert_is_tested_to_fire_and_not_to() -> None:
    """rules.test.yml has for each alert a moment at which it fires, and one at which it does not."""
    tests = yaml.safe_load((DEPLOYED / "rules.test.yml").read_text(encoding="utf-8"))["tests"]
    cases = [case for test in tests for case in test.get("alert_rule_test", ())]
    alerts = {rule["alert"] for group in RULES["groups"] for rule in group["rules"] if "alert" in rule}
    assert alerts == {case["alertname"] for case in cases if case.get("exp_alerts")}
    assert alerts == {case["alertname"] for case in cases if not case.get("exp_alerts")}


@installed
def test_every_query_of_the_dashboard_finds_something(prometheus: Prometheus) -> None:
    """With its variables filled in; an alert, a restart and a failed delivery have happened for it."""
    empty = []
    for title, expression in panels():
        filled = expression.replace("$instance", ".*").replace("$__rate_interval", "1m")
        assert "$" not in filled
        if not prometheus.query(filled) and not any(name in filled for name in ABSENT):
            empty.append(f"{title}: {filled}")
    assert [] == empty


@installed
def test_what_has_happened_is_what_it_shows(prometheus: Prometheus) -> None:
    """Values, not only series: the alerts, the target that is down, the tries, the restart, requests of the scrape itself."""

    def value(expression: str) -> float:
        (found,) = prometheus.query(expression)
        return float(found["value"][1])

    assert 1 == value('tocsin_alerts{state="firing", severity="critical"}')
    assert 1 == value('tocsin_alerts{state="pending", severity="warning"}')
    assert (1, 0) == (value('tocsin_target_up{target="self"}'), value('tocsin_target_up{target="gone"}'))
    assert (1, 1) == tuple(value(f'tocsin_deliveries_total{{outcome="{outcome}"}}') for outcome in ("delivered", "failed"))
    assert value('sum(increase(tocsin_deliveries_total{outcome="failed"}[1m]))') > 0
    assert value('sum(increase(tocsin_restarts_total{outcome="healthy"}[1m]))') > 0
    assert value('instance_route:tocsin_http_requests:rate5m{route="/metrics"}') > 0
    assert 0 < value("instance:tocsin_http_request_duration_seconds:p50_rate5m") < 10
    assert 0 == value("instance:tocsin_http_errors:ratio_rate5m")
    assert value("time() - tocsin_monitor_last_tick_timestamp_seconds") < 30
    assert value("tocsin_monitor_ticks_total") > 3


@installed
def test_every_rule_is_evaluated_and_only_what_is_so_alerts(prometheus: Prometheus) -> None:
    """Each recording rule has a result, no rule an error, and the Tocsin that does not answer is the one that is down."""
    for rule in (rule for group in RULES["groups"] for rule in group["rules"]):
        if "record" in rule:
            assert prometheus.query(rule["record"]), rule["record"]
    groups = requests.get(f"{prometheus.url}/api/v1/rules", timeout=10).json()["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert sum(len(group["rules"]) for group in RULES["groups"]) == len(rules)
    assert [] == [rule for rule in rules if rule["health"] != "ok" or rule.get("lastError")]
    stands = {rule["name"]: {alert["labels"]["instance"] for alert in rule["alerts"]} for rule in rules if "alerts" in rule}
    assert {prometheus.down} == stands.pop("TocsinDown")
    assert not any(stands.values()), stands


@installed
def test_a_series_has_the_labels_that_are_promised(prometheus: Prometheus) -> None:
    """Nothing clashes with a label that Prometheus gives itself, and there are not more series than are good for it."""
    series = prometheus.query('{job="tocsin", __name__=~"tocsin_.*"}')
    assert not any(name.startswith("exported_") for each in series for name in each["metric"])
    assert 50 < len(series) < 600


def test_the_dashboard_explains_itself() -> None:
    """Each panel has a description, a unit and its place; each query the instance, and every metric exists."""
    known = {family.name for family in EVERY} | {f"{EVERY[1].name}_{part}" for part in ("bucket", "sum", "count")}
    recorded = {rule["record"] for group in RULES["groups"] for rule in group["rules"] if "record" in rule}
    identities = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(identities) == len(set(identities))
    for panel in DASHBOARD["panels"]:
        if panel["type"] != "row":
            assert panel["description"].endswith(".")
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert "${datasource}" == panel["datasource"]["uid"]
    for title, expression in panels():
        assert 'instance=~"$instance"' in expression, title
        named = set(re.findall(r"(?<![\w:])(\w+(?::\w+)*)\{", expression)) - {"up"}
        assert named <= known | recorded, title
    texts = (DEPLOYED / "rules.yml").read_text() + json.dumps(DASHBOARD)
    unused = {family.name for family in EVERY if not re.search(rf"\b{family.name}(_bucket|_sum|_count)?\b", texts)}
    assert not unused
