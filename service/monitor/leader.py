"""Of several monitors on one database one leads, the one that holds a lock on a file; the others wait for its end.

The kernel lets go of the lock with the process, however that ends, so that there is nothing to clear away and no time to
run out. Nobody else may have the descriptor: it is closed in what this process starts (O_CLOEXEC).
"""

import errno
import fcntl
import os
from pathlib import Path

import structlog
from sqlalchemy import URL

# There is no room for one more descriptor, which says nothing about the lock.
_SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

_log = structlog.get_logger()


class Leader:
    """Whether this process leads. It is never given back: what a stop does not wait for goes on until the process ends."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._leads = False

    def take(self) -> bool:
        """Whether this is the one that leads, from now on.

        Where no such lock can be had at all, as with a disk that is full before the first start, it leads and says so:
        two that watch are better than none.
        """
        if not self._leads:
            try:
                self._leads = self._locked()
            except OSError as error:
                if error.errno in _SHORT:
                    return False
                _log.warning("no file can be locked: nothing keeps a second monitor from this database", reason=error.strerror)
                self._leads = True
        return self._leads

    def _locked(self) -> bool:
        descriptor = os.open(self._file, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                return False
            raise
        return True


def lock_of(address: URL, folder: Path) -> Path:
    """The file that is locked: beside the database, as two monitors may have one database and two data folders.

    Of a database that is no file it is one in `folder`, of data: then only monitors that share this folder know each other.
    """
    if address.get_backend_name() == "sqlite" and address.database:
        # Whatever it is called: by a link it is the same file.
        return Path(f"{Path(address.database).resolve()}-monitor.lock")
    return folder / "monitor.lock"
