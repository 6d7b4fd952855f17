"""A restart from its beginning to its outcome: programs of a real supervisord, a real lock, a real database."""

import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from service import restarts
from service.database import open_on, reading
from service.holds import BusyError, holding, under_way
from service.restarts import STEADY, Restart, UnknownError, asked, perform
from service.services import Service
from service.settings import Settings
from service.supervision import supervisor_of
from service.supervision.health import fault_at
from tests.stack import BIN, ROOT, eventually, free_port, unless
from tests.supervised import SLEEPS, Supervised, answers, supervised

Lines = Callable[[], list[dict[str, Any]]]
PORT, LATE = free_port(), free_port()
# As soon as a file `broken` is there, one cannot be started, and one does not stay. The last is up only after a while.
FAILS = "command = sh -c 'test -e broken && exit 1; exec sleep 1000'\nstartretries = 0"
ENDS = "command = sh -c 'test -e broken && exec sleep 1.5; exec sleep 1000'"
SLOW = f"command = sh -c 'sleep 1.5; exec {BIN}/python -m http.server {LATE} --bind 127.0.0.1'"
BRIEF = "command = sleep 0.6\nstartsecs = 0\nautostart = false"


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervised]:
    folder = tmp_path_factory.mktemp("restarts")
    found = {"steady": answers(PORT), "sleeps": SLEEPS, "fails": FAILS, "ends": ENDS, "slow": SLOW, "brief": BRIEF}
    with supervised(folder, {name: f"{lines}\ndirectory = {folder}" for name, lines in found.items()}) as running:
        yield running


def service(name: str, path: str = "", *, port: int = PORT, timeout: float = 20.0) -> Service:
    url = SecretStr(f"http://127.0.0.1:{port}{path}") if path else None
    return Service(name=name, supervisord=name, url=url, timeout=f"{timeout}s")


def found(engine: Engine, folder: Path, identity: str) -> Restart:
    with reading(engine) as connection:
        return restarts.find(connection, folder, identity, time.time())


def every(engine: Engine, folder: Path, **given: Any) -> list[str]:
    with reading(engine) as connection:
        return [each.id for each in restarts.page(connection, folder, time.time(), **given)[0]]


def test_healthy_is_what_has_answered_for_a_while(programs: Supervised, engine: Engine, lines: Lines) -> None:
    """A new process, and no outcome before it has stayed healthy; who asked and what came of it is kept and logged."""
    before = programs.pid("steady")
    asking = asked("steady", "monitor", "monitor", "it was down", alert="782b11582871959c")
    done = perform(service("steady", "/robots.txt"), asking, programs.folder, engine)

    assert ("healthy", "", before, programs.pid("steady")) == (done.outcome, done.detail, done.old_pid, done.new_pid)
    assert before != done.new_pid
    assert done.ended
    assert STEADY <= done.ended - done.started
    assert done == found(engine, programs.folder, asking.id)
    assert ("steady", "monitor", "monitor", "it was down", "782b11582871959c") == (
        (done.service, done.asked_by, done.author, done.comment, done.alert)
    )
    first, last = [line for line in lines() if line["labels.restart"] == asking.id]
    assert ("restart-asked", "restart") == (first["event.action"], last["event.action"])
    assert ("process", "success", "info") == (last["event.category"], last["event.outcome"], last["log.level"])
    assert ("steady", "monitor", "it was down", "782b11582871959c", str(before), str(done.new_pid)) == tuple(
        last[f"labels.{name}"] for name in ("service", "asked_by", "comment", "fingerprint", "old_pid", "new_pid")
    )


@pytest.mark.parametrize(
    ("it", "outcome", "detail"),
    [
        (service("steady", "/nothing", timeout=1), "unhealthy", "it answers 404"),
        (service("steady", "/robots.txt", port=free_port(), timeout=1), "unhealthy", "it does not answer (ConnectionError)"),
        (service("fails"), "unhealthy", "it is failed: Exited too quickly (process log may have details)"),
        (service("ends", timeout=2), "unhealthy", ""),
        (service("nobody"), "unreachable", "supervisord has no program 'nobody'"),
    ],
    ids=["other status", "refused", "cannot start", "does not stay", "unknown"],
)
def test_what_is_not_healthy_is_not_called_so(
    programs: Supervised, engine: Engine, lines: Lines, it: Service, outcome: str, detail: str
) -> None:
    """It answers something else, not at all, cannot start again, does not stay up, or is not known."""
    programs.ctl("start", it.name)
    (programs.folder / "broken").touch()
    done = perform(it, asked(it.name, "command", "ann"), programs.folder, engine)
    (programs.folder / "broken").unlink()

    assert outcome == done.outcome
    assert done.detail.startswith(detail)
    assert done.detail
    assert done == found(engine, programs.folder, done.id)
    (last,) = [line for line in lines() if line.get("event.action") == "restart"]
    assert ("failure", "error", done.detail) == (last["event.outcome"], last["log.level"], last["labels.reason"])


