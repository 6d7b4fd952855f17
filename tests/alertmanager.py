"""The real Alertmanager of Debian, on loopback, and amtool to read back what it knows."""

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from tests.stack import eventually

SILENT: Mapping[str, Any] = {"route": {"receiver": "nobody"}, "receivers": [{"name": "nobody"}]}


@dataclass
class Alertmanager:
    """One that runs."""

    process: "subprocess.Popen[bytes]"
    url: str

    def alerts(self, *matchers: str) -> list[dict[str, Any]]:
        """What fires there, as `amtool alert query` has it."""
        command = ["amtool", f"--alertmanager.url={self.url}", "--output=json", "alert", "query", *matchers]
        said = subprocess.run(command, check=True, capture_output=True, timeout=20).stdout
        found: list[dict[str, Any]] = json.loads(said) or []
        return found

    def labels(self, name: str) -> list[str]:
        """The values of one label in all that fires there."""
        return sorted(alert["labels"].get(name, "") for alert in self.alerts())


def telling(url: str, **route: Any) -> dict[str, Any]:
    """A configuration that tells everything to one webhook, soon."""
    soon = {"group_wait": "100ms", "group_interval": "500ms", "repeat_interval": "1h"}
    receivers = [{"name": "people", "webhook_configs": [{"url": url}]}]
    return {"route": {"receiver": "people", **soon, **route}, "receivers": receivers}


@contextmanager
def alertmanager(
    folder: Path,
    port: int,
    configuration: Mapping[str, Any] | str = SILENT,
    options: Sequence[str] = ("--cluster.listen-address=",),
) -> Iterator[Alertmanager]:
    """Run one for the length of a `with` block; by default alone, and telling nobody."""
    folder.mkdir(parents=True, exist_ok=True)
    text = configuration if isinstance(configuration, str) else json.dumps(configuration)
    (folder / "alertmanager.yml").write_text(text, encoding="utf-8")
    command = ["prometheus-alertmanager", f"--config.file={folder}/alertmanager.yml", f"--storage.path={folder}/data"]
    command += [f"--web.listen-address=127.0.0.1:{port}", *options]
    url = f"http://127.0.0.1:{port}"
    with (folder / "log").open("ab") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            eventually(lambda: requests.get(f"{url}/-/ready", timeout=5).ok, f"Alertmanager at {folder}", 30)
            yield Alertmanager(process, url)
        finally:
            process.terminate()
