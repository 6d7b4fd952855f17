"""Options that several commands have: who does it, and why."""

import getpass
from collections.abc import Mapping
from typing import Any

import click

from service.checking import FaultsError, Model, checked
from service.values import ConfigurationError

_NAMES = {"duration": "--for", "ends_at": "--for", "starts_at": "--from", "author": "--author", "comment": "--comment"}


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name; KeyError before Python 3.13
        raise click.UsageError("this user has no login name; say who you are with --author") from None


author_option = click.option("--author", default=_login, show_default="the login name", help="Who does this.")
comment_option = click.option("--comment", default="", help="Why, for those who read it later.")


def given(model: type[Model], said: dict[str, Any], now: float, names: Mapping[str, str] = _NAMES) -> Model:
    """What was given, checked. Raises ConfigurationError, which names the options by their place in the model."""
    try:
        return checked(model, said, now)
    except FaultsError as error:
        raise ConfigurationError([f"{names.get(place, place)}: {fault}" for place, fault in error.faults]) from None
