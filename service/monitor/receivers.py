"""The shape of a message. Values are put together first and serialized last, so no text can break the JSON.

The schema is docs/webhook.md; headers are those of Standard Webhooks (https://www.standardwebhooks.com).
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from service.configuration import Receiver, Rule, fill_summary
from service.monitor.probe import Sample
from service.monitor.rules import Outcome, State
from service.signing import sign
from service.values import number

VERSION = "1"
LONGEST_TEXT = 1000  # bytes of JSON that one text in a message may take


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
        "late": False,
        "alert": short(rule.alert),
        "severity": rule.severity,
        "target": short(sample.target),
        "labels": {short(name): short(text) for name, text in sample.labels.items()},
        "summary": short(f"Resolved after {length(now - started)}: {summary}" if resolved else summary),
        "condition": str(rule.when),
        "reason": short(sample.reason or outcome.reason),
        "metric": sample.metric,
        "value": sample.value,
        "unit": sample.unit,
        "scope": short(sample.scope),
        "starts_at": iso(started),
        "ends_at": iso(now) if resolved else None,
        "fingerprint": fingerprint,
        "occurrence": f"{fingerprint}-{round(started * 1000)}",
    }


def removed(firing: Mapping[str, Any], now: float) -> dict[str, Any]:
    """The resolved of an alert whose rule or target is no longer configured, from what its firing said."""
    started = datetime.fromisoformat(firing["starts_at"]).timestamp()
    summary = f"No longer watched, after {length(now - started)}: {firing['summary']}"
    reason = "its rule or target was removed from the configuration"
    return {**firing, "status": "resolved", "summary": short(summary), "reason": reason, "ends_at": iso(now)}


def late(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a resolved whose firing was never told: it says both, and that it comes late."""
    since, until = (resolved[name][11:16] for name in ("starts_at", "ends_at"))
    return {**resolved, "late": True, "summary": short(f"Told late, {since} to {until} UTC: {resolved['summary']}")}


def message(
    receiver: Receiver, identity: str, contents: Sequence[Mapping[str, Any]], created: float, now: float
) -> tuple[bytes, dict[str, str]]:
    """Body and headers of one try at the time `now`. The body does not depend on the time, the signature does."""
    status = "firing" if any(content["status"] == "firing" for content in contents) else "resolved"
    body = orjson.dumps(
        {
            "version": VERSION,
            "type": f"alert.{status}",
            "id": identity,
            "timestamp": iso(created),
            "data": {"alerts": contents},
        }
    )
    headers = {"Content-Type": "application/json", "webhook-id": identity, "webhook-timestamp": str(int(now))}
    if receiver.secret is not None:
        headers["webhook-signature"] = sign(receiver.secret, identity, int(now), body)
    return body, headers


def short(text: str) -> str:
    """A text that takes at most LONGEST_TEXT bytes of JSON, cut visibly; what no UTF-8 has is written as `\\udc80`."""
    text = text.encode("utf-8", "backslashreplace").decode()
    if len(orjson.dumps(text)) <= LONGEST_TEXT:
        return text
    keep = LONGEST_TEXT
    while len(orjson.dumps(text[:keep])) > LONGEST_TEXT - 40:
        keep = keep * 3 // 4
    return f"{text[:keep]}… [{len(text) - keep} characters cut]"


def length(seconds: float) -> str:
    """A length of time in its two largest units: `41 s`, `2 min 5 s`, `3 h`, `1 d 4 h`."""
    whole = max(0, round(seconds))
    parts = ((whole // 86_400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s"))
    first = next((index for index, (number, _) in enumerate(parts) if number), 3)
    return " ".join(f"{number} {unit}" for number, unit in parts[first : first + 2] if number) or "0 s"


def iso(moment: float) -> str:
    """Seconds since 1970 as ISO 8601 in UTC, with milliseconds."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
