"""Applications that a test puts under the real gunicorn."""

import ssl
import time

from flask import Flask, request

from service.web import create_app


def slow() -> Flask:
    """The real application, and a view that takes as long as it is asked to."""
    app = create_app()

    @app.get("/slow")
    def wait() -> str:
        time.sleep(float(request.args["seconds"]))
        return "done"

    return app


def with_tls() -> Flask:
    """The real application, and a view that uses TLS as requests does."""
    import requests
    from urllib3.util.ssl_ import create_urllib3_context

    app = create_app()

    @app.get("/tls")
    def connect() -> str:
        ssl.create_default_context()
        create_urllib3_context().minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            requests.get("https://127.0.0.1:9/", timeout=1)
        except requests.ConnectionError:
            return "no recursion"
        return "unexpected answer"

    return app
