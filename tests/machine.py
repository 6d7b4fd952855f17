"""A stack to break: supervise.py with gunicorn and the monitor, on a disk, with names and with a clock of its own."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xmlrpc.client import ServerProxy

import requests
from supervisor.xmlrpc import SupervisorTransport

from tests.receiver import Receiver, receiving
from tests.stack import eventually, free_port, process
from tests.test_loop import NAMESPACE, World, told

KEY = "a key of 24 characters.."
NOWHERE = "receiver.invalid"
SIZE = 16  # MiB of the disk
LAST_WORDS = re.compile(rb"Exception ignored in |MemoryError$|<function ")
TARGETS = [f"t{number}" for number in range(20)]
# Names are looked up in the hosts file alone, which is a file of ours.
BEGIN = """
mount -t tmpfs -o size={size}m tmpfs {folder}/data
mount --bind {folder}/hosts /etc/hosts
mount --bind {folder}/nsswitch.conf /etc/nsswitch.conf
exec "$@"
"""
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
# Its clock_nanosleep() of 0.9.10 waits for no time or fails, where CLOCK_MONOTONIC is not to be faked.
SLEEP = "import select, time\ntime.sleep = lambda seconds: select.select([], [], [], seconds)\n"


@dataclass
class Machine:
    """What runs, and whom it tells. Of `b` only `nowhere` hears; `boss` after 50 minutes."""

    folder: Path
    url: str
    pid: int
    world: World
    ops: Receiver
    boss: Receiver
    port: int  # where `nowhere` would listen
    unused: list[str] = field(default_factory=lambda: list(TARGETS))  # each for one firing: what fires too often flaps

    @property
    def disk(self) -> Path:
        """The data folder, as seen from here."""
        return Path(f"/proc/{self.pid}/root{self.folder}/data")

    def inside(self, *command: str) -> list[str]:
        """The command that does this where the disk is."""
        return ["nsenter", "--target", str(self.pid), "--mount", *command]

    def mount(self, options: str) -> None:
        subprocess.run(self.inside("mount", "-o", f"remount,{options}", str(self.folder / "data")), check=True, timeout=20)

    def supervisord(self, method: str, *given: object) -> Any:
        """One call of its XML-RPC."""
        transport = SupervisorTransport(None, None, f"unix://{self.folder}/supervisor.sock")
        with ServerProxy("http://127.0.0.1", transport=transport) as server:
            return getattr(server, f"supervisor.{method}")(*given)

    def process(self, program: str) -> int:
        """Its process; 0 while there is none."""
        return int(self.supervisord("getProcessInfo", program)["pid"])

    def call(self, method: str, path: str, **given: Any) -> requests.Response:
        return requests.request(method, self.url + path, timeout=20, headers={"Authorization": f"Bearer {KEY}"}, **given)

    def served(self) -> dict[str, int]:
        """The statuses of answers that need the database less and less, and of one that has to write."""
        said = {"matchers": ['target="none"'], "duration": "1h", "author": "ann"}
        paths = ("/api/v1/alerts", "/metrics", "/", "/api/health")
        return {path: self.call("GET", path).status_code for path in paths} | {
            "POST": self.call("POST", "/api/v1/silences", json=said).status_code
        }

    def lines(self, since: int = 0) -> list[dict[str, Any]]:
        """The lines of every process, behind the first so many; raises where one is not a JSON object.

        But for Python's own last words, where it has no memory left to call us.
        """
        lines = (self.folder / "log").read_bytes().splitlines()[since:]
        return [json.loads(line) for line in lines if not LAST_WORDS.match(line)]

    def said(self, text: str, since: int = 0) -> list[dict[str, Any]]:
        """Those with this in their message."""
        return [line for line in self.lines(since) if text in line["message"]]

    def monitor(self) -> Any:
        return self.call("GET", "/api/v1/monitor").json()

    def tick(self, times: int = 4) -> None:
        """Wait for so many ticks."""
        seen: set[str] = set()

        def ticked() -> bool:
            seen.add(self.monitor()["last_tick_at"])
            return len(seen) > times

        eventually(ticked, "the next ticks", 60)

    def told(self) -> list[str]:
        return told(self.ops)

    def down(self) -> str:
        """A target of which nobody has heard before goes down; its name."""
        name = self.unused.pop()
        self.world.down.add(name)
        return name

    def heard(self, text: str, seconds: float = 40.0) -> None:
        """Wait until `ops` has been told this."""
        eventually(lambda: text in self.told(), text, seconds)

    def closed(self, name: str) -> None:
        """It is up again, and that is told, once, as its firing was, unless both were told past the database, too."""
        self.world.down.discard(name)
        self.heard(f"resolved Down {name}")

    def works(self) -> None:
        """Everything between a target and a receiver does."""
        name = self.down()
        self.heard(f"firing Down {name}")
        self.closed(name)
        assert 2 == sum(each.endswith(f" {name}") for each in self.told())
        assert {"/api/v1/alerts": 200, "/metrics": 200, "/": 200, "/api/health": 200, "POST": 201} == self.served()

    def set_clock(self, ahead: int) -> None:
        """The wall clock of all processes, in seconds ahead of ours; CLOCK_MONOTONIC goes on."""
        (self.folder / "clock.new").write_text(f"{ahead:+d}\n")
        (self.folder / "clock.new").rename(self.folder / "clock")


@contextmanager
def machine(folder: Path, *, clock: bool = False) -> Iterator[Machine]:
    """All of it up. `clock`: its wall clock can be set."""
    web, port = f"127.0.0.1:{free_port()}", free_port()
    (folder / "data").mkdir()
    (folder / "hosts").write_text("127.0.0.1 localhost\n")
    (folder / "nsswitch.conf").write_text("hosts: files\npasswd: files\ngroup: files\n")
    (folder / "sitecustomize.py").write_text(SLEEP)
    with ExitStack() as stack:
        world = World()
        stack.callback(world.close)
        ops, boss = stack.enter_context(receiving()), stack.enter_context(receiving())
        (folder / "monitor.yaml").write_text(json.dumps(_configuration(world, ops, boss, f"http://{NOWHERE}:{port}/hook")))
        given = {
            "TOCSIN_DATA": str(folder / "data"),
            "TOCSIN_RUNTIME": str(folder),
            "TOCSIN_CONFIG": str(folder / "monitor.yaml"),
            "TOCSIN_WEB_ADDRESS": web,
            "TOCSIN_API_KEY": KEY,
            "TOCSIN_DRAIN": "0s",
            "WEB_CONCURRENCY": "2",
        }
        if clock:
            given |= {"LD_PRELOAD": str(FAKETIME), "PYTHONPATH": str(folder), "FAKETIME_TIMESTAMP_FILE": str(folder / "clock")}
            given |= {"FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1"}
            (folder / "clock").write_text("+0\n")
        begin = BEGIN.format(size=SIZE, folder=folder)
        command = [*NAMESPACE, "sh", "-ec", begin, "sh", sys.executable, "deploy/supervisor/supervise.py"]
        child = stack.enter_context(process(command, given, folder / "log"))
        found = Machine(folder, f"http://{web}", child.pid, world, ops, boss, port)
        eventually(lambda: found.call("GET", "/readyz").ok and found.monitor()["last_tick_at"], "the stack", 60)
        yield found


def _configuration(world: World, ops: Receiver, boss: Receiver, nowhere: str) -> dict[str, Any]:
    return {
        "interval": "300ms",
        "repeat_interval": "50m",
        "targets": [{"name": name, "url": f"{world.url}/{name}", "timeout": "20s"} for name in [*TARGETS, "b", "c", "d"]],
        "rules": [
            {"alert": "Down", "when": "up == 0", "keep_firing_for": "0s", "targets": [*TARGETS, "d"]},
            {"alert": "Kept", "when": "up == 0", "keep_firing_for": "50m", "targets": ["b"]},
            {"alert": "Held", "when": "up == 0", "for": "50m", "targets": ["c"]},
        ],
        "receivers": [
            {"name": "ops", "webhook": ops.url},
            {"name": "boss", "webhook": boss.url},
            {"name": "nowhere", "webhook": nowhere},
        ],
        "routes": [
            {"receivers": ["nowhere"], "matchers": ['target="b"']},
            {"receivers": ["ops"], "matchers": ['target!="b"']},
            {"receivers": ["boss"], "after": "50m"},
        ],
    }
