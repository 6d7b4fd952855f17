"""systemd, by `systemctl`: an argument list, never a shell.

Its properties are described in org.freedesktop.systemd1(5). A restart is one job of systemd's own: once it is queued, it
is carried out whatever becomes of us.
"""

import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass

from service.supervision.supervisor import State, Status, SupervisorError, UnknownServiceError

_SECONDS = 10.0  # for one call
_LONGEST = 300.0  # seconds for a restart; a unit may allow itself any time to stop
_PAUSE = 0.25

_STATES: dict[str, State] = {
    "active": "running",
    "reloading": "running",
    "refreshing": "running",
    "activating": "starting",  # and waiting to be started again
    "deactivating": "stopped",
    "inactive": "stopped",  # also what ended by itself without a fault: systemd does not tell the two apart
}
# Times of the monotonic clock: they are the same in every version and time zone.
_PROPERTIES = (
    "LoadState",
    "ActiveState",
    "SubState",
    "Result",
    "MainPID",
    "NRestarts",
    "InvocationID",
    "Job",
    "ActiveEnterTimestampMonotonic",
    "StateChangeTimestampMonotonic",
)


@dataclass(frozen=True)
class _Unit:
    properties: Mapping[str, str]

    def text(self, name: str) -> str:
        return self.properties.get(name, "")  # not every kind of unit has every one

    def number(self, name: str) -> int | None:
        return int(self.text(name)) if self.text(name).isdecimal() else None

    @property
    def since(self) -> float | None:
        running = self.text("ActiveState") in ("active", "reloading", "refreshing")  # a reload does not begin it anew
        entered = self.number("ActiveEnterTimestampMonotonic" if running else "StateChangeTimestampMonotonic")
        return time.time() - (time.monotonic() - entered / 1e6) if entered else None

    @property
    def detail(self) -> str:
        said = [self.text(name) for name in ("LoadState", "SubState", "Result")]
        usual = ("", "loaded", "running", "dead", "failed", "success")
        return ", ".join(word for word in said if word not in usual)


class Systemd:
    """`name` is the unit's; without a suffix it is a service."""

    def __init__(self, name: str) -> None:
        self._name = name

    def status(self) -> Status:
        unit = self._unit()
        state = _STATES.get(unit.text("ActiveState"), "failed")
        return Status(state, unit.since, unit.number("MainPID") or None, unit.number("NRestarts"), unit.detail)

    def restart(self, grace: float | None) -> None:
        before = self._unit()
        self._systemctl("restart", "--no-block")
        began = time.monotonic()
        killed = False
        while (unit := self._unit()).text("Job") and unit.text("InvocationID") == before.text("InvocationID"):
            waited = time.monotonic() - began
            if waited > _LONGEST:
                raise SupervisorError(f"systemd has not restarted {self._name} within {_LONGEST:g} s; it is {unit.detail}")
            if grace is not None and waited >= grace and not killed and unit.text("ActiveState") == "deactivating":
                self._systemctl("kill", "--signal=KILL")
                killed = True
            time.sleep(_PAUSE)

    def _unit(self) -> _Unit:
        said = self._systemctl("show", f"--property={','.join(_PROPERTIES)}")
        unit = _Unit(dict(line.split("=", 1) for line in said.splitlines() if "=" in line))
        if not unit.text("ActiveState"):
            raise SupervisorError(f"systemctl says nothing of {self._name}'s state; is it systemd's own?")
        if unit.text("LoadState") == "not-found":
            raise UnknownServiceError(f"systemd has no unit {self._name!r}; `systemctl list-units --all` lists them")
        return unit

    def _systemctl(self, verb: str, option: str) -> str:
        # Texts as they are in the sources, and none of our secrets.
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
        command = ["systemctl", "--no-ask-password", verb, option, "--", self._name]
        try:
            done = subprocess.run(  # noqa: S603 - a list, and the name is checked by service.services
                command, capture_output=True, check=False, env=environment, stdin=subprocess.DEVNULL, timeout=_SECONDS
            )
        except FileNotFoundError:
            raise SupervisorError("there is no `systemctl` here; a service of systemd needs Tocsin to run beside it") from None
        except OSError as error:
            raise SupervisorError(f"systemctl cannot be started: {error.strerror}") from None
        except subprocess.TimeoutExpired:
            raise SupervisorError(f"systemctl {verb} gives no answer within {_SECONDS:g} s") from None
        if done.returncode:
            raise SupervisorError(self._explained(verb, done.stderr.decode(errors="replace")))
        return done.stdout.decode(errors="replace")

    def _explained(self, verb: str, said: str) -> str:
        fault = (said.strip().splitlines() or ["it does not say why"])[0][:300]
        refused = any(words in said for words in ("authentication required", "Access denied", "Permission denied"))
        remedy = "; let this user manage units with a rule of polkit, or run as root" if refused else ""
        return f"systemctl {verb} fails for {self._name!r}: {fault}{remedy}"
