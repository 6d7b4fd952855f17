"""The page and its stream: what they say of which state, that nothing in it becomes markup, actions, and the end of streams."""

import json
import re
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient
from pydantic import SecretStr
from sqlalchemy import Engine, event, update
from werkzeug.test import TestResponse

from service import alerts, silences, tables
from service.alerts import Acknowledgement
from service.configuration import Rule, Target
from service.database import reading
from service.measure import Measurement
from service.monitor.probe import Sample
from service.plot import plot
from service.settings import Settings
from service.silences import Draft
from service.supervision import Status
from service.targets import Standing
from service.web import create_app, html, observer
from service.web.overview import Gauge, Line, Overview, Served, Stored, Watched
from tests.stack import Running, children, eventually, web
from tests.ticking import RULES, Ticking, cpu, up

KEY = "correct-horse-battery-staple"
NASTY = '<img src=x onerror="alert(1)">\' &amp; </script>'
SHOP = "targets: [{name: shop, url: 'http://127.0.0.1:9/'}]\nservices: [{name: nginx, supervisord: nginx}]\n"
Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def app(settings: Settings, tmp_path: Path) -> Iterator[Flask]:
    (tmp_path / "monitor.yaml").write_text(SHOP)
    known = {"api_key": SecretStr(KEY), "config": tmp_path / "monitor.yaml", "instance": f"shop-1 {NASTY}"}
    known |= {"cpu_threshold": 100.0, "mem_threshold": 100.0, "disk_threshold": 100.0}  # the tests themselves are busy
    app = create_app(settings.model_copy(update=known))
    app.extensions["sampler"].wait_until_ready(5)
    yield app
    app.extensions["feed"].end()
    app.extensions["sampler"].stop()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def ann(client: FlaskClient) -> FlaskClient:
    """A client that is logged in."""
    client.post("/login", data={"key": KEY, "author": "ann"})
    return client


class Tags(HTMLParser):
    """Every tag of a page, with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.every: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.every.append((tag, dict(attrs)))


def token(client: FlaskClient) -> str:
    found = re.search('name="csrf" value="([^"]+)"', client.get("/").text)
    assert found
    return found[1]


def act(client: FlaskClient, path: str, **fields: str) -> str:
    """Send a form; what the page says then."""
    answer = client.post(path, data={"csrf": token(client), **fields})
    assert (303, "/") == (answer.status_code, answer.headers["Location"])
    said = re.findall(r'<p class="said (\w+)" role="\w+">(.*?)</p>', client.get("/").text)
    return ": ".join(unescape(each) for each in said[0])


def section(text: str, name: str) -> str:
    """The words of one section of the page."""
    found = re.search(rf'<(section|p) id="{name}".*?</\1>', text, re.DOTALL)
    assert found, name
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", found[0])).split())


def first_event(answer: TestResponse) -> dict[str, str]:
    """The sections of a stream's first event."""
    for chunk in answer.response:
        text = chunk.decode() if isinstance(chunk, bytes) else chunk
        if "event: sections" in text:
            answer.close()
            return dict(json.loads(text.split("data: ")[1])["sections"])
    raise AssertionError("no event")


def test_the_page_is_html_that_nobody_keeps_and_that_loads_nothing_from_elsewhere(client: FlaskClient) -> None:
    """Its policy, and that it needs no exception from it: no script and no style stands in it."""
    answer = client.get("/")

    assert (200, "text/html", "no-store") == (answer.status_code, answer.mimetype, answer.headers["Cache-Control"])
    assert [html.POLICY] == answer.headers.getlist("Content-Security-Policy")
    found = Tags()
    found.feed(answer.text)
    names = {name for _, attributes in found.every for name in attributes}
    assert not {name for name in names if name == "style" or name.startswith("on")}
    assert "style" not in {tag for tag, _ in found.every}
    assert [["type", "src"]] == [list(attributes) for tag, attributes in found.every if tag == "script"]
    loads = [
        attributes.get("src") or attributes.get("href") for tag, attributes in found.every if tag in ("script", "link", "img")
    ]
    assert loads
    assert [] == [address for address in loads if not str(address).startswith("/static/")]


