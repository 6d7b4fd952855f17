"""supervise.py, with real programs under it: what it counts, what it clears away, and what it does when one is given up."""

import os
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xmlrpc.client import ServerProxy

import psutil
import pytest
import requests
from supervisor.xmlrpc import SupervisorTransport

from service.monitor.store import FAILURE
from tests.receiver import receiving
from tests.stack import Running, children, eventually, free_port, process

# gunicorn's master ends at once, and says so in JSON.
NO_WEB = {"GUNICORN_CMD_ARGS": "--worker-tmp-dir=/nonexistent"}
NO_MONITOR = {"TOCSIN_DATABASE_URL": "postgresql://db/tocsin"}  # its driver is not installed


@dataclass
class Supervised(Running):
    """supervise.py and its data folder."""

    data: Path

    def ask(self, method: str, *given: object) -> Any:
        """One call of supervisord's XML-RPC."""
        transport = SupervisorTransport(None, None, f"unix://{self.data}/supervisor.sock")
        with ServerProxy("http://127.0.0.1", transport=transport) as server:
            return getattr(server, method)(*given)

    def state(self, program: str) -> str:
        return str(self.ask("supervisor.getProcessInfo", program)["statename"])

    def pid(self, program: str) -> int:
        """Its process while it is RUNNING, else 0."""
        found = self.ask("supervisor.getProcessInfo", program)
        return int(found["pid"]) if found["statename"] == "RUNNING" else 0

    def messages(self) -> list[str]:
        return [line["message"] for line in self.lines()]

    def waiting(self) -> list[tuple[str, str]]:
        """What is in the outbox to be told: names of alert and target."""
        query = "SELECT firing ->> 'alert', firing ->> 'target' FROM notifications WHERE waiting"
        with closing(sqlite3.connect(self.data / "tocsin.db")) as connection:
            return connection.execute(query).fetchall()


@contextmanager
def supervised(folder: Path, *arguments: str, **env: str) -> Iterator[Supervised]:
    """supervise.py as a container runs it, or with --native."""
    web, front = f"127.0.0.1:{free_port()}", free_port()
    settings = {
        "TOCSIN_DATA": str(folder),
        "TOCSIN_WEB_ADDRESS": web,
        "TOCSIN_HTTP_PORT": str(front),
        "TOCSIN_CONFIG": str(folder / "monitor.yaml"),
        "TOCSIN_INTERVAL": "1s",
        "TOCSIN_DRAIN": "0s",
        "WEB_CONCURRENCY": "2",
    }
    (folder / "monitor.yaml").write_text("targets: []\n")
    log = folder / "supervise.log"
    # As process 1 of a container has it: who loses its parent becomes its child (prctl(2), PR_SET_CHILD_SUBREAPER).
    adopt = "import ctypes, os, sys; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", adopt, sys.executable, "deploy/supervisor/supervise.py", *arguments]
    with process(command, settings | env, log) as child:
        own = folder / "log/supervisord.log" if "--native" in arguments else log
        yield Supervised(child, f"http://{web}", own, folder)


def started(running: Supervised) -> bool:
    return bool(running.pid("monitor") and running.pid("web")) and running.status("/readyz") == 200


def test_restarts_are_counted_but_not_a_persons_own(tmp_path: Path) -> None:
    """A program that ends by itself or by a signal is counted each time it is started again; a stop and a start are not."""
    with supervised(tmp_path) as running:
        eventually(lambda: started(running), "the programs run")
        assert {"web": 0, "monitor": 0} == running.ask("tocsin.restarts")

        for number in (signal.SIGKILL, signal.SIGTERM):
            before = running.pid("monitor")
            running.ask("supervisor.signalProcess", "monitor", str(number.value))
            eventually(lambda before=before: running.pid("monitor") not in (0, before), "another monitor")  # type: ignore[misc]
        assert {"web": 0, "monitor": 2} == running.ask("tocsin.restarts")

        running.ask("supervisor.stopProcess", "monitor")
        running.ask("supervisor.startProcess", "monitor")
        assert {"web": 0, "monitor": 2} == running.ask("tocsin.restarts")
        assert "tocsin.restarts" in running.ask("system.listMethods")


def test_a_hung_web_is_cleared_away_when_its_master_is_killed(tmp_path: Path) -> None:
    """Master and workers stopped (SIGSTOP), then the master killed: none of them is left, and its successor has the port."""
    with supervised(tmp_path) as running:
        eventually(lambda: started(running), "the programs run")
        master = running.pid("web")
        old = [master, *children(master)]
        for pid in old:
            os.kill(pid, signal.SIGSTOP)
        with pytest.raises(requests.Timeout):
            requests.get(f"{running.url}/livez", timeout=1)

        running.ask("supervisor.signalProcess", "web", "TERM")  # what does not run hears nothing
        time.sleep(1)
        assert master == running.pid("web")
        running.ask("supervisor.signalProcess", "web", "KILL")
        eventually(lambda: running.pid("web") not in (0, master) and running.status("/readyz") == 200, "web answers again")
        assert [] == [pid for pid in old if psutil.pid_exists(pid)]


def ended(running: Supervised) -> float:
    """Seconds from the moment a program was given up to the end of supervise.py."""
    eventually(lambda: any(message.startswith("gave up on") for message in running.messages()), "given up", 60)
    began = time.monotonic()
    running.process.wait(60)
    return time.monotonic() - began


