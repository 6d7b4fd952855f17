"""The wing that answers HTTP."""

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix

from service.measure import Sampler
from service.settings import Settings
from service.web import alerts, errors, health, services
from service.web.access import Access

LARGEST_BODY = 65_536  # bytes; nginx refuses the same, so that the answer does not depend on the way in


def create_app(settings: Settings | None = None) -> Flask:
    """The WSGI application. Without settings it reads the environment; raises ConfigurationError for what is wrong there."""
    settings = settings or Settings.from_environment()
    app = Flask(__name__, static_folder=None)  # nginx serves the static files
    app.config["MAX_CONTENT_LENGTH"] = LARGEST_BODY
    # nginx overwrites these two headers, so their one value is what it saw.
    app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1)  # type: ignore[method-assign]

    sampler = Sampler(settings.data)
    sampler.start()
    app.extensions["sampler"] = sampler
    Access(app)
    errors.init_app(app)
    app.register_blueprint(health.blueprint(settings, sampler))
    app.register_blueprint(alerts.blueprint(settings))
    app.register_blueprint(services.blueprint(settings))
    return app
