"""GET /metrics: what it tells is so, by Prometheus' rules, of bounded size, whatever the database does."""

import re
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from alembic import command
from alembic.config import Config
from flask import Blueprint, Flask
from flask.testing import FlaskClient
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine, insert, select, update

from service import database, history, restarts, tables
from service.configuration import Keep
from service.database import MIGRATIONS, connect, open_on
from service.measure import STALE
from service.restarts import Restart
from service.settings import Settings
from service.tables import deliveries, restarted
from service.web import create_app
from service.web.families import EVERY, MOST
from tests.populated import populated
from tests.stack import ROOT, nginx, unless, web
from tests.ticking import Ticking, cpu, nightly, up

DOCUMENT = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
SOMETIMES = {"tocsin_swap_usage_ratio", *(f"tocsin_{name}_pressure_ratio" for name in ("cpu", "memory", "io"))}
SOMETIMES |= {"tocsin_cpu_throttled_ratio", "tocsin_oom_kills"}  # where there are limits


@pytest.fixture
def app(settings: Settings) -> Iterator[Flask]:
    app = create_app(settings)
    yield app
    app.extensions["sampler"].stop()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def samples(text: str) -> dict[str, float]:
    """Each sample by its name and labels, as `name{a="b"}`."""
    found = {}
    for family in text_string_to_metric_families(text):
        for name, labels, value, *_ in family.samples:
            shown = ",".join(f'{label}="{each}"' for label, each in sorted(labels.items()))
            found[f"{name}{{{shown}}}" if shown else name] = value
    return found


def scraped(client: FlaskClient) -> dict[str, float]:
    return samples(client.get("/metrics").text)


@unless(shutil.which("promtool") is not None, "promtool is not installed")
def test_the_document_names_what_a_scrape_has_and_promtool_finds_nothing(tmp_path: Path) -> None:
    """docs/metrics.md against gunicorn with two workers behind nginx: names, types, labels and meanings, all and no others."""
    stands = {"shop": {"up": True, "since": 1.0, "why": "", "values": {"latency_ms": 12.0}}}
    with populated(tmp_path) as running, nginx(tmp_path, running.url.removeprefix("http://")) as front:
        with running.engine.begin() as connection:
            connection.execute(update(tables.monitor).values(targets=stands))
        assert requests.get(f"{front.url}/livez", timeout=10).ok
        answer = requests.get(f"{front.url}/metrics", timeout=10)
    rows = re.findall(r"^\| `(tocsin_\w+)` \| (\w+) \| (.*?) ?\| (.*) \|$", DOCUMENT, re.MULTILINE)
    said = {name: (kind, set(re.findall(r"`(\w+)`", labels)), text) for name, kind, labels, text in rows}
    assert said == {family.name: (family.kind, set(family.labels), family.text) for family in EVERY}
    found = {}
    for family in text_string_to_metric_families(answer.text):
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[family.name + "_total" * (family.type == "counter")] = (family.type, labels, family.documentation)
        assert family.samples or family.name in SOMETIMES, family.name
    for name, about in said.items():
        if name not in SOMETIMES:
            assert about == found.pop(name)
    assert set(found) <= SOMETIMES
    lint = ["promtool", "check", "metrics"]
    done = subprocess.run(lint, input=answer.text, capture_output=True, text=True, check=False, timeout=60)
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)


def test_requests_are_counted_by_what_they_are(client: FlaskClient, app: Flask) -> None:
    """By route, method and status; what no client can multiply. /metrics itself, errors of every kind, HEAD, OPTIONS too."""

    @app.get("/fault/<name>")
    def fault(name: str) -> str:
        raise ValueError(name)

    own = Blueprint("shop", __name__)
    own.add_url_rule("/shop/<int:number>", view_func=lambda number: (str(number), 201))
    app.register_blueprint(own)
    asked = [
        ("GET", "/livez", "/livez", 200),
        ("HEAD", "/livez", "/livez", 200),
        ("OPTIONS", "/livez", "/livez", 200),
        ("POST", "/livez", "none", 405),
        ("BREW", "/livez", "none", 405),
        ("GET", "/fault/a", "/fault/<name>", 500),
        ("GET", "/fault/b", "/fault/<name>", 500),
        ("GET", "/shop/7", "/shop/<int:number>", 201),
        ("GET", "/shop/x", "none", 404),
        ("GET", "/made/up", "none", 404),
        ("HEAD", "/metrics", "/metrics", 200),
        ("POST", "/api/v1/silences", "/api/v1/silences", 403),
    ]
    expected: dict[str, float] = {}
    for method, path, route, status in asked:
        assert status == client.open(path, method=method).status_code
        shown = "other" if method == "BREW" else method
        key = f'tocsin_http_requests_total{{method="{shown}",route="{route}",status="{status}"}}'
        expected[key] = expected.get(key, 0) + 1
    found = scraped(client)
    assert expected == {key: value for key, value in found.items() if key.startswith("tocsin_http_requests_total")}
    count = 'tocsin_http_request_duration_seconds_count{method="GET",route="/fault/<name>"}'
    assert 2 == found[count]
    assert 0 < found[count.replace("_count", "_sum")] < 20


