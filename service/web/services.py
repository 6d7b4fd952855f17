"""/api/service/ and /api/v1/restarts: how services are, and their restart. docs/api.md has the details.

Only what the configuration names as a service can be asked for, and nothing that a client sends reaches a command line.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import structlog
from flask import Blueprint, Response, g, request, url_for
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import BadGateway, Conflict, GatewayTimeout, NotFound, ServiceUnavailable
from werkzeug.wrappers import Response as WerkzeugResponse

from service import loading, restarts
from service.restarts import BusyError, Restart, Wish
from service.services import Service
from service.settings import Settings
from service.silences import checked
from service.supervision import Status, SupervisorError, supervisor_of
from service.values import ConfigurationError, number, suggestion
from service.web.api import RETRY, Database, View, answer, guarded, sent, time_of
from service.web.errors import problem
from service.web.way import is_passed

MOST_AT_ONCE = 16  # supervisors that are asked

_log = structlog.get_logger()


class Configured:
    """The services in the configuration, read at the first question and again whenever the file has changed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._read: object = ()  # no file's stamp
        self._services: Mapping[str, Service] | None = None

    def every(self) -> Mapping[str, Service]:
        """By name. A faulty file changes nothing; raises ServiceUnavailable where there was none without a fault yet."""
        stamp = self._stamp()
        if stamp != self._read:
            self._read = stamp
            self._load()
        if self._services is None:
            raise ServiceUnavailable("The configuration has a fault; `tocsin check-config` names it.", retry_after=RETRY)
        return self._services

    def named(self, name: str) -> Service:
        """Raises NotFound."""
        every = self.every()
        if name not in every:
            raise NotFound(f"there is no service {name!r}{suggestion(name, every)}")
        return every[name]

    def _load(self) -> None:
        try:
            found = loading.load(self._settings).services
        except ConfigurationError as error:
            _log.error("the configuration has a fault, so its services are not read", reason=str(error))
        else:
            self._services = {service.name: service for service in found}

    def _stamp(self) -> object:
        path = self._settings.config
        try:
            found = path.stat() if path else None
        except OSError as error:
            return error.errno
        return found and (found.st_mtime_ns, found.st_ino, found.st_size)


def blueprint(settings: Settings) -> Blueprint:
    """The routes, around one database and one configuration."""
    routes = Blueprint("services", __name__, url_prefix="/api")
    opened, configured = guarded(routes, settings), Configured(settings)
    routes.register_error_handler(restarts.UnknownError, lambda error: problem(NotFound(str(error))))
    routes.register_error_handler(BusyError, _busy)
    routes.register_error_handler(OSError, lambda _: problem(ServiceUnavailable("The data folder cannot be used.")))
    for path, view in (
        ("/service/status", StatusView),
        ("/service/restart", RestartView),
        ("/v1/restarts", RestartsView),
        ("/v1/restarts/<identity>", RestartedView),
    ):
        routes.add_url_rule(path, view_func=view.as_view(view.__name__, opened, configured, settings.data))
    return routes


class ServicesView(View):
    """One address, the database, the services, and the data folder."""

    def __init__(self, opened: Database, configured: Configured, folder: Path) -> None:
        super().__init__(opened)
        self._configured = configured
        self._folder = folder


class StatusView(ServicesView):
    def get(self) -> WerkzeugResponse:
        wanted = request.args.get("name")
        asked = list(self._configured.every().values()) if wanted is None else [self._configured.named(wanted)]
        with ThreadPoolExecutor(MOST_AT_ONCE) as pool:  # one that does not answer keeps nobody waiting for the others
            found = list(pool.map(self._look, asked))
        faults = dict.fromkeys(str(status) for status in found if isinstance(status, SupervisorError))
        if found and all(isinstance(status, SupervisorError) for status in found):
            return problem(BadGateway("; ".join(faults)))
        return answer({"services": [self._shown(*pair) for pair in zip(asked, found, strict=True)]})

    def _look(self, service: Service) -> Status | SupervisorError:
        try:
            return supervisor_of(service, self._folder).status()
        except SupervisorError as error:
            return error

    def _shown(self, service: Service, found: Status | SupervisorError) -> dict[str, Any]:
        if isinstance(found, SupervisorError):
            seen = {"state": None, "since": None, "pid": None, "restarts": None, "detail": str(found)}
        else:
            seen = {**vars(found), "since": time_of(found.since)}
        restarting = restarts.under_way(service.name, self._folder)
        return {"name": service.name, "supervisor": service.supervisor[0], **seen, "restarting": restarting}


