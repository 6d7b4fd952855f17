"""What processes that run for months have not loaded, since their configuration does not use it: megabytes each."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from service import database
from tests.answering import answering
from tests.stack import ROOT, children, eventually, free_port, process, web

# As the command begins, but that it says at its end what it has loaded.
TELLS = "import atexit, json, sys; atexit.register(lambda: open({told!r}, 'w').write(json.dumps(list(sys.modules))));"
MONITOR = TELLS + "from service.cli import main; sys.argv[1:] = ['monitor']; main()"
SUPERVISE = TELLS + "sys.path.insert(0, 'deploy/supervisor'); import supervise; sys.exit(supervise.main())"
SELDOM = {
    "alembic": "tables that have to be made",
    "apprise": "a chat service that only Apprise knows",
    "apscheduler": "a job that has been run",
    "flask": "the web",
    "gevent": "the web",
    "jinja2": "a report",
    "re2": "a regular expression",
    "requests": "a chat service",
    "service.cli.jobs": "another command",
    "service.reports.gather": "a report",
    "service.web": "the web",
    "sqlalchemy.dialects.postgresql": "a database of PostgreSQL",
}
WINDOW = 'maintenance: [{name: night, from: "01:00", until: "02:00", matchers: [\'mount=~"/srv.*"\']}]\n'


def modules(folder: Path, code: str, env: dict[str, str], ready: Callable[[str], bool]) -> set[str]:
    """What a process has loaded when it is told to stop; `ready` is told what it has said so far."""
    command = [sys.executable, "-c", code.format(told=str(folder / "told"))]
    with process(command, {"TOCSIN_DATA": str(folder), **env}, folder / "said") as child:
        eventually(lambda: ready((folder / "said").read_text()), "it runs", 60)
        child.terminate()
        child.wait(60)
    return set(json.loads((folder / "told").read_text()))


@pytest.mark.parametrize(("more", "needed"), [("", set()), (WINDOW, {"re2"})], ids=["usual", "with a regular expression"])
def test_the_monitor_loads_what_its_configuration_uses(tmp_path: Path, more: str, needed: set[str]) -> None:
    """A monitor that asks a target with the default rules has none of what is seldom needed; what is written brings its own."""
    database.connect(f"sqlite:///{tmp_path}/tocsin.db").dispose()
    with answering() as target:
        target.answers["/"] = 200, b"{}"
        (tmp_path / "monitor.yaml").write_text(f"targets: [{{name: one, url: '{target.url}/'}}]\n{more}")
        env = {"TOCSIN_CONFIG": f"{tmp_path}/monitor.yaml", "TOCSIN_INTERVAL": "200ms"}
        loaded = modules(tmp_path, MONITOR, env, lambda _: len(target.asked) > 2)

    assert needed == SELDOM.keys() & loaded


def test_supervise_loads_little_more_than_supervisord(tmp_path: Path) -> None:
    """It stays for as long as its programs, and has given the reading of the settings to a process that ends."""
    env = {"TOCSIN_WEB_ADDRESS": f"127.0.0.1:{free_port()}", "TOCSIN_DRAIN": "0s"}
    loaded = modules(tmp_path, SUPERVISE, env, lambda said: "entered RUNNING state" in said)

    assert set() == {"pydantic", "sqlalchemy", "yaml", "service.settings", "service.loading"} & loaded


def test_the_workers_of_gunicorn_share_what_they_load(tmp_path: Path) -> None:
    """Half of what a worker has is the same memory as its master's: loaded there once, and not written to since."""
    with web(tmp_path) as running:
        assert [200] * 20 == [running.status("/api/health") for _ in range(20)]
        for worker in children(running.process.pid):
            of = dict(line.split(":") for line in Path(f"/proc/{worker}/smaps_rollup").read_text().splitlines()[1:])
            shared, anonymous = (int(of[name].split()[0]) for name in ("Shared_Dirty", "Anonymous"))
            assert shared > anonymous / 2


def test_the_master_has_patched_only_what_libraries_take_hold_of() -> None:
    """gunicorn's master has Python's own sleep, fork and signals, and the locks and the TLS that its workers need."""
    code = """
import runpy, types
arbiter = types.SimpleNamespace()
conf = runpy.run_path("deploy/gunicorn.conf.py")
conf["on_starting"](arbiter)
conf["on_exit"](arbiter)
from gevent import monkey
import urllib3.util.ssl_, gevent.ssl
print([name for name in ("os", "select", "signal", "subprocess", "time", "threading", "ssl") if monkey.is_module_patched(name)])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ}, capture_output=True, text=True, timeout=60, check=True
    )
    assert "['threading', 'ssl']" == done.stdout.strip()


def test_nothing_in_a_worker_holds_on_to_what_gevent_replaces() -> None:
    """Loaded in the master and patched in a worker, no module has a lock, a thread or a socket that would block all of it."""
    code = """
import runpy, sys, types
from gevent import monkey
server = types.SimpleNamespace()
runpy.run_path("deploy/gunicorn.conf.py")["on_starting"](server)
server.counts.delete()
monkey.patch_all()
replaced = {id(old): f"{module}.{name}" for module, names in monkey.saved.items() for name, old in names.items() if callable(old)}
packages = ("service", "urllib3", "requests", "http")
for module in [module for name, module in sys.modules.items() if name.partition(".")[0] in packages]:
    for name, value in vars(module).items():
        bases = value.__mro__ if isinstance(value, type) else [value]
        for found in (replaced[id(each)] for each in bases if id(each) in replaced):
            print(module.__name__, name, found)
"""
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert "" == told.stdout
