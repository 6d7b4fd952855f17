"""A report as HTML, text, CSV or JSON. Pure."""

import textwrap
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Literal, get_args

import orjson
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from service import plot, spreadsheet
from service.reports.facts import HEAD, facts
from service.reports.model import Report
from service.reports.sections import Section, headlines, minute, period, sections, title

Format = Literal["html", "text", "csv", "json"]
FORMATS: tuple[Format, ...] = get_args(Format)
MEDIA: Mapping[Format, str] = {"html": "text/html", "text": "text/plain", "csv": "text/csv", "json": "application/json"}
WIDTH = 80  # columns of text
MOST_ROWS = 25  # of a table in text; the other forms have all of them
NARROWEST = 8  # columns of a cell that is cut
GAP = "  "


def rendered(report: Report, form: Format) -> str:
    return _FORMS[form](report)


def file_name(report: Report, form: Format) -> str:
    """What a download is called."""
    first, last = (minute(moment)[:10] for moment in (report.period.since, report.period.until))
    return f"tocsin-report-{first}-to-{last}.{'txt' if form == 'text' else form}"


def html(report: Report) -> str:
    """One file that needs no other, and in which nothing runs."""
    return _template().render(
        title=title(report),
        period=period(report),
        made=minute(report.made_at),
        headlines=list(headlines(report)),
        sections=sections(report),
    )


def text(report: Report) -> str:
    """For a terminal and for chats: WIDTH columns."""
    lines = [_plain(title(report)), period(report), ""]
    for headline in headlines(report):
        lines += textwrap.wrap(_plain(headline), WIDTH, initial_indent="- ", subsequent_indent="  ")
    for section in sections(report):
        lines += ["", section.title.upper(), *_lines(section)]
    return "\n".join(lines) + "\n"


def csv(report: Report) -> str:
    """A line for each number."""
    return spreadsheet.written(HEAD, facts(report))


def json(report: Report) -> str:
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    return orjson.dumps(report.model_dump(mode="json"), option=options).decode()


_FORMS: Mapping[Format, Callable[[Report], str]] = {"html": html, "text": text, "csv": csv, "json": json}


def _lines(section: Section) -> Iterator[str]:
    """A table in columns; words are cut where it would be wider than WIDTH."""
    if not section.rows:
        yield section.nothing
        return
    cells = [section.head, *(tuple(_plain(cell) for cell in row.cells) for row in section.rows[:MOST_ROWS])]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    while sum(widths) + len(GAP) * (len(widths) - 1) > WIDTH and max(widths[: section.words]) > NARROWEST:
        widest = max(range(section.words), key=lambda number: widths[number])
        widths[widest] -= 1
    for row in cells:
        fitted = (cell if len(cell) <= width else f"{cell[: width - 1]}…" for cell, width in zip(row, widths, strict=True))
        aligned = (
            cell.ljust(width) if number < section.words else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(fitted, widths, strict=True))
        )
        yield GAP.join(aligned).rstrip()
    if len(section.rows) > MOST_ROWS:
        yield f"and {len(section.rows) - MOST_ROWS} more"


def _plain(text: str) -> str:
    """Without what a terminal would obey, in one line: names come from other machines."""
    return "".join(each if each.isprintable() else " " for each in text)


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(plot.TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html")
