"""Whether a service is restarted for an alert that fires, or given up. Pure: it is told the time and what is seen.

A restart that was decided is counted and stored before it is made, so that a monitor that is restarted meanwhile
goes on counting. It has helped when the alert is resolved, and not before.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from service.services import Heal

REMEMBERED = 20  # restarts; a budget is never larger (service.services.Heal)
SETTLING = 60.0  # seconds for which a service that has just been started is left alone, however often it is

Action = Literal["restart", "give up"]


@dataclass(frozen=True)
class Healing:
    """What was tried for one alert. Times in seconds since 1970. Only `attempts` outlives the incident."""

    service: str = ""
    began: float = 0.0  # since when the condition holds
    attempts: tuple[float, ...] = ()  # when the service was restarted for this alert, of late: the budget
    tried: int = 0  # restarts decided on since it fires
    made: int = 0  # those of them that its supervisor has carried out
    number: int = 0  # which one of `of` the last restart was
    of: int = 0
    restart: str | None = None  # the id of the one that is under way
    ended: float | None = None  # when the last one ended
    detail: str = ""  # what came of it
    gave_up: bool = False
    held: str = ""  # why nothing is done although it is time

    @property
    def step(self) -> int:
        """How far it has come in this incident; each step is told."""
        return self.tried + self.gave_up


@dataclass(frozen=True)
class Seen:
    """How a service is: what its supervisor says, and whether somebody restarts it.

    None: the supervisor does not answer. Gone: it has no such service.
    """

    state: str | None
    since: float | None = None
    busy: bool = False


@dataclass(frozen=True)
class Ended:
    """A restart that is over: whether its supervisor has carried it out, and what is wrong all the same."""

    made: bool
    detail: str = ""


@dataclass(frozen=True)
class Repairs:
    """How it stands with services, and with the restarts that were begun."""

    services: Mapping[str, Seen] = field(default_factory=dict)
    running: Collection[str] = ()  # ids of restarts that are under way
    ended: Mapping[str, Ended] = field(default_factory=dict)  # by id
    counted: bool = False  # what is decided now can be stored


def settled(healing: Healing, repairs: Repairs, now: float) -> Healing:
    """With what came of the restart that was under way. Whoever was to make it and is gone counts as having made it."""
    if healing.restart is None or healing.restart in repairs.running:
        return healing
    end = repairs.ended.get(healing.restart, Ended(made=True, detail="the monitor was restarted meanwhile"))
    return replace(healing, restart=None, ended=now, detail=end.detail, made=healing.made + end.made)


def decide(
    heal: Heal,
    healing: Healing,
    fired: float,
    repairs: Repairs,
    *,
    spent: Sequence[float],
    hold: str,
    now: float,
) -> tuple[Healing, Action | None]:
    """What to do for an alert that fires since `fired` and is not clear at the moment.

    `spent` is when the monitor has restarted this service, for whatever alert; `hold` is why nobody wants it restarted.

    1. A restart that is under way is waited for.
    2. Nothing is done before the alert has fired for `after`, nor so soon after the last restart: `confirm` after the
       first, twice as long after each further one.
    3. What somebody has stopped, or restarts at this moment, is left alone; for SETTLING at most also what has been
       started less than `confirm` ago. None of this counts.
    4. After `attempts` restarts for this alert, or of this service within `within`, it is given up until it is resolved.
    """
    since, wait = fired, heal.after
    if healing.ended is not None and healing.ended + pause(healing.tried, heal.confirm) > fired + heal.after:
        since, wait = healing.ended, pause(healing.tried, heal.confirm)
    due = since + wait
    seen = repairs.services.get(healing.service)
    # What lies in the future says nothing: the clock was set back.
    if healing.restart is not None or healing.gave_up or seen is None or since <= now < due:
        return replace(healing, held=""), None
    reason = hold or ("" if repairs.counted else "the database cannot be written") or _left_alone(seen, heal, due, now)
    if reason:
        return replace(healing, held=reason), None
    recent = sorted(moment for moment in spent if abs(now - moment) < heal.within)  # a clock may have been set back
    used = max(len(recent), healing.tried)
    if used >= heal.attempts:
        return replace(healing, held="", gave_up=True, of=heal.attempts), "give up"
    # All of them are kept: another rule may count further back.
    attempts = (*healing.attempts, now)[-REMEMBERED:]
    tried, number, of = healing.tried + 1, used + 1, heal.attempts
    return replace(healing, held="", attempts=attempts, tried=tried, number=number, of=of), "restart"


def pause(tried: int, confirm: float) -> float:
    """Seconds from the end of a restart to the next decision."""
    return float(max(confirm, 1.0) * 2 ** max(0, tried - 1))


def _left_alone(seen: Seen, heal: Heal, due: float, now: float) -> str:
    if seen.busy:
        return "somebody is restarting it"
    if seen.state == "stopped":
        return "somebody has stopped it"
    if seen.state in ("running", "starting") and seen.since is not None:
        started = now - max(heal.confirm, 1.0) < seen.since <= now
        if started and now - due < SETTLING:
            return "it has just been started"
    return ""
