"""A YAML file as plain values: variables, places, and every way in which a file can be none."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from service.document import DEEPEST, LARGEST, document_in, place
from service.settings import CHECKOUT
from service.values import ConfigurationError


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("SHOP", "SHOP_FILE", "OTHER", "OTHER_FILE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "monitor.yaml"


def document(file: Path, text: str) -> tuple[Any, dict[str, str]]:
    file.write_text(text, encoding="utf-8")
    return document_in(file)


def fault(file: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        document_in(file)
    (only,) = caught.value.faults
    return only


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("# nothing but a remark\n", None),
        ("---\n", None),
        ("{}", {}),
        ("a: 1\nb: [x, 2.5, true, null]", {"a": 1, "b": ["x", 2.5, True, None]}),
        ("a: {b: {c: [1]}}", {"a": {"b": {"c": [1]}}}),
        ("2: a\ntrue: b\nnull: c", {"2": "a", "True": "b", "None": "c"}),
        ("a: é…😀", {"a": "é…😀"}),
        ("a: $SHOP $ {SHOP} ${} ${1X} ${A-B}", {"a": "$SHOP $ {SHOP} ${} ${1X} ${A-B}"}),
    ],
)
def test_a_file_is_read_as_plain_values(file: Path, text: str, expected: object) -> None:
    """Mappings, lists, text and numbers come as they stand; keys are text; an empty file holds nothing."""
    assert (expected, {}) == document(file, text)


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ((), "the file"),
        (("interval",), "interval"),
        (("rules", 2, "when"), "rules[2].when"),
        (("rules", 0, "targets", 10), "rules[0].targets[10]"),
        ((0,), "[0]"),
        ((0, "a"), "[0].a"),
    ],
)
def test_a_place_is_written_as_a_path(location: tuple[str | int, ...], expected: str) -> None:
    """A place reads like the way down to it."""
    assert expected == place(location)


def test_a_variable_is_filled_in_wherever_text_stands(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In text, within text, and more than once; keys are left as they are."""
    monkeypatch.setenv("SHOP", "s3")
    found, faults = document(file, 'a: ${SHOP}\nb: ["x${SHOP}y${SHOP}"]\n"${SHOP}": {c: "${SHOP}"}')
    assert {"a": "s3", "b": ["xs3ys3"], "${SHOP}": {"c": "s3"}} == found
    assert {} == faults


def test_a_variable_is_filled_in_from_its_file(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """${SHOP} is what the file holds that SHOP_FILE names, without its last newline."""
    (tmp_path / "secret").write_text("from a file\n")
    monkeypatch.setenv("SHOP_FILE", str(tmp_path / "secret"))
    assert ({"a": "from a file"}, {}) == document(file, "a: ${SHOP}")


@pytest.mark.parametrize(
    "value",
    ["x\n- name: evil", "{a: b}", "[1]", "'\"", "# remark", "&a *a", "!!int 5", "5", "null", "${OTHER}", "${SHOP}", "\\1"],
)
def test_a_value_cannot_change_the_structure(file: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Whatever a variable holds, it is text in its place: not YAML, and no variable of its own."""
    monkeypatch.setenv("SHOP", value)
    monkeypatch.setenv("OTHER", "must not show")
    assert ({"a": value, "b": [value]}, {}) == document(file, "a: ${SHOP}\nb: ['${SHOP}']")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_any_value_of_a_variable_is_that_text(file: Path, value: str) -> None:
    """No text from the environment means anything to YAML."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOP", value)
        assert ([{"a": value}], {}) == document(file, "- a: ${SHOP}")


def test_a_variable_that_is_not_set_names_its_place_and_the_remedy(file: Path) -> None:
    """Each is told with where it stands, and left as it was written."""
    found, faults = document(file, "a: ${SHOP}\nb: [1, {c: 'x ${OTHER}'}]")
    assert {"a": "${SHOP}", "b": [1, {"c": "x ${OTHER}"}]} == found
    assert {
        "a": "${SHOP} is not set; set SHOP, or SHOP_FILE to a file that holds it",
        "b[1].c": "${OTHER} is not set; set OTHER, or OTHER_FILE to a file that holds it",
    } == faults


def test_two_unset_variables_in_one_value_are_both_told(file: Path) -> None:
    """Where one text asks for two variables, neither is left for the next run."""
    _, faults = document(file, "url: http://${SHOP}/${OTHER}")
    assert "${SHOP} is not set" in faults["url"]
    assert "${OTHER} is not set" in faults["url"]


@pytest.mark.parametrize("content", [None, b"\xff\xfe\xfd"], ids=["missing", "no text"])
def test_a_variables_file_that_cannot_be_read_names_its_place(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    """A file that is missing or is no UTF-8 is a fault at the place that asked for it."""
    if content is not None:
        (tmp_path / "secret").write_bytes(content)
    monkeypatch.setenv("SHOP_FILE", str(tmp_path / "secret"))
    _, faults = document(file, "a: [{b: '${SHOP}'}]")
    assert ["a[0].b"] == list(faults)
    assert faults["a[0].b"].startswith("the file that SHOP_FILE names cannot be read: ")


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\na: 2",
        "- {x: 1, y: 2, x: 1}",
        "a: {b: [{c: 1, c: 1}]}",
        '"1": a\n1: b',
    ],
)
def test_a_key_written_twice_is_a_fault(file: Path, text: str) -> None:
    """YAML would silently keep the last of them; here it is said where the second stands."""
    file.write_text(text)
    said = fault(file)
    assert said.startswith("not YAML: the key ")
    assert " stands twice" in said
    assert "(line " in said


