"""`format: alertmanager`, held against what the real Alertmanager sends."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
import requests
from pydantic import SecretStr

from service.monitor.receivers import message
from service.receiver import Receiver
from tests.alertmanager import Alertmanager, alertmanager, telling
from tests.receiver import receiving
from tests.stack import free_port
from tests.test_receivers import FIRING

RESOLVED = FIRING | {"status": "resolved", "ends_at": "2023-11-14T22:14:21.500Z"}
GROUPING = {"route": "critical", "labels": {"target": "self"}}


def sent(*contents: dict[str, Any], grouping: dict[str, Any] | None = None) -> Any:
    receiver = Receiver(name="ops", webhook=SecretStr("http://127.0.0.1/"), format="alertmanager")
    body, _ = message(receiver, "msg_x", contents, 1.0, 1.0, grouping=grouping or {})
    return orjson.loads(body)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the real one sends, by status, of an alert with the labels and annotations that ours has."""
    ours = sent(FIRING)["alerts"][0]
    with receiving() as receiver:
        configured = telling(receiver.url, receiver="ops", group_by=["target"], group_wait="10ms", group_interval="100ms")
        configured["receivers"][0]["name"] = "ops"
        with alertmanager(tmp_path_factory.mktemp("alertmanager"), free_port(), configured) as real:
            alert = {"labels": ours["labels"], "annotations": ours["annotations"]}
            alert["startsAt"] = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
            post(real, alert)
            receiver.wait_for(1)
            post(real, alert | {"endsAt": (datetime.now(UTC) - timedelta(seconds=1)).isoformat()})
            receiver.wait_for(2)
        yield {request.message["status"]: request.message for request in receiver.requests}


def post(real: Alertmanager, alert: dict[str, Any]) -> None:
    requests.post(f"{real.url}/api/v2/alerts", json=[alert], timeout=5).raise_for_status()


def shape(part: object) -> object:
    """Keys and JSON types, at every level."""
    if isinstance(part, dict):
        return {key: shape(value) for key, value in part.items()}
    return [shape(each) for each in part] if isinstance(part, list) else type(part)


@pytest.mark.parametrize(("status", "content"), [("firing", FIRING), ("resolved", RESOLVED)])
def test_a_body_is_alertmanagers_own(theirs: dict[str, Any], status: str, content: dict[str, Any]) -> None:
    """The same keys and JSON types at every level, and the same values where both were given the same."""
    ours, real = sent(content, grouping=GROUPING), theirs[status]
    assert shape(real) == shape(ours)
    for name in ("version", "status", "receiver", "truncatedAlerts", "groupLabels", "commonLabels", "commonAnnotations"):
        assert real[name] == ours[name]
    for name in ("status", "labels", "annotations"):
        assert real["alerts"][0][name] == ours["alerts"][0][name]


def test_an_alert_that_fires_has_not_ended(theirs: dict[str, Any]) -> None:
    """Both say so with Go's zero time; a resolved has its end."""
    assert "0001-01-01T00:00:00Z" == theirs["firing"]["alerts"][0]["endsAt"] == sent(FIRING)["alerts"][0]["endsAt"]
    assert "2023-11-14T22:14:21.500Z" == sent(RESOLVED)["alerts"][0]["endsAt"]
    assert "2023-11-14T22:13:20.000Z" == sent(RESOLVED)["alerts"][0]["startsAt"]


def test_labels_say_what_and_where() -> None:
    """Labels are the alert's own and those of its target, annotations what people read."""
    (alert,) = sent(FIRING | {"labels": {"mount": "/srv"}, "instance": "web-1"})["alerts"]
    assert {
        "alertname": "HighCpu",
        "severity": "warning",
        "target": "self",
        "instance": "web-1",
        "metric": "cpu_usage",
        "mount": "/srv",
    } == alert["labels"]
    assert {"summary": FIRING["summary"], "description": FIRING["reason"]} == alert["annotations"]
    assert FIRING["fingerprint"] == alert["fingerprint"]


def test_what_alerts_have_in_common_is_said_once() -> None:
    """Of two alerts the common labels are those that are the same in both; one that fires makes it a firing."""
    body = sent(RESOLVED, FIRING | {"target": "shop"}, grouping=GROUPING)
    assert "firing" == body["status"]
    assert ["resolved", "firing"] == [alert["status"] for alert in body["alerts"]]
    assert {"alertname", "severity", "metric"} == set(body["commonLabels"])


@pytest.mark.parametrize(
    ("grouping", "key", "labels"),
    [
        ({}, "{}:{}", {}),
        (GROUPING, '{}/{critical}:{target="self"}', {"target": "self"}),
        ({"route": "", "labels": {"b": 'x"y', "a": "1"}}, '{}:{a="1", b="x\\"y"}', {"a": "1", "b": 'x"y'}),
    ],
)
def test_a_group_has_a_key_of_its_own(grouping: dict[str, Any], key: str, labels: dict[str, str]) -> None:
    """Route and values are in the key, which is the same for every message of the group."""
    body = sent(FIRING, grouping=grouping)
    assert (key, labels) == (body["groupKey"], body["groupLabels"])
    assert body["groupKey"] == sent(RESOLVED, grouping=grouping)["groupKey"]
