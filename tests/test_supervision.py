"""What any supervisor's socket may do to who asks: be away, be closed to him, hang, drip, or be somebody else's."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from xmlrpc.client import dumps

import pytest

from service.services import Service
from service.supervision import SupervisorError, supervisor_of
from service.supervision.docker import Docker
from service.supervision.supervisord import Supervisord
from service.supervision.systemd import Systemd
from service.supervision.unix import LIMIT, Server

Behaviour = Callable[[socket.socket], None]


@contextmanager
def listening(path: Path, behave: Behaviour) -> Iterator[list[str]]:
    """A server that does `behave` with every connection, when a request has come; gives the requests' first lines."""
    ended = threading.Event()
    requests: list[str] = []

    def serve() -> None:
        while not ended.is_set():
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                connection.settimeout(20)
                if request := connection.recv(65536):
                    requests.append(request.decode().partition("\r\n")[0])
                    behave(connection)
                    connection.shutdown(socket.SHUT_WR)
                    hang(connection)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield requests
        finally:
            ended.set()
            with socket.socket(socket.AF_UNIX) as last:
                last.connect(str(path))
            thread.join()


def answering(body: bytes, status: str = "200 OK", headers: str = "") -> Behaviour:
    """One answer to everything."""
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nApi-Version: 1.45\r\n{headers}\r\n"
    return lambda connection: connection.sendall(head.encode() + body)


