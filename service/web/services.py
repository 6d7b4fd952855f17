"""/api/service/ and /api/v1/restarts: how services are, and their restart. docs/api.md has the details.

Only what the configuration names as a service can be asked for, and nothing that a client sends reaches a command line.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from apiflask import APIBlueprint
from flask import Response, url_for
from pydantic import Field
from werkzeug.exceptions import BadGateway, Conflict, GatewayTimeout, NotFound, ServiceUnavailable

from service import holds, restarts
from service.holds import BusyError
from service.restarts import AskedBy, Outcome, Restart, Wish
from service.services import Service
from service.settings import Settings
from service.supervision import Status, SupervisorError, supervisor_of
from service.values import iso
from service.web.api import (
    RETRY,
    Asked,
    Database,
    Next,
    Period,
    Shape,
    Time,
    View,
    answer,
    guarded,
    next_page,
    operation,
    time_of,
)
from service.web.configured import Configured
from service.web.errors import problem
from service.web.handover import hand_over
from service.web.way import is_passed

MOST_AT_ONCE = 16  # supervisors that are asked
EXAMPLE = {"name": "nginx", "author": "ann", "comment": "it hangs"}


class StatusAsked(Asked):
    """Which service; all of them without it."""

    name: Annotated[str | None, Field(description="This service alone.", examples=["web"])] = None


class RestartsAsked(Period):
    """Which restarts, in pages; the period is about when they began."""

    service: Annotated[str | None, Field(description="Those of this service.", examples=["web"])] = None
    asked_by: Annotated[AskedBy | None, Field(description="Those that were asked for in this way.", examples=["api"])] = None


class StatusShape(Shape):
    """How a service is. Without an answer of its supervisor the state is null, and `detail` says why."""

    name: str
    supervisor: Literal["supervisord", "systemd", "docker"]
    state: Literal["running", "starting", "stopped", "failed"] | None
    since: Time | None
    pid: int | None
    restarts: int | None
    detail: str
    restarting: Annotated[bool, Field(description="Whether somebody restarts it at this moment.")]


class StatusesShape(Shape):
    """How services are."""

    services: list[StatusShape]


class DoneShape(Shape):
    """A restart after which the service was healthy."""

    name: str
    restart: str
    outcome: Literal["healthy"]
    seconds: float
    old_pid: int | None
    new_pid: int | None


class AcceptedShape(Shape):
    """A restart that this answer does not outlive: ask at `location` what came of it."""

    name: str
    restart: str
    old_pid: int | None
    location: str


class RestartShape(Shape):
    """A restart and, once it has ended, what came of it."""

    id: str
    service: str
    asked_by: AskedBy
    author: str
    comment: str
    alert: Annotated[str | None, Field(description="The fingerprint of the alert for which the monitor did it.")]
    started_at: Time
    ended_at: Time | None
    seconds: float | None
    outcome: Outcome | None
    detail: str
    old_pid: int | None
    new_pid: int | None


class RestartsShape(Shape):
    """A page of restarts."""

    restarts: list[RestartShape]
    next: Next


def blueprint(settings: Settings) -> APIBlueprint:
    """The routes, around one database and one configuration."""
    routes = APIBlueprint("services", __name__, url_prefix="/api", tag="Services")
    opened, configured = guarded(routes, settings), Configured(settings)
    routes.register_error_handler(restarts.UnknownError, lambda error: problem(NotFound(str(error))))
    routes.register_error_handler(BusyError, _busy)
    routes.register_error_handler(
        OSError, lambda _: problem(ServiceUnavailable("The data folder cannot be used.", retry_after=RETRY))
    )
    for path, view in (
        ("/service/status", StatusView),
        ("/service/restart", RestartView),
        ("/v1/restarts", RestartsView),
        ("/v1/restarts/<identity>", RestartedView),
    ):
        routes.add_url_rule(path, view_func=view.as_view(view.__name__, opened, configured, settings.data, settings.runtime))
    return routes


class ServicesView(View):
    """One address, the database, the services, the data folder, and the one where our supervisord has its socket."""

    def __init__(self, opened: Database, configured: Configured, folder: Path, runtime: Path) -> None:
        super().__init__(opened)
        self._configured = configured
        self._folder, self._runtime = folder, runtime


class StatusView(ServicesView):
    @operation(StatusesShape, query=StatusAsked, errors=(404, 502))
    def get(self, query: StatusAsked) -> Response:
        """How services are."""
        every = self._configured.every()
        asked = list(every.values()) if query.name is None else [self._configured.named(query.name)]
        found = looked_at(asked, self._runtime)
        faults = dict.fromkeys(str(status) for status in found if isinstance(status, SupervisorError))
        if found and all(isinstance(status, SupervisorError) for status in found):
            return problem(BadGateway("; ".join(faults)))
        shapes = [_status(*pair, self._folder) for pair in zip(asked, found, strict=True)]
        return answer(StatusesShape(services=shapes))


class RestartView(ServicesView):
    @operation(DoneShape, body=Wish, example=EXAMPLE, errors=(404, 409, 502, 504), also={202: AcceptedShape})
    def post(self, body: Wish) -> Response:
        """Restart a service, and answer when it is healthy; 202 when the way to here leads through it."""
        service = self._configured.named(body.name)
        restart = restarts.asked(service.name, "api", body.author, body.comment)
        pid = _pid(service, self._runtime)
        if is_passed(service, pid):
            return self._accepted(service, replace(restart, old_pid=pid))
        engine = self._opened.or_none()
        return _done(restarts.perform(service, restart, self._folder, engine, runtime=self._runtime))

    def _accepted(self, service: Service, restart: Restart) -> Response:
        begun, kept = hand_over(service, restart, self._folder, self._opened.or_none())
        place = url_for("services.RestartedView", identity=begun.id)
        if not kept:
            place = url_for("services.StatusView", name=service.name)
        body = AcceptedShape(name=service.name, restart=begun.id, old_pid=begun.old_pid, location=place)
        return answer(body, 202, {"Location": place})


class RestartsView(ServicesView):
    @operation(RestartsShape, query=RestartsAsked)
    def get(self, query: RestartsAsked) -> Response:
        """Restarts, newest first."""
        now = time.time()
        with self.reading() as connection:
            found, position = restarts.page(
                connection, self._folder, now, **query.model_dump(exclude={"after"}), after=query.cursor()
            )
        return answer(RestartsShape(restarts=[_restart(each) for each in found], next=next_page(position)))


class RestartedView(ServicesView):
    @operation(RestartShape)
    def get(self, identity: str) -> Response:
        """One restart."""
        now = time.time()
        with self.reading() as connection:
            found = restarts.find(connection, self._folder, identity, now)
        return answer(_restart(found))


def looked_at(services: Sequence[Service], runtime: Path) -> list[Status | SupervisorError]:
    """How these services are. One that does not answer keeps nobody waiting for the others."""

    def look(service: Service) -> Status | SupervisorError:
        try:
            return supervisor_of(service, runtime).status()
        except SupervisorError as error:
            return error

    with ThreadPoolExecutor(MOST_AT_ONCE) as pool:
        return list(pool.map(look, services))


def _pid(service: Service, runtime: Path) -> int | None:
    (found,) = looked_at([service], runtime)
    return None if isinstance(found, SupervisorError) else found.pid  # the restart will say so


def _done(restart: Restart) -> Response:
    came = {
        "restart": restart.id,
        "outcome": restart.outcome,
        "seconds": _seconds(restart),
        "old_pid": restart.old_pid,
        "new_pid": restart.new_pid,
    }
    if restart.outcome == "healthy":
        return answer(DoneShape(name=restart.service, **came))
    if restart.outcome == "unhealthy":
        return problem(GatewayTimeout(f"{restart.service} was restarted and is not healthy: {restart.detail}"), came)
    return problem(BadGateway(restart.detail), came)


def _busy(error: BusyError) -> Response:
    refused = problem(Conflict(str(error)))
    refused.headers["Retry-After"] = str(RETRY)
    return refused


def _status(service: Service, found: Status | SupervisorError, folder: Path) -> StatusShape:
    seen: dict[str, Any] = {"state": None, "since": None, "pid": None, "restarts": None, "detail": str(found)}
    if isinstance(found, Status):
        seen = {**vars(found), "since": time_of(found.since)}
    restarting = holds.under_way(service.name, folder)
    return StatusShape(name=service.name, supervisor=service.supervisor[0], **seen, restarting=restarting)


def _restart(restart: Restart) -> RestartShape:
    return RestartShape(
        id=restart.id,
        service=restart.service,
        asked_by=restart.asked_by,
        author=restart.author,
        comment=restart.comment,
        alert=restart.alert,
        started_at=iso(restart.started),
        ended_at=time_of(restart.ended),
        seconds=_seconds(restart),
        outcome=restart.outcome,
        detail=restart.detail,
        old_pid=restart.old_pid,
        new_pid=restart.new_pid,
    )


def _seconds(restart: Restart) -> float | None:
    return None if restart.ended is None else round(max(0.0, restart.ended - restart.started), 3)
