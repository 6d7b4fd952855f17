"""Where gunicorn's workers count together: prometheus_client's files, in memory, by a number instead of a process id.

By process id there would be more files with each worker that is replaced. So each worker has a slot, the least number that no
living one has, and goes on in the files of who had it before: nothing is lost, nothing grows, no count goes back.

gunicorn's master imports this before gevent has patched anything, so it must not import prometheus_client, which loads ssl.
"""

import fcntl
import os
import shutil
import struct
import tempfile
from collections.abc import Collection
from itertools import count
from pathlib import Path
from typing import ClassVar

import structlog

MEMORY = Path("/dev/shm")  # noqa: S108 - by mkdtemp
_KINDS = ("counter", "histogram")  # a file for each, as prometheus_client names them
_SIZE = 1 << 16  # bytes; prometheus_client's own, and doubled by it
_ROOM = 1 << 14  # bytes; more than the series of one more route take in a file
_USED = struct.Struct("i")  # at the head of a file: how many of its bytes are used, these eight with them

_log = structlog.get_logger()


class Folder:
    """Of one master, and of no other: two that run at the same time count apart. Raises OSError.

    What masters of this user that were killed have left behind is deleted: nobody holds its lock.
    """

    def __init__(self, memory: Path = MEMORY) -> None:
        name = f"tocsin-{os.getuid()}-"
        for old in memory.glob(f"{name}*"):
            _delete_unheld(old)
        # Private, and nobody can have made it before. It has the name only when its lock is held: else it would be deleted.
        new = Path(tempfile.mkdtemp(prefix=f".{name}", dir=memory))
        self._lock = _locked(new)
        self.path = new.rename(new.with_name(new.name[1:]))

    def let_go(self) -> None:
        """For a worker: it must not hold what its master holds."""
        os.close(self._lock)

    def delete(self) -> None:
        """With all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _locked(path: Path) -> int:
    """Its descriptor. Raises BlockingIOError when another holds it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    return descriptor


def _delete_unheld(path: Path) -> None:
    try:
        lock = _locked(path)
    except OSError:
        return
    shutil.rmtree(path, ignore_errors=True)
    os.close(lock)


def folder(memory: Path = MEMORY) -> Folder | None:
    """None, and a line in the log, where it cannot be made."""
    try:
        return Folder(memory)
    except OSError as error:
        _log.error("requests are not counted: there is no place in memory", reason=str(error))
        return None


def slot(taken: Collection[int]) -> int:
    """The least that is free."""
    return next(number for number in count() if number not in taken)


class Shared:
    """The files of this worker. Without `folder` there are none; `counts` is whether it has a place in them."""

    own: ClassVar["Shared | None"] = None  # None where no gunicorn runs

    def __init__(self, folder: Path | None, slot: int) -> None:
        self.folder = folder
        self.counts = False
        self._files = [folder / f"{kind}_{slot}.db" for kind in _KINDS] if folder else []

    def make(self) -> None:
        """Make the files that are not there yet, and anew what is no such file. Raises OSError."""
        for file in self._files:
            if not _sound(file):
                # Whole before it has its name: who reads them all meanwhile must not find half of one.
                new = file.with_suffix(".new")
                with new.open("wb") as made:
                    os.posix_fallocate(made.fileno(), 0, _SIZE)
                    made.write(_USED.pack(8))
                new.rename(file)
        self.counts = bool(self._files)

    def reserve(self) -> None:
        """Room for the series of one more route, before it is asked for. Raises OSError.

        prometheus_client makes a file longer than the memory it has: on a full file system that is no error but the end of
        the process (SIGBUS).
        """
        for path in self._files:
            with path.open("r+b") as file:
                size = os.fstat(file.fileno()).st_size
                if _USED.unpack(file.read(_USED.size))[0] + _ROOM > size:
                    os.posix_fallocate(file.fileno(), 0, 2 * size)


def _sound(file: Path) -> bool:
    """Whether it can be read to its end. A worker that is killed leaves it so, whatever it was doing."""
    from prometheus_client.multiprocess import MultiProcessCollector  # noqa: PLC0415 - not before the patch

    try:
        content = file.read_bytes()
        (used,) = _USED.unpack_from(content)
        whole = 2 * _USED.size <= int(used) <= len(content)
        MultiProcessCollector.merge([str(file)])  # type: ignore[no-untyped-call]
    except FileNotFoundError:
        return False
    except Exception:  # noqa: BLE001 - whatever stands there; a worker must start all the same
        whole = False
    if not whole:
        _log.error("the counts of a worker cannot be read, and begin anew")
    return whole


def share(folder: Path | None, slot: int) -> None:
    """Let this worker count in files of that slot. After gevent's patch, and before anything makes a metric."""
    Shared.own = shared = Shared(folder, slot)
    if folder is None:
        return
    try:
        shared.make()
    except OSError as error:
        _log.error("this worker does not count its requests", reason=str(error))
        return
    from prometheus_client import values  # noqa: PLC0415 - not before the patch

    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)  # where prometheus_client looks for them
    values.ValueClass = values.MultiProcessValue(process_identifier=lambda: slot)  # type: ignore[no-untyped-call]
