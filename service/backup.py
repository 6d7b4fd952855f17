"""Copies of the database while it is in use: SQLite's online backup (https://www.sqlite.org/backup.html)."""

import contextlib
import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import URL

FOLDER = "backups"  # in the data folder
_BEGUN = ".tocsin-backup"  # one that is not whole yet


class BackupError(Exception):
    """There is no copy; the text says why."""


def back_up(address: URL, folder: Path, job: str, keep: int, now: float) -> Path:
    """Copy the database into `backups` of the data folder; the new copy. Of those of this job `keep` stay, it among them.

    The copy is of one moment, whatever is written meanwhile, and is checked before it gets its name. Raises BackupError;
    what was there before is then still there, and nothing else.
    """
    if address.get_backend_name() != "sqlite" or not address.database:
        raise BackupError("only a database of SQLite in a file can be copied; for PostgreSQL use pg_dump")
    place = folder / FOLDER
    try:
        place.mkdir(exist_ok=True)
        made = _free(place, job, now)
        with _begun(place / _BEGUN) as copy:
            _copy(Path(address.database), copy)
            copy.replace(made)
        _to_disk(place)
        # Never the one that was just made: where the clock was set back, it is not the newest by its name.
        ours = re.compile(rf"tocsin-{re.escape(job)}-\d{{8}}T\d{{6}}Z\.db")
        others = sorted((path for path in place.iterdir() if ours.fullmatch(path.name) and path != made), reverse=True)
        for old in others[keep - 1 :]:
            old.unlink()
    except OSError as error:
        raise BackupError(f"the folder {FOLDER}: {error.strerror}") from error
    except sqlite3.Error as error:
        raise BackupError(f"the database: {error}") from error
    return made


def _free(place: Path, job: str, now: float) -> Path:
    """Named by the second, or the next one that no copy has."""
    while True:
        made = place / f"tocsin-{job}-{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%SZ}.db"
        if not made.exists():
            return made
        now += 1


@contextlib.contextmanager
def _begun(copy: Path) -> Iterator[Path]:
    """A file that is gone afterwards, with what SQLite puts beside it; so is what one before has left that was killed."""

    def remove() -> None:
        for suffix in ("", "-journal", "-wal", "-shm"):
            copy.with_name(copy.name + suffix).unlink(missing_ok=True)

    remove()
    try:
        yield copy
    finally:
        remove()


def _copy(database: Path, copy: Path) -> None:
    with (
        closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=rw", uri=True)) as source,
        closing(sqlite3.connect(copy)) as target,
    ):
        shutil.copymode(database, copy)
        # All pages in one step: begun anew whenever somebody writes, it might never come to an end. In a database with a
        # write-ahead log nobody waits for it.
        source.backup(target, pages=-1)
        target.execute("PRAGMA journal_mode=DELETE")  # one file, whole by itself
        found = target.execute("PRAGMA integrity_check").fetchone()[0]
        if found != "ok":
            raise BackupError(f"the copy is not whole: {found}")
    _to_disk(copy)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
