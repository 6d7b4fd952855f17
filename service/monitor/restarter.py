"""Looks at services and restarts them, beside the tick: a restart takes as long as it takes."""

import threading
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import structlog
from sqlalchemy import Engine

from service import holds, restarts
from service.holds import BusyError
from service.monitor.healing import Ended, Healing, Repairs, Seen
from service.restarts import Restart
from service.services import Service
from service.supervision import SupervisorError, UnknownServiceError, supervisor_of

AUTHOR = "monitor"
GRACE = 10.0  # seconds that a service which does not answer has to end before it is killed
LONGEST_LOOK = 2.0  # seconds of a tick
MOST_AT_ONCE = 8

_log = structlog.get_logger()


@dataclass(frozen=True)
class Order:
    """A restart that the watch has decided on, and counted."""

    id: str
    service: str
    alert: str  # the fingerprint
    comment: str
    before: Healing  # what was known before it


class Restarter:
    """Restarts run on threads of their own. All methods are called by the loop's thread."""

    def __init__(self, services: Iterable[Service], folder: Path, runtime: Path, engine: Engine) -> None:
        self._folder, self._runtime, self._engine = folder, runtime, engine
        self._looks = ThreadPoolExecutor(MOST_AT_ONCE, thread_name_prefix="service")
        self._looking: dict[str, Future[Seen]] = {}
        self._lock = threading.Lock()
        self._waiting: deque[Order] = deque()
        self._threads = 0
        self._running: set[str] = set()  # and those that wait
        self._ended: dict[str, Ended] = {}
        self.configure(services)

    def configure(self, services: Iterable[Service]) -> None:
        self._services: Mapping[str, Service] = {service.name: service for service in services}

    def look(self, names: Iterable[str], *, counted: bool) -> Repairs:
        """How these services are, and the restarts that were begun. A supervisor that hangs costs LONGEST_LOOK."""
        wanted = [name for name in dict.fromkeys(names) if name]
        asked = set()  # in this tick: much may have happened since an earlier one asked
        for name in wanted:
            if name in self._looking and self._looking[name].done():
                del self._looking[name]
            if name not in self._looking:
                asked.add(name)
                # What is not configured is a program of our own supervisord that was given up. It may have any name there.
                service = self._services.get(name) or Service.model_construct(name=name, supervisord=name)
                self._looking[name] = self._looks.submit(self._seen, service)
        wait([self._looking[name] for name in wanted], timeout=LONGEST_LOOK)
        services = {}
        for name in wanted:
            found = self._looking.pop(name).result() if self._looking[name].done() else Seen(None)
            services[name] = found if name in asked else Seen(None)
        with self._lock:
            ended, self._ended = self._ended, {}
            return Repairs(services, tuple(self._running), ended, counted)

    def begin(self, orders: Iterable[Order]) -> None:
        """Restart, MOST_AT_ONCE at a time."""
        for order in orders:
            with self._lock:
                self._waiting.append(order)
                self._running.add(order.id)
                if self._threads == MOST_AT_ONCE:
                    continue
                self._threads += 1
            threading.Thread(target=self._work, name="restart", daemon=True).start()

    def close(self) -> None:
        """What is under way is not waited for: its supervisor goes on with it."""
        self._looks.shutdown(wait=False, cancel_futures=True)

    def _seen(self, service: Service) -> Seen:
        busy = False
        try:
            busy = holds.under_way(service.name, self._folder)
            status = supervisor_of(service, self._runtime).status()
        except UnknownServiceError:
            return Seen("gone", busy=busy)
        except SupervisorError:
            return Seen(None, busy=busy)
        except Exception:  # noqa: BLE001 - whatever it answers, it must not end the monitor
            _log.exception("a service cannot be looked at", service=service.name)
            return Seen(None, busy=busy)
        return Seen(status.state, status.since, busy)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._threads -= 1
                    return
                order = self._waiting.popleft()
            ended = self._restarted(order)
            with self._lock:
                self._ended[order.id] = ended
                self._running.remove(order.id)

    def _restarted(self, order: Order) -> Ended:
        service = self._services.get(order.service)
        asked = restarts.asked(order.service, "monitor", AUTHOR, order.comment, order.alert)
        restart = Restart(**{**vars(asked), "id": order.id})
        if service is None:
            return self._not_made(order, "it is not configured any more")
        try:
            done = restarts.perform(service, restart, self._folder, self._engine, runtime=self._runtime, grace=GRACE)
        except BusyError as error:
            return self._not_made(order, str(error))
        except Exception as error:  # noqa: BLE001 - whatever it was, the loop goes on, and is told that it ended
            return self._not_made(order, f"it failed ({type(error).__name__})")
        return Ended(done.outcome in ("healthy", "unhealthy"), done.detail)

    def _not_made(self, order: Order, why: str) -> Ended:
        about = {"service": order.service, "fingerprint": order.alert, "restart": order.id, "reason": why}
        _log.warning("not restarted", **about, **{"event.category": "process", "event.action": "restart"})
        return Ended(made=False, detail=why)
