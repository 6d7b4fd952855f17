"""The shop on its own: the application that its own gunicorn runs (the second way of docs/your-app.md)."""

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix

from shop import blueprint

app = Flask(__name__)
app.register_blueprint(blueprint)
# nginx overwrites both headers, so their one value is what it saw. Let nobody but nginx reach this server.
app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1)  # type: ignore[method-assign]
