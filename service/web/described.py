"""What the API's document says of the things that many operations have in common, and of those that are no `View`."""

from typing import Any

ABOUT = """Everyone may read. Who changes something sends the API key: `Authorization: Bearer KEY`.

Times are ISO 8601 in UTC with milliseconds; times that you send need a zone. Lists come in pages: send the `next` of one
as `after`. What a GET gives has an `ETag`; sent back in `If-None-Match`, what has not changed is a 304 without a body.
Fields may be added; take no offence at one you do not know."""

TAGS = {
    "Alerts": "What fires, who has taken it on, and how the monitor does.",
    "Silences": "Which alerts are not told, until when, by whom and why.",
    "Notifications": "What each receiver was or is to be told, and whether it arrived.",
    "Services": "How services are, and their restart.",
    "Readings": "What was measured.",
    "Reports": "How it went, over a period.",
    "Jobs": "Work at its time.",
    "Health": "Whether this server is well, for load balancers and people.",
}

ARGUMENTS: dict[str, dict[str, Any]] = {
    "fingerprint": {"description": "The alert's fingerprint, as the list has it.", "example": "b68fd844600bc09f"},
    "identity": {"description": "Its id, as the list has it.", "example": "5d0a72c1f09be364"},
    "number": {"description": "Its id, as the list has it.", "example": 1},
    "name": {"description": "Its name, as the list has it."},
}

STATUSES = {
    200: "What was asked for.",
    201: "It is there now; `Location` says where.",
    202: "It will be done; `Location` says where to ask what came of it.",
    204: "It is done.",
    304: "Nothing has changed since the answer that `If-None-Match` names.",
    400: "The body is not JSON, or the request no HTTP.",
    401: "The key is missing or wrong.",
    403: "No key is configured, or nginx refuses the address.",
    404: "There is none of that name or id.",
    409: "As things stand this cannot be done; `detail` says why.",
    413: "The body has more than 65536 bytes.",
    415: "The body is not sent as application/json.",
    422: "What was sent cannot be used; `errors` names every fault.",
    429: "nginx: too many requests from this address.",
    502: "Whoever is needed for this does not answer. nginx says so when it is this server.",
    503: "What is needed, such as the database, cannot be used at the moment. nginx says so when it has no server to ask.",
    504: "It did not come about in time. nginx says so when this server takes too long.",
}


def _header(description: str, example: str, **schema: Any) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string", **schema}, "example": example}


HEADERS = {
    "X-Request-ID": _header("The id of the request, as in the logs.", "f1e3631d4a87f6552d07728bd630d855"),
    "ETag": _header("Names this answer.", '"7f0b8d0d5e2c4f3a"'),
    "Link": _header("The address of the next page (RFC 8288), if there is one.", '</api/v1/alerts?after=W10>; rel="next"'),
    "Location": _header("Its address.", "/api/v1/silences/5d0a72c1f09be364"),
    "Retry-After": _header("Seconds after which to try again.", "5", pattern="^[0-9]+$"),
    "WWW-Authenticate": _header("What is wanted (RFC 6750).", 'Bearer realm="Tocsin API"'),
}
IF_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "The `ETag` of the answer that you have.",
    "schema": {"type": "string"},
}


