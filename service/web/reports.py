"""/api/v1/reports: health reports, which the monitor makes. docs/history.md has the details."""

import time
from typing import Annotated, Literal

from apiflask import APIBlueprint
from flask import Response, url_for
from pydantic import ConfigDict, Field
from werkzeug.exceptions import Conflict, NotFound, TooManyRequests

from service import reports
from service.reports import State, Wanted, render
from service.reports.model import Report
from service.settings import Settings
from service.values import iso
from service.web.api import (
    ASKED_AGAIN,
    Asked,
    Next,
    Paged,
    Shape,
    Time,
    View,
    answer,
    asked_again,
    changed,
    guarded,
    next_page,
    nothing,
    operation,
    time_of,
)
from service.web.errors import problem

EXAMPLE = {"since": "7d", "author": "ann"}
RETRY = 10  # seconds
NOT_DONE = {"asked": "It is not made yet.", "running": "It is being made.", "failed": "It failed: {}."}
# What is in a report comes from elsewhere; opened from here it may look well, and do nothing.
POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"


class ReportShape(Shape):
    """A report that was asked for, and how far it is."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)

    id: str
    state: State
    progress: Annotated[float, Field(description="0 to 1.")]
    begin: Annotated[Time, Field(alias="from")]
    end: Annotated[Time, Field(alias="to")]
    asked_at: Time
    asked_by: str
    ended_at: Time | None
    detail: Annotated[str, Field(description="Why it failed; else empty.")]


class WholeShape(ReportShape):
    """A report that was asked for, and what it says once it is done."""

    content: Report | None


class ReportsShape(Shape):
    """A page of reports."""

    reports: list[ReportShape]
    next: Next


class DownloadAsked(Asked):
    """As which kind of file."""

    format: Annotated[Literal["html", "json", "csv", "text"], Field(description="`html` is one file with all in it.")] = "html"


def blueprint(settings: Settings) -> APIBlueprint:
    """The routes, around one database."""
    routes = APIBlueprint("reports", __name__, url_prefix="/api/v1", tag="Reports")
    opened = guarded(routes, settings)
    routes.register_error_handler(reports.UnknownError, lambda error: problem(NotFound(str(error))))
    routes.register_error_handler(reports.TooManyError, lambda error: problem(TooManyRequests(f"{error}.", retry_after=RETRY)))
    for path, view in (
        ("/reports", ReportsView),
        ("/reports/<identity>", ReportView),
        ("/reports/<identity>/download", DownloadView),
    ):
        routes.add_url_rule(path, view_func=view.as_view(view.__name__, opened))
    return routes


class ReportsView(View):
    @operation(ReportsShape, query=Paged)
    def get(self, query: Paged) -> Response:
        """All reports, newest first, without what they say."""
        with self.reading() as connection:
            found, position = reports.page(connection, query.limit, query.cursor())
        return answer(ReportsShape(reports=[ReportShape(**_fields(each)) for each in found], next=next_page(position)))

    @operation(ReportShape, 202, body=Wanted, example=EXAMPLE, errors=(429,))
    def post(self, body: Wanted) -> Response:
        """Ask for a report. The monitor makes it within moments; ask the address in `Location` how far it is."""
        now = time.time()
        since, until = body.period(now)
        with self.changing() as connection:
            asked = reports.ask(connection, since, until, body.author, now)
        changed("report-asked", author=body.author, report=asked.id)
        place = url_for("reports.ReportView", identity=asked.id)
        return answer(ReportShape(**_fields(asked)), 202, {"Location": place})


class ReportView(View):
    @operation(WholeShape)
    def get(self, identity: str) -> Response:
        """One report, and what it says once it is done."""
        with self.reading() as connection:
            found = reports.find(connection, identity)
        return answer(WholeShape(**_fields(found), content=found.report))

    @operation(None, 204)
    def delete(self, identity: str) -> Response:
        """Delete a report, also while it is made."""
        with self.changing() as connection:
            gone = reports.remove(connection, identity)
        changed("report-deleted", report=identity, asked_by=gone.asked_by)
        return nothing()


class DownloadView(View):
    @operation(Report, query=DownloadAsked, errors=(409,), media=["text/html", "text/csv", "text/plain"])
    def get(self, identity: str, query: DownloadAsked) -> Response:
        """A report that is done, as a file."""
        with self.reading() as connection:
            found = reports.find(connection, identity)
        if found.report is None:
            raise Conflict(NOT_DONE[found.state].format(found.detail))
        name = render.file_name(found.report, query.format)
        headers = {**ASKED_AGAIN, "Content-Disposition": f'attachment; filename="{name}"', "Content-Security-Policy": POLICY}
        return asked_again(
            Response(render.rendered(found.report, query.format), headers=headers, mimetype=render.MEDIA[query.format])
        )


def _fields(asked: reports.Asked) -> dict[str, object]:
    return {
        "id": asked.id,
        "state": asked.state,
        "progress": asked.progress,
        "begin": iso(asked.since),
        "end": iso(asked.until),
        "asked_at": iso(asked.asked),
        "asked_by": asked.asked_by,
        "ended_at": time_of(asked.ended),
        "detail": asked.detail,
    }
