"""One service is restarted by one at a time: a lock on a file, which is gone with the process that held it."""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # no file can be made on a disk that is full or read-only


class BusyError(Exception):
    """Somebody else is restarting it."""


@contextmanager
def holding(service: str, folder: Path) -> Iterator[int]:
    """Nobody else restarts it meanwhile. Raises BusyError, and OSError where there is no such folder.

    The lock belongs to the open file: a process that inherits the descriptor holds the service as well.
    """
    try:
        descriptor = os.open(_lock(service, folder), os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)  # then the folder is the lock, of all services
    else:
        with suppress(OSError):  # it is another user's
            os.fchmod(descriptor, 0o644)  # whatever root's umask is, the stack's own user must be able to open it
    try:
        for _ in range(4):  # who only looks whether it is held, holds it for a moment
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.05)
        else:
            raise BusyError(f"{service} is being restarted")
        yield descriptor
    finally:
        os.close(descriptor)


def under_way(service: str, folder: Path) -> bool:
    """Whether somebody is restarting it."""
    lock = _lock(service, folder)
    try:
        descriptor = os.open(lock if lock.exists() else folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # what nobody can open, nobody holds
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _lock(service: str, folder: Path) -> Path:
    return folder / f"restart-{service}.lock"


def held(folder: Path) -> frozenset[str]:
    """The services that are being restarted."""
    names = (path.stem.removeprefix("restart-") for path in folder.glob("restart-*.lock"))
    return frozenset(name for name in names if under_way(name, folder))