def headers(*names: str) -> dict[str, Any]:
    """These, and the one that every answer has."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Request-ID", *names)}


PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "What is wrong, as RFC 9457 has it.",
    "required": ["type", "title", "status", "detail", "request_id"],
    "properties": {
        "type": {"type": "string", "examples": ["about:blank"]},
        "title": {"type": "string", "description": "The status in words.", "examples": ["Not Found"]},
        "status": {"type": "integer", "examples": [404]},
        "detail": {"type": ["string", "null"], "description": "What is wrong here, and often what to do."},
        "request_id": {"type": ["string", "null"], "examples": ["f1e3631d4a87f6552d07728bd630d855"]},
        "errors": {
            "type": "array",
            "description": "With 422: every fault, with its place.",
            "items": {
                "type": "object",
                "required": ["place", "fault"],
                "properties": {
                    "place": {"type": "string", "examples": ["duration"]},
                    "fault": {"type": "string", "examples": ["is required"]},
                },
            },
        },
    },
}


def problems() -> dict[str, Any]:
    """The answer for each status that is an error."""
    brought = {401: "WWW-Authenticate", **dict.fromkeys((409, 429, 503), "Retry-After")}
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        f"Problem{status}": {"description": said, "headers": headers(*filter(None, [brought.get(status)])), "content": content}
        for status, said in STATUSES.items()
        if status >= 400
    }


_CHECK = {
    "type": "object",
    "required": ["value", "unit", "scope"],
    "properties": {
        "value": {"type": "number"},
        "unit": {"type": "string", "examples": ["percent"]},
        "scope": {"enum": ["cgroup", "host"], "description": "`cgroup` where a container's own limits count."},
        "threshold": {"type": "number", "description": "Over it, the server is unhealthy."},
        "metric": {"type": "string", "description": "Of what there are several of, such as `mount_usage`."},
        "mount": {"type": "string", "examples": ["/data"]},
    },
}
_PERCENT = {"type": "number", "description": "Percent. Left out where it cannot be read."}
HEALTH = {
    "type": "object",
    "required": ["status", "reasons", "checks", "missing", "time"],
    "properties": {
        **dict.fromkeys(("cpu_usage", "mem_usage", "disk_usage"), _PERCENT),
        "status": {"enum": ["healthy", "unhealthy"]},
        "reasons": {"type": "array", "items": {"type": "string"}, "description": "Why it is unhealthy."},
        "checks": {"type": "object", "additionalProperties": _CHECK},
        "missing": {"type": "object", "additionalProperties": {"type": "string"}, "description": "What cannot be read, and why."},
        "time": {"type": "number", "description": "When it was measured, in seconds since 1970."},
    },
}
_STREAM = """Each event has the parts of the page that have changed, as HTML. Its id says how all of them stood then: who
sends it back as `Last-Event-ID` gets those that differ. The answer does not end by itself. When the server is stopped or
replaced it is cut off, and asking again brings on another one."""


def _answer(description: str, media: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "headers": headers(), "content": {media: {"schema": schema}}}


def _status(word: str) -> dict[str, Any]:
    return {"type": "object", "required": ["status"], "properties": {"status": {"const": word}}}


def _plain(identity: str, tag: str, summary: str, description: str, responses: dict[str, Any]) -> dict[str, Any]:
    about = {"operationId": identity, "tags": [tag], "summary": summary, "description": description}
    return {"get": {**about, "parameters": [], "responses": responses}}


_PROBLEM = "application/problem+json", {"$ref": "#/components/schemas/Problem"}
_REPORT = "application/json", {"$ref": "#/components/schemas/Health"}
# nginx lets the first three pass however often they come.
PLAIN = {
    "/api/health": _plain(
        "get_health",
        "Health",
        "Whether this server is well.",
        "200 also over a threshold, unless TOCSIN_UNHEALTHY_STATUS is another status.",
        {
            "200": _answer("It is healthy, or only over a threshold.", *_REPORT),
            "503": _answer("It starts, drains, or has no fresh readings.", *_REPORT),
        },
    ),
    "/livez": _plain(
        "get_livez",
        "Health",
        "Whether this process answers.",
        "Nothing more is looked at.",
        {"200": _answer("It does.", "application/json", _status("alive"))},
    ),
    "/readyz": _plain(
        "get_readyz",
        "Health",
        "Whether this server wants requests.",
        "It does not before its first reading, and no more once it drains.",
        {
            "200": _answer("It does.", "application/json", _status("ready")),
            "503": _answer("It does not; `detail` says why.", *_PROBLEM),
        },
    ),
    "/metrics": _plain(
        "get_metrics",
        "Health",
        "Figures for Prometheus.",
        "As OpenMetrics, where `Accept` asks for it.",
        {
            "200": {
                "description": "Every figure; docs/metrics.md says what they are.",
                "headers": headers(),
                "content": {media: {"schema": {"type": "string"}} for media in ("text/plain", "application/openmetrics-text")},
            },
            "429": {"$ref": "#/components/responses/Problem429"},
            "503": {"$ref": "#/components/responses/Problem503"},
        },
    ),
    "/api/stream": _plain(
        "get_stream",
        "Health",
        "What changes on the page, as it changes.",
        _STREAM,
        {
            "200": _answer(
                "Events, as they come (https://html.spec.whatwg.org/#server-sent-events).",
                "text/event-stream",
                {"type": "string"},
            ),
            "429": {"$ref": "#/components/responses/Problem429"},
            "503": _answer("Too many streams are open, or nginx has no server to ask.", *_PROBLEM),
        },
    ),
}
