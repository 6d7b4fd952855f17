"""What load balancers and people ask: /api/health, /readyz and /livez.

Every answer comes from memory: nothing here opens a file, a socket or the database.
"""

import time
from collections.abc import Mapping
from typing import Any

import orjson
from apiflask import APIBlueprint
from flask import Response
from werkzeug.exceptions import ServiceUnavailable

from service.measure import METRICS, Reading, Sampler
from service.settings import Settings
from service.web.app import Answer

_READY, _ALIVE = orjson.dumps({"status": "ready"}), orjson.dumps({"status": "alive"})
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
    readiness, reported = Readiness(sampler), Reported(settings)
    routes.record(lambda state: state.app.extensions.update(readiness=readiness))

    @routes.get("/api/health")
    def health() -> Response:
        body, status = reported.of(sampler.reading, readiness.fault)
        return _json(body, status, _for_nginx(int(time.time())))

    @routes.get("/readyz")
    def ready() -> Response:
        if readiness.fault:
            raise ServiceUnavailable(f"This server is {readiness.fault}.")
        return _json(_READY)

    @routes.get("/livez")
    def live() -> Response:
        return _json(_ALIVE)

    return routes


class Reported:
    """The answer of /api/health, made anew when the reading is another, or why this server wants no requests."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._latest: tuple[Reading, str | None, bytes, int] | None = None

    def of(self, reading: Reading, fault: str | None) -> tuple[bytes, int]:
        """The body, and its status."""
        latest = self._latest
        if latest is None or latest[0] is not reading or latest[1] != fault:
            body = report(reading, self._settings.thresholds, fault)
            status = 200 if body["status"] == "healthy" else self._settings.unhealthy_status
            self._latest = latest = (reading, fault, orjson.dumps(body), 503 if fault else status)
        return latest[2:]


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


# Not to be kept by anyone on the way: an old answer about health is a wrong one.
_NOT_KEPT = {"Cache-Control": "no-store"}


def _for_nginx(now: int) -> dict[str, str]:
    """Fresh in the second it was made in, and for one more while nginx asks for the next (deploy/nginx/health.conf).

    nginx takes `stale-...` only without `no-store`, and before `X-Accel-Expires`. To all others it has expired.
    """
    return {"Cache-Control": "stale-while-revalidate=1, stale-if-error=0", "X-Accel-Expires": f"@{now}", "Expires": "0"}


def _json(body: bytes, status: int = 200, headers: Mapping[str, str] = _NOT_KEPT) -> Response:
    return Answer(body, status, headers, mimetype="application/json")
