"""RESULTS.md: the machine, the versions, a table, the curves, what fell short and what each step gave."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from bench.chart import svg
from bench.machine import machine, versions
from bench.result import Curve, Row, amount, rounded

UNSAID = "Nobody has said why yet."  # of a goal that was missed; a test refuses it in RESULTS.md
HEAD = """\
# Results

`make bench` wrote this on {day}. It measures Tocsin beside others that do the same job, all in one run, on one machine, over
loopback, in rounds that take turns. So look at the ratios: they hold elsewhere far better than the figures they are made of.
How each thing is measured stands at the head of its module in this folder.
"""
FIGURES = """
## Figures

Ours and theirs are medians of the rounds, with the lowest and the highest of ours. The ratio is the median of the rounds'
ratios, ours to theirs.

| what | measured against | ours | theirs | ratio | goal | met |
| --- | --- | --- | --- | --- | --- | --- |
"""
CURVES = """
## How cost grows

The slope is that of the larger half of the points, both axes logarithmic: 0 is a constant cost, 1 a linear one, 2 a quadratic
one. What is linear may show a little more than 1, as measured times scatter. The dashed line of each picture is linear.

| what | from … to … | cost at both ends | slope | goal | met |
| --- | --- | --- | --- | --- | --- |
"""


def line(each: Row | Curve) -> str:
    """One finding, for who watches."""
    goal = f" (goal: {_goal(each, '')}{'' if each.met else ', MISSED'})" if _goal(each, "") else ""
    if isinstance(each, Curve):
        return f"  {each.what}: slope {each.slope:.2f}{goal}"
    theirs = f"; {each.against}: {amount(median(each.theirs), each.unit)}; ratio {rounded(each.figure)}" if each.theirs else ""
    return f"  {each.what}: {amount(median(each.ours), each.unit)}{theirs}{goal}"


def text(day: str, facts: Mapping[str, str], compared: Mapping[str, str], found: Sequence[Row | Curve], findings: str) -> str:
    """The whole of RESULTS.md. `findings` is Markdown that stands at its end as it is."""
    rows = [each for each in found if isinstance(each, Row)]
    curves = [each for each in found if isinstance(each, Curve)]
    parts = [
        HEAD.format(day=day),
        "\n## Machine and versions\n\n| | |\n| --- | --- |\n",
        *(_cells(name, fact) for name, fact in facts.items()),
        "\n" + ", ".join(f"{name} {version}" for name, version in compared.items()) + ".\n",
        FIGURES,
        *(_row(row) for row in rows),
        CURVES if curves else "",
        *(_curve(curve) for curve in curves),
        *(f"\n![{curve.what}]({_file(curve)})\n" for curve in curves),
        "\n## What fell short\n\n",
        *([f"- **{each.what}**{_against(each)}: {each.missed or UNSAID}\n" for each in found if not each.met] or ["Nothing.\n"]),
        "\n" + findings,
    ]
    return "".join(parts)


def write(folder: Path, found: Sequence[Row | Curve]) -> None:
    """Write RESULTS.md, and the plots beside it."""
    findings = (folder / "findings.md").read_text(encoding="utf-8")
    written = text(time.strftime("%-d %B %Y", time.gmtime()), machine(), versions(), found, findings)
    for each in found:
        if isinstance(each, Curve):
            (folder / _file(each)).write_text(svg(each), encoding="utf-8")
    (folder / "RESULTS.md").write_text(written, encoding="utf-8")


def _row(row: Row) -> str:
    ours, low, high = (amount(each(row.ours), row.unit) for each in (median, min, max))
    unit = f" {ours.partition(' ')[2]}"
    if low != high:
        ours += f" ({low.removesuffix(unit)} to {high.removesuffix(unit)})"
    theirs = amount(median(row.theirs), row.unit) if row.theirs else ""
    ratio = rounded(row.figure) if row.theirs else ""
    return _cells(row.what, row.against, ours, theirs, ratio, _goal(row, "" if row.theirs else row.unit), _met(row))


def _curve(curve: Curve) -> str:
    (first, low), (last, high) = curve.points[0], curve.points[-1]
    growth, costs = f"{first:,.0f} … {last:,.0f} {curve.count}", f"{amount(low, curve.unit)} … {amount(high, curve.unit)}"
    return _cells(curve.what, growth, costs, f"{curve.slope:.2f}", _goal(curve, ""), _met(curve))


def _goal(each: Row | Curve, unit: str) -> str:
    least = each.least if isinstance(each, Row) else None
    if each.most == 0:
        return "none"
    bounds = [f"{amount(bound, unit)} or {word}" for bound, word in ((least, "more"), (each.most, "less")) if bound is not None]
    return ", ".join(bounds)


def _met(each: Row | Curve) -> str:
    return "" if not _goal(each, "") else "yes" if each.met else "**no**"


def _against(each: Row | Curve) -> str:
    return f" against {each.against}" if isinstance(each, Row) and each.theirs else ""


def _file(curve: Curve) -> str:
    return f"growth-{curve.name}.svg"


def _cells(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |\n"
