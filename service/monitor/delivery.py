"""Sending what the outbox holds: one thread for each receiver, retries with growing waits, marks after the 2xx.

A receiver that hangs delays neither a tick nor another receiver. Within a receiver the order is kept: a message that
fails is tried again before the next one is.
"""

import random
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from service.configuration import Receiver
from service.monitor import outbox
from service.monitor.exchange import Client, Unreachable
from service.monitor.receivers import message

# The longest wait is what a receiver that came back waits for its news.
FIRST_WAIT, LONGEST_WAIT = 1.0, 45.0  # seconds
LONGEST_ORDERED = 24 * 3600.0  # seconds that a receiver can ask for with Retry-After
IDLE = 60.0  # seconds between two looks when nobody wakes the thread
ANSWER = 4096  # bytes read of a receiver's answer; only status and headers matter

_log = structlog.get_logger()


@dataclass(frozen=True)
class Verdict:
    """What an answer means. `error` is None for a 2xx; `wait` is what Retry-After asks for, in seconds."""

    error: str | None = None
    wait: float = 0.0
    gone: bool = False
    uncertain: bool = False  # the receiver may have taken it all the same


def judge(status: int, headers: Mapping[str, str], now: float) -> Verdict:
    """An HTTP status -> delivered, tried again (when), or wanted no more. A redirect is not followed.

    Retry-After as RFC 9110, section 10.2.3, has it: seconds or a date.
    """
    if 200 <= status < 300:
        return Verdict()
    error = f"it answered {status}"
    if status == 410:
        return Verdict(error, gone=True)
    wait = retry_after(headers.get("Retry-After", ""), now) if status in (429, 503) else 0.0
    # A 5xx may come from somebody on the way, behind whom the receiver has taken it. 503 means "not now".
    return Verdict(error, wait, uncertain=status >= 500 and status != 503)


def retry_after(text: str, now: float) -> float:
    """Seconds that Retry-After asks for; 0 for what is neither seconds nor a date."""
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return min(float(text), LONGEST_ORDERED)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    return min(max(0.0, moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - now), LONGEST_ORDERED)


def wait_after(attempts: int, chance: float) -> float:
    """Seconds until the next try after so many failed ones: doubling up to a limit, half of it by `chance` (0 to 1).

    Without the chance everybody who lost the same receiver would return to it in the same moment.
    """
    longest = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(attempts - 1, 10))
    return longest * (0.5 + 0.5 * chance)


def deliver_next(engine: Engine, receiver: Receiver, client: Client, clock: Callable[[], float]) -> float:
    """Send the next message if it is due; seconds until there may be something to do."""
    now = clock()
    with engine.begin() as connection:
        claimed = outbox.claim(connection, receiver, now)
    if claimed is None:
        return IDLE
    if claimed.due > now:
        return min(claimed.due - now, LONGEST_ORDERED)
    verdict = _send(receiver, client, claimed, now)
    done = clock()
    about = {"receiver": receiver.name, "message_id": claimed.identity, "attempts": claimed.attempts + 1}
    if verdict.error is None:
        with engine.begin() as connection:
            outbox.delivered(connection, claimed, done)
        _log.info("message delivered", alerts=len(claimed.parts), **about)
        return 0.0
    pause = max(verdict.wait, wait_after(claimed.attempts + 1, random.random()))  # noqa: S311 - jitter, not a secret
    with engine.begin() as connection:
        died = outbox.failed(connection, claimed, done, done + pause, verdict.error, uncertain=verdict.uncertain)
        if verdict.gone:
            outbox.disable(connection, receiver, done)
    _log.warning("message not delivered", error=verdict.error, next_try_seconds=round(pause, 1), **about)
    if verdict.gone:
        _log.error("the receiver wants no more (410) and is disabled; `tocsin outbox replay` tries it again", **about)
    if died:
        _log.error("given up; `tocsin outbox` lists them, `tocsin outbox replay` sends them again", dead=died, **about)
    return pause


def _send(receiver: Receiver, client: Client, claimed: outbox.Message, now: float) -> Verdict:
    body, headers = message(receiver, claimed.identity, claimed.contents, claimed.created, now)
    address = receiver.webhook.get_secret_value()
    try:
        answer = client.ask("POST", address, timeout=receiver.timeout, limit=ANSWER, body=body, headers=headers)
    except Unreachable as error:
        return Verdict(str(error), uncertain=error.sent)
    return judge(answer.status, answer.headers, now)


class Delivery:
    """The threads that deliver."""

    def __init__(self, engine: Engine, receivers: Iterable[Receiver], clock: Callable[[], float]) -> None:
        self._engine = engine
        self._clock = clock
        self._stopping = threading.Event()
        self._wakes = {receiver.name: threading.Event() for receiver in receivers}
        self._threads = [
            threading.Thread(target=self._run, args=(receiver,), name=f"delivery {receiver.name}", daemon=True)
            for receiver in receivers
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """There is something new."""
        for wake in self._wakes.values():
            wake.set()

    def stop(self, patience: float) -> None:
        """Finish what is being sent, waiting at most `patience` seconds; the rest stays for the next start."""
        self._stopping.set()
        self.wake()
        for thread in self._threads:
            thread.join(patience / len(self._threads))

    def _run(self, receiver: Receiver) -> None:
        wake, client = self._wakes[receiver.name], Client()
        while not self._stopping.is_set():
            wake.clear()
            try:
                pause = deliver_next(self._engine, receiver, client, self._clock)
            except SQLAlchemyError as error:
                _log.error("delivery cannot use the database", receiver=receiver.name, error=type(error).__name__)
                pause = FIRST_WAIT
            except Exception:  # noqa: BLE001 - a thread that ended would not be missed: whatever it was, go on
                _log.exception("delivery failed", receiver=receiver.name)
                pause = FIRST_WAIT
            # A clock that was set back must not make it wait for hours.
            if pause:
                wake.wait(min(pause, IDLE))
        client.close()
