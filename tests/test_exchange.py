"""One request against servers that misbehave: it ends in time, in bounded memory, with the reason."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from pydantic import SecretStr

from service.monitor.exchange import Client, Unreachable
from tests.proxy import PASSWORD, issue, proxying

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@contextmanager
def serving(behave: Callable[[socket.socket], None], context: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server on loopback that treats each connection as `behave` says; yields its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    connections: list[socket.socket] = []

    def treat(connection: socket.socket) -> None:
        with suppress(OSError):
            if context:
                connection = context.wrap_socket(connection, server_side=True)
                connections.append(connection)
            behave(connection)
        connection.close()

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connections.append(connection)
                threading.Thread(target=treat, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http{'s' if context else ''}://127.0.0.1:{listener.getsockname()[1]}/SECRET"
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        thread.join()


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client()
    yield client
    client.close()


def reading(connection: socket.socket) -> None:
    """The request, to its end."""
    connection.settimeout(10)
    received = b""
    while b"\r\n\r\n" not in received:
        if not (part := connection.recv(65_536)):
            return
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    length = int(lengths[0].partition(b":")[2]) if lengths else 0
    while len(body) < length and (part := connection.recv(65_536)):
        body += part


def send(*parts: bytes, pause: float = 0.0, forever: bool = False) -> Callable[[socket.socket], None]:
    """Read the request, then send the parts, the last one again and again if `forever`."""

    def behave(connection: socket.socket) -> None:
        reading(connection)
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)
        while forever:
            connection.sendall(parts[-1])
            time.sleep(pause)

    return behave


def hang(connection: socket.socket) -> None:
    time.sleep(20)


HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.mark.parametrize(
    "behave",
    [
        hang,
        send(b"H", pause=0.1, forever=True),
        send(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n", pause=0.1, forever=True),
        send(HEAD, b"a", pause=0.1, forever=True),
    ],
    ids=["never answers", "drips its status line", "sends headers for ever", "drips its body"],
)
def test_what_does_not_end_is_ended_in_time(client: Client, behave: Callable[[socket.socket], None]) -> None:
    """Each way of not finishing ends at the time limit, though no single read was late."""
    with serving(behave) as url:
        began = time.monotonic()
        with pytest.raises(Unreachable, match=r"^no complete answer within 0\.6 s$"):
            client.ask("GET", url, timeout=0.6, limit=1_000_000)

        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("behave", "reason"),
    [
        (send(b"SSH-2.0-OpenSSH_9.2\r\n"), "no valid HTTP answer"),
        (send(b"\x00\xff\xfe garbage\r\n\r\n"), "no valid HTTP answer"),
        (send(b""), "it closed the connection"),
        (send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort"), "no valid HTTP answer"),
        (send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), "no valid HTTP answer"),
        (send(b"HTTP/1.1 200 OK\r\n", b"X: " + b"a" * 60_000 + b"\r\n", forever=True), "no valid HTTP answer"),
    ],
    ids=["another protocol", "bytes", "nothing", "a body that ends early", "broken chunks", "headers without end"],
)
def test_garbage_is_told_as_a_reason(client: Client, behave: Callable[[socket.socket], None], reason: str) -> None:
    """What is no HTTP answer is Unreachable, in our words and without the address."""
    with serving(behave) as url, pytest.raises(Unreachable) as caught:
        client.ask("GET", url, timeout=5, limit=1000)

    assert str(caught.value).startswith(reason)
    assert "SECRET" not in str(caught.value)


def test_a_gigabyte_is_cut_at_the_limit(client: Client) -> None:
    """Of an endless body no more than the limit is kept, and the answer says that it was cut."""
    with serving(send(HEAD, b"a" * 65_536, forever=True)) as url:
        answer = client.ask("GET", url, timeout=5, limit=100_000)

    assert (200, 100_000, True) == (answer.status, len(answer.body), answer.cut)


def test_a_redirect_is_an_answer(client: Client) -> None:
    """A redirect is not followed, so one that leads to itself cannot go on for ever."""
    with serving(send(b"HTTP/1.1 302 Found\r\nLocation: /SECRET\r\nContent-Length: 0\r\n\r\n")) as url:
        assert 302 == client.ask("GET", url, timeout=5, limit=10).status


def test_a_redirect_with_a_body_without_end_is_cut_too(client: Client) -> None:
    """The body of a redirect is read no further than that of any other answer."""
    head = b"HTTP/1.1 302 Found\r\nLocation: /SECRET\r\n\r\n"
    with serving(send(head, b"a" * 65_536, forever=True)) as url:
        answer = client.ask("GET", url, timeout=5, limit=1000)

    assert (302, 1000, True) == (answer.status, len(answer.body), answer.cut)


def test_a_kept_connection_that_was_closed_meanwhile_is_no_fault(client: Client) -> None:
    """When the other side closes an idle connection just as a GET is sent, the GET is sent again on a new one."""

    def once(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(OK)
        connection.recv(65_536)  # the second request arrives, and gets no answer

    with serving(once) as url:
        assert [b"ok", b"ok", b"ok"] == [client.ask("GET", url, timeout=5, limit=10).body for _ in range(3)]


def test_cookies_are_not_kept(client: Client) -> None:
    """What a server sets is not sent back to it."""
    seen: list[bytes] = []

    def behave(connection: socket.socket) -> None:
        seen.append(connection.recv(65_536))
        connection.sendall(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    with serving(behave) as url:
        for _ in range(2):
            client.ask("GET", url, timeout=5, limit=10)

    assert [] == [request for request in seen if b"ookie" in request]


@pytest.mark.parametrize(
    ("url", "reason"),
    [("http://127.0.0.1:9/SECRET", "it refuses the connection"), ("http://tocsin.invalid/SECRET", "its name does not resolve")],
)
def test_no_connection_is_told_as_a_reason(client: Client, url: str, reason: str) -> None:
    """A refused connection and an unknown name are told apart."""
    with pytest.raises(Unreachable, match=f"^{reason}$"):
        client.ask("GET", url, timeout=5, limit=10)


def test_an_ipv6_address_needs_no_port(client: Client) -> None:
    """Its last digits are not taken for one. There is nobody at this address (RFC 6666)."""
    with pytest.raises(Unreachable) as caught:
        client.ask("GET", "http://[100::1]/SECRET", timeout=0.3, limit=10)
    assert "its name does not resolve" != str(caught.value)


def test_a_certificate_nobody_vouches_for_is_refused(client: Client, certificate: tuple[Path, Path]) -> None:
    """TLS is verified."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with serving(send(OK), context) as url, pytest.raises(Unreachable, match="certificate is not valid"):
        client.ask("GET", url, timeout=5, limit=10)


