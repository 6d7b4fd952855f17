"""Logging in, with the API key, and out again. What comes of it is a cookie: `session` has the rest."""

import time

from apiflask import APIBlueprint
from flask import Response, redirect, request, url_for
from flask.views import MethodView
from pydantic import BaseModel, ConfigDict
from werkzeug.wrappers import Response as WerkzeugResponse

from service.checking import Author, FaultsError, checked
from service.settings import Settings
from service.web import session
from service.web.auth import NO_KEY, is_key, noted
from service.web.html import page

_WRONG = "That is not the API key. It is what TOCSIN_API_KEY holds, or the file that TOCSIN_API_KEY_FILE names."


class Name(BaseModel):
    """Who logs in, as alerts will show it."""

    model_config = ConfigDict(frozen=True)

    author: Author


def blueprint(settings: Settings) -> APIBlueprint:
    """The routes, around one key."""
    routes = APIBlueprint("login", __name__, enable_openapi=False)
    routes.add_url_rule("/login", view_func=LoginView.as_view("login", settings))
    return routes


class LoginView(MethodView):
    init_every_request = False

    def __init__(self, settings: Settings) -> None:
        self._key, self._instance = settings.api_key, settings.instance

    def get(self) -> WerkzeugResponse:
        return redirect(url_for("live.index"), 303) if session.member() else self._form()

    def post(self) -> WerkzeugResponse:
        if self._key is None:
            return self._form(403)
        if not session.is_own(request):
            return self._form(403, session.FOREIGN)
        try:
            author = checked(Name, {"author": request.form.get("author", "")}, time.time()).author
        except FaultsError as error:
            return self._form(422, f"Your name {error.faults[0][1]}.")
        if not is_key(self._key, request.form.get("key", "").strip().encode("utf-8", "surrogateescape")):
            noted("log-in", "failure", author=author)
            return self._form(403, _WRONG)
        session.log_in(author)
        noted("log-in", "success", author=author)
        return redirect(url_for("live.index"), 303)

    def _form(self, status: int = 200, fault: str = "") -> Response:
        author, missing = request.form.get("author", ""), NO_KEY if self._key is None else ""
        return page("login.html", status, instance=self._instance, fault=fault, author=author, missing=missing)
