"""GET /metrics, for Prometheus: the requests of all workers, and the figures. docs/metrics.md has every one of them.

Under gunicorn the workers count in files that all of them read (service/counting.py); without it, each application for itself.
"""

import time

import structlog
from apiflask import APIBlueprint
from flask import Flask, Response, request
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector

from service.counting import Shared
from service.measure import Sampler
from service.settings import Settings
from service.web import families
from service.web.api import NOT_KEPT
from service.web.current import asked, kept
from service.web.figures import Figures

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "other"  # anybody can make up a method
NO_ROUTE = "none"  # and a path
LONGEST = 100  # characters of a route
OPENMETRICS = "application/openmetrics-text"
BUCKETS = (0.001, 0.005, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0)  # seconds

_log = structlog.get_logger()


class Requests:
    """Counts requests, where `shared` has a place for it or there is none to share with."""

    def __init__(self, registry: CollectorRegistry, shared: Shared | None) -> None:
        self._shared = shared
        self._counts = shared is None or shared.counts
        self._told = False
        own = registry if shared is None else None
        told, took = families.REQUESTS, families.SECONDS
        self._requests = Counter(told.name, told.text, told.labels, registry=own)
        self._seconds = Histogram(took.name, took.text, took.labels, registry=own, buckets=BUCKETS)
        self._known: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}  # looking one up costs less than making it
        if shared and shared.folder:
            MultiProcessCollector(registry, str(shared.folder))  # type: ignore[no-untyped-call]

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        if self._counts and (found := self._known.get((route, method, status)) or self._new(route, method, status)):
            found[0].inc()
            found[1].observe(seconds)

    def _new(self, route: str, method: str, status: int) -> tuple[Counter, Histogram] | None:
        try:
            if self._shared:
                self._shared.reserve()
        except OSError as error:
            if not self._told:
                _log.error("some requests are not counted: there is no place in memory", reason=str(error))
            self._told = True
            return None
        made = self._requests.labels(route, method, str(status)), self._seconds.labels(route, method)
        self._known[route, method, status] = made
        return made


def init_app(app: Flask, settings: Settings, sampler: Sampler) -> None:
    # When a series began would be one more for each, that Prometheus does not ask for.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    requests = Requests(registry, Shared.own)
    registry.register(Figures(settings, sampler))

    @app.teardown_request
    def count(_: BaseException | None) -> None:
        """Once for each request, whatever has become of it. When it began and what was answered is noted by `access`."""
        request, about = asked(), kept()
        route = request.url_rule.rule[:LONGEST] if request.url_rule else NO_ROUTE
        method = request.method if request.method in METHODS else OTHER
        began = about.get("began")
        seconds = 0.0 if began is None else (time.perf_counter_ns() - began) / 1e9
        requests.count(route, method, about.get("status", 500), seconds)

    app.register_blueprint(_blueprint(registry))


def _blueprint(registry: CollectorRegistry) -> APIBlueprint:
    routes = APIBlueprint("metrics", __name__)

    @routes.get("/metrics")
    def metrics() -> Response:
        # Not what the client has sent: prometheus_client fails at a version that is no number.
        wanted = f"{OPENMETRICS};version=1.0.0" if OPENMETRICS in request.headers.get("Accept", "") else ""
        encode, media = choose_encoder(wanted)
        return Response(encode(registry), headers=NOT_KEPT, content_type=media)

    return routes
