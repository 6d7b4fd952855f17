"""docs/services.md is run, as a native stack has it; its incidents are played, and its tables held against the code."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest

from service import loading
from service.alerts import Alert
from service.monitor.healing import Healing
from service.monitor.receivers import step
from service.receiver import Receiver
from service.settings import Settings
from service.supervision.supervisord import _STATES as OF_SUPERVISORD
from service.supervision.systemd import _STATES as OF_SYSTEMD
from service.web.alerts import _healing as of_the_api
from tests.sessions import Reader, steps
from tests.simulation import NOWHERE, down, simulated, up
from tests.stack import BIN, ROOT, Running, eventually, free_port, process, unless
from tests.test_incidents import Incident

DOCUMENT = (ROOT / "docs/services.md").read_text(encoding="utf-8")
KEY = "correct-horse-battery-staple"
FIGURES = {"pid", "old_pid", "new_pid", "restarts", "seconds"}


def rows(text: str, head: str) -> list[list[str]]:
    """The cells of each row of the table with this head."""
    _, _, table = text.partition(f"| {head} |\n")
    lines = table.partition("\n\n")[0].splitlines()[1:]
    return [line.strip("| ").split(" | ") for line in lines]


def named(cells: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", cells))


@contextmanager
def stack(folder: Path) -> Iterator[tuple[Running, dict[str, str]]]:
    """What `make up` starts without Docker, with its data in the folder, and the environment of a person beside it."""
    web, front = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    env = {
        "TOCSIN_DATA": str(folder),
        "TOCSIN_WEB_ADDRESS": web,
        "TOCSIN_HTTP_PORT": front.rpartition(":")[2],
        "TOCSIN_DRAIN": "2s",
        "TOCSIN_API_KEY": KEY,
        "WEB_CONCURRENCY": "2",
    }
    with process([BIN / "python", "deploy/supervisor/supervise.py", "--native"], env, folder / "supervise.log") as child:
        running = Running(child, f"http://{front}", folder / "log/web.log")
        eventually(lambda: running.status("/readyz") == 200, "the stack answers", 30)
        yield running, {"TOCSIN": running.url, **env}


@pytest.mark.native
def test_the_document_is_what_happens(tmp_path: Path) -> None:
    """Every command of the document, in its order, gives what the document shows after it; the log has what it names."""
    every = steps(DOCUMENT)
    with stack(tmp_path) as (running, environment):
        places = {"$PWD/var": str(tmp_path), "http://127.0.0.1:8000": f"http://{environment['TOCSIN_WEB_ADDRESS']}"}
        reader = Reader(FIGURES, numbers=True, places=places)
        for each in every:
            reader.run(each, environment)
        lines = [line for line in running.lines() if line.get("event.action", "").startswith("restart")]

    assert 9 == sum(bool(each.kind) for each in every)
    assert 4 == len(reader.identities)  # as many restarts
    usual = {"@timestamp", "log.level", "message", "ecs.version", "service.name", "process.pid"}
    explained = {name for row in rows(DOCUMENT.partition("## In the log")[2], "field | meaning") for name in named(row[0])}
    assert {name for line in lines for name in line} <= usual | explained


def clock(seconds: float) -> str:
    """The time in the document's incidents, so long after 10:00:00."""
    return f"10:{int(seconds) // 60:02}:{int(seconds) % 60:02}"


@pytest.mark.parametrize(("heading", "back"), [("An incident", "10:01:30"), ("When nothing helps", "11:00:00")])
def test_an_incident_is_told_as_the_document_says(tmp_path: Path, heading: str, back: str) -> None:
    """With nothing configured, and `web` away until it is back, the messages and their times are those of the table."""
    found = loading.load(Settings(data=tmp_path), None)
    told: list[tuple[str, str]] = []
    with simulated(tmp_path, found.model_copy(update={"receivers": (Receiver(name="ops", webhook=NOWHERE),)})) as simulation:
        began, incident = simulation.now, Incident(simulation)
        while (now := clock(simulation.now + 10 - began)) < "10:10:00":
            incident.tick(*((down if now < back else up)(target) for target in ("self", "front")))
            told += [(now, text) for text in incident.said()[len(told) :]]

    section = DOCUMENT.partition(f"\n### {heading}\n")[2].partition("\n### ")[0]
    shown = [
        (time, text.strip("`"))
        for time, _, text in ([*row, ""][:3] for row in rows(section, "time | what happens | what is told"))
        if text
    ]
    assert shown == told[-len(shown) :]
    assert len(told) - len(shown) == (heading != "An incident")  # its first message is the other table's


