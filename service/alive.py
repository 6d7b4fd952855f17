"""How supervise.py sees that the monitor's loop goes on: a file that says until when the next tick will be over.

The moment is the file's time of modification, on the machine's clock that is never set (CLOCK_MONOTONIC). Setting it
takes no space, so that it works on a full disk.
"""

import contextlib
import os
import time
from pathlib import Path

NAME = "monitor.alive"


def promise(folder: Path, seconds: float) -> None:
    """Within so many seconds there is another promise. A folder that cannot be written is not worth a tick."""
    file = folder / NAME
    try:
        file.touch(mode=0o600)
        os.utime(file, (0, time.monotonic() + seconds))
    except OSError:
        return


def forget(folder: Path) -> None:
    """Before another process promises: what the last one did is worth nothing, and after a reboot it is nonsense."""
    with contextlib.suppress(OSError):  # there is none, or the folder cannot be written
        os.utime(folder / NAME, (0, 0))


def overdue(folder: Path, started: float, patience: float) -> float:
    """Seconds for which the promise has been broken; 0 while it holds.

    `started` is when the process was started (CLOCK_MONOTONIC); until its first promise it has `patience` seconds.
    """
    if not os.access(folder, os.W_OK):  # a file system that has become read-only, as after a fault of the disk
        return 0.0  # nobody can promise anything there
    try:
        until = (folder / NAME).stat().st_mtime
    except OSError:
        until = 0.0
    return max(0.0, time.monotonic() - (until or started + patience))
