"""Receivers that answered 410: nothing more is sent to such an address, until it has another or somebody replays."""

import hashlib

from sqlalchemy import Connection, delete, insert, select, update

from service.receiver import Receiver
from service.tables import disabled, notifications


def disable(connection: Connection, receiver: Receiver, now: float) -> None:
    """It answered 410: nothing more is sent to this address. What waits stays."""
    connection.execute(delete(disabled).where(disabled.c.receiver == receiver.name))
    connection.execute(insert(disabled).values(receiver=receiver.name, address=_digest(receiver), since=now))


def wants_no_more(connection: Connection, receiver: Receiver) -> bool:
    """Whether it has answered 410 at the address it has."""
    address = connection.execute(select(disabled.c.address).where(disabled.c.receiver == receiver.name)).scalar()
    return address == _digest(receiver)


def take_back(connection: Connection, now: float) -> None:
    """All of them are receivers again. Nothing was tried for what waits for them: its time begins now."""
    held = notifications.c.receiver.in_(select(disabled.c.receiver))
    connection.execute(update(notifications).where(held, notifications.c.waiting).values(changed=now))
    connection.execute(delete(disabled))


def _digest(receiver: Receiver) -> str:
    return hashlib.sha256(receiver.address.get_secret_value().encode("utf-8", "surrogatepass")).hexdigest()
