"""The Compose stack in a copy of the checkout, under a name of its own, with a real engine."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.checkout import copy
from tests.stack import free_port, unless


def engine_answers() -> bool:
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0


needs_engine = [
    pytest.mark.container,
    pytest.mark.timeout(600),
    unless(engine_answers(), "no Docker engine answers; the rest of the suite ran without one"),
]


def gateway() -> str:
    """The engine's own bridge: an address of this machine alone, at which containers reach a receiver of a test."""
    if not engine_answers():
        pytest.fail("no Docker engine answers, and CI must not pass without the container suite")
    command = ["docker", "network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@dataclass
class Stack:
    """One Compose project: its folder, and where its nginx answers."""

    folder: Path
    project: str
    env: dict[str, str]
    url: str

    def compose(self, *arguments: str, check: bool = True) -> str:
        command = ["docker", "compose", "--project-name", self.project, *arguments]
        done = subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout

    def container(self, service: str) -> str:
        return self.compose("ps", "--all", "--quiet", service).split()[0]

    def inspect(self, service: str) -> Any:
        answer = subprocess.run(["docker", "inspect", self.container(service)], capture_output=True, text=True, check=True)
        return json.loads(answer.stdout)[0]

    def lines(self, service: str) -> list[dict[str, Any]]:
        """Every line of a container's log; raises where one is not a JSON object."""
        done = subprocess.run(
            ["docker", "logs", self.container(service)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True
        )
        return [json.loads(line) for line in done.stdout.decode("utf-8").splitlines()]

    def status(self, path: str = "/readyz") -> int:
        return requests.get(self.url + path, timeout=10).status_code


@contextmanager
def composed(folder: Path, name: str, monitor: str = "", override: str = "", **settings: str) -> Iterator[Stack]:
    """Copy the checkout to `folder`, bring the stack up, healthy, and take it down with its volume and its image.

    `monitor` is its monitor.yaml, in which PROJECT stands for the project's name; `override` its compose.override.yaml;
    `settings` go into the environment.
    """
    copy(folder)
    (folder / ".venv").unlink()
    for parent in (folder, *folder.parents):  # nginx' user reads the mounted files
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    project, port = f"tocsin-{name}-{os.getpid()}", str(free_port())
    env = os.environ | {"TOCSIN_HTTP_PORT": port, "TOCSIN_INTERVAL": "1s", "TOCSIN_DRAIN": "1s", **settings}
    if monitor:
        (folder / "rules.yaml").write_text(monitor.replace("PROJECT", project))
        env["TOCSIN_CONFIG"] = "./rules.yaml"
    if override:
        (folder / "compose.override.yaml").write_text(override)
    stack = Stack(folder, project, env, f"http://127.0.0.1:{port}")
    try:
        stack.compose("up", "--detach", "--build", "--wait")
        yield stack
    finally:
        stack.compose("down", "--volumes", "--timeout", "40", check=False)
        subprocess.run(["docker", "image", "rm", "--force", project], capture_output=True, check=False)
