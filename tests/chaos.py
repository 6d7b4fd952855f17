"""Kills the monitor again and again while alerts fire and resolve, and counts what the receiver missed.

    python -m tests.chaos --kills 1000

The monitor is the real loop on a real database, forked from a process that has imported it, since starting Python a
thousand times would take the time and test nothing. The receivers are real, slow at random, refuse at random, and now
and then take a message without an answer; one of them is told in groups. Five targets go up and down at random, one of
them behind another, and silences begin and end at random. SIGKILL comes at random moments, so it falls into evaluation,
between commit and send, while sending, and between the 2xx and the mark.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Engine, select

from service import silences
from service.checking import checked
from service.database import connect
from service.tables import messages, notifications

TARGETS = 5
CONFIGURATION = """
interval: 20ms
targets:
{targets}
rules:
  - {{alert: TargetDown, when: up == 0, keep_firing_for: 0s}}
receivers:
  - {{name: ops, webhook: "{url}/ops", timeout: 2s}}
  - {{name: team, webhook: "{url}/team", timeout: 2s}}
routes:
  - {{receivers: [ops]}}
  - {{receivers: [team], group_by: [target]}}
"""
NURSERY = """
import os, sys
from pathlib import Path
from service import database, loading, logs
from service.monitor import loop, rules, sending
from service.settings import Settings
logs.configure("tocsin-monitor", "ERROR", 2)
sending.FIRST_WAIT = 0.05  # the first wait alone; a thousand real ones would be hours
rules.CALM = 0.0  # all of them flap: each transition shall be told, so that there are many
found = loading.load(Settings(), Path(sys.argv[2]))
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        loop.run(lambda: found, database.open_on("sqlite:///" + sys.argv[1]), loop.Signals(), folder=Path(sys.argv[1]).parent)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("gone", flush=True)
"""


@dataclass
class World:
    """The targets and the receiver, on one port. `kind` ends all mischief."""

    random: random.Random
    kind: bool = False
    down: dict[str, bool] = field(default_factory=lambda: defaultdict(bool))
    arrived: list[tuple[str, str, Any]] = field(default_factory=list)  # receiver, id, body

    def serve(self) -> ThreadingHTTPServer:
        world = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self, status: int) -> None:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                if world.random.random() < 0.2:
                    world.down[self.path] = not world.down[self.path]
                self.answer(503 if world.down[self.path] and not world.kind else 200)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                luck = 1.0 if world.kind else world.random.random()
                if luck < 0.05:
                    self.answer(503)
                    return
                world.arrived.append((self.path[1:], self.headers["webhook-id"], orjson.loads(body)))
                if luck < 0.1:  # taken, but the answer is lost
                    self.close_connection = True
                    return
                time.sleep(0 if world.kind else world.random.random() * 0.02)
                self.answer(204)

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: object) -> None:
                """A connection that breaks is what this is about."""

        server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return server


@dataclass
class Result:
    """What came of it. Every number but `kills` and `transitions` and `repeats` should be 0."""

    kills: int
    transitions: int
    repeats: int
    lost: int
    disordered: int
    other_ids: int
    changed_bodies: int
    mixed: int

    def __str__(self) -> str:
        return (
            f"{self.kills} kills, {self.transitions} transitions, {self.repeats} messages repeated, {self.lost} lost, "
            f"{self.disordered} resolved before their firing, {self.other_ids} told again under another id, "
            f"{self.changed_bodies} repeated with another body, {self.mixed} with alerts of two groups"
        )


def run(kills: int, seed: int, folder: Path) -> Result:
    """So many kills, then a quiet end in which everything must arrive."""
    world = World(random.Random(seed))
    server = world.serve()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    targets = "".join(f"  - {{name: t{number}, url: '{url}/t{number}'}}\n" for number in range(TARGETS - 1))
    targets += f"  - {{name: t{TARGETS - 1}, url: '{url}/t{TARGETS - 1}', parent: t0}}\n"
    (folder / "monitor.yaml").write_text(CONFIGURATION.format(targets=targets, url=url))
    database = folder / "tocsin.db"
    command = [sys.executable, "-c", NURSERY, str(database), str(folder / "monitor.yaml")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as nursery:
        assert nursery.stdin
        assert nursery.stdout

        def start() -> int:
            print("go", file=nursery.stdin, flush=True)
            return int(nursery.stdout.readline())  # type: ignore[union-attr]  # checked above

        def kill(child: int) -> None:
            os.kill(child, signal.SIGKILL)
            nursery.stdout.readline()  # type: ignore[union-attr]  # checked above

        dice, engine = random.Random(seed + 1), connect(f"sqlite:///{database}")
        for _ in range(kills):
            child = start()
            time.sleep(dice.uniform(0.01, 0.15))
            disturb(engine, dice)
            time.sleep(dice.uniform(0.01, 0.15))
            kill(child)
        engine.dispose()
        world.kind = True
        child = start()
        settled(database)
        kill(child)
        nursery.stdin.close()
    server.shutdown()
    server.server_close()
    return judge(kills, world.arrived, database)


def disturb(engine: Engine, dice: random.Random) -> None:
    """Now and then begin a silence, or end those that hold."""
    luck, now = dice.random(), time.time()
    if luck > 0.5:
        return
    wanted = {"matchers": [f"target=t{dice.randrange(TARGETS)}"], "duration": f"{dice.randrange(50, 1000)}ms", "author": "chaos"}
    with engine.begin() as connection:
        if luck < 0.3:
            silences.add(connection, checked(silences.Draft, wanted, now), now)
        else:
            for silence in silences.active(connection, now):
                silences.expire(connection, silence.id, now)


def settled(database: Path, seconds: float = 60) -> None:
    """Wait until nothing fires and nothing waits."""
    engine = connect(f"sqlite:///{database}")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.5)
        with engine.connect() as connection:
            open_ones = connection.execute(
                select(notifications.c.id).where(notifications.c.waiting | (notifications.c.wanted == "firing")).limit(1)
            ).first()
            unsent = connection.execute(select(messages.c.id).where(messages.c.delivered.is_(None)).limit(1)).first()
        if open_ones is None and unsent is None:
            break
    engine.dispose()


def judge(kills: int, arrived: list[tuple[str, str, Any]], database: Path) -> Result:
    """Hold what arrived against what was announced: each notification that was committed must have reached its receiver."""
    engine = connect(f"sqlite:///{database}")
    with engine.connect() as connection:
        announced = [tuple(row) for row in connection.execute(select(notifications.c.receiver, notifications.c.occurrence))]
    engine.dispose()
    told: dict[Any, list[str]] = defaultdict(list)
    ids: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    bodies: dict[str, list[Any]] = defaultdict(list)
    for receiver, identity, body in arrived:
        bodies[identity].append(body)
        for alert in body["data"]["alerts"]:
            steps = ["firing", "resolved"] if alert["late"] else [alert["status"]]
            told[receiver, alert["occurrence"]] += steps
            ids[receiver, alert["occurrence"], alert["status"]].add(identity)
    return Result(
        kills=kills,
        transitions=2 * len(announced),
        repeats=sum(len(copies) - 1 for copies in bodies.values()),
        lost=sum(len({"firing", "resolved"} - set(told[notification])) for notification in announced),
        disordered=sum(
            "resolved" in steps and steps.index("resolved") < steps.index("firing")
            for steps in told.values()
            if "firing" in steps
        ),
        other_ids=sum(len(each) - 1 for each in ids.values()),
        changed_bodies=sum(any(copy != copies[0] for copy in copies) for copies in bodies.values()),
        mixed=sum(
            receiver == "team" and len({alert["target"] for alert in body["data"]["alerts"]}) > 1 for receiver, _, body in arrived
        ),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = run(given.kills, given.seed, Path(folder))
    print(f"{result} (seed {given.seed})")
    return int(bool(result.lost or result.disordered or result.other_ids or result.changed_bodies or result.mixed))


if __name__ == "__main__":
    sys.exit(main())
