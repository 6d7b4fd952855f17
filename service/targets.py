"""How each target was at the last tick of the monitor, which writes it with that tick. Times are seconds since 1970."""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import TypeAdapter
from sqlalchemy import Connection, select

from service.tables import monitor

SHOWN = ("latency_ms", "http_status", "cpu_usage", "mem_usage", "disk_usage")


@dataclass(frozen=True)
class Standing:
    """Whether a target is up, since when, and why not; what it measured last, of what is SHOWN."""

    up: bool
    since: float
    why: str
    values: Mapping[str, float]


_STANDINGS = TypeAdapter(dict[str, Standing])


def standings(connection: Connection) -> dict[str, Standing]:
    """By name; nothing before the first tick, and of what cannot be read: the next tick writes it anew."""
    try:
        return _STANDINGS.validate_python(connection.execute(select(monitor.c.targets)).scalar() or {})
    except ValueError:
        return {}