def test_a_file_that_is_not_there_says_so(file: Path) -> None:
    """A missing file is told in the system's words, with the variable that names it."""
    assert "No such file or directory; TOCSIN_CONFIG must name a readable file" == fault(file)


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    """A folder in the place of the file is told as such: Docker makes one when the file to mount is missing."""
    assert "Is a directory; TOCSIN_CONFIG must name a readable file" == fault(tmp_path)


@pytest.mark.parametrize(("size", "refused"), [(LARGEST, False), (LARGEST + 1, True), (2 * LARGEST, True)])
def test_a_file_that_is_too_long_is_refused(file: Path, size: int, refused: bool) -> None:
    """The largest configuration is read; one byte more, or twice as much, is not even parsed."""
    file.write_bytes(b"#" * size)
    if refused:
        assert f"longer than {LARGEST} bytes, which no configuration is" == fault(file)
    else:
        assert (None, {}) == document_in(file)


def test_a_file_with_too_many_values_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many values as there may be are read, the list that holds them among them; one more is refused."""
    monkeypatch.setattr("service.document.MOST_VALUES", 100)  # as many as there really may be would take seconds
    file.write_text("[" + "1," * 99 + "]")
    assert 99 == len(document_in(file)[0])

    file.write_text("[" + "1," * 100 + "]")
    assert "more than 100 values, which no configuration has" == fault(file)


def test_what_a_list_holds_is_read_as_it_stands(file: Path) -> None:
    """Mappings in lists, in lists of their own and with tags of YAML's, which are made one by one."""
    text = "a: [{b: [{c: 1}, [{d: 2}]]}, !!map {e: 3}, !!omap [f: 4], !!set {g}]"
    assert {"a": [{"b": [{"c": 1}, [{"d": 2}]]}, {"e": 3}, [("f", 4)], {"g"}]} == document(file, text)[0]


@pytest.mark.parametrize(
    "text",
    [
        "a: [",
        "a: b: c",
        "\t- a",
        "a: *nothing",
        "a: 1\n---\nb: 2",
        "a: !!python/object/apply:os.system [id]",
        "a: !mine x",
        "? [a]\n: 1",
        "a: 2001-13-45",
        "a: !!int x",
        "a: !!int ''",
        "a: !!float ''",
        "a: !!bool maybe",
        "a: !!timestamp noon",
        "a: !!binary é",
        "!!map [1]",
        "!!map text",
        "a: !!set [1]",
        "a: !!omap {b: 1}",
        "a: !!seq {b: 1}",
        "a: !!null {b: 1}",
        "a: {<<: 5}",
        "a: {<<: [5]}",
        "a: 0x_",
        "a: ._",
        "a: 1" + ":1" * 5000,
        "a: " + "9" * 5000,
        "? 0x" + "f" * 900,
        "[" * 3000,
        "{a: " * 3000,
        "a: \0",
    ],
    ids=lambda text: text[:24],
)
def test_what_is_not_yaml_is_one_fault_on_one_line(file: Path, text: str) -> None:
    """Whatever the parser trips over is told in one line or read as plain values, and never a traceback."""
    file.write_text(text)
    try:
        document_in(file)
    except ConfigurationError as error:
        (said,) = error.faults
        assert "\n" not in said