def test_what_is_too_large_is_counted_once(client: FlaskClient) -> None:
    """A request that is refused before its view is asked."""
    assert 413 == client.post("/api/v1/silences", data=b"x" * 70_000).status_code
    assert 1 == scraped(client)['tocsin_http_requests_total{method="POST",route="/api/v1/silences",status="413"}']


def test_made_up_paths_and_methods_make_no_series(client: FlaskClient) -> None:
    def ask(number: int) -> int:
        for each in range(20):
            client.open(f"/p{number}{each}", method=f"M{number}{each}")
            client.get(f"/api/v1/alerts/{number}{each}?q={number}{each}")
        return len([key for key in scraped(client) if key.startswith("tocsin_http")])

    client.get("/metrics")
    assert ask(1) == ask(2)


def test_each_application_counts_for_itself(settings: Settings) -> None:
    """Without gunicorn, create_app may be called many times in one process."""
    apps = [create_app(settings) for _ in range(2)]
    apps[0].test_client().get("/livez")
    counts = ['route="/livez"' in app.test_client().get("/metrics").text for app in apps]
    for app in apps:
        app.extensions["sampler"].stop()
    assert [True, False] == counts


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        (None, "text/plain; version=0.0.4; charset=utf-8"),
        ("text/html, */*", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", "application/openmetrics-text; version=1.0.0"),
        ("application/openmetrics-text;version=none", "application/openmetrics-text; version=1.0.0"),
    ],
)
def test_the_format_is_what_was_asked_for(client: FlaskClient, engine: Engine, accept: str | None, media: str) -> None:
    """Both formats say the same, and nobody on the way keeps it."""
    client.get("/livez")
    answer = client.get("/metrics", headers={"Accept": accept} if accept else {})
    assert answer.headers["Content-Type"].startswith(media)
    assert "no-store" == answer.headers["Cache-Control"]
    parsed = list((openmetrics if "openmetrics" in media else text_string_to_metric_families)(answer.text))
    assert {"tocsin_http_requests", "tocsin_alerts", "tocsin_load1"} <= {family.name for family in parsed}


def test_readings_are_shares_and_thresholds_stand_beside_them(client: FlaskClient, app: Flask) -> None:
    """Percent are 0 to 1; a stale reading is not told."""
    sampler = app.extensions["sampler"]
    sampler.stop()
    sampler.sample()
    found, values = scraped(client), sampler.reading.values
    assert (0.8, 0.8, 0.9) == tuple(found[f"tocsin_{name}_threshold_ratio"] for name in ("cpu", "memory", "disk"))
    assert pytest.approx(values["disk_usage"].value / 100) == found["tocsin_disk_usage_ratio"]
    memory = values["mem_usage"]
    assert pytest.approx(memory.value / 100) == found[f'tocsin_memory_usage_ratio{{scope="{memory.scope}"}}']
    assert values["load1"].value == found["tocsin_load1"]
    mounts = {key: each.value / 100 for key, each in values.items() if each.mount}
    assert pytest.approx(sorted(mounts.values())) == sorted(v for k, v in found.items() if k.startswith("tocsin_mount_"))
    assert pytest.approx(sampler.reading.at) == found["tocsin_reading_timestamp_seconds"]
    sampler._taken -= STALE + 1
    assert [] == [key for key in scraped(client) if re.match(r"tocsin_(load|disk_usage|reading)", key)]


