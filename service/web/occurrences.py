"""/api/v1/occurrences: every time that an alert fired, also when it is over. docs/history.md has the details."""

from typing import Annotated

from apiflask import APIBlueprint
from flask import Response
from pydantic import Field
from werkzeug.exceptions import NotFound

from service import occurrences
from service.occurrences import Occurrence
from service.settings import Settings
from service.values import iso
from service.web.api import Flag, Next, Period, Shape, Time, View, answer, guarded, next_page, operation, time_of
from service.web.errors import problem


class OccurrencesAsked(Period):
    """Which firings, in pages; the period is about when they fired."""

    alert: Annotated[str | None, Field(description="Those of this rule.", examples=["TargetDown"])] = None
    target: Annotated[str | None, Field(description="Those of this target.", examples=["shop"])] = None
    open: Annotated[Flag | None, Field(description="Those that still fire, or those that do not.")] = None


class OccurrenceShape(Shape):
    """One firing of an alert."""

    id: Annotated[str, Field(description="As messages and notifications name it.")]
    fingerprint: str
    alert: str
    target: str
    labels: dict[str, str]
    severity: str
    summary: str
    began_at: Annotated[Time, Field(description="When the condition was first seen to hold.")]
    fired_at: Time
    told_at: Annotated[Time | None, Field(description="When the first receiver had taken it.")]
    ended_at: Annotated[Time | None, Field(description="null while it fires.")]
    acknowledged_at: Time | None
    acknowledged_by: str | None
    restarts: Annotated[int, Field(description="That the monitor decided on for it.")]


class OccurrencesShape(Shape):
    """A page of firings."""

    occurrences: list[OccurrenceShape]
    next: Next


def blueprint(settings: Settings) -> APIBlueprint:
    """The routes, around one database."""
    routes = APIBlueprint("occurrences", __name__, url_prefix="/api/v1", tag="Alerts")
    opened = guarded(routes, settings)
    routes.register_error_handler(occurrences.UnknownError, lambda error: problem(NotFound(str(error))))
    for path, view in (("/occurrences", OccurrencesView), ("/occurrences/<identity>", OccurrenceView)):
        routes.add_url_rule(path, view_func=view.as_view(view.__name__, opened))
    return routes


class OccurrencesView(View):
    @operation(OccurrencesShape, query=OccurrencesAsked)
    def get(self, query: OccurrencesAsked) -> Response:
        """Every time that an alert fired, newest first."""
        asked = query.model_dump(exclude={"after", "open"})
        with self.reading() as connection:
            found, position = occurrences.page(connection, **asked, fires=query.open, after=query.cursor())
        return answer(OccurrencesShape(occurrences=[_shape(each) for each in found], next=next_page(position)))


class OccurrenceView(View):
    @operation(OccurrenceShape)
    def get(self, identity: str) -> Response:
        """One firing."""
        with self.reading() as connection:
            found = occurrences.find(connection, identity)
        return answer(_shape(found))


def _shape(each: Occurrence) -> OccurrenceShape:
    return OccurrenceShape(
        id=each.id,
        fingerprint=each.fingerprint,
        alert=each.alert,
        target=each.target,
        labels=dict(each.labels),
        severity=each.severity,
        summary=each.summary,
        began_at=iso(each.began),
        fired_at=iso(each.fired),
        told_at=time_of(each.told),
        ended_at=time_of(each.ended),
        acknowledged_at=time_of(each.acknowledged),
        acknowledged_by=each.acknowledged_by,
        restarts=each.restarts,
    )
