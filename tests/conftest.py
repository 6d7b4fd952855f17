"""What tests share: a clean environment, and a check that no thread outlives its test."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog
from sqlalchemy import Engine

from service import logs
from service.database import connect
from service.settings import Settings

# Never structlog's own defaults: a thread that began to log while one took the other's place would have half of each, for good.
logs.configure("tocsin")
LOGGING = structlog.get_config()

Lines = Callable[[], list[dict[str, Any]]]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole stacks first: they take longest, and begun last one of them would run alone."""
    items.sort(key=lambda item: not any(item.get_closest_marker(name) for name in ("container", "native")))


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the person who runs the tests reaches them."""
    for name in list(os.environ):
        if name.startswith("TOCSIN_") or name == "WEB_CONCURRENCY":
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def fresh_logging() -> Iterator[None]:
    yield
    # Loggers in use keep their output, and the number of a log file that is closed may next be that of a database.
    logs._OUTPUT.fd = 1
    structlog.configure(**LOGGING)
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path)


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    """The database of `settings`, with its tables."""
    engine = connect(settings.database)
    yield engine
    engine.dispose()


@pytest.fixture
def lines(tmp_path: Path) -> Iterator[Lines]:
    """Configure logging to a file, and read the lines of it: in any order of tests, as a logger keeps its output."""
    path = tmp_path / "log"
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    logs.configure("tocsin-web", fd=fd)
    yield lambda: [orjson.loads(line) for line in path.read_bytes().splitlines()]
    os.close(fd)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that nobody vouches for, and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    command += f" -keyout {folder}/key.pem -out {folder}/cert.pem"
    subprocess.run(command.split(), check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"
