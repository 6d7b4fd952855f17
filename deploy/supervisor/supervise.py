"""Runs supervisord with supervisord.conf: its own log as JSON lines, and what is due when a program is given up (FATAL).

    supervise.py            in a container: logs to standard output; a program that reaches FATAL ends it, non-zero
    supervise.py --native   on a machine without Docker: logs to files in the data folder, nginx as a third program

In a container somebody restarts what ends; a container that stays up without its program is a fault nobody sees.
A native supervisord has nobody above it, so it keeps the other programs running. Both have an alert put into the outbox.
It stays for as long as they do, and so loads little: `environment` reads the settings, and ends.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

import structlog
from supervisor import events, loggers  # type: ignore[attr-defined]  # supervisor has no types
from supervisor.medusa.asyncore_25 import ExitNow
from supervisor.options import ServerOptions
from supervisor.states import RUNNING_STATES, ProcessStates, SupervisorStates
from supervisor.supervisord import Supervisor

from service import alive, logs

HOME = Path(__file__).resolve().parents[2]
GIVEN_UP = 70  # exit status after FATAL (sysexits.h, EX_SOFTWARE)
GRACE = 4.0  # seconds the other programs and the last alert get then: the container is to end within five
SHORT_LIFE = 30.0  # seconds; who ends with an error sooner has not started, whatever `startsecs` says
SHORT_LIVES = 4  # in a row, then it is given up: as many tries as `startretries` gives
FIRST_TICK = 120.0  # seconds that a started monitor has for its first tick
NATIVE_LOG_BYTES = 10_000_000


class File:
    """The log of a supervisord without Docker: rotated, and the standard output and error of it and of what it starts."""

    def __init__(self, path: Path, longest: int) -> None:
        self._file = loggers.RotatingFileHandler(str(path), maxBytes=longest, backupCount=5)
        self._take()

    def rotate(self) -> None:
        """Begin a new file where this one has become too long."""
        try:
            self._file.doRollover()
        except OSError:  # a full disk: it goes on in the file that is open
            self._file.stream = os.fdopen(os.dup(1), "ab")
        self._take()

    def _take(self) -> None:
        for descriptor in (1, 2):
            os.dup2(self._file.stream.fileno(), descriptor)


class Lines(loggers.Handler):  # type: ignore[misc]  # supervisor has no types
    """supervisord's messages, as lines like those of all processes."""

    _methods: ClassVar = {"CRIT": "critical", "ERRO": "error", "WARN": "warning", "INFO": "info"}

    def __init__(self, file: File | None) -> None:
        super().__init__()
        self._log = structlog.get_logger()
        self._file = file

    def emit(self, record: Any) -> None:
        level = loggers.LOG_LEVELS_BY_NUM.get(record.level, "INFO")
        message = record.asdict()["message"].strip()
        if message.endswith("running without any HTTP authentication checking"):
            level = "INFO"  # it is a socket that only our own user may open (mode 0600)
        getattr(self._log, self._methods.get(level, "debug"))(message, **{"event.category": "process"})
        if self._file:
            self._file.rotate()

    def close(self) -> None:
        pass

    def reopen(self) -> None:
        pass


class Options(ServerOptions):  # type: ignore[misc]  # supervisor has no types
    def __init__(self, file: File | None) -> None:
        super().__init__()
        self._file = file

    def make_logger(self) -> None:
        self.logger = loggers.getLogger(self.loglevel)
        self.logger.addHandler(Lines(self._file))
        for message in (*self.parse_criticals, *self.parse_warnings):
            self.logger.warn(message)  # noqa: G010 - supervisor's logger has no `warning`


class Restarts:
    """`tocsin.restarts()` in supervisord's XML-RPC: how often it has started each program again, since it itself runs.

    Whatever ended the program counts, also the signal with which Tocsin restarts one. A stop and a start by hand do not.
    """

    def __init__(self, supervisord: Supervisor) -> None:
        self._counts = {name: 0 for group in supervisord.process_groups.values() for name in group.processes}
        events.subscribe(events.ProcessStateStartingEvent, self._count)

    def restarts(self) -> dict[str, int]:
        """How often each program has been started again since supervisord runs."""
        return self._counts

    def _count(self, event: Any) -> None:
        if event.from_state in (ProcessStates.EXITED, ProcessStates.BACKOFF):
            name = event.process.config.name  # one that was added since is not among them
            self._counts[name] = self._counts.get(name, 0) + 1


