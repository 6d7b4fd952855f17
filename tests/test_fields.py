"""The one definition of log fields: the document, Elasticsearch's template and every log call agree with it."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from service.fields import ALL, FIELDS, KINDS, LABELS
from service.logs import _RENAMED
from tests.elasticsearch import accepted
from tests.stack import ROOT

TEMPLATE = ROOT / "deploy/elk/index-template.json"


def test_the_document_and_the_template_are_what_the_definition_makes(tmp_path: Path) -> None:
    """Both, emptied, become what is committed, byte for byte: `make fields` has been run."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "deploy/elk").mkdir(parents=True)
    document = (ROOT / "docs/logs.md").read_text(encoding="utf-8")
    emptied = "".join(line for line in document.splitlines(keepends=True) if not line.startswith(("| `labels.", "| `log.")))
    assert emptied != document
    (tmp_path / "docs/logs.md").write_text(emptied, encoding="utf-8")
    subprocess.run([sys.executable, "deploy/elk/generate.py", tmp_path], cwd=ROOT, check=True, timeout=30)

    assert document == (tmp_path / "docs/logs.md").read_text(encoding="utf-8")
    assert TEMPLATE.read_text(encoding="utf-8") == (tmp_path / "deploy/elk/index-template.json").read_text(encoding="utf-8")


def mapped(properties: dict[str, dict[str, object]], path: str = "") -> Iterator[tuple[str, object]]:
    for name, known in properties.items():
        inner = known.get("properties")
        if isinstance(inner, dict):
            yield from mapped(inner, f"{path}{name}.")
        else:
            yield f"{path}{name}", known["type"]


def test_the_template_maps_exactly_the_fields_we_write() -> None:
    """Name by name and type by type, and `labels` for the rest; anything else is refused."""
    mappings = json.loads(TEMPLATE.read_text(encoding="utf-8"))["template"]["mappings"]

    assert {**KINDS, "labels": "object"} == dict(mapped(mappings["properties"]))
    assert "strict" == mappings["dynamic"]


def test_a_line_of_all_the_examples_is_taken() -> None:
    """Each field's example has its type, and all together nest."""
    mappings = json.loads(TEMPLATE.read_text(encoding="utf-8"))["template"]["mappings"]
    line = {field.name: field.example for field in (*FIELDS, *LABELS)}

    assert line == accepted(json.dumps(line).encode(), mappings)


def test_the_definition_is_whole() -> None:
    """Each name once, each with a meaning, an example and somebody who writes it; a label's name has no dot."""
    names = [field.name for field in (*FIELDS, *LABELS)]

    assert sorted(set(names)) == sorted(names)
    assert [] == [field.name for field in (*FIELDS, *LABELS) if not (field.meaning and str(field.example) and field.writers)]
    assert [] == [field.name for field in (*FIELDS, *LABELS) if not set(field.writers) <= set(ALL)]
    assert [] == [field.name for field in LABELS if field.name.count(".") != 1 or field.kind != "keyword"]
    assert [] == [field.name for field in FIELDS if isinstance(field.example, int) != (field.kind == "long")]


METHODS = {"debug", "info", "warning", "error", "critical", "exception", "bind", "bind_contextvars", "bound_contextvars"}
SOURCES = [*(ROOT / "service").rglob("*.py"), ROOT / "deploy/gunicorn.conf.py", ROOT / "deploy/supervisor/supervise.py"]


@cache
def tree(source: Path) -> ast.Module:
    return ast.parse(source.read_text(encoding="utf-8"))


def is_log_call(call: ast.Call) -> bool:
    """`_log.info(...)`, `structlog.get_logger().info(...)`, `say(...)`, `getattr(self._log, ...)(...)`."""
    if isinstance(call.func, ast.Attribute):
        owner = ast.unparse(call.func.value)
        return call.func.attr in METHODS and owner.endswith(("log", "logger", "get_logger()", "contextvars"))
    return ast.unparse(call.func) == "say" or ast.unparse(call.func).startswith("getattr(self._log")


def parts(call: ast.Call, source: Path) -> Iterator[str]:
    """The names of all that a call is given by keyword, also by `**`."""
    for keyword in call.keywords:
        if keyword.arg:
            yield keyword.arg
        else:
            yield from names(keyword.value, source)


