"""How targets stand after a tick, for people who look. No rule asks for it."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace

from service.monitor.probe import Sample
from service.targets import SHOWN, Standing


def standing(samples: Iterable[Sample], now: float) -> dict[str, Standing]:
    """Of each target that was asked, as if it had come to stand so now."""
    asked: list[Sample] = []
    values: dict[str, dict[str, float]] = defaultdict(dict)
    for sample in samples:
        if sample.metric == "up":
            asked.append(sample)
        elif sample.metric in SHOWN and sample.value is not None:
            values[sample.target][sample.metric] = sample.value
    return {each.target: Standing(each.value == 1, now, each.reason, values[each.target]) for each in asked}


def since(before: Mapping[str, Standing], found: Mapping[str, Standing]) -> dict[str, Standing]:
    """The same, where nothing has changed since the time that was known before."""
    return {
        name: replace(stands, since=before[name].since) if name in before and before[name].up == stands.up else stands
        for name, stands in found.items()
    }
