"""Promise 1, in short: kills at random moments lose nothing. `make chaos` is the long run."""

from pathlib import Path

import pytest

from tests.chaos import run


@pytest.mark.timeout(180)
def test_killed_anywhere(tmp_path: Path) -> None:
    """Every transition arrives, repeats have the same id and body, and no resolved comes before its firing."""
    result = run(40, 7, tmp_path)
    print(result)

    assert result.transitions >= 20
    assert (0, 0, 0, 0, 0) == (result.lost, result.disordered, result.other_ids, result.changed_bodies, result.mixed)
