"""What it ran on: the machine, and the versions of what was compared. Nothing that says whose machine it is."""

import os
import platform
import re
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from bench.peers import GLANCES

GIB = 1 << 30
PACKAGES = (
    "Flask", "gunicorn", "gevent", "Werkzeug", "orjson", "structlog", "pydantic", "requests", "SQLAlchemy", "supervisor",
    "ecs-logging", "python-json-logger",
)  # fmt: skip
PROGRAMS: Mapping[str, Sequence[str]] = {
    "nginx": ("nginx", "-v"),
    "Prometheus": ("prometheus", "--version"),
    "Alertmanager": ("prometheus-alertmanager", "--version"),
    "node_exporter": ("prometheus-node-exporter", "--version"),
    "Netdata": ("netdata", "-v"),
    "Glances": (str(GLANCES), "--version"),
    "wrk": ("wrk", "-v"),
    "Docker Engine": ("docker", "version", "--format", "{{.Server.Version}}"),
}


def machine() -> dict[str, str]:
    """The machine, for who compares figures with those of another."""
    models = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{psutil.virtual_memory().total / GIB:.1f} GiB",
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def versions() -> dict[str, str]:
    """Of the packages and programs that are there."""
    return {**dict(_packages()), "SQLite": sqlite3.sqlite_version, **dict(_programs())}


def _packages() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def _programs() -> Iterator[tuple[str, str]]:
    path = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    for name, command in PROGRAMS.items():
        try:
            said = subprocess.run(command, capture_output=True, text=True, check=False, env=path, timeout=20)
        except OSError:
            continue
        if found := re.search(r"\d+\.\d+(\.\d+)*", said.stdout + said.stderr):
            yield name, found[0]
