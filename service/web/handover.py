"""A restart that the process which was asked for it may not outlive is carried out by one that does."""

import subprocess
import sys
import threading
from pathlib import Path

import orjson
from flask import g
from sqlalchemy import Engine

from service import holds, restarts
from service.restarts import Restart
from service.services import Service
from service.values import number


def hand_over(service: Service, restart: Restart, folder: Path, engine: Engine | None) -> tuple[Restart, bool]:
    """Begin a restart that this process may not outlive; and whether that it has begun could be kept. Raises BusyError."""
    with holds.holding(service.name, folder) as lock:
        begun, kept = restarts.begin(restart, engine)
        _hand_over(service, begun, lock)
    return begun, kept


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
