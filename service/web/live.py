"""The page at `/`, and the stream that keeps it up to date. docs/page.md has the details."""

import math
import time
from functools import partial

from apiflask import APIBlueprint
from flask import Flask, Response, request
from flask.views import MethodView
from jinja2 import TemplateError
from markupsafe import Markup
from werkzeug.exceptions import ServiceUnavailable

from service.settings import Settings
from service.web import session
from service.web.api import ODD
from service.web.configured import Configured
from service.web.feed import Feed, Frame, Frames, FullError
from service.web.html import page, with_ages
from service.web.observer import Observer
from service.web.overview import Overview
from service.web.session import with_token

# Each is a macro in templates/sections.html, and the id of the element that it makes.
SECTIONS = ("overall", "tick", "alerts", "gauges", "targets", "services", "told", "monitor")
# Seconds: then a stream ends, and goes on by itself a second later. nginx, stopped or reloaded, waits for what is open, and is
# killed 40 s after it is told to stop (compose.yaml, native.conf).
LIFE = 30.0
_RETRY = 5  # seconds
_STREAM = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # for an nginx of somebody else's in between
}


def blueprint(app: Flask, settings: Settings) -> APIBlueprint:
    """The routes, around one feed. The app's `extensions["feed"]` can end its streams."""
    routes = APIBlueprint("live", __name__, enable_openapi=False)
    readiness = app.extensions["readiness"]
    observer = Observer(settings, app.extensions["sampler"], Configured(settings))

    def seen() -> Frames:
        overview = observer.look(readiness.fault)
        return {logged_in: drawn(app, overview, logged_in=logged_in) for logged_in in (False, True)}

    def frames() -> Frames:
        try:
            return seen()
        except (*ODD, TemplateError) as error:  # of what is stored, as nothing else on the page is so free
            observer.give_up(error)
            return seen()

    feed = app.extensions["feed"] = Feed(frames)
    routes.add_url_rule("/", view_func=PageView.as_view("index", feed, settings.instance))
    routes.add_url_rule("/api/stream", view_func=StreamView.as_view("stream", feed))
    return routes


class PageView(MethodView):
    init_every_request = False

    def __init__(self, feed: Feed, instance: str) -> None:
        self._feed, self._instance = feed, instance

    def get(self) -> Response:
        member = session.member()
        # Whoever has just changed something wants to see it.
        frames = self._feed.latest() if member is None else self._feed.latest(0)
        frame = frames[member is not None]
        shown = {name: with_token(with_ages(text, frame.at), member) for name, text in frame.sections.items()}
        sections = {name: Markup(text) for name, text in shown.items()}  # noqa: S704 - drawn and escaped below
        return page("page.html", sections=sections, frame=frame, member=member, instance=self._instance)


class StreamView(MethodView):
    init_every_request = False

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def get(self) -> Response:
        member = session.member()
        try:
            self._feed.join()
        except FullError:
            raise ServiceUnavailable("Too many watch the page already; try again later.", retry_after=_RETRY) from None
        seen = request.headers.get("Last-Event-ID") or request.args.get("since", "")
        until = min(time.time() + LIFE, math.inf if member is None else member.until)
        events = self._feed.stream(seen, partial(with_token, known=member), member=member is not None, until=until)
        answer = Response(events, headers=_STREAM, mimetype="text/event-stream")
        answer.call_on_close(self._feed.leave)
        return answer


def drawn(app: Flask, overview: Overview, *, logged_in: bool) -> Frame:
    """The sections as HTML. Their forms have no token yet, and nothing in them says how long ago it was."""
    macros = app.jinja_env.get_template("sections.html").module
    return Frame(overview.at, {name: str(getattr(macros, name)(overview, logged_in)) for name in SECTIONS})
