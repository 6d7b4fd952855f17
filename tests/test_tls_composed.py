"""TLS with Compose: files of this machine, read by nginx' own user, and one port more."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.certificates import FILES, another, shown
from tests.checkout import copy
from tests.composed import Stack, needs_engine
from tests.stack import ROOT, eventually, free_port

pytestmark = needs_engine


@pytest.fixture
def composed_nginx(certificate: FILES, tmp_path: Path) -> Iterator[Stack]:
    """The nginx of compose.yaml alone, with a key that its user cannot read."""
    folder = copy(tmp_path / "checkout")
    for name in ("tls", "deploy", "service"):
        (folder / name).mkdir(exist_ok=True)
    for file, name in zip(certificate, ("cert.pem", "key.pem"), strict=True):
        shutil.copyfile(file, folder / "tls" / name)
    for parent in (folder / "tls", folder / "deploy/nginx", *folder.parents):
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    for file in (folder / "deploy/nginx").iterdir():
        file.chmod(0o755)
    (folder / "tls/key.pem").chmod(0o600)
    (folder / "tls/cert.pem").chmod(0o644)
    port, secure_port, project = free_port(), free_port(), f"tocsin-tls-{os.getpid()}"
    env = {
        "TOCSIN_HTTP_PORT": str(port),
        "TOCSIN_HTTPS_PORT": str(secure_port),
        "TOCSIN_TLS_CERT": "./tls/cert.pem",
        "TOCSIN_TLS_KEY": "./tls/key.pem",
        "TOCSIN_TRUSTED_PROXIES": "10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16",
    }
    stack = Stack(folder, project, os.environ | env, f"https://127.0.0.1:{secure_port}")
    try:
        stack.compose("up", "--detach", "--no-deps", "nginx")
        yield stack
    finally:
        stack.compose("down", "--volumes", "--timeout", "1", check=False)


def test_the_files_are_mounted_and_the_port_is_published(composed_nginx: Stack, certificate: FILES) -> None:
    """A key that nginx' user cannot read is named in the log; when he can, https answers, and plain HTTP leads there. A
    renewed certificate comes by the document's script."""
    stack, key = composed_nginx, composed_nginx.folder / "tls/key.pem"
    told = "TLS: /etc/tocsin/tls/key.pem cannot be read by user 101, as whom nginx runs"
    eventually(lambda: any(line["message"] == told for line in stack.lines("nginx")), "it is said", 60)
    key.chmod(0o644)
    trust = str(certificate[0])
    headers = {"X-Forwarded-For": "203.0.113.9", "X-Request-ID": "through-a-proxy"}
    eventually(lambda: requests.get(f"{stack.url}/robots.txt", headers=headers, timeout=5, verify=trust).ok, "https", 60)
    plain = f"http://127.0.0.1:{stack.env['TOCSIN_HTTP_PORT']}"
    answer = requests.get(f"{plain}/", timeout=5, allow_redirects=False)
    assert (308, f"{stack.url}/") == (answer.status_code, answer.headers["Location"])
    assert 200 == requests.get(f"{plain}/robots.txt", timeout=5).status_code
    asked = [line for line in stack.lines("nginx") if line.get("http.request.id") == "through-a-proxy"]
    assert {"203.0.113.9"} == {line["client.ip"] for line in asked}

    new = another(stack.folder.parent / "new")
    for file, name in zip(new, ("fullchain.pem", "privkey.pem"), strict=True):
        shutil.copyfile(file, stack.folder / name)
    hook = re.findall(r"```sh\n(#!/bin/sh.*?)```", (ROOT / "docs/tls.md").read_text(encoding="utf-8"), re.DOTALL)[0]
    assert 1 == hook.count("cd /srv/tocsin")
    env = stack.env | {"RENEWED_LINEAGE": str(stack.folder), "COMPOSE_PROJECT_NAME": stack.project}
    script = hook.replace("cd /srv/tocsin", f"cd {stack.folder}")
    subprocess.run(["sh", "-c", script], env=env, check=True, capture_output=True, timeout=60)
    eventually(lambda: shown(stack.url) == new[0].read_text(), "the new certificate")
