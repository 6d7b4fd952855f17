"""Settings from the environment, as one frozen value. The only reader of os.environ."""

import os
import re
import socket
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, ValidationInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from service.services import ServiceName
from service.signing import check_secrets
from service.values import ConfigurationError, Duration, HttpAddress, Percent, Size, explain, http_address

PREFIX = "TOCSIN_"
CHECKOUT = Path(__file__).resolve().parent.parent
MACHINE = Path("/etc/tocsin/hostname")  # compose.yaml mounts it
_ORIGIN = re.compile(r"https?://([a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")
_REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_MOUNTED = re.compile(r"((?:/[A-Za-z0-9][A-Za-z0-9._~-]*)+/)=(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")
# The beginnings of paths that Tocsin itself answers.
OWN_PATHS = frozenset(
    ("alerts", "api", "livez", "login", "logout", "metrics", "readyz", "robots.txt", "services", "silences", "static")
)
LEAST_MEMORY = 128 << 20  # bytes; a worker that has answered nothing yet has about half of that


def _host(text: str) -> str:
    if not _HOST.fullmatch(text):
        raise ValueError(f"{text!r} is not an address to listen on, such as 127.0.0.1 or [::1]")
    return text


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not _HOST.fullmatch(host) or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} is not HOST:PORT, such as 127.0.0.1:8000")
    return text


def _public(text: str) -> str:
    address = http_address(text).get_secret_value()
    if re.search(r"[?#@]", address):
        raise ValueError("has more than an address and a path; write http://HOST/… or https://HOST/…, where people reach Tocsin")
    return address.rstrip("/")


def _key(key: SecretStr) -> SecretStr:
    key = SecretStr(key.get_secret_value().strip())  # a header cannot have what stands around it
    if len(key.get_secret_value()) < 16:
        raise ValueError("has fewer than 16 characters; `openssl rand -hex 24` makes a good one")
    return key


def _enough(memory: int) -> int:
    if memory < LEAST_MEMORY:
        raise ValueError(f"is too little; a worker needs {LEAST_MEMORY >> 20}MiB")
    return memory


def _origin(text: str) -> str:
    if text == "*":
        raise ValueError("does not take *; name each origin whose pages may use the API, such as https://board.example")
    if not _ORIGIN.fullmatch(text.lower()):
        raise ValueError(f"{text!r} is not an origin; write https://HOST or https://HOST:PORT, and nothing behind it")
    return text.lower()


def _reference(text: str) -> str:
    if not _REFERENCE.fullmatch(text):
        raise ValueError(f"{text!r} is not MODULE:NAME, such as shop:blueprint")
    return text


def _mounted(text: str) -> str:
    found = _MOUNTED.fullmatch(text)
    if not found or not 0 < int(found[2]) < 65536:
        raise ValueError(f"{text!r} is not /PREFIX/=HOST:PORT, such as /shop/=shop:8000")
    if found[1].split("/")[1] in OWN_PATHS:
        raise ValueError(f"{text!r} would take addresses that are Tocsin's own; choose another prefix than {found[1]}")
    return text


def _once_each(mounted: tuple[str, ...]) -> tuple[str, ...]:
    prefixes = [each.partition("=")[0] for each in mounted]
    if twice := sorted({prefix for prefix in prefixes if prefixes.count(prefix) > 1}):
        raise ValueError(f"names {twice[0]} more than once; each prefix leads to one application")
    return mounted


def _network(text: str) -> str:
    try:
        # Nothing else that Python takes, such as 10.0.0.0/255.0.0.0 or fe80::1%eth0: nginx does not.
        network = ip_network(text) if re.fullmatch(r"[0-9A-Fa-f:.]+(/[0-9]{1,3})?", text) else None
    except ValueError:
        network = None
    if network is None:
        raise ValueError(f"{text!r} is not an address or a network, such as 192.0.2.7 or 10.0.0.0/8")
    if network.prefixlen == 0:
        raise ValueError(f"{text!r} is everybody, and whoever is trusted says who he is; name the proxies")
    return str(network)


def _complete(key: Path | None, given: ValidationInfo) -> Path | None:
    """Nobody would see that TLS is off because one of the two was forgotten."""
    if (key is None) != (given.data.get("tls_cert") is None):
        missing = "TOCSIN_TLS_KEY is not set beside TOCSIN_TLS_CERT" if key is None else "TOCSIN_TLS_CERT is not set beside it"
        raise ValueError(f"{missing}; TLS needs both, and without either there is none")
    return key


def _listed(text: object) -> object:
    return tuple(name.strip() for name in text.split(",")) if isinstance(text, str) else text


def _own_file() -> Path | None:
    """monitor.yaml of a checkout; there is none beside an installed package."""
    return file if (file := CHECKOUT / "monitor.yaml").is_file() else None


def _machine() -> str:
    """The name of this machine; in a container of the Compose stack that of the machine around it."""
    try:
        return MACHINE.read_text(encoding="utf-8").strip() or socket.gethostname()
    except (OSError, UnicodeError):
        return socket.gethostname()


def _database(address: SecretStr) -> SecretStr:
    if not re.match(r"(sqlite|postgresql)(\+\w+)?://", address.get_secret_value()):
        raise ValueError("is not an address of a database; write sqlite:////PATH or postgresql://USER:PASSWORD@HOST/NAME")
    return address


