"""How a cost grows, as a picture: an SVG with both axes logarithmic, so that a power is a straight line."""

import math
from html import escape
from textwrap import wrap

from bench.result import Curve, amount

WIDTH, HEIGHT = 640, 370
LEFT, RIGHT, TOP, BOTTOM = 90, 44, 60, 60  # margins
ZERO = 48  # the room left of a logarithmic axis, for none at all
LINE = 64  # characters of the title; two lines have room
LEAST = 3  # decades of cost that are shown: what is nearly constant shall look so
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #24292f }
  .title { font-size: 15px; font-weight: 600 }
  .grid { stroke: #d8dee4 }
  .cost { fill: none; stroke: #0550ae; stroke-width: 2 }
  .linear { stroke: #57606a; stroke-dasharray: 6 5 }
  circle { fill: #0550ae }
"""


def svg(curve: Curve) -> str:
    """The picture of a curve, readable on light and dark pages alike: it brings its own ground."""
    counts = [count for count, _ in curve.points if count > 0]
    costs = [cost for _, cost in curve.points if cost > 0]
    least_x, most_x = _decades(counts, 1)
    least_y, most_y = _decades(costs, LEAST)
    begin = LEFT + (ZERO if len(counts) < len(curve.points) else 0)
    end, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def x(count: float) -> float:
        return begin + (math.log10(count) - least_x) / (most_x - least_x) * (end - begin) if count > 0 else LEFT + 8

    def y(cost: float) -> float:
        return bottom - (math.log10(cost) - least_y) / (most_y - least_y) * (bottom - TOP) if cost > 0 else bottom

    parts = [
        *(
            f'<text class="title" x="{LEFT}" y="{24 + 18 * n}">{escape(each)}</text>'
            for n, each in enumerate(wrap(curve.what, LINE))
        ),
        f'<line class="linear" x1="{end - 84}" y1="{HEIGHT - 18}" x2="{end - 44}" y2="{HEIGHT - 18}"/>',
        f'<text x="{end}" y="{HEIGHT - 14}" text-anchor="end">linear</text>',
    ]
    for power in range(least_y, most_y + 1):
        at = y(10.0**power)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{at:.1f}" x2="{end}" y2="{at:.1f}"/>')
        label = escape(amount(10.0**power, curve.unit))
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{label}</text>')
    ticks = [10.0**power for power in range(least_x, most_x + 1)]
    for count in ticks if begin == LEFT else [0.0, *ticks]:
        parts.append(f'<line class="grid" x1="{x(count):.1f}" y1="{TOP}" x2="{x(count):.1f}" y2="{bottom}"/>')
        parts.append(f'<text x="{x(count):.1f}" y="{bottom + 20}" text-anchor="middle">{count:,.0f}</text>')
    parts.append(f'<text x="{(LEFT + end) / 2}" y="{HEIGHT - 14}" text-anchor="middle">{escape(curve.count)}</text>')
    # Slope 1, for the eye, through where the larger half begins: steeper than this is worse than linear.
    counted = [(count, cost) for count, cost in curve.points if count > 0 and cost > 0]
    if counted:
        count, cost = counted[(len(counted) - 1) // 2]
        first, last = (cost * 10.0**power / count for power in (least_x, most_x))
        places = f'x1="{x(10.0**least_x):.1f}" y1="{y(first):.1f}" x2="{x(10.0**most_x):.1f}" y2="{y(last):.1f}"'
        parts.append(f'<line class="linear" clip-path="url(#box)" {places}/>')
    line = " ".join(f"{x(count):.1f},{y(cost):.1f}" for count, cost in curve.points)
    parts.append(f'<polyline class="cost" points="{line}"/>')
    parts += [f'<circle cx="{x(count):.1f}" cy="{y(cost):.1f}" r="4"/>' for count, cost in curve.points]
    said = "; ".join(f"{count:,.0f}: {amount(cost, curve.unit)}" for count, cost in curve.points)
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" \
aria-labelledby="title points">
<title id="title">{escape(curve.what)}: slope {curve.slope:.2f}</title>
<desc id="points">{escape(f"{curve.count}, and the cost: {said}")}</desc>
<style>{STYLE}</style>
<clipPath id="box"><rect x="{LEFT}" y="{TOP}" width="{end - LEFT}" height="{bottom - TOP}"/></clipPath>
<rect width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#fff"/>
{chr(10).join(parts)}
</svg>
"""


def _decades(values: list[float], number: int) -> tuple[int, int]:
    """The powers of ten between which all of these lie, at least so many apart."""
    least, most = math.floor(math.log10(min(values, default=1.0))), math.ceil(math.log10(max(values, default=1.0)))
    while most - least < number:
        most += 1
        least -= most - least < number
    return least, most