def command_line(pid: int) -> list[str]:
    """Empty once the process has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []


def left(folder: Path) -> list[int]:
    """The processes that were given this data folder and still run."""
    found = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"TOCSIN_DATA={folder}\0".encode() in file.read_bytes():
                found.append(int(file.parent.name))
        except OSError:
            continue
    return found


def test_p2_what_is_given_up_ends_it_after_a_last_alert(tmp_path: Path) -> None:
    """A web that never starts: an alert in the outbox, exit status 70 within seconds, no process left, JSON throughout."""
    with supervised(tmp_path, TOCSIN_WEBHOOK_URL="http://127.0.0.1:9/", **NO_WEB) as running:
        eventually(lambda: running.pid("monitor"), "the monitor runs")
        running.ask("supervisor.stopProcess", "monitor")  # then nothing but the alert takes any time
        seconds = ended(running)

        assert 70 == running.process.returncode
        assert seconds < 6
        assert [(FAILURE, "web")] == running.waiting()
        assert [] == left(tmp_path)
        assert any("gave up on web; ending" in message for message in running.messages())


def test_p2_what_fails_slowly_is_given_up_too(tmp_path: Path) -> None:
    """A web that fails only after `startsecs`, as on a slow machine: after four tries it ends in the same way."""
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(2.5)\nraise OSError('it has no disk')\n")
    with supervised(tmp_path, PYTHONPATH=str(tmp_path), TOCSIN_BLUEPRINTS="slow:blueprint") as running:
        seconds = ended(running)

        assert 70 == running.process.returncode
        assert seconds < 6
        assert 4 == sum(message.startswith("exited: web") for message in running.messages())
        assert [] == left(tmp_path)


def test_p2_it_ends_also_when_the_alert_cannot_be_put(tmp_path: Path) -> None:
    """Without a database nothing can be announced: it ends all the same, as quickly, and the log has the reason."""
    with supervised(tmp_path, **NO_MONITOR) as running:
        seconds = ended(running)

        assert 70 == running.process.returncode
        assert seconds < 6
        assert [] == left(tmp_path)


def test_p2_it_ends_also_when_the_command_hangs(tmp_path: Path) -> None:
    """The command that puts the alert is stopped (SIGSTOP): it is killed when the time is up, and the status is the same."""
    with supervised(tmp_path, **NO_WEB) as running:
        commands = eventually(lambda: [pid for pid in left(tmp_path) if "gave-up" in command_line(pid)], "the command", 60)
        os.kill(commands[0], signal.SIGSTOP)
        seconds = ended(running)

        assert 70 == running.process.returncode
        assert seconds < 6
        assert [] == left(tmp_path)
        assert [] == running.waiting()


def test_natively_the_others_go_on_and_tell(tmp_path: Path) -> None:
    """Without a container a web that is given up ends nothing else: the monitor runs on, and tells it once."""
    with receiving() as receiver, supervised(tmp_path, "--native", TOCSIN_WEBHOOK_URL=receiver.url, **NO_WEB) as running:
        told = receiver.wait_for(1, 60)[0].message["data"]["alerts"]

        assert [("firing", "critical", "web")] == [(each["status"], each["severity"], each["target"]) for each in told]
        assert "FATAL" == running.state("web")
        assert running.pid("monitor")
        assert running.pid("nginx")

        running.ask("supervisor.startProcess", "web", False)  # a second time, it is known
        eventually(lambda: sum(message == "gave up on web" for message in running.messages()) == 2, "given up again", 60)
        eventually(lambda: sum("reaped unknown pid" in message for message in running.messages()) == 2, "the command's end")
        time.sleep(3)  # three more ticks
        assert 1 == len(receiver.requests)


def test_a_stop_while_a_program_waits_for_its_next_try_is_no_fault(tmp_path: Path) -> None:
    """SIGTERM while web is in BACKOFF, which supervisord then calls FATAL: exit status 0, and nothing is announced."""
    with supervised(tmp_path, **NO_WEB) as running:
        eventually(lambda: running.pid("monitor") and running.state("web") == "BACKOFF", "web in BACKOFF")
        running.process.send_signal(signal.SIGTERM)

        assert 0 == running.process.wait(20)
        assert [] == [message for message in running.messages() if message.startswith("gave up on")]
        assert [] == running.waiting()


def test_several_share_a_data_folder_each_with_its_own_runtime_folder(tmp_path: Path) -> None:
    """As containers on one volume: both run, and one monitor waits. A third in the second's runtime folder is refused."""
    runtime = tmp_path / "second"
    with supervised(tmp_path) as first:
        eventually(lambda: "monitor started" in first.messages(), "the first monitor leads")
        second = {
            "TOCSIN_DATA": str(tmp_path),
            "TOCSIN_RUNTIME": str(runtime),
            "TOCSIN_CONFIG": str(tmp_path / "monitor.yaml"),
            "TOCSIN_WEB_ADDRESS": f"127.0.0.1:{free_port()}",
            "TOCSIN_DRAIN": "0s",
            "WEB_CONCURRENCY": "1",
        }
        command, log = [sys.executable, "deploy/supervisor/supervise.py"], tmp_path / "second.log"
        with process(command, second, log):
            eventually(lambda: "this one waits" in log.read_text(), "the second monitor waits")
            eventually(
                lambda: started(Supervised(first.process, f"http://{second['TOCSIN_WEB_ADDRESS']}", log, runtime)), "it runs"
            )
            assert started(first)
            refused = tmp_path / "third.log"
            with process(command, second, refused) as third:
                assert 1 == third.wait(20)
            assert (
                f"another supervisord runs in the runtime folder {runtime}; stop it, or set TOCSIN_RUNTIME" in refused.read_text()
            )
