"""The page in Chromium, on the real stack as `make up` starts it: what a person sees and does there."""

import json
import math
import os
import shutil
import signal
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests
from playwright.sync_api import Browser, Page, expect

from service.database import connect
from service.readings import MINUTE, Bucket, Series, put
from tests.browser import CHROMIUM, Tab, browsing, tab
from tests.checkout import copy, make
from tests.receiver import receiving
from tests.stack import children, eventually, free_port, unless
from tests.test_native import KEY, Native

pytestmark = [
    pytest.mark.native,
    pytest.mark.timeout(300),
    unless(bool(CHROMIUM and shutil.which("npm")), "needs Chromium and npm; `make test` installs them"),
]

CONFIGURATION = """
interval: 1s
targets:
  - {{name: self, url: "http://127.0.0.1:{web}/api/health"}}
  - {{name: shop, url: "http://127.0.0.1:{shop}/"}}
rules:
"""
# An alert of its own for each status: one that fires for the third time is flapping, and is not over for ten minutes.
RULE = """  - {{alert: Answers{status}, when: http_status == {status}, for: 1s, keep_firing_for: 0s, severity: critical,
      summary: "{{{{ target }}}} does not answer as it should"}}
"""
STATUSES = range(500, 530)
WITH_KEY = {"Authorization": f"Bearer {KEY}"}
PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}


class Shop(ThreadingHTTPServer):
    """A target that answers with the status that a test wants."""

    status = 200
    daemon_threads = True


class _Answer(BaseHTTPRequestHandler):
    server: Shop

    def do_GET(self) -> None:
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class Alert(NamedTuple):
    fingerprint: str
    name: str


@dataclass
class Stack(Native):
    shop: Shop
    unused: Iterator[int] = field(default_factory=lambda: iter(STATUSES))

    @contextmanager
    def firing(self) -> Iterator[Alert]:
        """While the shop answers with an error: its alert, which has not fired before."""
        self.shop.status = next(self.unused)
        try:
            yield eventually(self._fires, "it fires")
        finally:
            self.shop.status = 200
            eventually(lambda: not self.alerts(), "nothing fires")

    def _fires(self) -> Alert | None:
        found = [each for each in self.alerts() if each["state"] == "firing"]
        return Alert(found[0]["fingerprint"], found[0]["alert"]) if found else None

    def alerts(self) -> list[dict[str, Any]]:
        return list(requests.get(f"{self.url}/api/v1/alerts", timeout=10).json()["alerts"])

    @contextmanager
    def stopped(self, program: str) -> Iterator[None]:
        """While a master and its workers hang."""
        master = self.pid(program)
        every = (master, *children(master))
        for process in every:
            os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in every:
                os.kill(process, signal.SIGCONT)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = copy(tmp_path_factory.mktemp("page"))
    shop = Shop(("127.0.0.1", 0), _Answer)
    threading.Thread(target=shop.serve_forever, daemon=True).start()
    port, web = free_port(), free_port()
    (folder / "page.yaml").write_text(
        CONFIGURATION.format(web=web, shop=shop.server_port) + "".join(RULE.format(status=status) for status in STATUSES)
    )
    with receiving() as receiver:
        env = {
            "DOCKER_HOST": "unix:///nonexistent",  # no engine answers there
            "TOCSIN_HTTP_PORT": str(port),
            "TOCSIN_WEB_ADDRESS": f"127.0.0.1:{web}",
            "TOCSIN_DATA": "data",
            "TOCSIN_DRAIN": "1s",
            "TOCSIN_CONFIG": str(folder / "page.yaml"),
            "TOCSIN_WEBHOOK_URL": receiver.url,
            "TOCSIN_API_KEY": KEY,
            "TOCSIN_INSTANCE": "shop-1",
            **dict.fromkeys(("TOCSIN_CPU_THRESHOLD", "TOCSIN_MEM_THRESHOLD", "TOCSIN_DISK_THRESHOLD"), "100"),
        }
        up = make(folder, "up", env)
        assert 0 == up.returncode, up.stdout
        _remember(folder / "data/tocsin.db", f"http://127.0.0.1:{port}")
        try:
            yield Stack(folder, env, f"http://127.0.0.1:{port}", receiver, up.stdout, shop)
        finally:
            make(folder, "down", env)
            shop.shutdown()
            shop.server_close()