class Settings(BaseSettings):
    """What .env.example explains, one field for each variable. Percentages are 0 to 100, times in seconds."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", frozen=True, validate_default=False
    )

    bind: Annotated[str, AfterValidator(_host)] = "127.0.0.1"
    http_port: Annotated[int, Field(ge=1, le=65535)] = 8080
    web_address: Annotated[str, AfterValidator(_address)] = "127.0.0.1:8000"
    tls_cert: Path | None = None
    tls_key: Annotated[Path | None, AfterValidator(_complete), Field(validate_default=True)] = None
    https_port: Annotated[int, Field(ge=1, le=65535)] = 8443
    trusted_proxies: Annotated[tuple[Annotated[str, AfterValidator(_network)], ...], NoDecode, BeforeValidator(_listed)] = ()
    front_url: HttpAddress | None = None
    public_url: Annotated[str, AfterValidator(_public)] | None = None
    webhook_url: HttpAddress | None = None
    webhook_secret: Annotated[SecretStr, AfterValidator(check_secrets)] | None = None  # one or several
    api_key: Annotated[SecretStr, AfterValidator(_key)] | None = None
    cors_origins: Annotated[tuple[Annotated[str, AfterValidator(_origin)], ...], NoDecode, BeforeValidator(_listed)] = ()
    cpu_threshold: Percent = 80.0
    mem_threshold: Percent = 80.0
    disk_threshold: Percent = 90.0
    unhealthy_status: Annotated[int, Field(ge=200, le=599)] = 200
    interval: Annotated[Duration, Field(gt=0, le=86400)] = 10.0
    drain: Annotated[Duration, Field(ge=0, le=30)] = 5.0
    worker_memory: Annotated[Size, AfterValidator(_enough)] | None = None
    blueprints: Annotated[tuple[Annotated[str, AfterValidator(_reference)], ...], NoDecode, BeforeValidator(_listed)] = ()
    apps: Annotated[
        tuple[Annotated[str, AfterValidator(_mounted)], ...], NoDecode, BeforeValidator(_listed), AfterValidator(_once_each)
    ] = ()
    programs: Annotated[tuple[ServiceName, ...], NoDecode, BeforeValidator(_listed)] = ("nginx", "web", "monitor")
    config: Annotated[Path | None, Field(default_factory=_own_file)]
    data: Path = CHECKOUT / "var"
    runtime: Annotated[Path, Field(default_factory=lambda given: given["data"])]
    instance: Annotated[str, Field(max_length=200, default_factory=_machine)]
    database_url: Annotated[SecretStr, AfterValidator(_database)] | None = None
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(str.upper)] = "INFO"
    web_concurrency: Annotated[int, Field(ge=1, le=64)] | None = Field(default=None, validation_alias="WEB_CONCURRENCY")

    @classmethod
    def from_environment(cls) -> Self:
        """Read the environment; raises ConfigurationError with every fault in it."""
        try:
            return cls()
        except ValidationError as error:
            secret = cls.secrets()
            faults = []
            for fault in error.errors():
                name, given = str(fault["loc"][0]), fault["input"]
                if fault["type"] == "default_factory_not_called":
                    continue  # `runtime` has no fault: it is made from another field, when all of them are right
                if isinstance(given, _Unreadable):
                    faults.append(f"{_variable(name)}_FILE: {given.fault}")
                else:
                    faults.append(f"{_variable(name)}: {explain(fault, secret=name in secret)}")
            raise ConfigurationError(faults) from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - who starts the process reads .env
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - knows folders of secrets, not NAME_FILE
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _SecretFiles(settings_cls)

    @classmethod
    def secrets(cls) -> frozenset[str]:
        """The fields whose value must appear nowhere, and may come from a file."""
        return frozenset(name for name, field in cls.model_fields.items() if "SecretStr" in str(field.annotation))

    @property
    def database(self) -> str:
        """The SQLAlchemy address of the database."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.data / 'tocsin.db'}"

    @property
    def public(self) -> str:
        """Where people reach this Tocsin, for links; without a slash at its end."""
        own = f"https://{self.bind}:{self.https_port}" if self.tls_cert else f"http://{self.bind}:{self.http_port}"
        return self.public_url or own

    @property
    def thresholds(self) -> Mapping[str, float]:
        """Percent above which a reading makes `status` unhealthy and a default rule fire."""
        return MappingProxyType(
            {"cpu_usage": self.cpu_threshold, "mem_usage": self.mem_threshold, "disk_usage": self.disk_threshold}
        )


class _Unreadable:
    """Stands where a file's content should: no field takes it, so it is told together with all other faults."""

    def __init__(self, fault: str) -> None:
        self.fault = fault


class _SecretFiles(PydanticBaseSettingsSource):
    """`TOCSIN_API_KEY_FILE=/run/secrets/key` gives TOCSIN_API_KEY, for each field that holds a secret."""

    def __call__(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in Settings.secrets():
            try:
                value = variable(_variable(name))
            except OSError as error:
                found[name] = _Unreadable(f"{error.filename}: {error.strerror}")
            except UnicodeError:
                found[name] = _Unreadable("the file is not text in UTF-8")
            else:
                found |= {} if value is None else {name: value}
        return found

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002 - its signature
        raise AssertionError("the base class requires it; __call__ is what pydantic-settings asks")


def _variable(field: str) -> str:
    return field if field.isupper() else f"{PREFIX}{field.upper()}"


def variable(name: str) -> str | None:
    """An environment variable, or what the file that `NAME_FILE` names holds; None where neither is set.

    Raises OSError or UnicodeError when that file cannot be read.
    """
    if value := os.environ.get(name):
        return value
    if path := os.environ.get(f"{name}_FILE"):
        return Path(path).read_text(encoding="utf-8").strip()
    return None
