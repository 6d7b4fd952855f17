"""monitor.yaml: what it gives, what it refuses and with which words, and what fills its gaps."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given
from hypothesis import settings as examine
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from service.conditions import PROBED, Condition
from service.configuration import PLACEHOLDERS, Configuration, Rule, Target, fill_summary
from service.loading import default_rules, default_targets, load, schema
from service.measure import METRICS
from service.receiver import Receiver
from service.settings import CHECKOUT, Settings
from service.values import ConfigurationError

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
URL = "https://hooks.example/services/T000/B000/XXXX"
NO_CONDITION = "is not \"<metric> <op> <number>\", such as 'cpu_usage > 80', nor 'absent(<metric>)'"
NO_MATCHER = 'is not a matcher; write <label><op><value> with =, !=, =~ or !~, such as target="db"'
CHAT = "https://hooks.slack.com/services/T0AAAAAAA/B0AAAAAAA/aaaaaaaaaaaaaaaaaaaaaaaa"
NO_DURATION = "is not a duration; write a number with ms, s, m, h or d, such as 10s or 1h30m"
NO_ADDRESS = "is not an address; write http://HOST/… or https://HOST/…"

WHOLE = """
interval: 30s
targets:
  - {name: self, url: "http://127.0.0.1:8000/api/health"}
  - {name: shop, url: "https://shop.example/healthz", timeout: 500ms, expect: [200, 204], readings: false}
rules:
  - {alert: Cpu, when: cpu_usage > 80, until: cpu_usage < 70, for: 1m, severity: info, summary: "{{ value }}", targets: [self]}
  - {alert: Down, when: up == 0}
