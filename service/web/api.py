"""What the calls of the API share: their documentation, the key, the database, bodies in JSON, pages of lists, and what
is said when something cannot be done.

Everyone may read; who changes something needs the API key. SQLite blocks the whole worker, so a transaction is a few
statements and waits a second at most.

APIFlask reads what a call takes and gives from the models that check it, and makes the document of it. What it would
read and refuse in its own words goes through `Checked`, and so through ours.
"""

import base64
import json
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from types import MappingProxyType
from typing import Annotated, Any, TypeVar
from urllib.parse import urlencode

import orjson
import structlog
from apiflask import APIBlueprint
from apiflask.scaffold import APIScaffold
from apiflask.schema_adapters import registry
from apiflask.schema_adapters.pydantic import PydanticAdapter
from apiflask.views import MethodView
from flask import Request, Response, request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import BadRequest, ServiceUnavailable, UnsupportedMediaType

from service import database
from service.checking import FaultsError, Moment, checked
from service.pages import Position, PositionError
from service.settings import Settings
from service.values import iso
from service.web.auth import key_required
from service.web.errors import Unprocessable, problem

PATIENCE = 1.0  # seconds
RETRY = 5  # seconds
NOT_KEPT = {"Cache-Control": "no-store"}
ASKED_AGAIN = {"Cache-Control": "no-cache"}
MOST = 500  # of a list in one answer
LONGEST_CURSOR = 500
# What comes of values in the database that nobody put there: SQLite sees only what breaks its structure.
ODD = (ValueError, TypeError, AttributeError, LookupError, OverflowError, OSError)  # the last of a time beyond all years
NOTED = "x-noted"  # under which the document has what `openapi` makes something of

View_ = TypeVar("View_", bound=Callable[..., Any])
_log = structlog.get_logger()
_document = APIScaffold()


class Shape(BaseModel):
    """What an answer holds. Its fields stand in the order in which they are written here."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Time = Annotated[str, Field(json_schema_extra={"format": "date-time"}, examples=["2026-10-16T11:41:00.000Z"])]
Next = Annotated[str | None, Field(description="What to send as `after` for the page behind this one; null when there is none.")]


class Asked(BaseModel):
    """What may stand behind the question mark of an address."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _whole(text: object) -> object:
    if isinstance(text, str) and not (text.isascii() and text.isdecimal()):
        raise ValueError("is not a whole number")
    return text


class Paged(Asked):
    """A list in pages."""

    limit: Annotated[int, Field(ge=1, le=MOST, description="How many at most.", examples=[20]), BeforeValidator(_whole)] = 100
    after: Annotated[
        str | None,
        Field(max_length=LONGEST_CURSOR, description="The `next` of the page before: go on behind it."),
    ] = None

    def cursor(self) -> Position | None:
        """Where to go on: what `next_page` was given. Raises Unprocessable for what is none of ours."""
        if self.after is None:
            return None
        try:
            padded = self.after + "=" * (-len(self.after) % 4)
            found = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, list):
            raise Unprocessable([("after", "is no `next` of a page")])
        return found


class Period(Paged):
    """A list in pages, of a period."""

    since: Annotated[
        Moment | None,
        Field(description="At this time or after it: ISO 8601 with a zone.", examples=["2026-10-16T11:41:00Z"]),
    ] = None
    until: Annotated[
        Moment | None, Field(description="Before this time: ISO 8601 with a zone.", examples=["2100-10-16T13:41:00+02:00"])
    ] = None


def _flag(text: object) -> object:
    if text not in ("true", "false"):
        raise ValueError("is neither true nor false")
    return text == "true"


Flag = Annotated[bool, BeforeValidator(_flag), WithJsonSchema({"type": "boolean", "examples": [True]})]


def next_page(position: Position | None) -> str | None:
    """What leads to the page behind this position, the values by which the list is sorted; None when there is none."""
    return None if position is None else base64.urlsafe_b64encode(orjson.dumps(list(position))).decode().rstrip("=")


class Checked(PydanticAdapter):
    """Reads what a client sent by our own rules: `place` and `fault` for all that is wrong, and the time for who asks."""

    def get_schema_name(self) -> str:
        return self.model_class.model_config.get("title") or self.model_class.__name__

    def validate_input(self, request: Request, location: str, **_: Any) -> BaseModel:
        if location == "json":
            return checked(self.model_class, sent(), time.time())
        twice = [name for name, values in request.args.lists() if len(values) > 1]
        if twice:
            raise Unprocessable([(name, "is given more than once") for name in twice])
        return checked(self.model_class, request.args.to_dict(), time.time())


registry.register("pydantic", Checked)


