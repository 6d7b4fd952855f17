"""Which services an answer of ours has to pass: restarted by one who waits for that answer, they would cut it off."""

import psutil
from flask import request

from service.services import Service


def is_passed(service: Service, pid: int | None) -> bool:
    """Whether a restart of this service, which runs as this process, would cut off the answer to this request.

    It does when we are its children (web), or when it or a child of its holds the other end of our connection (nginx).
    What runs in a container, or as another user, cannot be seen from here, and is taken for it. What does not run is not.
    """
    if pid is None:
        return False
    if service.docker is not None:
        return True
    # The port alone: the address may be written in two ways, and it is a connection to us that has it.
    port = int(request.environ.get("REMOTE_PORT") or 0)
    try:
        process = psutil.Process(pid)
        if process in psutil.Process().parents():
            return True
        family = (process, *process.children(recursive=True))
        return any(held.raddr and held.laddr.port == port for each in family for held in each.net_connections("tcp"))
    except psutil.Error:
        return True
