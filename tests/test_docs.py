"""The documents say what is so: their examples are valid, and the tests they name exist."""

import re
from pathlib import Path

import pytest

from service.loading import load
from service.settings import Settings

ROOT = Path(__file__).parents[1]


def test_the_example_of_a_whole_monitor_yaml_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that docs/monitor.md begins with is one that the monitor takes, and shows every key there is."""
    monkeypatch.setenv("TOCSIN_WEBHOOK_URL", "https://hooks.example/tocsin")
    monkeypatch.setenv("TOCSIN_WEBHOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    text = (ROOT / "docs/monitor.md").read_text(encoding="utf-8")
    example = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0]
    (tmp_path / "monitor.yaml").write_text(example, encoding="utf-8")
    found = load(Settings(data=tmp_path), tmp_path / "monitor.yaml")

    assert ["ops", "chat"] == [receiver.name for receiver in found.receivers]
    keys = ("interval", "targets", "rules", "receivers", "routes", "maintenance", "repeat_interval", "heartbeat")
    assert set(keys) == set(re.findall(r"^(\w+):", example, re.MULTILINE))


@pytest.mark.parametrize("document", [*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")], ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    """Each link to a file of the repository names one that exists, and each fragment a heading or anchor in it."""
    for target, fragment in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)]+))?\)", document.read_text(encoding="utf-8")):
        file = (document.parent / target).resolve() if target else document
        assert file.exists(), target
        if fragment:
            text = file.read_text(encoding="utf-8")
            headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
            known = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert fragment in known | set(re.findall(r'<a id="([^"]+)"', text)), f"{target}#{fragment}"
