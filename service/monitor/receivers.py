"""The shape of a message. Values are put together first and serialized last, so no text can break the JSON.

The schema is docs/webhook.md; headers are those of Standard Webhooks (https://www.standardwebhooks.com).
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import orjson

from service.conditions import ABSENT
from service.configuration import Rule, fill_summary
from service.monitor import alertmanager
from service.monitor.healing import Healing
from service.monitor.probe import Sample
from service.monitor.rules import Outcome, State
from service.monitor.rules import fingerprint as fingerprint_of
from service.receiver import Receiver
from service.signing import sign
from service.values import iso, length, number

MISSING = "{{ target }}: {{ alert }}, there is no value"  # for absent() without a summary of its own
NOTHING = Healing()
VERSION = "1"
LONGEST_TEXT = 1000  # bytes of JSON that one text in a message may take
LONGEST_REPORT = 12_000  # the same for the text of a report
REPORT = ("id", "instance", "summary", "since", "until", "text", "url")


def content(
    rule: Rule,
    sample: Sample,
    previous: State,
    outcome: Outcome,
    *,
    fingerprint: str,
    instance: str = "",
    healing: Healing = NOTHING,
) -> dict[str, Any]:
    """What a transition has to say, as it is kept in the outbox. Built once, so every try says the same.

    `instance` is which of many Tocsins says it, `healing` what was done before it was resolved.
    """
    now = outcome.state.since
    resolved = outcome.transition == "resolved"
    started = previous.since if resolved else now
    values = {
        "alert": rule.alert,
        "target": sample.target,
        "value": "no value" if sample.value is None else number(sample.value),
        "unit": "" if sample.value is None else " %" if sample.unit == "percent" else f" {sample.unit}" if sample.unit else "",
        "threshold": number(rule.when.threshold),
        "severity": rule.severity,
        "scope": sample.scope,
        "mount": sample.labels.get("mount", ""),
    }
    missing = rule.when.operator == ABSENT and "summary" not in rule.model_fields_set
    summary = fill_summary(MISSING if missing else rule.summary, values)
    flapping = outcome.state.flapping or previous.flapping
    if resolved:
        summary = f"{_brought_back(healing, now) or f'Resolved after {length(now - started)}'}: {summary}"
    elif flapping:
        summary = f"Flapping: {summary}"
    return {
        "status": outcome.transition,
        "late": False,
        "flapping": flapping,
        "reminder": False,
        "escalated": False,
        "alert": short(rule.alert),
        "severity": "critical" if healing.gave_up else rule.severity,
        "target": short(sample.target),
        "instance": short(instance),
        "labels": {short(name): short(text) for name, text in sample.labels.items()},
        "summary": short(summary),
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
        "healing": _healing(healing, resolved=resolved),
    }


def step(firing: Mapping[str, Any], healing: Healing) -> dict[str, Any]:
    """The content that says how far it has come with bringing its service back; before the first step as it was."""
    if not healing.step:
        return dict(firing)
    said, reason = f"Restarting {healing.service} ({healing.number} of {healing.of})", firing["reason"]
    if healing.gave_up:
        said = f"Given up on {healing.service} after {_restarts(healing.of)}"
        if of_now := healing.attempts[len(healing.attempts) - healing.tried :]:
            reason += f"; restarted at {', '.join(iso(moment)[11:19] for moment in of_now)} UTC"
        reason += f"; the last time: {healing.detail}" if healing.detail else ""
    about = _healing(healing, resolved=False)
    return {**firing, "summary": short(f"{said}: {firing['summary']}"), "reason": short(reason), "healing": about}


def _healing(healing: Healing, *, resolved: bool) -> dict[str, Any] | None:
    if not healing.step:
        return None
    if resolved and not healing.gave_up and not healing.made:
        return None  # it came back by itself
    state = "gave_up" if healing.gave_up else "healthy" if resolved else "restarting"
    counts = {"restarts": healing.tried, "attempt": healing.number, "of": healing.of}
    return {"service": healing.service, "state": state, **counts}


def _brought_back(healing: Healing, now: float) -> str:
    if not healing.made or healing.gave_up:
        return ""
    return f"Healthy again after {_restarts(healing.made)}, down {length(now - healing.began)}"


def _restarts(number: int) -> str:
    return f"{number} restart{'' if number == 1 else 's'}"


# How long something was, `lasted` in seconds, is not to be had from `starts_at`: the clock may have been set since.


def reminder(current: Mapping[str, Any], firing: Mapping[str, Any], lasted: float) -> dict[str, Any]:
    """The content that says that it still fires: `current` is as of now, `firing` what was said at the beginning."""
    summary = short(f"Still firing after {length(lasted)}: {current['summary']}")
    since = {name: firing[name] for name in ("starts_at", "occurrence", "flapping", "reason")}
    return {**current, **since, "reminder": True, "summary": summary}


def escalated(firing: Mapping[str, Any], lasted: float) -> dict[str, Any]:
    """The content for those who are told because nobody has acknowledged it."""
    summary = short(f"Not acknowledged for {length(lasted)}: {firing['summary']}")
    return {**firing, "escalated": True, "summary": summary}


def own(alert: str, summary: str, reason: str, now: float, *, instance: str, target: str = "monitor") -> dict[str, Any]:
    """The content of a firing that is about Tocsin's own processes, and comes from no rule."""
    return {
        "status": "firing",
        "late": False,
        "flapping": False,
        "reminder": False,
        "escalated": False,
        "alert": alert,
        "severity": "critical",
        "target": short(target),
        "instance": short(instance),
        "labels": {},
        "summary": short(summary),
        "condition": "",
        "reason": short(reason),
        "metric": "",
        "value": None,
        "unit": "",
        "scope": "",
        "starts_at": iso(now),
        "ends_at": None,
        "fingerprint": (identity := fingerprint_of(alert, target, {})),
        "occurrence": f"{identity}-{round(now * 1000)}",
        "healing": None,
    }