def _remember(database: Path, url: str) -> None:
    """A quarter of an hour of readings, as if the stack had been up for so long."""
    engine = connect(f"sqlite:///{database}")
    now = requests.get(f"{url}/api/health", timeout=10).json()
    before = int(time.time()) // MINUTE * MINUTE - MINUTE
    every = [
        ("self", "cpu_usage", 45, 30),
        ("self", "mem_usage", now["mem_usage"], 2),
        ("self", "disk_usage", now["disk_usage"], 0),
    ]
    every += [("self", "latency_ms", 4, 2), ("shop", "latency_ms", 12, 8)]
    buckets = []
    for target, metric, middle, swing in every:
        for minute in range(1, 16):
            buckets.append(Bucket(Series(target, metric), before - minute * MINUTE))
            buckets[-1].add(middle + swing * math.sin(minute * 0.9))
    with engine.begin() as connection:
        put(connection, buckets)
    engine.dispose()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as found:
        yield found


@pytest.fixture
def at(browser: Browser, stack: Stack) -> Iterator[Tab]:
    """A tab with the page, live."""
    with tab(browser, stack.url) as found:
        show(found.page)
        yield found


def show(page: Page) -> None:
    page.goto("/")
    expect(page.locator("#stream")).to_have_text("live")


def log_in(page: Page, author: str = "ann") -> None:
    page.goto("/login")
    page.get_by_label("Your name").fill(author)
    page.get_by_label("API key").fill(KEY)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_text(author, exact=True)).to_be_visible()


def test_a_healthy_server_at_a_glance(stack: Stack, at: Tab) -> None:
    """The verdict, three readings with their lines, targets, services and the monitor; and it is not loaded again to be new."""
    page = at.page
    expect(page.locator("#overall")).to_have_text("All is well")
    assert "All is well · shop-1" == page.title()
    for name in ("CPU", "Memory", "Disk"):
        gauge = page.locator(".gauge", has=page.get_by_role("heading", name=name))
        assert "threshold is 100" in str(gauge.get_by_role("img").get_attribute("aria-label"))
    for name in ("self", "shop"):
        expect(page.locator("#targets .row", has=page.get_by_role("heading", name=name))).to_contain_text("up")
    for name in ("nginx", "web", "monitor"):
        expect(page.locator(f"#service-{name}")).to_contain_text(f"process {stack.pid(name)}")
    at.shoot("healthy")

    page.evaluate("window.loadedOnce = true")
    tick = page.locator("#tick time").get_attribute("datetime")
    expect(page.locator("#tick time")).not_to_have_attribute("datetime", str(tick))
    line = page.locator("#gauges").inner_html()
    page.wait_for_function("line => document.getElementById('gauges').innerHTML !== line", arg=line)
    assert page.evaluate("window.loadedOnce")


def test_an_alert_comes_and_goes(stack: Stack, at: Tab) -> None:
    """Without a reload: the alert, the verdict, the title, the target, and that the receiver was told."""
    page = at.page
    with stack.firing() as alarm:
        alert = page.locator(f"#alert-{alarm.fingerprint}")
        expect(alert).to_contain_text(f"{alarm.name} on shop")
        expect(alert).to_contain_text("shop does not answer as it should")
        expect(page.locator("#overall")).to_have_text("1 alert fires, critical")
        expect(page.locator("#told .row").first).to_contain_text("delivered")
        expect(page.locator("#told .row").first).to_contain_text(f"{alarm.name} on shop firing")
        expect(page.locator("#targets .row", has=page.get_by_role("heading", name="shop"))).to_contain_text(
            f"it answered {alarm.name[-3:]}"
        )
        assert page.title().startswith("1 alert fires")
        at.shoot("firing")
    expect(page.locator("#alerts")).to_contain_text("Nothing fires")
    expect(page.locator("#told .row").first).to_contain_text("resolved")


