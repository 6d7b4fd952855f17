"""The monitor's hands: it looks at services and restarts them beside its ticks, through a real supervisord."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingMixIn, UnixStreamServer
from typing import Any
from xmlrpc.client import Fault, dumps

import pytest
from sqlalchemy import Engine

from service.database import connect, reading
from service.holds import holding
from service.monitor.healing import Ended, Healing
from service.monitor.restarter import LONGEST_LOOK, Order, Restarter
from service.restarts import page
from service.services import Service
from tests.stack import eventually
from tests.supervised import SLEEPS, STOPPED, Supervised, supervised

SERVICES = (
    Service(name="web", supervisord="web"),
    Service(name="idle", supervisord="idle"),
    Service(name="gone", supervisord="no-such-program"),
)


class ThreadingUnixStreamServer(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True


def order(service: str, identity: str = "r1") -> Order:
    return Order(identity, service, "f" * 16, "Down on self", Healing(service))


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = connect(f"sqlite:///{tmp_path}/tocsin.db")
    yield engine
    engine.dispose()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Supervised]:
    with supervised(tmp_path, {"web": SLEEPS, "idle": STOPPED}) as found:
        yield found


@pytest.fixture
def restarter(tmp_path: Path, engine: Engine) -> Iterator[Restarter]:
    (tmp_path / "data").mkdir()
    restarter = Restarter(SERVICES, tmp_path / "data", tmp_path, engine)
    yield restarter
    restarter.close()


def test_it_sees_how_services_are(running: Supervised, restarter: Restarter) -> None:
    """Running and stopped are told apart; one that its supervisor does not know, is gone."""
    repairs = restarter.look(["web", "idle", "gone", "", "web"], counted=True)

    assert {"web": "running", "idle": "stopped", "gone": "gone"} == {name: seen.state for name, seen in repairs.services.items()}
    assert repairs.counted
    since = repairs.services["web"].since
    assert since is not None
    assert time.time() - 60 < since <= time.time()


def test_it_sees_that_somebody_restarts_it(running: Supervised, restarter: Restarter) -> None:
    """While a person's restart is under way the service is busy, and not after it."""
    with holding("web", running.folder / "data"):
        assert restarter.look(["web"], counted=True).services["web"].busy
    assert not restarter.look(["web"], counted=True).services["web"].busy


def test_a_program_that_was_given_up_needs_no_configuration(running: Supervised, tmp_path: Path, engine: Engine) -> None:
    """What fires about a program of our own supervisord is looked at there, configured or not."""
    restarter = Restarter((), tmp_path, tmp_path, engine)
    seen = restarter.look(["web"], counted=True).services["web"]
    restarter.close()

    assert "running" == seen.state


def test_a_restart_runs_beside_the_ticks(running: Supervised, restarter: Restarter, engine: Engine) -> None:
    """It is under way until it has ended, is told once what came of it, and is kept with who asked and for which alert."""
    before = running.pid("web")
    restarter.begin([order("web")])
    assert ("r1",) == tuple(restarter.look([], counted=True).running)

    ended = eventually(lambda: restarter.look([], counted=True).ended, "its end", 30)
    assert {"r1": Ended(made=True)} == ended
    assert ({}, ()) == ((after := restarter.look([], counted=True)).ended, tuple(after.running))
    assert running.pid("web") not in (0, before)
    with reading(engine) as connection:
        ((kept,), _) = page(connection, running.folder, time.time())
    assert ("r1", "monitor", "f" * 16, "healthy") == (kept.id, kept.asked_by, kept.alert, kept.outcome)


@pytest.mark.parametrize(("service", "said"), [("gone", "supervisord has no program"), ("strange", "not configured any more")])
def test_a_restart_that_cannot_be_made_says_why(running: Supervised, restarter: Restarter, service: str, said: str) -> None:
    """What was ordered ends with the reason, whatever it is, so that the next attempt is counted."""
    restarter.begin([order(service)])
    ended = eventually(lambda: restarter.look([], counted=True).ended, "its end", 30)

    assert said in ended["r1"].detail
    assert not ended["r1"].made


def test_a_restart_of_what_a_person_restarts_ends_at_once(running: Supervised, restarter: Restarter) -> None:
    """Two never restart one service at a time, also where the look was too early to see the other."""
    before = running.pid("web")
    with holding("web", running.folder / "data"):
        restarter.begin([order("web")])
        ended = eventually(lambda: restarter.look([], counted=True).ended, "its end", 30)

    assert "restart" in ended["r1"].detail
    assert before == running.pid("web")


def test_a_supervisor_that_hangs_costs_a_tick_little(tmp_path: Path, engine: Engine) -> None:
    """One that takes the question and never answers leaves the state unknown; the tick goes on."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "supervisor.sock"))
        server.listen(8)
        os.set_blocking(server.fileno(), True)
        restarter = Restarter(SERVICES, tmp_path, tmp_path, engine)
        began = time.monotonic()
        seen = [restarter.look(["web"], counted=True).services["web"].state for _ in range(2)]
        took = time.monotonic() - began
        restarter.close()

    assert [None, None] == seen
    assert took < 2 * LONGEST_LOOK + 5  # a busy machine may be slow, but does not wait for the supervisor's time


def test_an_old_look_is_not_believed(tmp_path: Path, engine: Engine) -> None:
    """What a supervisor was slow to say is of an earlier tick: the next one asks again."""
    states = iter([20, 0, 0, 0])  # RUNNING, and STOPPED from then on

    class Slow(BaseRequestHandler):
        def handle(self) -> None:
            asked = self.request.recv(65_536)
            found: Any = Fault(1, "UNKNOWN_METHOD")
            if b"getProcessInfo" in asked:
                state = next(states)
                time.sleep(LONGEST_LOOK + 0.5 if state else 0)
                found = ({"name": "web", "group": "web", "state": state, "pid": 0, "start": 1, "stop": 1},)
                found[0].update(spawnerr="", exitstatus=0)
            body = dumps(found, methodresponse=True).encode()
            self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    with ThreadingUnixStreamServer(str(tmp_path / "supervisor.sock"), Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        restarter = Restarter(SERVICES, tmp_path, tmp_path, engine)
        first = restarter.look(["web"], counted=True).services["web"].state
        second = eventually(lambda: restarter.look(["web"], counted=True).services["web"].state, "an answer")
        restarter.close()
        server.shutdown()

    assert (None, "stopped") == (first, second)


def test_many_are_restarted_a_few_at_a_time(running: Supervised, restarter: Restarter) -> None:
    """However many are ordered at once: all of them end, on few threads."""
    before = threading.active_count()
    restarter.begin([order("gone", f"r{number}") for number in range(100)])
    assert threading.active_count() < before + 20
    ended: dict[str, Ended] = {}

    def all_ended() -> bool:
        ended.update(restarter.look([], counted=True).ended)
        return len(ended) == 100

    eventually(all_ended, "all of them", 60)
    assert () == tuple(restarter.look([], counted=True).running)
