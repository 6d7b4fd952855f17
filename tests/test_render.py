"""Reports as they are shown: all forms of an empty, a one-minute and a whole database, and texts that mean harm."""

import csv
import io
import re
import unicodedata
from html.parser import HTMLParser

import orjson
import pytest
from sqlalchemy import insert

from service.database import connect
from service.reports import render
from service.reports.gather import make
from service.reports.model import Report
from service.reports.render import FORMATS, Format, file_name, rendered
from service.reports.sections import headlines, share
from service.spreadsheet import written
from service.tables import occurrences, readings
from tests import month
from tests.month import CONFIGURATION, DAY, END

HARM = "<script>alert(1)</script>=cmd|' /C calc'!A0\x1b[31m\n\"é'"


class Page(HTMLParser):
    """What is in a page: its elements with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Report]:
    """Of a database with nothing in it, with a minute, with a month, and with names that mean harm."""
    engine = connect(f"sqlite:///{tmp_path_factory.mktemp('reports')}/tocsin.db")
    found = {"empty": make(engine, CONFIGURATION, END - DAY, END, END + 60.0)}
    row = {
        "step": 60,
        "target": "shop",
        "metric": "up",
        "mount": "",
        "at": END - 120,
        "count": 6,
        "total": 3,
        "least": 0,
        "most": 1,
    }
    hour = {**row, "step": 3600, "at": END - 3600}
    with engine.begin() as connection:
        connection.execute(insert(readings), [row, hour])
    found["minute"] = make(engine, CONFIGURATION, END - DAY, END, END + 60.0)
    firing = {
        "labels": {},
        "severity": "critical",
        "summary": HARM,
        "began": END - 90,
        "fired": END - 60,
        "fingerprint": "0" * 16,
    }
    with engine.begin() as connection:
        changed = {"target": HARM, "metric": "mount_usage", "mount": HARM}
        connection.execute(insert(readings), [row | changed, hour | changed])
        connection.execute(insert(occurrences), [{**firing, "id": "1", "alert": HARM, "target": HARM}])
    found["harm"] = make(engine, CONFIGURATION.model_copy(update={"instance": HARM}), END - DAY, END, END + 60.0)
    engine.dispose()
    engine = connect(f"sqlite:///{tmp_path_factory.mktemp('reports')}/tocsin.db")
    month.make(engine, days=10)
    found["month"] = make(engine, CONFIGURATION, END - 10 * DAY, END, END + 60.0)
    engine.dispose()
    return found


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", ["empty", "minute", "month", "harm"])
def test_every_form_of_every_report(reports: dict[str, Report], name: str, form: Format) -> None:
    """Each is written, is no larger than can be mailed, and has no number that is none."""
    shown = rendered(reports[name], form)
    assert 0 < len(shown.encode()) < 300_000
    assert not re.search(r"\b(nan|NaN|inf|Infinity|Undefined)\b|>None<|,None\b", shown)
    assert file_name(reports[name], form).endswith({"text": ".txt"}.get(form, f".{form}"))


@pytest.mark.parametrize("name", ["empty", "minute", "month", "harm"])
def test_html_is_one_file_in_which_nothing_runs(reports: dict[str, Report], name: str) -> None:
    """No script, no style from elsewhere, no address that is asked, and every element closed."""
    page = Page(shown := rendered(reports[name], "html"))
    assert {"script", "link", "img", "iframe", "object", "form", "a", "base"}.isdisjoint(tag for tag, _ in page.elements)
    names = {name for _, attributes in page.elements for name in attributes}
    assert not [name for name in names if name.startswith("on") or name in ("src", "href", "style", "action")]
    assert not re.search(r"https?:|url\(|@import", shown)
    assert shown.startswith("<!doctype html>")
    for tag in ("table", "tr", "td", "th", "section", "svg", "main", "body", "html"):
        assert shown.count(f"</{tag}>") == len([each for each, _ in page.elements if each == tag]), tag


def test_html_has_a_line_for_each_reading_with_words_for_it(reports: dict[str, Report]) -> None:
    """Each picture says what it shows to who cannot see it."""
    page = Page(rendered(reports["month"], "html"))
    labels = [attributes["aria-label"] or "" for tag, attributes in page.elements if tag == "svg"]
    found = reports["month"]
    assert len(found.availability) + len(found.readings) == len(labels)
    assert any(
        re.fullmatch(r"cpu_usage of self over the period: [\d.]+ % to [\d.]+ %, mostly [\d.]+ %", label) for label in labels
    )
    assert len(labels) == len(set(labels))


def test_names_that_mean_harm_are_only_text(reports: dict[str, Report]) -> None:
    """In a page they are text, in a terminal they give no orders, and every line stays one."""
    page = Page(rendered(reports["harm"], "html"))
    assert "<script>alert(1)</script>" in page.text
    text = rendered(reports["harm"], "text")
    assert not [each for each in text if unicodedata.category(each) == "Cc" and each != "\n"]


@pytest.mark.parametrize("name", ["empty", "minute", "month", "harm"])
def test_text_fits_into_80_columns(reports: dict[str, Report], name: str) -> None:
    """No line is wider, and each table is there."""
    lines = rendered(reports[name], "text").splitlines()
    assert max(map(len, lines)) <= 80
    assert ["AVAILABILITY", "READINGS", "DISKS", "ALERTS", "REACTION", "RESTARTS", "DELIVERIES"] == [
        line for line in lines if line.isupper()
    ]


def test_text_of_many_targets_is_cut(reports: dict[str, Report], monkeypatch: pytest.MonkeyPatch) -> None:
    """It says how many rows there are besides."""
    monkeypatch.setattr(render, "MOST_ROWS", 2)
    assert "and 3 more" in rendered(reports["month"], "text")


def test_csv_has_every_number_in_a_line_of_its_own(reports: dict[str, Report]) -> None:
    """With its section, what it is about, and its unit; those of the JSON."""
    rows = list(csv.DictReader(io.StringIO(rendered(reports["month"], "csv"), newline=""), strict=True))
    found = {(row["section"], row["name"], row["measure"]): row["value"] for row in rows}
    assert len(rows) == len(found)
    content = orjson.loads(rendered(reports["month"], "json"))
    assert str(content["availability"][2]["down_seconds"]) == found["availability", "shop", "down"]
    assert str(content["readings"][0]["p95"]) == found["readings", "self cpu_usage", "p95"]
    assert content["period"]["from"] == found["report", "shop-1", "from"]
    assert "" == found["deliveries", "chat", "delay_median"]


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("shop", "shop"),
        ("a=b", "a=b"),
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\tx", "'\tx"),
        ("\rx", "'\rx"),
        ("＝1", "'＝1"),
        ('say "so", twice', 'say "so", twice'),
        ("", ""),
    ],
)
def test_no_cell_is_a_formula(text: str, cell: str) -> None:
    """What a spreadsheet would calculate is told as text; numbers stay numbers, negative ones too."""
    table = written(("name", "value"), [(text, -1.5), (None, 2)])
    assert table.startswith("name,value\r\n")
    assert table.endswith("\r\n")
    assert [[cell, "-1.5"], ["", "2"]] == list(csv.reader(io.StringIO(table, newline=""), strict=True))[1:]


def test_no_cell_of_a_report_is_a_formula(reports: dict[str, Report]) -> None:
    """Whatever targets, alerts and instances are called."""
    for row in csv.reader(io.StringIO(rendered(reports["harm"], "csv"), newline=""), strict=True):
        assert not [cell for cell in row if cell.startswith(("=", "@", "\t", "\r", "\n"))]


@pytest.mark.parametrize(
    ("of", "said"),
    [(None, "–"), (1.0, "100 %"), (0.999999, "99.99 %"), (0.99, "99 %"), (0.9987, "99.87 %"), (0.0, "0 %")],
)
def test_100_percent_is_said_where_it_is_all(of: float | None, said: str) -> None:
    """A share is rounded down."""
    assert said == share(of)


def test_headlines(reports: dict[str, Report]) -> None:
    """What is to be known by who reads no further; nothing is praised that nobody has measured."""
    assert ["Nothing was measured in this period."] == list(headlines(reports["empty"]))
    assert [
        "shop was up 50 % of the time, and down for 30 s.",
        "Nothing was measured of 4 targets.",
        "0 alerts fired.",
    ] == list(headlines(reports["minute"]))
    assert [
        "mail was up 99.75 % of the time, and down for 35 min.",
        "shop was up 99.93 % of the time, and down for 10 min.",
        "db was up 99.99 % of the time, and down for 50 s.",
        "3 alerts fired; 1 still did at the end.",
        "1 notification could not be delivered, and was given up.",
    ] == list(headlines(reports["month"]))
    disk = reports["month"].disks[0].model_copy(update={"verdict": "filling", "full_at": END + DAY, "full_in_seconds": DAY})
    assert "self, /: full in 1 d (2025-10-17)." in list(headlines(reports["month"].model_copy(update={"disks": (disk,)})))