def test_by_the_keyboard_alone(stack: Stack, at: Tab) -> None:
    """Logging in and acknowledging takes Tab and Enter; the page is renewed around what has the focus."""
    page = at.page

    def go_to(words: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if words in page.evaluate("document.activeElement.innerText || document.activeElement.id"):
                return
        raise AssertionError(f"{words} has no focus")

    go_to("Log in")
    page.keyboard.press("Enter")
    page.wait_for_url("**/login")
    go_to("author")
    page.keyboard.type("ben")
    page.keyboard.press("Tab")
    page.keyboard.type(KEY)
    page.keyboard.press("Enter")
    expect(page.get_by_text("ben", exact=True)).to_be_visible()
    with stack.firing() as alarm:
        alert = page.locator(f"#alert-{alarm.fingerprint}")
        expect(alert.get_by_role("button", name="Acknowledge")).to_be_visible()
        go_to("Acknowledge")
        ago = alert.locator(".ago").first.inner_text()
        expect(alert.locator(".ago").first).not_to_have_text(ago)
        assert "Acknowledge" in page.evaluate("document.activeElement.innerText")
        page.keyboard.press("Enter")
        expect(alert).to_contain_text("acknowledged by ben")
        expect(page.locator(".said")).to_have_text(f"{alarm.name} on shop is acknowledged.")


def test_a_form_in_use_is_left_alone_while_all_else_goes_on(stack: Stack, at: Tab) -> None:
    """What is typed, open and focused stays through updates of the very alert; then it is sent, and the alert is silenced."""
    page = at.page
    log_in(page)
    expect(page.locator("#stream")).to_have_text("live")
    with stack.firing() as alarm:
        alert = page.locator(f"#alert-{alarm.fingerprint}")
        alert.get_by_text("Silence").first.click()
        why = alert.get_by_label("Why")
        why.fill("moving")
        requests.post(f"{stack.url}/api/v1/alerts/{alarm.fingerprint}/ack", json={"author": "cleo"}, headers=WITH_KEY, timeout=10)
        expect(alert).to_contain_text("acknowledged by cleo")  # around the form it is new
        tick = str(page.locator("#tick time").get_attribute("datetime"))
        expect(page.locator("#tick time")).not_to_have_attribute("datetime", tick)
        expect(why).to_have_value("moving")
        expect(why).to_be_focused()
        alert.get_by_label("For").select_option("4h")
        alert.get_by_role("button", name="Silence it").click()
        expect(alert).to_contain_text("silenced by ann until")
        expect(alert).to_contain_text("moving")
    found = requests.get(f"{stack.url}/api/v1/silences?state=active", timeout=10).json()["silences"]
    assert [[f'alert="{alarm.name}"', 'target="shop"']] == [each["matchers"] for each in found]
    requests.delete(f"{stack.url}/api/v1/silences/{found[0]['id']}", headers=WITH_KEY, timeout=10)


def test_a_form_whose_alert_is_over_stays_until_it_is_left(stack: Stack, at: Tab) -> None:
    """Nothing closes under a person's hands; once it is closed, it is gone."""
    page = at.page
    log_in(page)
    with stack.firing() as alarm:
        alert = page.locator(f"#alert-{alarm.fingerprint}")
        alert.get_by_text("Silence").first.click()
        alert.get_by_label("Why").fill("too late")
    expect(page.locator("#overall")).to_have_text("All is well")
    expect(alert.get_by_label("Why")).to_have_value("too late")
    alert.get_by_text("Silence").first.click()
    page.get_by_role("heading", name="shop-1").click()
    page.evaluate("document.activeElement.blur()")
    expect(alert).to_have_count(0)


def test_a_service_is_restarted(stack: Stack, at: Tab) -> None:
    """The page says so at once, and then shows another process."""
    page = at.page
    log_in(page)
    before = stack.pid("monitor")
    service = page.locator("#service-monitor")
    service.get_by_text("Restart").first.click()
    service.get_by_label("Why").fill("to see")
    service.get_by_role("button", name="Restart it now").click()
    expect(page.locator(".said")).to_have_text("monitor is being restarted.")
    expect(service).not_to_contain_text(f"process {before}", timeout=30_000)
    expect(service).to_contain_text("running", timeout=30_000)
    expect(service).to_contain_text(f"process {stack.pid('monitor')}")
    restarts = requests.get(f"{stack.url}/api/v1/restarts?service=monitor", timeout=10).json()["restarts"]
    assert ("ann", "to see") == (restarts[0]["author"], restarts[0]["comment"])
    eventually(
        lambda: requests.get(f"{stack.url}/api/v1/restarts?service=monitor", timeout=10).json()["restarts"][0]["outcome"],
        "it ends",
        60,
    )


def test_a_silent_server_is_stale_and_a_lost_one_cut_off(stack: Stack, browser: Browser) -> None:
    """Either is said, with since when; and it is live again by itself."""
    with tab(browser, stack.url, unreachable=True) as found:
        page, state = found.page, found.page.locator("#stream")
        show(page)
        with stack.stopped("web"):
            expect(state).to_contain_text("stale since", timeout=20_000)
            found.shoot("stale")
        expect(state).to_have_text("live", timeout=30_000)

        command = [".venv/bin/supervisorctl", "-s", f"unix://{stack.folder}/data/supervisor.sock"]
        subprocess.run([*command, "stop", "nginx"], cwd=stack.folder, check=True, capture_output=True)
        expect(state).to_contain_text("cut off since")
        subprocess.run([*command, "start", "nginx"], cwd=stack.folder, check=True, capture_output=True)
        expect(state).to_have_text("live", timeout=30_000)


def test_pause_and_resume(stack: Stack, at: Tab) -> None:
    """While it is paused nothing changes; then it goes on where it is now."""
    page, state = at.page, at.page.locator("#stream")
    expect(page.locator("#overall")).to_have_text("All is well")
    page.get_by_role("button", name="Pause").click()
    expect(state).to_contain_text("paused since")
    before = page.locator("#gauges").inner_html()
    with stack.firing():
        page.wait_for_timeout(1500)
        assert before == page.locator("#gauges").inner_html()
        expect(page.locator("#overall")).to_have_text("All is well")
        page.get_by_role("button", name="Resume").click()
        expect(state).to_have_text("live")
        expect(page.locator("#overall")).to_have_text("1 alert fires, critical")


def test_a_replaced_worker_is_not_noticed(stack: Stack, at: Tab) -> None:
    """A reload of gunicorn ends the stream; the page finds a new one and goes on."""
    os.kill(stack.pid("web"), signal.SIGHUP)
    with at.page.expect_request("**/api/stream*", timeout=20_000):
        pass
    expect(at.page.locator("#stream")).to_have_text("live")
    tick = str(at.page.locator("#tick time").get_attribute("datetime"))
    expect(at.page.locator("#tick time")).not_to_have_attribute("datetime", tick)


def test_without_javascript_it_is_a_still_page_that_works(stack: Stack, browser: Browser) -> None:
    """It says as of when it is, shows what fires, and its forms do what they say."""
    with stack.firing() as alarm, tab(browser, stack.url, java_script_enabled=False) as found:
        page = found.page
        log_in(page)
        expect(page.locator("#stream")).to_contain_text("still, as of")
        expect(page.get_by_role("button", name="Pause")).to_have_count(0)
        alert = page.locator(f"#alert-{alarm.fingerprint}")
        expect(alert).to_contain_text("s ago")
        alert.get_by_role("button", name="Acknowledge").click()
        expect(alert).to_contain_text("acknowledged by ann")
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_role("link", name="Log in")).to_be_visible()


