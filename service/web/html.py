"""What all pages share: their templates, the headers that keep strangers out, and addresses of static files.

No page holds a script or a style of its own: the policy lets neither in, and so none that somebody has smuggled in runs.
"""

import hashlib
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flask import Flask, Response, render_template, url_for
from jinja2 import ChoiceLoader, FileSystemLoader, StrictUndefined

from service import plot
from service.values import iso, length, number

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_FOLDER = Path(__file__).parent
_AGO = re.compile(r'(<span class="ago" data-at="(\d+)">)</span>')


def init_app(app: Flask) -> None:
    digests = {
        file.name: hashlib.blake2b(file.read_bytes(), digest_size=6).hexdigest() for file in (_FOLDER / "static").iterdir()
    }

    def static(name: str) -> str:
        """Another address when the file is another one: the old one may be kept for long."""
        return url_for("static", filename=name, v=digests[name])

    loaders = [FileSystemLoader(_FOLDER / "templates"), FileSystemLoader(plot.TEMPLATES)]
    app.jinja_loader = ChoiceLoader(loaders)
    app.jinja_env.undefined = StrictUndefined
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_env.globals["static"] = static
    app.jinja_env.filters |= {"iso": iso, "clock": clock, "number": number, "length": length}


def page(template: str, status: int = 200, **values: Any) -> Response:
    """An answer in HTML that nobody keeps."""
    return Response(render_template(template, **values), status, page_headers(), mimetype="text/html")


def page_headers() -> dict[str, str]:
    """nginx passes the policy on, and has a stricter one for everything else."""
    return {"Content-Security-Policy": POLICY, "Cache-Control": "no-store"}


def clock(moment: float) -> str:
    """For people: the time in UTC, to the second."""
    return datetime.fromtimestamp(moment, UTC).strftime("%d %b %H:%M:%S UTC").lstrip("0")


def with_ages(html: str, now: float) -> str:
    """Fill in how long ago things were. Left empty, what has not changed is the same text a second later."""
    return _AGO.sub(lambda found: f"{found[1]}{length(now - int(found[2]))} ago</span>", html)