def test_what_the_page_needs_is_served_without_nginx_too(client: FlaskClient) -> None:
    """Each address in it is answered, and is another one when the file is another one."""
    found = re.findall(r'(?:href|src)="(/static/[^"]+)"', client.get("/").text)
    assert {"favicon.svg", "style.css", "page.js"} == {re.split(r"[/?]", each)[2] for each in found}
    for address in found:
        with client.get(address) as answer:
            assert 200 == answer.status_code
        assert re.search(r"\?v=[0-9a-f]{12}$", address)


def test_before_the_first_tick_it_says_what_is_not_known(client: FlaskClient) -> None:
    """And shows this server's own readings."""
    text = client.get("/").text

    assert "The monitor has not ticked yet" == section(text, "overall")
    assert "Nothing fires" in section(text, "alerts")
    assert "unknown shop not asked yet" in section(text, "targets")
    assert "Nobody has been told anything yet." in section(text, "told")
    assert "has not ticked yet" in section(text, "monitor")
    assert re.search(r"CPU [\d.]+ % of the (machine|container) 15 minutes, 0 to 100 %, threshold 100 %", section(text, "gauges"))
    assert 3 == text.count('role="img" aria-label=')


def test_it_says_what_fires_and_who_was_told(client: FlaskClient, engine: Engine) -> None:
    """An alert with its severity and since when; its notification; the target; and no actions for who is not logged in."""
    now = time.time()
    monitor = Ticking(engine)
    monitor.tick(now - 32, up("shop", 0), cpu("shop", 90))
    text = client.get("/").text

    assert "1 alert fires, critical" == section(text, "overall")
    assert re.search(
        r"critical TargetDown on shop shop does not answer firing since .* UTC \( 3\d s ago \)", section(text, "alerts")
    )
    assert "pending HighCpu on shop pending since" in section(text, "alerts")
    assert "waiting TargetDown on shop firing to ops" in section(text, "told")
    assert "waiting to be told 2, the oldest since" in section(text, "monitor")
    assert "<form" not in text


def test_a_monitor_that_does_not_tick_is_said_plainly(client: FlaskClient, engine: Engine) -> None:
    """In the head of the page, and where the monitor is."""
    Ticking(engine).tick(time.time() - 120)
    text = client.get("/").text

    assert "The monitor does not tick" == section(text, "overall")
    assert re.search(r"It has not ticked since .* UTC \( 2 min( \d s)? ago \)", section(text, "monitor"))


def test_without_a_database_the_readings_are_there(app: Flask, client: FlaskClient, tmp_path: Path) -> None:
    """What cannot be known is said, in each place; and it is there again when the database is."""
    (tmp_path / "tocsin.db").write_bytes(b"this is no database" * 1000)
    text = client.get("/").text

    assert "The database cannot be used" == section(text, "overall")
    assert "it is not known what fires" in section(text, "alerts")
    assert re.search(r"CPU [\d.]+ %", section(text, "gauges"))
    for name in ("targets", "told", "monitor"):
        assert "database cannot be used" in section(text, name)
    assert "fault: The database cannot be used" in act(log_in(client), "/alerts/0123456789abcdef/acknowledge")


def log_in(client: FlaskClient) -> FlaskClient:
    client.post("/login", data={"key": KEY, "author": "ann"})
    return client


def test_a_configuration_with_a_fault_costs_what_it_names(app: Flask, client: FlaskClient, tmp_path: Path) -> None:
    """Targets and services; the rest is there."""
    (tmp_path / "monitor.yaml").write_text("targets: 5\n")
    text = client.get("/").text

    assert "The configuration has a fault" in section(text, "targets")
    assert "The configuration has a fault" in section(text, "services")
    assert "Nothing fires" in section(text, "alerts")


def test_nothing_that_people_or_targets_write_is_markup(ann: FlaskClient, engine: Engine, tmp_path: Path) -> None:
    """Names, summaries, labels, comments, authors, reasons: on the page and in the stream they are text."""
    now = time.time()
    nowhere = SecretStr("http://127.0.0.1:9/")
    rule = {"alert": f"Mount{NASTY}", "when": "mount_usage > 1", "summary": f'{NASTY} name="csrf" value=""'}
    monitor = Ticking(engine, targets=(Target(name=NASTY, url=nowhere),), rules=(Rule.model_validate(rule),))
    sample = Sample(NASTY, "mount_usage", 50.0, "percent", "host", {"mount": f"/{NASTY}"})
    monitor.tick(now - 20, sample)
    with engine.begin() as connection:
        found = alerts.every(connection)[0]
        said = {"author": NASTY, "comment": NASTY}
        alerts.acknowledge(connection, found.fingerprint, Acknowledgement(**said), now)
        silences.add(
            connection,
            Draft.model_validate({**said, "duration": "1h", "matchers": ["severity=warning"]}, context={"now": now}),
            now,
        )
    monitor.tick(now, sample, Sample(NASTY, "up", 0.0, reason=NASTY))
    (tmp_path / "monitor.yaml").write_text(json.dumps({"targets": [{"name": NASTY, "url": "http://127.0.0.1:9/"}]}))
    ann.post("/login", data={"key": KEY, "author": NASTY})
    page = ann.get("/").text
    stream = first_event(ann.get("/api/stream"))

    for text in (page, "".join(stream.values())):
        assert "<img" not in text
        assert "</script>" not in text.replace('src="/static', "").replace('"></script></head>', "")
        assert 10 <= text.count("&lt;img src=x onerror=&#34;alert(1)&#34;&gt;")
        assert "name=&#34;csrf&#34; value=&#34;&#34;" in text  # and not the token
    assert f"acknowledged by {NASTY}" in section(page, "alerts").replace("  ", " ")


def test_the_stream_sends_the_sections_of_the_page(ann: FlaskClient, engine: Engine) -> None:
    """The same HTML, token included, all of it to who is new; and only what differs to who comes back, to another worker too."""
    Ticking(engine).tick(time.time(), up("shop", 0))
    page = ann.get("/").text
    identity = re.search(r'data-id="([^"]+)"', page)
    assert identity
    answer = ann.get("/api/stream")
    assert ("text/event-stream", "no-store", "no") == (
        answer.mimetype,
        answer.headers["Cache-Control"],
        answer.headers["X-Accel-Buffering"],
    )
    sections = first_event(answer)
    assert ["overall", "tick", "alerts", "gauges", "targets", "services", "told", "monitor"] == list(sections)
    assert (
        sections["alerts"]
        == re.sub(r'(<span class="ago" data-at="\d+">)[^<]*', r"\1", page[page.index('<section id="alerts"') :])[
            : len(sections["alerts"])
        ]
    )
    assert f'name="csrf" value="{token(ann)}"' in sections["alerts"]

    for given in ({"headers": {"Last-Event-ID": identity[1]}}, {"query_string": {"since": identity[1]}}):
        Ticking(engine).tick(time.time(), up("shop", 1))
        time.sleep(1)
        again = first_event(ann.get("/api/stream", **given))
        assert {"overall", "alerts"} <= set(again)
        assert "services" not in again


def test_whoever_is_not_logged_in_gets_no_forms(client: FlaskClient, engine: Engine) -> None:
    """Neither on the page nor in the stream."""
    Ticking(engine).tick(time.time(), up("shop", 0))
    assert "<form" not in "".join(first_event(client.get("/api/stream")).values())


def test_streams_are_bounded(app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """One too many is told to come again, by the same kind of answer as every error; who comes when it ends comes again, too."""
    monkeypatch.setattr(app.extensions["feed"], "_most", 1)
    with closing(client.get("/api/stream")):
        refused = client.get("/api/stream")
        assert (503, "application/problem+json", "5") == (refused.status_code, refused.mimetype, refused.headers["Retry-After"])
    with closing(client.get("/api/stream")) as answer:
        assert 200 == answer.status_code
    app.extensions["feed"].end()
    assert "retry: 1000\n\n" == client.get("/api/stream").text


def test_an_alert_is_acknowledged_by_who_is_logged_in(ann: FlaskClient, engine: Engine, lines: Lines) -> None:
    """As over the API, in the database and in the log; what cannot be done is said on the page."""
    Ticking(engine).tick(time.time(), up("shop", 0))
    with reading(engine) as connection:
        identity = alerts.every(connection)[0].fingerprint

    assert "done: TargetDown on shop is acknowledged." == act(ann, f"/alerts/{identity}/acknowledge")
    assert "acknowledged by ann" in section(ann.get("/").text, "alerts")
    assert [("ann", "TargetDown", identity)] == [
        tuple(line[f"labels.{name}"] for name in ("author", "alert", "fingerprint"))
        for line in lines()
        if line.get("event.action") == "alert-acknowledged"
    ]
    assert "fault: there is no alert 'none'" == act(ann, "/alerts/none/acknowledge")
    assert act(ann, f"/alerts/{'x' * 3000}/acknowledge").endswith("…")


def test_a_silence_from_the_page_is_about_that_alert_alone(ann: FlaskClient, engine: Engine, lines: Lines) -> None:
    """Its rule, its target, and the disk where it is about one."""
    mount = {"alert": 'Full "disk"', "when": "mount_usage > 1"}
    nowhere = SecretStr("http://127.0.0.1:9/")
    monitor = Ticking(engine, targets=(Target(name="shop", url=nowhere),), rules=(Rule.model_validate(mount),))
    monitor.tick(
        time.time(), *(Sample("shop", "mount_usage", 50.0, "percent", "host", {"mount": each}) for each in ("/", "/srv"))
    )
    with reading(engine) as connection:
        found = next(each for each in alerts.every(connection) if each.labels["mount"] == "/srv")
    said = act(ann, "/silences", alert=found.fingerprint, duration="1h", comment="moving")
    with reading(engine) as connection:
        made = silences.every(connection)[0]

    assert re.match(r'done: Full "disk" on shop is silenced until 20', said)
    assert ['alert="Full \\"disk\\""', 'target="shop"', 'mount="/srv"'] == [str(each) for each in made.matchers]
    assert ("ann", "moving", 3600) == (made.author, made.comment, round(made.ends - made.starts))
    assert ["silence-created"] == [line["event.action"] for line in lines() if line.get("labels.silence") == made.id]
    for wrong, fault in (("soon", "duration"), ("", "duration"), ("0s", "duration")):
        assert act(ann, "/silences", alert=found.fingerprint, duration=wrong).startswith(f"fault: {fault}")
    assert "fault: there is no alert ''" == act(ann, "/silences")


def test_only_a_service_that_is_configured_is_restarted(ann: FlaskClient) -> None:
    """Any other name is refused, with the names that there are."""
    assert "fault: there is no service 'ngin'; did you mean 'nginx'?" == act(ann, "/services/ngin/restart")


def overview(**changed: Any) -> Overview:
    known = {"at": 100.0, "instance": "x", "fault": None, "gauges": (), "stored": stored()}
    return Overview(**{**known, "watched": (), "served": (), "unread": "", **changed})


def alert(state: str, severity: str = "warning") -> Any:
    content = {"severity": severity} if state == "firing" else None
    return alerts.Alert("f", "A", "t", {}, state, 0.0, None, content, (), (), None, False, (), None, None, None)


def stored(*found: Any, ticked: float | None = 95.0, interval: float = 10.0, seconds: float = 0.1) -> Stored:
    states = {name: sum(each.state == name for each in found) for name in ("firing", "pending")}
    critical = sum((each.content or {}).get("severity") == "critical" for each in found)
    return Stored(found, critical, alerts.Figures(0.0, interval, 5, 0, ticked, seconds, states, {}, 0, 0, None), (), {})


def gauge(value: float, *, lasting: bool = True) -> Gauge:
    found, line = Measurement("cpu_usage", value, "host"), Line(plot([], 0, 1, gap=1), "")
    return Gauge("cpu_usage", "CPU", found, 80.0, lasting, line, "")


def watched(*up: bool) -> list[Watched]:
    return [Watched(f"t{number}", Standing(each, 0.0, "", {}), None) for number, each in enumerate(up)]


def served(*states: Any) -> list[Served]:
    return [Served(f"s{number}", "systemd", state and Status(state), "", False) for number, state in enumerate(states)]


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, ("good", "All is well")),
        ({"stored": None}, ("bad", "The database cannot be used")),
        ({"stored": stored(alert("firing"))}, ("warn", "1 alert fires")),
        ({"stored": stored(alert("firing"), alert("firing"))}, ("warn", "2 alerts fire")),
        ({"stored": stored(alert("firing", "critical"))}, ("bad", "1 alert fires, critical")),
        ({"stored": stored(alert("firing", "critical"), alert("firing"))}, ("bad", "2 alerts fire, 1 critical")),
        ({"stored": stored(alert("pending"))}, ("good", "Nothing fires; 1 pending")),
        ({"stored": stored(ticked=None)}, ("unknown", "The monitor has not ticked yet")),
        ({"stored": stored(ticked=56.0)}, ("good", "All is well")),
        ({"stored": stored(alert("firing"), ticked=54.0)}, ("bad", "The monitor does not tick")),
        ({"stored": stored(ticked=-10.0, seconds=40.0)}, ("good", "All is well")),
        ({"fault": "draining"}, ("warn", "This server is draining")),
        ({"gauges": (gauge(80.0),)}, ("good", "All is well")),
        ({"gauges": (gauge(80.1),)}, ("warn", "CPU over the threshold")),
        ({"gauges": (gauge(80.1, lasting=False),)}, ("good", "All is well")),
        ({"watched": watched(True, False)}, ("warn", "t1 is down")),
        ({"watched": watched(False, False)}, ("warn", "2 targets are down")),
        ({"watched": watched(False), "stored": stored(alert("firing", "critical"))}, ("bad", "1 alert fires, critical")),
        ({"served": served("running", None, "stopped", "failed")}, ("warn", "s3 is not running")),
        ({"served": served("failed", "failed")}, ("warn", "2 services are not running")),
        ({"served": None}, ("good", "All is well")),
        ({"unread": "The configuration has a fault."}, ("unknown", "The configuration has a fault")),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else "",
)
def test_the_verdict(changed: dict[str, Any], verdict: tuple[str, str]) -> None:
    """The worst comes first, in words."""
    assert verdict == overview(**changed).verdict