receivers:
  - {name: ops, webhook: "https://hooks.example/ops"}
  - {name: log, webhook: "http://127.0.0.1:9000", secret: whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw, timeout: 1s}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("SHOP", "SHOP_FILE", "OTHER", "OTHER_FILE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "monitor.yaml"


def loaded(file: Path, settings: Settings, text: str) -> Configuration:
    file.write_text(text, encoding="utf-8")
    return load(settings, file)


def faults(file: Path, settings: Settings, text: str) -> list[str]:
    """Everything that is wrong with this text, each without the name of the file, which stands before all of them."""
    with pytest.raises(ConfigurationError) as caught:
        loaded(file, settings, text)
    assert all(fault.startswith(f"{file}: ") for fault in caught.value.faults)
    return [fault.removeprefix(f"{file}: ") for fault in caught.value.faults]


def test_a_whole_file_is_read_as_it_stands(file: Path, settings: Settings) -> None:
    """Each key of the file arrives as its own kind of value, and what is left out has its default."""
    found = loaded(file, settings, WHOLE)
    down = Rule.model_validate({"alert": "Down", "when": "up == 0"})
    assert 30.0 == found.interval
    assert (
        Target(name="self", url=SecretStr("http://127.0.0.1:8000/api/health"), timeout="3s"),
        Target(name="shop", url=SecretStr("https://shop.example/healthz"), timeout="500ms", expect=(200, 204), readings=False),
    ) == found.targets
    assert ("Cpu", 60.0, "info", "{{ value }}", ("self",)) == (
        found.rules[0].alert,
        found.rules[0].hold,
        found.rules[0].severity,
        found.rules[0].summary,
        found.rules[0].targets,
    )
    assert Condition(metric="cpu_usage", operator=">", threshold=80.0) == found.rules[0].when
    assert Condition(metric="cpu_usage", operator="<", threshold=70.0) == found.rules[0].until
    assert down == found.rules[1]
    assert (0.0, "warning", (), None) == (down.hold, down.severity, down.targets, down.until)
    assert (
        Receiver(name="ops", webhook=SecretStr("https://hooks.example/ops"), timeout="10s"),
        Receiver(name="log", webhook=SecretStr("http://127.0.0.1:9000"), secret=SecretStr(SECRET), timeout="1s"),
    ) == found.receivers


def test_routes_windows_and_the_rest_are_read_as_they_stand(file: Path, settings: Settings) -> None:
    """Each key that decides who is told and when arrives as its own kind of value."""
    text = """
targets: [{name: db, url: "http://db", parent: net}, {name: net, url: "http://net"}, {name: shop, url: "http://s", parent: db}]
rules: [{alert: Gone, when: absent( cpu_usage ), targets: [db], keep_firing_for: 5m}, {alert: Down, when: up == 0}]
receivers: [{name: ops, webhook: "http://127.0.0.1:9000"}]
routes:
  - {severity: [critical], matchers: ['target=~"db|net"', alert!=Gone], receivers: [ops], group_by: [target], after: 30m}
maintenance:
  - {name: backup, matchers: [target=db], days: [sat, sun], from: "02:00", until: "04:30", timezone: Europe/Berlin}
  - {name: night, from: 22:00, until: "06:00"}
services:
  - {name: web, supervisord: shop, url: "http://s/ready", timeout: 2m}
  - {name: nginx, docker: tocsin-nginx-1, socket: /run/docker.sock}
  - {name: db, systemd: postgresql@16-main.service}
repeat_interval: 1h
heartbeat: https://beat.example/key
keep: {minutes: 7d, history: 90d}
"""
    found = loaded(file, settings, text)

    assert [("supervisord", "shop"), ("docker", "tocsin-nginx-1"), ("systemd", "postgresql@16-main.service")] == [
        service.supervisor for service in found.services
    ]
    assert [(), ("net",), ("db", "net")] == [found.ancestors(name) for name in ("net", "db", "shop")]
    assert ["absent(cpu_usage)", "up == 0"] == [str(rule.when) for rule in found.rules]
    assert [300.0, 60.0] == [rule.clear_for for rule in found.rules]
    (route,) = found.routes
    assert ['target=~"db|net"', 'alert!="Gone"'] == [str(matcher) for matcher in route.matchers]
    assert (("critical",), ("ops",), ("target",), 1800.0) == (route.severity, route.receivers, route.group_by, route.after)
    backup, night = found.maintenance
    assert (120, 270, "Europe/Berlin", ("sat", "sun")) == (backup.start, backup.end, backup.timezone.key, backup.days)
    assert (1320, 360, "UTC", ()) == (night.start, night.end, night.timezone.key, night.matchers)  # without quotes, too
    assert (3600.0, SecretStr("https://beat.example/key")) == (found.repeat_interval, found.heartbeat)
    assert (7 * 86_400.0, 365 * 86_400.0, 90 * 86_400.0) == (found.keep.minutes, found.keep.hours, found.keep.history)


@pytest.mark.parametrize("text", ["", "\n", "# a remark\n", "---\n", "{}", "interval:\ntargets:\nrules:\nreceivers:\n"])
def test_an_empty_file_means_the_defaults(file: Path, settings: Settings, text: str) -> None:
    """A file that says nothing, or keys that say nothing, change nothing."""
    assert load(settings) == loaded(file, settings, text)


def test_without_a_file_the_defaults_watch_this_service(settings: Settings) -> None:
    """Ten seconds, this service asked directly and through nginx, five rules, and nobody to tell."""
    found = load(settings)
    assert 10.0 == found.interval
    assert [("self", None), ("front", "self")] == [(target.name, target.parent) for target in found.targets]
    assert 14400.0 == found.repeat_interval
    assert ["HighCpu", "HighMemory", "DiskFull", "OutOfMemory", "TargetDown"] == [rule.alert for rule in found.rules]
    assert () == found.receivers


def test_the_defaults_come_from_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thresholds, addresses, the interval and the receiver are those of the environment."""
    values = {
        "INTERVAL": "1m",
        "CPU_THRESHOLD": "1.5",
        "MEM_THRESHOLD": "2",
        "DISK_THRESHOLD": "100",
        "UNHEALTHY_STATUS": "503",
        "WEB_ADDRESS": "0.0.0.0:9000",
        "FRONT_URL": "http://front/api/health",
        "WEBHOOK_URL": URL,
        "WEBHOOK_SECRET": SECRET,
    }
    for name, value in values.items():
        monkeypatch.setenv(f"TOCSIN_{name}", value)
    found = load(Settings.from_environment())
    assert 60.0 == found.interval
    written = ["cpu_usage > 1.5", "mem_usage > 2", "disk_usage > 100", "oom_kills > 0", "up == 0"]
    assert written == [str(rule.when) for rule in found.rules]
    assert ["http://127.0.0.1:9000/api/health", "http://front/api/health"] == [t.url.get_secret_value() for t in found.targets]
    assert [(200, 503), (200, 503)] == [target.expect for target in found.targets]
    assert [True, False] == [target.readings for target in found.targets]
    assert [(SecretStr(URL), (SecretStr(SECRET),))] == [(receiver.webhook, receiver.secret) for receiver in found.receivers]


def test_each_part_that_the_file_leaves_out_is_filled_alone(file: Path, settings: Settings) -> None:
    """A file with one part keeps the defaults of the others."""
    found = loaded(file, settings, "rules: [{alert: a, when: load1 > 4}]")
    assert ["a"] == [rule.alert for rule in found.rules]
    assert default_targets(settings) == found.targets


def test_an_empty_list_is_not_the_default(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever writes an empty list wants none, also where the settings would have one."""
    monkeypatch.setenv("TOCSIN_WEBHOOK_URL", URL)
    found = loaded(file, Settings.from_environment(), "targets: []\nrules: []\nreceivers: []")
    assert ((), (), ()) == (found.targets, found.rules, found.receivers)


def test_the_file_of_the_settings_is_the_one_that_is_read(tmp_path: Path) -> None:
    """TOCSIN_CONFIG is read where no other file is named, and faults in it name it."""
    (tmp_path / "one.yaml").write_text("interval: 5s")
    (tmp_path / "two.yaml").write_text("interval: 6s")
    settings = Settings(config=tmp_path / "one.yaml")
    assert 5.0 == load(settings).interval
    assert 6.0 == load(settings, tmp_path / "two.yaml").interval
    with pytest.raises(ConfigurationError, match=re.escape(f"{tmp_path}/three.yaml: No such file or directory")):
        load(Settings(config=tmp_path / "three.yaml"))


def test_the_repositorys_own_file_equals_the_defaults(settings: Settings) -> None:
    """monitor.yaml as it is checked in is valid and changes nothing."""
    assert load(settings) == load(settings, CHECKOUT / "monitor.yaml")


def test_the_repositorys_own_file_is_valid_when_uncommented(
    file: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the `#` taken away from all of its example, the file is valid and says what it showed."""
    monkeypatch.setenv("TOCSIN_WEBHOOK_URL", URL)
    monkeypatch.setenv("TOCSIN_WEBHOOK_SECRET", SECRET)
    monkeypatch.setenv("CHAT_URL", CHAT)
    monkeypatch.setenv("HEARTBEAT_URL", "https://beat.example/key")
    text = (CHECKOUT / "monitor.yaml").read_text(encoding="utf-8")
    example_text = text[text.index("# interval:") :]
    found = loaded(file, settings, re.sub(r"^# ?", "", example_text, flags=re.MULTILINE))
    assert ["self", "shop"] == [target.name for target in found.targets]
    assert ["HighCpu", "TargetDown"] == [rule.alert for rule in found.rules]
    expected = [("ops", SecretStr(URL), (SecretStr(SECRET),)), ("chat", None, ()), ("central", None, ())]
    assert expected == [(r.name, r.webhook, r.secret) for r in found.receivers]
    assert SecretStr("https://alertmanager.example") == found.receivers[2].alertmanager
    assert [("chat",), ("ops",)] == [route.receivers for route in found.routes]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "rules: [{alert: a, when: up == 0}, {alert: b, when: up == 0}, {alert: c, when: 'cpu_usage >> 80'}]",
            f"rules[2].when: 'cpu_usage >> 80' {NO_CONDITION}",
        ),
        ("interval: 10", f"interval: 10 {NO_DURATION}"),
        ("interval: 0s", "interval: '0s': input should be greater than 0"),
        ("interval: 86401s", "interval: '86401s': input should be less than or equal to 86400"),
        ("targets: [{name: a}]", "targets[0].url: is required"),
        ("targets: [{url: 'http://a'}]", "targets[0].name: is required"),
        ("targets: [{name: '', url: 'http://a'}]", "targets[0].name: '': string should have at least 1 character"),
        ("targets: [{name: 5, url: 'http://a'}]", "targets[0].name: 5: input should be a valid string"),
        ("targets: [{name: a, url: shop.example}]", f"targets[0].url: {NO_ADDRESS}"),
        ("targets: [{name: a, url: 'http://a', timeout: 61s}]", "targets[0].timeout: '61s': input should be less than"),
        ("targets: [{name: a, url: 'http://a', timeout: 0s}]", "targets[0].timeout: '0s': input should be greater than 0"),
        ("targets: [{name: a, url: 'http://a', expect: [200, 99]}]", "targets[0].expect[1]: 99: input should be greater than"),
        ("targets: [{name: a, url: 'http://a', expect: [600]}]", "targets[0].expect[0]: 600: input should be less than"),
        ("targets: [{name: a, url: 'http://a', expct: []}]", "targets[0].expct: is not known here; did you mean 'expect'?"),
        ("rules: [{when: up == 0}]", "rules[0].alert: is required"),
        ("rules: [{alert: a}]", "rules[0].when: is required"),
        ("rules: [{alert: a, when: up}]", f"rules[0].when: 'up' {NO_CONDITION}"),
        ("rules: [{alert: a, when: [up, 0]}]", f"rules[0].when: ['up', 0] {NO_CONDITION}"),
        ("rules: [{alert: a, when: cpu_usag > 80}]", "rules[0].when: 'cpu_usag' is not a metric; did you mean 'cpu_usage'?"),
        ("rules: [{alert: a, when: humidity > 80}]", "rules[0].when: 'humidity' is not a metric; known are cpu_pressure, "),
        (
            "rules: [{alert: a, when: cpu_usage > 80, until: mem_usage < 70}]",
            "rules[0].until: asks for 'mem_usage', but `when` for 'cpu_usage'; both must name one metric",
        ),
        ("rules: [{alert: a, when: up == 0, for: 5}]", f"rules[0].for: 5 {NO_DURATION}"),
        ("rules: [{alert: a, when: up == 0, hold: 5s}]", "rules[0].hold: is not known here; "),
        (
            "rules: [{alert: a, when: up == 0, severity: bad}]",
            "rules[0].severity: 'bad' is none of info, warning, critical",
        ),
        (
            "rules: [{alert: a, when: up == 0, summary: '{{ valeu }}'}]",
            "rules[0].summary: {{ valeu }} is not a value of an alert; did you mean 'value'?",
        ),
        (
            "rules: [{alert: a, when: up == 0, targets: [slef]}]",
            "rules[0].targets[0]: 'slef' is not a target; did you mean 'self'?",
        ),
        ("receivers: [{name: a}]", "receivers[0].webhook: is required"),
        ("receivers: [{name: a, webhook: nowhere}]", f"receivers[0].webhook: {NO_ADDRESS}"),
        ("receivers: [{name: a, webhook: [1]}]", f"receivers[0].webhook: {NO_ADDRESS}"),
        ("receivers: [{name: a, webhook: 'http://a', secret: x}]", "receivers[0].secret: is not a webhook secret; write whsec_"),
        (
            "receivers: [{name: a, webhook: 'http://a', secert: x}]",
            "receivers[0].secert: is not known here; did you mean 'secret'?",
        ),
        ("interval: 10s\ntragets: []", "tragets: is not known here; did you mean 'targets'?"),
        ("intervals: 10s", "intervals: is not known here; did you mean 'interval'?"),
        ("version: 1", "version: is not known here; known are heartbeat, interval, keep, maintenance, receivers, "),
        ("interval: ${SHOP}", "interval: ${SHOP} is not set; set SHOP, or SHOP_FILE to a file that holds it"),
        ("receivers: [{name: a, webhook: '${SHOP}'}]", "receivers[0].webhook: ${SHOP} is not set; set SHOP, or SHOP_FILE to"),
        ("targets: [{name: a, url: 'http://${SHOP}/'}]", "targets[0].url: ${SHOP} is not set; set SHOP, or SHOP_FILE to"),
        (
            "rules: [{alert: a, when: absent(cpu_usage)}]",
            "rules[0].targets: is required with absent(cpu_usage), as not every target has that metric; name those that do",
        ),
        (
            "rules: [{alert: a, when: absent(up), until: up == 1, targets: [self]}]",
            "rules[0].until: does not go with absent(); that is cleared by the value's return",
        ),
        ("rules: [{alert: a, when: absent(cpu_usag), targets: [self]}]", "rules[0].when: 'cpu_usag' is not a metric; did you"),
        ("rules: [{alert: a, when: up == 0, keep_firing_for: -1s}]", f"rules[0].keep_firing_for: '-1s' {NO_DURATION}"),
        (
            "targets: [{name: a, url: 'http://a', parent: b}]",
            "targets[0].parent: 'b' is not a target; known are a",
        ),
        (
            "targets: [{name: a, url: 'http://a', parent: a}]",
            "targets[0].parent: 'a' would be its own ancestor; one of them must go without",
        ),
        (
            "targets: [{name: a, url: 'http://a', parent: b}, {name: b, url: 'http://b', parent: a}]",
            "targets[1].parent: 'b' would be its own ancestor; one of them must go without",
        ),
        ("routes: [{severity: [critical]}]", "routes[0].receivers: is required"),
        ("routes: [{receivers: [ops]}]", "routes[0].receivers[0]: 'ops' is not a receiver; there are none"),
        (
            "receivers: [{name: ops, webhook: 'http://a'}]\nroutes: [{receivers: [ops, opps]}]",
            "routes[0].receivers[1]: 'opps' is not a receiver; did you mean 'ops'?",
        ),
        ("routes: [{receivers: [], severity: [bad]}]", "routes[0].severity[0]: 'bad' is none of info, warning, critical"),
        ("routes: [{receivers: [], group_by: [host]}]", "routes[0].group_by[0]: 'host' is none of alert, target, "),
        ("routes: [{receivers: [], matchers: [target]}]", f"routes[0].matchers[0]: {NO_MATCHER}"),
        (
            "routes: [{receivers: [], matchers: ['taget=a']}]",
            "routes[0].matchers[0]: 'taget' is not a label of an alert; did you mean 'target'?",
        ),
        (
            "routes: [{receivers: [], matchers: ['target=~(']}]",
            "routes[0].matchers[0]: is not a regular expression that RE2 takes; see ",
        ),
        ("routes: [{receivers: [], after: 30}]", f"routes[0].after: 30 {NO_DURATION}"),
        ("maintenance: [{name: a, from: '02:00'}]", "maintenance[0].until: is required"),
        (
            "maintenance: [{name: a, from: '2:00', until: '04:00'}]",
            "maintenance[0].from: '2:00' is not a time of day; write it as \"HH:MM\"",
        ),
        ("maintenance: [{name: a, from: '02:00', until: 25:00}]", "maintenance[0].until: '25:00' is not a time of day; write"),
        (
            "maintenance: [{name: a, from: '02:00', until: '02:00'}]",
            "maintenance[0].until: is the same as `from`; a window that never ends is a rule to be removed",
        ),
        (
            "maintenance: [{name: a, from: '02:00', until: '03:00', timezone: Berlin}]",
            "maintenance[0].timezone: 'Berlin' is not a time zone; write one such as UTC or Europe/Berlin",
        ),
        (
            "maintenance: [{name: a, from: '02:00', until: '03:00', days: [sunday]}]",
            "maintenance[0].days[0]: 'sunday' is none of mon, tue, ",
        ),
        (
            "maintenance: [{name: a, from: '02:00', until: '03:00', days: []}]",
            "maintenance[0].days: is empty; name the days, or leave it out",
        ),
        (
            "services: [{name: web}]",
            "services[0].docker: is missing, and so are `supervisord:` and `systemd:`; name the supervisor that runs it",
        ),
        (
            "services: [{name: web, supervisord: web, docker: web}]",
            "services[0].docker: stands beside `supervisord:`; name the one supervisor that runs it",
        ),
        (
            "services: [{name: web, supervisord: web, systemd: web}]",
            "services[0].docker: stands beside `supervisord:`; name the one supervisor that runs it",
        ),
        ("services: [{name: w, systemd: w, socket: /s}]", "services[0].socket: does not go with `systemd:`; leave it out"),
        ("services: [{name: -w, systemd: w}]", "services[0].name: '-w': string should match pattern"),
        ("services: [{name: w, systemd: --now}]", "services[0].systemd: '--now': string should match pattern"),
        ("services: [{name: w, systemd: w, timeout: 1h}]", "services[0].timeout: '1h': input should be less than"),
        ("services: [{name: w, systemd: w, timout: 1s}]", "services[0].timout: is not known here; did you mean"),
        ("services: [{name: w, systemd: a}, {name: w, systemd: b}]", "services[1].name: 'w' is taken by services[0]"),
        (
            "rules: [{alert: a, when: up == 0, heal: {service: wbe}}]",
            "rules[0].heal.service: 'wbe' is not a service; did you mean 'web'?",
        ),
        ("rules: [{alert: a, when: up == 0, heal: {attempts: 0}}]", "rules[0].heal.attempts: 0: input should be greater"),
        ("rules: [{alert: a, when: up == 0, heal: {after: 5}}]", f"rules[0].heal.after: 5 {NO_DURATION}"),
        ("rules: [{alert: a, when: up == 0, heal: {conform: 5s}}]", "rules[0].heal.conform: is not known here; did you mean"),
        ("rules: [{alert: a, when: up == 0, heal: web}]", "rules[0].heal: is not a map; write `name: value` on lines of"),
        (
            "services: [{name: db, systemd: db}]\ntargets: [{name: a, url: 'http://a', service: web}]",
            "targets[0].service: 'web' is not a service; known are db",
        ),
        ("repeat_interval: 4", f"repeat_interval: 4 {NO_DURATION}"),
        ("heartbeat: nowhere", f"heartbeat: {NO_ADDRESS}"),
        ("keep: 30d", "keep: is not a map; write `name: value` on lines of their own"),
        ("keep: {minutes: 30}", f"keep.minutes: 30 {NO_DURATION}"),
        ("keep: {minutes: 59m}", "keep.minutes: '59m': input should be greater than or equal to 3600"),
        ("keep: {minutes: 400d}", "keep: `hours` is shorter than `minutes`; the hours are what is left when the"),
        ("keep: {hours: 29d}", "keep: `hours` is shorter than `minutes`"),
        ("keep: {history: 1h}", "keep.history: '1h': input should be greater than or equal to 86400"),
        ("keep: {minute: 30d}", "keep.minute: is not known here; did you mean 'minutes'?"),
        ("interval: 1s\ninterval: 2s", "not YAML: the key 'interval' stands twice (line 2)"),
        ("targets: &a [*a]", "not YAML: aliases (*name) are not taken; write the value out (line 1)"),
    ],
)
def test_a_fault_names_its_place_and_the_remedy(file: Path, settings: Settings, text: str, expected: str) -> None:
    """One fault gives one line: where it is, what stands there, and what should."""
    (only,) = faults(file, settings, text)
    assert only.startswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[1]", "the file"),
        ("just text", "the file"),
        ("5", "the file"),
        ("targets: 5", "targets"),
        ("targets: {name: a, url: 'http://a'}", "targets"),
        ("targets: [5]", "targets[0]"),
        ("rules: [[]]", "rules[0]"),
        ("receivers: [text]", "receivers[0]"),
        ("targets: [{name: a, url: 'http://a', expect: 200}]", "targets[0].expect"),
        ("rules: [{alert: a, when: up == 0, targets: self}]", "rules[0].targets"),
    ],
)
def test_a_part_of_the_wrong_shape_names_its_place(file: Path, settings: Settings, text: str, expected: str) -> None:
    """A list where a mapping should be, or the other way round, is one fault at that place."""
    (only,) = faults(file, settings, text)
    assert only.startswith(f"{expected}: ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "targets: [{name: a, url: 'http://a'}, {name: b, url: 'http://a'}, {name: a, url: 'http://a'}]",
            ["targets[2].name: 'a' is taken by targets[0]; give each its own"],
        ),
        (
            "rules: [{alert: a, when: up == 0}, {alert: a, when: up == 0}, {alert: a, when: up == 0}]",
            [f"rules[{index}].alert: 'a' is taken by rules[0]; give each its own" for index in (1, 2)],
        ),
        (
            "receivers: [{name: a, webhook: 'http://a'}, {name: a, webhook: 'http://b'}]",
            ["receivers[1].name: 'a' is taken by receivers[0]; give each its own"],
        ),
    ],
)
def test_a_name_given_twice_is_a_fault_of_the_second(file: Path, settings: Settings, text: str, expected: list[str]) -> None:
    """Names are unique within their list, and each one that repeats is told with the first."""
    assert expected == faults(file, settings, text)


def test_one_name_may_stand_in_each_list(file: Path, settings: Settings) -> None:
    """A target, a rule and a receiver may share a name."""
    text = (
        "targets: [{name: a, url: 'http://a'}]\nrules: [{alert: a, when: up == 0}]\nreceivers: [{name: a, webhook: 'http://a'}]"
    )
    assert 1 == len(loaded(file, settings, text).targets)


def test_all_faults_are_told_at_once_each_with_its_place(file: Path, settings: Settings) -> None:
    """Unset variables, names given twice, unknown keys and bad values are all told, each once."""
    text = """
interval: 10
colour: red
targets:
  - {name: a, url: "http://${SHOP}"}
  - {name: a, url: nowhere, timeout: 61s}
rules:
  - {alert: r, when: cpu_usage >> 80, targets: [a, b]}
  - {alert: r, when: up == 0, until: load1 > 1, sevrity: info}
receivers:
  - {webhook: "${OTHER}", secret: short}
"""
    places = [fault.partition(": ")[0] for fault in faults(file, settings, text)]
    expected = "interval colour targets[0].url targets[1].name targets[1].url targets[1].timeout"
    expected += " rules[0].when rules[0].targets[1] rules[1].alert rules[1].until rules[1].sevrity"
    expected += " receivers[0].name receivers[0].webhook receivers[0].secret"
    assert sorted(expected.split()) == sorted(places)


def test_two_unset_variables_in_one_value_are_both_told(file: Path, settings: Settings) -> None:
    """Where one address asks for two variables, neither is left for the next run."""
    told = "\n".join(faults(file, settings, "targets: [{name: a, url: 'http://${SHOP}/${OTHER}'}]"))
    assert "${SHOP} is not set" in told
    assert "${OTHER} is not set" in told


def test_a_rule_for_a_target_that_an_empty_list_took_away_is_a_fault(file: Path, settings: Settings) -> None:
    """Without any targets, a rule that names one names nothing."""
    (only,) = faults(file, settings, "targets: []\nrules: [{alert: a, when: up == 0, targets: [self]}]")
    assert only.startswith("rules[0].targets[0]: 'self' is not a target")


def test_a_rule_may_name_the_default_targets(file: Path, settings: Settings) -> None:
    """Where the file lists no targets, `self` and `front` are there to be named."""
    found = loaded(file, settings, "rules: [{alert: a, when: up == 0, targets: [self, front]}]")
    assert ("self", "front") == found.rules[0].targets


def test_variables_are_filled_in_from_the_environment_and_from_files(
    file: Path, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """${NAME} is the variable, or what the file holds that NAME_FILE names; numbers and durations can come so, too."""
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    monkeypatch.setenv("OTHER_FILE", str(tmp_path / "secret"))
    monkeypatch.setenv("SHOP", "hooks.example")
    monkeypatch.setenv("TIME", "5")
    text = "interval: ${TIME}s\nreceivers: [{name: a, webhook: 'https://${SHOP}/${SHOP}', secret: '${OTHER}'}]"
    found = loaded(file, settings, text)
    assert 5.0 == found.interval
    assert SecretStr("https://hooks.example/hooks.example") == found.receivers[0].webhook
    assert (SecretStr(SECRET),) == found.receivers[0].secret


def test_a_value_cannot_change_the_structure(file: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that holds YAML is a strange name and no second target."""
    monkeypatch.setenv("SHOP", "x', url: 'http://evil'}, {name: 'y\n- name: z")
    found = loaded(file, settings, "targets: [{name: '${SHOP}', url: 'http://a'}]")
    assert [("x', url: 'http://evil'}, {name: 'y\n- name: z", "http://a")] == [
        (target.name, target.url.get_secret_value()) for target in found.targets
    ]


@pytest.mark.parametrize(
    "text",
    [
        "receivers: [{name: a, webhook: '${SHOP} ', secret: '${OTHER}x'}]",
        "receivers: [{name: a, webhook: ['${SHOP}'], secret: {x: '${OTHER}'}}]",
        "receivers: [{name: a, webhok: '${SHOP}', secrte: '${OTHER}'}]",
        "targets: [{name: a, url: '${SHOP} x'}]",
        "targets: [{name: a, url: '${SHOP}'}, {name: a, url: '${SHOP}'}]",
        # The dash of the list is forgotten, or the keys of its one entry.
        "receivers: {webhook: '${SHOP}'}",
        "receivers: {secret: '${OTHER}'}",
        "receivers: ['${SHOP}']",
        "receivers: '${SHOP}'",
        "targets: ['${SHOP}']",
        "- secret: ${OTHER}",
        # Written in the file itself, in a line that is no YAML.
        f"receivers:\n  - secret: {SECRET}: x",
        f"receivers:\n  - secret: {SECRET}\n    secret: {SECRET}",
        f"receivers:\n  - webhook: {URL}\n   secret: x",
        f"receivers:\n  - webhook: '{URL}",
    ],
)
def test_no_fault_repeats_a_secret(file: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """However the file is broken, no message holds an address or a secret of it, not even their first half."""
    monkeypatch.setenv("SHOP", URL)
    monkeypatch.setenv("OTHER", SECRET)
    told = "\n".join(faults(file, settings, text))
    assert [] == [secret for secret in (URL, SECRET) if secret[:24] in told]


@pytest.mark.parametrize("text", ["secret: 271828182845904523", "webhook: 271828182845904523", "webhook: [271828182845904523]"])
def test_no_fault_repeats_a_secret_that_is_no_text(file: Path, settings: Settings, text: str) -> None:
    """A password of digits without quotes is a number to YAML, and a secret all the same."""
    assert "271828" not in "\n".join(faults(file, settings, f"receivers:\n  - name: a\n    {text}"))


def test_no_secret_shows_in_a_configuration(file: Path, settings: Settings) -> None:
    """A configuration that is printed shows neither addresses nor secrets."""
    found = loaded(file, settings, WHOLE)
    for text in (repr(found), str(found), found.model_dump_json()):
        assert SECRET not in text
        assert "hooks.example" not in text
        assert "shop.example" not in text


@pytest.mark.parametrize("threshold", ["0.00001", "0.5", "33.333333333", "99.9999999"])
def test_any_threshold_makes_a_default_rule_of_exactly_that_value(monkeypatch: pytest.MonkeyPatch, threshold: str) -> None:
    """The default rules compare with the threshold of the settings, however it is written."""
    monkeypatch.setenv("TOCSIN_CPU_THRESHOLD", threshold)
    assert float(threshold) == default_rules(Settings.from_environment())[0].when.threshold


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        ("cpu_usage > 80", 80.0, False),
        ("cpu_usage > 80", 80.1, True),
        ("cpu_usage >= 80", 80.0, True),
        ("cpu_usage >= 80", 79.9, False),
        ("cpu_usage < 80", 80.0, False),
        ("cpu_usage < 80", 79.9, True),
        ("cpu_usage <= 80", 80.0, True),
        ("cpu_usage <= 80", 80.1, False),
        ("up == 0", 0.0, True),
        ("up == 0", 1.0, False),
        ("up != 0", 1.0, True),
        ("up != 0", 0.0, False),
        ("load1>-1.5", -1.4, True),
        ("  latency_ms\t>   250.25 ", 250.3, True),
    ],
)
def test_a_condition_holds_as_its_operator_says(text: str, value: float, expected: bool) -> None:
    """Each operator is right on its limit and beside it."""
    assert expected == Condition.parse(text).holds(value)


@pytest.mark.parametrize("metric", [*METRICS, *PROBED])
def test_every_metric_can_stand_in_a_condition(metric: str) -> None:
    """Whatever is measured or probed can be asked for, and a condition prints as it was written."""
    assert f"{metric} >= 1.5" == str(Condition.parse(f"{metric} >= 1.5"))


@pytest.mark.parametrize(
    "value",
    [
        *("", "up", "up ==", "== 0", "up = 0", "up === 0", "up == x", "up == 1e3", "up == 0 or up == 1", "up == ٣"),
        *("UP == 0", "up == 1.", "up == .5", "up == +1", "up == " + "9" * 16, "up=>0", "0 == up", "up == 0\nup == 1"),
        *(None, 5, [], {}),
    ],
)
def test_what_is_no_condition_is_a_value_error(value: object) -> None:
    """Anything but metric, operator and number is refused with an example."""
    with pytest.raises(ValueError, match=re.escape(NO_CONDITION)):
        Condition.parse(value)


@given(st.text() | st.text("up cpu_usage<>=!0123456789.-"))
def test_any_text_is_a_condition_or_a_value_error(text: str) -> None:
    """No text fails in another way, and what is accepted is a comparison of a known metric."""
    try:
        found = Condition.parse(text)
    except ValueError:
        return
    assert found.metric in {*METRICS, *PROBED}
    assert isinstance(found.holds(1.0), bool)


@pytest.mark.parametrize(
    ("summary", "expected"),
    [
        ("{{ target }} at {{value}}{{  unit  }}", "shop at 81%"),
        ("{{ unknown }} {{ target", "{{ unknown }} {{ target"),
        ("{{{ target }}}", "{{{ target }}}"),
        ("{% if x %}{{ target.name }}", "{% if x %}{{ target.name }}"),
    ],
)
def test_a_summary_is_filled_in_and_nothing_more(summary: str, expected: str) -> None:
    """Names in double braces are replaced; every other text stays as it is."""
    assert expected == fill_summary(summary, {"target": "shop", "value": "81", "unit": "%"})


def test_a_value_that_looks_like_a_placeholder_is_not_filled_in_again() -> None:
    """What was put in is not looked at again."""
    assert "{{ value }}" == fill_summary("{{ target }}", {"target": "{{ value }}", "value": "81"})


@pytest.mark.parametrize("name", PLACEHOLDERS)
def test_every_placeholder_may_stand_in_a_summary(name: str) -> None:
    """Each value of an alert that is offered is accepted."""
    rule = Rule.model_validate({"alert": "a", "when": "up == 0", "summary": f"{{{{ {name} }}}}"})
    assert "x" == fill_summary(rule.summary, {name: "x"})


@pytest.mark.parametrize("rule", default_rules(Settings.model_construct()))
def test_the_default_summaries_name_known_values_only(rule: Rule) -> None:
    """No default rule leaves a placeholder unfilled."""
    assert "{{" not in fill_summary(rule.summary, dict.fromkeys(PLACEHOLDERS, "x"))


def test_a_configuration_cannot_be_changed(file: Path, settings: Settings) -> None:
    """What was checked as a whole stays whole."""
    found = loaded(file, settings, WHOLE)
    for part, field in ((found, "interval"), (found.targets[0], "url"), (found.rules[0], "when"), (found.receivers[0], "name")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(part, field, getattr(part, field))


@pytest.mark.parametrize(
    ("heal", "keep", "expected"),
    [(None, None, 60.0), (None, "0s", 0.0), ("10s", None, 10.0), ("10s", "1m", 60.0), ("2m", "1m", 120.0), ("10s", "0s", 10.0)],
)
def test_how_long_it_must_be_clear(file: Path, settings: Settings, heal: str | None, keep: str | None, expected: float) -> None:
    """A rule that heals is resolved after `confirm`, or after `keep_firing_for` where that is longer; else after a minute."""
    fields = ([f"heal: {{service: web, confirm: {heal}}}"] if heal else []) + ([f"keep_firing_for: {keep}"] if keep else [])
    (rule,) = loaded(file, settings, f"rules: [{{alert: a, when: up == 0, {', '.join(fields)}}}]").rules

    assert expected == rule.clear_for


@pytest.mark.parametrize(
    ("rule", "target", "expected"),
    [
        ("heal: {service: nginx}", "shop", "nginx"),
        ("heal: {}", "shop", "web"),
        ("heal: {}", "net", None),
        ("severity: info", "shop", None),
    ],
)
def test_which_service_is_healed(file: Path, settings: Settings, rule: str, target: str, expected: str | None) -> None:
    """The service that the rule names, else the target's own; a target without one is only watched."""
    text = """
targets: [{name: shop, url: "http://s", service: web}, {name: net, url: "http://net"}]
services: [{name: web, supervisord: web}, {name: nginx, docker: nginx}]
"""
    found = loaded(file, settings, f"{text}rules: [{{alert: a, when: up == 0, {rule}}}]")

    assert expected == found.healed(found.rules[0], target)


def test_the_default_heals_what_our_own_supervisord_runs(settings: Settings) -> None:
    """Without a file self is healed by web and front by nginx, each confirmed at an address that it answers itself."""
    found = load(settings.model_copy(update={"config": None}))
    assert {"self": "web", "front": "nginx"} == {
        target.name: found.healed(rule, target.name) for target in found.targets for rule in found.rules if rule.heal
    }
    assert {"web": "http://127.0.0.1:8000/readyz", "nginx": "http://127.0.0.1:8080/robots.txt", "monitor": None} == {
        service.name: service.url and service.url.get_secret_value() for service in found.services
    }

    inside = load(settings.model_copy(update={"config": None, "programs": ("web", "monitor")}))
    assert ["web", None] == [target.service for target in inside.targets]


def test_the_schema_names_every_key_of_the_file() -> None:
    """The schema for editors is JSON, allows no unknown key, and knows the keys as they are written."""
    found = json.loads(json.dumps(schema()))
    assert "https://json-schema.org/draft/2020-12/schema" == found["$schema"]
    keys = "interval targets rules receivers routes maintenance repeat_interval heartbeat services keep"
    assert set(keys.split()) == set(found["properties"])
    keys = "alert when until for keep_firing_for severity summary targets heal"
    assert set(keys.split()) == set(found["$defs"]["Rule"]["properties"])
    assert {"name", "matchers", "days", "from", "until", "timezone", "heal"} == set(found["$defs"]["Maintenance"]["properties"])
    parts = ("Rule", "Target", "Receiver", "Route", "Maintenance", "Service", "Heal", "Keep")
    assert [False] * 8 == [found["$defs"][name]["additionalProperties"] for name in parts]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("when", "cpu_usage > 80", True),
        ("when", "cpu_usage >> 80", False),
        ("when", "cpu_usage > 80 or up == 0", False),
        ("for", "1h30m", True),
        ("for", "10", False),
    ],
)
def test_the_schema_has_the_patterns_of_what_is_read(name: str, text: str, expected: bool) -> None:
    """An editor accepts and refuses the same text as the monitor does."""
    found = schema()["$defs"]["Rule"]["properties"][name]
    assert expected == bool(re.search(found["pattern"], text))