def test_a_tls_handshake_that_hangs_is_ended_in_time(client: Client) -> None:
    """The time limit covers the handshake too."""
    with serving(hang) as url, pytest.raises(Unreachable, match="no complete answer"):
        client.ask("GET", url.replace("http", "https"), timeout=0.5, limit=10)


def test_a_connection_is_kept_and_one_that_ended_is_replaced(client: Client) -> None:
    """Two requests share a connection; after the other side has closed it, the third makes a new one."""
    made = []

    def twice(connection: socket.socket) -> None:
        made.append(connection)
        for _ in range(2):
            if connection.recv(65_536):
                connection.sendall(OK)

    with serving(twice) as url:
        answers = []
        for _ in range(4):
            answers.append(client.ask("GET", url, timeout=5, limit=10).body)
            time.sleep(0.05)  # the other side closes after its second answer; that must have arrived

    assert [b"ok"] * 4 == answers
    assert 2 == len(made)


def test_after_a_time_limit_the_next_request_works(client: Client) -> None:
    """A connection that was ended is not used again."""
    behaviours = iter([hang, send(OK)])

    def in_turn(connection: socket.socket) -> None:
        next(behaviours)(connection)

    with serving(in_turn) as url:
        with pytest.raises(Unreachable):
            client.ask("GET", url, timeout=0.3, limit=10)

        assert 200 == client.ask("GET", url, timeout=5, limit=10).status


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    return issue(tmp_path_factory.mktemp("authority"), "IP:127.0.0.1")


@contextmanager
def client_by(proxy: str | None = None, ca: Path | None = None) -> Iterator[Client]:
    client = Client(proxy=SecretStr(proxy) if proxy else None, ca=ca)
    try:
        yield client
    finally:
        client.close()


def test_an_authority_of_ones_own_vouches(authority: tuple[Path, ssl.SSLContext], client: Client) -> None:
    """With `ca` a certificate of that authority is valid, and without it is not."""
    ca, context = authority
    with serving(send(OK), context) as url:
        with client_by(ca=ca) as knowing:
            assert 200 == knowing.ask("POST", url, timeout=5, limit=10).status

        with pytest.raises(Unreachable, match="certificate is not valid"):
            client.ask("POST", url, timeout=5, limit=10)


@pytest.mark.parametrize("password", [False, True], ids=["open", "with a password"])
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("proxy_secure", [False, True], ids=["plain proxy", "TLS proxy"])
def test_a_proxy_leads_there(authority: tuple[Path, ssl.SSLContext], password: bool, secure: bool, proxy_secure: bool) -> None:
    """A request goes by the proxy, TLS in a tunnel through it; the proxy gets its password and no other word of ours."""
    ca, context = authority
    with (
        serving(send(OK), context if secure else None) as url,
        proxying(password=password, context=context if proxy_secure else None) as proxy,
        client_by(proxy.url, ca) as client,
    ):
        answer = client.ask("POST", url, timeout=10, limit=10)

    assert (200, b"ok") == (answer.status, answer.body)
    asked = url.removeprefix("https://").removesuffix("/SECRET") if secure else url
    assert [f"{'CONNECT' if secure else 'POST'} {asked}"] == proxy.asked


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("proxy_secure", [False, True], ids=["plain proxy", "TLS proxy"])
@pytest.mark.parametrize("where", ["proxy", "server"])
def test_what_hangs_behind_a_proxy_is_ended_in_time(
    authority: tuple[Path, ssl.SSLContext], secure: bool, proxy_secure: bool, where: str
) -> None:
    """The time limit holds by a proxy too, whether that hangs, or the other side drips."""
    ca, context = authority
    drip = send(b"H", pause=0.1, forever=True)
    with (
        serving(drip, context if secure else None) as url,
        proxying(hang=where == "proxy", context=context if proxy_secure else None) as proxy,
        client_by(proxy.url, ca) as client,
    ):
        began = time.monotonic()
        with pytest.raises(Unreachable, match=r"^no complete answer within 1 s$") as caught:
            client.ask("POST", url, timeout=1, limit=10, body=b"{}")

        assert time.monotonic() - began < 8
    assert (where == "server" or not secure) == caught.value.sent


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
def test_a_proxy_that_refuses_is_told_without_its_password(secure: bool) -> None:
    """A proxy that wants another password is an answer in the clear, and a reason in a tunnel; nothing arrived."""
    with serving(send(OK)) as url, proxying(password=True) as proxy:
        wrong = proxy.url.replace(PASSWORD, "wr0ng-s3cret")
        with client_by(wrong) as client:
            if not secure:
                assert 407 == client.ask("POST", url, timeout=5, limit=10).status
                return
            with pytest.raises(Unreachable, match=r"^its proxy answered 407$") as caught:
                client.ask("POST", url.replace("http", "https"), timeout=5, limit=10)

    assert not caught.value.sent


