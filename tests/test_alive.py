"""The file by which a monitor that stands still is seen: promises, broken ones, and those of somebody else."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from service.alive import NAME, forget, overdue, promise
from tests.stack import unless


def test_a_promise_holds_until_its_time(tmp_path: Path) -> None:
    """Before it is over nothing is overdue; a new promise takes the place of the old one."""
    promise(tmp_path, 1000)
    assert 0.0 == overdue(tmp_path, 0.0, 0.0)
    promise(tmp_path, -50)
    assert 50 <= overdue(tmp_path, time.monotonic(), 1000) < 80
    promise(tmp_path, 1000)
    assert 0.0 == overdue(tmp_path, 0.0, 0.0)


@pytest.mark.parametrize(("ago", "late"), [(0, False), (29, False), (90, True)])
def test_before_the_first_promise_a_process_has_some_patience(tmp_path: Path, ago: float, late: bool) -> None:
    """Without a file the time since the start counts."""
    assert late is bool(overdue(tmp_path, time.monotonic() - ago, 60.0))


def test_what_another_process_promised_is_forgotten(tmp_path: Path) -> None:
    """A promise for ages, as one from before a reboot may be, is worth nothing after `forget`."""
    promise(tmp_path, 1e6)
    forget(tmp_path)
    assert overdue(tmp_path, time.monotonic() - 100, 60.0) >= 40
    forget(tmp_path)  # there is nothing to forget


def test_a_folder_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    """Neither a promise nor forgetting one raises: a monitor, and who watches it, go on."""
    promise(tmp_path / "no such folder", 10)
    forget(tmp_path / "no such folder")
    (tmp_path / NAME).mkdir()  # in the way
    forget(tmp_path)


@unless(os.geteuid() == 0, "only root can mount")
def test_a_folder_that_has_become_read_only_is_nobodys_fault(tmp_path: Path) -> None:
    """Where no promise can be made any more, as after a fault of the disk, none is broken."""
    folder = tmp_path / "data"
    folder.mkdir()
    promise(folder, -50)
    assert overdue(folder, 0.0, 0.0)
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        assert 0.0 == overdue(folder, 0.0, 0.0)
    finally:
        subprocess.run(["umount", folder], check=True)


def test_only_the_owner_reads_it(tmp_path: Path) -> None:
    """As everything in the data folder."""
    before = os.umask(0)
    promise(tmp_path, 10)
    os.umask(before)

    assert 0o600 == (tmp_path / NAME).stat().st_mode & 0o777
