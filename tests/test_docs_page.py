"""docs/page.md says what is so: its limits and times are those of the code, and its proxy is one that works."""

import re
from contextlib import ExitStack
from pathlib import Path

import requests

from service.web import feed, live, observer, session
from tests.stack import ROOT, eventually, free_port, nginx, process, web

DOCUMENT = (ROOT / "docs/page.md").read_text(encoding="utf-8")
NGINX = "".join(file.read_text() for file in sorted((ROOT / "deploy/nginx").glob("*.conf")))
SCRIPT = (ROOT / "service/web/static/page.js").read_text(encoding="utf-8")
KEY = "correct-horse-battery-staple"


def test_its_figures_are_those_of_the_code() -> None:
    """Bounds and times, of the app, of nginx and of the script."""
    for words in (
        f"{feed.MOST} streams in one worker",
        f"nothing has changed for {feed.ALIVE:g} seconds",
        f"A stream ends after {live.LIFE:g} seconds",
        f"At most {observer.MOST_ALERTS} alerts are shown",
        f"`retry: {feed.AGAIN * 1000:g}`",
        f"A session ends after {session.LIFETIME // 3600} hours",
        f"A cookie named `{session.COOKIE}-`",
        f"its last {observer.PERIOD // 60} minutes as a line",
    ):
        assert words in DOCUMENT
    address, every = re.findall(r"limit_conn streams\w* (\d+);", NGINX)
    assert f"{address} streams from one address, {every} in all" in DOCUMENT
    rate, burst = re.findall(r"zone=logins:1m rate=(\d+)r/m", NGINX), re.findall(r"zone=logins burst=(\d+)", NGINX)
    assert f"{rate[0]} tries to log in a minute from one address, after {int(burst[0]) + 1} at once" in DOCUMENT
    assert "worker_shutdown_timeout" not in NGINX
    grace = re.findall(r"stop_signal: SIGQUIT\s+stop_grace_period: (\d+)s", (ROOT / "compose.yaml").read_text())
    assert f"A stop has {grace[0]} seconds" in DOCUMENT
    assert live.LIFE < int(grace[0])
    stale = re.findall(r"STALE = ([\d_]+)", SCRIPT)
    assert f"within the last {int(stale[0]) // 1000} seconds" in DOCUMENT
    assert feed.ALIVE * 2000 < int(stale[0])  # one word may be late


def test_what_the_page_says_of_itself_is_explained() -> None:
    """Each state of the stream that the script can show has a row."""
    shown = {re.sub(r"\$\{.*?\}", "…", words) for words in re.findall(r"say\(\"\w+\", [`\"](.*?)[`\"]\)", SCRIPT)} - {"going on"}
    assert {"live", "paused since …", "stale since …", "cut off since …, trying again"} == shown
    assert not [words for words in shown if f"| `{words}` |" not in DOCUMENT]


def test_the_proxy_in_front_works(tmp_path: Path) -> None:
    """With the shown nginx in front one logs in, with a Secure cookie where it speaks TLS, and a stream comes as it is said."""
    found = re.search(r"```nginx\n(.*?)```", DOCUMENT, re.DOTALL)
    assert found
    with web(tmp_path, TOCSIN_API_KEY=KEY) as app, ExitStack() as stack:
        trusted = re.findall(r"`TOCSIN_TRUSTED_PROXIES=(\S+)`", DOCUMENT)[0]
        front = stack.enter_context(nginx(tmp_path, app.url.removeprefix("http://"), NGINX_TRUSTED_PROXIES=trusted))
        port = free_port()
        shown = found[1].replace("127.0.0.1:8080", front.url.removeprefix("http://"))
        # As over TLS, from another machine.
        shown = shown.replace("$scheme", "https").replace("$remote_addr", "203.0.113.9")
        folders = "".join(f"{name}_temp_path {tmp_path}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        server = f"server {{ listen 127.0.0.1:{port};\n{shown}}}"
        conf = f"pid {tmp_path}/proxy.pid; error_log stderr; events {{}}\nhttp {{ access_log off; {folders} {server} }}\n"
        (tmp_path / "proxy.conf").write_text(conf)
        with process(["nginx", "-c", tmp_path / "proxy.conf", "-g", "daemon off;"], {}, tmp_path / "proxy.log"):
            address = f"http://127.0.0.1:{port}"
            eventually(lambda: requests.get(f"{address}/livez", timeout=5).ok, "the proxy")
            said = {"author": "ann", "key": KEY}
            answer = requests.post(f"{address}/login", data=said, headers={"Origin": address}, timeout=10, allow_redirects=False)
            assert 303 == answer.status_code
            assert "Secure" in answer.headers["Set-Cookie"]
            with requests.get(f"{address}/api/stream", stream=True, timeout=10) as stream:
                lines = stream.iter_lines(chunk_size=1)
                assert b"retry: 1000" == next(lines)
