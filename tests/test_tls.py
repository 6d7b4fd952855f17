"""TLS by nginx: with a certificate there is https and plain HTTP leads there; without one all is as it was."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from service.settings import Settings
from service.values import ConfigurationError
from tests.certificates import FILES, another, shown
from tests.raw import answers
from tests.stack import BIN, ROOT, Running, eventually, free_port, nginx, process, web

DOCUMENT = (ROOT / "docs/tls.md").read_text(encoding="utf-8")
KEY = "correct-horse-battery-staple"


@dataclass
class Secure(Running):
    """nginx with TLS: `url` is plain, `https` is not; `trust` is the certificate that it shows."""

    https: str
    trust: Path


def tls(files: FILES, port: int) -> dict[str, str]:
    """What start.sh is told."""
    return {
        "NGINX_TLS_CERT": str(files[0]),
        "NGINX_TLS_KEY": str(files[1]),
        "NGINX_TLS_LISTEN": f"127.0.0.1:{port}",
        "NGINX_HTTPS_PORT": str(port),
    }


@contextmanager
def secure(folder: Path, upstream: str, files: FILES, **env: str) -> Iterator[Secure]:
    port = free_port()
    with nginx(folder, upstream, **tls(files, port) | env) as running:
        yield Secure(**vars(running), https=f"https://127.0.0.1:{port}", trust=files[0])


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with web(tmp_path_factory.mktemp("web"), "tests.apps:seeing()", TOCSIN_API_KEY=KEY) as running:
        yield running


@pytest.fixture(scope="module")
def front(app: Running, certificate: FILES, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    with secure(tmp_path_factory.mktemp("nginx"), app.url.removeprefix("http://"), certificate) as running:
        yield running


def handshake(front: Secure, *options: str) -> str:
    """What openssl says of a connection, its end included."""
    address = front.https.removeprefix("https://")
    command = ["openssl", "s_client", "-connect", address, "-CAfile", str(front.trust), *options]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=30)
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ("-tls1_3", "TLSv1.3"),
        ("-tls1_2", "TLSv1.2"),
        ("-tls1_2 -cipher ECDHE-RSA-AES128-GCM-SHA256", "TLSv1.2"),
        ("-tls1_2 -cipher ECDHE-RSA-AES128-SHA256:@SECLEVEL=0", None),  # no authenticated encryption
        ("-tls1_2 -cipher AES128-GCM-SHA256:@SECLEVEL=0", None),  # no forward secrecy
        ("-tls1_1 -cipher DEFAULT:@SECLEVEL=0", None),
        ("-tls1 -cipher DEFAULT:@SECLEVEL=0", None),
    ],
)
def test_only_what_is_modern_is_spoken(front: Secure, options: str, found: str | None) -> None:
    """TLS 1.2 and 1.3 with the ciphers of Mozilla's intermediate list, and nothing older."""
    said = handshake(front, *options.split())
    session = re.search(r"^New, (TLSv[\d.]+), Cipher is", said, re.MULTILINE)

    assert found == (session[1] if session else None)
    assert "TLS session ticket:" not in said if found == "TLSv1.2" else True


def test_http_2_is_offered_and_works(front: Secure) -> None:
    """A client that can has HTTP/2, and logs in over it; who cannot goes on with HTTP/1.1."""
    form = ["--data", f"author=ann&key={KEY}", "--header", f"Origin: {front.https}", "--output", os.devnull]
    for option, version in (("--http2", "2"), ("--http1.1", "1.1")):
        command = ["curl", "-s", option, "--cacert", str(front.trust), *form, "-w", "%{http_version} %{http_code}"]
        done = subprocess.run([*command, f"{front.https}/login"], capture_output=True, text=True, check=True, timeout=30)
        assert f"{version} 303" == done.stdout