@pytest.mark.parametrize(
    ("column", "states"),
    [
        (1, {phase.name: state for phase, state in OF_SUPERVISORD.items()}),
        (2, {**OF_SYSTEMD, "failed": "failed"}),
    ],
    ids=["supervisord", "systemd"],
)
def test_the_states_are_those_of_the_code(column: int, states: dict[str, str]) -> None:
    """Each supervisor's own states stand in the row of what they are called here."""
    shown = {
        name: named(row[0]).pop()
        for row in rows(DOCUMENT, "`state` | supervisord | systemd | Docker")
        for name in named(row[column])
    }
    assert states == shown


def test_each_status_has_a_test_of_its_name() -> None:
    """The statuses of the table are those that tests/test_services_api.py shows."""
    shown = {status for row in rows(DOCUMENT, "status | when") for status in re.findall(r"\d{3}", row[0])}
    tests = (ROOT / "tests/test_services_api.py").read_text(encoding="utf-8")
    as_everywhere = {"400", "413", "415", "422", "429"}

    assert shown - as_everywhere == set(re.findall(r"^def test_(\d{3})_", tests, re.MULTILINE))


def test_what_holds_a_restart_is_said_in_the_code() -> None:
    """Each reason in the table is one that the monitor gives."""
    code = "".join((ROOT / f"service/monitor/{name}.py").read_text(encoding="utf-8") for name in ("healing", "watch"))
    shown = [named(row[0]).pop() for row in rows(DOCUMENT, "`held` | why")]

    assert [] == [reason for reason in shown if f'"{reason}"' not in code and reason != "router is down"]
    assert 'f"{alert.held} is down"' in code
    assert 7 == len(shown)


def test_what_is_said_of_healing_is_in_the_other_documents() -> None:
    """docs/webhook.md and docs/api.md have a row for each field of `healing`, in its order."""
    known = Healing("web", tried=1, number=1, of=3)
    sent = step({"summary": "", "reason": ""}, known)["healing"]
    shown = of_the_api(Alert("f", "a", "t", {}, "firing", 0.0, None, None, (), (), None, False, (), asdict(known), None, None))
    assert shown
    told = shown.model_dump()
    for document, head, fields in (("webhook", "in `healing` | type | meaning", sent), ("api", "in `healing` | meaning", told)):
        text = (ROOT / f"docs/{document}.md").read_text(encoding="utf-8")
        assert list(fields) == [row[0].strip("`") for row in rows(text, head)]


def compose_is_here() -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0


@unless(compose_is_here(), "there is no Docker Compose; the rest of the suite ran without it")
def test_the_engines_socket_is_given_by_two_lines(tmp_path: Path) -> None:
    """With the two lines of the document in .env the app has the socket and its group; nothing is started."""
    (tmp_path / "deploy/elk").mkdir(parents=True)
    for name in ("compose.yaml", "monitor.yaml", "deploy/docker-socket.yaml", "deploy/ports.yaml", "deploy/elk/compose.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    lines = re.findall(r"```text\n(COMPOSE_FILE=.*?)```", DOCUMENT, re.DOTALL)[0]
    (tmp_path / ".env").write_text(lines, encoding="utf-8")
    said = subprocess.run(
        ["docker", "compose", "config", "--format", "json"], cwd=tmp_path, capture_output=True, check=True
    ).stdout
    app = json.loads(said)["services"]["app"]

    assert ["998"] == app["group_add"]
    assert "/var/run/docker.sock" in [volume["target"] for volume in app["volumes"]]
    assert lines.splitlines() == re.findall(r"^#   (\w+=.*)$", (ROOT / "deploy/docker-socket.yaml").read_text(), re.MULTILINE)