def test_what_the_monitor_has_left_is_told(settings: Settings, engine: Engine, tmp_path: Path) -> None:
    """Ticks, targets, alerts by state and severity, the quiet ones, deliveries, what waits, restarts; zeros where nothing is."""
    (tmp_path / "monitor.yaml").write_text(
        "targets: []\nrules: [{alert: HighCpu, when: cpu_usage > 80, severity: info}]\n"
        "receivers: [{name: spare, webhook: 'http://127.0.0.1:9/SECRET'}]\nservices: [{name: nginx, supervisord: nginx}]\n"
    )
    at = time.time() - 100
    monitor = Ticking(engine, maintenance=(nightly().model_copy(update={"start": 0, "end": 86400}),))
    monitor.tick(at - 10, up("shop", 1), up("db", 1), cpu("shop", 50))
    monitor.tick(at, up("shop", 0), up("db", 0), cpu("shop", 90), cpu("web", 90))
    with engine.begin() as connection:
        connection.execute(insert(deliveries).values(receiver="ops", outcome="failed", count=3))
        for number, outcome in enumerate(("healthy", "healthy", "unhealthy")):
            done = Restart(f"r{number}", "web", "api", "ann", "", at, ended=at + 1, outcome=outcome)  # type: ignore[arg-type]
            restarts.note(connection, replace(done, ended=None, outcome=None))
            restarts.note(connection, done)
            restarts.note(connection, done)
    app = create_app(settings.model_copy(update={"config": tmp_path / "monitor.yaml"}))
    app.extensions["sampler"].stop()
    text = app.test_client().get("/metrics").text
    found = samples(text)
    expected = {
        "tocsin_database_up": 1,
        "tocsin_monitor_start_time_seconds": at - 10,
        "tocsin_monitor_interval_seconds": 10,
        "tocsin_monitor_ticks_total": 2,
        "tocsin_monitor_late_ticks_total": 0,
        "tocsin_monitor_last_tick_timestamp_seconds": at,
        "tocsin_monitor_last_tick_duration_seconds": 0.25,
        **{f'tocsin_alerts{{severity="{name}",state="firing"}}': count for name, count in (("critical", 2), ("info", 0))},
        'tocsin_alerts{severity="info",state="pending"}': 2,  # as the rule of their name has it
        'tocsin_alerts{severity="warning",state="pending"}': 0,
        "tocsin_alerts_silenced": 1,
        "tocsin_alerts_held": 0,
        "tocsin_alerts_acknowledged": 0,
        'tocsin_deliveries_total{outcome="failed",receiver="ops"}': 3,
        'tocsin_deliveries_total{outcome="delivered",receiver="ops"}': 0,
        'tocsin_deliveries_total{outcome="dead",receiver="spare"}': 0,
        'tocsin_notifications{receiver="ops",state="waiting"}': 1,
        'tocsin_notifications{receiver="chat",state="waiting"}': 1,
        'tocsin_notifications{receiver="spare",state="waiting"}': 0,
        'tocsin_notifications{receiver="ops",state="dead"}': 0,
        'tocsin_restarts_total{outcome="healthy",service="web"}': 2,
        'tocsin_restarts_total{outcome="unhealthy",service="web"}': 1,
        'tocsin_restarts_total{outcome="healthy",service="nginx"}': 0,
    }
    assert expected == {name: pytest.approx(found.get(name)) for name in expected}
    assert 90 < found["tocsin_notifications_oldest_undelivered_seconds"] < 200
    assert "SECRET" not in text


def test_a_count_of_restarts_does_not_go_back(client: FlaskClient, engine: Engine) -> None:
    """History is deleted, and with it the restarts of long ago; how many there were is kept."""
    old = Restart("r1", "web", "api", "ann", "", 1.0, ended=2.0, outcome="unreachable")
    with engine.begin() as connection:
        restarts.note(connection, old)
        restarts.note(connection, replace(old, id="r2", ended=None, outcome=None))  # nobody knows how it ended
    key = 'tocsin_restarts_total{outcome="unreachable",service="web"}'
    assert 1 == scraped(client)[key]
    assert 2 == history.prune(engine, Keep(), time.time(), pause=0)["restarts"]
    assert 1 == scraped(client)[key]


def test_what_the_database_remembers_makes_no_series_without_end(client: FlaskClient, engine: Engine) -> None:
    """Receivers that once were: there are only so many of a label."""
    with engine.begin() as connection:
        connection.execute(insert(deliveries), [{"receiver": f"r{n}", "outcome": "dead", "count": 1} for n in range(MOST + 100)])
    assert 3 * MOST == sum(key.startswith("tocsin_deliveries_total") for key in scraped(client))


