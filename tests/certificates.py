"""Certificates that nobody vouches for, and which one is shown."""

import ssl
import subprocess
from pathlib import Path

FILES = tuple[Path, Path]  # a certificate and its key


def another(folder: Path) -> FILES:
    """Another certificate for the same name, and its key."""
    folder.mkdir(parents=True, exist_ok=True)
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1"
    command += f" -addext subjectAltName=IP:127.0.0.1 -keyout {folder}/key.pem -out {folder}/cert.pem"
    subprocess.run(command.split(), check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


def shown(address: str) -> str:
    """The certificate that is shown there."""
    host, _, port = address.removeprefix("https://").rpartition(":")
    return ssl.get_server_certificate((host, int(port)))