def test_what_is_asked_each_second_reads_no_whole_table(client: FlaskClient, engine: Engine) -> None:
    """Each question that the page has is answered from an index, however much is kept: its worker does nothing else meanwhile."""
    Ticking(engine).tick(time.time(), up("shop", 0))
    asked: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, ___: Any, ____: bool) -> None:
        asked.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", note)
    client.get("/")
    event.remove(Engine, "before_cursor_execute", note)
    with closing(sqlite3.connect(str(engine.url.database))) as database:
        plans = [
            row[3]
            for statement, values in asked
            if statement.startswith("SELECT")
            for row in database.execute(f"EXPLAIN QUERY PLAN {statement}", values)
        ]

    assert 6 < len(plans)
    small = ("alerts", "backlog", "deliveries", "monitor", "silences", "alembic_version", "sqlite_master", "pragma_table_xinfo")
    assert [] == [plan for plan in plans if re.match(r"SCAN \w+$", plan) and plan.split()[1] not in small]


def test_of_more_alerts_than_are_shown_all_are_counted(client: FlaskClient, engine: Engine) -> None:
    """The critical ones come first, however old they are, and it says where the others are."""
    nowhere = SecretStr("http://127.0.0.1:9/")
    targets = tuple(Target(name=f"t{number}", url=nowhere) for number in range(130))
    calm = Rule.model_validate({"alert": "Calm", "when": "cpu_usage > 80", "for": "0s"})
    monitor = Ticking(engine, targets=targets, rules=(calm, RULES[1]))
    now = time.time()
    monitor.tick(now - 20, up("t0", 0))
    monitor.tick(now, up("t0", 0), *(cpu(each.name, 90) for each in targets))
    text = client.get("/").text

    assert "131 alerts fire, 1 critical" == section(text, "overall")
    assert section(text, "alerts").startswith("Alerts critical TargetDown on t0")
    assert observer.MOST_ALERTS == text.count('<li id="alert-')
    assert "These are 100 of 131." in section(text, "alerts")
    assert 131 == len(client.get("/api/v1/alerts?limit=500").get_json()["alerts"])


