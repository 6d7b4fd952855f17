"""Jobs in the database: what a person may ask for, what is decided and claimed, and what becomes of what is cut off."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from sqlalchemy import Engine, delete, insert, select, update

from service import jobs, reports
from service import runs as ran
from service.checking import FaultsError, checked
from service.configuration import Configuration, Target
from service.database import connect, reading
from service.jobs import Draft, Job
from service.monitor import claims
from service.monitor.claims import PUNCTUAL, decided
from service.monitor.tasks import Done, Failed, Surroundings, carry_out
from service.receiver import Receiver
from service.runs import Run
from service.tables import jobs as table
from service.tables import reports as report_table
from service.tables import runs
from service.triggers import Interval
from tests.receiver import receiving
from tests.stack import free_port

NOW = 1_792_150_860.0  # 2026-10-16T11:41:00Z
HOURLY = {"type": "interval", "every": "1h"}
ALL = ("report", "prune", "backup", "probe")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = connect(f"sqlite:///{tmp_path}/tocsin.db")
    with engine.begin() as connection:
        jobs.remove(connection, "prune")  # the one that is there from the beginning
    yield engine
    engine.dispose()


def draft(name: str = "nightly", **changed: Any) -> Draft:
    said = {"name": name, "task": {"kind": "backup"}, "trigger": HOURLY, "author": "ann", **changed}
    return checked(Draft, said, NOW)


def add(engine: Engine, *names: str, now: float = NOW, **changed: Any) -> None:
    with engine.begin() as connection:
        for name in names:
            jobs.add(connection, draft(name, **changed), now)


def claim(engine: Engine, now: float, watched: float | None = None, busy: tuple[str, ...] = ()) -> Run | None:
    with engine.begin() as connection:
        found, _ = claims.claim(connection, ALL, busy, now, now if watched is None else watched)
    return None if found is None else found.run


def finish(engine: Engine, run: Run, now: float) -> None:
    with engine.begin() as connection:
        claims.finish(connection, run, now, "done", "")


def recover(engine: Engine, now: float) -> int:
    with engine.begin() as connection:
        return len(claims.recover(connection, now))


def job(engine: Engine, name: str = "nightly") -> Job:
    with reading(engine) as connection:
        return jobs.find(connection, name)


def outcomes(engine: Engine, name: str = "nightly") -> list[str | None]:
    """Of its runs, the oldest first."""
    with reading(engine) as connection:
        found, _ = ran.page(connection, job=name)
    return [run.outcome for run in reversed(found)]


def made(due: float | None, **changed: Any) -> Job:
    every = Interval(type="interval", every="1h")
    said = {"missed": "run", "paused": False, "wanted": None, "wanted_by": None, **changed}
    return Job("nightly", jobs.Prune(kind="prune"), every, due=due, author="ann", created=0.0, updated=0.0, **said)


@pytest.mark.parametrize(
    ("found", "watched", "expected"),
    [
        (made(NOW + 1), 0.0, None),  # before its time
        (made(NOW), 0.0, "run"),
        (made(NOW - 1), 0.0, "run"),
        (made(None), 0.0, None),  # it has no more times
        (made(NOW - 1, paused=True), 0.0, None),
        # Nobody watched at its time.
        (made(NOW - 7200), NOW, "run"),
        (made(NOW - 7200, missed="skip"), NOW, "skip"),
        (made(NOW - PUNCTUAL, missed="skip"), NOW, "run"),  # soon enough after it
        (made(NOW - PUNCTUAL - 1, missed="skip"), NOW, "skip"),
        # Somebody watched, and had something else to do.
        (made(NOW - 7200, missed="skip"), NOW - 7300, "run"),
        # Somebody wants it.
        (made(NOW + 1, wanted=NOW - 5), 0.0, "wanted"),
        (made(None, wanted=NOW - 5, paused=True), 0.0, "wanted"),
        (made(NOW - 7200, wanted=NOW + 60, missed="skip"), NOW, "wanted"),  # the clock was set back since
    ],
)
def test_what_is_done_with_a_job_now(found: Job, watched: float, expected: str | None) -> None:
    """By its time, whether it is paused or wanted, and since when somebody watches."""
    assert expected == decided(found, NOW, watched)


def test_a_run_is_noted_and_the_next_time_set_at_once(engine: Engine) -> None:
    """Once claimed, the run is in the database without an end, and the job is due an interval later and not now."""
    add(engine, "nightly")
    assert NOW + 3600 == job(engine).due
    assert claim(engine, NOW + 3599) is None
    run = claim(engine, NOW + 3601)
    assert run is not None
    assert (NOW + 3600, NOW + 3601, None, None) == (run.due, run.started, run.ended, run.asked_by)
    assert NOW + 7200 == job(engine).due
    assert claim(engine, NOW + 3602) is None
    assert [None] == outcomes(engine)
    finish(engine, run, NOW + 3605)
    assert ["done"] == outcomes(engine)


def test_the_oldest_comes_first_and_a_busy_one_waits(engine: Engine) -> None:
    """Jobs are claimed in the order in which their time came; one that runs is not claimed a second time."""
    add(engine, "b")
    add(engine, "a", now=NOW + 1)
    now = NOW + 4000
    assert claim(engine, now, busy=("a", "b")) is None
    assert "a" == getattr(claim(engine, now, busy=("b",)), "job", None)
    assert "b" == getattr(claim(engine, now), "job", None)
    assert claim(engine, now) is None


def test_what_was_missed_runs_once(engine: Engine) -> None:
    """After a day without a monitor an hourly job runs once, late, and then at its next time."""
    add(engine, "nightly")
    day = NOW + 86_400 + 60
    run = claim(engine, day)
    assert run is not None
    assert NOW + 3600 == run.due
    assert claim(engine, day) is None
    assert NOW + 86_400 + 3600 == job(engine).due


def test_what_was_missed_is_skipped(engine: Engine) -> None:
    """A job that skips is noted as skipped, once, with how late it would have been; then it runs at its next time."""
    add(engine, "nightly", missed="skip")
    day = NOW + 86_400 + 60
    assert claim(engine, day) is None
    with reading(engine) as connection:
        (skipped,), _ = ran.page(connection, job="nightly")
    assert ("skipped", NOW + 3600, day) == (skipped.outcome, skipped.due, skipped.ended)
    assert f"nobody ran it for {86_400 + 60 - 3600} s after its time" == skipped.detail
    assert claim(engine, NOW + 86_400 + 3601, watched=day) is not None


def test_a_clock_that_is_set_back_gives_nothing_a_second_turn(engine: Engine) -> None:
    """After the change nothing is due until the clock has come to where it was; and then it is due once."""
    add(engine, "nightly")
    run = claim(engine, NOW + 3601)
    assert run is not None
    finish(engine, run, NOW + 3602)
    for now in range(0, 7200, 60):
        assert claim(engine, NOW + now) is None
    assert claim(engine, NOW + 7200) is not None


def test_a_wish_is_one_run_whatever_else_is_due(engine: Engine) -> None:
    """Asked for twice it is one run, with the first who asked; its own time stays. A paused job can be wanted, too."""
    add(engine, "nightly")
    with engine.begin() as connection:
        jobs.pause(connection, "nightly")
        jobs.want(connection, "nightly", "ben", NOW + 5)
        jobs.want(connection, "nightly", "cleo", NOW + 6)
    run = claim(engine, NOW + 7)
    assert run is not None
    assert ("ben", NOW + 5) == (run.asked_by, run.due)
    assert claim(engine, NOW + 8) is None
    assert (None, True) == (job(engine).due, job(engine).paused)


def test_resumed_it_is_due_at_its_next_time(engine: Engine) -> None:
    """It counts from when it is resumed, nothing is made up, and resuming what is not paused changes nothing."""
    add(engine, "nightly")
    with engine.begin() as connection:
        jobs.pause(connection, "nightly")
    assert claim(engine, NOW + 4000) is None
    with engine.begin() as connection:
        assert NOW + 38_600 == jobs.resume(connection, "nightly", NOW + 35_000).due
        assert NOW + 38_600 == jobs.resume(connection, "nightly", NOW + 50_000).due
    assert claim(engine, NOW + 38_600) is not None


@pytest.mark.parametrize(
    ("missed", "change", "again"),
    [
        ("run", "nothing", True),
        ("skip", "nothing", False),
        ("run", "pause", False),
        ("run", "resume", False),
        ("run", "remove", False),
        ("run", "replace", False),
    ],
)
def test_what_is_cut_off_runs_once_more(engine: Engine, missed: str, change: str, *, again: bool) -> None:
    """Found without an end at a start it is noted as interrupted; it runs again only if the job says so and is as it was."""
    add(engine, "nightly", missed=missed)
    first = claim(engine, NOW + 3601)
    assert first is not None
    with engine.begin() as connection:
        match change:
            case "pause":
                jobs.pause(connection, "nightly")
            case "resume":
                jobs.pause(connection, "nightly")
                jobs.resume(connection, "nightly", NOW + 3602)
            case "remove":
                jobs.remove(connection, "nightly")
            case "replace":
                jobs.replace(connection, "nightly", draft(), NOW + 3602)
    assert 1 == recover(engine, NOW + 3700)
    assert 0 == recover(engine, NOW + 3700)
    second = claim(engine, NOW + 3701)
    assert again is (second is not None)
    if second is not None:
        assert first.due == second.due
        assert first.id != second.id
        finish(engine, second, NOW + 3702)
        assert NOW + 7200 == job(engine).due
    assert ["interrupted", "done"][: 1 + again] == outcomes(engine)
    assert claim(engine, NOW + 3703) is None


def test_what_was_said_of_an_end_stays(engine: Engine) -> None:
    """A run that another monitor has found without an end is not done afterwards: it has been made due again."""
    add(engine, "nightly")
    first = claim(engine, NOW + 3601)
    assert first is not None
    recover(engine, NOW + 3700)
    finish(engine, first, NOW + 3701)
    assert ["interrupted"] == outcomes(engine)


def test_a_wish_that_is_cut_off_is_wanted_again(engine: Engine) -> None:
    """By the same one, for the same time."""
    add(engine, "nightly")
    with engine.begin() as connection:
        jobs.want(connection, "nightly", "ben", NOW + 5)
    first = claim(engine, NOW + 6)
    recover(engine, NOW + 7)
    second = claim(engine, NOW + 8)
    assert first is not None
    assert second is not None
    assert (first.due, "ben") == (second.due, second.asked_by)


def test_what_ends_the_monitor_does_so_twice_at_most(engine: Engine) -> None:
    """A job that is cut off when it runs again is left alone until its next time."""
    add(engine, "nightly")
    for second in (1, 2):
        assert claim(engine, NOW + 3600 + second) is not None
        recover(engine, NOW + 3700 + second)
    assert claim(engine, NOW + 3800) is None
    assert ["interrupted", "interrupted"] == outcomes(engine)
    assert claim(engine, NOW + 7200) is not None


def test_of_two_that_claim_one_gets_it(engine: Engine) -> None:
    """Many threads that look at the same moment: each run is claimed by exactly one of them."""
    names = [f"job-{number}" for number in range(5)]
    add(engine, *names)
    found: list[Run] = []
    barrier = threading.Barrier(8)

    def look() -> None:
        barrier.wait()
        while (run := claim(engine, NOW + 3601)) is not None:
            found.append(run)

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names == sorted(run.job for run in found)


@pytest.mark.parametrize("wish", [True, False])
def test_who_comes_second_gets_nothing(engine: Engine, *, wish: bool) -> None:
    """Also in a database where both may read before one of them writes: what was seen must still be so."""
    add(engine, "nightly")
    with engine.begin() as connection:
        seen = jobs.want(connection, "nightly", "ben", NOW + 5)
        first, second = (claims._taken(connection, seen, NOW + 3601, wish=wish) for _ in range(2))
    assert (True, False) == (first, second)


@settings(deadline=None)  # it writes to a disk
@given(st.lists(st.floats(0.1, 20_000), min_size=1, max_size=30))
def test_no_time_runs_twice(steps: list[float]) -> None:
    """Whatever passes between two looks: the times that run are different ones, in their order, none of them early."""
    engine = connect("sqlite://")
    add(engine, "nightly")
    now, dues = NOW, []
    for step in steps:
        now += step
        if (run := claim(engine, now)) is not None:
            assert run.due <= now
            dues.append(run.due)
            finish(engine, run, now)
    assert sorted(set(dues)) == dues
    assert sum(step for step in steps) // 3600 >= len(dues)
    engine.dispose()


def test_a_row_of_another_version_costs_nothing_else(engine: Engine) -> None:
    """What cannot be read does not run, and the others do. It can be removed."""
    add(engine, "good", "odd")
    with engine.begin() as connection:
        connection.execute(update(table).where(table.c.name == "odd").values(kind="shell", parameters={"command": "id"}))
    run = claim(engine, NOW + 3601)
    assert run is not None
    assert "good" == run.job
    assert claim(engine, NOW + 3602) is None
    with engine.begin() as connection:
        assert ["good"] == [each.name for each in jobs.every(connection)]
        jobs.remove(connection, "odd")
        assert ["good"] == connection.execute(select(table.c.name)).scalars().all()


@pytest.mark.parametrize(
    ("changed", "place", "fault"),
    [
        ({"task": {"kind": "shell"}}, "task", "has a `kind` that is none of report, prune, backup, probe"),
        ({"task": {}}, "task", "has no `kind`, which says what it is"),
        ({"task": {"kind": "backup", "keep": 0}}, "task.keep", "0: input should be greater than or equal to 1"),
        ({"task": {"kind": "backup", "keep": "7"}}, "task.keep", "'7': input should be a valid integer"),
        ({"task": {"kind": "backup", "path": "/etc"}}, "task.path", "is not known here"),
        ({"task": {"kind": "probe"}}, "task.target", "is required"),
        ({"task": {"kind": "report", "since": "10s"}}, "task.since", "is not between 1m and 366d"),
        ({"trigger": {"type": "cron", "cron": "0 8 * * *", "timezone": "x"}}, "trigger.timezone", "'x' is not a time zone"),
        ({"trigger": {"type": "cron", "cron": "x"}}, "trigger.cron", "is no line of a crontab"),
        ({"trigger": {"type": "cron", "cron": "0 0 30 2 *"}}, "trigger", "is never due"),
        ({"trigger": {"type": "date", "at": "2026-10-16T11:40:00Z"}}, "trigger", "2026-10-16T11:40:00Z is past"),
        ({"missed": "twice"}, "missed", "is none of run, skip"),
        ({"name": "../etc"}, "name", "'../etc': string should match pattern"),
        ({"name": "a" * 101}, "name", "string should match pattern"),
        ({"name": ".."}, "name", "string should match pattern"),
        ({"command": "id"}, "command", "is not known here"),
    ],
)
def test_what_is_no_job_is_refused(changed: dict[str, Any], place: str, fault: str) -> None:
    """With its place as the client has written it, and why."""
    with pytest.raises(FaultsError) as caught:
        draft(**changed)
    ((found, said),) = caught.value.faults
    assert (place, True) == (found, fault in said), said


@pytest.mark.parametrize(
    ("task", "fault"),
    [
        ({"kind": "report", "receiver": "opps"}, ("task.receiver", "'opps' is not a receiver; did you mean 'ops'?")),
        (
            {"kind": "report", "receiver": "am"},
            ("task.receiver", "'am' is told in Alertmanager's format, which has no place for a report"),
        ),
        ({"kind": "report", "receiver": "ops"}, None),
        ({"kind": "report"}, None),
        ({"kind": "probe", "target": "shopp"}, ("task.target", "'shopp' is not a target; did you mean 'shop'?")),
        ({"kind": "probe", "target": "shop"}, None),
        ({"kind": "prune"}, None),
    ],
)
def test_names_are_those_of_the_configuration(task: dict[str, object], fault: tuple[str, str] | None) -> None:
    """A receiver or target that is not there is told, and a receiver that no report can be sent to."""
    assert ([] if fault is None else [fault]) == jobs.faults_of(draft(task=task), configuration("http://127.0.0.1:9/"))


def configuration(url: str) -> Configuration:
    address = SecretStr(url)
    return Configuration(
        interval=10.0,
        targets=(Target(name="shop", url=address),),
        rules=(),
        receivers=(Receiver(name="ops", webhook=address), Receiver(name="am", webhook=address, format="alertmanager")),
    )


def carried_out(engine: Engine, folder: Path, task: dict[str, object], url: str = "http://127.0.0.1:9/") -> Done:
    add(engine, "it", task=task)
    run = claim(engine, NOW + 3601)
    assert run is not None
    surroundings = Surroundings(engine, folder, configuration(url), lambda: NOW + 3601, lambda: False)
    return carry_out(job(engine, "it"), run, surroundings)


def test_a_probe_says_how_the_target_is(engine: Engine, tmp_path: Path) -> None:
    """Up or not and why; it writes nothing of it elsewhere."""
    down = carried_out(engine, tmp_path, {"kind": "probe", "target": "shop"}, f"http://127.0.0.1:{free_port()}/")
    assert "not up: it refuses the connection, after 0 s" == down.detail
    with engine.begin() as connection:
        jobs.remove(connection, "it")
    with receiving() as server:  # which answers no GET
        up = carried_out(engine, tmp_path, {"kind": "probe", "target": "shop"}, server.url)
    assert "not up: it answered 501, after 0 s" == up.detail
    assert not up.failed


def test_a_target_that_is_gone_fails(engine: Engine, tmp_path: Path) -> None:
    """With a reason, as the configuration may have changed since the job was added."""
    with pytest.raises(Failed, match=r"^there is no target 'gone' any more$"):
        carried_out(engine, tmp_path, {"kind": "probe", "target": "gone"})


@pytest.mark.parametrize(
    ("receiver", "fault"),
    [("gone", "there is no receiver 'gone' any more"), ("am", "'am' is told in Alertmanager's format now")],
)
def test_a_receiver_that_takes_no_report_fails(engine: Engine, tmp_path: Path, receiver: str, fault: str) -> None:
    """The same for a receiver, and none is told in words that it does not understand."""
    with pytest.raises(Failed, match=fault):
        carried_out(engine, tmp_path, {"kind": "report", "receiver": receiver})


def reported(engine: Engine) -> list[tuple[str, str, float, float]]:
    """The reports that are kept: id, state and period, the oldest first."""
    with reading(engine) as connection:
        row = report_table.c
        query = select(row.id, row.state, row.since, row.until).order_by(row.until)
        return [tuple(each) for each in connection.execute(query)]


def report_on(engine: Engine, folder: Path, run: Run) -> Done:
    surroundings = Surroundings(engine, folder, configuration("http://127.0.0.1:9/"), lambda: run.started, lambda: False)
    return carry_out(job(engine, run.job), run, surroundings)


def test_reports_of_a_job_leave_nothing_out(engine: Engine, tmp_path: Path) -> None:
    """Each begins where the one before it ended, with all of its last minute; after a long pause it is as long as ever."""
    add(engine, "it", task={"kind": "report", "since": "1h"}, trigger={**HOURLY, "jitter": "15m"})
    for due in (3600, 7200 + 800, 10_800 + 60, 40_000):
        with engine.begin() as connection:
            connection.execute(update(table).values(due=NOW + due))
        run = claim(engine, NOW + due + 1)
        assert run is not None
        report_on(engine, tmp_path, run)
        finish(engine, run, NOW + due + 2)
    first, second, third, last = reported(engine)
    assert first[3] == second[2] == NOW + 3540  # what is measured later is not written yet
    assert second[3] - second[2] > 3600
    assert third[3] - third[2] == last[3] - last[2] == 3600
    assert third[2] <= second[3]


def test_a_report_that_is_cut_off_is_not_made_twice(engine: Engine, tmp_path: Path) -> None:
    """What a killed run has begun is gone with it; the report is that of the run that is made in its place."""
    add(engine, "it", task={"kind": "report"})
    first = claim(engine, NOW + 3601)
    assert first is not None
    with engine.begin() as connection:
        reports.ask_for(connection, first, 3600.0, NOW + 3600, NOW + 3601)
        asked = reports.ask(connection, NOW, NOW + 3600, "ann", NOW + 3601).id
    recover(engine, NOW + 3700)
    with engine.begin() as connection:
        reports.recover(connection)
        assert asked == reports.oldest_asked(connection)
    second = claim(engine, NOW + 3701)
    assert second is not None
    assert f"report {second.id}" == report_on(engine, tmp_path, second).detail
    assert {asked, second.id} == {identity for identity, *_ in reported(engine)}


def test_a_report_of_a_job_is_made_however_many_are_asked_for(engine: Engine, tmp_path: Path) -> None:
    """The bound is for what people ask for, and counts only that."""
    add(engine, "it", task={"kind": "report"})
    run = claim(engine, NOW + 3601)
    assert run is not None
    with engine.begin() as connection:
        reports.ask_for(connection, run, 3600.0, NOW + 3600, NOW + 3601)
        for _ in range(reports.MOST_WAITING):
            reports.ask(connection, NOW, NOW + 3600, "ann", NOW + 3601)
        connection.execute(delete(report_table).where(report_table.c.id == run.id))
    assert f"report {run.id}" == report_on(engine, tmp_path, run).detail


def test_a_report_that_is_deleted_while_it_is_made_is_a_failure_in_words(engine: Engine, tmp_path: Path) -> None:
    """The run says what has become of it."""
    add(engine, "it", task={"kind": "report"})
    run = claim(engine, NOW + 3601)
    assert run is not None

    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER gone AFTER UPDATE OF state ON reports WHEN NEW.state = 'done' "
            "BEGIN DELETE FROM reports WHERE id = NEW.id; END"
        )
    with pytest.raises(Failed, match=r"^somebody has deleted it while it was made$"):
        report_on(engine, tmp_path, run)


def test_prune_says_what_it_has_deleted(engine: Engine, tmp_path: Path) -> None:
    """By number and name; nothing if nothing was old enough."""
    assert "nothing was old enough" == carried_out(engine, tmp_path, {"kind": "prune"}).detail
    with engine.begin() as connection:
        jobs.remove(connection, "it")
        old = {"job": "it", "kind": "prune", "due": 0.0, "started": 0.0, "ended": 1.0, "outcome": "done"}
        connection.execute(insert(runs), [{**old, "id": str(number)} for number in range(3)])
    assert "deleted 3 runs" == carried_out(engine, tmp_path, {"kind": "prune"}).detail
