"""`tocsin report` as a process of its own, on a month that is known."""

import csv
import io
import json
import os
import pty
import subprocess
from pathlib import Path

import pytest

from service.database import connect
from tests import month
from tests.stack import BIN, ROOT
from tests.test_cli_alerts import fault, tocsin

PERIOD = ("--since", "2d", "--until", "2025-10-16T00:00:00Z")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    engine = connect(f"sqlite:///{folder}/tocsin.db")
    month.make(engine, days=2)
    engine.dispose()
    return folder


def test_a_report_is_text_on_standard_output(folder: Path) -> None:
    """What it says of the last days, in 80 columns, and not a word more."""
    done = tocsin(folder, "report", *PERIOD, TOCSIN_INSTANCE="shop-1")
    assert (0, "") == (done.returncode, done.stderr)
    lines = done.stdout.splitlines()
    assert ["Health report of shop-1", "2025-10-14 00:00 to 2025-10-16 00:00 UTC (2 d)"] == lines[:2]
    assert "- mail was up 98.78 % of the time, and down for 35 min." in lines
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("form", ["html", "json", "csv", "text"])
def test_a_report_in_a_file(folder: Path, tmp_path: Path, form: str) -> None:
    """In each form it is what goes to standard output without one."""
    file = tmp_path / "report"
    done = tocsin(folder, "report", *PERIOD, "--format", form, "--output", str(file))
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
    written = file.read_text(encoding="utf-8")
    if form == "json":
        assert [2100.0] == [each["down_seconds"] for each in json.loads(written)["availability"] if each["target"] == "mail"]
    elif form == "csv":
        rows = csv.DictReader(io.StringIO(written, newline=""))
        assert ["2100.0"] == [row["value"] for row in rows if (row["name"], row["measure"]) == ("mail", "down")]
    else:
        assert "down for 35 min" in written


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--since", "7"], "--since: '7' is not a duration; write a number with ms, s, m, h or d, such as 10s or 1h30m"),
        (["--since", "400d"], "--since: makes a period of less than 1 min or more than 366 d"),
        (["--until", "2025-10-16"], "--until: has no zone; add Z for UTC, or an offset such as +02:00"),
        (["--output", "/nowhere/report"], "--output: /nowhere/report: No such file or directory"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(folder: Path, arguments: list[str], said: str) -> None:
    """With exit status 2."""
    assert [said] == fault(tocsin(folder, "report", *arguments))


def test_a_machine_without_history_has_a_report(tmp_path: Path) -> None:
    """It says that nothing was measured."""
    done = tocsin(tmp_path, "report")
    assert 0 == done.returncode, done.stderr
    assert "Nothing was measured in this period." in done.stdout


def test_on_a_terminal_it_says_how_far_it_is(folder: Path, tmp_path: Path) -> None:
    """Only there, only while it takes long, and it leaves a clean line behind."""
    script = "from service.cli import reports, main; reports.SOON = 0.0; main()"
    command = [str(BIN / "python"), "-c", script, "report", *PERIOD, "--output", str(tmp_path / "report")]
    ours, theirs = pty.openpty()
    environment = {"PATH": "/usr/bin:/bin", "TOCSIN_DATA": str(folder)}
    done = subprocess.run(command, cwd=ROOT, env=environment, stderr=theirs, timeout=60, check=False)
    os.close(theirs)
    said = os.read(ours, 100_000).decode()
    os.close(ours)
    assert 0 == done.returncode
    steps = [each.strip() for each in said.split("\r") if each.strip()]
    assert ["making the report: 0%", "making the report: 6%"] == steps[:2]
    assert said.endswith("\r")
