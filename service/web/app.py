"""The application class: Flask's, spared what comes out the same at every request.

It decides nothing. What an earlier request has found out is remembered, and all else is left to Flask and Werkzeug.
"""

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from apiflask import APIFlask
from flask import Request, Response
from werkzeug.datastructures import Headers
from werkzeug.routing import Map, MapAdapter, Rule
from werkzeug.sansio.utils import get_host

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_NO_ROUTES = Map()


class Answer(Response):
    """Werkzeug's copies its headers, to look through them for what a redirect or an empty body wants changed."""

    def get_wsgi_headers(self, environ: "WSGIEnvironment") -> Headers:
        if self.status_code == 200:
            names = {name.lower() for name, _ in self.headers}
            if "content-length" in names and names.isdisjoint(("location", "content-location")):
                return self.headers
        return super().get_wsgi_headers(environ)


class Way(MapAdapter):
    """From an address to its route. One that is a route as it stands, without variables, leads where it led before."""

    known: dict[tuple[str, str], Rule]

    def match(self, *args: Any, **named: Any) -> Any:
        if args or named != {"return_rule": True}:  # as Flask asks
            return super().match(*args, **named)
        asked = self.default_method, self.path_info
        if rule := self.known.get(asked):
            return rule, {}
        rule, variables = super().match(return_rule=True)
        if not variables:
            self.known[asked] = rule
        return rule, variables


class App(APIFlask):
    response_class = Answer

    def __init__(self, *args: Any, **named: Any) -> None:
        self.known: dict[tuple[str, str], Rule] = {}
        super().__init__(*args, **named)

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """For what browsers and proxies send, without asking again what a name of the host means that was sent before."""
        if request is None or not request.environ.get("PATH_INFO") or "HTTP_UPGRADE" in request.environ or self._is_particular():
            return super().create_url_adapter(request)
        request.host, name = _host(request.scheme, request.environ.get("HTTP_HOST"), request.server)
        query = request.query_string.decode(errors="replace")
        way = Way(self.url_map, name, request.root_path, "", request.scheme, request.path, request.method, query)
        way.known = self.known
        return way

    def _is_particular(self) -> bool:
        """Whether somebody's blueprint has made its host matter to Flask."""
        return self.config["SERVER_NAME"] is not None or self.config["TRUSTED_HOSTS"] is not None


@lru_cache(maxsize=256)
def _host(scheme: str, header: str | None, server: tuple[str, int | None] | None) -> tuple[str, str]:
    """Host and port as the client named them, and as routes know them. Raises BadHost."""
    host = get_host(scheme, header, server)
    return host, _NO_ROUTES.bind(host, subdomain="").server_name