@pytest.mark.parametrize("kind", ["missing", "folder", "5 MB"])
def test_a_file_that_is_none_is_one_fault_that_names_it(tmp_path: Path, settings: Settings, kind: str) -> None:
    """A missing file, a folder and five megabytes are told with the path and the remedy."""
    path = tmp_path / "monitor.yaml"
    if kind == "folder":
        path.mkdir()
    elif kind == "5 MB":
        path.write_bytes(b"- 1\n" * 1_250_000)
    with pytest.raises(ConfigurationError) as caught:
        load(settings, path)
    (only,) = caught.value.faults
    expected = {
        "missing": "No such file or directory; TOCSIN_CONFIG must name a readable file",
        "folder": "Is a directory; TOCSIN_CONFIG must name a readable file",
        "5 MB": "longer than 4194304 bytes, which no configuration is",
    }
    assert f"{path}: {expected[kind]}" == only


# Files that are nearly right: our own keys, with any value in each place.
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=8)
    | st.dates()
    | st.sampled_from(["10s", "cpu_usage > 80", "up == 0", "self", "http://127.0.0.1/", "warning", "${SHOP}", "{{ value }}"])
)
KEYS = st.sampled_from(
    [
        *("interval", "targets", "rules", "receivers", "name", "url", "timeout", "expect", "readings", "alert", "when"),
        *("until", "for", "severity", "summary", "webhook", "secret"),
    ]
)
PARTS = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=5) | st.integers(), inner)
)
FILES = st.fixed_dictionaries(
    {},
    optional={
        "interval": SCALARS,
        "targets": st.lists(st.dictionaries(KEYS, PARTS, max_size=6) | PARTS, max_size=3) | PARTS,
        "rules": st.lists(st.dictionaries(KEYS, PARTS, max_size=6) | PARTS, max_size=3) | PARTS,
        "receivers": st.lists(st.dictionaries(KEYS, PARTS, max_size=6) | PARTS, max_size=3) | PARTS,
    },
)