def test_what_ends_again_and_again_is_not_healthy(programs: Supervised, engine: Engine) -> None:
    """It runs at every look, and answers, but is another process each time."""

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(1)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    programs.ctl("start", "brief")
    done = threading.Event()

    def asking() -> None:
        """Each question makes supervisord look at its programs, so that it starts them again at once."""
        supervisor = supervisor_of(service("brief"), programs.folder)
        while not done.wait(0.02):
            supervisor.status()

    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        threads = [threading.Thread(target=work) for work in (server.serve_forever, asking)]
        for thread in threads:
            thread.start()
        it = service("brief", "/", port=server.server_address[1], timeout=3)
        came = perform(it, asked("brief", "api", "ann"), programs.folder, engine, steady=1.5)
        done.set()
        server.shutdown()
        for thread in threads:
            thread.join()
    programs.ctl("stop", "brief")
    assert "unhealthy" == came.outcome
    assert re.match(r"its process \d+ has ended|it is ", came.detail)


def test_a_redirect_is_not_health(programs: Supervised, engine: Engine) -> None:
    """Only 200 to 299 is."""
    (programs.folder / "folder").mkdir(exist_ok=True)
    done = perform(service("slow", "/folder", port=LATE, timeout=3), asked("slow", "api", "ann"), programs.folder, engine)
    assert ("unhealthy", "it answers 301") == (done.outcome, done.detail)


def test_who_is_healthy_in_time_must_stay_so_for_as_long_as_everyone(programs: Supervised, engine: Engine) -> None:
    """It answers just before its time is up: it is not called healthy then, but after it has stayed."""
    done = perform(service("slow", "/", port=LATE, timeout=3), asked("slow", "api", "ann"), programs.folder, engine)
    assert "healthy" == done.outcome
    assert done.ended
    assert 1.5 + STEADY <= done.ended - done.started


def test_what_a_person_stops_meanwhile_is_not_waited_for(programs: Supervised, engine: Engine) -> None:
    """It is not healthy, long before its time is up, and left as the person wants it."""
    outcomes: list[Restart] = []
    it = service("sleeps", timeout=60)
    before = programs.pid("sleeps")
    thread = threading.Thread(
        target=lambda: outcomes.append(perform(it, asked("sleeps", "api", "ann"), programs.folder, engine, steady=40))
    )
    thread.start()
    eventually(lambda: programs.pid("sleeps") not in (0, before), "it is restarted")
    programs.ctl("stop", "sleeps")
    thread.join(30)
    state = programs.ctl("status", "sleeps")
    programs.ctl("start", "sleeps")
    assert ["unhealthy"] == [done.outcome for done in outcomes]
    assert outcomes[0].detail.startswith("it is stopped")
    assert "STOPPED" in state


def test_what_a_person_has_stopped_is_not_started_by_the_monitor(programs: Supervised, engine: Engine, lines: Lines) -> None:
    """It was stopped after the monitor had looked: it is left so, and that is no failure."""
    programs.ctl("stop", "sleeps")
    done = perform(service("sleeps"), asked("sleeps", "monitor", "monitor"), programs.folder, engine)
    state = programs.ctl("status", "sleeps")
    programs.ctl("start", "sleeps")

    assert ("declined", "somebody has stopped it", None, None) == (done.outcome, done.detail, done.old_pid, done.new_pid)
    assert "STOPPED" in state
    assert done.ended
    assert done == found(engine, programs.folder, done.id)
    (last,) = [line for line in lines() if line.get("event.action") == "restart"]
    assert ("info", "somebody has stopped it", None) == (last["log.level"], last["labels.reason"], last.get("event.outcome"))


