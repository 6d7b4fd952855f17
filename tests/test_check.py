"""`tocsin check`: its line, its performance data and its status, whatever the Tocsin that is asked says or does."""

import copy
import os
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.cli.check import check
from service.plugin import LONGEST_TEXT, Limits, State, StrangeError, judge, line
from tests.answering import Answering, answering
from tests.stack import BIN, ROOT, free_port

NOW = 1_792_150_860.0
HEALTH: dict[str, Any] = {
    "cpu_usage": 12.5,
    "mem_usage": 18.3,
    "disk_usage": 22.6,
    "status": "healthy",
    "reasons": [],
    "checks": {
        "cpu_usage": {"value": 12.5, "unit": "percent", "scope": "cgroup", "threshold": 80.0},
        "mem_usage": {"value": 18.3, "unit": "percent", "scope": "cgroup", "threshold": 80.0},
        "disk_usage": {"value": 22.6, "unit": "percent", "scope": "host", "threshold": 90.0},
    },
    "missing": {},
    "time": NOW,
}
MONITOR: dict[str, Any] = {
    "started_at": "2026-10-16T11:00:50.101Z",
    "interval_seconds": 10.0,
    "ticks": 72,
    "late_ticks": 0,
    "last_tick_at": "2026-10-16T11:40:57.000Z",
    "last_tick_seconds": 0.012,
    "alerts": {"firing": 0, "pending": 0},
    "deliveries": {},
    "waiting": 0,
    "dead": 0,
    "oldest_undelivered_seconds": None,
}
ALERT: dict[str, Any] = {
    "alert": "TargetDown",
    "target": "shop",
    "severity": "critical",
    "summary": "shop does not answer",
    "silenced": [],
    "acknowledged": None,
    "held": None,
}
DOWN = "TargetDown shop: shop does not answer (critical)"
# The guidelines' grammar: 'label'=value[UOM];[warn];[crit];[min];[max]
RANGE = r"@?(~|-?[\d.]+)?:?(-?[\d.]+)?"
FIGURE = re.compile(
    rf"('[^'=]+'|[^\s'=]+)=(-?[\d.]+|U)(us|ms|s|%|[KMGT]?B|c)?(;{RANGE})?(;{RANGE})?(;(-?[\d.]+)?)?(;(-?[\d.]+)?)?"
)


def test_all_is_well() -> None:
    """The line of a Tocsin at which nothing is wrong, to the letter."""
    assert (
        "TOCSIN OK - nothing fires, CPU 12.5 %, memory 18.3 %, disk 22.6 %, ticked 3 s ago | "
        "cpu_usage=12.5%;80;;0;100 mem_usage=18.3%;80;;0;100 disk_usage=22.6%;90;;0;100 firing=0;;;0 pending=0;;;0 "
        "waiting=0;;;0 dead=0;;0;0 oldest_undelivered=0s;300;1800;0"
    ) == line(*judge(HEALTH, MONITOR, [], Limits()))


OVER = {"reasons": ["cpu_usage is over its threshold"]}
OLD = {"last_tick_at": "2026-10-16T11:39:59.000Z"}  # 61 s
DECISIONS: list[tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]], State, str]] = [
    ({}, {}, [{}], State.CRITICAL, DOWN),
    ({}, {}, [{"severity": "warning"}], State.WARNING, DOWN.replace("critical", "warning")),
    ({}, {}, [{"severity": "info"}], State.OK, "nothing fires"),
    ({}, {"alerts": {"firing": 1, "pending": 0}}, [{"severity": "info"}], State.OK, "1 alert fires and nobody need act"),
    ({}, {}, [{"silenced": [{"maintenance": "nightly"}]}], State.OK, "nothing fires"),
    ({}, {}, [{"acknowledged": {"by": "ann", "at": "", "comment": ""}}], State.OK, "nothing fires"),
    ({}, {}, [{"held": "router"}], State.OK, "nothing fires"),
    ({}, {}, [{"severity": "warning"}, {}], State.CRITICAL, f"{DOWN}; {DOWN.replace('critical', 'warning')}"),
    ({}, {}, [{}] * 7, State.CRITICAL, "; ".join([DOWN] * 5) + "; and 2 more"),
    (OVER, {}, [], State.WARNING, "cpu_usage is over its threshold (12.5 %)"),
    ({"reasons": ["draining"]}, {}, [], State.WARNING, "the server is draining"),
    ({"reasons": ["starting"]}, {}, [], State.WARNING, "the server is starting"),
    ({"reasons": ["stale"]}, {}, [], State.CRITICAL, "the readings are old"),
    ({}, {"last_tick_at": "2026-10-16T11:40:01.000Z"}, [], State.OK, "nothing fires"),  # 59 s: three intervals and 30 s are 60
    ({}, OLD, [], State.CRITICAL, "the monitor has not ticked for 1 min 1 s: what watches does not run"),
    ({}, {**OLD, "interval_seconds": 60.0}, [], State.OK, "nothing fires"),
    ({}, {"last_tick_at": None}, [], State.CRITICAL, "the monitor has not ticked yet: what watches does not run"),
    ({}, {"dead": 1}, [], State.CRITICAL, "1 message given up"),
    ({}, {"dead": 2}, [], State.CRITICAL, "2 messages given up"),
    ({}, {"oldest_undelivered_seconds": 300.0}, [], State.OK, "nothing fires"),
    ({}, {"oldest_undelivered_seconds": 301.0}, [], State.WARNING, "a message has waited for 5 min 1 s"),
    ({}, {"oldest_undelivered_seconds": 1801.0}, [], State.CRITICAL, "a message has waited for 30 min 1 s"),
    (OVER, OLD, [{"severity": "warning"}], State.CRITICAL, "the monitor has not ticked"),  # the worst stands first
]


