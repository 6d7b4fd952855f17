"""Apprise in a process of its own (`others`), for each try: what it reads of an answer has no bound in size or time."""

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from service.chat.answers import NOT_TAKEN, NotTaken

STARTING = 10.0  # seconds that Python and Apprise may take to load, on a busy machine


def notify(address: str, contents: Sequence[Mapping[str, Any]], timeout: float) -> None:
    """Tell it once, within `timeout` seconds. Raises NotTaken."""
    order = json.dumps({"address": address, "contents": contents, "timeout": timeout}).encode()  # an argument is seen by all
    command = [sys.executable, "-m", "service.chat.others"]
    late = NotTaken(f"no complete answer within {timeout:g} s")
    try:
        done = subprocess.run(command, input=order, capture_output=True, timeout=timeout + STARTING, check=False)  # noqa: S603 - ours
    except subprocess.TimeoutExpired:
        raise late from None
    except OSError:
        raise NotTaken(NOT_TAKEN) from None
    if done.returncode == -signal.SIGALRM:
        raise late
    if done.returncode != 0:  # its own words may hold the address
        raise NotTaken(NOT_TAKEN)
    if refused := json.loads(done.stdout):
        raise NotTaken(**refused)
