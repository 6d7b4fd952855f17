"""The wing that answers HTTP."""

from flask import Flask

from service.measure import Sampler
from service.settings import Settings
from service.web import errors, health
from service.web.access import Access

LARGEST_BODY = 65_536  # bytes; nginx refuses the same, so that the answer does not depend on the way in


def create_app(settings: Settings | None = None) -> Flask:
    """The WSGI application. Without settings it reads the environment; raises ConfigurationError for what is wrong there."""
    settings = settings or Settings.from_environment()
    app = Flask(__name__, static_folder=None)  # nginx serves the static files
    app.config["MAX_CONTENT_LENGTH"] = LARGEST_BODY
    app.json.sort_keys = False  # type: ignore[attr-defined]  # Flask's default provider has it

    sampler = Sampler(settings.data)
    sampler.start()
    Access(app)
    errors.init_app(app)
    app.register_blueprint(health.blueprint(settings, sampler))
    return app
