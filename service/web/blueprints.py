"""Blueprints of a team's own, beside ours: TOCSIN_BLUEPRINTS names them, docs/your-app.md says what they get."""

import importlib
from collections.abc import Sequence

from flask import Blueprint, Flask
from werkzeug.routing import Map

from service.values import ConfigurationError

_VARIABLE = "TOCSIN_BLUEPRINTS"


def register(app: Flask, references: Sequence[str]) -> None:
    """Import each MODULE:NAME and register it, after all of ours.

    Raises ConfigurationError at the first that is at fault, with what their own code raised as its cause.
    """
    ours = Map([rule.empty() for rule in app.url_map.iter_rules()], converters=app.url_map.converters).bind("")
    known, endpoints = set(app.blueprints), set(app.view_functions)
    for reference in references:
        blueprint = _found(reference)
        try:
            app.register_blueprint(blueprint)
        except Exception as error:
            raise _fault(reference, f"could not be registered: {type(error).__name__}: {error}") from error
        added = [rule for rule in app.url_map.iter_rules() if rule.endpoint not in endpoints]
        # Flask would take both, and ask only one of them.
        if clashing := sorted({rule.rule for rule in added if ours.allowed_methods(rule.rule)}):
            remedy = "give the blueprint a `url_prefix` of its own, such as /shop"
            raise _fault(reference, f"has the route {clashing[0]}, which Tocsin has already; {remedy}")
    for name in set(app.blueprints) - known:
        # The document is about Tocsin's own calls. APIFlask reads this of every blueprint, also where it is Flask's.
        app.blueprints[name].enable_openapi = False  # type: ignore[attr-defined]


def _found(reference: str) -> Blueprint:
    place, _, name = reference.partition(":")
    try:
        module = importlib.import_module(place)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{place}.".startswith(f"{error.name}."):
            remedy = "put it beside `service`, install it, or name the folder that it is in in PYTHONPATH"
            raise _fault(reference, f"there is no module {error.name}; {remedy}") from None
        raise _fault(reference, f"importing {place} raised {type(error).__name__}: {error}") from error
    blueprint = getattr(module, name, None)
    if isinstance(blueprint, Blueprint):
        return blueprint
    here = sorted(name for name, value in vars(module).items() if isinstance(value, Blueprint))
    remedy = f"it has {', '.join(here)}" if here else "it has none"
    what = "is not a flask.Blueprint" if hasattr(module, name) else f"the module {place} has no {name}"
    raise _fault(reference, f"{what}; name one of the module's blueprints: {remedy}")


def _fault(reference: str, what: str) -> ConfigurationError:
    return ConfigurationError([f"{_VARIABLE}: {reference!r}: {what}"])
