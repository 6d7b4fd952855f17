"""The monitor's loop: probe -> evaluate -> commit -> deliver. The only reader of the clock."""

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from service import database
from service.configuration import Configuration
from service.monitor.delivery import Delivery
from service.monitor.heartbeat import Heartbeat
from service.monitor.probe import Prober
from service.monitor.store import Figures, Store
from service.monitor.trouble import Trouble
from service.monitor.watch import Watch
from service.values import ConfigurationError

LAST_WORDS = 12.0  # seconds a stop waits for what is being sent; supervisord waits 15
PATIENCE = 30.0  # seconds past its time after which a tick is taken for stuck

_log = structlog.get_logger()


@dataclass(frozen=True)
class Signals:
    """What the process is asked from outside."""

    stopping: threading.Event = field(default_factory=threading.Event)
    reload: threading.Event = field(default_factory=threading.Event)


def run(
    configure: Callable[[], Configuration],
    engine: Engine,
    signals: Signals,
    clock: Callable[[], float] = time.time,
    alive: Callable[[float], None] = lambda _: None,
) -> None:
    """Tick until told to stop. Ticks are `interval` apart from start to start; one that is late is not made up.

    `configure` is asked again on reload. `alive` is told, after each tick, in how many seconds the next one will be
    over at the latest. Raises ConfigurationError when there is no configuration to begin with.
    """
    configuration = configure()
    watch, store = Watch(configuration), Store(engine)
    prober = Prober(configuration.targets)
    sender = Delivery(engine, configuration.receivers, clock)
    heart = Heartbeat(configuration.heartbeat)
    trouble = Trouble(configuration.instance)
    figures = Figures(started=clock(), interval=configuration.interval)
    with contextlib.suppress(SQLAlchemyError):  # the first tick says so
        store.look(watch, clock())  # makes the tables, too
    sender.start()
    _log.info("monitor started", **_shape(configuration))
    due = time.monotonic()
    while not signals.stopping.wait(max(0.0, due - time.monotonic())):
        if signals.reload.is_set():
            signals.reload.clear()
            if (changed := _reloaded(configure)) is not None:
                configuration = changed
                watch.configure(configuration)
                sender.configure(configuration.receivers)
                prober.close()
                prober = Prober(configuration.targets)
                heart.stop()
                heart = Heartbeat(configuration.heartbeat)
        began = time.monotonic()
        late = began - due > configuration.interval
        due = max(due + configuration.interval, began)
        samples = prober.probe()
        now = clock()
        unread = _failure(partial(store.look, watch, now))  # what was known holds on
        news = watch.tick(samples, now)
        figures = figures.after(now, time.monotonic() - began, configuration.interval, late=late)
        something = bool(watch.unsaved.entries)  # of ticks that could not be committed, too
        error = _failure(partial(store.commit, watch, figures, now)) or unread or sender.damage()
        if error is not None:
            kept = _put_aside(store, watch, now) if database.is_corrupt(error) else None
            sender.tell(trouble.failed(error, watch.unsaved, news, now, kept))
        else:
            sender.tell(trouble.ended(now))
            heart.beat()
            if something:
                sender.wake()
        alive(configuration.interval + prober.longest + PATIENCE)
    sender.stop(LAST_WORDS)
    prober.close()
    heart.stop()
    _log.info("monitor stopped")


def _failure(action: Callable[[], None]) -> SQLAlchemyError | None:
    try:
        action()
    except SQLAlchemyError as error:
        return error
    return None


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
