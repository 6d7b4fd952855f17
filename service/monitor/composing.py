"""What of all that waits goes into the next messages. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from service.monitor.receivers import late
from service.receiver import Receiver

LARGEST = 16_000  # bytes of contents in one message; with what stands around them it stays below 20 KiB
LARGEST_REPEATED = 9_000  # the same where the body says once more what all of them have in common
MOST = 200  # notifications looked at for the next messages
LEAST = 100  # of these that a message is chosen from, as long as more wait: else it would be smaller than it need be

Part = tuple[int, Mapping[str, Any]]  # a notification's id, and what is said of it


class Waiting(NamedTuple):
    """A notification that waits, as it is stored."""

    id: int
    occurrence: str
    wanted: str
    told: str | None
    firing: Mapping[str, Any]
    resolved: Mapping[str, Any] | None
    changed: float
    grouping: Mapping[str, Any]


class Draft(NamedTuple):
    """A message to be: its parts, what they have in common, and since when the oldest of it waits."""

    parts: list[Part]
    grouping: Mapping[str, Any]
    since: float


@dataclass(frozen=True)
class Message:
    """One message to one receiver, as it is sent at every try. Times in seconds since 1970."""

    receiver: str
    identity: str
    parts: tuple[Part, ...]
    grouping: Mapping[str, Any]
    since: float | None  # when the oldest of it came to wait
    created: float
    due: float
    attempts: int
    uncertain: bool = False  # an earlier try may have arrived

    @property
    def contents(self) -> list[Mapping[str, Any]]:
        return [content for _, content in self.parts]


def largest(receiver: Receiver) -> int:
    """Bytes of contents in one message to it."""
    return LARGEST_REPEATED if receiver.format == "alertmanager" else LARGEST


def compose(rows: Sequence[Waiting], most: int, largest: int) -> list[Draft]:
    """So many messages of what waits, the oldest first: each as much of one grouping as fits into it."""
    drafts: list[Draft] = []
    ends = len(rows) < MOST  # nothing waits behind these
    while rows and len(drafts) < most and (ends or not drafts or len(rows) >= LEAST):
        draft, rows = _first(rows, largest)
        drafts.append(draft)
    return drafts


def _first(rows: Sequence[Waiting], largest: int) -> tuple[Draft, Sequence[Waiting]]:
    """The first message, and what is left."""
    grouping = rows[0].grouping
    parts: list[Part] = []
    left: list[Waiting] = []
    passed: set[str] = set()  # alerts of another grouping: what comes after in the same alert must not overtake it
    size = 0
    for number, row in enumerate(rows):
        alert = row.occurrence.rpartition("-")[0]
        if row.grouping != grouping or alert in passed:
            passed.add(alert)
            left.append(row)
            continue
        content = _content(row)
        size += len(orjson.dumps(content)) + 1
        if parts and size > largest:
            left += rows[number:]
            break
        parts.append((row.id, content))
    return Draft(parts, grouping, rows[0].changed), left


def _content(row: Waiting) -> Mapping[str, Any]:
    if row.wanted != "resolved" or row.resolved is None:
        return row.firing
    return row.resolved if row.told else late(row.resolved)
