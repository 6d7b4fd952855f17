"""docs/your-app.md says what is so: its commands work, its code runs, its messages and limits are those of the code."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import requests
from pydantic import SecretStr

from service.settings import Settings
from service.values import ConfigurationError
from service.web import LARGEST_BODY, create_app
from tests.checkout import copy, make
from tests.shopping import DOCUMENT, SHOP, shop, shown, variables
from tests.stack import BIN, ROOT, Running, eventually, free_port, nginx, process

KEY = "correct-horse-battery-staple"
NGINX = {file.name: file.read_text() for file in (ROOT / "deploy/nginx").glob("*.conf")}


@pytest.mark.native
@pytest.mark.timeout(200)
def test_without_docker(tmp_path: Path) -> None:
    """The settings in .env, `make up`, the answer, and a new version by a reload; TOCSIN_APPS reaches nginx, too."""
    folder = copy(tmp_path)
    (folder / ".env").write_text(shown("Without Docker", "ini")[0] + "TOCSIN_APPS=/own/=127.0.0.1:9\nTOCSIN_DRAIN=0s\n")
    env = {
        "DOCKER_HOST": "unix:///nonexistent",  # no engine answers there
        "TOCSIN_DATA": "var",  # of the copy: the code is the checkout's, and so is its default
        "TOCSIN_HTTP_PORT": str(free_port()),
        "TOCSIN_WEB_ADDRESS": f"127.0.0.1:{free_port()}",
    }

    def run(commands: str) -> list[str]:
        text = commands.replace("8080", env["TOCSIN_HTTP_PORT"])
        done = subprocess.run(
            ["sh", "-ec", text], cwd=folder, env={**os.environ, **env}, capture_output=True, text=True, timeout=120, check=False
        )
        assert 0 == done.returncode, done.stdout + done.stderr
        return list(done.stdout.splitlines())

    try:
        assert '{"kinds":3}' in run(shown("Without Docker", "sh")[0])
        url = f"http://127.0.0.1:{env['TOCSIN_HTTP_PORT']}"
        assert "The shop" in requests.get(f"{url}/shop/", timeout=10).text
        assert 502 == requests.get(f"{url}/own/", timeout=10).status_code
        page = folder / "examples/shop/shop/templates/shop/index.html"
        page.write_text(page.read_text().replace("The shop", "The new shop"))
        said = run(shown("A new version", "sh")[0])
        assert re.match(r"ok: .*monitor\.yaml: ", said[0])
        assert "web: signalled" == said[1]
        eventually(lambda: "The new shop" in requests.get(f"{url}/shop/", timeout=10).text, "the new version")
    finally:
        make(folder, "down", env)


def test_each_message_is_one_that_comes(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The faults shown are said in these words."""
    monkeypatch.syspath_prepend(SHOP)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "team.py").write_text(
        "from flask import Blueprint\ndesk = Blueprint('desk', __name__)\ndesk.get('/livez')(lambda: 'x')"
    )
    (messages,) = shown("When it does not start", "text")
    for message in messages.splitlines():
        with pytest.raises(ConfigurationError) as caught:
            create_app(settings.model_copy(update={"blueprints": (message.split("'")[1],)}))
        assert [message] == caught.value.faults


def test_the_example_of_a_test_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does what it says."""
    monkeypatch.syspath_prepend(SHOP)
    space: dict[str, object] = {}
    exec(shown("What it gets", "python")[0], space)
    test = space["test_the_shop_is_open"]
    assert callable(test)
    test(tmp_path, monkeypatch)


def test_the_key_guards_what_the_example_guards(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """401 without the key, and with it the view is asked."""
    monkeypatch.setenv("TOCSIN_API_KEY", KEY)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "guarded.py").write_text(shown("What to know", "python")[0])
    app = create_app(settings.model_copy(update={"blueprints": ("guarded:stock",)}))
    app.extensions["sampler"].stop()
    asked = app.test_client()

    assert 401 == asked.post("/stock/rope").status_code
    assert {"delivered": "rope"} == asked.post("/stock/rope", headers={"Authorization": f"Bearer {KEY}"}).get_json()


@pytest.mark.parametrize(("key", "status"), [(None, 500), (KEY, 200)])
def test_sessions_need_the_key(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str | None, status: int
) -> None:
    """The key signs the cookie: without one Flask refuses."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "cart.py").write_text(
        "from flask import Blueprint, session\ncart = Blueprint('cart', __name__, url_prefix='/cart')\n"
        "cart.post('/', endpoint='keep')(lambda: session.update(kept=1) or 'kept')\n"
        "cart.get('/', endpoint='kept')(lambda: {'kept': session.get('kept')})\n"
    )
    app = create_app(settings.model_copy(update={"blueprints": ("cart:cart",), "api_key": key and SecretStr(key)}))
    app.extensions["sampler"].stop()
    asked = app.test_client()

    assert status == asked.post("/cart/").status_code
    assert {"kept": 1 if key else None} == asked.get("/cart/").get_json()


