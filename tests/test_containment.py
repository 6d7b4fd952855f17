"""What `docker compose config` makes of each file is closed; tests/test_containers.py looks at the same in running containers."""

import json
import os
import re
import subprocess
from typing import Any

import pytest

from tests.stack import ROOT, unless

COMPOSE = subprocess.run(["sh", "-c", "docker compose version"], capture_output=True, check=False).returncode == 0
pytestmark = unless(COMPOSE, "there is no Docker Compose; the rest of the suite ran without it")
DOCUMENT = (ROOT / "docs/security.md").read_text(encoding="utf-8")
SHOP = "examples/shop/compose"

# What is left open, of each service of each set of files. Each is said in docs/security.md or in the file, with its reason.
OPEN = [
    ([], {"app": set(), "nginx": set()}),
    (["TOCSIN_TLS_CERT=/etc/tocsin/cert.pem", "TOCSIN_TLS_KEY=/etc/tocsin/key.pem"], {"app": set(), "nginx": set()}),
    (["deploy/docker-socket.yaml"], {"app": {"mounts"}, "nginx": set()}),  # that is what the file is for
    ([f"{SHOP}.own.yaml"], {"app": set(), "nginx": set(), "shop": set()}),
    ([f"{SHOP}.blueprint.yaml"], {"app": set(), "nginx": set()}),
    (
        ["--profile", "elk"],
        {
            "app": set(),
            "nginx": set(),
            # Their user is their image's, which nothing here can look at.
            "elasticsearch": {"user", "root", "capabilities", "processes"},  # it starts hundreds of threads
            "kibana": {"user", "root", "capabilities", "processes"},
            "elk-setup": {"user"},
            "filebeat": {"user", "capabilities", "processes"},  # the engine's log files belong to root
        },
    ),
]


def configured(*arguments: str) -> dict[str, Any]:
    """The services, as Compose would start them with these files, options and settings, and nothing else of ours set."""
    files = [word for file in ["compose.yaml", *arguments] if file.endswith(".yaml") for word in ("--file", file)]
    others = [word for word in arguments if not word.endswith(".yaml") and "=" not in word]
    command = ["docker", "compose", "--env-file", os.devnull, *files, *others, "config", "--format", "json"]
    env = os.environ | {"DOCKER_GROUP": "998"} | dict(word.split("=") for word in arguments if "=" in word)
    said = subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, timeout=60).stdout
    services: dict[str, Any] = json.loads(said)["services"]
    return services


def user_of(service: dict[str, Any]) -> str:
    """Who runs it: what the file says, else the image that is built here. Of others' images the worst is assumed."""
    if "user" in service or "build" not in service:
        return str(service.get("user", "root"))
    file = ROOT / os.path.relpath(service["build"]["context"], ROOT) / service["build"].get("dockerfile", "Dockerfile")
    return str(re.findall(r"^USER (\S+)$", file.read_text(encoding="utf-8"), re.MULTILINE)[-1])


def left_open(service: dict[str, Any]) -> set[str]:
    """Which doors of a service are open."""
    closed = {
        "user": user_of(service).partition(":")[0] not in ("0", "root"),
        "root": service.get("read_only") is True,
        "capabilities": (service.get("cap_drop"), service.get("cap_add")) == (["ALL"], None),
        "privileges": "no-new-privileges:true" in service.get("security_opt", []) and not service.get("privileged"),
        "memory": int(service.get("mem_limit", 0)) > 0,
        "cores": service.get("cpus", 0) > 0,
        "processes": service.get("pids_limit", 0) > 0,
        "log": {"max-size", "max-file"} <= set(service["logging"]["options"]),
        "mounts": all(each["type"] == "volume" or each.get("read_only") for each in service.get("volumes", [])),
        "namespaces": not {"network_mode", "pid", "ipc", "userns_mode", "devices"} & set(service),
        "ports": all(each["host_ip"] == "127.0.0.1" for each in service.get("ports", [])),
        "stop": service.get("restart") in ("unless-stopped", "no"),
    }
    return {name for name, is_closed in closed.items() if not is_closed}


@pytest.mark.parametrize(("arguments", "expected"), OPEN, ids=lambda value: "+".join(value) if isinstance(value, list) else "")
def test_each_service_is_closed(arguments: list[str], expected: dict[str, set[str]]) -> None:
    """No root, nothing to write but volumes and memory, no capability, limits, loopback: but for what the table says."""
    assert expected == {name: left_open(service) for name, service in configured(*arguments).items()}


def test_the_engines_socket_is_where_it_is_asked_for() -> None:
    """Only with deploy/docker-socket.yaml, and then in the app alone."""
    for arguments, _ in OPEN:
        holders = {name for name, service in configured(*arguments).items() if "docker.sock" in json.dumps(service)}
        assert ({"app"} if "deploy/docker-socket.yaml" in arguments else set()) == holders


def test_the_document_has_the_limits_that_hold() -> None:
    """The table of docs/security.md: user, memory, cores, processes and the size of /tmp are those of the files."""
    rows = {cells[1]: cells[2:4] for line in DOCUMENT.splitlines() if len(cells := re.split(r" ?\| ?", line)) == 5}
    services = configured()
    both = [services[name] for name in ("app", "nginx")]

    assert [user_of(each).partition(":")[0] for each in both] == rows["user"]
    assert [f"{int(each['mem_limit']) >> 20} MiB, {each['cpus']:g}, {each['pids_limit']}" for each in both] == rows[
        "memory, cores, processes"
    ]
    sizes = [re.findall(r"/tmp:size=(\d+)m", each["tmpfs"][0]) for each in both]
    assert sizes == [re.findall(r"`/tmp` \((\d+) MB\)", cell) for cell in rows["may write"]]


def test_the_document_has_every_header() -> None:
    """The table of docs/security.md has the headers that nginx adds to every answer, and no other."""
    table = DOCUMENT.partition("| header | value |")[2].partition("\n\n")[0]
    added = re.findall(r"^add_header (\S+)", (ROOT / "deploy/nginx/headers.conf").read_text(encoding="utf-8"), re.MULTILINE)

    assert sorted(added) == sorted(re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE))
