"""supervisord, by XML-RPC on its unix socket (http://supervisord.org/api.html).

A restart is not a stop and a start: whoever is killed between the two would leave the program stopped. The process is
signalled, and supervisord starts what ended, as it always does. So STOPPED means that a person stopped it.
"""

import os
import time
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from signal import SIGKILL
from typing import Any
from xml.parsers.expat import ExpatError
from xmlrpc.client import Error, Fault, dumps, loads  # what it reads comes from a socket that its owner alone may open

import psutil
from pydantic import BaseModel, TypeAdapter, ValidationError

from service.supervision.supervisor import State, Status, SupervisorError, UnknownServiceError
from service.supervision.unix import Server

_SECONDS = 5.0  # for one call
_STARTING = 10.0  # seconds that a start under way may take before it is cut off
_KILLED = 10.0  # seconds that a killed process may take to be gone
_PAUSE = 0.1
_SAME_START = 3.0  # seconds by which the kernel and supervisord may differ about when a process was started

_UNKNOWN_METHOD, _SHUTDOWN_STATE, _BAD_NAME, _SPAWN_ERROR, _ALREADY_STARTED, _NOT_RUNNING = 1, 6, 10, 50, 60, 70

_REMEDIES: dict[type[OSError], str] = {
    FileNotFoundError: "start it, or name its socket with `socket:`",
    ConnectionRefusedError: "start it",
    PermissionError: "run as the user it runs as, or set `chmod` and `chown` in its [unix_http_server]",
}


class _Phase(IntEnum):
    STOPPED = 0
    STARTING = 10
    RUNNING = 20
    BACKOFF = 30
    STOPPING = 40
    EXITED = 100
    FATAL = 200
    UNKNOWN = 1000


_STATES: dict[_Phase, State] = {
    _Phase.STOPPED: "stopped",
    _Phase.STARTING: "starting",
    _Phase.RUNNING: "running",
    _Phase.BACKOFF: "starting",
    _Phase.STOPPING: "stopped",
    _Phase.EXITED: "failed",
    _Phase.FATAL: "failed",
    _Phase.UNKNOWN: "failed",
}
_BY_A_PERSON = (_Phase.STOPPED, _Phase.STOPPING)


class _Process(BaseModel):
    name: str
    group: str
    state: _Phase
    pid: int  # 0 when there is none
    start: int
    stop: int
    spawnerr: str
    exitstatus: int

    @property
    def leads_group(self) -> bool:
        """Whether its group may be signalled from here: in another pid namespace the same number is some other process."""
        try:
            started = psutil.Process(self.pid).create_time()
            return os.getpgid(self.pid) == self.pid and abs(started - self.start) < _SAME_START
        except (psutil.Error, ProcessLookupError):
            return False

    @property
    def detail(self) -> str:
        if self.state == _Phase.EXITED:
            return f"exited with status {self.exitstatus}" if self.exitstatus >= 0 else "ended by a signal"
        if self.state == _Phase.STOPPED:
            return "" if self.start else "never started"
        return self.spawnerr


class _Program(BaseModel):
    """How it is ended, as supervisord.conf says."""

    name: str
    group: str
    stopsignal: int = 15
    stopwaitsecs: int = 10
    killasgroup: bool = False  # also where the file says `stopasgroup`, which supervisord does not tell


