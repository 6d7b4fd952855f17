"""/api/v1/silences: which alerts are not told. docs/api.md has the details."""

import time
from typing import Annotated

from apiflask import APIBlueprint
from flask import Response, url_for
from pydantic import Field
from werkzeug.exceptions import Conflict, NotFound

from service import silences
from service.settings import Settings
from service.silences import Draft, Silence, State
from service.values import iso
from service.web.api import Next, Paged, Shape, Time, View, answer, changed, guarded, next_page, nothing, operation
from service.web.errors import problem

EXAMPLE = {"matchers": ['target="shop"'], "duration": "2h", "author": "ann", "comment": "moving house"}


class SilencesAsked(Paged):
    """Which silences, in pages."""

    state: Annotated[State | None, Field(description="Those in this state.", examples=["active"])] = None


class SilenceShape(Shape):
    """Alerts that all matchers match are not told from `starts_at` until before `ends_at`."""

    id: str
    state: State
    matchers: list[str]
    starts_at: Time
    ends_at: Time
    author: str
    comment: str
    heal: Annotated[bool, Field(description="Whether services are restarted all the same.")]
    created_at: Time
    updated_at: Time


class SilencesShape(Shape):
    """A page of silences."""

    silences: list[SilenceShape]
    next: Next


def blueprint(settings: Settings) -> APIBlueprint:
    """The routes, around one database."""
    routes = APIBlueprint("silences", __name__, url_prefix="/api/v1", tag="Silences")
    opened = guarded(routes, settings)
    routes.register_error_handler(silences.UnknownError, lambda error: problem(NotFound(str(error))))
    routes.register_error_handler(silences.ExpiredError, lambda error: problem(Conflict(str(error))))
    for path, view in (("/silences", SilencesView), ("/silences/<identity>", SilenceView)):
        routes.add_url_rule(path, view_func=view.as_view(view.__name__, opened))
    return routes


class SilencesView(View):
    @operation(SilencesShape, query=SilencesAsked)
    def get(self, query: SilencesAsked) -> Response:
        """All silences, newest first."""
        now = time.time()
        with self.reading() as connection:
            found, position = silences.page(connection, now, query.state, query.limit, query.cursor())
        return answer(SilencesShape(silences=[_shape(each, now) for each in found], next=next_page(position)))

    @operation(SilenceShape, 201, body=Draft, example=EXAMPLE)
    def post(self, body: Draft) -> Response:
        """Add a silence."""
        now = time.time()
        with self.changing() as connection:
            made = silences.add(connection, body, now)
        changed("silence-created", author=made.author, silence=made.id)
        return answer(_shape(made, now), 201, {"Location": url_for("silences.SilenceView", identity=made.id)})


class SilenceView(View):
    @operation(SilenceShape)
    def get(self, identity: str) -> Response:
        """One silence."""
        with self.reading() as connection:
            found = silences.find(connection, identity)
        return answer(_shape(found, time.time()))

    @operation(SilenceShape, body=Draft, example=EXAMPLE, errors=(409,))
    def put(self, identity: str, body: Draft) -> Response:
        """Put another in the place of one that has not ended."""
        now = time.time()
        with self.changing() as connection:
            made = silences.replace(connection, identity, body, now)
        changed("silence-changed", author=made.author, silence=made.id)
        return answer(_shape(made, now))

    @operation(None, 204, errors=(409,))
    def delete(self, identity: str) -> Response:
        """End a silence now."""
        with self.changing() as connection:
            ended = silences.expire(connection, identity, time.time())
        changed("silence-expired", silence=ended.id, created_by=ended.author)
        return nothing()


def _shape(silence: Silence, now: float) -> SilenceShape:
    return SilenceShape(
        id=silence.id,
        state=silence.state(now),
        matchers=[str(matcher) for matcher in silence.matchers],
        starts_at=iso(silence.starts),
        ends_at=iso(silence.ends),
        author=silence.author,
        comment=silence.comment,
        heal=silence.heal,
        created_at=iso(silence.created),
        updated_at=iso(silence.updated),
    )
