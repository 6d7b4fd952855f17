"""Those we are compared with, each alone, on loopback, in a folder of its own: Debian's, and Glances from PyPI."""

import os
import pwd
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.stack import ROOT, Running, eventually, free_port, process

GLANCES = ROOT / ".venv/bench/bin/glances"  # `make bench` installs it there: with its dependencies it is none of ours


@contextmanager
def running(folder: Path, port: int, ready: str, command: Sequence[str | Path]) -> Iterator[Running]:
    """A program, once it answers 200 at `ready`; ended with all that it has started."""
    with process(command, {}, folder / "output") as child:
        peer = Running(child, f"http://127.0.0.1:{port}", folder / "output")
        eventually(lambda: peer.status(ready) == 200, f"{command[0]}{ready}", 60)
        yield peer


@contextmanager
def prometheus(configuration: str, rules: Mapping[str, str] | None = None) -> Iterator[Running]:
    """Prometheus. Its configuration, and the files beside it that this may name, are YAML."""
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        for file, text in {**(rules or {}), "prometheus.yml": configuration}.items():
            (folder / file).write_text(text, encoding="utf-8")
        files = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb"]
        command = ["prometheus", *files, f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
        with running(folder, port, "/-/ready", command) as peer:
            yield peer


@contextmanager
def alertmanager(
    configuration: str = '{"route": {"receiver": "nobody"}, "receivers": [{"name": "nobody"}]}',
) -> Iterator[Running]:
    """Alertmanager without a cluster; by default it tells nobody."""
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        (folder / "alertmanager.yml").write_text(configuration, encoding="utf-8")
        files = [f"--config.file={folder}/alertmanager.yml", f"--storage.path={folder}/data"]
        alone = ["--cluster.listen-address=", "--log.level=warn"]
        command = ["prometheus-alertmanager", *files, f"--web.listen-address=127.0.0.1:{port}", *alone]
        with running(folder, port, "/-/ready", command) as peer:
            yield peer


@contextmanager
def node_exporter() -> Iterator[Running]:
    """node_exporter as it comes."""
    with tempfile.TemporaryDirectory() as name:
        port = free_port()
        command = ["prometheus-node-exporter", f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
        with running(Path(name), port, "/", command) as peer:
            yield peer


@contextmanager
def netdata() -> Iterator[Running]:
    """Netdata with the collectors that are part of it: no other process, no cloud, and it keeps what it reads in memory."""
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        for each in ("cache", "lib", "log"):
            (folder / each).mkdir()
        (folder / "netdata.conf").write_text(_NETDATA.format(folder=folder, port=port, user=pwd.getpwuid(os.getuid()).pw_name))
        with running(folder, port, "/api/v1/alarms", ["netdata", "-D", "-c", f"{folder}/netdata.conf"]) as peer:
            yield peer


_NETDATA = """
[global]
    run as user = {user}
[directories]
    home = {folder}
    cache = {folder}/cache
    lib = {folder}/lib
    log = {folder}/log
[db]
    mode = ram
[logs]
    access = none
[web]
    bind to = 127.0.0.1:{port}
[plugins]
    enable running new plugins = no
    apps = no
    cgroups = no
    statsd = no
    tc = no
[cloud]
    enabled = no
"""


@contextmanager
def glances() -> Iterator[Running]:
    """Glances' own web server, without its page."""
    with tempfile.TemporaryDirectory() as name:
        port = free_port()
        options = ["--disable-webui", "--disable-autodiscover", "--disable-check-update", "--config", "/dev/null"]
        command = [str(GLANCES), "--webserver", "--bind", "127.0.0.1", "--port", str(port), *options]
        with running(Path(name), port, "/api/4/status", command) as peer:
            yield peer
