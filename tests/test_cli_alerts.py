"""`tocsin alerts`, `ack` and `silence` as processes of their own, on a database that the real monitor writes."""

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from service import silences
from service.database import connect, reading
from service.monitor.probe import Sample
from tests.stack import BIN, ROOT, unless
from tests.ticking import Ticking, cpu, up

NOW = 1_792_150_860.0  # 2026-10-16T11:41:00Z


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = connect(f"sqlite:///{tmp_path}/tocsin.db")
    yield engine
    engine.dispose()


def tocsin(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {"PATH": "/usr/bin:/bin", "TOCSIN_DATA": str(folder), "LOGNAME": "ann", **environment}
    return subprocess.run(
        [BIN / "tocsin", *arguments], cwd=ROOT, env=given, capture_output=True, text=True, timeout=60, check=False
    )


def fault(finished: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines of a fault: on standard error, with status 2, and nothing else."""
    assert (2, "") == (finished.returncode, finished.stdout)
    assert "Traceback" not in finished.stderr
    return finished.stderr.splitlines()


def every(engine: Engine) -> list[silences.Silence]:
    with reading(engine) as connection:
        return silences.every(connection)


def test_alerts_are_a_table(tmp_path: Path, engine: Engine) -> None:
    """One line for each, what fires first, with everything that `ack` needs and what keeps it quiet."""
    tocsin(tmp_path, "silence", "add", "target=db", "--for", "1h", "--author", "Zoë")
    monitor = Ticking(engine)
    now = time.time()
    monitor.tick(now - 1, up("db", 0), up("web", 0), up("shop", 0), cpu("shop", 90))
    monitor.tick(now, up("db", 0), up("web", 0), up("shop", 0), cpu("shop", 90))
    (fingerprint,) = re.findall(r"^(\w{16})  firing .* shop ", tocsin(tmp_path, "alerts").stdout, re.MULTILINE)
    assert (0, "acknowledged: TargetDown on shop\n", "") == (
        (done := tocsin(tmp_path, "ack", fingerprint, "--comment", "mine")).returncode,
        done.stdout,
        done.stderr,
    )
    finished = tocsin(tmp_path, "alerts")
    head, *rows = finished.stdout.splitlines()

    assert (0, "") == (finished.returncode, finished.stderr)
    assert ["FINGERPRINT", "STATE", "SEVERITY", "ALERT", "TARGET", "SINCE", "NOTES"] == head.split()
    assert ["firing", "firing", "firing", "pending"] == [row.split()[1] for row in rows]
    (silence,) = every(engine)
    notes = {row.split()[-1 if "pending" in row else 4]: row[head.index("NOTES") :] for row in rows}
    assert f"silenced by Zoë ({silence.id})" == notes["db"]
    assert ("held for db", "acknowledged by ann") == (notes["web"], notes["shop"])


def test_a_silence_is_added_listed_and_ended(tmp_path: Path, engine: Engine) -> None:
    """The whole life of one; who does it is the login name when nothing else is said."""
    added = tocsin(tmp_path, "silence", "add", "target=db", 'alert=~"High.*"', "--for", "2h", "--comment", "two\nlines")
    (silence,) = every(engine)
    assert (0, "") == (added.returncode, added.stderr)
    assert added.stdout.startswith(f"{silence.id}  until 20")
    assert ("ann", "two\nlines", 7200.0) == (silence.author, silence.comment, round(silence.ends - silence.starts, 3))

    head, row = tocsin(tmp_path, "silence", "list").stdout.splitlines()
    assert ["ID", "STATE", "FROM", "UNTIL", "AUTHOR", "MATCHERS", "COMMENT"] == head.split()
    assert [silence.id, "active"] == row.split()[:2]
    assert row.endswith('ann     target="db" alert=~"High.*"  two lines')

    assert f"{silence.id}  expired\n" == tocsin(tmp_path, "silence", "expire", silence.id).stdout
    assert ("", "none\n") == ((empty := tocsin(tmp_path, "silence", "list")).stdout, empty.stderr)
    assert " expired " in tocsin(tmp_path, "silence", "list", "--all").stdout
    (again,) = fault(tocsin(tmp_path, "silence", "expire", silence.id))
    assert re.fullmatch(rf"the silence {silence.id} ended at 20\S+Z; add a new one", again)


def test_a_silence_can_begin_later(tmp_path: Path, engine: Engine) -> None:
    """`--from` is when; `--author` is who."""
    tocsin(tmp_path, "silence", "add", "target=db", "--for", "1h", "--from", "2100-01-01T02:00:00+02:00", "--author", "ben")
    (silence,) = every(engine)
    assert ("pending", 4_102_444_800.0, "ben") == (silence.state(NOW), silence.starts, silence.author)


def test_every_fault_of_a_silence_is_a_line(tmp_path: Path, engine: Engine) -> None:
    """All are told at once, by the name of the option, and nothing is added."""
    finished = tocsin(tmp_path, "silence", "add", "target==db", "--for", "2", "--from", "2026-10-16", "--author", " ")
    assert ["matchers[0]", "--from", "--for", "--author"] == [line.partition(": ")[0] for line in fault(finished)]
    assert [] == every(engine)


def test_what_is_not_there_is_a_line(tmp_path: Path, engine: Engine) -> None:
    """An unknown alert, an unknown silence, and an alert that does not fire."""
    Ticking(engine).tick(NOW, cpu("shop", 90))
    fingerprint = tocsin(tmp_path, "alerts").stdout.splitlines()[1].split()[0]

    assert ["there is no alert 'x'"] == fault(tocsin(tmp_path, "ack", "x"))
    assert ["there is no silence 'x'"] == fault(tocsin(tmp_path, "silence", "expire", "x"))
    assert ["HighCpu on shop is pending; only what fires can be acknowledged"] == fault(tocsin(tmp_path, "ack", fingerprint))


@unless(os.geteuid() == 0, "only root can become a user without a name")
def test_without_a_login_name_an_author_must_be_given(tmp_path: Path) -> None:
    """Nothing is made up: the option that is missing is named."""
    import pwd

    nobody = next(number for number in range(50_000, 60_000) if number not in {each.pw_uid for each in pwd.getpwall()})
    code = "import os, pwd, sys; from service.cli import alerts, main; sys.argv[1:] = ['ack', 'x']; "
    code += f"os.setuid({nobody}); main()"
    finished = subprocess.run(
        [BIN / "python", "-c", code],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "TOCSIN_DATA": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "this user has no login name; say who you are with --author" in "\n".join(fault(finished))


def test_what_another_machine_says_is_no_command_to_the_terminal(tmp_path: Path, engine: Engine) -> None:
    """The label of a mount is shown with its control characters spelled out."""
    Ticking(engine).tick(NOW, Sample("shop", "cpu_usage", 90.0, "percent", "host", {"mount": "/\x1b[2J\n\ud800é"}))
    shown = tocsin(tmp_path, "alerts").stdout
    assert "shop /\\x1b[2J\\n\\ud800é" in shown
    assert 2 == len(shown.splitlines())


def test_a_database_that_is_none_is_a_line(tmp_path: Path) -> None:
    """A damaged file ends with one line and status 1, as every command on the database does."""
    (tmp_path / "tocsin.db").write_bytes(b"no database" * 1000)
    finished = tocsin(tmp_path, "alerts")
    assert (1, "") == (finished.returncode, finished.stdout)
    assert ["file is not a database"] == [line.rpartition(": ")[2] for line in finished.stderr.splitlines()]


def test_a_busy_database_is_a_line(tmp_path: Path, engine: Engine) -> None:
    """When another process does not let go, the command says so."""
    with engine.begin():
        finished = tocsin(tmp_path, "silence", "add", "target=db", "--for", "1h")
    assert ["database is locked"] == [line.rpartition(": ")[2] for line in fault(finished)]
    assert [] == every(engine)
