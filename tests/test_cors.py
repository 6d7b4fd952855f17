"""Pages of other origins: none may use the API unless it is named, and then without cookies. Through the real nginx too."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
import requests

from service.settings import Settings
from service.values import ConfigurationError
from tests.stack import ROOT, Running, nginx, web

BOARD = "https://board.example"
OTHER = "http://other.example:3000"
SIX = "http://[2001:db8::1]:3000"
KEY = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """nginx before a gunicorn that lets three origins in."""
    folder = tmp_path_factory.mktemp("cors")
    with (
        web(folder, TOCSIN_CORS_ORIGINS=f"{BOARD}, {OTHER}, {SIX}", TOCSIN_API_KEY=KEY) as running,
        nginx(folder, running.url.removeprefix("http://")) as before,
    ):
        yield before


def allowed(answer: requests.Response) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.headers.items() if name.lower().startswith("access-control-")}


def preflight(front: Running, path: str, origin: str, method: str = "POST") -> requests.Response:
    asked = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": "authorization,content-type"}
    return requests.options(front.url + path, headers={"Origin": origin, **asked}, timeout=10)


@pytest.mark.parametrize("origin", [BOARD, OTHER, SIX])
def test_a_named_origin_may_ask(front: Running, origin: str) -> None:
    """Its pages read answers, errors too, with the headers that they need; without credentials."""
    for path, status in (("/api/v1/silences", 200), ("/api/v1/silences/none", 404), ("/api/health", 200)):
        answer = front.get(path, headers={"Origin": origin})
        assert status == answer.status_code
        assert {
            "access-control-allow-origin": origin,
            "access-control-expose-headers": "ETag, Link, Location, Retry-After, X-Request-ID",
        } == allowed(answer)
        assert "Origin" in answer.headers["Vary"]


def test_a_named_origin_may_change_what_its_key_lets_it(front: Running) -> None:
    """The browser's question before it is answered without the key, and the call with it is done."""
    answer = preflight(front, "/api/v1/silences", BOARD)
    assert (200, BOARD) == (answer.status_code, allowed(answer)["access-control-allow-origin"])
    assert {"GET", "HEAD", "POST", "PUT", "DELETE"} == set(allowed(answer)["access-control-allow-methods"].split(", "))
    assert "authorization, content-type" == allowed(answer)["access-control-allow-headers"].lower()
    assert "access-control-allow-credentials" not in allowed(answer)

    body = {"matchers": ["target=shop"], "duration": "1h", "author": "ann"}
    headers = {"Origin": BOARD, "Authorization": f"Bearer {KEY}"}
    made = requests.post(f"{front.url}/api/v1/silences", json=body, headers=headers, timeout=10)
    assert (201, BOARD) == (made.status_code, allowed(made)["access-control-allow-origin"])
    refused = requests.post(f"{front.url}/api/v1/silences", json=body, headers={"Origin": BOARD}, timeout=10)
    assert (401, BOARD) == (refused.status_code, allowed(refused)["access-control-allow-origin"])


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://board.example",
        f"{BOARD}:8443",
        f"{BOARD}.evil.example",
        "https://boardxexample",
        "null",
        "http://2:3000",
        "http://[2001:db8::1]:30000",
        "http://[2001:db8::2]:3000",
    ],
)
def test_another_origin_may_not(front: Running, origin: str) -> None:
    """Neither one that looks alike nor a file."""
    assert {} == allowed(front.get("/api/v1/silences", headers={"Origin": origin}))
    assert {} == allowed(preflight(front, "/api/v1/silences", origin))


@pytest.mark.parametrize("path", ["/", "/livez", "/robots.txt"])
def test_only_the_api_is_opened(front: Running, path: str) -> None:
    """The page with its session stays to itself."""
    assert {} == allowed(front.get(path, headers={"Origin": BOARD}))


def test_without_the_setting_it_is_off() -> None:
    """No header says anything of origins, and what would write them is not even loaded."""
    code = (
        "import sys, tempfile, pathlib\n"
        "from service.settings import Settings\n"
        "from service.web import create_app\n"
        "app = create_app(Settings(data=pathlib.Path(tempfile.mkdtemp())))\n"
        "app.extensions['sampler'].stop()\n"
        "answer = app.test_client().get('/api/v1/silences', headers={'Origin': 'https://board.example'})\n"
        "assert not [name for name in answer.headers.keys() if name.startswith('Access-Control')]\n"
        "assert 'flask_cors' not in sys.modules\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (0, "") == (done.returncode, done.stderr)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("https://board.example", ("https://board.example",)),
        ("HTTPS://Board.Example:8443 , http://127.0.0.1:3000", ("https://board.example:8443", "http://127.0.0.1:3000")),
        ("http://[::1]:3000", ("http://[::1]:3000",)),
    ],
)
def test_origins_are_read(monkeypatch: pytest.MonkeyPatch, text: str, expected: tuple[str, ...]) -> None:
    """Separated by commas, in small letters, as browsers send them."""
    monkeypatch.setenv("TOCSIN_CORS_ORIGINS", text)
    assert expected == Settings.from_environment().cors_origins


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("*", "does not take *; name each origin whose pages may use the API, such as https://board.example"),
        ("https://*.example", "'https://*.example' is not an origin; write https://HOST or https://HOST:PORT"),
        ("board.example", "'board.example' is not an origin"),
        ("https://board.example/", "'https://board.example/' is not an origin"),
        ("https://a.example,https://b.example/x", "'https://b.example/x' is not an origin"),
        ("https://a.example,", "'' is not an origin"),
        ("null", "'null' is not an origin"),
        ("ftp://board.example", "'ftp://board.example' is not an origin"),
        ("https://ann@board.example", "'https://ann@board.example' is not an origin"),
    ],
)
def test_what_is_no_origin_is_a_fault(monkeypatch: pytest.MonkeyPatch, text: str, fault: str) -> None:
    """It stops the start, and says what would be right."""
    monkeypatch.setenv("TOCSIN_CORS_ORIGINS", text)
    with pytest.raises(ConfigurationError, match="TOCSIN_CORS_ORIGINS: ") as error:
        Settings.from_environment()
    assert fault in str(error.value)
