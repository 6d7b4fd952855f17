"""monitor.yaml -> a checked Configuration, with everything that is wrong told at once, each with its place."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr, ValidationError

from service.chat import is_chat
from service.conditions import Condition
from service.configuration import Configuration, File, Keep, Maintenance, Route, Rule, Target
from service.document import document_in, place
from service.receiver import Receiver
from service.services import Service
from service.settings import Settings, variable
from service.values import MOST_FAULTS, ConfigurationError, explain, suggestion

PARTS: dict[str, type[BaseModel]] = {
    "targets": Target,
    "rules": Rule,
    "receivers": Receiver,
    "routes": Route,
    "services": Service,
    "maintenance": Maintenance,
    "keep": Keep,
}
NAMED = {  # and the field that must be unique
    "targets": "name",
    "rules": "alert",
    "receivers": "name",
    "services": "name",
    "maintenance": "name",
}
# Fields whose value no message repeats.
SECRETS = ("url", "webhook", "chat", "alertmanager", "proxy", "secret", "headers", "heartbeat")
REPEAT = 4 * 3600.0  # seconds between reminders
DURATIONS = (("interval",), ("repeat_interval",), ("minutes",), ("hours",), ("history",))


def from_environment(path: Path | None = None) -> tuple[Settings, Configuration]:
    """Settings and configuration; raises ConfigurationError with the faults of both."""
    try:
        settings = Settings.from_environment()
    except ConfigurationError as error:
        faults = error.faults
        named = path or (Path(given) if (given := variable("TOCSIN_CONFIG")) else None)
        try:
            load(Settings.model_construct(), named)
        except ConfigurationError as more:
            faults += more.faults
        raise ConfigurationError(faults) from None
    return settings, load(settings, path)


def load(settings: Settings, path: Path | None = None) -> Configuration:
    """The configuration in `path`, else in TOCSIN_CONFIG, else the defaults.

    Raises ConfigurationError with everything that is wrong, each with its place.
    """
    path = path or settings.config
    if path is None:
        return _with_defaults(File(), settings)
    try:
        file = _parse(path, settings)
    except ConfigurationError as error:
        raise ConfigurationError([f"{path}: {fault}" for fault in error.faults]) from None
    return _with_defaults(file, settings)


def schema() -> dict[str, Any]:
    """The JSON Schema of monitor.yaml."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | File.model_json_schema() | {"title": "monitor.yaml"}


def default_rules(settings: Settings) -> tuple[Rule, ...]:
    """CPU, memory and disk over their thresholds for a minute, any target down for half of one, a kill for lack of memory.

    That is never as it should be, and `mem_usage` need not show it: what was too much is gone with the process.
    """
    usage = (("HighCpu", "CPU", "cpu_usage"), ("HighMemory", "memory", "mem_usage"), ("DiskFull", "disk", "disk_usage"))
    written = [
        {
            "alert": alert,
            "when": Condition(metric=metric, operator=">", threshold=settings.thresholds[metric]),
            "for": "1m",
            "summary": f"{{{{ target }}}}: {noun} at {{{{ value }}}} % ({{{{ scope }}}}, threshold {{{{ threshold }}}} %)",
        }
        for alert, noun, metric in usage
    ]
    written.append(
        {
            "alert": "OutOfMemory",
            "when": "oom_kills > 0",
            "summary": "{{ target }}: processes killed for lack of memory in ten minutes: {{ value }} ({{ scope }})",
        }
    )
    written.append(
        {
            "alert": "TargetDown",
            "when": "up == 0",
            "for": "30s",
            "severity": "critical",
            "keep_firing_for": "1m",
            "summary": "{{ target }} does not answer as it should",
            "heal": {},
        }
    )
    return tuple(Rule.model_validate(rule) for rule in written)


def default_targets(settings: Settings) -> tuple[Target, ...]:
    """This service asked directly, and once more through nginx."""
    front = settings.front_url or SecretStr(f"http://{settings.bind}:{settings.http_port}/api/health")
    # An unhealthy service still answers: that is the readings' business, not `up`'s.
    expect = tuple(sorted({200, settings.unhealthy_status}))
    web, nginx = (name if name in settings.programs else None for name in ("web", "nginx"))
    return (
        Target(name="self", url=SecretStr(f"{_web(settings)}/api/health"), expect=expect, service=web),
        # When the service itself is down, that is the one message.
        Target(name="front", url=front, expect=expect, readings=False, parent="self", service=nginx),
    )


def default_services(settings: Settings) -> tuple[Service, ...]:
    """The programs of our own supervisord. nginx has a file that it answers with itself, whatever the app does."""
    healthy = {"web": f"{_web(settings)}/readyz", "nginx": f"http://{settings.bind}:{settings.http_port}/robots.txt"}
    return tuple(Service(name=name, supervisord=name, url=healthy.get(name)) for name in settings.programs)


def default_receivers(settings: Settings) -> tuple[Receiver, ...]:
    """The one of TOCSIN_WEBHOOK_URL, which may be a chat service's own address. That verifies no signature."""
    address = settings.webhook_url
    if address is None:
        return ()
    if not is_chat(address):
        return (Receiver(name="webhook", webhook=address, secret=settings.webhook_secret),)
    try:
        return (Receiver(name="webhook", chat=address),)
    except ValidationError as error:
        raise ConfigurationError([f"TOCSIN_WEBHOOK_URL: {explain(fault, secret=True)}" for fault in error.errors()]) from None