def answer(file: Path, settings: Settings) -> Configuration | list[str]:
    try:
        return load(settings, file)
    except ConfigurationError as error:
        faults = error.faults
    assert faults
    assert all(fault.startswith(f"{file}: ") for fault in faults)
    return faults


@pytest.mark.parametrize(
    "text", ["interval: {}", "rules: {}", "? {}\n: 1", "targets: [{{name: a, url: 'http://a', expect: [{}]}}]"]
)
def test_a_number_of_thousands_of_digits_is_a_fault(file: Path, settings: Settings, text: str) -> None:
    """A number that Python does not even print is told like any other that does not belong there."""
    file.write_text(text.format("0x" + "f" * 4000))
    found = answer(file, settings)
    assert isinstance(found, list)
    assert 1 == len(found)


@examine(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@given(document=FILES | PARTS)
@example(document={"rules": [{"alert": {}, "targets": [{}, []]}], "targets": [{"name": []}]})
def test_any_document_gives_a_configuration_or_its_faults(file: Path, settings: Settings, document: Any) -> None:
    """Whatever values stand in whatever places, the answer is a configuration or a list of faults."""
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    assert isinstance(answer(file, settings), Configuration | list)


@examine(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=st.binary() | st.text().map(str.encode) | st.text("rules:targnm{}[]&*!-\"' \n0x${}").map(str.encode))
@example(raw=b'"\\ud800": 1')
@example(raw=b'rules: [{alert: "\\ud800", when: "\\ud800", "\\udfff": 1}]')
@example(raw=b"interval: .nan")
@example(raw=b"rules: !!omap [{alert: a}]")
@example(raw=b"rules: !!set {a, b}")
@example(raw=b"targets: [{name: !!binary aGk=, url: 2001-01-01}]")
def test_any_bytes_give_a_configuration_or_its_faults(file: Path, settings: Settings, raw: bytes) -> None:
    """Whatever bytes the file holds, the answer is a configuration or a list of faults."""
    file.write_bytes(raw)
    assert isinstance(answer(file, settings), Configuration | list)
