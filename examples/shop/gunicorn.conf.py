"""The shop's own gunicorn: where it listens, how many answer, and lines that look like Tocsin's."""

import json
import logging
from datetime import UTC, datetime

from flask import has_request_context, request

wsgi_app = "wsgi:app"
bind = "0.0.0.0:8000"
workers = 2
threads = 4
worker_tmp_dir = "/dev/shm"  # noqa: S108 - gunicorn makes a file of its own in it and unlinks it at once
control_socket_disable = True  # it would want to write below HOME


class Line(logging.Formatter):
    """One JSON object a line, with ECS field names. nginx writes the line of each request; its id is in both."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {
            "@timestamp": moment.replace("+00:00", "Z"),
            "log.level": record.levelname.lower(),
            "message": record.getMessage(),
            "ecs.version": "8.11.0",
            "service.name": "shop",
            "process.pid": record.process,
            "log.logger": record.name,
        }
        if has_request_context():
            line["http.request.id"] = request.headers.get("X-Request-ID")
        if record.exc_info:
            line["error.stack_trace"] = self.formatException(record.exc_info)
        return json.dumps(line)


logconfig_dict = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"()": Line}},
    "handlers": {"lines": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "line"}},
    "root": {"level": "INFO", "handlers": ["lines"]},
    "loggers": {"gunicorn.error": {"level": "INFO", "handlers": [], "propagate": True}},
}