def operation(
    gives: type[BaseModel] | None,
    status: int = 200,
    *,
    body: type[BaseModel] | None = None,
    query: type[BaseModel] | None = None,
    example: Mapping[str, Any] | None = None,
    errors: Iterable[int] = (),
    also: Mapping[int, type[BaseModel]] = MappingProxyType({}),
    media: Iterable[str] = (),
) -> Callable[[View_], View_]:
    """Document a method of a View, and let it have what it takes, checked, as `body` and `query`.

    Its docstring is what the document says of it. `example` is a body that may be sent as it stands; `also` are answers
    of another shape, `media` other media types of the answer. What all of them have in common, `openapi` adds.
    """

    def documented(method: View_) -> View_:
        extensions = {NOTED: {"also": dict(also), "media": list(media)}}
        method = _document.doc(responses=sorted({*errors, 503}), extensions=extensions)(method)
        method = _document.output(gives or {}, status)(method)
        if query is not None:
            method = _document.input(query, location="query", arg_name="query")(method)
        if body is not None:
            method = _document.input(body, arg_name="body", example=example)(method)
        return method

    return documented


class Database:
    """Opened at first use and then kept, so that a server starts, and answers for its health, without one."""

    def __init__(self, address: str, patience: float = PATIENCE) -> None:
        self.address, self._patience = address, patience

    @cached_property
    def engine(self) -> Engine:
        try:
            return database.connect(self.address, patience=self._patience, pooled=False)
        except ImportError as error:
            raise SQLAlchemyError("its driver is missing") from error

    def or_none(self) -> Engine | None:
        """For what is done without a database, too."""
        try:
            return self.engine
        except SQLAlchemyError as error:
            self.unusable(error)
            return None

    def unusable(self, error: Exception) -> None:
        """Log it. Not in the error's own words: those of a database server may repeat what its address holds."""
        why = getattr(getattr(error, "orig", None), "sqlite_errorname", None) or type(error).__name__
        # Where odd values were met is worth knowing: it may as well be a fault of ours.
        known = None if isinstance(error, SQLAlchemyError) else error
        _log.error("cannot use the database", database=database.shown(self.address), reason=why, exc_info=known)


class View(MethodView):
    """One address, and the database."""

    init_every_request = False

    def __init__(self, opened: Database) -> None:
        self._opened = opened

    def reading(self) -> Connection:
        return database.reading(self._opened.engine)

    def changing(self) -> AbstractContextManager[Connection]:
        return self._opened.engine.begin()


def guarded(routes: APIBlueprint, settings: Settings) -> Database:
    """Let these routes ask for the key and answer every error alike; the database that they use."""
    opened = Database(settings.database)

    def unusable(error: Exception) -> Response:
        opened.unusable(error)
        return problem(ServiceUnavailable("The database cannot be used at the moment.", retry_after=RETRY))

    def odd(error: Exception) -> Response:
        if request.method not in ("GET", "HEAD"):
            raise error
        return unusable(error)

    routes.before_request(key_required(settings.api_key))
    routes.register_error_handler(SQLAlchemyError, unusable)
    for kind in ODD:  # our own errors are of these kinds too, and have handlers of their own, which go first
        routes.register_error_handler(kind, odd)
    routes.register_error_handler(PositionError, lambda error: problem(Unprocessable([("after", str(error))])))
    routes.register_error_handler(FaultsError, lambda error: problem(Unprocessable(error.faults)))
    return opened


def sent() -> Any:
    """The JSON that came. Raises UnsupportedMediaType or BadRequest."""
    if not request.is_json:
        raise UnsupportedMediaType("Send it as application/json.")
    try:
        return json.loads(request.get_data())  # not orjson: it takes half a character for no JSON at all
    except (ValueError, RecursionError):
        raise BadRequest("The body is not JSON.") from None


def answer(shape: BaseModel, status: int = 200, headers: Mapping[str, str] = MappingProxyType({})) -> Response:
    """An answer. What a GET gives has an ETag, so that what has not changed is a 304 without a body when asked for again.

    A page of a list says in `Link` where the next one is (RFC 8288).
    """
    asked = request.method in ("GET", "HEAD") and status == 200
    body = orjson.dumps(shape.model_dump(mode="json"))
    response = Response(body, status, {**(ASKED_AGAIN if asked else NOT_KEPT), **headers}, mimetype="application/json")
    if following := getattr(shape, "next", None):
        query = urlencode({**request.args, "after": following})
        response.headers["Link"] = f'<{request.path}?{query}>; rel="next"'
    return asked_again(response) if asked else response


def asked_again(response: Response) -> Response:
    """With an ETag, and without a body for who has it already. Of the conditions only `If-None-Match` counts."""
    response.add_etag()
    if request.if_none_match.contains_weak(str(response.get_etag()[0])):
        response.status_code = 304
    return response


def nothing() -> Response:
    """The answer to what is done and leaves nothing to say."""
    response = Response(status=204, headers=NOT_KEPT)
    del response.headers["Content-Type"]
    return response


def changed(action: str, **about: str) -> None:
    """Log what a person has changed. `author` is who did it, where the call says so."""
    _log.info(action.replace("-", " "), **{"event.category": "configuration", "event.action": action}, **about)


def time_of(moment: float | None) -> str | None:
    return None if moment is None else iso(moment)
