"""monitor.yaml and settings as nobody should write them: a configuration or its faults, with their places, soon and in bounds."""

import os
import re
import resource
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as examine
from hypothesis import strategies as st

from service import loading
from service.configuration import Configuration
from service.document import LARGEST
from service.settings import Settings
from service.values import LONGEST_FAULT, MOST_FAULTS, ConfigurationError
from tests.stack import BIN

Place = tuple[str | int, ...]

MARK = "put-it-here"
ADDRESS = "http://127.0.0.1:9/"
# What a schema cannot say: which of several, and what goes together.
WRITTEN = {"until": "04:00", "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "format": "tocsin", "name": "a", "alert": "a"}
HOSTILE = {
    "nothing": "~",
    "a truth": "yes",
    "a negative number": "-1",
    "a fraction": "0.5",
    "a number beyond all": "9" * 5000,
    "the same in hexadecimal": "0x" + "f" * 5000,
    "an exponent": "1e999",
    "no number": ".nan",
    "infinity": "-.inf",
    "an octal": "0o777",
    "a date": "2001-01-01",
    "a time with a zone": "2001-12-14t21:59:43.10-05:00",
    "a time of day": "22:30",
    "bytes": "!!binary aGk=",
    "no bytes": "!!binary '*'",
    "a set": "!!set {a, b}",
    "an ordered map": "!!omap [a: 1]",
    "an anchor": "&a b",
    "a merge": "{<<: {a: 1}}",
    "a number as a key": "{1: 2}",
    "lists in lists": "[" * 30 + "]" * 30,
    "maps in maps": "{a: " * 30 + "}" * 30,
    "an empty list": "[]",
    "an empty map": "{}",
    "an empty text": "''",
    "space": "' '",
    "NUL": '"\\0"',
    "no character": '"\\uFFFF"',
    "two lines": '"a\\r\\nb"',
    "an escape of a terminal": '"\\e[2J"',
    "a long text": "x" * 5000,
    "braces": "'{{ a }}{{'",
    "a variable": "'${HOSTILE}'",
    "a variable that nobody set": "'${NOBODY_SET_THIS}'",
    "no variable": "'${'",
    "a path": "../../../etc/passwd",
    "an option": "--help",
    "a format": "'%s %n {0}'",
}
NO_YAML = {
    "no day of the calendar": "2001-99-99",
    "no ordered map": "!!omap {a: 1}",
    "an object of Python": "!!python/object/apply:os.system [id]",
    "no whole number": "!!int x",
    "no fraction": "!!float x",
    "no timestamp": "!!timestamp x",
    "no truth": "!!bool x",
    "a tag of one's own": "!mine x",
    "an alias": "*a",
    "a list as a key": "{? [a] : b}",
    "a key twice": "{a: 1, a: 2}",
    "half a character": '"\\ud800"',
    "lists without end": "[" * 3000,
}


def kind_of(schema: Mapping[str, Any], whole: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a schema comes to: of a reference what it names, of several the first that is not null."""
    while "$ref" in schema or "anyOf" in schema:
        first = schema["anyOf"][0] if "anyOf" in schema else whole["$defs"][schema["$ref"].rpartition("/")[2]]
        schema = {name: value for name, value in schema.items() if name not in ("$ref", "anyOf")} | first
    return schema


def places(schema: Mapping[str, Any], whole: Mapping[str, Any], above: Place = ()) -> Iterator[Place]:
    """Every place of a document of this schema, the outer ones before those within."""
    schema = kind_of(schema, whole)
    yield above
    for name, inner in schema.get("properties", {}).items():
        yield from places(inner, whole, (*above, name))
    if "items" in schema:
        yield from places(schema["items"], whole, (*above, 0))
    if isinstance(schema.get("additionalProperties"), dict):
        yield (*above, "X-Name")


def document(schema: Mapping[str, Any], whole: Mapping[str, Any], way: Place, name: str = "") -> Any:
    """A document of this schema with what is required, and with what leads to a place; there stands MARK."""
    if way == ():
        return MARK if name != "required" else _usual(schema, whole)
    schema = kind_of(schema, whole)
    first, rest = way[0], way[1:]
    if isinstance(first, int):
        return [document(schema["items"], whole, rest)]
    if "properties" not in schema:
        return {first: MARK}
    one_of = [part["required"][0] for part in schema.get("oneOf", ())]
    required = [*schema.get("required", ()), *([] if first in one_of else one_of[:1])]
    found = {each: _usual(schema["properties"][each], whole, each) for each in required if each != first}
    return found | {first: document(schema["properties"][first], whole, rest)}


def _usual(schema: Mapping[str, Any], whole: Mapping[str, Any], name: str = "") -> Any:
    schema = kind_of(schema, whole)
    if schema.get("type") == "array":
        return []
    if "//" in schema.get("pattern", ""):
        return ADDRESS
    return (schema.get("examples") or [WRITTEN.get(name, "a")])[0] if name != "until" else WRITTEN[name]


SCHEMA = loading.schema()
SETTINGS = Settings.model_construct()
PLACES = list(places(SCHEMA, SCHEMA))[1:]


def placed(location: Place) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location).removeprefix(".")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOSTILE", "x: [{")
    return tmp_path / "monitor.yaml"


def answer(file: Path, raw: bytes) -> list[str]:
    """The faults of a file; none where it is a configuration. Each names the file, is no longer than a line, and has no more."""
    file.write_bytes(raw)
    try:
        assert isinstance(loading.load(SETTINGS, file), Configuration)
    except ConfigurationError as error:
        found = error.faults
    else:
        return []
    assert 0 < len(found) <= MOST_FAULTS + 1
    assert all(fault.startswith(f"{file}: ") for fault in found[:MOST_FAULTS])
    assert all(len(fault) <= LONGEST_FAULT + 1 and "Traceback" not in fault for fault in found)
    return [fault.removeprefix(f"{file}: ") for fault in found]


def test_the_places_are_those_of_the_schema() -> None:
    """Each property of each part is among them, and what stands there otherwise is a configuration."""
    named = {name for part in SCHEMA["$defs"].values() for name in part.get("properties", ())} | set(SCHEMA["properties"])

    assert named == {step for place in PLACES for step in place if isinstance(step, str)} - {"X-Name"}
    assert len(PLACES) > 60


@pytest.mark.parametrize("location", PLACES, ids=placed)
def test_any_value_at_any_place_is_taken_or_told_with_its_place(file: Path, location: Place) -> None:
    """Whatever YAML stands there: a configuration, or faults that name its part of the file."""
    text = yaml.safe_dump(document(SCHEMA, SCHEMA, location), default_flow_style=True, sort_keys=False, width=10**9)
    assert 1 == text.count(MARK)
    part = placed(location[:2])  # of several fields that go together one is named
    for name, written in HOSTILE.items():
        faults = answer(file, text.replace(MARK, written).encode())
        where = [fault.partition(": ")[0] for fault in faults]
        found = any(part.startswith(each) or each.startswith(part) for each in where)
        assert not faults or found, f"{name}: {faults}"


@pytest.mark.parametrize("name", NO_YAML)
def test_what_is_no_yaml_is_told_with_its_line(file: Path, name: str) -> None:
    """Tags of Python, dates of no calendar, aliases, keys that cannot be: one line that says which it is of the file."""
    (fault,) = answer(file, f"rules:\n- alert: a\n  when: {NO_YAML[name]}\n".encode())

    assert re.match(r"not YAML: .*(\(line [34]\)|nested too deeply)$", fault)


BOMB = "a: &a [x, x]\n" + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(20))
NO_TEXT = "write it as text in UTF-8"


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"\xef\xbb\xbfinterval: 10s\n", ""),  # a byte order mark, as Windows writes it
        ("interval: 10s\n".encode("utf-16"), ""),
        (b"\xfe\xff" + "interval: 10s\n".encode("utf-16-be"), ""),
        (b"interval: 10s\r\ntargets: []\r\n", ""),
        (b"interval: 10s\rtargets: []\r", ""),
        (b"%YAML 1.1\n---\ninterval: 10s\n...\n", ""),
        (b"interval: 10s\n# \xf0\x9f\x9a\xa8\n", ""),
        ("interval: 10s\n".encode("utf-16-le"), "not YAML: special characters are not allowed (character 2); " + NO_TEXT),
        ("interval: 10s\n".encode("utf-32"), "not YAML: special characters are not allowed (character 2); " + NO_TEXT),
        ("# Zürich\ninterval: 10s\n".encode("latin-1"), "not YAML: invalid start byte (byte 4); " + NO_TEXT),
        (b"interval: 10s\n\x00", "not YAML: special characters are not allowed (character 15); " + NO_TEXT),
        (b"interval: 10s\n# \xed\xa0\x80\n", "not YAML: invalid continuation byte (byte 17); " + NO_TEXT),
        (b"targets:\n\t- {name: a}\n", "not YAML: found character that cannot start any token (line 2)"),
        (b"%YAML 9.9\n---\ninterval: 10s\n", "not YAML: found incompatible YAML document (line 1)"),
        (b"interval: 10s\n---\ninterval: 10s\n", "not YAML: but found another document (line 2)"),
        (b"interval: 10s\ninterval: 20s\n", "not YAML: the key 'interval' stands twice (line 2)"),
        (b"keep:\n  minutes: 30d\n  minutes: 31d\n", "not YAML: the key 'minutes' stands twice (line 3)"),
        (BOMB.encode(), "not YAML: aliases (*name) are not taken; write the value out (line 2)"),
        (b"a: &a\n  <<: *a\n", "not YAML: aliases (*name) are not taken; write the value out (line 2)"),
        (b"interval: 2001-99-99\n", "not YAML: a value is no timestamp; put it in quotes if it is text (line 1)"),
        (b"- " * 10_000, "not YAML: nested too deeply"),
        (b"{a: " * 10_000, "not YAML: nested too deeply"),
        (b"a: {a: {a: " + b"[" * 30 + b"]" * 30 + b"}}", "a.a.a: nested too deeply"),
        (b"%TAG !a! b\n" * 1001 + b"---\n", "more than 1000 lines of %TAG, which no configuration has"),
        (b"a: !!int 1" + b":1" * 20, "not YAML: a value is no int; put it in quotes if it is text (line 1)"),
        (b"- !<made> {a: b}", "not YAML: could not determine a constructor for the tag 'made' (line 1)"),
        (b"a", "the file: is not a map; write `name: value` on lines of their own"),
        (b"[a]", "the file: is not a map; write `name: value` on lines of their own"),
        (b"interval: 10s\n" + b"#" * LARGEST, f"longer than {LARGEST} bytes, which no configuration is"),
    ],
)
def test_any_file_is_taken_or_told_why_not(file: Path, raw: bytes, said: str) -> None:
    """Other encodings, bombs, doubles, depths: each is read as what it means, or told in one line with its place."""
    assert [said] * bool(said) == answer(file, raw)


TEXT = b"""\
targets: [{name: shop, url: 'http://127.0.0.1:9/', expect: [200]}]
rules: [{alert: Down, when: up == 0, for: 1m, summary: "{{ target }}", targets: [shop]}]
receivers: [{name: ops, webhook: 'http://127.0.0.1:9/', headers: {A: b}}]
maintenance: [{name: night, from: "02:00", until: "04:00", timezone: Europe/Berlin}]
"""


@examine(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    at=st.integers(0, len(TEXT)),
    instead=st.integers(0, 12),
    put=st.binary(max_size=12) | st.sampled_from([text.encode() for text in HOSTILE.values() if len(text) < 200]),
)
def test_a_file_with_a_piece_replaced_is_taken_or_told_why_not(file: Path, at: int, instead: int, put: bytes) -> None:
    """A good file into which any bytes have been written, in place of some of it or beside it."""
    answer(file, TEXT[:at] + put + TEXT[at + instead :])


def chain(number: int) -> str:
    return f"{{name: '{number:05}', url: 'http://a', parent: '{number - 1:05}'}},"


ENDLESS = {
    "values": ("rules: [" + "aaaaaaa," * 220_000 + "]", "rules[0]: is not a map; write `name: value` on lines of their own"),
    "parents": ("targets: [" + "".join(map(chain, range(1, 35_000))) + "]", "targets[0].parent: '00000' is not a target"),
    "names that nobody has": (
        "targets: [" + "".join(f"{{name: 'target {n}', url: 'http://a'}}," for n in range(1000)) + "]\n"
        "rules: [{alert: a, when: up == 0, targets: [" + "".join(f"tarket{n}," for n in range(160_000)) + "]}]",
        "rules[0].targets[0]: 'tarket0' is not a target",
    ),
    "variables": ("interval: '" + "${A}" * 450_000 + "'", "interval: ${A} is not set; set A, or A_FILE"),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_the_longest_file_takes_seconds_and_little_memory(file: Path, name: str) -> None:
    """`tocsin check-config` on what would take hours if anything in it grew with the square: bounded by the kernel."""
    text, said = ENDLESS[name]
    assert LARGEST * 0.4 < len(text) <= LARGEST
    file.write_text(text)
    status, lines = check_config(file, {})

    assert 2 == status
    assert lines[0].startswith(f"{file}: {said}")
    assert len(lines) <= MOST_FAULTS + 1


def test_thousands_of_targets_and_rules_are_read(file: Path) -> None:
    """5,000 targets, each with a parent, and 20,000 rules, each about one of them: no less than what a monitor can do."""
    targets = [f"- {{name: t{n}, url: 'http://a/', parent: t{n // 10}}}" for n in range(1, 5000)]
    rules = [f"- {{alert: r{n}, when: up == 0, for: 1m, severity: critical, targets: [t{n // 4}]}}" for n in range(20_000)]
    lines = ["targets:", "- {name: t0, url: 'http://a/'}", *targets, "rules:", *rules]
    file.write_text("\n".join(lines))

    assert (0, [f"ok: {file}: 5000 targets, 20000 rules, 0 receivers"]) == check_config(file, {})


def check_config(file: str | Path, env: Mapping[str, str]) -> tuple[int, list[str]]:
    """The real command's exit status and its lines. The kernel ends it after a minute of work, and at a gigabyte."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

    command = [os.fsencode(BIN / "tocsin"), b"check-config", os.fsencode(file)]
    environment = {**os.environ, **env}
    done = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=110, preexec_fn=limit)
    return done.returncode, (done.stdout + done.stderr).decode(errors="backslashreplace").splitlines()


@pytest.mark.parametrize(
    ("name", "raw", "env", "status", "said"),
    [
        ("monitor.yaml", b"interval: 10s\n", {}, 0, "ok: {file}: 2 targets"),
        ("\udcff\n.yaml", b"", {}, 0, "ok: "),
        ("\udcff.yaml", b"interval: 10\n", {}, 2, ".yaml: interval: 10 is not a duration"),
        ("monitor.yaml", b'"\\ud800\\u202e": 1\n', {}, 2, "not YAML: found invalid Unicode character escape code (line 1)"),
        ("monitor.yaml", b"interval: ${A}\n", {"A": "\udcff\x1b[2J"}, 2, "interval: '\\udcff\\x1b[2J' is not a duration"),
        ("monitor.yaml", b"\xff" * 5000, {}, 2, "not YAML: invalid start byte (byte 1)"),
        ("monitor.yaml", b"", {"TOCSIN_BIND": "\udcff/;\n"}, 2, "TOCSIN_BIND: '\\udcff/;\\n' is not an address to listen on"),
        ("monitor.yaml", b"", {"TOCSIN_API_KEY_FILE": "/nowhere/\udcff"}, 2, "TOCSIN_API_KEY_FILE: /nowhere/"),
    ],
)
def test_the_command_ends_with_0_or_2_and_no_traceback(
    tmp_path: Path, name: str, raw: bytes, env: dict[str, str], status: int, said: str
) -> None:
    """What no terminal and no UTF-8 has, in names, values and variables: a line that says what is wrong, or that all is well."""
    file = tmp_path / name
    file.write_bytes(raw)
    ended, lines = check_config(file, env)

    assert status == ended, lines
    assert said.format(file=file) in "".join(lines)
    assert not any("Traceback" in line for line in lines)


def test_a_file_without_end_is_not_read_to_it() -> None:
    """/dev/zero is longer than a configuration is."""
    assert (2, [f"/dev/zero: longer than {LARGEST} bytes, which no configuration is"]) == check_config("/dev/zero", {})


ODD = [
    *(
        "9" * 5000,
        "x" * 50_000,
        "1s" * 2000,
        "a," * 1000,
        ",",
        "nan",
        "inf",
        "-0",
        "1_000",
        "+5",
        " 8080 ",
        "８０８０",
        "٣",
        "0x10",
    ),
    *("http://[", "http://a:99999/", "http://\udcff/", "::1", "[::1]", "[::1]:80", "a b:80", "/", "/dev/null", "/proc/self/mem"),
    *(
        "/a/=b:1,/a/=b:2",
        "sqlite://",
        "postgresql://\udcff:x@y/z",
        "*",
        "whsec_",
        "\udcff",
        "\x01\x1b[2J",
        "\u2028",
        "$(id);`id`|'\"",
    ),
    *("https://hooks.slack.com/services/x", "https://hooks.slack.com/services/T0/B0/\udcff"),
]
VARIABLES = ["WEB_CONCURRENCY", *(f"TOCSIN_{field.upper()}" for field in Settings.model_fields if field != "web_concurrency")]


def in_environment(name: str, text: str) -> None:
    """A variable of any text gives settings and a configuration, or faults that name it."""
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv(name, text)
        try:
            loading.from_environment()
        except ConfigurationError as error:
            faults = error.faults
        else:
            return
    of_it = [fault for fault in faults if name.removesuffix("_FILE") in fault]
    # Or of the file that it names, and of what was found there.
    assert faults in (of_it, [*of_it, "and more; mend these first"]) or name == "TOCSIN_CONFIG"
    assert all(len(fault) <= LONGEST_FAULT + 1 for fault in faults)


@pytest.mark.parametrize("name", [*VARIABLES, *(f"TOCSIN_{field.upper()}_FILE" for field in sorted(Settings.secrets()))])
def test_any_text_in_any_variable_gives_settings_or_faults_that_name_it(name: str) -> None:
    """Whatever bytes an environment can hold: what `make up` starts with is right, or is told by its variable."""
    for text in ODD:
        in_environment(name, text)


@examine(deadline=None, max_examples=100)
@given(name=st.sampled_from(VARIABLES), text=st.sampled_from(list(HOSTILE.values())) | st.binary(max_size=30).map(os.fsdecode))
def test_random_text_in_any_variable_gives_settings_or_faults_that_name_it(name: str, text: str) -> None:
    """The same for texts, and for bytes, that nobody thought of."""
    in_environment(name, text.replace("\0", ""))
