"""Ask a supervisor how a service is, and to restart it: supervisord, systemd or the Docker engine.

No command line ever comes from outside: names are checked by service.services, and only states and restarts are asked.
"""

from pathlib import Path

from service.services import Service
from service.supervision.docker import Docker
from service.supervision.supervisor import State, Status, Supervisor, SupervisorError, UnknownServiceError
from service.supervision.supervisord import Supervisord
from service.supervision.systemd import Systemd

__all__ = ["State", "Status", "Supervisor", "SupervisorError", "UnknownServiceError", "supervisor_of"]


def supervisor_of(service: Service, runtime: Path) -> Supervisor:
    """The one that runs this service. `runtime` is the folder in which our own supervisord has its socket."""
    supervisor, name = service.supervisor
    if supervisor == "supervisord":
        return Supervisord(name, service.socket or runtime / "supervisor.sock")
    if supervisor == "systemd":
        return Systemd(name)
    return Docker(name, service.socket or Path("/var/run/docker.sock"))