def test_a_migration_counts_the_restarts_that_there_were(tmp_path: Path) -> None:
    """Tables of the version before: what has ended is counted, what has not is not."""
    engine = open_on(f"sqlite:///{tmp_path}/tocsin.db")
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0004")
        for number, outcome in enumerate(("healthy", "healthy", "unhealthy", None)):
            values = vars(Restart(f"r{number}", "web", "api", "ann", "", 1.0, ended=2.0, outcome=outcome))  # type: ignore[arg-type]
            connection.execute(insert(tables.restarts).values(values))
    database.prepare(engine)
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.execute(select(restarted).order_by(restarted.c.outcome))]
    engine.dispose()

    assert [("web", "healthy", 2), ("web", "unhealthy", 1)] == found


@pytest.mark.parametrize("what", ["locked", "missing", "no database", "without tables", "odd"])
def test_without_the_database_the_rest_is_told(settings: Settings, tmp_path: Path, what: str, lines: Any) -> None:
    """It is said, once in the log, and does not keep the scrape; when it can be read again, all is there."""
    file = tmp_path / "tocsin.db"
    connect(settings.database).dispose()
    app = create_app(settings)
    app.extensions["sampler"].stop()
    client = app.test_client()
    assert 1 == scraped(client)["tocsin_database_up"]
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        if what == "locked":
            other.execute("PRAGMA locking_mode=EXCLUSIVE")
            other.execute("BEGIN IMMEDIATE")
        elif what == "odd":
            other.execute("INSERT INTO alerts (fingerprint, alert, target, labels, state, since, content) "
                          "VALUES ('a', 'b', 'c', '{}', 'firing', 1, '{')")  # fmt: skip
        else:
            file.rename(tmp_path / "kept")
            if what == "no database":
                file.write_bytes(b"this is no database, but long enough to look like one" * 100)
            elif what == "missing":
                tmp_path.chmod(0o500)
        began = time.monotonic()
        found = [scraped(client) for _ in range(3)][-1]
        assert time.monotonic() - began < 10
        tmp_path.chmod(0o700)
    assert 0 == found["tocsin_database_up"]
    assert "tocsin_load1" in found
    assert 'tocsin_http_requests_total{method="GET",route="/metrics",status="200"}' in found
    assert [] == [key for key in found if re.match("tocsin_(monitor|alerts|deliver|notif|restart|target)", key)]
    assert 1 == sum("cannot read the database" in line["message"] for line in lines())


def test_a_configuration_with_a_fault_changes_nothing(settings: Settings, engine: Engine, tmp_path: Path) -> None:
    """What the database holds is told all the same."""
    Ticking(engine).tick(time.time(), up("shop", 0))
    (tmp_path / "monitor.yaml").write_text("rules: nonsense\n")
    app = create_app(settings.model_copy(update={"config": tmp_path / "monitor.yaml"}))
    app.extensions["sampler"].stop()
    found = scraped(app.test_client())
    assert 1 == found['tocsin_alerts{severity="critical",state="firing"}']
    assert 1 == found['tocsin_notifications{receiver="ops",state="waiting"}']


def test_nginx_can_keep_it_to_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The location of docs/metrics.md lets in the address that it names, refuses others, and nothing else is refused."""
    import tests.stack

    location = re.findall(r"```nginx\n(.*?)```", DOCUMENT, re.DOTALL)[0]
    found = []
    with web(tmp_path, WEB_CONCURRENCY="1") as running:
        for allowed in ("192.0.2.10", "127.0.0.1"):
            root = tmp_path / allowed
            shutil.copytree(ROOT / "deploy/nginx", root / "deploy/nginx")
            shutil.copytree(ROOT / "service/web/static", root / "service/web/static")
            with (root / "deploy/nginx/server.conf").open("a") as file:
                file.write(location.replace("192.0.2.10", allowed))
            monkeypatch.setattr(tests.stack, "ROOT", root)
            with nginx(root, running.url.removeprefix("http://")) as front:
                found.append([front.status(path) for path in ("/metrics", "/livez", "/api/v1/monitor")])
        monkeypatch.undo()
    assert [[403, 200, 200], [200, 200, 200]] == found