class Supervisord:
    """`name` is the program's, or GROUP:NAME.

    The stop signal goes to the process alone. Where supervisord.conf says `stopasgroup` or `killasgroup`, what is left of
    its group is killed then: it would hold the port. Who is killed between the end of a program without `autorestart`
    and its new start leaves it EXITED: that is failed, not stopped.
    """

    def __init__(self, name: str, path: Path) -> None:
        self._name = name
        self._server = Server("supervisord", path, _REMEDIES)

    def status(self) -> Status:
        process = self._process()
        # A process that is being stopped still runs: since when it is stopped cannot be said.
        since = None if process.state == _Phase.STOPPING else max(process.start, process.stop) or None
        return Status(_STATES[process.state], since, process.pid or None, self._restarts(process), process.detail)

    def restart(self, grace: float | None) -> None:
        process = self._started()
        if process.pid:
            self._end(process, grace)
        # supervisord may be about to start it by itself, or not to (`autorestart`); it does not say.
        no_waiting = False
        self._call("supervisor.startProcess", self._name, no_waiting, expected=(_ALREADY_STARTED, _SPAWN_ERROR))

    def _started(self) -> _Process:
        """The process once it is not starting any more. One that ends meanwhile counts as a failed start: too many are FATAL."""
        end = time.monotonic() + _STARTING
        while (process := self._process()).state == _Phase.STARTING and time.monotonic() < end:
            time.sleep(_PAUSE)
        return process

    def _end(self, old: _Process, grace: float | None) -> None:
        program = self._program(old)
        leads_group = program.killasgroup and old.leads_group
        stopping = old.state == _Phase.STOPPING  # by somebody before us, and we were asked all the same
        if not stopping:
            self._signal(program.stopsignal)
        end = time.monotonic() + (program.stopwaitsecs if grace is None else grace)
        killed = False
        while True:
            process = self._process()
            if process.state in _BY_A_PERSON and not stopping:
                raise SupervisorError(f"{self._name} was stopped by somebody while it was restarted; it is left so")
            if process.pid != old.pid:
                if leads_group:
                    with suppress(ProcessLookupError, PermissionError):
                        os.killpg(old.pid, SIGKILL)
                return
            if time.monotonic() >= end:
                if killed:
                    raise SupervisorError(f"{self._name} (pid {old.pid}) does not end, though it was killed")
                self._signal(9)
                killed, end = True, time.monotonic() + _KILLED
            time.sleep(_PAUSE)

    def _signal(self, number: int) -> None:
        self._call("supervisor.signalProcess", self._name, str(number), expected=(_NOT_RUNNING,))

    def _process(self) -> _Process:
        try:
            return _Process.model_validate(self._call("supervisor.getProcessInfo", self._name))
        except ValidationError:
            raise self._server.stranger() from None

    def _program(self, process: _Process) -> _Program:
        try:
            programs = TypeAdapter(list[_Program]).validate_python(self._call("supervisor.getAllConfigInfo"))
        except ValidationError:
            raise self._server.stranger() from None
        ours = (each for each in programs if (each.group, each.name) == (process.group, process.name))
        # A program that is out of the file, and not yet out of supervisord, has its defaults.
        return next(ours, _Program(name=process.name, group=process.group))

    def _restarts(self, process: _Process) -> int | None:
        """Only our own supervisord counts them."""
        counts = self._call("tocsin.restarts", expected=(_UNKNOWN_METHOD,))
        return counts.get(process.name) if isinstance(counts, dict) else None

    def _call(self, method: str, *parameters: str | bool, expected: tuple[int, ...] = ()) -> Any:
        """What it answers; None for one of the `expected` faults."""
        body = dumps(parameters, method).encode()
        answer = self._server.ask("POST", "/RPC2", _SECONDS, body, {"Content-Type": "text/xml"})
        if answer.status == 401:
            raise SupervisorError(f"supervisord at {self._server.path} asks for a password; take it out of [unix_http_server]")
        if answer.status != 200:
            raise self._server.stranger()
        try:
            (result,), _ = loads(answer.content)
        except Fault as fault:
            if fault.faultCode in expected:
                return None
            kind = UnknownServiceError if fault.faultCode == _BAD_NAME else SupervisorError
            raise kind(self._explained(fault)) from None
        except (ExpatError, Error, ValueError, LookupError, TypeError):
            raise self._server.stranger() from None
        return result

    def _explained(self, fault: Fault) -> str:
        if fault.faultCode == _BAD_NAME:
            return f"supervisord has no program {self._name!r}; `supervisorctl status` lists them, those of groups as GROUP:NAME"
        if fault.faultCode == _SHUTDOWN_STATE:
            return "supervisord is shutting down; ask again when it is back"
        return f"supervisord refuses it for {self._name!r}: {str(fault.faultString)[:300]}"
