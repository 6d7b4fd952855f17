"""The shape of a message. Values are put together first and serialized last, so no text can break the JSON.

The schema is docs/webhook.md; headers are those of Standard Webhooks (https://www.standardwebhooks.com).
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from service.configuration import Receiver, Rule, fill_summary
from service.monitor.probe import Sample
from service.monitor.rules import Outcome, State
from service.signing import sign
from service.values import number

VERSION = "1"


def content(rule: Rule, sample: Sample, fingerprint: str, previous: State, outcome: Outcome) -> dict[str, Any]:
    """What a transition has to say, as it is kept in the outbox. Built once, so every try says the same."""
    now = outcome.state.since
    resolved = outcome.transition == "resolved"
    started = previous.since if resolved else now
    values = {
        "alert": rule.alert,
        "target": sample.target,
        "value": number(sample.value),
        "unit": " %" if sample.unit == "percent" else f" {sample.unit}" if sample.unit else "",
        "threshold": number(rule.when.threshold),
        "severity": rule.severity,
        "scope": sample.scope,
        "mount": sample.labels.get("mount", ""),
    }
    summary = fill_summary(rule.summary, values)
    return {
        "status": outcome.transition,
        "alert": rule.alert,
        "severity": rule.severity,
        "target": sample.target,
        "labels": dict(sample.labels),
        "summary": f"Resolved after {length(now - started)}: {summary}" if resolved else summary,
        "condition": str(rule.when),
        "reason": sample.reason or outcome.reason,
        "metric": sample.metric,
        "value": sample.value,
        "unit": sample.unit,
        "scope": sample.scope,
        "starts_at": iso(started),
        "ends_at": iso(now) if resolved else None,
        "fingerprint": fingerprint,
        "occurrence": f"{fingerprint}-{round(started * 1000)}",
    }


def message_id(content: Mapping[str, Any]) -> str:
    """New for each occurrence and transition, the same for every try and every receiver of it."""
    return f"msg_{content['occurrence']}-{content['status']}"


def message(receiver: Receiver, identity: str, content: Mapping[str, Any], now: float) -> tuple[bytes, dict[str, str]]:
    """Body and headers of one try at the time `now`. The body does not depend on the time, the signature does."""
    body = orjson.dumps(
        {
            "version": VERSION,
            "type": f"alert.{content['status']}",
            "id": identity,
            "timestamp": content["ends_at"] or content["starts_at"],
            "data": {"alerts": [content]},
        }
    )
    headers = {"Content-Type": "application/json", "webhook-id": identity, "webhook-timestamp": str(int(now))}
    if receiver.secret is not None:
        headers["webhook-signature"] = sign(receiver.secret, identity, int(now), body)
    return body, headers


def length(seconds: float) -> str:
    """A length of time in its two largest units: `41 s`, `2 min 5 s`, `3 h`, `1 d 4 h`."""
    whole = max(0, round(seconds))
    parts = ((whole // 86_400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s"))
    first = next((index for index, (number, _) in enumerate(parts) if number), 3)
    return " ".join(f"{number} {unit}" for number, unit in parts[first : first + 2] if number) or "0 s"


def iso(moment: float) -> str:
    """Seconds since 1970 as ISO 8601 in UTC, with milliseconds."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
