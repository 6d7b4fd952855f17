"""How commands come to the database."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import click
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from service import database
from service.settings import Settings
from service.values import ConfigurationError


@contextmanager
def connected(*refused: type[Exception], changing: bool = False) -> Iterator[Connection]:
    """A connection. What cannot be done there, and what is `refused`, is told as a fault like others: ConfigurationError."""
    settings = Settings.from_environment()
    engine = opened(settings, complain)
    try:
        with engine.begin() if changing else database.reading(engine) as connection:
            yield connection
    except refused as error:
        raise ConfigurationError([str(error)]) from None
    except SQLAlchemyError as error:
        reason = getattr(error, "orig", None) or error
        raise ConfigurationError([f"cannot use the database {database.shown(settings.database)}: {reason}"]) from None
    finally:
        engine.dispose()


def opened(settings: Settings, say: Callable[[str], object]) -> Engine:
    """The database with its tables, or one line that says why not and exit status 1."""
    engine = engine_for(settings, say)
    try:
        database.prepare(engine)
    except SQLAlchemyError as error:
        _give_up(settings, say, error)
    return engine


def engine_for(settings: Settings, say: Callable[[str], object]) -> Engine:
    """The same, not touched yet: for the monitor, which goes on without."""
    try:
        settings.data.mkdir(parents=True, exist_ok=True)
        return database.open_on(settings.database)
    except (OSError, SQLAlchemyError, ImportError) as error:
        _give_up(settings, say, error)


def _give_up(settings: Settings, say: Callable[[str], object], error: Exception) -> NoReturn:
    say(f"cannot use the database {database.shown(settings.database)}: {getattr(error, 'orig', None) or error}")
    sys.exit(1)


def complain(fault: str) -> None:
    click.echo(fault, err=True)
