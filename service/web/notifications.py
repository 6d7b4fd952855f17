"""/api/v1/notifications: what each receiver was or is to be told, and whether it arrived. docs/api.md has the details."""

from typing import Annotated

from apiflask import APIBlueprint
from flask import Response
from pydantic import Field
from werkzeug.exceptions import NotFound

from service import notifications
from service.notifications import Notification, State
from service.settings import Settings
from service.values import iso
from service.web.api import Next, Period, Shape, Time, View, answer, guarded, next_page, operation, time_of
from service.web.errors import problem


class NotificationsAsked(Period):
    """Which notifications, in pages; the period is about when they last changed."""

    receiver: Annotated[str | None, Field(description="Those for this receiver.", examples=["ops"])] = None
    state: Annotated[State | None, Field(description="Those in this state.", examples=["delivered"])] = None
    alert: Annotated[str | None, Field(description="Those of this rule.", examples=["TargetDown"])] = None
    target: Annotated[str | None, Field(description="Those of this target.", examples=["shop"])] = None


class NotificationShape(Shape):
    """What one receiver is to know of one occurrence of an alert. Its resolved takes the place of its firing."""

    id: int
    receiver: str
    alert: Annotated[str | None, Field(description="The rule; null where it is about a report.")]
    target: str | None
    severity: str | None
    summary: str
    status: Annotated[str, Field(description="`firing`, `resolved` or `report`.")]
    changed_at: Annotated[Time, Field(description="Since when that is to be told.")]
    state: Annotated[State, Field(description="`waiting`: there is something to tell. `dead`: given up.")]
    delivered_at: Annotated[Time | None, Field(description="When the receiver last took what it was told of this.")]
    attempts: Annotated[int, Field(description="Tries to send the last message that had it.")]
    last_error: Annotated[str | None, Field(description="Why the last of these tries failed; null if it did not.")]
    occurrence: str
    fingerprint: str | None


class NotificationsShape(Shape):
    """A page of notifications."""

    notifications: list[NotificationShape]
    next: Next


def blueprint(settings: Settings) -> APIBlueprint:
    """The routes, around one database."""
    routes = APIBlueprint("notifications", __name__, url_prefix="/api/v1", tag="Notifications")
    opened = guarded(routes, settings)
    routes.register_error_handler(notifications.UnknownError, lambda error: problem(NotFound(str(error))))
    for path, view in (("/notifications", NotificationsView), ("/notifications/<int:number>", NotificationView)):
        routes.add_url_rule(path, view_func=view.as_view(view.__name__, opened))
    return routes


class NotificationsView(View):
    @operation(NotificationsShape, query=NotificationsAsked)
    def get(self, query: NotificationsAsked) -> Response:
        """Notifications, the last to change first."""
        with self.reading() as connection:
            found, position = notifications.page(connection, **query.model_dump(exclude={"after"}), after=query.cursor())
        return answer(NotificationsShape(notifications=[_shape(each) for each in found], next=next_page(position)))


class NotificationView(View):
    @operation(NotificationShape)
    def get(self, number: int) -> Response:
        """One notification."""
        with self.reading() as connection:
            found = notifications.find(connection, number)
        return answer(_shape(found))


def _shape(notification: Notification) -> NotificationShape:
    said = notification.content
    return NotificationShape(
        id=notification.id,
        receiver=notification.receiver,
        alert=said.get("alert"),
        target=said.get("target"),
        severity=said.get("severity"),
        summary=said["summary"],
        status=notification.status,
        changed_at=iso(notification.changed),
        state=notification.state,
        delivered_at=time_of(notification.delivered),
        attempts=notification.attempts,
        last_error=notification.error,
        occurrence=notification.occurrence,
        fingerprint=said.get("fingerprint"),
    )
