"""Every field that a log line can have: one definition, for the lines themselves, docs/logs.md and Elasticsearch's template.

Names and types are those of the Elastic Common Schema 8: https://www.elastic.co/guide/en/ecs/current/ecs-field-reference.html
What ECS has no name for is text under `labels`. `make fields` writes the table and the template anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

NGINX, WEB, MONITOR, SUPERVISORD = "nginx", "web", "monitor", "supervisord"
ALL = (NGINX, WEB, MONITOR, SUPERVISORD)
FRONT = (NGINX, WEB)  # those that answer requests
BOTH = (WEB, MONITOR)


@dataclass(frozen=True, slots=True)
class Field:
    """`kind` is its type in Elasticsearch, `writers` the programs in whose lines it can stand."""

    name: str
    kind: str
    meaning: str
    example: str | int
    writers: tuple[str, ...]
    unit: str = ""


def _label(name: str, meaning: str, example: str, writers: tuple[str, ...] = (MONITOR,), unit: str = "") -> Field:
    return Field(f"labels.{name}", "keyword", meaning, example, writers, unit)


FIELDS = (
    Field("@timestamp", "date", "when, in UTC", "2026-11-21T12:30:05.123Z", ALL, "to the millisecond"),
    Field("log.level", "keyword", "`debug`, `info`, `warning`, `error`, `critical`; nginx has its own", "info", ALL),
    Field("message", "match_only_text", "what happened, for people", "GET /api/health 200", ALL),
    Field("ecs.version", "keyword", "the version of the field names", "8.11.0", ALL),
    Field("service.name", "keyword", "the program: `tocsin-` and one of the four", "tocsin-web", ALL),
    Field("process.pid", "long", "the process that wrote it", 4993, ALL),
    Field("log.logger", "keyword", "the library's logger, where it was not ours", "gunicorn.error", BOTH),
    Field("event.dataset", "keyword", "`nginx.access`, `nginx.error`, `tocsin.access`", "tocsin.access", FRONT),
    Field("event.kind", "keyword", "`alert`: an alert began to fire, or was resolved", "alert", (MONITOR,)),
    Field("event.category", "keyword", "`web`, `process`, `configuration`, `authentication`", "web", ALL),
    Field("event.action", "keyword", "what was done", "silence-created", BOTH),
    Field("event.outcome", "keyword", "`success` or `failure`", "success", BOTH),
    Field("event.reason", "keyword", "why an alert changed", "cpu_usage is 93.4", (MONITOR,)),
    Field("event.duration", "long", "how long a request took", 1234567, FRONT, "nanoseconds"),
    Field("http.request.id", "keyword", "the id of the request, as in `X-Request-ID`", "f1e3631d4a87f6552d07728bd630d855", FRONT),
    Field(
        "trace.id",
        "keyword",
        "the trace that the request belongs to, from `traceparent`",
        "0af7651916cd43dd8448eb211c80319c",
        FRONT,
    ),
    Field("span.id", "keyword", "who called, in that trace, from `traceparent`", "b7ad6b7169203331", FRONT),
    Field("http.request.method", "keyword", "the method", "GET", FRONT),
    Field("http.request.referrer", "keyword", "the header `Referer`", "https://example.org/", FRONT),
    Field("http.response.status_code", "long", "the status; 0 where nothing was answered", 200, FRONT),
    Field("http.response.body.bytes", "long", "the body of the answer", 743, FRONT, "bytes"),
    Field("url.original", "wildcard", "path and query, as they came", "/api/v1/alerts?state=firing", FRONT),
    Field("client.ip", "ip", "who asked; behind a trusted proxy the address it names", "192.0.2.7", FRONT),
    Field("user_agent.original", "keyword", "the header `User-Agent`", "curl/8.5.0", FRONT),
    Field("error.type", "keyword", "the class of an exception", "KeyError", BOTH),
    Field("error.message", "match_only_text", "what it said, or what was wrong", "it answered 500", BOTH),
    Field("error.stack_trace", "wildcard", "where it was raised", "Traceback (most recent call last): …", BOTH),
)

LABELS = (
    _label("upstream", "the app's address; several, when it was asked twice", "127.0.0.1:8000", (NGINX,)),
    _label("upstream_status", "what the app answered", "200", (NGINX,)),
    _label("upstream_seconds", "how long the app took", "0.004", (NGINX,), "seconds"),
    _label("alert", "the alert's name", "HighCpu", BOTH),
    _label("target", "what it is about", "self", BOTH),
    _label("fingerprint", "the alert's own id", "1f3b6a1c9d2e4f50", BOTH),
    _label("severity", "`info`, `warning` or `critical`", "warning"),
    _label("condition", "when it fires", "cpu_usage > 80"),
    _label("value", "the value that was judged", "93.4", unit="the metric's"),
    _label("scope", "`host` or `cgroup`", "host"),
    _label("label_mount", "the mounted disk that it is about", "/data"),
    _label("silenced", "the silences that hold it", "7f3c2a"),
    _label("held", "the target that is down and holds it", "router"),
    _label("receiver", "who is told", "ops"),
    _label("message_id", "the webhook's id", "msg_2c9e1b"),
    _label("alerts", "how many alerts a message tells", "2"),
    _label("attempts", "how often it was tried", "3"),
    _label("next_try_seconds", "until it is tried again", "38.2", unit="seconds"),
    _label("dead", "notifications that are given up", "1"),
    _label("failed_ticks", "ticks that could not be written", "4"),
    _label("targets", "how many the configuration has", "2"),
    _label("rules", "how many it has", "4"),
    _label("receivers", "how many it has", "1"),
    _label("interval_seconds", "from tick to tick", "10.0", unit="seconds"),
    _label("service", "what is restarted, or was given up", "web", (WEB, MONITOR, SUPERVISORD)),
    _label("restart", "the restart's id", "9b1c7a44", BOTH),
    _label("old_pid", "its process before", "4993", BOTH),
    _label("new_pid", "its process after", "5540", BOTH),
    _label("asked_by", "who asked: `alert`, `api`, `command`, or a name", "api", BOTH),
    _label("author", "the person who did it, as they say", "ann", BOTH),
    _label("comment", "what they say to it", "new certificate", BOTH),
    _label("created_by", "who made what is ended now", "ann", (WEB,)),
    _label("reason", "why", "it answers 500", BOTH),
    _label("silence", "the silence's id", "7f3c2a", BOTH),
    _label("job", "the job's name", "weekly-report", BOTH),
    _label("kind", "what a job does", "report"),
    _label("run", "the run's id", "12"),
    _label("due", "when it was to begin", "2026-11-21T12:30:00Z"),
    _label("updated", "when a job was last changed", "2026-11-21T12:30:00Z", BOTH),
    _label("report", "the report's id", "c0ffee12", BOTH),
    _label("database", "the database, without its password", "sqlite:////data/tocsin.db", (WEB,)),
    _label("cut", "what was left out of a line that was too long", "12 labels", (WEB, MONITOR, SUPERVISORD)),
)

# The types that service/logs.py looks up for each line.
KINDS: Mapping[str, str] = MappingProxyType({field.name: field.kind for field in FIELDS})
