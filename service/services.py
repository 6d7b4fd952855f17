"""What can be restarted, and when the monitor does it: `services` and `heal` of monitor.yaml."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, StringConstraints, ValidationInfo, field_validator

from service.values import Duration, HttpAddress, Name, Part

SUPERVISORS = ("supervisord", "systemd", "docker")

_one_of: dict[str, Any] = {"oneOf": [{"required": [name]} for name in SUPERVISORS]}
# A file is named after it, and nothing that a supervisor would take for an option begins with a letter.
ServiceName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@:-]{0,99}$")]


class Service(Part):
    """Something that a supervisor runs. `supervisord`, `systemd` or `docker` gives its name there."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=_one_of)

    name: ServiceName
    supervisord: ServiceName | None = None
    systemd: ServiceName | None = None
    docker: Annotated[ServiceName | None, Field(validate_default=True)] = None
    socket: Path | None = None  # of supervisord (without one: our own) or of the Docker engine
    url: HttpAddress | None = None  # answers 200 to 299 when it is healthy; without one, what its supervisor says counts
    timeout: Annotated[Duration, Field(gt=0, le=600)] = 60.0  # so long it may take to be healthy after a restart

    @field_validator("docker")
    @classmethod
    def _one_supervisor(cls, docker: str | None, info: ValidationInfo) -> str | None:
        # An unreadable one is missing here, and told by itself.
        named = [name for name in SUPERVISORS[:2] if info.data.get(name, "unreadable")] + ["docker"] * bool(docker)
        if not named:
            raise ValueError("is missing, and so are `supervisord:` and `systemd:`; name the supervisor that runs it")
        if len(named) > 1:
            raise ValueError(f"stands beside `{named[0]}:`; name the one supervisor that runs it")
        return docker

    @field_validator("socket")
    @classmethod
    def _has_one(cls, socket: Path | None, info: ValidationInfo) -> Path | None:
        if socket is not None and info.data.get("systemd"):
            raise ValueError("does not go with `systemd:`; leave it out")
        return socket

    @property
    def supervisor(self) -> tuple[str, str]:
        """Which supervisor runs it, and its name there."""
        return next((name, found) for name in SUPERVISORS if (found := getattr(self, name)))


class Heal(Part):
    """When the monitor restarts a service for an alert, and when it gives up. Times in seconds."""

    service: Name | None = None  # without one: the service of the target
    after: Annotated[Duration, Field(ge=0)] = 30.0  # so long the alert must have fired
    attempts: Annotated[int, Field(ge=1, le=20)] = 3  # so many restarts of the service within `within`
    within: Annotated[Duration, Field(gt=0)] = 900.0
    confirm: Annotated[Duration, Field(ge=0)] = 10.0  # so long the target must stay up for it to have helped