@pytest.mark.parametrize(("health", "monitor", "alerts", "state", "text"), DECISIONS)
def test_the_decision(
    health: dict[str, Any], monitor: dict[str, Any], alerts: list[dict[str, Any]], state: State, text: str
) -> None:
    """Each row of the table in docs/check.md, on both sides of its border."""
    found, said, _ = judge(HEALTH | health, MONITOR | monitor, [ALERT | each for each in alerts], Limits())

    assert state == found
    assert said.startswith(text)


@pytest.mark.parametrize(("waits", "state"), [(300.0, State.OK), (301.0, State.CRITICAL)])
def test_a_critical_limit_below_that_of_a_warning_counts(waits: float, state: State) -> None:
    """Whoever gives only a shorter --critical gets it."""
    monitor = MONITOR | {"oldest_undelivered_seconds": waits}
    assert state == judge(HEALTH, monitor, [], Limits(warning=1800.0, critical=300.0))[0]


def test_a_reading_that_is_missing_is_left_out() -> None:
    """No 0 stands for it, and no threshold for one that has none."""
    health = {name: value for name, value in HEALTH.items() if name != "mem_usage"}
    health["checks"] = {"cpu_usage": {"value": 12.5}, "disk_usage": HEALTH["checks"]["disk_usage"]}
    said = line(*judge(health, MONITOR, [], Limits()))

    assert "mem" not in said
    assert " cpu_usage=12.5%;;;0;100 " in said


def well_formed(said: str) -> None:
    """One line, short, and performance data by the guidelines' grammar behind the only pipe."""
    assert [said] == said.splitlines()
    assert said.isprintable()
    assert len(said.encode()) < 1024  # what NRPE hands on
    text, pipe, figures = said.partition(" | ")
    assert "|" not in text
    assert re.match("TOCSIN (OK|WARNING|CRITICAL|UNKNOWN) - ", text)
    assert not pipe or all(FIGURE.fullmatch(figure) for figure in figures.split(" "))


TEXTS = st.text(max_size=600) | st.text("|\n\r\t\0'=;\x85\u2028\u2029\ud800\u202eé😀", max_size=300)


@given(TEXTS, TEXTS, TEXTS, st.sampled_from(["critical", "warning"]))
def test_whatever_an_alert_says_it_is_one_line(alert: str, target: str, summary: str, severity: str) -> None:
    """No text of a rule, a target or an answer breaks the line or forges performance data."""
    found = ALERT | {"alert": alert, "target": target, "summary": summary, "severity": severity}
    said = line(*judge(HEALTH, MONITOR, [found], Limits()))

    well_formed(said)
    assert 8 == len(said.partition(" | ")[2].split(" "))


@given(TEXTS)
def test_a_text_is_cut_and_not_more(text: str) -> None:
    """What is too long ends with dots, within the bytes it may have."""
    said = line(State.WARNING, text)
    well_formed(said)
    assert len(said.removeprefix("TOCSIN WARNING - ").encode()) <= LONGEST_TEXT


NUMBERS = st.floats(allow_nan=False, allow_infinity=False, min_value=0, max_value=1e15)