class RestartView(ServicesView):
    def post(self) -> WerkzeugResponse:
        wish = checked(Wish, sent(), time.time())
        service = self._configured.named(wish.name)
        restart = restarts.asked(service.name, "api", wish.author, wish.comment)
        pid = self._pid(service)
        if is_passed(service, pid):
            return self._accepted(service, replace(restart, old_pid=pid))
        return _done(restarts.perform(service, restart, self._folder, self._engine()))

    def _pid(self, service: Service) -> int | None:
        try:
            return supervisor_of(service, self._folder).status().pid
        except SupervisorError:
            return None  # the restart will say so

    def _engine(self) -> Engine | None:
        try:
            return self._opened.engine
        except SQLAlchemyError as error:
            self._opened.unusable(error)
            return None

    def _accepted(self, service: Service, restart: Restart) -> Response:
        with restarts.holding(service.name, self._folder) as lock:
            begun, kept = restarts.begin(restart, self._engine())
            _hand_over(service, begun, lock)
        place = url_for("services.RestartedView", identity=begun.id)
        if not kept:
            place = url_for("services.StatusView", name=service.name)
        body = {"name": service.name, "restart": begun.id, "old_pid": begun.old_pid, "location": place}
        return answer(body, 202, {"Location": place})


class RestartsView(ServicesView):
    def get(self) -> Response:
        now = time.time()
        with self.reading() as connection:
            found = restarts.every(connection, self._folder, now, service=request.args.get("service"))
        return answer({"restarts": [_restart(each) for each in found]})


class RestartedView(ServicesView):
    def get(self, identity: str) -> Response:
        now = time.time()
        with self.reading() as connection:
            found = restarts.find(connection, self._folder, identity, now)
        return answer(_restart(found))


def _hand_over(service: Service, restart: Restart, lock: int) -> None:
    """Let a process do it that outlives this one: supervisord ends our process group with us, and it has its own.

    It inherits the lock, so that the service is held without a gap. What it is to do, it reads from a pipe.
    """
    document = service.model_dump(mode="json", exclude_none=True) | {"timeout": f"{number(service.timeout)}s"}
    if service.url is not None:
        document["url"] = service.url.get_secret_value()
    order = {"service": document, "restart": vars(restart), "request": g.request_id, "lock": lock}
    command = [str(Path(sys.executable).with_name("tocsin")), "service", "carry-out"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, pass_fds=(lock,))  # noqa: S603 - no client's word
    # On a thread: where this process lives on, the other one must not end as a zombie.
    threading.Thread(target=child.communicate, args=(orjson.dumps(order),), daemon=True).start()


def _done(restart: Restart) -> WerkzeugResponse:
    came = {
        "restart": restart.id,
        "outcome": restart.outcome,
        "seconds": _seconds(restart),
        "old_pid": restart.old_pid,
        "new_pid": restart.new_pid,
    }
    if restart.outcome == "healthy":
        return answer({"name": restart.service, **came})
    if restart.outcome == "unhealthy":
        return problem(GatewayTimeout(f"{restart.service} was restarted and is not healthy: {restart.detail}"), came)
    return problem(BadGateway(restart.detail), came)


def _busy(error: BusyError) -> WerkzeugResponse:
    refused = problem(Conflict(str(error)))
    refused.headers["Retry-After"] = str(RETRY)
    return refused


def _restart(restart: Restart) -> dict[str, Any]:
    return {
        "id": restart.id,
        "service": restart.service,
        "asked_by": restart.asked_by,
        "author": restart.author,
        "comment": restart.comment,
        "alert": restart.alert,
        "started_at": time_of(restart.started),
        "ended_at": time_of(restart.ended),
        "seconds": _seconds(restart),
        "outcome": restart.outcome,
        "detail": restart.detail,
        "old_pid": restart.old_pid,
        "new_pid": restart.new_pid,
    }


def _seconds(restart: Restart) -> float | None:
    return None if restart.ended is None else round(max(0.0, restart.ended - restart.started), 3)