@pytest.mark.parametrize("raw", [b"\xff", b"\xc3(", b"a: \x80", "a: é".encode("latin-1"), b"\0\0", b"\xff\xfea"])
def test_bytes_that_are_no_text_are_a_fault(file: Path, raw: bytes) -> None:
    """A file that is no UTF-8 is told as no YAML."""
    file.write_bytes(raw)
    assert fault(file).startswith("not YAML: ")


@pytest.mark.parametrize("text", ["&a [*a]", "a: &a {b: [{c: *a}]}", "a: &x {k: 1}\nb: *x", "a: &x {k: 1}\nb: {<<: *x}"])
def test_an_alias_is_a_fault(file: Path, text: str) -> None:
    """An alias, also one that contains itself, is refused with its line and the remedy."""
    file.write_text(text)
    assert re.fullmatch(r"not YAML: aliases \(\*name\) are not taken; write the value out \(line [12]\)", fault(file))


@pytest.mark.parametrize(("levels", "refused"), [(DEEPEST, False), (DEEPEST + 1, True)])
def test_only_so_many_levels_are_read(file: Path, levels: int, refused: bool) -> None:
    """The deepest level that is allowed is read, one more is refused with its place."""
    file.write_text("[" * levels + "1" + "]" * levels)
    if refused:
        assert "[0][0][0]: nested too deeply" == fault(file)
    else:
        assert {} == document_in(file)[1]


def bomb(levels: str, first: str) -> str:
    """Ten lines of which each names the one before nine times."""
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{n}: &a{n} {levels.format(', '.join([f'*a{n - 1}'] * 9))}" for n in range(1, 10)]
    return "\n".join(lines)


LIMITED = """
import resource, sys
from pathlib import Path
from service.document import document_in
from service.values import ConfigurationError
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
try:
    document_in(Path(sys.argv[1]))
except ConfigurationError as error:
    print("refused")
"""


@pytest.mark.parametrize(
    "text",
    [bomb("[{}]", "[x, x, x, x, x, x, x, x, x]"), bomb("{{<<: [{}]}}", "{k: v}")],
    ids=["lists", "merged mappings"],
)
def test_aliases_that_multiply_are_refused_at_once(file: Path, text: str) -> None:
    """A file of half a kilobyte that means a thousand million values is a fault, within seconds and a gigabyte."""
    file.write_text(text)
    command = [sys.executable, "-c", LIMITED, str(file)]
    finished = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=10, check=False)
    assert ("refused\n", "") == (finished.stdout, finished.stderr)


YAML = st.text("ab:-[]{}&*!?|><%@`'\"#, \n\t0x1.~$_=\\", max_size=60)
TAGS = st.sampled_from(["!!int", "!!float", "!!bool", "!!timestamp", "!!binary", "!!null", "!!str", "!!seq", "!!map", "!!set"])
TAGGED = st.builds("{} {}".format, TAGS | st.sampled_from(["!!omap", "!!pairs", "!!merge", "!!value", "&a", "*a", "? "]), YAML)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=st.binary() | st.text().map(str.encode) | YAML.map(str.encode) | TAGGED.map(str.encode))
@example(raw=b"<<: &a {<<: *a}")
def test_any_file_is_a_document_or_a_configuration_error(file: Path, raw: bytes) -> None:
    """No bytes make reading fail in any other way."""
    file.write_bytes(raw)
    found: object
    try:
        _, found = document_in(file)
    except ConfigurationError as error:
        found = error.faults
    assert found == {} or isinstance(found, list)