def names(given: ast.expr, source: Path) -> Iterator[str]:
    """The keys of what is given by `**`: of a dict in place, of a variable, of what a function returns or is given itself."""
    match given:
        case ast.Dict():
            for key, value in zip(given.keys, given.values, strict=True):
                yield from names(value, source) if key is None else literal(key)
        case ast.DictComp(key=ast.Name(), generators=[ast.comprehension(iter=iterated)]):
            yield from values(iterated, source)
        case ast.DictComp():
            yield from literal(given.key)
        case ast.BinOp():
            yield from names(given.left, source)
            yield from names(given.right, source)
        case ast.IfExp():
            yield from names(given.body, source)
            yield from names(given.orelse, source)
        case ast.Name():
            yield from assigned(given, source)
        case ast.Call():
            yield from returned(ast.unparse(given.func), source)
        case _:
            raise AssertionError(f"{source}:{given.lineno}: {ast.unparse(given)}: write it so that this test can read it")


def literal(key: ast.expr) -> Iterator[str]:
    if isinstance(key, ast.JoinedStr):  # f"label_{name}"
        assert isinstance(key.values[0], ast.Constant)
        yield str(key.values[0].value) + "*"
    else:
        assert isinstance(key, ast.Constant), ast.unparse(key)
        yield str(key.value)


def values(iterated: ast.expr, source: Path) -> Iterator[str]:
    """What a loop goes over: a tuple of texts, or a variable that is one."""
    if isinstance(iterated, ast.Tuple):
        yield from (str(each.value) for each in iterated.elts if isinstance(each, ast.Constant))
    for node in ast.walk(tree(source)):
        if isinstance(node, ast.Assign) and isinstance(iterated, ast.Name) and ast.unparse(node.targets[0]) == iterated.id:
            yield from values(node.value, source)


def around(given: ast.expr, source: Path) -> ast.AST:
    """The function in which it stands."""
    every = [node for node in ast.walk(tree(source)) if isinstance(node, ast.FunctionDef)]
    return max((node for node in every if node.lineno <= given.lineno <= (node.end_lineno or 0)), key=lambda node: node.lineno)


def assigned(given: ast.Name, source: Path) -> Iterator[str]:
    found = False
    for node in ast.walk(around(given, source)):
        if isinstance(node, (ast.Assign, ast.AugAssign)):
            target = node.target if isinstance(node, ast.AugAssign) else node.targets[0]
            if ast.unparse(target) == given.id:
                found = True
                yield from names(node.value, source)
        if isinstance(node, ast.FunctionDef) and node.args.kwarg and node.args.kwarg.arg == given.id:
            found = True
            for other in SOURCES:
                for call in ast.walk(tree(other)):
                    if isinstance(call, ast.Call) and ast.unparse(call.func) == node.name:
                        yield from parts(call, other)
    assert found, f"{source}:{given.lineno}: where does {given.id} come from?"


def returned(function: str, source: Path) -> Iterator[str]:
    (home,) = [node for node in ast.walk(tree(source)) if isinstance(node, ast.FunctionDef) and node.name == function]
    for node in ast.walk(home):
        if isinstance(node, ast.Return) and node.value is not None:
            yield from names(node.value, source)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_log_call_passes_only_what_is_defined(source: Path) -> None:
    """Every keyword of every log call is a field, a label of the table, or renamed to one."""
    labels = {field.name.removeprefix("labels.") for field in LABELS}
    known = {*KINDS, *_RENAMED, "exc_info", *labels, "label_*"}
    calls = [call for call in ast.walk(tree(source)) if isinstance(call, ast.Call) and is_log_call(call)]

    assert set() == {name for call in calls for name in parts(call, source)} - known


def test_every_label_is_one_that_somebody_writes() -> None:
    """No label stands in the table that no log call passes; nginx' are in its log.conf, and `cut` is that of `logs` itself."""
    calls = [(node, source) for source in SOURCES for node in ast.walk(tree(source)) if isinstance(node, ast.Call)]
    written = {name for call, source in calls if is_log_call(call) for name in parts(call, source)}
    nginx = (ROOT / "deploy/nginx/log.conf").read_text(encoding="utf-8")
    silent = {each.name for each in LABELS if each.name[len("labels.") :] not in written and f'"{each.name}"' not in nginx}

    assert {"labels.cut", "labels.label_mount"} == silent
    assert "label_*" in written
