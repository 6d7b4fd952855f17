"""Which other origins' pages may use the API, from TOCSIN_CORS_ORIGINS: none unless it is set.

Without credentials: a browser sends no cookie along, so such a page can do what its own key lets it, and no more.
"""

import re
from collections.abc import Sequence

from flask import Flask

METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE"]
TAKEN = ["Authorization", "Content-Type", "If-None-Match", "X-Request-ID"]
SHOWN = ["ETag", "Link", "Location", "Retry-After", "X-Request-ID"]
KEPT = 600  # seconds that a browser need not ask again what is allowed


def init_app(app: Flask, origins: Sequence[str]) -> None:
    if not origins:
        return
    from flask_cors import CORS  # noqa: PLC0415 - few need it

    # A string that has a `[` in it, as an IPv6 address does, Flask-CORS would take for a pattern.
    exactly = [re.compile(re.escape(origin) + r"\Z") for origin in origins]
    about = {"origins": exactly, "methods": METHODS, "allow_headers": TAKEN, "expose_headers": SHOWN, "max_age": KEPT}
    CORS(app, resources={r"/api/.*": about}, supports_credentials=False, send_wildcard=False)