def _web(settings: Settings) -> str:
    """Where our own service answers this machine."""
    host, _, port = settings.web_address.rpartition(":")
    return f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"  # noqa: S104 - compared


def _with_defaults(file: File, settings: Settings) -> Configuration:
    receivers = file.receivers
    if receivers is None:
        receivers = default_receivers(settings)
    return Configuration(
        interval=settings.interval if file.interval is None else file.interval,
        targets=default_targets(settings) if file.targets is None else file.targets,
        rules=default_rules(settings) if file.rules is None else file.rules,
        receivers=receivers,
        routes=file.routes or (),
        services=default_services(settings) if file.services is None else file.services,
        maintenance=file.maintenance or (),
        repeat_interval=REPEAT if file.repeat_interval is None else file.repeat_interval,
        heartbeat=file.heartbeat,
        keep=file.keep or Keep(),
        instance=settings.instance,
        public=settings.public,
    )


def _parse(path: Path, settings: Settings) -> File:
    document, faults = document_in(path)
    faults = dict(islice(_disagreements(document, settings), MOST_FAULTS + 1)) | faults
    try:
        file = File.model_validate({} if document is None else document)
    except ValidationError as error:
        for fault in islice(error.errors(), MOST_FAULTS + 1):
            location = fault["loc"]
            # `receivers: ${URL}` puts a secret where a list belongs.
            secret = (len(location) < 3 and location[-1:] not in DURATIONS) or any(step in SECRETS for step in location)
            said = explain(fault, _known(location), secret=secret)
            faults.setdefault(place(location), said)
    if faults:
        raise ConfigurationError([f"{where}: {what}" for where, what in faults.items()])
    return file


def _disagreements(document: Any, settings: Settings) -> Iterator[tuple[str, str]]:
    """Names given twice or to nothing. Looked for in the bare document, to be told together with all other faults."""
    names = {part: _column(document, part, field) for part, field in NAMED.items()}
    for part, column in names.items():
        first: dict[str, int] = {}
        for index, name in column:
            if isinstance(name, str) and first.setdefault(name, index) != index:
                yield place((part, index, NAMED[part])), f"{name!r} is taken by {part}[{first[name]}]; give each its own"
    targets = _names(document, "targets", [target.name for target in default_targets(settings)])
    receivers = _names(document, "receivers", ["webhook"] if settings.webhook_url else [])
    yield from _unknown(document, "rules", "targets", "a target", targets)
    yield from _unknown(document, "routes", "receivers", "a receiver", receivers)
    yield from _unknown_services(document, settings)
    above: dict[str, str] = {}
    for index, parent in _column(document, "targets", "parent"):
        name = document["targets"][index].get("name")
        if isinstance(name, str) and isinstance(parent, str):
            if parent not in targets:
                yield place(("targets", index, "parent")), f"{parent!r} is not a target{suggestion(parent, targets)}"
            elif _highest(parent, above) == name:
                yield place(("targets", index, "parent")), f"{name!r} would be its own ancestor; one of them must go without"
                continue
            above.setdefault(name, parent)


def _unknown_services(document: Any, settings: Settings) -> Iterator[tuple[str, str]]:
    known = _names(document, "services", list(settings.programs))
    wanted: list[tuple[tuple[str | int, ...], Any]]
    wanted = [(("targets", index, "service"), name) for index, name in _column(document, "targets", "service")]
    for index, heal in _column(document, "rules", "heal"):
        wanted.append((("rules", index, "heal", "service"), heal.get("service") if isinstance(heal, dict) else None))
    for location, name in wanted:
        if isinstance(name, str) and name not in known:
            yield place(location), f"{name!r} is not a service{suggestion(name, known)}"


def _highest(name: str, above: dict[str, str]) -> str:
    """The last of its ancestors. The way there is shortened, so that no long one is walked again and again."""
    way = []
    while name in above:
        way.append(name)
        name = above[name]
    above.update(dict.fromkeys(way, name))
    return name


def _unknown(document: Any, part: str, field: str, kind: str, known: Collection[str]) -> Iterator[tuple[str, str]]:
    for index, wanted in _column(document, part, field):
        for position, name in enumerate(wanted if isinstance(wanted, list) else ()):
            if isinstance(name, str) and name not in known:
                yield place((part, index, field, position)), f"{name!r} is not {kind}{suggestion(name, known)}"


def _names(document: Any, part: str, default: Iterable[str]) -> Collection[str]:
    """The names in a list of the document, or those that stand for it when it is left out."""
    written = isinstance(document, dict) and isinstance(document.get(part), list)
    return frozenset(str(name) for _, name in _column(document, part, NAMED[part])) if written else frozenset(default)


def _column(document: Any, part: str, field: str) -> list[tuple[int, Any]]:
    rows = document.get(part) if isinstance(document, dict) else None
    return [(index, row.get(field)) for index, row in enumerate(rows if isinstance(rows, list) else ()) if isinstance(row, dict)]


def _known(location: Sequence[str | int]) -> list[str]:
    model = PARTS.get(str(location[0]), File) if len(location) > 1 else File
    return [field.alias or name for name, field in model.model_fields.items()]