@given(NUMBERS, NUMBERS, st.integers(0, 10**12), NUMBERS | st.none())
def test_whatever_the_numbers_they_parse(usage: float, limit: float, count: int, waits: float | None) -> None:
    """No exponent, no locale: figures are digits and a point, however large or small they are."""
    health = copy.deepcopy(HEALTH) | {"cpu_usage": usage}
    health["checks"]["cpu_usage"] |= {"value": usage, "threshold": limit}
    monitor = MONITOR | {"waiting": count, "dead": count, "oldest_undelivered_seconds": waits}
    figures = judge(health, monitor, [], Limits())[2]

    assert [] == [figure for figure in figures if not FIGURE.fullmatch(figure)]


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(HEALTH)), st.sampled_from(sorted(MONITOR)), st.sampled_from(sorted(ALERT)), JSON, st.integers(0, 2))
def test_an_answer_of_another_shape_is_a_line_or_none_of_a_tocsins(
    in_health: str, in_monitor: str, in_alert: str, value: Any, place: int
) -> None:
    """Any value in the place of any other ends in a line, or in StrangeError; in nothing else."""
    documents = [HEALTH, MONITOR, ALERT]
    documents[place] = documents[place] | {(in_health, in_monitor, in_alert)[place]: value}
    try:
        said = line(*judge(documents[0], documents[1], [documents[2]], Limits()))
    except StrangeError:
        return
    well_formed(said)


def run(*options: str, **env: str) -> tuple[int, str]:
    """The command as a plugin is run, and its status and line; standard error is nobody's business."""
    done = subprocess.run(
        [BIN / "tocsin", "check", *options], env={**os.environ, **env}, capture_output=True, check=False, timeout=60
    )
    said = done.stdout.decode()
    assert b"Traceback" not in done.stderr
    assert said.endswith("\n")
    well_formed(said.removesuffix("\n"))
    return done.returncode, said.removesuffix("\n")


@contextmanager
def tocsin(alerts: list[dict[str, Any]] | None = None) -> Iterator[Answering]:
    """What answers as a Tocsin does."""
    with answering() as server:
        server.answers = {
            "/api/health": (200, orjson.dumps(HEALTH)),
            "/api/v1/monitor": (200, orjson.dumps(MONITOR)),
            "/api/v1/alerts?state=firing&limit=500": (200, orjson.dumps({"alerts": alerts or [], "next": None})),
        }
        yield server


def test_every_page_of_alerts_is_read() -> None:
    """A critical one on the last page counts."""
    with tocsin() as server:
        first = {"alerts": [ALERT | {"severity": "info"}], "next": "a+b/c="}
        server.answers["/api/v1/alerts?state=firing&limit=500"] = (200, orjson.dumps(first))
        last = orjson.dumps({"alerts": [ALERT], "next": None})
        server.answers["/api/v1/alerts?state=firing&limit=500&after=a%2Bb%2Fc%3D"] = (200, last)
        status, said = run("--url", server.url)

    assert (2, True) == (status, said.startswith(f"TOCSIN CRITICAL - {DOWN} | "))


PROBLEM = b'{"type": "about:blank", "title": "x", "status": 500, "detail": "The database cannot be used.", "request_id": "x"}'
ANSWERS = [
    ("/api/health", 200, b"<h1>It works!</h1>", 3, "what answers there is no Tocsin"),
    ("/api/health", 404, b"", 3, "what answers there is no Tocsin"),
    ("/api/health", 200, b"[]", 3, "what answers there is no Tocsin"),
    ("/api/health", 200, b'{"reasons": []}', 3, "what answers there is no Tocsin"),
    ("/api/health", 302, b"", 3, "what answers there is no Tocsin"),
    ("/api/health", 200, b'{"reasons": [], "x": "' + b"x" * (8 << 20) + b'"}', 3, "what answers there is no Tocsin"),
    ("/api/health", 502, PROBLEM, 2, "Tocsin does not answer: 502 from what stands before it"),
    ("/api/health", 503, b"<h1>No server is available", 2, "Tocsin does not answer: 503 from what stands before it"),
    ("/api/health", 504, b"", 2, "Tocsin does not answer: 504 from what stands before it"),
    ("/api/health", 401, b"", 3, "the check is refused: 401"),
    ("/api/health", 403, PROBLEM, 3, "the check is refused: 403"),
    ("/api/v1/monitor", 503, PROBLEM, 2, "Tocsin cannot tell how it is: 503 The database cannot be used."),
    ("/api/v1/monitor", 429, b'{"detail": "slow | down\\n"}', 3, "the check is refused: 429 slow / down"),
    ("/api/v1/monitor", 200, b"{}", 3, "what answers there is no Tocsin"),
    ("/api/v1/alerts?state=firing&limit=500", 200, b'{"alerts": {}}', 3, "what answers there is no Tocsin"),
    ("/api/v1/alerts?state=firing&limit=500", 200, b'{"alerts": [1]}', 3, "what answers there is no Tocsin"),
]


