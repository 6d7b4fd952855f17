"""What all supervisors can do, and what they say."""

from dataclasses import dataclass
from typing import Literal, Protocol

State = Literal["running", "starting", "stopped", "failed"]


class SupervisorError(Exception):
    """The supervisor does not answer, or not with what was asked; says which one, why, and what to do."""


class UnknownServiceError(SupervisorError):
    """The supervisor answers, and has no service of that name."""


@dataclass(frozen=True)
class Status:
    """How a service is. `since` in seconds since 1970.

    Stopped: somebody stopped it on purpose (or is about to), or it was never started. Failed: it ended by itself, and its
    supervisor does not start it again.
    """

    state: State
    since: float | None = None
    pid: int | None = None
    restarts: int | None = None  # how often its supervisor has started it again by itself; None where it does not count
    detail: str = ""  # why it is so, in the supervisor's words


class Supervisor(Protocol):
    """What all of them can do. Methods raise SupervisorError, and end within a bounded time."""

    def status(self) -> Status: ...

    def restart(self, grace: float | None) -> None:
        """End it and have it started again; it need not run yet on return.

        `grace`: seconds that it may take to end before it is killed; None: as long as its supervisor allows it.
        Interrupted at any point, it is not left stopped.
        """
        ...
