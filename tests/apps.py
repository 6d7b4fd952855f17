"""Applications that a test puts under the real gunicorn."""

import math
import os
import ssl
import sys
import threading
import time

from flask import Flask, Response, request

from service.web import create_app


def slow() -> Flask:
    """The real application, and a view that takes as long as it is asked to."""
    app = create_app()

    @app.route("/slow", methods=["GET", "POST"])
    def wait() -> str:
        time.sleep(float(request.args["seconds"]))
        return "done"

    return app


def failing() -> Flask:
    """The real application, and a view that fails."""
    app = create_app()

    @app.get("/fails")
    def fail() -> str:
        raise ValueError("on purpose")

    return app


def leaking() -> Flask:
    """The real application, and a POST to /livez that keeps a megabyte for good."""
    app = create_app()
    kept = []

    @app.post("/livez")  # a path that nginx does not limit
    def leak() -> str:
        kept.append(b"x" * (1 << 20))
        return str(len(request.get_data()))

    return app


def spinning() -> Flask:
    """The real application, and views after which nothing else in their worker runs any more."""
    app = create_app()

    def spin(seconds: float = math.inf) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pass

    @app.get("/spin")
    def in_the_request() -> str:
        try:
            spin()
        finally:
            spin(2)  # it takes its time to give in
        return "never"

    @app.get("/spin/after")
    def after_the_answer() -> str:
        threading.Timer(0.2, spin).start()
        return "soon"

    @app.get("/spin/deaf")
    def where_no_signal_is_heard() -> str:
        return str(sum(range(10**12)))

    @app.post("/livez")  # a path that nginx does not limit
    def take() -> str:
        return str(len(request.get_data()))

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


def telling() -> Flask:
    """The real application, and a view that tells what is loaded and what runs in its worker."""
    app = create_app()

    @app.get("/inside")
    def inside() -> dict[str, object]:
        return {"pid": os.getpid(), "modules": sorted(sys.modules), "threads": [each.name for each in threading.enumerate()]}

    return app


def selling() -> Flask:
    """The real application, and a view with a metric of its own."""
    from prometheus_client import Counter

    orders = Counter("shop_orders", "What was ordered.", ["kind"])
    app = create_app()

    @app.post("/orders")
    def order() -> str:
        orders.labels("tea").inc(2)
        return "ordered"

    return app


def seeing() -> Flask:
    """The real application, and a view that tells who asked and where, as the application sees it."""
    app = create_app()

    @app.get("/livez/seen")
    def seen() -> dict[str, str | None]:
        return {"client": request.remote_addr, "url": request.url, "root": request.root_path}

    return app


def dated() -> Flask:
    """The real application; each answer says when it was made, and who asked for it. With AHEAD its clock is a minute ahead."""
    app = create_app()

    @app.after_request
    def date(response: Response) -> Response:
        now = time.time()
        response.headers["Made"] = repr(now)
        response.headers["Made-For"] = request.headers.get("X-Request-ID", "")
        if "X-Accel-Expires" in response.headers and os.environ.get("AHEAD"):
            response.headers["X-Accel-Expires"] = f"@{int(now) + 60}"
        return response

    return app
