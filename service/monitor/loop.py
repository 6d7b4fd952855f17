"""The monitor's loop: probe -> evaluate -> commit -> deliver. The only reader of the clock, and the one who follows it."""

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from service import database
from service.configuration import Configuration
from service.monitor.clock import Clock
from service.monitor.delivery import Delivery
from service.monitor.heartbeat import Heartbeat
from service.monitor.history import History
from service.monitor.jobs import Jobs
from service.monitor.probe import Prober
from service.monitor.restarter import LONGEST_LOOK, Restarter
from service.monitor.room import has_memory
from service.monitor.standing import standing
from service.monitor.store import Figures, Store
from service.monitor.trouble import Trouble
from service.monitor.watch import Watch
from service.values import ConfigurationError

LAST_WORDS = 12.0  # seconds a stop waits for what is being sent; supervisord waits 15
LAST_RUNS = 2.0  # of these, at most so many for the jobs that run
PATIENCE = 30.0  # seconds past its time after which a tick is taken for stuck
LOOK = 1.0  # seconds between two looks at the clock, or of a monitor that waits whether it leads now

_log = structlog.get_logger()


@dataclass(frozen=True)
class Signals:
    """What the process is asked from outside."""

    stopping: threading.Event = field(default_factory=threading.Event)
    reload: threading.Event = field(default_factory=threading.Event)


class Monitor:
    """All that a tick needs. What is told the time is told by the tick, and by `move`."""

    def __init__(
        self, configuration: Configuration, engine: Engine, folder: Path, runtime: Path, clock: Callable[[], float]
    ) -> None:
        self.configuration = configuration
        self._clock = clock
        self._watch, self._store, self._history = Watch(configuration), Store(engine), History()
        self._prober = Prober(configuration.targets)
        self._delivery = Delivery(engine, configuration.receivers, clock, configuration.public)
        self._restarter = Restarter(configuration.services, folder, runtime, engine)
        self._counted = False  # what the last tick decided is in the database
        self._jobs = Jobs(engine, folder, configuration, clock, self._delivery.wake)
        self._heartbeat = Heartbeat(configuration.heartbeat)
        self._trouble = Trouble(configuration.instance)
        self._figures = Figures(started=clock(), interval=configuration.interval)

    @property
    def longest(self) -> float:
        """Seconds that a tick takes at most, if nothing stands still."""
        return self._prober.longest + LONGEST_LOOK + PATIENCE

    def start(self) -> None:
        # Makes the tables; the first tick says what is wrong.
        self._counted = _failure(partial(self._store.look, self._watch, self._clock())) is None
        self._delivery.start()
        self._jobs.start()
        _log.info("monitor started", **_shape(self.configuration))
        self._name_stranded()

    def configure(self, configuration: Configuration) -> None:
        """Go on with another configuration."""
        self.configuration = configuration
        self._watch.configure(configuration)
        self._delivery.configure(configuration.receivers)
        self._jobs.configure(configuration)
        self._restarter.configure(configuration.services)
        self._prober.close()
        self._prober = Prober(configuration.targets)
        self._heartbeat.stop()
        self._heartbeat = Heartbeat(configuration.heartbeat)
        self._name_stranded()

    def move(self, step: float) -> bool:
        """The clock was set by so many seconds: what is counted by it moves along, or not yet if it cannot be written."""
        if _failure(partial(self._store.move, self._watch, step, self._clock())) is not None:
            return False
        self._trouble.move(step)
        self._figures = replace(self._figures, started=self._figures.started + step)
        _log.warning(f"the clock was set by {step:+.1f} s; nothing fires, ends or is repeated for that")
        return True

    def tick(self, *, late: bool) -> None:
        """Probe, evaluate, commit, and let deliver. Raises MemoryError or Exhausted where it cannot: nothing is lost by that."""
        _insist_on_memory()
        began = time.monotonic()
        samples = self._prober.probe()
        _insist_on_memory()  # else what could not be asked would be down
        repairs = self._restarter.look(self._watch.concerned(), counted=self._counted)
        now = self._clock()
        unread = _failure(partial(self._store.look, self._watch, now))  # what was known holds on
        news = self._watch.tick(samples, now, repairs)
        lost = self._history.dropped
        self._history.add(samples, now)
        if self._history.dropped > lost == 0:
            _log.error("minutes of readings are lost: more of them wait for the database than are kept in memory")
        minutes = self._history.passed(now)
        figures = self._figures.after(now, time.monotonic() - began, self.configuration.interval, late=late)
        self._figures = replace(figures, targets=standing(samples, now))
        something = self._watch.adopted or bool(self._watch.unsaved.entries)  # of ticks that could not be committed, too
        unwritten = _failure(partial(self._store.commit, self._watch, self._figures, now, minutes))
        self._counted = unwritten is None
        if unwritten is None:  # a monitor that is killed here has counted them
            self._history.written(minutes)
            self._restarter.begin(self._watch.orders())
        else:
            self._watch.withdraw()
        if error := unwritten or unread or self._delivery.damage():
            kept = _put_aside(self._store, self._watch, now) if database.is_corrupt(error) else None
            self._delivery.tell(self._trouble.failed(error, self._watch.unsaved, news, now, kept))
            return
        if over := self._trouble.ended(now):
            self._delivery.stored()
            self._delivery.tell(over)
        self._heartbeat.beat()
        if something:
            self._delivery.wake()

    def _name_stranded(self) -> None:
        with contextlib.suppress(SQLAlchemyError):
            for name in self._store.stranded(receiver.name for receiver in self.configuration.receivers):
                _log.warning("there is no such receiver any more; what waits for it stays in `tocsin outbox`", receiver=name)

    def stop(self) -> None:
        began = time.monotonic()
        self._jobs.stop(LAST_RUNS)
        _failure(partial(self._store.keep, self._history.every()))
        self._delivery.stop(LAST_WORDS - (time.monotonic() - began))
        self._prober.close()
        self._restarter.close()
        self._heartbeat.stop()
        _log.info("monitor stopped")


