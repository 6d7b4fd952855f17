"""The documents say what is so: their examples are valid, their tables complete, and the tests they name exist."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from service.configuration import File, Keep, Maintenance, Route, Rule, Target
from service.loading import load
from service.receiver import Receiver
from service.services import Heal, Service
from service.settings import Settings
from service.values import seconds

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")]


EXAMPLES = [
    pytest.param(text, id=f"{document.stem}-{number}")
    for document in sorted((ROOT / "docs").glob("*.md"))
    for number, text in enumerate(re.findall(r"```yaml\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL))
]


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the examples fill in."""
    for name in ("NEW_SECRET", "OLD_SECRET", "TOCSIN_WEBHOOK_SECRET"):
        monkeypatch.setenv(name, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    monkeypatch.setenv("TOCSIN_WEBHOOK_URL", "https://hooks.example/tocsin")
    monkeypatch.setenv("CHAT_URL", "https://hooks.slack.com/services/T0AAAAAAA/B0AAAAAAA/aaaaaaaaaaaaaaaaaaaaaaaa")
    monkeypatch.setenv("GATEWAY_TOKEN", "token")


@pytest.mark.usefixtures("variables")
@pytest.mark.parametrize("text", EXAMPLES)
def test_an_example_is_a_file_that_the_monitor_takes(tmp_path: Path, certificate: tuple[Path, Path], text: str) -> None:
    """Every YAML example in docs/ is a monitor.yaml without a fault."""
    (tmp_path / "monitor.yaml").write_text(text.replace("/etc/tocsin/ca.pem", str(certificate[0])), encoding="utf-8")
    load(Settings(data=tmp_path), tmp_path / "monitor.yaml")


def test_the_example_of_a_whole_monitor_yaml_shows_every_key() -> None:
    """The file that docs/monitor.md begins with has each key that there is."""
    text = (ROOT / "docs/monitor.md").read_text(encoding="utf-8")
    example = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0]

    assert set(File.model_fields) == set(re.findall(r"^(\w+):", example, re.MULTILINE))


@pytest.mark.parametrize(
    ("document", "heading", "model"),
    [
        ("monitor.md", "Targets", Target),
        ("monitor.md", "Rules", Rule),
        ("monitor.md", "Receivers", Receiver),
        ("monitor.md", "Routes", Route),
        ("monitor.md", "Maintenance windows", Maintenance),
        ("monitor.md", "What is kept", Keep),
        ("services.md", "Which services there are", Service),
        ("services.md", "Restarts by the monitor", Heal),
    ],
)
def test_a_table_has_every_key_and_its_default(document: str, heading: str, model: type[BaseModel]) -> None:
    """The table of fields below a heading has a row for each key, no other, and the default that holds."""
    text = (ROOT / "docs" / document).read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2]
    _, _, table = text.partition("| field | default | meaning |\n| --- | --- | --- |\n")
    rows = [re.split(r" ?\| ?", line)[1:3] for line in table.partition("\n\n")[0].splitlines()]
    shown = {name: default for names, default in rows for name in re.findall(r"`(\w+)`", names)}
    fields = {field.alias or name: field for name, field in model.model_fields.items()}

    assert set(fields) == set(shown)
    for name, field in fields.items():
        if isinstance(field.default, int | float | bool):
            written = re.sub("^`|`.*$", "", shown[name])
            expected = str(field.default).lower() if isinstance(field.default, bool | int) else field.default
            assert expected == (seconds(written) if isinstance(field.default, float) else written), name
        elif field.default is PydanticUndefined and not field.default_factory:
            assert "required" == shown[name], name


def test_every_setting_is_explained() -> None:
    """.env.example has a line for each setting and for the file of each that may hold a secret; the README a row for each."""
    fields = Settings.model_fields.items()
    names = {"TZ", *(field.validation_alias or f"TOCSIN_{name.upper()}" for name, field in fields)}
    files = {f"TOCSIN_{name.upper()}_FILE" for name in Settings.secrets()}
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    assert names | files == set(re.findall(r"^#(\w+)=", example, re.MULTILINE))
    assert names == set(re.findall(r"^\| `((?:TOCSIN_|WEB_|TZ)\w*)` \|", readme, re.MULTILINE))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
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
