"""/api/openapi.json: what the API takes and gives, put together from the models that check it.

APIFlask makes a document of what `api.operation` notes. Here it gets what operations have in common, in the words of
`described`: how errors look, which of them can come, headers, the key. And each shape comes to stand there once.
"""

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any, cast

import orjson
from apiflask import APIFlask
from flask import Response

from service.web import described
from service.web.api import ASKED_AGAIN, NOTED, asked_again
from service.web.described import PLAIN, PROBLEM, STATUSES, TAGS

TITLE = "Tocsin"
VERSION = version("tocsin")
_CHANGING = ("post", "put", "patch", "delete")
_SCHEMAS = "#/components/schemas/"
_JSON = "application/json"


def init_app(app: APIFlask) -> None:
    app.config.update(
        INFO={"description": described.ABOUT},
        OPENAPI_VERSION="3.1.0",
        SECURITY_SCHEMES={"key": {"type": "http", "scheme": "bearer", "description": "TOCSIN_API_KEY"}},
        AUTO_SERVERS=False,  # it would keep what the first who asks calls this server
        SERVERS=[{"url": "/"}],
        AUTO_200_RESPONSE=False,  # what is not described is not in the document
        AUTO_404_RESPONSE=True,
    )
    app.spec_processor(finished)  # type: ignore[arg-type]  # it is a dictionary, as SPEC_FORMAT is json

    @app.get("/api/openapi.json")
    @app.doc(hide=True)
    def openapi() -> Response:
        return asked_again(Response(orjson.dumps(document(app)), mimetype=_JSON, headers=ASKED_AGAIN))


def document(app: APIFlask) -> dict[str, Any]:
    """The whole of it, made at the first question, when all blueprints are registered."""
    if "document" not in app.extensions:
        app.extensions["document"] = app.spec
    return cast("dict[str, Any]", app.extensions["document"])


def finished(spec: dict[str, Any]) -> dict[str, Any]:
    """The document, from what APIFlask has put together."""
    paths = {path: methods for path, methods in spec["paths"].items() if path.startswith("/api/")}
    schemas = spec["components"]["schemas"]
    for path, method, operation in operations(paths):
        noted = operation.pop(NOTED, {})
        for model in noted.get("also", {}).values():
            schema = model.model_json_schema(ref_template=f"{_SCHEMAS}{{model}}")
            schemas |= schema.pop("$defs", {}) | {model.__name__: schema}
        operation["operationId"] = "_".join([method, *path.translate({ord("{"): None, ord("}"): None}).split("/")[2:]])
        operation["parameters"] = [_parameter(each) for each in operation["parameters"]]
        _complete(method, operation, noted)
    paths |= PLAIN
    tags = list(TAGS)
    return {
        **{name: spec[name] for name in ("openapi", "info", "servers")},
        "tags": [{"name": tag, "description": TAGS[tag]} for tag in tags],
        "paths": _once(dict(sorted(paths.items(), key=lambda each: (tags.index(_tag(each[1])), each[0])))),
        "components": {
            "schemas": {"Problem": PROBLEM, "Health": described.HEALTH, **_named(schemas)},
            "responses": described.problems(),
            "headers": described.HEADERS,
            "securitySchemes": spec["components"]["securitySchemes"],
        },
    }


def operations(paths: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Path, method and description of each."""
    return ((path, method, operation) for path, methods in paths.items() for method, operation in methods.items())


def _tag(methods: dict[str, Any]) -> str:
    return str(next(iter(methods.values()))["tags"][0])


def _complete(method: str, operation: dict[str, Any], noted: dict[str, Any]) -> None:
    """Every answer that can come, with its media type and headers; and whether it needs the key."""
    also, given = noted.get("also", {}), operation["responses"]
    statuses = {429, *map(int, given), *also}
    if "requestBody" in operation:
        operation["requestBody"]["required"] = True
        statuses |= {400, 413, 415}
    if method in _CHANGING:
        operation["security"] = [{"key": []}]
        statuses |= {401, 403}
    else:
        operation["parameters"].append(described.IF_NONE_MATCH)
        statuses |= {304}
    listed = any(parameter["name"] == "after" for parameter in operation["parameters"])
    operation["responses"] = {}
    for status in sorted(statuses):
        operation["responses"][str(status)] = response = _response(method, status, listed=listed)
        if status in also:
            response["content"] = {_JSON: {"schema": {"$ref": _SCHEMAS + also[status].__name__}}}
        elif status < 300 and (content := given[str(status)].get("content")):
            response["content"] = content | {media: {"schema": {"type": "string"}} for media in noted.get("media", ())}


def _response(method: str, status: int, *, listed: bool) -> dict[str, Any]:
    """Without its content, where it is no error."""
    if status >= 400:
        return {"$ref": f"#/components/responses/Problem{status}"}
    names = ["Location"] if status in (201, 202) else []
    if method == "get":
        names = ["ETag", "Link"] if listed and status == 200 else ["ETag"]
    return {"description": STATUSES[status], "headers": described.headers(*names)}


def _named(schemas: dict[str, Any]) -> dict[str, Any]:
    """Each once, by its own name."""
    named: dict[str, Any] = {}
    for name, schema in sorted(schemas.items(), key=lambda each: each[0].rpartition(".")[2]):
        if name in ("HTTPError", "ValidationError"):  # APIFlask's own
            continue
        known = named.setdefault(name.rpartition(".")[2], _once(schema))
        if known != _once(schema):
            raise ValueError(f"two different schemas are called {name.rpartition('.')[2]}; give one another name")
    return named


def _parameter(parameter: dict[str, Any]) -> dict[str, Any]:
    """With description and example where OpenAPI has them, and without the null that no address can hold."""
    name, schema = parameter["name"], dict(parameter["schema"])
    kinds = [each for each in schema.pop("anyOf", []) if each != {"type": "null"}]
    if len(kinds) == 1:
        schema |= kinds[0]
    if schema.get("default", 0) is None:
        del schema["default"]
    about = {"description": schema.pop("description", "")}
    if examples := schema.pop("examples", []):
        about["example"] = examples[0]
    if parameter["in"] == "path":
        about = described.ARGUMENTS.get(name, {"description": f"Its {name}."})
    return {"name": name, "in": parameter["in"], "required": parameter["required"], **about, "schema": _once(schema)}


def _once(part: Any) -> Any:
    """Without pydantic's titles, and with names that are shared: APIFlask calls what stands within a model `Model.Part`."""
    if isinstance(part, dict):
        return {name: _once(value) for name, value in part.items() if name != "title" or not isinstance(value, str)}
    if isinstance(part, list):
        return [_once(each) for each in part]
    if isinstance(part, str) and part.startswith(_SCHEMAS):
        return _SCHEMAS + part.removeprefix(_SCHEMAS).rpartition(".")[2]
    return part
