"""A report over a month in a real browser: it is looked at in light and dark, on paper and on a phone."""

from pathlib import Path

import pytest

from service.database import connect
from service.reports import render
from service.reports.gather import make
from tests import month
from tests.browser import CHROMIUM, SCREENSHOTS, browsing, tab
from tests.month import CONFIGURATION, DAY, END
from tests.stack import unless

pytestmark = [pytest.mark.native, unless(bool(CHROMIUM), "no Chromium is installed")]


def test_a_report_over_a_month_in_a_browser(tmp_path: Path) -> None:
    """It asks nobody, breaks no policy of its own, fits on a phone, and has a line in each of its pictures."""
    engine = connect(f"sqlite:///{tmp_path}/tocsin.db")
    month.make(engine)
    report = make(engine, CONFIGURATION, END - 30 * DAY, END, END + 60.0)
    engine.dispose()
    file = tmp_path / "report.html"
    file.write_text(render.html(report), encoding="utf-8")
    with browsing() as browser:
        for name, options in (
            ("report", {"viewport": {"width": 1100, "height": 900}}),
            ("report-dark", {"viewport": {"width": 1100, "height": 900}, "color_scheme": "dark"}),
            ("report-phone", {"viewport": {"width": 360, "height": 740}}),
        ):
            with tab(browser, file.as_uri(), **options) as seen:
                seen.page.goto(file.as_uri())
                assert seen.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
                drawn = "[...document.querySelectorAll('svg')].filter(each => each.querySelector('polyline, circle')).length"
                assert len(report.availability) + len(report.readings) == seen.page.evaluate(drawn)
                seen.shoot(name)
        with tab(browser, file.as_uri()) as seen:
            seen.page.goto(file.as_uri())
            assert 10_000 < len(seen.page.pdf(path=SCREENSHOTS / "report.pdf", format="A4"))