@pytest.mark.parametrize(
    "path", ["/", "/login", "/static/style.css", "/api/v1/alerts?state=firing", "//x", "/a%2Fb?c=%20", "/livez/"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_plain_http_leads_to_https(front: Secure, method: str, path: str) -> None:
    """The same address and method there, as it was written, with every header that keeps strangers out."""
    answer = requests.request(method, front.url + path, timeout=10, allow_redirects=False)
    head = answers(front.url, f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode(), "127.0.0.1")[0].headers

    assert (308, front.https + path) == (answer.status_code, head["location"])
    assert "default-src 'none'; frame-ancestors 'none'" == answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize("path", ["/api/health", "/livez", "/readyz", "/robots.txt", "/livez?verbose=1"])
def test_health_questions_stay_plain(front: Secure, path: str) -> None:
    """Balancers, the monitor and the container's own check need no certificate; over TLS the answer is the same."""
    assert [200, 200] == [
        requests.get(place + path, timeout=10, allow_redirects=False, verify=str(front.trust)).status_code
        for place in (front.url, front.https)
    ]


@pytest.mark.parametrize(
    ("host", "status", "location"),
    [
        ("tocsin.example", 308, "https://tocsin.example:PORT/x"),
        ("TOCSIN.example:8080", 308, "https://tocsin.example:PORT/x"),
        ("[::1]:8080", 308, "https://[::1]:PORT/x"),
        ("evil.example/x", 400, None),
        ("user@evil.example", 400, None),
        ('a"b', 400, None),
        ("a<b>", 400, None),
        ("a\tb", 400, None),
        (None, 400, None),
    ],
)
def test_the_host_of_the_redirect_is_a_host(front: Secure, host: str | None, status: int, location: str | None) -> None:
    """What a client sends as Host is taken when it can be one, without its port; everything else is 400."""
    sent = f"GET /x HTTP/1.1\r\n{'' if host is None else f'Host: {host}'}\r\nConnection: close\r\n\r\n".replace("\n\r\nC", "\nC")
    answer, *_ = answers(front.url, sent.encode(), "127.0.0.1")
    port = front.https.rpartition(":")[2]

    assert (status, location and location.replace("PORT", port)) == (answer.status, answer.headers.get("location"))


def test_without_a_host_the_redirect_leads_to_the_address(front: Secure) -> None:
    """HTTP/1.0 need not name one."""
    answer, *_ = answers(front.url, b"GET /x HTTP/1.0\r\n\r\n", "127.0.0.1")

    assert (308, f"{front.https}/x") == (answer.status, answer.headers["location"])


def test_port_443_is_left_out(app: Running, certificate: FILES, tmp_path: Path) -> None:
    """As browsers write it: the port that clients see need not be the one that nginx listens on."""
    with secure(tmp_path, app.url.removeprefix("http://"), certificate, NGINX_HTTPS_PORT="443") as front:
        answer = requests.get(f"{front.url}/x", timeout=10, allow_redirects=False)

    assert "https://127.0.0.1/x" == answer.headers["Location"]


def test_over_tls_the_cookie_is_secure(front: Secure) -> None:
    """The application sees https, whatever a client claims; one who follows the redirect with a POST is logged in, too."""
    said = {"author": "ann", "key": KEY}
    for headers in ({}, {"X-Forwarded-Proto": "http", "X-Forwarded-For": "203.0.113.9"}):
        answer = requests.post(
            f"{front.https}/login", data=said, headers=headers, timeout=10, allow_redirects=False, verify=str(front.trust)
        )
        assert 303 == answer.status_code
        assert "; Secure; HttpOnly;" in answer.headers["Set-Cookie"]
        seen = requests.get(f"{front.https}/livez/seen", headers=headers, timeout=10, verify=str(front.trust)).json()
        assert {"client": "127.0.0.1", "url": f"{front.https}/livez/seen", "root": ""} == seen
    with requests.Session() as session:
        assert 200 == session.post(f"{front.url}/login", data=said, timeout=10, verify=str(front.trust)).status_code
        assert [True] == [cookie.secure for cookie in session.cookies]


def test_no_other_port_of_the_host_is_taken_along(front: Secure) -> None:
    """Strict-Transport-Security would count for everything on this host; it is not sent."""
    for place in (front.url, front.https):
        answer = requests.get(f"{place}/livez", timeout=10, verify=str(front.trust))
        assert "Strict-Transport-Security" not in answer.headers


def test_plain_http_on_the_port_of_tls_is_told_so(front: Secure) -> None:
    """A problem document as everywhere, and not nginx' page."""
    answer, *_ = answers(front.https.replace("https", "http"), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "127.0.0.1")

    assert (400, "application/problem+json") == (answer.status, answer.headers["content-type"])
    assert 400 == json.loads(answer.body)["status"]


def test_a_trusted_proxy_that_speaks_tls_is_not_sent_round(app: Running, certificate: FILES, tmp_path: Path) -> None:
    """What it has ended counts as https on the plain port; its plain requests, and a stranger's claims, are led to https."""
    with secure(tmp_path, app.url.removeprefix("http://"), certificate, NGINX_TRUSTED_PROXIES="127.0.0.1") as front:
        said = [{"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": scheme} for scheme in ("https", "http")]
        statuses = [requests.get(front.url, headers=each, timeout=10, allow_redirects=False).status_code for each in said]
        with socket.create_connection(("127.0.0.1", int(front.url.rpartition(":")[2])), 10, ("127.0.0.2", 0)) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\n\r\n")
            assert stranger.recv(100).startswith(b"HTTP/1.1 308 ")

    assert [200, 308] == statuses


def test_a_renewed_certificate_needs_a_hup_and_costs_no_request(app: Running, certificate: FILES, tmp_path: Path) -> None:
    """The link that the paths are is turned, as certbot does, and nginx told: the next connection is shown the new one."""
    (tmp_path / "old").mkdir()
    for file, name in zip(certificate, ("cert.pem", "key.pem"), strict=True):
        shutil.copy(file, tmp_path / "old" / name)
    new = another(tmp_path / "new")
    (either := tmp_path / "either.pem").write_text(certificate[0].read_text() + new[0].read_text())
    live = tmp_path / "live"
    live.symlink_to("old")
    with secure(tmp_path, app.url.removeprefix("http://"), (live / "cert.pem", live / "key.pem")) as front:
        assert certificate[0].read_text() == shown(front.https)
        live.unlink()
        live.symlink_to("new")
        assert certificate[0].read_text() == shown(front.https)
        front.process.send_signal(signal.SIGHUP)

        def renewed() -> bool:
            assert 200 == requests.get(f"{front.https}/livez", timeout=10, verify=str(either)).status_code
            return shown(front.https) == new[0].read_text()

        eventually(renewed, "the new certificate")
        # Half a renewal: nginx goes on with what it has, and says why.
        shutil.copy(another(tmp_path / "newer")[1], tmp_path / "new/key.pem")
        front.process.send_signal(signal.SIGHUP)
        told = "the certificate and the key of TLS do not belong together"
        eventually(lambda: any(line["message"] == told for line in front.lines()), "it is said")
        assert new[0].read_text() == shown(front.https)


@pytest.mark.parametrize("fault", ["strange key", "no certificate", "no key", "missing", "folder", "relative", "quote"])
def test_what_is_wrong_with_the_files_stops_the_start(certificate: FILES, tmp_path: Path, fault: str) -> None:
    """One line says what, and nothing listens."""
    cert, key = (str(file) for file in certificate)
    env, said = {
        "strange key": (
            {"NGINX_TLS_KEY": str(another(tmp_path)[1])},
            f"TLS: {tmp_path}/key.pem does not belong to the certificate",
        ),
        "no certificate": ({"NGINX_TLS_CERT": key}, f"TLS: {key} holds no certificate"),
        "no key": ({"NGINX_TLS_KEY": ""}, "TLS needs both, a certificate and its key"),
        "missing": ({"NGINX_TLS_CERT": "/nonexistent.pem"}, f"TLS: /nonexistent.pem cannot be read by user {os.getuid()}"),
        "folder": ({"NGINX_TLS_CERT": str(tmp_path)}, f"TLS: {tmp_path} cannot be read by user {os.getuid()}"),
        "relative": ({"NGINX_TLS_CERT": "cert.pem"}, "TLS: 'cert.pem' is no absolute path"),
        "quote": ({"NGINX_TLS_CERT": "/a;b|c&d"}, "TLS: '/a;b|c&d' is no absolute path"),
    }[fault]
    given = {"NGINX_TLS_CERT": cert, "NGINX_TLS_KEY": key, "NGINX_PREFIX": str(tmp_path / "prefix"), **env}
    given |= {
        "NGINX_LISTEN": f"127.0.0.1:{free_port()}",
        "NGINX_TLS_LISTEN": f"127.0.0.1:{free_port()}",
        "NGINX_UPSTREAM": "127.0.0.1:9",
    }
    done = subprocess.run(
        ["sh", ROOT / "deploy/nginx/start.sh"],
        env={"PATH": f"{os.environ['PATH']}:/usr/sbin", **given},
        capture_output=True,
        timeout=30,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]

    assert 0 != done.returncode
    assert [True] == [said in line["message"] for line in lines if line["log.level"] in ("emerg", "error")]


@pytest.mark.parametrize(
    ("env", "fault"),
    [
        ({"TOCSIN_TLS_CERT": "/c"}, "TOCSIN_TLS_KEY: TOCSIN_TLS_KEY is not set beside TOCSIN_TLS_CERT"),
        ({"TOCSIN_TLS_KEY": "/k"}, "TOCSIN_TLS_KEY: TOCSIN_TLS_CERT is not set beside it"),
        ({"TOCSIN_TLS_CERT": "", "TOCSIN_TLS_KEY": "/k"}, "TOCSIN_TLS_KEY: TOCSIN_TLS_CERT is not set beside it"),
        (
            {"TOCSIN_TRUSTED_PROXIES": "10.0.0.0/8,proxy"},
            "'proxy' is not an address or a network, such as 192.0.2.7 or 10.0.0.0/8",
        ),
        ({"TOCSIN_TRUSTED_PROXIES": "10.0.0.1/8"}, "'10.0.0.1/8' is not an address or a network"),
        ({"TOCSIN_TRUSTED_PROXIES": "10.0.0.0/255.0.0.0"}, "'10.0.0.0/255.0.0.0' is not an address or a network"),
        ({"TOCSIN_TRUSTED_PROXIES": "fe80::1%eth0"}, "'fe80::1%eth0' is not an address or a network"),
        ({"TOCSIN_TRUSTED_PROXIES": "127.0.0.1;"}, "'127.0.0.1;' is not an address or a network"),
        ({"TOCSIN_TRUSTED_PROXIES": "0.0.0.0/0"}, "'0.0.0.0/0' is everybody"),
        ({"TOCSIN_TRUSTED_PROXIES": "::/0"}, "'::/0' is everybody"),
    ],
)
def test_half_a_setting_is_a_fault(monkeypatch: pytest.MonkeyPatch, env: dict[str, str], fault: str) -> None:
    """TLS with one of its two files, and a proxy that is no address, are told before anything starts."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_environment()

    assert 1 == len(caught.value.faults)
    assert fault in caught.value.faults[0]


@pytest.mark.parametrize("proxies", ["proxy", "127.0.0.1;", "10.0.0.0/8, $x", "127.0.0.1\n}"])
def test_nothing_but_addresses_becomes_configuration(tmp_path: Path, proxies: str) -> None:
    """start.sh looks for itself, where nobody has checked the setting before."""
    env = {"PATH": f"{os.environ['PATH']}:/usr/sbin", "NGINX_PREFIX": str(tmp_path), "NGINX_TRUSTED_PROXIES": proxies}
    done = subprocess.run(["sh", ROOT / "deploy/nginx/start.sh"], env=env, capture_output=True, timeout=30, check=False)
    (said,) = [json.loads(line) for line in done.stdout.splitlines()]

    assert 1 == done.returncode
    assert said["message"].endswith("is not an address or a network, such as 192.0.2.7 or 10.0.0.0/8")


def test_without_a_certificate_there_is_no_tls(app: Running, tmp_path: Path) -> None:
    """Empty, as Compose passes them when they are unset: nothing of TLS is configured, and nothing is led anywhere."""
    with nginx(tmp_path, app.url.removeprefix("http://"), NGINX_TLS_CERT="", NGINX_TLS_KEY="") as front:
        assert 200 == front.get("/", allow_redirects=False).status_code
        assert "" == (tmp_path / "nginx/tls.conf").read_text()


def test_the_address_in_links_is_that_of_tls(certificate: FILES) -> None:
    """Links in reports lead to https when there is a certificate, unless TOCSIN_PUBLIC_URL says where."""
    cert, key = certificate
    assert "https://192.0.2.1:8443" == Settings(bind="192.0.2.1", tls_cert=cert, tls_key=key).public
    assert "https://t.example" == Settings(public_url="https://t.example", tls_cert=cert, tls_key=key).public


def test_a_stack_without_docker_has_it(certificate: FILES, tmp_path: Path) -> None:
    """supervise.py passes the settings on: https answers, plain HTTP leads there, and `tocsin check` is content."""
    port, secure_port = free_port(), free_port()
    (tmp_path / "monitor.yaml").write_text("interval: 1s\n")
    (tmp_path / "live").symlink_to(certificate[0].parent)
    env = {
        "TOCSIN_DATA": str(tmp_path),
        "TOCSIN_CONFIG": str(tmp_path / "monitor.yaml"),
        "TOCSIN_WEB_ADDRESS": f"127.0.0.1:{free_port()}",
        "TOCSIN_HTTP_PORT": str(port),
        "TOCSIN_HTTPS_PORT": str(secure_port),
        "TOCSIN_TLS_CERT": str(tmp_path / "live/cert.pem"),
        "TOCSIN_TLS_KEY": os.path.relpath(certificate[1], ROOT),
        "TOCSIN_TRUSTED_PROXIES": "127.0.0.2",
        "TOCSIN_CPU_THRESHOLD": "100",
        "TOCSIN_MEM_THRESHOLD": "100",
        "TOCSIN_DISK_THRESHOLD": "100",
        "TOCSIN_DRAIN": "0s",
    }
    command: list[str | Path] = [BIN / "python", "deploy/supervisor/supervise.py", "--native"]
    with process(command, env, tmp_path / "log.txt"):
        place = f"https://127.0.0.1:{secure_port}"
        eventually(lambda: requests.get(f"{place}/readyz", timeout=5, verify=str(certificate[0])).ok, "https", 60)
        answer = requests.get(f"http://127.0.0.1:{port}/", timeout=5, allow_redirects=False)
        assert (308, f"{place}/") == (answer.status_code, answer.headers["Location"])
        checking = [str(BIN / "tocsin"), "check"]

        def content() -> str | None:
            done = subprocess.run(checking, env=os.environ | env, capture_output=True, text=True, check=False, timeout=60)
            return done.stdout if done.stdout.startswith("TOCSIN OK") else None

        eventually(content, "the check", 60)
        # The link itself, which a renewal turns.
        assert f"ssl_certificate {tmp_path}/live/cert.pem;" in (tmp_path / "nginx/tls.conf").read_text()
        assert "set_real_ip_from 127.0.0.2/32;\n" == (tmp_path / "nginx/trusted-proxies.conf").read_text()


def test_units_of_systemd_have_it(certificate: FILES, tmp_path: Path) -> None:
    """nginx.sh hands the settings on."""
    port, secure_port = free_port(), free_port()
    env = {
        "RUNTIME_DIRECTORY": str(tmp_path),
        "TOCSIN_HTTP_PORT": str(port),
        "TOCSIN_HTTPS_PORT": str(secure_port),
        "TOCSIN_WEB_ADDRESS": "127.0.0.1:1",
        "TOCSIN_TLS_CERT": str(certificate[0]),
        "TOCSIN_TLS_KEY": str(certificate[1]),
        "TOCSIN_TRUSTED_PROXIES": "127.0.0.2",
    }
    with process([ROOT / "deploy/systemd/nginx.sh"], env, tmp_path / "log.txt"):
        place = f"https://127.0.0.1:{secure_port}"
        eventually(lambda: requests.get(f"{place}/robots.txt", timeout=5, verify=str(certificate[0])).ok, "https")
        answer = requests.get(f"http://127.0.0.1:{port}/", timeout=5, allow_redirects=False)
        assert (308, f"{place}/") == (answer.status_code, answer.headers["Location"])
        assert "set_real_ip_from 127.0.0.2;\n" == (tmp_path / "trusted-proxies.conf").read_text()


def test_what_the_document_shows_works(app: Running, tmp_path: Path) -> None:
    """Its certificate is one, its question is answered, and its figures and paths are those of the configuration."""
    making, asking = (re.findall(rf"```sh\n({word} .*?)```", DOCUMENT, re.DOTALL)[0] for word in ("openssl", "curl"))
    subprocess.run(["sh", "-c", making], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    with secure(tmp_path, app.url.removeprefix("http://"), (tmp_path / "cert.pem", tmp_path / "key.pem")) as front:
        command = asking.replace("https://127.0.0.1:8443", front.https)
        done = subprocess.run(
            ["sh", "-c", f"curl --fail -s {command[5:]}"], cwd=tmp_path, check=True, capture_output=True, timeout=60
        )
    assert "cpu_usage" in json.loads(done.stdout)
    plain = re.findall(r"\^http \\S\+ /\(\?:(.*?)\|-/problem\)", (ROOT / "deploy/nginx/nginx.conf").read_text())[0]
    assert ", ".join(f"`/{path}`" for path in plain.replace("\\", "").split("|")) in DOCUMENT
    limit = re.findall(r"mem_limit: (\d+)m # 10,000 open connections", (ROOT / "compose.yaml").read_text())[0]
    assert f"may have {limit} MB" in DOCUMENT
    assert f"{Settings().https_port} without it" in DOCUMENT
