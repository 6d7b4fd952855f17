"""`make fields`: writes deploy/elk/index-template.json and the tables of docs/logs.md, both from service/fields.py.

generate.py [FOLDER]    of another checkout
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from service.fields import FIELDS, LABELS, Field

# Text that is too long to search for exactly is kept all the same, and found by its other fields. 1024 is ECS' own limit.
KEYWORD = {"type": "keyword", "ignore_above": 1024}


def template() -> dict[str, Any]:
    """Elasticsearch's composable index template for the data streams logs-tocsin-*."""
    return {
        "index_patterns": ["logs-tocsin-*"],
        "data_stream": {},
        "priority": 200,  # Elasticsearch has one of its own for logs-*-*, with 100
        "template": {
            "settings": {
                "index.lifecycle.name": "tocsin-logs",
                "index.auto_expand_replicas": "0-1",  # a cluster of one node cannot have a second copy
            },
            "mappings": {
                # A field that is not in the definition is refused, rather than given a type by its first value.
                "dynamic": "strict",
                "dynamic_templates": [{"labels": {"path_match": "labels.*", "mapping": KEYWORD}}],
                "properties": {**nested(FIELDS), "labels": {"type": "object", "dynamic": True}},
            },
        },
        "_meta": {"description": "Tocsin's log lines. Made from service/fields.py by `make fields`."},
    }


def nested(fields: Iterable[Field]) -> dict[str, Any]:
    """Mappings by object: `http.request.id` is `id` in `request` in `http`."""
    properties: dict[str, Any] = {}
    for field in fields:
        *objects, name = field.name.split(".")
        place = properties
        for step in objects:
            place = place.setdefault(step, {"properties": {}})["properties"]
        place[name] = KEYWORD if field.kind == "keyword" else {"type": field.kind}
    return properties


def table(fields: Iterable[Field]) -> str:
    """A table in Markdown."""
    rows = ["| field | type | meaning | unit | example | written by |", "| --- | --- | --- | --- | --- | --- |"]
    for field in fields:
        cells = (f"`{field.name}`", field.kind, field.meaning, field.unit, f"`{field.example}`", ", ".join(field.writers))
        rows.append(f"| {' | '.join(cells)} |".replace("  ", " "))
    return "\n".join(rows)


def filled(document: str) -> str:
    """The document, with its tables in the places that are marked for them."""
    for name, fields in (("fields", FIELDS), ("labels", LABELS)):
        begin, end = f"<!-- {name}: made by `make fields` -->\n", f"\n<!-- end of {name} -->"
        before, _, rest = document.partition(begin)
        document = f"{before}{begin}{table(fields)}{end}{rest.partition(end)[2]}"
    return document


def main(folder: Path) -> None:
    document = folder / "docs/logs.md"
    document.write_text(filled(document.read_text(encoding="utf-8")), encoding="utf-8")
    (folder / "deploy/elk/index-template.json").write_text(f"{json.dumps(template(), indent=2)}\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2])
