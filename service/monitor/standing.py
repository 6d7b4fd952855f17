"""How targets stand after a tick, for people who look. No rule asks for it."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from service.monitor.probe import Sample
from service.targets import SHOWN, Standing


def standing(samples: Iterable[Sample], now: float) -> dict[str, Standing]:
    """Of each target that was asked, as if it had come to stand so now."""
    samples = list(samples)
    found = {sample.target: Standing(sample.value == 1, now, sample.reason, {}) for sample in samples if sample.metric == "up"}
    for sample in samples:
        if sample.metric in SHOWN and sample.value is not None and sample.target in found:
            known = found[sample.target]
            found[sample.target] = replace(known, values={**known.values, sample.metric: sample.value})
    return found


def since(before: Mapping[str, Standing], found: Mapping[str, Standing]) -> dict[str, Standing]:
    """The same, where nothing has changed since the time that was known before."""
    return {
        name: replace(stands, since=before[name].since) if name in before and before[name].up == stands.up else stands
        for name, stands in found.items()
    }