def hang(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass  # until the other side has had enough


def drip(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sendall(b"x")
        time.sleep(0.05)


def flood(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nApi-Version: 1.45\r\n\r\n")
    while True:
        connection.sendall(b" " * 65536)


def refuse(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
    connection.close()


def test_each_service_has_the_supervisor_that_is_named(tmp_path: Path) -> None:
    """What monitor.yaml says chooses the supervisor, its name there and its socket."""
    found = [
        supervisor_of(Service(name="a", supervisord="web"), tmp_path),
        supervisor_of(Service(name="a", supervisord="web", socket=tmp_path / "other"), tmp_path),
        supervisor_of(Service(name="a", systemd="web"), tmp_path),
        supervisor_of(Service(name="a", docker="web"), tmp_path),
        supervisor_of(Service(name="a", docker="web", socket=tmp_path / "other"), tmp_path),
    ]

    assert [Supervisord, Supervisord, Systemd, Docker, Docker] == [type(each) for each in found]
    assert ["web"] * 5 == [vars(each)["_name"] for each in found]
    assert [
        tmp_path / "supervisor.sock",
        tmp_path / "other",
        None,
        Path("/var/run/docker.sock"),
        tmp_path / "other",
    ] == [server.path if (server := vars(each).get("_server")) else None for each in found]


@pytest.mark.parametrize("behave", [hang, drip])
def test_a_server_that_hangs_or_drips_does_not_hold_us(tmp_path: Path, behave: Behaviour) -> None:
    """The time is for the whole answer: it is over although a byte comes now and then."""
    server = Server("supervisord", tmp_path / "s", {})
    with listening(tmp_path / "s", behave):
        began = time.monotonic()
        with pytest.raises(SupervisorError, match=r"^supervisord gives no complete answer at .*/s within 0.5 s$"):
            server.ask("GET", "/", 0.5)

        assert time.monotonic() - began < 10


def test_an_answer_is_read_up_to_a_limit(tmp_path: Path) -> None:
    """As much as is allowed is taken; a byte more, or no end at all, is not."""
    server = Server("supervisord", tmp_path / "s", {})
    with listening(tmp_path / "s", answering(b"x" * LIMIT)):
        assert LIMIT == len(server.ask("GET", "/", 30).content)
    for behave in (answering(b"x" * (LIMIT + 1)), flood):
        (tmp_path / "s").unlink()
        with listening(tmp_path / "s", behave), pytest.raises(SupervisorError, match=r"^what answers at .*/s is not supervisord"):
            server.ask("GET", "/", 30)


def test_an_answer_to_half_a_question_is_heard(tmp_path: Path) -> None:
    """As supervisord gives one to whoever brings no password: it reads no more, and closes."""
    with listening(tmp_path / "s", refuse):
        assert 401 == Server("supervisord", tmp_path / "s", {}).ask("POST", "/RPC2", 5, b"x" * (4 << 20)).status


def away(path: Path) -> None:
    assert not path.exists()


def left_behind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def a_file(path: Path) -> None:
    path.touch()


def beyond_a_file(path: Path) -> None:
    path.parent.rmdir()
    path.parent.touch()


@pytest.mark.parametrize(
    ("prepare", "of_supervisord", "of_docker"),
    [
        (
            away,
            "supervisord has no socket at {}; start it, or name its socket with `socket:`",
            "the Docker engine has no socket at {}; hand it on (deploy/docker-socket.yaml), or name it with `socket:`",
        ),
        (
            left_behind,
            "supervisord does not listen at {}; start it",
            "the Docker engine does not listen at {}; start the engine",
        ),
        (a_file, "supervisord does not listen at {}; start it", "the Docker engine does not listen at {}; start the engine"),
        (
            beyond_a_file,
            "supervisord cannot be reached at {}: Not a directory",
            "the Docker engine cannot be reached at {}: Not a directory",
        ),
    ],
)
def test_a_socket_that_cannot_be_opened(
    tmp_path: Path, prepare: Callable[[Path], None], of_supervisord: str, of_docker: str
) -> None:
    """What is wrong with the socket is said with its path and the remedy, each supervisor's own."""
    path = tmp_path / "folder" / "s"
    path.parent.mkdir()
    prepare(path)

    assert of_supervisord.format(path) == fault_of(Supervisord("it", path))
    assert of_docker.format(path) == fault_of(Docker("it", path))


def test_a_path_that_is_too_long(tmp_path: Path) -> None:
    """The kernel takes 107 bytes; more is said, and raises nothing else."""
    path = tmp_path / ("x" * 200)

    assert f"supervisord cannot be reached at {path}: AF_UNIX path too long" == fault_of(Supervisord("it", path))


def test_a_socket_that_is_not_for_us(tmp_path: Path) -> None:
    """Without the right to open it, the remedy says how to get it: for Docker, the socket's group."""
    folder = tmp_path / "locked"
    folder.mkdir()
    path = folder / "s"
    with listening(path, hang):
        folder.chmod(0)
        root = os.geteuid() == 0
        try:
            if root:  # who may open anything
                os.seteuid(65534)
            docker, supervisord = fault_of(Docker("it", path)), fault_of(Supervisord("it", path))
        finally:
            if root:
                os.seteuid(0)
            folder.chmod(0o700)

    assert (
        f"the Docker engine does not let this user in at {path}; "
        "add its user to the group that the socket belongs to (in Compose: `group_add`)" == docker
    )
    assert (
        f"supervisord does not let this user in at {path}; "
        "run as the user it runs as, or set `chmod` and `chown` in its [unix_http_server]" == supervisord
    )


def test_a_server_that_closes_without_an_answer(tmp_path: Path) -> None:
    """As one does that is just ending."""
    with listening(tmp_path / "s", lambda _: None):
        for supervisor, name in (
            (Supervisord("it", tmp_path / "s"), "supervisord"),
            (Docker("it", tmp_path / "s"), "the Docker engine"),
        ):
            assert f"{name} closes the connection without an answer at {tmp_path}/s" == fault_of(supervisor)


PROCESS = {"name": "it", "group": "it", "state": 20, "pid": 7, "start": 1, "stop": 0, "spawnerr": "", "exitstatus": 0}


@pytest.mark.parametrize(
    "behave",
    [
        lambda connection: connection.sendall(b"220 mail.example ESMTP\r\n"),
        lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno number\r\n"),
        answering(b"", "404 Not Found"),
        answering(b""),
        answering(b"<html>"),
        answering(b"\xff\xfe"),
        answering(b"<methodResponse></methodResponse>"),
        answering(b"<methodResponse><fault></fault></methodResponse>"),
        answering(dumps((PROCESS,), methodresponse=True).encode(), "500 Internal Server Error"),
        answering(dumps((1,), methodresponse=True).encode()[:-20]),
        answering(b"<methodResponse><params><param><value><int>x</int></value></param></params></methodResponse>"),
        answering(b"<methodResponse><fault><value><int>1</int></value></fault></methodResponse>"),
        answering(dumps((1, 2), "method").encode()),
        answering(dumps((True,), methodresponse=True).encode()),
        answering(dumps((PROCESS | {"state": 21},), methodresponse=True).encode()),
        answering(dumps((PROCESS | {"pid": "many"},), methodresponse=True).encode()),
        answering(dumps(({"state": 20},), methodresponse=True).encode()),
    ],
)
def test_somebody_else_is_not_taken_for_supervisord(tmp_path: Path, behave: Behaviour) -> None:
    """An answer that is not HTTP, not XML-RPC, or not what was asked for is said to come from somebody else."""
    with listening(tmp_path / "s", behave):
        expected = f"what answers at {tmp_path}/s is not supervisord; name its socket with `socket:`"
        assert expected == fault_of(Supervisord("it", tmp_path / "s"))


@pytest.mark.parametrize(
    "behave",
    [
        lambda connection: connection.sendall(b"220 mail.example ESMTP\r\n"),
        lambda connection: connection.sendall(b'HTTP/1.1 404 Not Found\r\nContent-Length: 16\r\n\r\n{"message": "no"}'),
        lambda connection: connection.sendall(b"HTTP/1.1 404 Not Found\r\nApi-Version: 1/..\r\nContent-Length: 2\r\n\r\nOK"),
        answering(b""),
        answering(b"{"),
        answering(b"[]"),
        answering(b'{"Id": "1", "Name": "/it"}'),
    ],
)
def test_somebody_else_is_not_taken_for_the_docker_engine(tmp_path: Path, behave: Behaviour) -> None:
    """The same for Docker: not HTTP, no engine's version, not JSON, or no container."""
    with listening(tmp_path / "s", behave):
        expected = f"what answers at {tmp_path}/s is not the Docker engine; name its socket with `socket:`"
        assert expected == fault_of(Docker("it", tmp_path / "s"))


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        ("500 Internal Server Error", b'{"message": "no space left on device"}', "(500): no space left on device"),
        ("403 Forbidden", b"<html>Request forbidden</html>", "(403): it does not say why"),
        ("500 Internal Server Error", b'{"message": "' + b"x" * 1000 + b'"}', f"(500): {'x' * 300}"),
    ],
)
def test_what_the_docker_engine_refuses_is_said_in_its_words(tmp_path: Path, status: str, body: bytes, reason: str) -> None:
    """Its own words where it has some, and no more than fit into a sentence; a proxy in between may have none."""
    with listening(tmp_path / "s", answering(body, status)):
        assert f"the Docker engine refuses it for 'it' {reason}" == fault_of(Docker("it", tmp_path / "s"))


def fault_of(supervisor: Supervisord | Docker) -> str:
    """What both questions raise."""
    faults = []
    for ask in (supervisor.status, lambda: supervisor.restart(1.0)):
        with pytest.raises(SupervisorError) as raised:
            ask()
        faults.append(str(raised.value))
    assert faults[0] == faults[1]
    return faults[0]
