"""/api/docs: the API's document to read, made of the same values as /api/openapi.json. It needs no script and no network."""

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from apiflask import APIFlask
from flask import Response
from markupsafe import Markup, escape

from service.web.html import page
from service.web.openapi import document, operations

_CODE = re.compile(r"`([^`]+)`")


def init_app(app: APIFlask) -> None:
    app.jinja_env.filters |= {"code": code, "shown": shown, "called": called, "resolved": resolved}

    @app.get("/api/docs")
    @app.doc(hide=True)
    def docs() -> Response:
        found = document(app)
        every = list(operations(found["paths"]))
        tags = [(tag, [each for each in every if each[2]["tags"] == [tag["name"]]]) for tag in found["tags"]]
        return page("docs.html", document=found, tags=tags)


def code(text: str) -> Markup:
    """What stands between ` as <code>."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped


def shown(value: object) -> str:
    """As JSON, on several lines."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def called(operation: Mapping[str, Any], method: str, path: str) -> str:
    """A line for the shell; `$TOCSIN` is where the server is, `$KEY` the key."""
    examples = {each["name"]: str(each.get("example", each["name"].upper())) for each in operation["parameters"]}
    query = "&".join(f"{each['name']}={examples[each['name']]}" for each in operation["parameters"] if _in_query(each))
    address = path.format_map(examples) + ("?" + query if query else "")
    body = operation.get("requestBody")
    words = ["curl -sS"]
    if method != ("post" if body else "get"):
        words.append(f"-X {method.upper()}")
    words.append(f'"$TOCSIN{address}"')
    if "security" in operation:
        words.append('-H "Authorization: Bearer $KEY"')
    if body:
        example = json.dumps(body["content"]["application/json"].get("example", {}), ensure_ascii=False)
        words.append(f"--json {shlex.quote(example)}")
    return " ".join(words)


def _in_query(parameter: Mapping[str, Any]) -> bool:
    return bool(parameter["in"] == "query" and parameter["required"])


def resolved(part: Mapping[str, Any], found: Mapping[str, Any]) -> Any:
    """What a reference of the document refers to; anything else as it is."""
    while "$ref" in part:
        for step in part["$ref"].split("/")[1:]:
            found = found[step]
        part = found
    return part
