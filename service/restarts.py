"""One restart, whoever asks for it: asked of the supervisor, confirmed, kept in the database and logged."""

import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import structlog
from pydantic import BaseModel, ConfigDict, StringConstraints
from sqlalchemy import Connection, Engine, Row, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from service import holds, pages
from service.checking import Author, Comment
from service.pages import Position
from service.services import Service
from service.supervision import Status, Supervisor, SupervisorError, supervisor_of
from service.supervision.health import fault_at
from service.tables import restarts
from service.totals import count_restart

STEADY = 3.0  # seconds that it must stay healthy to be called so
_PAUSE = 0.25  # seconds between two looks
_FOR_GOOD = 2.0  # seconds after which what neither runs nor starts is not waited for: supervisord may still start it again

AskedBy = Literal["api", "command", "monitor"]
Outcome = Literal["healthy", "unhealthy", "unreachable", "interrupted", "declined"]

_log = structlog.get_logger()


class Wish(BaseModel):
    """A restart as a person asks for it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, StringConstraints(max_length=100)]  # of the service
    author: Author = "api"
    comment: Comment = ""


class UnknownError(LookupError):
    """There is no such restart."""


@dataclass(frozen=True)
class Restart:
    """A restart and, once it has ended, what came of it. Times in seconds since 1970.

    Healthy: its supervisor says running, and it has answered as it should for STEADY seconds. Unhealthy: it was
    restarted and that did not come about in time. Unreachable: the supervisor did not do it. Interrupted: nobody knows.
    Declined: the monitor asked, and a person had stopped it meanwhile.
    """

    id: str
    service: str
    asked_by: AskedBy
    author: str
    comment: str
    started: float
    alert: str | None = None  # the fingerprint for which the monitor did it
    ended: float | None = None
    outcome: Outcome | None = None
    detail: str = ""
    old_pid: int | None = None
    new_pid: int | None = None


def asked(service: str, by: AskedBy, author: str, comment: str = "", alert: str | None = None) -> Restart:
    """A restart that begins now."""
    return Restart(secrets.token_hex(8), service, by, author, comment, time.time(), alert)


def perform(
    service: Service,
    restart: Restart,
    folder: Path,
    engine: Engine | None,
    *,
    runtime: Path | None = None,
    grace: float | None = None,
    steady: float = STEADY,
) -> Restart:
    """Restart it and wait until it is healthy, for `service.timeout` at most. Raises BusyError.

    `folder` is the data folder, `runtime` where our own supervisord has its socket; without one, the same. Without a
    database, or with one that cannot be used, it is restarted all the same.
    """
    with holds.holding(service.name, folder):
        begun, _ = begin(restart, engine)
        done = carry_out(service, begun, runtime or folder, engine, grace=grace, steady=steady)
    tell(done)
    return done


def begin(restart: Restart, engine: Engine | None) -> tuple[Restart, bool]:
    """The first step, for who holds the service: say that it is under way; and whether that could be kept."""
    restart = replace(restart, started=time.time())
    kept = _keep(engine, restart)
    _log.info("restarting a service", **_fields(restart, "restart-asked"))
    return restart, kept


def carry_out(
    service: Service,
    restart: Restart,
    runtime: Path,
    engine: Engine | None,
    *,
    grace: float | None = None,
    steady: float = STEADY,
) -> Restart:
    """The second step, for who holds the service: do it, wait, and keep what came of it."""
    supervisor = supervisor_of(service, runtime)
    try:
        before = supervisor.status()
        restart = replace(restart, old_pid=before.pid)
        if restart.asked_by == "monitor" and before.state == "stopped":  # since the monitor looked
            done = replace(restart, outcome="declined", detail="somebody has stopped it")
        else:
            supervisor.restart(grace)
            after, fault = _settled(service, supervisor, before, steady)
            done = replace(restart, outcome="unhealthy" if fault else "healthy", detail=fault, new_pid=after.pid)
    except SupervisorError as error:
        done = replace(restart, outcome="unreachable", detail=str(error))
    done = replace(done, ended=time.time())
    _keep(engine, done)
    return done


def tell(restart: Restart) -> None:
    """The last step: log what came of it."""
    say = _log.info if restart.outcome in ("healthy", "declined") else _log.error
    say(f"restart: {restart.outcome}", **_fields(restart, "restart"))


def _settled(service: Service, supervisor: Supervisor, before: Status, steady: float) -> tuple[Status, str]:
    """Its status once it has been healthy for so long, or has ended for good, or its time is up; and what is wrong then."""
    end = time.monotonic() + service.timeout
    healthy: float | None = None  # since when, and which process
    pid: int | None = None
    down: float | None = None  # since when it neither runs nor starts
    while True:
        status = supervisor.status()
        fault = _fault(service, status, before)
        now = time.monotonic()
        if not fault and healthy is not None and status.pid != pid:
            fault = f"its process {pid} has ended"
        down = None if status.state in ("running", "starting") else down or now
        if fault and (now >= end or (down is not None and now - down >= _FOR_GOOD)):
            return status, fault
        if fault:
            healthy = None
        elif healthy is None:
            healthy, pid = now, status.pid
        elif now - healthy >= steady:
            return status, ""
        time.sleep(_PAUSE)


def _fault(service: Service, status: Status, before: Status) -> str:
    """Why it is not healthy; empty when it is."""
    if status.state != "running":
        return f"it is {status.state}{f': {status.detail}' if status.detail else ''}"
    if status.pid is not None and status.pid == before.pid:
        return "it is still the process from before"
    if service.url is not None:
        return fault_at(service.url.get_secret_value())
    # The one thing that the engine has to say of a container that runs is that its own health check fails.
    return f"it is {status.detail}" if service.docker and status.detail else ""


def page(
    connection: Connection,
    folder: Path,
    now: float,
    *,
    service: str | None = None,
    asked_by: AskedBy | None = None,
    since: float | None = None,
    until: float | None = None,
    limit: int = 100,
    after: Position | None = None,
) -> tuple[list[Restart], Position | None]:
    """So many behind a position, newest first; and the position of the last, None at the end.

    `since` and `until` are about when they began. For a connection that has read nothing yet, as with `find`.
    """
    held = holds.held(folder)
    columns = restarts.c
    equal = ((columns.service, service), (columns.asked_by, asked_by))
    query = pages.narrowed(select(restarts), *equal, at=columns.started, since=since, until=until)
    rows, position = pages.page(connection, query, [restarts.c.started, restarts.c.id], limit, after)
    return [_read(row, held, now) for row in rows], position


def find(connection: Connection, folder: Path, identity: str, now: float) -> Restart:
    """Raises UnknownError."""
    held = holds.held(folder)
    row = connection.execute(select(restarts).where(restarts.c.id == identity)).first()
    if row is None:
        raise UnknownError(f"there is no restart {identity!r}")
    return _read(row, held, now)


def by_command(connection: Connection, since: float, until: float) -> list[Restart]:
    """Those that the command was asked for and that have ended after `since`: it has no log of its own."""
    query = select(restarts).where(restarts.c.asked_by == "command", restarts.c.ended > since, restarts.c.ended <= until)
    return [Restart(**row._mapping) for row in connection.execute(query.order_by(restarts.c.ended))]  # noqa: SLF001 - public


def note(connection: Connection, restart: Restart) -> None:
    """Write it, for the first time or again; with the first outcome that it has, it is counted."""
    values, its = vars(restart), restarts.c.id == restart.id
    before = connection.execute(select(restarts.c.outcome).where(its)).first()
    connection.execute(update(restarts).where(its).values(values) if before else insert(restarts).values(values))
    if restart.outcome is not None and (before is None or before.outcome is None):
        count_restart(connection, restart.service, restart.outcome)


def _keep(engine: Engine | None, restart: Restart) -> bool:
    if engine is None:  # who came without one has said so
        return False
    try:
        with engine.begin() as connection:
            note(connection, restart)
    except SQLAlchemyError as error:
        fields = _fields(restart, "restart") | {"reason": type(error).__name__}
        _log.error("a restart cannot be kept in the database", **fields)
        return False
    return True


def _read(row: Row[Any], held: Collection[str], now: float) -> Restart:
    """A restart that has not ended, and whose service nobody held before the database was read, has been left by who did it."""
    found = Restart(**{column.name: getattr(row, column.name) for column in restarts.columns})
    lost = found.outcome is None and found.started < now and found.service not in held
    return replace(found, outcome="interrupted", detail="who did it is gone") if lost else found


def _fields(restart: Restart, action: str) -> dict[str, Any]:
    """ECS' fields for the log, and ours."""
    said = "success" if restart.outcome == "healthy" else "failure"
    outcome = {} if restart.outcome in (None, "declined") else {"event.outcome": said}
    shown = ("service", "asked_by", "author", "comment", "old_pid", "new_pid")
    about = {name: value for name in shown if (value := getattr(restart, name)) not in (None, "")}
    about |= {"restart": restart.id} | ({"fingerprint": restart.alert} if restart.alert else {})
    about |= {"reason": restart.detail} if restart.detail else {}
    return {"event.category": "process", "event.action": action, **outcome, **about}
