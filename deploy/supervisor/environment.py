"""What supervise.py begins with: whether the settings can be followed here, and the environment of its programs.

    environment.py HOME [LONGEST]

A process of its own, since what reads the settings takes half as much memory again as supervisord, which runs for months. It
writes the environment to standard output, as JSON, and what is wrong to standard error, as lines of the log: with status 2
where it is the settings, else 1.
"""

import contextlib
import json
import re
import socket
import sys
import tempfile
from pathlib import Path

import structlog

from service import loading, logs
from service.settings import Settings
from service.values import ConfigurationError


def unusable(settings: Settings, home: Path, *, native: bool) -> str | None:
    """What would make every program fail, said once and plainly; None when all is well."""
    for folder in (home, settings.data.resolve(), settings.runtime.resolve()):
        if not re.fullmatch(r"[\w/.@+,=:~-]+", str(folder)):
            return f"{folder} has characters that supervisord and nginx would misread; use letters, digits and ._-"
    for name, folder in (("data", settings.data), ("runtime", settings.runtime)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (settings.data / "log").mkdir(exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()  # without a name: other containers try the same
        except OSError as error:
            return f"the {name} folder {folder} cannot be written: {error.strerror}; set TOCSIN_{name.upper()} to one that can"
    with socket.socket(socket.AF_UNIX) as other, contextlib.suppress(OSError):
        other.connect(str(settings.runtime / "supervisor.sock"))
        name = "data" if settings.runtime == settings.data else "runtime"
        where = f"the {name} folder {settings.runtime}"
        return f"another supervisord runs in {where}; stop it, or set TOCSIN_{name.upper()} to another"
    addresses = {"TOCSIN_WEB_ADDRESS": settings.web_address}
    if native:
        addresses["TOCSIN_HTTP_PORT"] = f"{settings.bind}:{settings.http_port}"
        if settings.tls_cert:
            addresses["TOCSIN_HTTPS_PORT"] = f"{settings.bind}:{settings.https_port}"
    for name, address in addresses.items():
        host, _, port = address.rpartition(":")
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((host.strip("[]"), int(port)))
            except OSError as error:
                return f"cannot listen on {address}: {error.strerror}; stop what does, or set {name} to another"
    return None


def variables(settings: Settings, home: Path, longest: int | None) -> dict[str, str]:
    """What supervisord.conf and nginx' start.sh are told. Logs are files of so many bytes at most; None: standard output."""
    log = {
        f"LOG_{name.upper()}": str(settings.data / "log" / f"{name}.log") if longest else "/dev/fd/1"
        for name in ("web", "monitor", "nginx")
    }
    return log | {
        "TOCSIN_DATA": str(settings.data.resolve()),
        "TOCSIN_RUNTIME": str(settings.runtime.resolve()),
        "TOCSIN_LOG_LEVEL": settings.log_level,
        "TOCSIN_HOME": str(home),
        "PYTHON_BIN": str(Path(sys.executable).parent),
        "LOG_MAXBYTES": str(longest or 0),  # 0: what is not a file cannot be rotated
        "NGINX_PREFIX": str(settings.data.resolve() / "nginx"),
        "NGINX_LISTEN": f"{settings.bind}:{settings.http_port}",
        "NGINX_UPSTREAM": settings.web_address,
        "NGINX_STATIC": str(home / "service/web/static"),
        "NGINX_APPS": ",".join(settings.apps),
        "NGINX_TRUSTED_PROXIES": ",".join(settings.trusted_proxies),
        # Absolute, but not resolved: what renews a certificate may do so by turning a link.
        "NGINX_TLS_CERT": str(settings.tls_cert.absolute()) if settings.tls_cert else "",
        "NGINX_TLS_KEY": str(settings.tls_key.absolute()) if settings.tls_key else "",
        "NGINX_TLS_LISTEN": f"{settings.bind}:{settings.https_port}",
        "NGINX_HTTPS_PORT": str(settings.https_port),
    }


def main(home: Path, longest: int | None) -> int:
    logs.configure("tocsin-supervisord", fd=sys.stderr.fileno())
    log = structlog.get_logger()
    try:
        settings, _ = loading.from_environment()
    except ConfigurationError as error:
        for line in error.faults:
            log.critical(line)
        return 2
    if fault := unusable(settings, home, native=longest is not None):
        log.critical(fault)
        return 1
    json.dump(variables(settings, home, longest), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]) if sys.argv[2:] else None))
