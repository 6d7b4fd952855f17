"""Copies of a database that is in use: whole, of one moment, so many of them, and never half of one."""

import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, insert, make_url, select

from service import backup
from service.backup import BackupError, back_up
from service.configuration import Configuration
from service.database import connect
from service.monitor.loop import Signals, run
from service.tables import monitor, silences

NOW = 1_792_150_860.0  # 2026-10-16T11:41:00Z
JOB = "nightly"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = connect(f"sqlite:///{tmp_path}/tocsin.db")
    yield engine
    engine.dispose()


def said(number: int) -> dict[str, Any]:
    times = dict.fromkeys(("starts", "ends", "created", "updated"), 0.0)
    return {"id": f"silence-{number}", "matchers": ["target=shop"], "author": "ann", "comment": "x" * 2000, **times}


def silence(engine: Engine, number: int) -> None:
    with engine.begin() as connection:
        connection.execute(insert(silences).values(said(number)))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / backup.FOLDER).iterdir())


def test_a_copy_is_whole_while_it_is_written(tmp_path: Path, engine: Engine) -> None:
    """Another thread writes all the time: each copy opens, is whole, and has what was committed in its order, without gaps."""
    stop = threading.Event()
    with engine.begin() as connection:
        connection.execute(insert(silences), [said(number) for number in range(3000)])  # copying it takes a while

    def write() -> None:
        number = 3000
        while not stop.is_set():
            silence(engine, number)
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        copies = [back_up(engine.url, tmp_path, JOB, 10, NOW + second) for second in range(3)]
    finally:
        stop.set()
        writer.join()
    counts = []
    for copy in copies:
        with closing(sqlite3.connect(copy)) as opened:
            assert ("ok",) == opened.execute("PRAGMA integrity_check").fetchone()
            found = [int(identity[8:]) for (identity,) in opened.execute("SELECT id FROM silences")]
        assert list(range(len(found))) == sorted(found)
        counts.append(len(found))
    assert sorted(counts) == counts
    assert counts[0] < counts[-1]
    assert [copy.name for copy in copies] == names(tmp_path)


def test_the_newest_are_kept(tmp_path: Path, engine: Engine) -> None:
    """So many as asked for; what has another name is none of ours and stays."""
    place = tmp_path / backup.FOLDER
    place.mkdir()
    (place / "tocsin-mine.db").write_text("mine")
    for second in range(5):
        back_up(engine.url, tmp_path, JOB, 2, NOW + second)
    assert ["tocsin-mine.db", "tocsin-nightly-20261016T114103Z.db", "tocsin-nightly-20261016T114104Z.db"] == names(tmp_path)


def test_copies_of_one_job_are_none_of_another(tmp_path: Path, engine: Engine) -> None:
    """Each keeps its own, also where one is called like the beginning of the other."""
    for second, job in enumerate(["a", "a-b", "a", "a-b", "a"]):
        back_up(engine.url, tmp_path, job, 1 if job == "a" else 2, NOW + second)
    assert ["20261016T114104Z", "b-20261016T114101Z", "b-20261016T114103Z"] == [
        name.removeprefix("tocsin-a-").removesuffix(".db") for name in names(tmp_path)
    ]


def test_the_copy_that_was_just_made_stays(tmp_path: Path, engine: Engine) -> None:
    """Where the clock was set back, it is kept beside the newest of the others; of two in one second none is lost."""
    for moment in (NOW, NOW + 60, NOW + 120, NOW - 3600):
        made = back_up(engine.url, tmp_path, JOB, 2, moment)
    assert ["tocsin-nightly-20261016T104100Z.db", "tocsin-nightly-20261016T114300Z.db"] == names(tmp_path)
    assert made.exists()
    assert made != back_up(engine.url, tmp_path, JOB, 3, NOW - 3600)
    assert 3 == len(names(tmp_path))


def test_a_copy_is_as_private_as_the_database(tmp_path: Path, engine: Engine) -> None:
    """Who may not read the one may not read the other."""
    (tmp_path / "tocsin.db").chmod(0o600)
    assert 0o600 == back_up(engine.url, tmp_path, JOB, 2, NOW).stat().st_mode & 0o777