def test_an_application_that_knows_no_prefix_runs_under_one(tmp_path: Path) -> None:
    """SCRIPT_NAME takes it off for routing, and puts it on in addresses that the application makes."""
    assert "`SCRIPT_NAME=/shop`" in DOCUMENT
    (tmp_path / "plain.py").write_text(
        "from flask import Flask, url_for\napp = Flask(__name__)\napp.get('/hello')(lambda: url_for('static', filename='a'))\n"
    )
    address = f"127.0.0.1:{free_port()}"
    command: list[str | Path] = [BIN / "gunicorn", "--bind", address, "--chdir", tmp_path, "--no-control-socket", "plain:app"]
    with (
        process(command, {"SCRIPT_NAME": "/shop"}, tmp_path / "plain.log") as child,
        nginx(tmp_path, "127.0.0.1:9", NGINX_APPS=f"/shop/={address}") as front,
    ):
        plain = Running(child, f"http://{address}", tmp_path / "plain.log")
        eventually(lambda: plain.status("/shop/hello") == 200, "it answers")
        assert "/shop/static/a" == front.get("/shop/hello").text


def test_a_larger_body_can_be_let_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the line in app.conf that is shown a container of one's own gets what else is refused."""
    import tests.stack

    (line,) = re.findall(r"`(client_max_body_size .*?;)` in `deploy/nginx/app.conf`", DOCUMENT)
    shutil.copytree(ROOT / "deploy/nginx", tmp_path / "deploy/nginx")
    shutil.copytree(ROOT / "service/web/static", tmp_path / "service/web/static")
    with shop(tmp_path) as own:
        monkeypatch.setattr(tests.stack, "ROOT", tmp_path)
        (tmp_path / "deploy/nginx/app.conf").write_text(f"{NGINX['app.conf']}{line}\n")
        with nginx(tmp_path, "127.0.0.1:9", NGINX_APPS=f"/shop/={own.url.removeprefix('http://')}") as front:
            sent = {"data": b"x" * 1_000_000, "timeout": 10, "allow_redirects": False}
            answer = requests.post(f"{front.url}/shop/buy/rope", **sent)  # type: ignore[arg-type]

    assert 303 == answer.status_code


def test_its_figures_are_those_of_the_code() -> None:
    """Limits and times."""
    assert f"A body has {LARGEST_BODY >> 10} KiB" in DOCUMENT
    rate, burst = (
        re.findall(r"zone=addresses:10m rate=(\d+)r/s", NGINX["nginx.conf"]),
        re.findall(r"burst=(\d+)", NGINX["app.conf"]),
    )
    assert f"{rate[0]} requests a second from one address, after {burst[0]} at once" in DOCUMENT
    assert "proxy_read_timeout 30s;" in NGINX["server.conf"]
    assert "30 seconds without a byte" in DOCUMENT


def test_every_command_is_run() -> None:
    """By these tests and those of tests/test_shop.py, which take them from the document."""
    taken = ("Without Docker", "With Docker", "A new version", "Its new version")
    assert len(re.findall(r"^ *```sh$", DOCUMENT, re.MULTILINE)) == sum(len(shown(each, "sh")) for each in taken)
    assert {"COMPOSE_FILE"} == set(variables(shown("With Docker", "ini")[0]))
