"""The benches, each once and small; what their figures mean; and RESULTS.md, which is to say what they measure."""

import math
import os
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib import import_module
from multiprocessing import get_context
from xml.etree import ElementTree as ET

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bench.__main__ import NAMES
from bench.chart import HEIGHT, WIDTH, svg
from bench.process import proportional
from bench.report import UNSAID, text
from bench.result import TINY, Curve, Row, amount, rounded
from tests.composed import engine_answers
from tests.stack import ROOT, unless

RESULTS = ROOT / "bench/RESULTS.md"
SVG = "{http://www.w3.org/2000/svg}"
MET = Row("requests", "nginx", "/s", (20.0, 31.0, 30.0), (40.0, 50.0, 40.0), least=0.6)
MISSED = Row("the 99th percentile", "", "ms", (12.0,), most=10, missed="It waits for the disk.")
NONE = Row("late ticks", "", "", (0, 0, 0), most=0)
CURVE = Curve("rules", "a tick", "rules", "s", [(10, 0.001), (100, 0.002), (1000, 0.02)])
# With an engine it starts the whole stack; without one it measures what there is.
named = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.container, pytest.mark.timeout(600)] if name == "footprint" else [])
        for name in NAMES
    ],
)
counts = st.lists(st.floats(1, 1e6), min_size=4, max_size=9, unique_by=lambda count: round(math.log(count), 1)).map(sorted)


@cache
def tiny(name: str) -> list[Row | Curve]:
    """What the bench finds in a process of its own: it makes the log as it needs it, and loggers keep what they had first."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(found, name).result()


def found(name: str) -> list[Row | Curve]:
    return list(import_module(f"bench.{name}").bench(TINY))


def said(what: str) -> str:
    """Without the numbers, which depend on how much was measured."""
    return re.sub(r"\d[\d.,]*", "", what)


@named
def test_each_bench_finds_something(name: str) -> None:
    """Run once, small: every figure is a number that can be compared, and can be written down."""
    for each in tiny(name):
        figures = [each.slope, *(cost for _, cost in each.points)] if isinstance(each, Curve) else [*each.ours, *each.theirs]
        assert all(map(math.isfinite, figures)), each
    assert tiny(name)
    assert text("today", {}, {}, tiny(name), "")


@named
def test_what_is_measured_stands_in_the_results(name: str) -> None:
    """RESULTS.md has a line for each finding of today's benches: who changes a bench runs them all again."""
    results = said(RESULTS.read_text(encoding="utf-8"))
    assert [] == [each.what for each in tiny(name) if f"| {said(each.what)} |" not in results]


@pytest.mark.container
@pytest.mark.timeout(600)
@unless(engine_answers(), "without a Docker engine not all of it can be measured")
def test_the_results_say_no_more_than_is_measured() -> None:
    """What no bench finds any more is not in RESULTS.md either."""
    tables = said(RESULTS.read_text(encoding="utf-8")).partition("## Figures")[2].partition("## What fell short")[0]
    lines = re.findall(r"^\| .+ \| (?:yes|\*\*no\*\*|) \|$", tables, re.MULTILINE)
    measured = {said(each.what) for name in NAMES for each in tiny(name)}
    assert [] == [line for line in lines if line.split(" | ")[0].removeprefix("| ") not in measured]


def test_the_results_hide_nothing() -> None:
    """Every goal that was missed says why, and every picture that is named is there."""
    results = RESULTS.read_text(encoding="utf-8")
    assert UNSAID not in results
    short = results.partition("## What fell short")[2].partition("\n## ")[0]
    assert results.count("**no**") == len(re.findall(r"^- \*\*", short, re.MULTILINE))
    pictures = re.findall(r"\((growth-[^)]+)\)", results)
    assert sorted(pictures) == sorted(path.name for path in RESULTS.parent.glob("growth-*.svg"))


def test_a_process_that_has_ended_takes_no_memory() -> None:
    """As one may while the memory of several is added up."""
    child = subprocess.Popen(["true"])
    unmeasured = [child.pid]
    child.wait()
    assert 0 == proportional(unmeasured)
    assert 1 < proportional([os.getpid()])


def test_a_bench_that_fails_does_not_stop_the_others() -> None:
    """Without the programs it compares with one fails; the next says what it finds, and the exit status tells of the first."""
    command = [sys.executable, "-m", "bench", "--tiny", "latency", "growth"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PATH": "/nowhere"}, capture_output=True, text=True, check=False, timeout=100
    )
    assert 1 == done.returncode
    assert all(each.what in done.stdout for each in tiny("growth"))
    assert "These failed: latency." in done.stderr


@pytest.mark.parametrize(
    ("row", "figure", "met"),
    [
        (Row("", "", "", (3.0, 1.0, 2.0), most=2), 2, True),
        (Row("", "", "", (3.0, 1.0, 2.1), most=2), 2.1, False),
        (Row("", "", "", (3.0, 1.0, 2.0), least=2), 2, True),
        (Row("", "", "", (3.0, 1.0, 1.9), least=2), 1.9, False),
        (Row("", "", "", (1.0, 2.0, 9.0), (2.0, 2.0, 3.0), least=1), 1, True),  # of the ratios 0.5, 1, 3; of the medians also
        (Row("", "", "", (1.0, 8.0, 9.0), (1.0, 4.0, 30.0), most=0.5), 1, False),  # of the medians it would be 2
        (Row("", "", "", (5.0,)), 5, True),
        (Row("", "", "", (0.0,), most=0), 0, True),
    ],
)
def test_a_goal_is_about_the_median(row: Row, figure: float, met: bool) -> None:
    """Of the ratios round by round where there is another, else of ours; and it is met at its bound."""
    assert (figure, met) == (row.figure, row.met)