def run(
    configure: Callable[[], Configuration],
    engine: Engine,
    signals: Signals,
    *,
    folder: Path,
    runtime: Path | None = None,
    alive: Callable[[float], None] = lambda _: None,
    leads: Callable[[], bool] = lambda: True,
) -> None:
    """Tick until told to stop. Ticks are `interval` apart from start to start; one that is late is not made up.

    `folder` is the data folder, `runtime` the one of the processes of this machine or container; without one, the same.
    `configure` is asked again on reload. `alive` is told in how many seconds the next tick will be over at the latest.
    Until `leads` says that this is the one monitor on its database, nothing is done.
    Raises ConfigurationError when there is no configuration to begin with.
    """
    configuration = configure()
    if not leads():
        _log.info("another monitor works on this database; this one waits")
        while not leads():
            alive(PATIENCE)
            if signals.stopping.wait(LOOK):
                return
            configuration = _asked(configure, signals) or configuration
        _log.info("the other monitor is gone; this one works on")
        configuration = _reloaded(configure) or configuration  # whatever was changed since
    clock = Clock()
    monitor = Monitor(configuration, engine, folder, runtime or folder, clock)
    monitor.start()
    alive(monitor.longest)
    due = time.monotonic()
    while not signals.stopping.wait(min(LOOK, max(0.0, due - time.monotonic()))):
        if (step := clock.step()) and monitor.move(step):
            clock.follow(step)
        if time.monotonic() < due:
            continue
        if (changed := _asked(configure, signals)) is not None:
            monitor.configure(changed)
            alive(monitor.longest)
        began = time.monotonic()
        late = began - due > monitor.configuration.interval
        due = (due if not late else began) + monitor.configuration.interval
        monitor.tick(late=late)
        alive(monitor.configuration.interval + monitor.longest)
    monitor.stop()


def _insist_on_memory() -> None:
    if not has_memory():
        raise MemoryError("this process may have no more of it; a new one is begun")


def _failure(action: Callable[[], None]) -> SQLAlchemyError | None:
    try:
        action()
    except SQLAlchemyError as error:
        return error
    return None


def _asked(configure: Callable[[], Configuration], signals: Signals) -> Configuration | None:
    """The new configuration, where it was asked for and has no fault."""
    if not signals.reload.is_set():
        return None
    signals.reload.clear()
    return _reloaded(configure)


def _reloaded(configure: Callable[[], Configuration]) -> Configuration | None:
    """The new configuration; None when there is a fault in it, and the old one stays."""
    try:
        configuration = configure()
    except ConfigurationError as error:
        for fault in error.faults:
            _log.error("the configuration is not reloaded; the one before stays in force", error=fault)
        return None
    _log.info("configuration reloaded", **_shape(configuration))
    return configuration


def _shape(configuration: Configuration) -> dict[str, Any]:
    if not configuration.receivers:
        _log.warning("no receiver is configured: alerts go to this log only; set TOCSIN_WEBHOOK_URL")
    return {
        "targets": len(configuration.targets),
        "rules": len(configuration.rules),
        "receivers": len(configuration.receivers),
        "interval_seconds": configuration.interval,
    }


def _put_aside(store: Store, watch: Watch, now: float) -> Path | None:
    """Begin anew beside a damaged database; None when even that fails. The next tick tries again."""
    try:
        return store.replace(watch, now)
    except (SQLAlchemyError, OSError) as error:
        _log.error("the damaged database cannot be replaced", error=type(error).__name__)
        return None
