"""Which rule is about which sample, and whether an alert still has a rule and a target. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from service.conditions import ABSENT, PROBED
from service.configuration import Configuration, Rule
from service.monitor.probe import Sample
from service.monitor.routing import Alert


def about(rules: Iterable[Rule], samples: Iterable[Sample]) -> Iterator[tuple[Rule, Sample]]:
    """Each rule with each sample it is about; for absent() with one of no value where there is none."""
    found: dict[str, dict[str, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for sample in samples:
        found[sample.metric][sample.target].append(sample)
    for rule in rules:
        by_target = found.get(rule.when.metric, {})
        for target in rule.targets or by_target:
            here = by_target.get(target, [])
            if rule.when.operator == ABSENT:
                yield rule, Sample(target, rule.when.metric, here[0].value if here else None)
            else:
                yield from ((rule, sample) for sample in here)


def watched(configuration: Configuration, alert: Alert) -> bool:
    """Whether a rule of that name is about that target, and what fires about the same metric."""
    metric = alert.content["metric"] if alert.content else None
    target, rule = configuration.target_named.get(alert.target), configuration.rule_named.get(alert.name)
    if target is None or rule is None or metric not in (None, rule.when.metric):
        return False
    measures = target.readings or metric is None or metric in PROBED
    return measures and (not rule.targets or alert.target in rule.targets)
