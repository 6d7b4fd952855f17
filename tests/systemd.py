"""A systemd for tests: a real one in a container, and what such a one said, played again.

RECORD=1 .venv/bin/pytest tests/test_systemd.py records anew, from the container.
"""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.stack import eventually

HERE = Path(__file__).parent
IMAGE = "tocsin-test-systemd"
NAME = f"{IMAGE}-{os.getpid()}"
DOCKERFILE = """
FROM debian:trixie-slim
RUN apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends systemd >/dev/null
"""


@contextmanager
def booted(image: str = IMAGE, name: str = NAME, folder: Path | None = None) -> Iterator[None]:
    """A container, with systemd as its first process; its image is made of the Dockerfile in `folder`, else of ours.

    Raises AssertionError or CalledProcessError where it cannot be.
    """
    old = Path("/sys/fs/cgroup/systemd")  # of cgroup v1, which systemd takes only when it is told to
    cgroup = old if old.exists() else Path("/sys/fs/cgroup")
    legacy = "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"
    options = ["--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined", "--cgroupns", "host"]
    options += ["--tmpfs", "/run", "--tmpfs", "/tmp", "--volume", f"{cgroup}:{cgroup}", "--env", "container=docker"]
    options += ["--env", legacy, "--env", f"SYSTEMD_PROC_CMDLINE={legacy}"] if cgroup == old else []
    docker("build", "--quiet", "--tag", image, str(folder or "-"), given=None if folder else DOCKERFILE)
    try:
        docker("run", "--detach", "--name", name, *options, image, "/usr/lib/systemd/systemd", "--unit=basic.target")
        eventually(
            lambda: docker("exec", name, "sh", "-c", "systemctl is-system-running || true") in {"running", "degraded"}, "boot"
        )
        yield
    finally:
        docker("rm", "--force", "--volumes", name)


def docker(*arguments: str, given: str | None = None) -> str:
    done = subprocess.run(["docker", *arguments], input=given, capture_output=True, text=True, check=True, timeout=300)
    return done.stdout.strip()


class Machine:
    """One with systemd, and at most one unit of ours: `it`. `bin` has its `systemctl`."""

    def __init__(self, folder: Path, verb: str, source: str | Path) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir()
        self._log = folder / "said"
        command = [sys.executable, "-I", HERE / "systemctl.py", verb, source, self._log]
        (self.bin / "systemctl").write_text(f'#!/bin/sh\nexec {shlex.join(map(str, command))} "$@"\n')
        (self.bin / "systemctl").chmod(0o755)

    def unit(self, *lines: str) -> None:
        """Have it.service with these lines."""

    def does(self, command: str) -> None:
        """Run a command there."""

    def end(self) -> None:
        """Leave nothing behind."""

    def said(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def verbs(self) -> list[str]:
        """What was asked, without the many questions for the state."""
        return [each["arguments"][1] for each in self.said() if each["arguments"][1] != "show"]


class Real(Machine):
    def __init__(self, folder: Path, recording: Path) -> None:
        super().__init__(folder, "ask", NAME)
        self._recording = recording

    def unit(self, *lines: str) -> None:
        text = "\n".join(["[Service]", *lines, ""])
        docker("exec", "--interactive", NAME, "sh", "-c", "cat >/etc/systemd/system/it.service", given=text)
        self.does("systemctl daemon-reload")

    def does(self, command: str) -> None:
        docker("exec", NAME, "sh", "-c", command)

    def end(self) -> None:
        self.does("systemctl kill --signal=KILL it; systemctl stop it; systemctl reset-failed it; true")
        self.does("rm -f /etc/systemd/system/it.service; systemctl daemon-reload")
        if os.environ.get("RECORD"):
            said = {"recorded from": docker("exec", NAME, "systemctl", "--version").splitlines()[0], "said": self.said()}
            self._recording.write_text(f"{json.dumps(said, indent=1)}\n")


class Recorded(Machine):
    """What it is told to do was done when it was recorded."""

    def __init__(self, folder: Path, recording: Path) -> None:
        super().__init__(folder, "play", recording)
