"""What tests share: a clean environment, and a check that no thread outlives its test."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from service.settings import Settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the person who runs the tests reaches them."""
    for name in list(os.environ):
        if name.startswith("TOCSIN_") or name == "WEB_CONCURRENCY":
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def fresh_logging() -> Iterator[None]:
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path)
