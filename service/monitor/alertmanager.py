"""Alertmanager's two shapes: the body of its webhooks (`format: alertmanager`), and that of its API (`alertmanager: URL`).

In both an alert is its labels: they alone say which one it is.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import orjson

from service.monitor.exchange import Client
from service.receiver import Receiver
from service.values import iso

NO_END = "0001-01-01T00:00:00Z"  # Go's zero time, which is how Alertmanager says that an alert has not ended
PATH = "/api/v2/alerts"
# Seconds after which an alert that is not refreshed has ended for Alertmanager: what it says of a Tocsin that is gone.
# Ten refreshes can fail before, and a machine starts anew in that time.
EXPIRES = 600.0
LONGEST_REASON = 300  # characters of what it says about a refusal
SHORTEST_SECRET = 4  # characters; what is shorter is no secret, but part of other words
BELOW_CRITICAL = ("info", "warning")

_NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9_]")


class Alertmanager(Client):
    """The way to one Alertmanager. `public` is our own address, for links; `expires` in seconds."""

    def __init__(self, receiver: Receiver, public: str = "", expires: float = EXPIRES) -> None:
        super().__init__(proxy=receiver.proxy, ca=receiver.ca)
        # A link that Go cannot parse makes it refuse every alert in the post: no link is worth that.
        self.public = public if public.isprintable() and "%" not in public else ""
        self.expires = expires
        base, given = receiver.address.get_secret_value(), receiver.headers.items()
        self.url = base + PATH
        self.headers = {name: text.get_secret_value() for name, text in given} | {"Content-Type": "application/json"}
        parts = urlsplit(base)
        words = [word for _, text in given for word in text.get_secret_value().split()]
        self._secrets = [parts.netloc, parts.hostname, parts.password, parts.path.strip("/"), *words]

    def body(self, contents: Sequence[Mapping[str, Any]], now: float) -> bytes:
        """What is posted at the time `now`. Unlike a webhook's it depends on that: what fires is put off to end later."""
        alerts = [alert for content in contents for alert in posted(content, now, now + self.expires)]
        return orjson.dumps([alert | {"generatorURL": self.public} for alert in alerts] if self.public else alerts)

    def reason(self, answer: bytes) -> str:
        """What it says about a refusal, in a line; empty for what is not its own voice, such as a proxy's page."""
        try:
            said = orjson.loads(answer)
        except orjson.JSONDecodeError:
            return ""
        text = said.get("message") if isinstance(said, dict) else said
        if not isinstance(text, str):
            return ""
        for secret in self._secrets:
            text = text.replace(secret, "…") if secret and len(secret) >= SHORTEST_SECRET else text
        text = " ".join("".join(each if each.isprintable() else " " for each in text).split())
        return text if len(text) <= LONGEST_REASON else f"{text[: LONGEST_REASON - 1]}…"


def posted(content: Mapping[str, Any], now: float, until: float) -> list[dict[str, Any]]:
    """An alert as its API takes it, that fires until then; and the end of what it was before it was given up.

    https://github.com/prometheus/alertmanager/blob/main/api/v2/openapi.yaml, `postableAlert`
    """
    ends = content["ends_at"] or iso(until)
    alert = {
        "labels": labels(content),
        "annotations": annotations(content),
        "startsAt": min(content["starts_at"], ends),  # it refuses an end before the beginning: a clock was set back
        "endsAt": ends,
    }
    if (content.get("healing") or {}).get("state") != "gave_up":
        return [alert]
    # Critical it is another alert to it. Which severity its rule had, nobody knows here; what it never saw it ignores.
    over = min(ends, iso(now))
    before = {**alert, "startsAt": min(alert["startsAt"], over), "endsAt": over}
    return [*({**before, "labels": alert["labels"] | {"severity": each}} for each in BELOW_CRITICAL), alert]


def webhook(name: str, status: str, contents: Sequence[Mapping[str, Any]], grouping: Mapping[str, Any]) -> dict[str, Any]:
    """The body of its webhooks, version 4.

    https://prometheus.io/docs/alerting/latest/configuration/#webhook_config
    """
    alerts = [_received(content) for content in contents]
    group = {name: str(text) for name, text in grouping.get("labels", {}).items()}
    route = f"{{}}/{{{grouping['route']}}}" if grouping.get("route") else "{}"
    key = ", ".join(f"{name}={orjson.dumps(text).decode()}" for name, text in sorted(group.items()))
    return {
        "receiver": name,
        "status": status,
        "alerts": alerts,
        "groupLabels": group,
        "commonLabels": _common(alert["labels"] for alert in alerts),
        "commonAnnotations": _common(alert["annotations"] for alert in alerts),
        "externalURL": "",
        "version": "4",
        "groupKey": f"{route}:{{{key}}}",
        "truncatedAlerts": 0,
    }


def labels(content: Mapping[str, Any]) -> dict[str, str]:
    """What says which alert it is, in both shapes. A name has letters, digits and `_`, and does not begin with a digit."""
    ours = {"alertname": content["alert"], "severity": content["severity"], "target": content["target"]}
    ours |= {"instance": content.get("instance", ""), "metric": content["metric"]}
    its = {_label(name): text for name, text in content["labels"].items()}
    return {name: text for name, text in {**its, **ours}.items() if text}


def annotations(content: Mapping[str, Any]) -> dict[str, str]:
    """What people read."""
    return {"summary": content["summary"], "description": content["reason"]}


def _label(name: str) -> str:
    name = _NOT_IN_A_NAME.sub("_", name)
    return f"_{name}" if not name or name[0].isdigit() else name


def _received(content: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "status": content["status"],
        "labels": labels(content),
        "annotations": annotations(content),
        "startsAt": content["starts_at"],
        "endsAt": content["ends_at"] or NO_END,
        "generatorURL": "",
        "fingerprint": content["fingerprint"],
    }


def _common(maps: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """What stands in all of them."""
    first, *others = maps
    return {name: text for name, text in first.items() if all(each.get(name) == text for each in others)}
