"""Docker, by the Engine API on its unix socket (https://docs.docker.com/reference/api/engine/).

Who may open that socket may do anything on the machine, so Tocsin has it only where somebody gave it.
"""

import math
from datetime import datetime
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from pydantic import BaseModel, Field, ValidationError

from service.supervision.supervisor import State, Status, SupervisorError, UnknownServiceError
from service.supervision.unix import Answer, Server

_SECONDS = 5.0  # for one call
_GRACE = 10.0  # seconds that the engine gives a container to end, where nobody says otherwise
_STARTED = 30.0  # seconds that a restart may take beyond that

_ENDED = ("created", "exited", "dead")

_REMEDIES: dict[type[OSError], str] = {
    FileNotFoundError: "hand it on (deploy/docker-socket.yaml), or name it with `socket:`",
    ConnectionRefusedError: "start the engine",
    PermissionError: "add its user to the group that the socket belongs to (in Compose: `group_add`)",
}


class _Health(BaseModel):
    status: str = Field(alias="Status")


class _Condition(BaseModel):
    status: str = Field(alias="Status")
    pid: int = Field(alias="Pid")
    exit_code: int = Field(alias="ExitCode")
    out_of_memory: bool = Field(alias="OOMKilled")
    error: str = Field(alias="Error")  # why it could not be started
    started: datetime = Field(alias="StartedAt")  # in the year 1: never
    finished: datetime = Field(alias="FinishedAt")
    health: _Health | None = Field(None, alias="Health")

    @property
    def detail(self) -> str:
        if self.status == "running":
            return "unhealthy" if self.health and self.health.status == "unhealthy" else ""
        if self.status == "created" and not self.error:
            return "never started"
        if self.status not in _ENDED:
            return self.status
        return self.error[:300] or f"exited with status {self.exit_code}{', out of memory' if self.out_of_memory else ''}"


class _Policy(BaseModel):
    name: str = Field(alias="Name")


class _HostConfig(BaseModel):
    restart_policy: _Policy = Field(alias="RestartPolicy")


class _Config(BaseModel):
    stop_timeout: int | None = Field(None, alias="StopTimeout")  # seconds


class _Container(BaseModel):
    id: str = Field(alias="Id")
    name: str = Field(alias="Name")  # with a slash before it
    restarts: int = Field(alias="RestartCount")
    condition: _Condition = Field(alias="State")
    config: _Config = Field(alias="Config")
    host_config: _HostConfig = Field(alias="HostConfig")

    @property
    def state(self) -> State:
        now = self.condition
        if now.status == "running":
            return "starting" if now.health and now.health.status == "starting" else "running"
        if now.status == "restarting":
            return "starting"
        if now.status in _ENDED:
            return "stopped" if self._by_a_person else "failed"
        return "stopped"  # paused, removing: only a person does that

    @property
    def _by_a_person(self) -> bool:
        """The engine does not say who ended it. Rather leave one down than start what somebody stopped."""
        if self.condition.error or self.condition.out_of_memory:
            return False
        # What ends by itself is started again by these policies.
        return self.host_config.restart_policy.name in ("always", "unless-stopped") or self.condition.exit_code in (0, 137, 143)

    @property
    def since(self) -> float | None:
        if self.condition.status == "paused":
            return None  # the engine does not say
        moment = max(self.condition.started, self.condition.finished)
        return moment.timestamp() if moment.year > 1 else None


class Docker:
    """`name` is the container's, not a prefix of its id: `db` would be some other container."""

    def __init__(self, name: str, path: Path) -> None:
        self._name = name
        self._server = Server("the Docker engine", path, _REMEDIES)

    def status(self) -> Status:
        container = self._container()
        condition = container.condition
        return Status(container.state, container.since, condition.pid or None, container.restarts, condition.detail)

    def restart(self, grace: float | None) -> None:
        """The engine does it on its own, whatever becomes of us."""
        container = self._container()
        allowed = _GRACE if container.config.stop_timeout is None else max(container.config.stop_timeout, 0)
        given = "" if grace is None else f"?t={math.ceil(grace)}"
        seconds = (allowed if grace is None else grace) + _STARTED
        answer = self._ask("POST", f"/containers/{container.id}/restart{given}", seconds)
        if answer.status != 204:
            raise self._refused(answer)

    def _container(self) -> _Container:
        answer = self._ask("GET", f"/containers/{quote(self._name, safe='')}/json", _SECONDS)
        if answer.status != 200:
            raise self._refused(answer)
        try:
            container = _Container.model_validate_json(answer.content)
        except ValidationError:
            raise self._server.stranger() from None
        if container.name != f"/{self._name}":
            raise self._missing()
        return container

    def _ask(self, method: str, target: str, seconds: float) -> Answer:
        return self._server.ask(method, f"/v{self._version}{target}", seconds)

    @cached_property
    def _version(self) -> str:
        """Its own newest: a path without a version is deprecated, and every engine refuses some older and newer ones."""
        version = self._server.ask("GET", "/_ping", _SECONDS).headers.get("Api-Version", "")
        if not version.replace(".", "").isdecimal():
            raise self._server.stranger()
        return version

    def _refused(self, answer: Answer) -> SupervisorError:
        if answer.status == 404:
            return self._missing()
        try:
            said = _Fault.model_validate_json(answer.content).message
        except ValidationError:
            said = "it does not say why"
        return SupervisorError(f"the Docker engine refuses it for {self._name!r} ({answer.status}): {said[:300]}")

    def _missing(self) -> UnknownServiceError:
        return UnknownServiceError(f"the Docker engine has no container {self._name!r}; `docker ps --all` lists them")


class _Fault(BaseModel):
    message: str
