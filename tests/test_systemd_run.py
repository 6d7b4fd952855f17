"""docs/systemd.md's commands, carried out in a container with a real systemd, and what it does with the units then."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.composed import engine_answers
from tests.stack import ROOT, eventually, unless
from tests.systemd import DOCKERFILE, booted, docker
from tests.test_systemd_units import DOCUMENT, SERVICES

pytestmark = [
    pytest.mark.container,
    pytest.mark.timeout(600),  # the first time its image is made
    unless(engine_answers(), "no Docker engine answers; tests/test_systemd_units.py held the units against systemd-analyze"),
]


class Machine:
    """One that was installed by the commands of docs/systemd.md."""

    name = f"tocsin-test-units-{os.getpid()}"

    def does(self, command: str) -> str:
        return docker("exec", self.name, "bash", "-euc", command)

    def pid(self, unit: str) -> int:
        return int(self.does(f"systemctl show --property=MainPID --value {unit}"))

    def status(self, path: str) -> str:
        return self.does(f"curl -sS -m 10 -o /dev/null -w '%{{http_code}}' http://127.0.0.1:8080{path} || true")

    def tocsin(self, command: str) -> str:
        return self.does(f"runuser -u tocsin -- /opt/tocsin/.venv/bin/tocsin {command} || true")

    def begins(self) -> None:
        """All of it runs, and systemd has forgotten what it did before."""
        self.does(
            "systemctl reset-failed; systemctl start tocsin.target 'tocsin-*.service' tocsin-nginx tocsin-web tocsin-monitor"
        )
        eventually(lambda: self.status("/readyz") == "200", "it answers")


def installing() -> list[str]:
    """The commands of the document's section on installing."""
    section = DOCUMENT.partition("\n## Install\n")[2].partition("\n## ")[0]
    return [block for block in re.findall(r"```sh\n(.*?)```", section, re.DOTALL) if "tocsin check" not in block]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A container with systemd. What is downloaded is in its image; what is cloned is this checkout."""
    folder = tmp_path_factory.mktemp("systemd")
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        if not name.startswith("tests/") and (ROOT / name).is_file():
            (folder / "tocsin" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / "tocsin" / name)
    packages, *commands = "".join(installing()).splitlines()
    assert packages.startswith("apt-get install ")
    (folder / "Dockerfile").write_text(
        f"{DOCKERFILE}"  # the layers of the other image
        f"RUN DEBIAN_FRONTEND=noninteractive {packages} curl >/dev/null\n"
        "COPY tocsin/requirements.txt /opt/tocsin/\n"
        "RUN --mount=type=cache,target=/root/.cache/pip python3 -m venv /opt/tocsin/.venv"
        " && /opt/tocsin/.venv/bin/pip install --quiet --require-hashes -r /opt/tocsin/requirements.txt\n"
        "COPY tocsin /opt/tocsin\n"
    )
    commands = [command for command in commands if not command.startswith("git clone ")]
    with booted("tocsin-test-units", Machine.name, folder):
        found = Machine()
        found.does("\n".join(commands[:-1]))
        # Shorter times than a person has; what a busy machine measures is no matter here.
        quick = ("DRAIN=2s", "INTERVAL=1s", "CPU_THRESHOLD=100", "MEM_THRESHOLD=100", "DISK_THRESHOLD=100")
        found.does("; ".join(f"echo TOCSIN_{each} >>/etc/tocsin/tocsin.env" for each in quick))
        found.does(commands[-1])
        yield found


def test_the_documents_commands_bring_it_up(machine: Machine) -> None:
    """Health answers through nginx, the check is OK, every line is JSON, and the sandbox holds for each process."""
    machine.begins()
    eventually(lambda: "TOCSIN OK - nothing fires" in machine.tocsin("check"), "the check is OK")
    for unit in SERVICES:
        status = machine.does(f"cat /proc/{machine.pid(unit)}/status")
        assert ["1"] == re.findall(r"^NoNewPrivs:\t(\d)", status, re.MULTILINE)
        assert ["2"] == re.findall(r"^Seccomp:\t(\d)", status, re.MULTILINE)
        assert {"0" * 16} == set(re.findall(r"^Cap\w+:\t(\w+)", status, re.MULTILINE))
        lines = machine.does(f"journalctl --output=cat --unit={unit} _TRANSPORT=stdout").splitlines()
        assert lines
        assert {unit} == {json.loads(line)["service.name"] for line in lines}
        mounts = machine.does(f"cat /proc/{machine.pid(unit)}/mountinfo")
        assert re.search(r" / / ro[, ]", mounts)
        assert (unit != "tocsin-nginx") == bool(re.search(r" /var/lib/tocsin /var/lib/tocsin rw[, ]", mounts))
    assert "tocsin:640" == machine.does("stat -c %G:%a /etc/tocsin/tocsin.env")


def test_what_is_killed_or_stands_still_is_started_again(machine: Machine) -> None:
    """web that was killed is back in seconds, a monitor that stands still by the watchdog; meanwhile Tocsin restarts nginx."""
    machine.begins()
    eventually(lambda: "OK" in machine.tocsin("check"), "it ticks")
    monitor, web, nginx = machine.pid("tocsin-monitor"), machine.pid("tocsin-web"), machine.pid("tocsin-nginx")
    machine.does(f"kill -STOP {monitor}; kill -KILL {web}")
    eventually(lambda: machine.pid("tocsin-web") not in (0, web) and machine.status("/readyz") == "200", "web is back")
    assert "nginx is healthy after" in machine.tocsin("service restart nginx")
    assert machine.pid("tocsin-nginx") not in (0, nginx)
    refused = machine.does("runuser -u tocsin -- systemctl stop tocsin-nginx 2>&1 || true")
    assert "authentication required" in refused or "Access denied" in refused

    # It has promised its next tick within half a minute and a bit. A shorter promise in its name spares waiting for that.
    promised = machine.does("systemctl show --property=WatchdogUSec --value tocsin-monitor")
    assert re.fullmatch(r"[34]\d(\.\d+)?s", promised), promised
    assert monitor == machine.pid("tocsin-monitor")
    machine.does(f"NOTIFY_SOCKET=/run/systemd/notify systemd-notify --pid={monitor} WATCHDOG_USEC=1000000")
    eventually(lambda: machine.pid("tocsin-monitor") not in (0, monitor), "the monitor is back", 80)
    assert "Watchdog timeout" in machine.does("journalctl --unit=tocsin-monitor")
    eventually(lambda: "OK" in machine.tocsin("check"), "it ticks again")


def test_a_stop_drains(machine: Machine) -> None:
    """Health says 503 through nginx and everything else is answered; the monitor goes first, nginx last; nothing is left."""
    machine.begins()
    machine.does("systemctl stop --no-block tocsin.target 'tocsin-*.service'")
    eventually(lambda: machine.status("/readyz") == "503" and machine.status("/livez") == "200", "it drains", 5)
    machine.does("systemctl stop tocsin.target 'tocsin-*.service'")
    said = machine.does("journalctl --output=cat _PID=1")

    assert [] == [line for line in machine.does("ps -u tocsin -o args= || true").splitlines() if line]
    stopped = re.findall(r"^Stopped (tocsin-\w+)\.service", said, re.MULTILINE)[-3:]
    assert ["tocsin-monitor", "tocsin-web", "tocsin-nginx"] == stopped
    for unit in SERVICES:
        assert "success" == machine.does(f"systemctl show --property=Result --value {unit}")


def test_a_unit_that_ends_again_and_again_is_given_up_and_told(machine: Machine) -> None:
    """Four starts, then it has failed and an alert says so, once; started again, it is resolved."""
    machine.begins()
    broken = "/run/systemd/system/tocsin-monitor.service.d"
    machine.does(f"mkdir -p {broken}; printf '[Service]\\nExecStart=\\nExecStart=/bin/false\\n' >{broken}/broken.conf")
    machine.does("systemctl daemon-reload; systemctl restart --no-block tocsin-monitor")
    eventually(lambda: "ServiceFailure" in machine.tocsin("alerts"), "it is told", 40)
    assert "failed" == machine.does("systemctl is-failed tocsin-monitor")
    announced = machine.does("journalctl --output=cat --unit='tocsin-gave-up@*' _TRANSPORT=stdout").splitlines()
    assert ["that it was given up will be told"] == [json.loads(line)["message"] for line in announced]

    machine.does(f"rm -r {broken}; systemctl daemon-reload; systemctl reset-failed; systemctl start tocsin-monitor")
    eventually(lambda: "ServiceFailure" not in machine.tocsin("alerts"), "it is resolved", 40)