def test_on_a_phone_nothing_is_wider_than_the_screen(stack: Stack, browser: Browser) -> None:
    """Also with an alert, its open form, and everything that whoever is logged in has."""
    with stack.firing() as alarm, tab(browser, stack.url, **PHONE) as found:
        page = found.page
        log_in(page)
        expect(page.locator("#stream")).to_have_text("live")
        expect(page.locator("#service-web")).to_contain_text("running")
        found.shoot("phone")
        page.locator(f"#alert-{alarm.fingerprint}").get_by_text("Silence").first.click()
        assert 360 == page.evaluate("document.documentElement.scrollWidth")
        page.goto("/login")
        assert 360 == page.evaluate("document.documentElement.scrollWidth")


def test_motion_is_left_out_for_who_wants_none(stack: Stack, browser: Browser) -> None:
    """No transition, no animation."""
    with tab(browser, stack.url, reduced_motion="reduce") as found:
        show(found.page)
        moving = "getComputedStyle(each).transitionDuration !== '0s' || getComputedStyle(each).animationName !== 'none'"
        assert [] == found.page.evaluate(
            f"[...document.querySelectorAll('*')].filter(each => {moving}).map(each => each.tagName)"
        )


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """axe-core from the npm registry; it is not kept."""
    folder = tmp_path_factory.mktemp("axe")
    done = subprocess.run(
        ["npm", "pack", "--silent", "axe-core@4"], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert 0 == done.returncode, done.stderr
    with tarfile.open(folder / done.stdout.strip()) as archive:
        file = archive.extractfile("package/axe.min.js")
        assert file
        return file.read().decode()


def violations(page: Page, axe: str) -> list[str]:
    """What axe-core finds, each with the elements."""
    page.evaluate(axe)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']}).then(result => result.violations)")
    return [f"{each['id']}: {each['help']}: {json.dumps([node['html'][:200] for node in each['nodes']])}" for each in found]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(stack: Stack, browser: Browser, axe: str, scheme: str) -> None:
    """In light and in dark, logged in and out, while something fires and while nothing does."""
    with tab(browser, stack.url, color_scheme=scheme) as found:
        page = found.page
        show(page)
        assert [] == violations(page, axe)
        for path in ("/login", "/api/docs"):
            page.goto(path)
            assert [] == violations(page, axe)
        log_in(page)
        expect(page.locator("#stream")).to_have_text("live")
        assert [] == violations(page, axe)
        with stack.firing() as alarm:
            alert = page.locator(f"#alert-{alarm.fingerprint}")
            expect(alert.get_by_role("button", name="Acknowledge")).to_be_visible()
            alert.get_by_text("Silence").first.click()
            page.locator("#service-web").get_by_text("Restart").first.click()
            assert [] == violations(page, axe)
            dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert ("rgb(15, 18, 23)" == dark) == (scheme == "dark")
            if scheme == "dark":
                found.shoot("dark")
            page.get_by_role("button", name="Log out").click()
            expect(page.locator("#stream")).to_have_text("live")
            expect(alert).to_be_visible()
            assert [] == violations(page, axe)
