"""docs/pitfalls.md and the tests that it names; and those of its pitfalls that belong to no module."""

import re
import subprocess
import sys
from collections import defaultdict
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import yaml

from tests.answering import answering
from tests.stack import ROOT

DOCUMENT = (ROOT / "docs/pitfalls.md").read_text(encoding="utf-8")
ROWS = {cells[1]: cells[-2] for line in re.findall(r"^\| P\d.*$", DOCUMENT, re.MULTILINE) if (cells := re.split(r" ?\| ?", line))}


def every_test() -> dict[str, list[str]]:
    """The tests of each file."""
    files = sorted((ROOT / "tests").glob("test_*.py"))
    return {file.name: re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE) for file in files}


def named(text: str) -> list[str]:
    """What a text names, as `file.py::test` with `*` for any part of a name."""
    return re.findall(r"`(test_\w+\.py::[\w*]+)`", text)


def test_each_pitfall_has_its_row() -> None:
    """P1 to P31, once each and in order."""
    assert [f"P{number}" for number in range(1, 32)] == re.findall(r"^\| (P\d+) \|", DOCUMENT, re.MULTILINE)


def test_each_test_that_is_named_exists() -> None:
    """What the document names is there, and a row without a test says why it needs none."""
    there = [f"{file}::{name}" for file, names in every_test().items() for name in names]

    assert [] == [one for one in named(DOCUMENT) if not any(fnmatchcase(test, one) for test in there)]
    assert ["P28"] == [number for number, shown in ROWS.items() if not named(shown)]
    assert ROWS["P28"].startswith("None needed: ")


def test_each_test_is_named_where_its_number_says() -> None:
    """A test with a number in its name is named in the row of that pitfall."""
    numbered = defaultdict(list)
    for file, names in every_test().items():
        for name in names:
            for number in re.findall(r"(?<=_p)\d+(?=_)", name):
                numbered[f"P{number}"].append(f"{file}::{name}")

    assert [] == [
        test
        for number, found in numbered.items()
        for test in found
        if not any(fnmatchcase(test, one) for one in named(ROWS.get(number, "")))
    ]
    assert len(numbered) > 25


@pytest.mark.parametrize("status", [200, 201, 204, 302, 404, 500, 503])
def test_p16_the_containers_checks_want_exactly_200(status: int) -> None:
    """The image's HEALTHCHECK and nginx' own in Compose take 200 for health and nothing else, not even another 2xx."""
    (image,) = re.findall(r'CMD \["python", (.*)"http://127\.0\.0\.1:8000/readyz"\]', (ROOT / "Dockerfile").read_text())
    options = re.findall(r'"([^"]+)"', image)
    nginx = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["nginx"]["healthcheck"]["test"][1]
    with answering() as server:
        server.answers = {"/readyz": (status, b""), "/robots.txt": (status, b"")}
        script = [str(ROOT / option.removeprefix("/app/")) if "/" in option else option for option in options]
        asked = nginx.replace("$$", "$").replace("http://127.0.0.1:8080", server.url)
        checks = ([sys.executable, *script, f"{server.url}/readyz"], ["sh", "-c", asked])
        ended = [subprocess.run(check, capture_output=True, check=False, timeout=20).returncode for check in checks]

        assert ["/readyz", "/robots.txt"] == [path for path, _ in server.asked]
    assert [status == 200] * 2 == [code == 0 for code in ended]


def test_p16_the_containers_checks_fail_where_nobody_answers() -> None:
    """Nothing listens: not healthy, in a line and without a traceback."""
    check = [sys.executable, "-I", "-S", str(ROOT / "deploy/healthcheck.py"), "http://127.0.0.1:1/readyz"]
    done = subprocess.run(check, capture_output=True, text=True, check=False, timeout=20)

    assert (1, 1) == (done.returncode, len(done.stderr.splitlines()))


def dockerfiles() -> list[Path]:
    return [*ROOT.glob("*Dockerfile"), *(ROOT / "examples").rglob("*Dockerfile"), *(ROOT / "tests").rglob("*Dockerfile")]


def test_p31_no_dockerfile_names_a_frontend() -> None:
    """None begins with directives that fetch an image to build with."""
    assert len(dockerfiles()) >= 3
    assert [] == [file for file in dockerfiles() if re.search(r"(?im)^#\s*syntax\s*=", file.read_text(encoding="utf-8"))]