@pytest.mark.parametrize(("path", "status", "body", "state", "said"), ANSWERS)
def test_what_can_come_back(
    capsysbinary: pytest.CaptureFixture[bytes], path: str, status: int, body: bytes, state: int, said: str
) -> None:
    """What is no Tocsin's answer, and what stands before one that is away."""
    with tocsin() as server:
        server.answers[path] = (status, body)
        with pytest.raises(SystemExit) as ended:
            check.main(["--url", server.url], standalone_mode=False)

    assert (state, f"TOCSIN {State(state).name} - {said}\n") == (ended.value.code, capsysbinary.readouterr().out.decode())


def test_nobody_there() -> None:
    """A refused connection is critical: whatever is wrong there, nobody is told of it."""
    assert (2, "TOCSIN CRITICAL - Tocsin does not answer: it refuses the connection") == run(
        "--url", f"http://127.0.0.1:{free_port()}"
    )


def test_it_ends_in_time() -> None:
    """One time is for all three answers: neither one that hangs nor one that drips holds it longer."""
    with tocsin() as server:
        server.delays = {"/api/v1/monitor": 30.0}
        began = time.monotonic()
        status, said = run("--url", server.url, "--timeout", "1")

    assert (2, True) == (status, "Tocsin does not answer: no complete answer within" in said)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("options", "env", "said"),
    [
        ("--bogus", {}, "No such option"),
        ("--url", {}, "requires an argument"),
        ("--url ftp://x", {}, "is not an address"),
        ("--timeout soon", {}, "'soon' is not a duration"),
        ("-t 0", {}, "'0' is no time"),
        ("-w -5", {}, "'-5' is not a duration"),
        ("stray", {}, "unexpected extra argument"),
        ("", {"TOCSIN_HTTP_PORT": "none"}, "TOCSIN_HTTP_PORT: 'none'"),
    ],
)
def test_a_wrong_call_is_unknown(options: str, env: dict[str, str], said: str) -> None:
    """Not click's 2, which would be CRITICAL, and where Nagios reads it: on standard output."""
    status, found = run(*shlex.split(options), **env)

    assert 3 == status
    assert found.startswith("TOCSIN UNKNOWN - ")
    assert said in found


def test_without_an_address_the_settings_say_where() -> None:
    """As nginx listens; from 127.0.0.1 where that is every address; or where the front is said to be, as in the container."""
    with tocsin() as server:
        port = server.url.rpartition(":")[2]
        for env in (
            {"TOCSIN_HTTP_PORT": port},
            {"TOCSIN_HTTP_PORT": port, "TOCSIN_BIND": "0.0.0.0"},
            {"TOCSIN_FRONT_URL": f"{server.url}/api/health"},
        ):
            assert 0 == run(**env)[0]


def test_a_plugins_locale_may_be_any() -> None:
    """Nagios runs plugins in the C locale, and others in what they have: letters arrive as UTF-8."""
    with tocsin([ALERT | {"summary": "größer 😀"}]) as server:
        assert "größer 😀" in run("--url", server.url, LC_ALL="C", PYTHONIOENCODING="ascii", PYTHONUTF8="0")[1]


def test_the_options_are_those_of_the_document() -> None:
    """docs/check.md has a row for each option, with its default, and one for each label."""
    document = (ROOT / "docs/check.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| `(-\w)`, `(--\w+)` \| (.*?) \|", document, re.MULTILINE)

    assert [tuple(each.opts) for each in check.params] == [row[:2] for row in shown]
    assert [each.default for each in check.params][1:] == [default.strip("`") for _, _, default in shown][1:]
    table = document.partition("| label | unit |")[2].partition("\n\n")[0]
    labels = re.findall(r"`(\w+)`", table)
    assert [figure.partition("=")[0] for figure in judge(HEALTH, MONITOR, [], Limits())[2]] == labels
    example = re.findall(r"```text\n(TOCSIN OK.*)\n```", document)[0]
    well_formed(example)
