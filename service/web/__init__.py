"""The wing that answers HTTP."""

from service.measure import Sampler
from service.settings import Settings
from service.web import (
    actions,
    alerts,
    blueprints,
    cors,
    docs,
    errors,
    health,
    html,
    jobs,
    live,
    login,
    metrics,
    notifications,
    occurrences,
    openapi,
    readings,
    reports,
    services,
    session,
    silences,
)
from service.web.access import Access
from service.web.app import App
from service.web.forwarded import Forwarded

LARGEST_BODY = 65_536  # bytes; nginx refuses the same, so that the answer does not depend on the way in


def create_app(settings: Settings | None = None) -> App:
    """The WSGI application. Without settings it reads the environment; raises ConfigurationError for what is wrong there."""
    settings = settings or Settings.from_environment()
    app = App(
        __name__,
        title=openapi.TITLE,
        version=openapi.VERSION,
        static_folder="static",  # nginx serves it, where there is one
        spec_path=None,  # `openapi` gives both, with what the document lacks
        docs_path=None,
        json_errors=False,  # `errors` does it
    )
    app.config["MAX_CONTENT_LENGTH"] = LARGEST_BODY
    app.wsgi_app = Forwarded(app.wsgi_app)  # type: ignore[method-assign]

    sampler = Sampler(settings.data, settings.runtime)
    sampler.start()
    app.extensions["sampler"] = sampler
    Access(app)
    errors.init_app(app)
    openapi.init_app(app)
    html.init_app(app)
    session.init_app(app, settings.api_key)
    docs.init_app(app)
    cors.init_app(app, settings.cors_origins)
    metrics.init_app(app, settings, sampler)
    app.register_blueprint(health.blueprint(settings, sampler))
    app.register_blueprint(live.blueprint(app, settings))
    for wing in (login, actions, alerts, silences, notifications, services, jobs, readings, occurrences, reports):
        app.register_blueprint(wing.blueprint(settings))
    blueprints.register(app, settings.blueprints)
    return app
