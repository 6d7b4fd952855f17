"""What load balancers and people ask: /api/health, /readyz and /livez.

Every answer comes from memory: nothing here opens a file, a socket or the database.
"""

from collections.abc import Mapping
from typing import Any

import orjson
from apiflask import APIBlueprint
from flask import Response
from werkzeug.exceptions import ServiceUnavailable

from service.measure import METRICS, Reading, Sampler
from service.settings import Settings

_USAGES = ("cpu_usage", "mem_usage", "disk_usage")  # with `status`, the four fields that stay as they are


class Readiness:
    """Whether this process wants requests: not before its first full reading, and no new ones once it drains."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._draining = False

    def drain(self) -> None:
        """Tell every load balancer that asks to look elsewhere; requests are still answered."""
        self._draining = True

    @property
    def fault(self) -> str | None:
        """Why not; None when ready."""
        return "draining" if self._draining else self._sampler.fault


def blueprint(settings: Settings, sampler: Sampler) -> APIBlueprint:
    """The routes, around one sampler. The app's `extensions["readiness"]` can start the draining."""
    routes = APIBlueprint("health", __name__)
    readiness = Readiness(sampler)
    routes.record(lambda state: state.app.extensions.update(readiness=readiness))

    @routes.get("/api/health")
    def health() -> Response:
        fault = readiness.fault
        body = report(sampler.reading, settings.thresholds, fault)
        status = 200 if body["status"] == "healthy" else settings.unhealthy_status
        return _json(body, 503 if fault else status)

    @routes.get("/readyz")
    def ready() -> Response:
        if readiness.fault:
            raise ServiceUnavailable(f"This server is {readiness.fault}.")
        return _json({"status": "ready"})

    @routes.get("/livez")
    def live() -> Response:
        return _json({"status": "alive"})

    return routes


def report(reading: Reading, thresholds: Mapping[str, float], fault: str | None = None) -> dict[str, Any]:
    """The body of /api/health: the four fields, each reading with unit, scope and threshold, and what is missing.

    `fault` is why this server wants no requests, if it wants none.
    """
    over = [name for name, limit in thresholds.items() if name in reading.values and reading.values[name].value > limit]
    body: dict[str, Any] = {name: reading.values[name].value for name in _USAGES if name in reading.values}
    body["status"] = "unhealthy" if over or fault else "healthy"
    body["reasons"] = [*([fault] if fault else []), *(f"{name} is over its threshold" for name in over)]
    body["checks"] = {}
    for key, measurement in reading.values.items():
        check = {"value": measurement.value, "unit": METRICS[measurement.metric], "scope": measurement.scope}
        if measurement.mount is not None:
            check |= {"metric": measurement.metric, "mount": measurement.mount}
        if key in thresholds:
            check["threshold"] = thresholds[key]
        body["checks"][key] = check
    body["missing"] = dict(reading.missing)
    body["time"] = round(reading.at, 3)
    return body


def _json(body: Mapping[str, Any], status: int = 200) -> Response:
    # Not to be kept by anyone on the way: an old answer about health is a wrong one.
    return Response(orjson.dumps(body), status, {"Cache-Control": "no-store"}, mimetype="application/json")
