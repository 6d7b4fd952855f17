"""A YAML file as plain values, with `${VARIABLE}` filled in; what is wrong is said with its place."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.cyaml import CParser  # type: ignore[attr-defined]  # as PyYAML's stubs have it
from yaml.resolver import Resolver

from service.settings import variable
from service.values import ConfigurationError

LARGEST = 4_194_304  # bytes: 5,000 targets and 20,000 rules have half of it
MOST_VALUES = 500_000  # the same have 250,000; PyYAML needs seconds and 250 MB for the worst of that many
LONGEST_NUMBER = 40  # characters; what is longer is no number to us, and beyond 4300 none to Python
DEEPEST = 20  # levels
MOST_TAGS = 1000  # %TAG lines, of which none is of any use: libyaml compares each with all
_MADE = "\0"  # the tag of a node whose value is what it stands for; no tag in a file has that character
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def document_in(path: Path) -> tuple[Any, dict[str, str]]:
    """What the file holds, and by place a fault for each variable that could not be filled in.

    Variables are filled in after parsing, so that no value can change the structure. Raises ConfigurationError
    where there is no document to speak of.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST + 1)  # no more: it may be /dev/zero
    except OSError as error:
        raise ConfigurationError([f"{error.strerror}; TOCSIN_CONFIG must name a readable file"]) from None
    if len(raw) > LARGEST:
        raise ConfigurationError([f"longer than {LARGEST} bytes, which no configuration is"])
    try:
        document = _Loader(raw).get_single_data()
    except yaml.MarkedYAMLError as error:
        # Not the library's whole message: it quotes the text around, which may hold a secret.
        line = f" (line {error.problem_mark.line + 1})" if error.problem_mark else ""
        raise ConfigurationError([f"not YAML: {error.problem}{line}"]) from None
    except yaml.reader.ReaderError as error:
        where = f"character {error.position + 1}" if error.encoding == "unicode" else f"byte {error.position + 1}"
        raise ConfigurationError([f"not YAML: {error.reason} ({where}); write it as text in UTF-8"]) from None
    except ConfigurationError:
        raise
    except RecursionError:
        raise ConfigurationError(["not YAML: nested too deeply"]) from None
    except Exception as error:  # noqa: BLE001 - a tag that does not fit its value makes PyYAML raise nearly anything
        raise ConfigurationError([f"not YAML: {type(error).__name__}; is a value tagged as what it is not?"]) from None
    faults: dict[str, str] = {}
    return _filled(document, (), faults), faults


def place(location: Sequence[str | int]) -> str:
    """`("rules", 2, "when")` as `rules[2].when`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)
    return text.removeprefix(".") or "the file"


class _Loader(Composer, CParser, SafeConstructor, Resolver):
    """YAML's safe subset without four things: a key written twice, of which YAML would silently keep the last,
    aliases, with which half a kilobyte can stand for gigabytes, numbers to the base of 60, such as 22:30, and numbers
    that are too long for any use.

    libyaml parses it, ten times as fast as PyYAML does; the rest is PyYAML's.
    """

    def __init__(self, raw: bytes) -> None:
        # PyYAML's reader finds out the encoding, and says what is no text in it; it ends the text with a NUL.
        text = yaml.reader.Reader(raw).buffer.removesuffix("\0")
        if text.count("%TAG") > MOST_TAGS:
            raise ConfigurationError([f"more than {MOST_TAGS} lines of %TAG, which no configuration has"])
        CParser.__init__(self, text)
        for each in (Composer, SafeConstructor, Resolver):
            each.__init__(self)
        self._values = 0

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        tag = super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]  # as PyYAML's stubs have it
        number = tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
        return self.DEFAULT_SCALAR_TAG if number and (":" in value or len(value) > LONGEST_NUMBER) else tag

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark: Any = self.peek_event().start_mark  # type: ignore[union-attr]  # as PyYAML's stubs have it
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not taken; write the value out", mark)
        self._values += 1
        if self._values > MOST_VALUES:
            raise ConfigurationError([f"more than {MOST_VALUES} values, which no configuration has"])
        node = super().compose_node(parent, index)
        listed = isinstance(parent, yaml.SequenceNode) and parent.tag == self.DEFAULT_SEQUENCE_TAG
        if listed and isinstance(node, yaml.MappingNode):
            # One part of a list after the other: the nodes of a whole file would be sixty times its size.
            return yaml.ScalarNode(_MADE, self.construct_document(node), node.start_mark, node.end_mark)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: FBT001, FBT002 - PyYAML's signature
        try:
            return super().construct_object(node, deep)
        except (yaml.MarkedYAMLError, RecursionError):
            raise
        except Exception as error:  # such as a date that no calendar has
            problem = f"a value is no {node.tag.rpartition(':')[2]}; put it in quotes if it is text"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error

    def construct_yaml_int(self, node: yaml.ScalarNode) -> Any:
        if len(self.construct_scalar(node)) > LONGEST_NUMBER:  # tagged as one: to the base of 60 it would take minutes
            raise ValueError
        return super().construct_yaml_int(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - PyYAML's signature
        seen = set()
        if not isinstance(node, yaml.MappingNode):
            raise yaml.constructor.ConstructorError(None, None, "not a mapping", node.start_mark)
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)  # type: ignore[type-var]  # as PyYAML's stubs
_Loader.add_constructor(_MADE, lambda _, node: node.value)


def _key(key: object) -> str:
    try:
        return str(key)
    except ValueError:  # a number of thousands of digits
        return "…"


def _filled(part: Any, location: tuple[str | int, ...], faults: dict[str, str]) -> Any:
    if len(location) > DEEPEST:
        raise ConfigurationError([f"{place(location[:3])}: nested too deeply"])
    if isinstance(part, dict):
        return {_key(key): _filled(value, (*location, _key(key)), faults) for key, value in part.items()}
    if isinstance(part, list):
        return [_filled(value, (*location, index), faults) for index, value in enumerate(part)]
    if not isinstance(part, str):
        return part

    def fault(text: str) -> None:
        where = place(location)
        if text not in faults.get(where, ""):  # once, however often it stands there
            faults[where] = f"{faults[where]}; {text}" if where in faults else text

    def value(match: re.Match[str]) -> str:
        name = match[1]
        try:
            found = variable(name)
        except (OSError, UnicodeError) as error:
            fault(f"the file that {name}_FILE names cannot be read: {error}")
            return match[0]
        if found is None:
            fault(f"{match[0]} is not set; set {name}, or {name}_FILE to a file that holds it")
            return match[0]
        return found

    return _VARIABLE.sub(value, part)