@pytest.mark.parametrize(
    ("proxy", "reason"),
    [
        ("http://somebody:s3cret@127.0.0.1:9", "its proxy: it refuses the connection"),
        ("http://somebody:s3cret@proxy.invalid:1", "its proxy: its name does not resolve"),
        ("https://somebody:s3cret@127.0.0.1:9", "its proxy: it refuses the connection"),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_no_connection_to_a_proxy_is_told_as_a_reason(proxy: str, reason: str, scheme: str) -> None:
    """It is the proxy that is away, not the receiver; and its password is not told."""
    with client_by(proxy) as client, pytest.raises(Unreachable, match=f"^{reason}$") as caught:
        client.ask("POST", f"{scheme}://127.0.0.1:1/SECRET", timeout=5, limit=10)

    assert not caught.value.sent


def test_a_certificate_of_a_proxy_is_verified(authority: tuple[Path, ssl.SSLContext], client: Client) -> None:
    """A proxy that nobody vouches for gets neither the request nor its own password."""
    with (
        proxying(password=True, context=authority[1]) as proxy,
        client_by(proxy.url) as unknowing,
        pytest.raises(Unreachable, match=r"^its proxy: its TLS certificate is not valid$"),
    ):
        unknowing.ask("POST", "https://127.0.0.1:1/SECRET", timeout=5, limit=10)

    assert [] == proxy.asked


def test_what_fails_behind_a_proxy_is_not_blamed_on_it(authority: tuple[Path, ssl.SSLContext]) -> None:
    """A receiver's certificate that nobody vouches for is told as such, though a proxy stood on the way."""
    with (
        serving(send(OK), authority[1]) as url,
        proxying() as proxy,
        client_by(proxy.url) as client,
        pytest.raises(Unreachable, match=r"^its TLS certificate is not valid$") as caught,
    ):
        client.ask("POST", url, timeout=5, limit=10)

    assert not caught.value.sent


def test_what_was_in_time_is_not_ended_by_its_limit_later(client: Client) -> None:
    """The time limit of a request that is over does not end the next one on the same connection."""
    pauses = iter([0.0, 0.8])

    def twice(connection: socket.socket) -> None:
        for pause in pauses:
            connection.recv(65_536)
            time.sleep(pause)
            connection.sendall(OK)

    with serving(twice) as url:
        assert [b"ok", b"ok"] == [client.ask("POST", url, timeout=limit, limit=10).body for limit in (0.5, 10)]


def test_a_header_replaces_the_usual_one_of_its_name(client: Client) -> None:
    """However it is written: none is sent twice."""
    seen: list[bytes] = []

    def behave(connection: socket.socket) -> None:
        seen.append(connection.recv(65_536))
        connection.sendall(OK)

    with serving(behave) as url:
        client.ask("POST", url, timeout=5, limit=10, body=b"{}", headers={"user-agent": "shop", "X-Key": "a"})

    lines = seen[0].partition(b"\r\n\r\n")[0].lower().split(b"\r\n")
    assert [b"user-agent: shop"] == [line for line in lines if line.startswith(b"user-agent")]
    assert {b"x-key: a", b"content-length: 2"} <= set(lines)


def test_one_thread_watches_over_all_requests() -> None:
    """However many wait for an answer, one thread ends those that are late, each at its own time."""
    clients = [Client() for _ in range(20)]
    with serving(hang) as url, ThreadPoolExecutor(20) as threads:
        began = time.monotonic()
        waiting = [threads.submit(each.ask, "GET", url, timeout=0.5 + 0.02 * n, limit=10) for n, each in enumerate(clients)]
        reasons = [str(each.exception(20)) for each in waiting]
        took = time.monotonic() - began

    assert [f"no complete answer within {0.5 + 0.02 * n:.3g} s" for n in range(20)] == reasons
    assert took < 10
    assert 1 == sum(thread.name == "watchdog" for thread in threading.enumerate())


@pytest.mark.parametrize(
    ("before", "after", "line", "authorization"),
    [
        ("", "", b"GET /SECRET HTTP/1.1", None),
        ("", "?a=b#part", b"GET /SECRET?a=b HTTP/1.1", None),
        ("", "/\u00e9 %2F", b"GET /SECRET/%C3%A9%20%2F HTTP/1.1", None),
        ("ann:p%40ss@", "", b"GET /SECRET HTTP/1.1", b"Basic YW5uOnBAc3M="),
        ("token@", "", b"GET /SECRET HTTP/1.1", None),
    ],
    ids=["plain", "query and fragment", "not ASCII", "name and password", "name alone"],
)
def test_an_address_becomes_a_request(client: Client, before: str, after: str, line: bytes, authorization: bytes | None) -> None:
    """Its path and query are what is asked for, its name and password an Authorization; what we accept stands beside it."""
    seen: list[bytes] = []

    def behave(connection: socket.socket) -> None:
        seen.append(connection.recv(65_536))
        connection.sendall(OK)

    with serving(behave) as url:
        client.ask("GET", url.replace("//", f"//{before}") + after, timeout=5, limit=10)

    first, *lines = seen[0].rstrip().split(b"\r\n")
    headers = dict(each.split(b": ", 1) for each in lines)
    host = url.removeprefix("http://").removesuffix("/SECRET").encode()
    usual = {b"Host": host, b"User-Agent": b"tocsin", b"Accept-Encoding": b"identity", b"Accept": b"*/*"}
    expected = usual | {b"Connection": b"keep-alive"} | ({b"Authorization": authorization} if authorization else {})
    assert (line, expected) == (first, headers)