FULL = """
import resource, sys
from pathlib import Path
from sqlalchemy import make_url
from service.backup import BackupError, back_up
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    back_up(make_url(sys.argv[1]), Path(sys.argv[2]), 'nightly', 1, float(sys.argv[3]))
except BackupError as error:
    print(error)
"""


def test_a_disk_that_is_full_leaves_what_was_there(tmp_path: Path, engine: Engine) -> None:
    """The copy that cannot be written is a failure with a reason; nothing of it stays, and the one before does."""
    back_up(engine.url, tmp_path, JOB, 1, NOW)
    before = names(tmp_path)
    command = [sys.executable, "-c", FULL, f"sqlite:///{tmp_path}/tocsin.db", str(tmp_path), str(NOW + 60)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("the database: ")
    assert str(tmp_path) not in done.stdout
    assert before == names(tmp_path)


def test_what_a_killed_one_has_left_is_removed(tmp_path: Path, engine: Engine) -> None:
    """The next one begins anew and leaves only whole copies."""
    place = tmp_path / backup.FOLDER
    place.mkdir()
    for suffix in ("", "-journal", "-wal", "-shm"):
        (place / f"{backup._BEGUN}{suffix}").write_bytes(b"half")
    back_up(engine.url, tmp_path, JOB, 1, NOW)
    assert ["tocsin-nightly-20261016T114100Z.db"] == names(tmp_path)


def test_a_damaged_database_is_not_copied(tmp_path: Path, engine: Engine) -> None:
    """A copy that is not whole gets no name, and removes no older one that is."""
    for number in range(50):
        silence(engine, number)
    back_up(engine.url, tmp_path, JOB, 1, NOW)
    engine.dispose()  # the last to close it, so all is in the one file
    damaged = tmp_path / "tocsin.db"
    content = bytearray(damaged.read_bytes())
    assert 2 == content.count(b"silence-10")  # the row, and its place in the index: only who compares them finds it
    content[(where := content.rfind(b"silence-10")) : where + 10] = b"silence-??"
    damaged.write_bytes(content)
    with pytest.raises(BackupError, match=r"^the copy is not whole: "):
        back_up(engine.url, tmp_path, JOB, 1, NOW + 60)
    assert ["tocsin-nightly-20261016T114100Z.db"] == names(tmp_path)


@pytest.mark.parametrize("address", ["postgresql://u:secret@db/tocsin", "sqlite://"])
def test_another_database_is_not_copied(tmp_path: Path, address: str) -> None:
    """The reason says what does, and holds nothing of the address."""
    with pytest.raises(BackupError, match=r"^only a database of SQLite in a file can be copied; for PostgreSQL use pg_dump$"):
        back_up(make_url(address), tmp_path, JOB, 1, NOW)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, engine: Engine) -> None:
    """By what it is, without its path."""
    (tmp_path / backup.FOLDER).write_text("a file")
    with pytest.raises(BackupError, match=r"^the folder backups: File exists$"):
        back_up(engine.url, tmp_path, JOB, 1, NOW)


def test_the_monitor_goes_on_from_a_restored_copy(tmp_path: Path, engine: Engine) -> None:
    """Put in the place of a database that is lost, as docs/jobs.md says, it is opened, has what it had, and is written on."""
    silence(engine, 1)
    copy = back_up(engine.url, tmp_path, JOB, 1, NOW)
    engine.dispose()
    for path in tmp_path.glob("tocsin.db*"):
        path.unlink()
    shutil.copy(copy, tmp_path / "tocsin.db")

    restored = connect(f"sqlite:///{tmp_path}/tocsin.db")
    signals = Signals()
    nothing = Configuration(interval=0.1, targets=(), rules=(), receivers=())
    thread = threading.Thread(target=run, args=(lambda: nothing, restored, signals), kwargs={"folder": tmp_path})
    thread.start()
    end = time.monotonic() + 20
    ticked = None
    while ticked is None and time.monotonic() < end:
        time.sleep(0.05)
        with restored.connect() as connection:
            ticked = connection.execute(select(monitor.c.ticked)).scalar()
    signals.stopping.set()
    thread.join(30)
    with restored.connect() as connection:
        assert ["silence-1"] == connection.execute(select(silences.c.id)).scalars().all()
    restored.dispose()
    assert ticked is not None