def test_a_look_ends_in_time_whatever_answers() -> None:
    """A header line now and then does not hold who asks."""

    def drip() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            while not over.wait(0.2):
                connection.sendall(b"X-A: b\r\n")

    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dripping = threading.Thread(target=drip)
        dripping.start()
        began = time.monotonic()
        fault = fault_at(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        took = time.monotonic() - began
        over.set()
        dripping.join()

    assert "it does not answer within 2 s" == fault
    assert took < 10


def test_an_address_that_cannot_be_one_is_not_repeated() -> None:
    """It is taken for a secret: neither what is said nor a thread's end shows it."""
    assert "it does not answer (LocationParseError)" == fault_at(f"http://{'a' * 70}.example/")


def test_the_lock_of_root_can_be_opened_by_others(tmp_path: Path) -> None:
    """Whatever the umask is of who makes it."""
    umask = os.umask(0o077)
    try:
        with holding("web", tmp_path):
            pass
    finally:
        os.umask(umask)
    (lock,) = tmp_path.glob("*.lock")
    assert 0o644 == lock.stat().st_mode & 0o777


def test_a_lock_that_cannot_be_opened_is_a_fault(tmp_path: Path) -> None:
    """The folder takes its place only where no file can be made: other processes would look at the file."""
    (tmp_path / "restart-web.lock").mkdir()
    with pytest.raises(IsADirectoryError), holding("web", tmp_path):
        pass


# A disk with no room for a file, in a mount namespace that ends with the process.
FULL = ["unshare", "--map-root-user", "--mount", "sh", "-c", 'mount -t tmpfs -o nr_inodes=1 none "$0" && exec "$@"']


def can_mount() -> bool:
    return (
        bool(shutil.which("unshare"))
        and subprocess.run([*FULL, "/mnt", "true"], capture_output=True, check=False).returncode == 0
    )


@unless(can_mount(), "no file system can be mounted here")
def test_on_a_full_disk_the_folder_is_the_lock(tmp_path: Path) -> None:
    """There is no room for a file, and still only one restarts it."""
    code = """
import sys
from pathlib import Path
from service.holds import BusyError, holding, under_way
folder = Path(sys.argv[1])
with holding("web", folder):
    held = under_way("web", folder)
    try:
        with holding("web", folder):
            pass
    except BusyError as error:
        print(held, error, under_way("web", folder), list(folder.iterdir()))
print(under_way("web", folder))
"""
    command = [*FULL, str(tmp_path), sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert ("True web is being restarted True []\nFalse\n", "") == (done.stdout, done.stderr)


def test_only_one_restarts_a_service(tmp_path: Path, engine: Engine) -> None:
    """While another process does it, everyone else is refused, and it shows; whose process is killed holds nothing any more."""
    code = f"""
import time
from pathlib import Path
from service.holds import holding
with holding("web", Path({str(tmp_path)!r})):
    print("held", flush=True)
    time.sleep(1000)
"""
    assert not under_way("web", tmp_path)
    assert not list(tmp_path.glob("*.lock"))  # looking makes no file
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) as other:
        assert other.stdout
        assert b"held\n" == other.stdout.readline()
        assert [True, False] == [under_way(name, tmp_path) for name in ("web", "nginx")]
        with pytest.raises(BusyError, match="web is being restarted"):
            perform(service("web"), asked("web", "api", "ann"), tmp_path, engine)
        assert [] == every(engine, tmp_path)
        other.kill()
        other.wait()
    assert not under_way("web", tmp_path)
    with holding("web", tmp_path):
        assert under_way("web", tmp_path)
    assert not under_way("web", tmp_path)


def test_who_inherits_the_lock_holds_it(tmp_path: Path) -> None:
    """The service is held without a gap until the process has ended to which it was handed over."""
    with holding("web", tmp_path) as lock:
        heir = subprocess.Popen(["sleep", "1000"], pass_fds=(lock,))
    assert under_way("web", tmp_path)
    heir.kill()
    heir.wait()
    assert not under_way("web", tmp_path)


def test_looking_does_not_make_it_busy(tmp_path: Path) -> None:
    """Who only looks whether it is held, and holds it meanwhile, keeps nobody from it."""
    look = os.open(tmp_path / "restart-web.lock", os.O_RDONLY | os.O_CREAT)
    fcntl.flock(look, fcntl.LOCK_SH)
    threading.Timer(0.07, os.close, (look,)).start()
    with holding("web", tmp_path):
        assert under_way("web", tmp_path)


def test_what_nobody_does_any_more_was_interrupted(tmp_path: Path, engine: Engine) -> None:
    """A restart that has not ended is under way as long as its service is held; afterwards nobody knows what came of it."""
    begun, ended = asked("web", "api", "ann"), asked("web", "api", "ann")
    ended = Restart(**{**vars(ended), "ended": ended.started + 1, "outcome": "healthy"})
    with engine.begin() as connection:
        for each in (begun, ended):
            restarts.note(connection, each)
    with holding("nginx", tmp_path):
        assert ("interrupted", "healthy") == tuple(found(engine, tmp_path, each.id).outcome for each in (begun, ended))
    with holding("web", tmp_path):
        assert None is found(engine, tmp_path, begun.id).outcome
    with reading(engine) as connection:
        just = restarts.find(connection, tmp_path, begun.id, begun.started - 1)  # it has begun since it was looked who is held
        outcomes = {each.id: each.outcome for each in restarts.page(connection, tmp_path, time.time())[0]}
    assert None is just.outcome
    assert {begun.id: "interrupted", ended.id: "healthy"} == outcomes


def test_who_is_killed_in_the_middle_leaves_the_service_running(programs: Supervised, engine: Engine, settings: Settings) -> None:
    """It is restarted by its supervisor all the same; the restart is told as interrupted."""
    before = programs.pid("sleeps")
    code = f"""
from pathlib import Path
from service.database import connect
from service.restarts import asked, perform
from service.services import Service
it = Service(name="sleeps", supervisord="sleeps")
perform(it, asked("sleeps", "command", "ann"), Path({str(programs.folder)!r}), connect({settings.database!r}))
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL) as other:
        (identity,) = eventually(lambda: every(engine, programs.folder, service="sleeps"), "it has begun")
        assert None is found(engine, programs.folder, identity).outcome
        eventually(lambda: programs.pid("sleeps") != before, "it is asked for")
        other.kill()
    assert eventually(lambda: programs.pid("sleeps"), "it runs") != before
    kept = found(engine, programs.folder, identity)
    assert ("interrupted", "who did it is gone", None) == (kept.outcome, kept.detail, kept.ended)


@pytest.mark.parametrize("damaged", [True, False], ids=["damaged", "none"])
def test_without_a_database_it_is_restarted(programs: Supervised, settings: Settings, lines: Lines, *, damaged: bool) -> None:
    """One that cannot be used is said, and keeps nothing from being restarted; so does having none."""
    (settings.data / "tocsin.db").write_bytes(b"no database" * 1000)
    engine = open_on(settings.database) if damaged else None
    before = programs.pid("sleeps")
    done = perform(service("sleeps"), asked("sleeps", "api", "ann"), programs.folder, engine, steady=0.1)

    assert ("healthy", before) == (done.outcome, done.old_pid)
    said = [line["labels.reason"] for line in lines() if line["message"] == "a restart cannot be kept in the database"]
    assert ["DatabaseError"] * (2 if damaged else 0) == said
    if engine is not None:
        engine.dispose()


def test_the_newest_come_first(tmp_path: Path, engine: Engine) -> None:
    """All, those of one service, and no more than were asked for."""
    made = [Restart(f"{number:016x}", name, "api", "ann", "", 1000.0 + number) for number, name in enumerate("abab")]
    with engine.begin() as connection:
        for each in (made[2], made[0], made[3], made[1]):
            restarts.note(connection, each)
    newest = [each.id for each in reversed(made)]
    assert [newest, newest[::2], newest[:2], []] == [
        every(engine, tmp_path),
        every(engine, tmp_path, service="b"),
        every(engine, tmp_path, limit=2),
        every(engine, tmp_path, service="c"),
    ]
    with pytest.raises(UnknownError, match="there is no restart 'x'"):
        found(engine, tmp_path, "x")


def test_proxies_of_the_environment_are_not_asked(programs: Supervised, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service is asked itself for its health."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    done = perform(
        service("steady", "/robots.txt", timeout=5), asked("steady", "api", "ann"), programs.folder, engine, steady=0.1
    )
    assert "healthy" == done.outcome


def test_a_hung_program_is_killed_after_its_grace(programs: Supervised, engine: Engine) -> None:
    """What does not hear its stop signal is given as long as was asked for."""
    before = programs.pid("sleeps")
    os.kill(before, signal.SIGSTOP)
    try:
        done = perform(service("sleeps"), asked("sleeps", "api", "ann"), programs.folder, engine, grace=0.5, steady=0.1)
    finally:
        with suppress(ProcessLookupError):
            os.kill(before, signal.SIGKILL)
    assert ("healthy", before) == (done.outcome, done.old_pid)