class TidySupervisor(Supervisor):  # type: ignore[misc]  # supervisor has no types
    """Ends what a dead program left behind, and a monitor that stands still. Sees to it that a FATAL is not overlooked."""

    def __init__(self, options: Options, runtime: Path, *, native: bool) -> None:
        super().__init__(options)
        self.gave_up = False
        self._runtime = runtime
        self._native = native
        self._announcers: list[subprocess.Popen[bytes]] = []
        self._monitor_started = time.monotonic()
        self._short_lives: dict[str, int] = {}

    def runforever(self) -> None:
        # Backoff is what it is called when it ends soon after its start.
        events.subscribe(events.ProcessStateExitedEvent, self.sweep)
        events.subscribe(events.ProcessStateBackoffEvent, self.sweep)
        events.subscribe(events.ProcessStateExitedEvent, self.count_short_life)
        events.subscribe(events.ProcessStateStartingEvent, self.note_start)
        events.subscribe(events.Tick5Event, self.look_at_monitor)
        events.subscribe(events.ProcessStateFatalEvent, self.give_up)
        # supervisord's own answer would be to begin anew, and here it would end. What people want is monitor.yaml read again.
        signal.signal(signal.SIGHUP, self.hand_on)
        super().runforever()

    def sweep(self, event: Any) -> None:
        """A master that was killed leaves workers that hold its port, and its successor could not start."""
        if event.process.pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(event.process.pid, signal.SIGKILL)  # every program leads a process group of its own

    def count_short_life(self, event: Any) -> None:
        """supervisord forgets a start that fails later than `startsecs`, as on half a core, and would try it for ever."""
        process = event.process
        short = process.exitstatus > 0 and process.laststop - process.laststart < SHORT_LIFE  # a signal gives -1
        lives = self._short_lives.pop(process.config.name, 0) + 1 if short else 0
        if lives < SHORT_LIVES:
            self._short_lives[process.config.name] = lives
        else:
            process.change_state(ProcessStates.FATAL)

    def hand_on(self, number: int, _: Any) -> None:
        """A signal that is meant for the monitor."""
        if pid := self.process_groups["monitor"].processes["monitor"].pid:
            os.kill(pid, number)

    def note_start(self, event: Any) -> None:
        """Of a monitor that is started now no promise is older."""
        if event.process.config.name == "monitor":
            alive.forget(self._runtime)
            self._monitor_started = time.monotonic()

    def look_at_monitor(self, _: Any) -> None:
        """A process that runs may stand still all the same: it is ended, and started again like any that ends."""
        late = alive.overdue(self._runtime, self._monitor_started, FIRST_TICK) > 0
        process = self.process_groups["monitor"].processes["monitor"]
        if late and process.get_state() in RUNNING_STATES and process.pid:
            self.options.logger.critical("monitor stands still; ending it, so that it is started again")
            # KILL: what does not tick does not hear TERM either. Everything it has to keep is committed.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def give_up(self, event: Any) -> None:
        """It is announced, and in a container it is the end: the others get GRACE seconds, then they are killed."""
        if self.options.mood < SupervisorStates.RUNNING:
            return  # whoever stops supervisord makes FATAL what waits for its next try
        name = event.process.config.name
        message = f"gave up on {name}" if self._native else f"gave up on {name}; ending, so that it is seen"
        self.options.logger.critical(message)
        self.announce(name)
        if not self._native:
            self.gave_up = True
            self.options.mood = SupervisorStates.SHUTDOWN
            deadline = threading.Timer(GRACE, self.kill_all)
            deadline.daemon = True
            deadline.start()

    def announce(self, program: str) -> None:
        """Have an alert put into the outbox, by a process of its own: it may hang, and this one must not."""
        command = [str(Path(sys.executable).parent / "tocsin"), "gave-up", program]
        if self._native:  # the monitor goes on: where it heals the program, its own alert is enough
            command.append("--unless-healed")
        try:
            announcer = subprocess.Popen(command, cwd=HOME, stdin=subprocess.DEVNULL)  # noqa: S603 - a name from the file
        except OSError as error:
            message = f"that it gave up on {program} cannot be told: {error.strerror}"
            self.options.logger.critical(message)
        else:
            self._announcers.append(announcer)

    def hear_out(self) -> None:
        """Wait for what is being put into the outbox, when all programs have ended."""
        for announcer in self._announcers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                announcer.wait(GRACE)
            announcer.kill()

    def kill_all(self) -> None:
        for group in self.process_groups.values():
            for process in group.processes.values():
                if process.pid:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
        for announcer in self._announcers:
            announcer.kill()
        os._exit(GIVEN_UP)


def prepare(longest: int | None) -> int:
    """Take over the environment that the programs need. Where something is wrong, the exit status; the log says what."""
    command = [sys.executable, str(Path(__file__).with_name("environment.py")), str(HOME), *([str(longest)] if longest else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=1, check=False)  # noqa: S603 - ours; 1 is where the log goes
    if done.returncode == 0:
        os.environ.update(json.loads(done.stdout))
    return done.returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--native", action="store_true", help="a machine without Docker")
    native = parser.parse_args().native
    logs.configure("tocsin-supervisord")
    if not os.environ.get("WEB_CONCURRENCY"):
        os.environ.pop("WEB_CONCURRENCY", None)  # empty is unset to us, and to gunicorn a number it cannot read
    longest = NATIVE_LOG_BYTES if native else None
    if status := prepare(longest):
        return status
    data, runtime = Path(os.environ["TOCSIN_DATA"]), Path(os.environ["TOCSIN_RUNTIME"])
    logs.configure("tocsin-supervisord", os.environ["TOCSIN_LOG_LEVEL"])
    # Until here it is for who starts this; from here on it goes to a file where there is no Docker.
    file = File(data / "log/supervisord.log", longest) if longest else None
    # One that was killed leaves it behind, and supervisord would say so in plain text.
    (runtime / "supervisor.sock").unlink(missing_ok=True)
    options = Options(file)
    options.realize(["-c", str(HOME / "deploy/supervisor" / ("native.conf" if native else "supervisord.conf"))])
    options.rpcinterface_factories.append(("tocsin", Restarts, {}))
    options.first, options.test = True, False
    supervisor = TidySupervisor(options, runtime, native=native)
    with contextlib.suppress(ExitNow):  # how supervisord leaves its loop
        supervisor.main()
    supervisor.hear_out()
    return GIVEN_UP if supervisor.gave_up else 0


if __name__ == "__main__":
    sys.exit(main())
