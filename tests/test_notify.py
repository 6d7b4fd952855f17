"""What the monitor tells systemd: a datagram to the socket that it names, of either kind."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service import notify
from tests.stack import BIN, process


@pytest.fixture(params=["a path", "an abstract name"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Where systemd listens; NOTIFY_SOCKET names it."""
    name = str(tmp_path / "notify") if request.param == "a path" else f"@tocsin-test-{os.getpid()}"
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(name.replace("@", "\0"))
        listener.settimeout(20)
        yield listener


def test_a_promise_is_one_datagram(systemd: socket.socket) -> None:
    """Ready, alive, and for how long: in microseconds."""
    notify.promise(45.5)
    assert b"READY=1\nWATCHDOG_USEC=45500000\nWATCHDOG=1" == systemd.recv(4096)


def test_each_tick_is_a_promise(systemd: socket.socket, tmp_path: Path) -> None:
    """A monitor says that it is ready when it has begun, and with each tick until when the next one is over."""
    (tmp_path / "monitor.yaml").write_text("targets: []\ninterval: 100ms\n")
    env = {"TOCSIN_DATA": str(tmp_path), "TOCSIN_CONFIG": str(tmp_path / "monitor.yaml")}
    with process([BIN / "tocsin", "monitor"], env, tmp_path / "log") as child:
        said = [dict(line.split("=") for line in systemd.recv(4096).decode().splitlines()) for _ in range(3)]
        assert child.poll() is None

    assert [["READY", "WATCHDOG_USEC", "WATCHDOG"]] * 3 == [list(each) for each in said]
    assert all(int(each["WATCHDOG_USEC"]) > 30_000_000 for each in said)


@pytest.mark.parametrize("name", ["", "relative", "/no/such/socket", "@nobody listens", "/" + "long" * 100, "vsock:2:1234"])
def test_nobody_listens(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Without systemd, or with one that does not listen, nothing is raised."""
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    notify.promise(1)


def test_a_systemd_that_does_not_read_holds_nothing_up(systemd: socket.socket) -> None:
    """Its queue is full: the tick goes on, and the promise is lost."""
    began = time.monotonic()
    for _ in range(2000):
        notify.promise(1)

    assert time.monotonic() - began < 10
