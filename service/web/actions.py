"""What a person does on the page: plain forms, for who is logged in. They do what the API does, and log it the same way.

Whatever comes of it is said on the page itself, to which every answer leads back.
"""

import time
from collections.abc import Callable

from apiflask import APIBlueprint
from flask import Response, flash, redirect, request, url_for
from flask.views import MethodView
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import NotFound, ServiceUnavailable
from werkzeug.wrappers import Response as WerkzeugResponse

from service import alerts, restarts, silences
from service.alerts import Acknowledgement, Alert
from service.checking import FaultsError, checked
from service.holds import BusyError
from service.matchers import Matcher
from service.restarts import Wish
from service.settings import Settings
from service.silences import Draft
from service.values import iso
from service.web import session
from service.web.api import Database, changed
from service.web.auth import NO_KEY, noted
from service.web.configured import Configured
from service.web.handover import hand_over
from service.web.html import page

_LONGEST = 300  # characters of what is said on the page: it travels in the cookie
_ENDED = "You are not logged in any more: a session ends after twelve hours, and with another API key."
_OLD = "This form is of an earlier session. Go back to the page and send it again."


def blueprint(settings: Settings) -> APIBlueprint:
    """The routes, around one database and one configuration."""
    routes = APIBlueprint("actions", __name__, enable_openapi=False)
    opened, configured = Database(settings.database), Configured(settings)
    for path, view in (
        ("/alerts/<fingerprint>/acknowledge", AcknowledgeView),
        ("/silences", SilenceView),
        ("/services/<name>/restart", RestartView),
        ("/logout", LogoutView),
    ):
        routes.add_url_rule(path, view_func=view.as_view(view.__name__, settings, opened, configured))

    def unusable(error: SQLAlchemyError) -> WerkzeugResponse:
        opened.unusable(error)
        return _back("The database cannot be used at the moment, so nothing is changed.", "fault")

    routes.before_request(_guarded(settings))
    routes.register_error_handler(SQLAlchemyError, unusable)
    routes.register_error_handler(FaultsError, lambda error: _back("; ".join(" ".join(each) for each in error.faults), "fault"))
    for known in (alerts.UnknownError, alerts.QuietError, BusyError):
        routes.register_error_handler(known, lambda error: _back(str(error), "fault"))
    for kind in (NotFound, ServiceUnavailable):
        routes.register_error_handler(kind, lambda error: _back(str(error.description), "fault"))
    routes.register_error_handler(OSError, lambda _: _back("The data folder cannot be used.", "fault"))
    return routes


def _guarded(settings: Settings) -> Callable[[], Response | None]:
    """Let nobody act who is not logged in, and no other site's page for them."""

    def check() -> Response | None:
        if (member := session.member()) is None:
            words = NO_KEY if settings.api_key is None else _ENDED
        elif not session.is_own(request):
            words = session.FOREIGN
        elif not session.is_signed(request, member):
            words = _OLD
        else:
            return None
        return page("refused.html", 403, words=words, instance=settings.instance)

    return check


class Action(MethodView):
    """A form of the page."""

    init_every_request = False

    def __init__(self, settings: Settings, opened: Database, configured: Configured) -> None:
        self._settings, self._opened, self._configured = settings, opened, configured


class AcknowledgeView(Action):
    def post(self, fingerprint: str) -> WerkzeugResponse:
        said = checked(Acknowledgement, _signed("comment"), now := time.time())
        with self._opened.engine.begin() as connection:
            found = alerts.acknowledge(connection, fingerprint, said, now)
        changed("alert-acknowledged", author=said.author, alert=found.alert, target=found.target, fingerprint=fingerprint)
        return _back(f"{found.alert} on {found.target} is acknowledged.")


class SilenceView(Action):
    def post(self) -> WerkzeugResponse:
        now = time.time()
        with self._opened.engine.begin() as connection:
            found = alerts.find(connection, request.form.get("alert", ""))
            draft = checked(Draft, {**_signed("duration", "comment"), "matchers": _matchers(found)}, now)
            made = silences.add(connection, draft, now)
        changed("silence-created", author=made.author, silence=made.id)
        return _back(f"{found.alert} on {found.target} is silenced until {iso(made.ends)}.")


class RestartView(Action):
    def post(self, name: str) -> WerkzeugResponse:
        service = self._configured.named(name)
        wish = checked(Wish, {**_signed("comment"), "name": name}, time.time())
        asked = restarts.asked(service.name, "api", wish.author, wish.comment)
        hand_over(service, asked, self._settings.data, self._opened.or_none())
        return _back(f"{name} is being restarted.")


class LogoutView(Action):
    def post(self) -> WerkzeugResponse:
        if known := session.member():
            noted("log-out", "success", author=known.author)
        session.log_out()
        return _back("You are logged out.")


def _signed(*names: str) -> dict[str, str]:
    """These fields of the form, and who has sent it."""
    member = session.member()
    return {"author": member.author if member else "", **{name: request.form.get(name, "") for name in names}}


def _matchers(alert: Alert) -> list[str]:
    """Those that this alert matches, and no other."""
    labels = {"alert": alert.alert, "target": alert.target, **alert.labels}
    return [str(Matcher(name, "=", value)) for name, value in labels.items()]


def _back(words: str, kind: str = "done") -> WerkzeugResponse:
    flash(words if len(words) <= _LONGEST else f"{words[:_LONGEST]}…", kind)
    return redirect(url_for("live.index"), 303)
