"""The only scheduler: looks once a second which job is due or wanted, and runs it on a thread beside the ticks.

Reports, which take long, have a thread of their own, so that nothing else waits for them. What comes while a thread is
busy waits in the database. Of several monitors on one database one alone gets as far as this (`leader`).
"""

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from service import database, reports
from service.configuration import Configuration
from service.monitor import claims, outbox
from service.monitor.claims import Claim
from service.monitor.tasks import Done, Failed, Surroundings, carry_out
from service.runs import Outcome, Run
from service.values import iso

LOOK = 1.0  # seconds between two looks; each asks the database, and is most of what a monitor costs between two ticks
GAP = 10.0  # seconds without a look after which nobody has watched: asleep, the clock put forward, the database locked
AGAIN = 1.0  # seconds until an end is written again that could not be
REPORTS = ("report",)
LANES = (REPORTS, ("prune", "backup", "probe"))  # kinds that wait for each other

_log = structlog.get_logger()


class Jobs:
    """The thread that looks, and one for each lane that has something to do."""

    def __init__(
        self, engine: Engine, folder: Path, configuration: Configuration, clock: Callable[[], float], wake: Callable[[], None]
    ) -> None:
        self._engine, self._folder, self._configuration = engine, folder, configuration
        self._clock, self._wake = clock, wake  # `wake` is called when there is something to deliver
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="jobs", daemon=True)
        self._lanes: dict[tuple[str, ...], threading.Thread] = {}
        self._busy: dict[tuple[str, ...], str] = {}  # the job that a lane runs
        self._recovered = False
        self._usable = True  # the database
        self._looked = self._watched = float("-inf")

    def start(self) -> None:
        self._thread.start()

    def configure(self, configuration: Configuration) -> None:
        """Go on with another configuration; what runs ends with the one it began with."""
        self._configuration = configuration

    def stop(self, patience: float) -> None:
        """Begin nothing more, and wait at most so many seconds for what runs: the next start finds the rest cut off."""
        self._stopping.set()
        until = time.monotonic() + patience
        for thread in (self._thread, *self._lanes.values()):
            thread.join(max(0.0, until - time.monotonic()))

    def _watch(self) -> None:
        while not self._stopping.wait(LOOK):
            try:
                self._look(self._clock())
            except (SQLAlchemyError, OSError) as error:
                if self._usable:
                    _log.error("jobs wait for the database, which is of no use now", reason=type(error).__name__)
                self._usable = False
            except Exception:  # noqa: BLE001 - a thread that ended would not be missed: whatever it was, go on
                _log.exception("jobs cannot be looked at")
            else:
                self._usable = True

    def _look(self, now: float) -> None:
        if not self._recovered:
            self._recover(now)
        if not 0 <= now - self._looked <= GAP:
            self._watched = now
        free = [lane for lane in LANES if lane not in self._lanes or not self._lanes[lane].is_alive()]
        for lane in free:
            self._busy.pop(lane, None)
        busy = list(self._busy.values())
        # One transaction for what is nearly always nothing.
        with database.checked(), database.reading(self._engine) as connection:
            kinds = {job.task.kind for job in claims.coming(connection, [kind for lane in free for kind in lane], busy, now)}
            asked = reports.oldest_asked(connection) if REPORTS in free and kinds.isdisjoint(REPORTS) else None
        for lane in free:
            if not kinds.isdisjoint(lane):
                work = self._claimed(lane, busy, now)
            else:
                work = partial(self._report, asked) if lane is REPORTS and asked is not None else None
            if work is not None:
                self._lanes[lane] = threading.Thread(target=work, name=f"job {lane[0]}", daemon=True)
                self._lanes[lane].start()
        self._looked = now

    def _recover(self, now: float) -> None:
        with database.checked(), self._engine.begin() as connection:
            left = claims.recover(connection, now)
            reports.recover(connection)
        self._recovered = True
        for run in left:
            _tell(run, "interrupted", "the monitor ended in the midst of it")

    def _claimed(self, lane: tuple[str, ...], busy: list[str], now: float) -> Callable[[], None] | None:
        """The run that this lane is to make now."""
        surroundings = Surroundings(self._engine, self._folder, self._configuration, self._clock, self._stopping.is_set)
        with database.checked(), self._engine.begin() as connection:
            claim, skipped = claims.claim(connection, lane, busy, now, self._watched)
        for run in skipped:
            _tell(run, "skipped", run.detail)
        if claim is None:
            return None
        self._busy[lane] = claim.job.name
        return partial(self._run, claim, surroundings)

    def _report(self, identity: str) -> None:
        try:
            reports.carry_out(self._engine, self._configuration, identity, self._clock)
        except SQLAlchemyError as error:
            _log.error("a report waits for the database", report=identity, reason=type(error).__name__)
            self._write(reports.recover)  # it is made anew
        except Exception as error:  # noqa: BLE001 - whatever it was, nobody waits for this report for ever
            _log.exception("a report cannot be made", report=identity)
            reason = f"it cannot be made ({type(error).__name__})"
            self._write(lambda connection: reports.fail(connection, identity, reason, self._clock()))

    def _run(self, claim: Claim, surroundings: Surroundings) -> None:
        run = claim.run
        try:
            ended = carry_out(claim.job, run, surroundings)
        except Failed as error:
            ended = Done(str(error), failed=True)
        except Exception as error:  # noqa: BLE001 - whatever it was, the job goes on at its next time
            _log.exception("a job failed", job=run.job, run=run.id)
            ended = Done(f"it failed ({type(error).__name__})", failed=True)
        outcome: Outcome = "failed" if ended.failed else "done"

        def note(connection: Connection) -> None:
            # In one transaction: of what is done, the receiver is told for certain.
            outbox.announce(connection, ended.entries, self._clock())
            claims.finish(connection, run, self._clock(), outcome, ended.detail)
            reports.fail(connection, run.id, ended.detail, self._clock())  # where it could not be written

        if self._write(note):
            _tell(run, outcome, ended.detail)
        if ended.entries:
            self._wake()

    def _write(self, write: Callable[[Connection], object]) -> bool:
        """Write it, as soon as the database can be used; False if the monitor ends before that."""
        while True:
            try:
                with database.checked(), self._engine.begin() as connection:
                    write(connection)
            except SQLAlchemyError:
                if self._stopping.wait(AGAIN):
                    return False
            else:
                return True


def _tell(run: Run, outcome: str, detail: str) -> None:
    """A log line with ECS' fields, and ours."""
    say = _log.info if outcome == "done" else _log.error
    fields = {"event.category": "process", "event.action": "job", "event.outcome": "success" if outcome == "done" else "failure"}
    asked = {} if run.asked_by is None else {"author": run.asked_by}
    say(f"job: {outcome}", **fields, job=run.job, kind=run.kind, run=run.id, due=iso(run.due), **asked, reason=detail)
