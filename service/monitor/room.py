"""Whether this process may still have what a tick takes.

A monitor that may not is no good witness: what it cannot ask would seem to be down. It ends, and a new one goes on from the
database.
"""

import errno
import mmap
import os
import resource

ENOUGH = 64 << 20  # bytes of address space: the stacks of some threads


def has_files() -> bool:
    """Whether a file can be opened. Want of that goes by many names, such as a name that does not resolve."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno not in (errno.EMFILE, errno.ENFILE)
    return True


def take_files(number: int) -> int:
    """Let this process open so many files at once, if it may; how many it may open then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return number
    if soft < number:
        soft = number if hard == resource.RLIM_INFINITY else min(number, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft


def has_memory() -> bool:
    """Whether there is room for threads: in Python one that finds none keeps waiting who has started it."""
    try:
        mmap.mmap(-1, ENOUGH, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError:
        return False
    return True
