"""The shop of examples/shop under its own gunicorn, as its container runs it."""

import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.stack import BIN, ROOT, Running, eventually, free_port, process

SHOP = ROOT / "examples/shop"
DOCUMENT = (ROOT / "docs/your-app.md").read_text(encoding="utf-8")


def shown(heading: str, language: str) -> list[str]:
    """The examples in one language under a heading of docs/your-app.md, without what they are indented by."""
    (part,) = re.findall(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", DOCUMENT, re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(each) for each in re.findall(rf"^ *```{language}\n(.*?)^ *```", part, re.DOTALL | re.MULTILINE)]


def variables(text: str) -> dict[str, str]:
    """An example of .env as an environment."""
    return dict(line.split("=", 1) for line in text.splitlines())


@contextmanager
def shop(folder: Path, port: int = 0) -> Iterator[Running]:
    """Run it, with its database in `folder`."""
    address = f"127.0.0.1:{port or free_port()}"
    log = folder / "shop.log"
    command: list[str | Path] = [BIN / "gunicorn", "-c", SHOP / "gunicorn.conf.py", "--chdir", SHOP, "--bind", address]
    with process(command, {"SHOP_DATABASE": str(folder / "shop.db")}, log) as child:
        running = Running(child, f"http://{address}", log)
        eventually(lambda: running.status("/shop/health") == 200, "the shop answers")
        yield running