@given(counts, st.integers(0, 3), st.floats(1e-6, 1e6))
def test_a_slope_is_the_power_with_which_a_cost_grows(found: list[float], power: int, factor: float) -> None:
    """Whatever the unit: 0 for what is constant, 1 for what is linear, 2 for what is quadratic."""
    slope = Curve("", "", "", "s", [(count, factor * count**power) for count in found]).slope
    assert power == pytest.approx(slope, abs=1e-6)


def test_what_there_is_at_the_start_does_not_count() -> None:
    """A cost of the beginning hides no growth, none at all has no logarithm, and one point has no slope."""
    late = [(0, 5.0), (1, 5.0), (10, 5.0), (100, 5.0), (1000, 50.0), (10_000, 500.0)]
    assert pytest.approx(1.0) == Curve("", "", "", "s", late).slope
    assert 0.0 == Curve("", "", "", "s", [(0, 1.0), (10, 2.0)]).slope


@pytest.mark.parametrize(("cost", "met"), [(16.0, True), (16.1, False)])
def test_a_curve_is_met_at_its_bound(cost: float, met: bool) -> None:
    """A goal that costs a constant is missed by what is linear, and so on."""
    assert met == Curve("", "", "", "s", [(1, 1.0), (2, 4.0), (4, cost)], most=2.0).met


@pytest.mark.parametrize(
    ("value", "unit", "written"),
    [
        (0, "", "0"),
        (48_123.4, "requests/s", "48,100 requests/s"),
        (0.6, "", "0.6"),
        (0.7449, "", "0.745"),
        (12.345, "ms", "12.3 ms"),
        (0.5123, "s", "0.512 s"),
        (0.0121, "s", "12.1 ms"),
        (0.0000152, "s", "15.2 µs"),
        (-3, "MiB", "-3 MiB"),
        (1_000_000, "", "1,000,000"),
        (100, "", "100"),
    ],
)
def test_a_figure_has_three_digits(value: float, unit: str, written: str) -> None:
    """And seconds become small units where they are few."""
    assert written == amount(value, unit)


@given(st.floats(1e-9, 1e12))
def test_rounding_keeps_the_figure(value: float) -> None:
    """To half a percent, which is what three digits can tell."""
    assert value == pytest.approx(float(rounded(value).replace(",", "")), rel=0.00501)


def test_the_report_says_all_that_was_found() -> None:
    """The machine, the versions, each figure with its goal, each curve with its picture, and what fell short with its reason."""
    report = text("1 May 2027", {"cores": "2"}, {"nginx": "1.22.1"}, [MET, MISSED, NONE, CURVE], "## Steps\n\nOne step.\n")
    for part in (
        "on 1 May 2027.",
        "| cores | 2 |",
        "nginx 1.22.1.",
        "| requests | nginx | 30 /s (20 to 31) | 40 /s | 0.62 | 0.6 or more | yes |",
        "| the 99th percentile |  | 12 ms |  |  | 10 ms or less | **no** |",
        "| late ticks |  | 0 |  |  | none | yes |",
        "| a tick | 10 … 1,000 rules | 1 ms … 20 ms | 1.00 | 1.15 or less | yes |",
        "![a tick](growth-rules.svg)",
        "- **the 99th percentile**: It waits for the disk.\n",
    ):
        assert part in report
    assert report.endswith("\n\n## Steps\n\nOne step.\n")
    assert "Nothing.\n" in text("", {}, {}, [MET], "")
    assert UNSAID in text("", {}, {}, [Row("x", "", "", (2.0,), most=1)], "")


@example([(0.0, 0.0)], "a < b & c")
@given(
    st.lists(st.tuples(st.just(0.0) | st.floats(1, 1e6), st.just(0.0) | st.floats(1e-6, 1e6)), min_size=1, max_size=9),
    st.text(st.characters(codec="utf-8", categories=("L", "P", "S", "Zs"))),
)
def test_a_picture_shows_every_point_in_its_box(points: list[tuple[float, float]], what: str) -> None:
    """Whatever was measured, none at all too: it is well-formed, and says in words what it shows."""
    root = ET.fromstring(svg(Curve("x", what, "rules", "s", sorted(points))))
    circles = list(root.iter(f"{SVG}circle"))
    assert len(points) == len(circles)
    assert all(0 <= float(each.get("cx", "")) <= WIDTH and 0 <= float(each.get("cy", "")) <= HEIGHT for each in circles)
    assert (root.findtext(f"{SVG}title") or "").startswith(what)
    assert (root.findtext(f"{SVG}desc") or "").startswith("rules, and the cost: ")


def test_a_picture_is_logarithmic_on_both_sides() -> None:
    """Ten times as much is always as far, so what is linear is a straight line."""
    root = ET.fromstring(svg(Curve("x", "", "", "s", [(1, 1.0), (10, 10.0), (100, 100.0)])))
    places = [(float(each.get("cx", "")), float(each.get("cy", ""))) for each in root.iter(f"{SVG}circle")]
    (x0, y0), (x1, y1), (x2, y2) = places
    assert (x1 - x0, y1 - y0) == pytest.approx((x2 - x1, y2 - y1), abs=0.2)
    assert x0 < x1
    assert y0 > y1
