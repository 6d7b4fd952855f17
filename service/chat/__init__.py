"""Chat services: which address is one's, and telling it.

The services whose own addresses are pasted in are told by hand (`services`, `answers`, `posting`), all others by
Apprise (`others`, in a process of its own: `apart`). What people read is in `text`.
"""

import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import SecretStr

from service.chat import apart
from service.chat.answers import NOT_TAKEN, NotTaken
from service.chat.services import Service, service_of
from service.chat.text import LONGEST, MOST, markdown, plain, told

__all__ = ["LONGEST", "MOST", "Chat", "NotTaken", "chat_address", "is_chat", "markdown", "plain", "told"]

NO_CHAT = "is not an address of a chat service; paste the service's own, or write one as on https://appriseit.com/services/"
NO_CONNECTOR = "is a connector of Teams, which Microsoft has ended; make a Workflow in Teams and paste its address"

ENDING = 0.5  # seconds that a try whose time is up takes to end

_CONNECTOR = re.compile(r"https://(?:[\w.-]+\.webhook\.office\.com|outlook\.office(?:365)?\.com)/webhook.+", re.IGNORECASE)
_HALF = re.compile(r"https://hooks\.slack(?:-gov)?\.com/.+", re.IGNORECASE)  # a chat's, though not all of it


def is_chat(address: SecretStr) -> bool:
    """Whether an http(s) address is one that a chat service gives out."""
    text = address.get_secret_value()
    return service_of(text) is not None or any(pattern.match(text) for pattern in (_CONNECTOR, _HALF))


def chat_address(value: object) -> SecretStr:
    """An address at which a chat can be told, kept as a secret. Raises ValueError, without repeating it, for any other."""
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not isinstance(text, str) or any(character.isspace() for character in text):
        raise ValueError(NO_CHAT)
    if _CONNECTOR.match(text):
        raise ValueError(NO_CONNECTOR)
    if service_of(text) is None and not _is_known_to_apprise(text):
        raise ValueError(NO_CHAT)
    return SecretStr(text)


class Chat:
    """Tells one chat service. For one thread at a time."""

    def __init__(self, address: SecretStr) -> None:
        self._address = address
        self._sending: threading.Thread | None = None

    def tell(self, contents: Sequence[Mapping[str, Any]], timeout: float) -> None:
        """Returns when the service has taken it, within `timeout` seconds. Raises NotTaken."""
        address = self._address.get_secret_value()
        service = service_of(address)
        if service is None:
            apart.notify(address, contents, timeout)
        else:
            self._post(service, address, contents, timeout)

    def _post(self, service: Service, address: str, contents: Sequence[Mapping[str, Any]], timeout: float) -> None:
        """In a thread that can be left behind, one at most: what looks up a name cannot be ended."""
        from service.chat.posting import post  # noqa: PLC0415 - four megabytes, and not before gevent has patched `ssl`

        if self._sending is not None:
            self._sending.join(ENDING)
            if self._sending.is_alive():
                raise NotTaken("the try before this one has not ended yet")
        outcome: list[NotTaken | None] = []

        def send() -> None:
            try:
                post(service, address, contents, timeout)
            except NotTaken as error:
                outcome.append(error)
            except Exception:  # noqa: BLE001 - its text may hold the address
                outcome.append(NotTaken(NOT_TAKEN))
            else:
                outcome.append(None)

        self._sending = threading.Thread(target=send, name="chat", daemon=True)
        self._sending.start()
        self._sending.join(timeout)
        if not outcome:
            raise NotTaken(f"no complete answer within {timeout:g} s")
        if outcome[0] is not None:
            raise outcome[0]

    def close(self) -> None:
        """There is nothing to close: it keeps no connection."""


def _is_known_to_apprise(address: str) -> bool:
    from service.chat.others import connected  # noqa: PLC0415 - a third of a second and 34 MiB, only for those who need it

    return connected(address) is not None
