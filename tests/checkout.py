"""A copy of this checkout in a folder of its own, and `make` in it, as somebody who cloned it has."""

import os
import shutil
import subprocess
from pathlib import Path

from tests.stack import ROOT


def copy(folder: Path) -> Path:
    """The files that git tracks or would, with their times; .venv is shared, so that nothing is installed again."""
    # First here: installed from the copy, the shared .venv would go on using the copy's code when that is gone.
    subprocess.run(["make", ".venv/installed"], cwd=ROOT, capture_output=True, check=True)
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    return folder


def make(folder: Path, target: str, env: dict[str, str], seconds: float = 180) -> "subprocess.CompletedProcess[str]":
    """Run `make TARGET` there, with nothing of our own settings in the environment."""
    return subprocess.run(
        ["make", "--no-print-directory", target],
        cwd=folder,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )
