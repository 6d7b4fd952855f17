"""The dead man's switch: an address that is asked after each tick, so that somebody else notices when there is none."""

import threading

import structlog
from pydantic import SecretStr

from service.monitor.exchange import Client, Unreachable

TIMEOUT = 10.0  # seconds
ANSWER = 4096  # bytes read of it

_log = structlog.get_logger()


class Heartbeat:
    """Asks on a thread of its own. While one call hangs, those of the next ticks are left out."""

    def __init__(self, address: SecretStr | None) -> None:
        self._due, self._stopping = threading.Event(), threading.Event()
        if address is not None:
            threading.Thread(target=self._run, args=(address.get_secret_value(),), name="heartbeat", daemon=True).start()

    def beat(self) -> None:
        """A tick was evaluated and committed."""
        self._due.set()

    def stop(self) -> None:
        self._stopping.set()
        self._due.set()

    def _run(self, address: str) -> None:
        client, arrives = Client(), True
        while self._due.wait() and not self._stopping.is_set():
            self._due.clear()
            try:
                status = client.ask("GET", address, timeout=TIMEOUT, limit=ANSWER).status
                fault = None if 200 <= status < 300 else f"it answered {status}"
            except Unreachable as error:
                fault = str(error)
            if fault and arrives:  # once, and not at every tick
                _log.error("the heartbeat does not arrive", error=fault)
            elif not fault and not arrives:
                _log.info("the heartbeat arrives again")
            arrives = fault is None
        client.close()
