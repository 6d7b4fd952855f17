"""RESULTS.md: the machine, the versions, a table, the curves, and what fell short."""

from collections.abc import Sequence
from pathlib import Path

from bench.result import Curve, Row


def line(each: Row | Curve) -> str:
    """One finding, for who watches."""
    verdict = "met" if each.met else "MISSED"
    if isinstance(each, Curve):
        return f"  {each.what}: slope {each.slope:.2f}: {verdict}"
    return f"  {each.what}{f' against {each.against}' if each.against else ''}: {each.figure:.3g}: {verdict}"


def write(folder: Path, found: Sequence[Row | Curve]) -> None:
    """Write RESULTS.md, and the plots beside it."""
    raise NotImplementedError
