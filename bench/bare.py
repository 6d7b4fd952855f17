"""The least that gunicorn can serve: a WSGI function that answers everything with the bytes in the file that BARE_BODY names."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class _Ready:
    """What deploy/gunicorn.conf.py waits for in a new worker, and what server.Worker tells of a stop: nothing to do."""

    def wait_until_ready(self, seconds: float) -> None: ...

    def drain(self) -> None: ...

    def end(self) -> None: ...


def create_app() -> "WSGIApplication":
    body = Path(os.environ["BARE_BODY"]).read_bytes()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")]

    def answer(_environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        start_response("200 OK", headers)
        return [body]

    answer.extensions = dict.fromkeys(("sampler", "readiness", "feed"), _Ready())  # type: ignore[attr-defined]
    return answer