def test_what_has_not_changed_is_not_sent_each_second(app: Flask, client: FlaskClient, engine: Engine) -> None:
    """A line does not move because time goes by: it ends at a multiple of 15 seconds."""
    Ticking(engine).tick(time.time(), up("shop", 1))
    stands = {"shop": {"up": True, "since": time.time(), "why": "", "values": {"latency_ms": 12.0}}}
    with engine.begin() as connection:
        connection.execute(update(tables.monitor).values(targets=stands))
    app.extensions["sampler"].stop()
    feed = app.extensions["feed"]
    if (into := time.time() % 15) > 10:
        time.sleep(15 - into)  # not across one
    client.get("/")
    feed.latest(0)
    first = feed.latest(0)[False]
    time.sleep(1.2)
    second = feed.latest(0)[False]
    assert "answers in 12 ms" in section(first.sections["targets"], "targets")
    assert 1 < second.at - first.at
    assert {} == second.since(first.id)


ODD = {  # statement, and the path of what then cannot be read
    "a time that is none": ("UPDATE alerts SET since='x'", "/api/v1/alerts"),
    "a time beyond all years": ("UPDATE alerts SET since=1e18", "/api/v1/alerts"),
    "content of another kind": ("UPDATE alerts SET content='\"x\"'", "/api/v1/alerts"),
    "content that is no JSON": ("UPDATE alerts SET content='{'", "/api/v1/alerts"),
    "labels of another kind": ("UPDATE alerts SET labels='[1]'", "/api/v1/alerts"),
    "a healing of nothing": ('UPDATE alerts SET healing=\'{"service":"x"}\'', "/api/v1/alerts"),
    "no text": ("UPDATE alerts SET target=CAST(x'ff' AS TEXT)", "/api/v1/alerts"),
    "a tick that is none": ("UPDATE monitor SET ticked='x'", "/api/v1/monitor"),
    "a tick beyond all years": ("UPDATE monitor SET ticked=1e18", "/api/v1/monitor"),
    "a target of another kind": ('UPDATE monitor SET targets=\'{"shop":{"up":1}}\'', None),
    "a target with nothing": ('UPDATE monitor SET targets=\'{"shop":{"up":true,"since":1,"why":"","values":null}}\'', None),
    "a target since none": ('UPDATE monitor SET targets=\'{"shop":{"up":true,"since":"x","why":"","values":{}}}\'', None),
    "news of another kind": ("UPDATE notifications SET firing='[]'", None),
}