def is_own(content: Mapping[str, Any]) -> bool:
    """Whether it is about Tocsin's own processes: no rule asks for no metric."""
    return not content["metric"]


def own_resolved(firing: Mapping[str, Any], now: float, lasted: float) -> dict[str, Any]:
    """Its end."""
    summary = short(f"Resolved after {length(lasted)}: {firing['summary']}")
    return {**firing, "status": "resolved", "summary": summary, "reason": "it works again", "ends_at": iso(now)}


def removed(firing: Mapping[str, Any], now: float, lasted: float) -> dict[str, Any]:
    """The resolved of an alert whose rule or target is no longer configured, from what its firing said."""
    summary = f"No longer watched, after {length(lasted)}: {firing['summary']}"
    reason = "its rule or target was removed from the configuration"
    return {**firing, "status": "resolved", "summary": short(summary), "reason": reason, "ends_at": iso(now)}


def late(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a resolved whose firing was never told: it says both, and that it comes late."""
    since, until = (resolved[name][11:16] for name in ("starts_at", "ends_at"))
    return {**resolved, "late": True, "summary": short(f"Told late, {since} to {until} UTC: {resolved['summary']}")}


def report(identity: str, summary: str, text: str, *, url: str, since: float, until: float, instance: str) -> dict[str, Any]:
    """The content that tells a report, which has no resolved."""
    return {
        "status": "report",
        "id": identity,
        "instance": short(instance),
        "summary": short(summary),
        "since": iso(since),
        "until": iso(until),
        "text": short(text, LONGEST_REPORT),
        "url": url,
        "occurrence": f"report-{identity}",
    }


def message(
    receiver: Receiver,
    identity: str,
    contents: Sequence[Mapping[str, Any]],
    created: float,
    now: float,
    *,
    grouping: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[bytes, dict[str, str]]:
    """Body and headers of one try at the time `now`. The body does not depend on the time, the signature does."""
    status = "firing" if any(content["status"] == "firing" for content in contents) else "resolved"
    written: dict[str, Any]
    if contents[0]["status"] == "report":
        about = {name: contents[0][name] for name in REPORT}
        written = {"version": VERSION, "type": "report", "id": identity, "timestamp": iso(created)}
        written["data"] = {"alerts": [], "report": about}  # `alerts`, as every message has it
    elif receiver.format == "alertmanager":
        written = alertmanager.webhook(receiver.name, status, contents, grouping)
    else:
        written = {
            "version": VERSION,
            "type": f"alert.{status}",
            "id": identity,
            "timestamp": iso(created),
            "data": {"alerts": contents},
        }
    body = orjson.dumps(written)
    headers = {name: text.get_secret_value() for name, text in receiver.headers.items()}
    headers |= {"Content-Type": "application/json", "webhook-id": identity, "webhook-timestamp": str(int(now))}
    if receiver.secret:
        headers["webhook-signature"] = " ".join(sign(secret, identity, int(now), body) for secret in receiver.secret)
    return body, headers


def short(text: str, longest: int = LONGEST_TEXT) -> str:
    """A text that takes at most `longest` bytes of JSON, cut visibly; what no UTF-8 has is written as `\\udc80`."""
    text = text.encode("utf-8", "backslashreplace").decode()
    if len(orjson.dumps(text)) <= longest:
        return text
    keep = longest
    while len(orjson.dumps(text[:keep])) > longest - 40:
        keep = keep * 3 // 4
    return f"{text[:keep]}… [{len(text) - keep} characters cut]"
