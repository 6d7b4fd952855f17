"""As much of Elasticsearch as a shipper of logs meets: real HTTP, `_bulk`, and an index template that refuses what it refuses.

Written after Elasticsearch's reference for 9: docs-bulk, data streams, dynamic mapping, and the field types we use.
"""

import ipaddress
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.serving import serving

Object = dict[str, Any]


class RefusedError(Exception):
    """A document that is not taken: Elasticsearch's type and reason."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind, self.reason = kind, reason


@dataclass
class Elasticsearch:
    """Where it listens, what it was given, and the documents that it has, by data stream and id."""

    url: str = ""
    policies: dict[str, Object] = field(default_factory=dict)
    templates: dict[str, Object] = field(default_factory=dict)
    documents: dict[str, dict[str, Object]] = field(default_factory=dict)
    refused: list[tuple[int, str, str]] = field(default_factory=list)
    requests: int = 0
    busy: Callable[[], bool] = lambda: False  # whether it has too much to do for this document (429)
    away: bool = False  # it answers 503 to everything
    turned_away: int = 0

    def lines(self) -> list[Object]:
        """All documents, in the order in which they came."""
        return [document for stream in self.documents.values() for document in stream.values()]

    def bulk(self, body: bytes) -> Object:
        """What `POST /_bulk` answers."""
        self.requests += 1
        rows = body.split(b"\n")
        assert rows.pop() == b"", "a bulk request ends with a newline"
        items = [self._item(json.loads(rows[at]), rows[at + 1]) for at in range(0, len(rows), 2)]
        errors = any("error" in result for item in items for result in item.values())
        return {"took": 1, "errors": errors, "items": items}

    def _item(self, action: Object, source: bytes) -> Object:
        ((operation, given),) = action.items()
        index, identity = given["_index"], given.get("_id", f"made-{self.requests}-{len(self.refused)}-{time.monotonic_ns()}")
        try:
            self._create(operation, given, identity, source)
        except RefusedError as error:
            status = {"es_rejected_execution_exception": 429, "version_conflict_engine_exception": 409}.get(error.kind, 400)
            self.refused.append((status, error.kind, error.reason))
            result = {"status": status, "error": {"type": error.kind, "reason": error.reason}}
        else:
            result = {"status": 201, "result": "created"}
        return {operation: {"_index": index, "_id": identity, **result}}

    def _create(self, operation: str, given: Object, identity: str, source: bytes) -> None:
        index = given["_index"]
        assert {"_index", "_id"} >= set(given), "there are no types since Elasticsearch 8"
        mappings = self._mappings(index)
        if operation != "create":
            raise RefusedError("illegal_argument_exception", "only write ops with an op_type of create are allowed")
        if self.busy():
            raise RefusedError("es_rejected_execution_exception", "rejected execution of primary operation")
        known = self.documents.setdefault(index, {})
        if identity in known:
            raise RefusedError("version_conflict_engine_exception", f"[{identity}]: document already exists")
        known[identity] = accepted(source, mappings)

    def _mappings(self, index: str) -> Object:
        found = [each for each in self.templates.values() if any(fnmatch(index, known) for known in each["index_patterns"])]
        if not found:
            raise RefusedError("index_not_found_exception", f"no such index [{index}]")
        mappings: Object = max(found, key=lambda each: int(each["priority"]))["template"]["mappings"]
        return mappings


def accepted(source: bytes, mappings: Mapping[str, Any]) -> Object:
    """The document, when it is JSON that fits the mappings; raises RefusedError."""
    try:
        document = json.loads(source, object_pairs_hook=_once)
    except ValueError as error:
        raise RefusedError("document_parsing_exception", f"failed to parse: {error}") from None
    if not isinstance(document, dict):
        raise RefusedError("document_parsing_exception", "failed to parse: not an object")
    if "@timestamp" not in document:
        raise RefusedError("document_parsing_exception", "data stream timestamp field [@timestamp] is missing")
    rules = [each for rule in mappings.get("dynamic_templates", ()) for each in rule.values()]
    for path, value in _leaves(document):
        _check(path, value, mappings, rules)
    return document


def _once(pairs: list[tuple[str, Any]]) -> Object:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise RefusedError("document_parsing_exception", "Duplicate field")
    return found


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every scalar and where it stands; a dot in a name is one more object, a list is as many values."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if not all(part.strip() for part in name.split(".")):
                raise RefusedError("document_parsing_exception", f"field name [{name}] has an empty part")
            yield from _leaves(inner, f"{path}.{name}" if path else name)
        if not value:
            yield path, {}
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, path)
    else:
        yield path, value


def _check(path: str, value: Any, mappings: Mapping[str, Any], rules: list[Object]) -> None:
    place, dynamic, walked = mappings, mappings.get("dynamic", True), ""
    *objects, name = path.split(".")
    for step in objects:
        walked = f"{walked}.{step}" if walked else step
        known = place.get("properties", {}).get(step)
        if known is None:
            return _dynamic(path, walked, value, dynamic, rules)
        if "properties" not in known and known.get("type") != "object":
            kind = known["type"]
            raise RefusedError(
                "document_parsing_exception", f"failed to parse field [{walked}] of type [{kind}]: it is an object"
            )
        place, dynamic = known, known.get("dynamic", dynamic)
    known = place.get("properties", {}).get(name)
    if known is None:
        return _dynamic(path, path, value, dynamic, rules)
    if "properties" in known or known.get("type") == "object":
        if value is not None and value != {}:
            reason = f"object mapping for [{path}] tried to parse field [{name}] as object, but found a concrete value"
            raise RefusedError("document_parsing_exception", reason)
        return None
    return _check_type(path, value, known["type"])


def _dynamic(path: str, unknown: str, value: Any, dynamic: Any, rules: list[Object]) -> None:
    if dynamic == "strict":
        within = unknown.rpartition(".")[0] or "_doc"
        reason = f"mapping set to strict, dynamic introduction of [{unknown}] within [{within}] is not allowed"
        raise RefusedError("strict_dynamic_mapping_exception", reason)
    for rule in rules:
        if fnmatch(unknown, rule["path_match"]):
            kind = rule["mapping"]["type"]
            if unknown != path:
                raise RefusedError("document_parsing_exception", f"failed to parse field [{unknown}] of type [{kind}]")
            _check_type(path, value, kind)


def _check_type(path: str, value: Any, kind: str) -> None:
    if value is None:
        return
    try:
        fits = not isinstance(value, dict) and _fits(value, kind)
    except (ValueError, TypeError, OverflowError):
        fits = False
    if not fits:
        raise RefusedError("document_parsing_exception", f"failed to parse field [{path}] of type [{kind}]: '{value}'")


def _fits(value: Any, kind: str) -> bool:
    """Raises ValueError, TypeError or OverflowError, too, for what does not."""
    if kind == "long":
        # A number in text is one to Elasticsearch (`coerce`), and a fraction is cut off.
        return not isinstance(value, bool) and -(2**63) <= int(float(value)) < 2**63
    if kind == "ip":
        return isinstance(value, str) and bool(ipaddress.ip_address(value))
    if kind == "date":
        return type(value) is int or bool(datetime.fromisoformat(value))
    return True


@contextmanager
def elasticsearch(port: int = 0) -> Iterator[Elasticsearch]:
    """Run one for the length of a `with` block. It has no template before it is given one."""
    server_side = Elasticsearch()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def do_GET(self) -> None:
            self._answer(200, {"status": "green"})

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_PUT(self) -> None:
            _, kind, name = (
                self.path.split("?")[0].rsplit("/", 2) if self.path.count("/") > 2 else ("", *self.path[1:].split("/"))
            )
            store = {"policy": server_side.policies, "_index_template": server_side.templates}[kind]
            store[name] = json.loads(self._body())
            self._answer(200, {"acknowledged": True})

        def do_POST(self) -> None:
            body = self._body()
            with lock:
                answer = {} if server_side.away else server_side.bulk(body)
            self._answer(200, answer)

        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers["Content-Length"]))

        def _answer(self, status: int, content: Object) -> None:
            if server_side.away:
                server_side.turned_away += 1
                status, content = 503, {"error": {"type": "no_shard_available_action_exception"}, "status": 503}
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    server_side.url = f"http://127.0.0.1:{server.server_port}"
    with serving(server):
        yield server_side