@pytest.mark.parametrize("about", ODD)
def test_what_nobody_put_there_breaks_nothing(client: FlaskClient, engine: Engine, lines: Lines, about: str) -> None:
    """The page is there, without what is stored if need be; the API says that the database cannot be used, and why is logged."""
    Ticking(engine).tick(time.time(), up("shop", 0))
    statement, path = ODD[about]
    with closing(sqlite3.connect(str(engine.url.database), isolation_level=None)) as database:
        database.execute(statement)
    answer = client.get("/")
    assert 200 == answer.status_code
    assert re.search(r"CPU [\d.]+ %", section(answer.text, "gauges"))
    known = {each: client.get(each).status_code for each in ("/api/v1/alerts", "/api/v1/monitor", "/api/v1/notifications")}
    assert {200, 503} >= set(known.values())
    if path is not None:
        assert 503 == known[path]
        assert "cannot use the database" in {line["message"] for line in lines()}
    assert 200 == client.get("/").status_code


def test_a_supervisor_that_hangs_keeps_nobody_waiting_for_long(app: Flask, tmp_path: Path) -> None:
    """However many members ask for the page at once, they do not wait for each other."""
    with closing(socket.socket(socket.AF_UNIX)) as silent:
        silent.bind(str(tmp_path / "d.sock"))
        silent.listen(50)
        service = f"services: [{{name: x, docker: c, socket: '{tmp_path}/d.sock'}}]\n"
        (tmp_path / "monitor.yaml").write_text(service)
        members = [log_in(app.test_client()) for _ in range(8)]
        began = time.monotonic()
        threads = [threading.Thread(target=each.get, args=("/",)) for each in members]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert time.monotonic() - began < 5


class Watching:
    """Somebody who has the stream open; `over` is when it ended."""

    def __init__(self, running: Running) -> None:
        self.began = threading.Event()
        self.over = 0.0
        self._thread = threading.Thread(target=self._read, args=(running.url,))
        self._thread.start()
        assert self.began.wait(10)

    def _read(self, url: str) -> None:
        with requests.get(f"{url}/api/stream", stream=True, timeout=60) as answer:
            for line in answer.iter_lines():
                if line.startswith(b"data: "):
                    self.began.set()
        self.over = time.monotonic()

    def wait(self) -> float:
        self._thread.join(40)
        return self.over


@pytest.mark.parametrize("drain", ["0s", "3s"])
def test_a_stop_waits_for_no_stream(tmp_path: Path, drain: str) -> None:
    """With streams open gunicorn ends within its drain and a few seconds, and with status 0."""
    with web(tmp_path, TOCSIN_DRAIN=drain) as running:
        watching = [Watching(running) for _ in range(4)]
        began = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        assert 0 == running.process.wait(20)
        assert all(each.wait() - began < 4 for each in watching)


def test_a_reload_waits_for_no_stream(tmp_path: Path) -> None:
    """The old workers go at once, and who watched finds a new one."""
    with web(tmp_path) as running:
        before = set(children(running.process.pid))
        watching = [Watching(running) for _ in range(4)]
        running.process.send_signal(signal.SIGHUP)
        began = time.monotonic()
        eventually(lambda: not before & set(children(running.process.pid)), "the old workers are gone", 15)
        assert all(each.wait() - began < 6 for each in watching)
        again = Watching(running)
        running.process.send_signal(signal.SIGTERM)
        again.wait()


def test_a_worker_at_its_limit_waits_for_no_stream(tmp_path: Path) -> None:
    """One that has answered enough ends its streams and is replaced."""
    with web(tmp_path, WEB_CONCURRENCY="1", GUNICORN_CMD_ARGS="--max-requests 20 --max-requests-jitter 0") as running:
        before = set(children(running.process.pid))
        watching = Watching(running)
        for _ in range(20):
            running.status("/livez")
        began = time.monotonic()
        eventually(lambda: not before & set(children(running.process.pid)), "it is replaced", 15)
        assert watching.wait() - began < 6
