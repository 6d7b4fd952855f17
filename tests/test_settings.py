"""Settings: what each variable gives, what it refuses, and that no secret shows."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from service.settings import CHECKOUT, Settings, variable
from service.values import ConfigurationError

KEY = "a key of 24 characters !"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
URL = "https://hooks.example/services/T000/B000/XXXX"

# Variable, field, default, what is written, what it gives.
VARIABLES = [
    ("TOCSIN_BIND", "bind", "127.0.0.1", "0.0.0.0", "0.0.0.0"),
    ("TOCSIN_HTTP_PORT", "http_port", 8080, "80", 80),
    ("TOCSIN_TLS_CERT", "tls_cert", None, "/tls/cert.pem", Path("/tls/cert.pem")),
    ("TOCSIN_TLS_KEY", "tls_key", None, "/tls/key.pem", Path("/tls/key.pem")),
    ("TOCSIN_HTTPS_PORT", "https_port", 8443, "443", 443),
    ("TOCSIN_TRUSTED_PROXIES", "trusted_proxies", (), "::1, 10.0.0.0/8", ("::1/128", "10.0.0.0/8")),
    ("TOCSIN_WEB_ADDRESS", "web_address", "127.0.0.1:8000", "0.0.0.0:9000", "0.0.0.0:9000"),
    ("TOCSIN_FRONT_URL", "front_url", None, "http://front:8080/api/health", SecretStr("http://front:8080/api/health")),
    ("TOCSIN_PUBLIC_URL", "public_url", None, "https://tocsin.example/a/", "https://tocsin.example/a"),
    ("TOCSIN_WEBHOOK_URL", "webhook_url", None, URL, SecretStr(URL)),
    ("TOCSIN_WEBHOOK_SECRET", "webhook_secret", None, SECRET, SecretStr(SECRET)),
    ("TOCSIN_API_KEY", "api_key", None, KEY, SecretStr(KEY)),
    ("TOCSIN_CORS_ORIGINS", "cors_origins", (), "https://a.example,http://b:1", ("https://a.example", "http://b:1")),
    ("TOCSIN_CPU_THRESHOLD", "cpu_threshold", 80.0, "95.5", 95.5),
    ("TOCSIN_MEM_THRESHOLD", "mem_threshold", 80.0, "0", 0.0),
    ("TOCSIN_DISK_THRESHOLD", "disk_threshold", 90.0, "100", 100.0),
    ("TOCSIN_UNHEALTHY_STATUS", "unhealthy_status", 200, "503", 503),
    ("TOCSIN_INTERVAL", "interval", 10.0, "1m30s", 90.0),
    ("TOCSIN_WORKER_MEMORY", "worker_memory", None, "256MiB", 256 << 20),
    ("TOCSIN_PROGRAMS", "programs", ("nginx", "web", "monitor"), "web, jobs", ("web", "jobs")),
    ("TOCSIN_BLUEPRINTS", "blueprints", (), "shop:blueprint, till.desk:bp", ("shop:blueprint", "till.desk:bp")),
    ("TOCSIN_APPS", "apps", (), "/a/b/=b:80,/c/=[::1]:9", ("/a/b/=b:80", "/c/=[::1]:9")),
    ("TOCSIN_DRAIN", "drain", 5.0, "0s", 0.0),
    ("TOCSIN_CONFIG", "config", CHECKOUT / "monitor.yaml", "/etc/tocsin/monitor.yaml", Path("/etc/tocsin/monitor.yaml")),
    ("TOCSIN_INSTANCE", "instance", socket.gethostname(), "shop-1", "shop-1"),
    ("TOCSIN_DATA", "data", CHECKOUT / "var", "/data", Path("/data")),
    ("TOCSIN_RUNTIME", "runtime", CHECKOUT / "var", "/run/tocsin", Path("/run/tocsin")),
    ("TOCSIN_DATABASE_URL", "database_url", None, "postgresql://u:pw@db/tocsin", SecretStr("postgresql://u:pw@db/tocsin")),
    ("TOCSIN_LOG_LEVEL", "log_level", "INFO", "debug", "DEBUG"),
    ("WEB_CONCURRENCY", "web_concurrency", None, "4", 4),
]
# What is a fault without another one.
BESIDE = {"TOCSIN_TLS_CERT": ("TOCSIN_TLS_KEY", "/tls/key.pem"), "TOCSIN_TLS_KEY": ("TOCSIN_TLS_CERT", "/tls/cert.pem")}
SECRETS = ["TOCSIN_API_KEY", "TOCSIN_WEBHOOK_SECRET", "TOCSIN_WEBHOOK_URL", "TOCSIN_FRONT_URL", "TOCSIN_DATABASE_URL"]


def faults() -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_environment()
    return caught.value.faults


def test_every_setting_is_in_the_table_of_this_test() -> None:
    """No setting goes unproven."""
    assert set(Settings.model_fields) == {field for _, field, *_ in VARIABLES}


@pytest.mark.parametrize(("name", "field", "default", "text", "expected"), VARIABLES)
def test_a_variable_gives_its_setting(
    monkeypatch: pytest.MonkeyPatch, name: str, field: str, default: object, text: str, expected: object
) -> None:
    """Unset and empty mean the default; anything else is read as the setting's own kind of value."""
    assert default == getattr(Settings.from_environment(), field)
    monkeypatch.setenv(name, "")
    assert default == getattr(Settings.from_environment(), field)
    monkeypatch.setenv(name, text)
    if name in BESIDE:
        monkeypatch.setenv(*BESIDE[name])
    assert expected == getattr(Settings.from_environment(), field)


DURATION = "is not a duration; write a number with ms, s, m, h or d, such as 10s or 1h30m"
ADDRESS = "is not HOST:PORT, such as 127.0.0.1:8000"
PUBLIC = "has more than an address and a path; write http://HOST/… or https://HOST/…, where people reach Tocsin"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("TOCSIN_HTTP_PORT", "http", "'http': input should be a valid integer, unable to parse string as an integer"),
        ("TOCSIN_HTTP_PORT", "0", "'0': input should be greater than or equal to 1"),
        ("TOCSIN_HTTP_PORT", "65536", "'65536': input should be less than or equal to 65535"),
        ("TOCSIN_PUBLIC_URL", "tocsin.example", "is not an address; write http://HOST/… or https://HOST/…"),
        ("TOCSIN_PUBLIC_URL", "https://tocsin.example/?key=1", PUBLIC),
        ("TOCSIN_PUBLIC_URL", "https://ann:secret@tocsin.example/", PUBLIC),
        ("TOCSIN_PUBLIC_URL", "https://tocsin.example/#a", PUBLIC),
        ("TOCSIN_WEB_ADDRESS", "8000", f"'8000' {ADDRESS}"),
        ("TOCSIN_WEB_ADDRESS", ":8000", f"':8000' {ADDRESS}"),
        ("TOCSIN_WEB_ADDRESS", "host:", f"'host:' {ADDRESS}"),
        ("TOCSIN_WEB_ADDRESS", "host:0", f"'host:0' {ADDRESS}"),
        ("TOCSIN_WEB_ADDRESS", "host:65536", f"'host:65536' {ADDRESS}"),
        ("TOCSIN_WEB_ADDRESS", "host:-1", f"'host:-1' {ADDRESS}"),
        ("TOCSIN_CPU_THRESHOLD", "80%", "'80%': input should be a valid number, unable to parse string as a number"),
        ("TOCSIN_CPU_THRESHOLD", "-0.1", "'-0.1': input should be greater than or equal to 0"),
        ("TOCSIN_MEM_THRESHOLD", "100.1", "'100.1': input should be less than or equal to 100"),
        ("TOCSIN_DISK_THRESHOLD", "inf", "'inf': input should be less than or equal to 100"),
        ("TOCSIN_UNHEALTHY_STATUS", "199", "'199': input should be greater than or equal to 200"),
        ("TOCSIN_UNHEALTHY_STATUS", "600", "'600': input should be less than or equal to 599"),
        ("TOCSIN_INTERVAL", "10", f"'10' {DURATION}"),
        ("TOCSIN_INTERVAL", "0s", "'0s': input should be greater than 0"),
        ("TOCSIN_INTERVAL", "86401s", "'86401s': input should be less than or equal to 86400"),
        ("TOCSIN_DRAIN", "31s", "'31s': input should be less than or equal to 30"),
        ("TOCSIN_LOG_LEVEL", "LOUD", "'LOUD' is none of DEBUG, INFO, WARNING, ERROR"),
        ("WEB_CONCURRENCY", "0", "'0': input should be greater than or equal to 1"),
        ("WEB_CONCURRENCY", "65", "'65': input should be less than or equal to 64"),
        ("TOCSIN_WORKER_MEMORY", "64MiB", "is too little; a worker needs 128MiB"),
        ("TOCSIN_WORKER_MEMORY", "256", "'256' is not a size; write a number with KiB, MiB or GiB, such as 256MiB"),
        ("TOCSIN_PROGRAMS", "web,--all", "'--all': string should match pattern '^[A-Za-z0-9][A-Za-z0-9_.@:-]{0,99}$'"),
        ("WEB_CONCURRENCY", "auto", "'auto': input should be a valid integer, unable to parse string as an integer"),
    ],
)
def test_a_fault_names_the_variable_its_value_and_the_remedy(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, expected: str
) -> None:
    """One line says which variable, what it holds, and what it should hold."""
    monkeypatch.setenv(name, text)
    assert [f"{name}: {expected}"] == faults()


def test_a_threshold_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """`nan` compares with nothing, so no rule could ever fire: it is a fault."""
    monkeypatch.setenv("TOCSIN_CPU_THRESHOLD", "nan")
    (fault,) = faults()
    assert fault.startswith("TOCSIN_CPU_THRESHOLD: 'nan': ")


@pytest.mark.parametrize("text", ["127.0.0.1:1", "0.0.0.0:65535", "localhost:8000", "[::1]:8000"])
def test_a_web_address_is_host_and_port(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Names and both kinds of number are hosts, and the first and last port are ports."""
    monkeypatch.setenv("TOCSIN_WEB_ADDRESS", text)
    assert text == Settings.from_environment().web_address


@pytest.mark.parametrize(("text", "level"), [("debug", "DEBUG"), ("Warning", "WARNING"), ("ERROR", "ERROR")])
def test_a_log_level_is_read_in_any_case(monkeypatch: pytest.MonkeyPatch, text: str, level: str) -> None:
    """Upper and lower case are the same level."""
    monkeypatch.setenv("TOCSIN_LOG_LEVEL", text)
    assert level == Settings.from_environment().log_level


SECRET_FAULTS = [
    ("TOCSIN_API_KEY", "fifteen letters", "has fewer than 16 characters; `openssl rand -hex 24` makes a good one"),
    (
        "TOCSIN_WEBHOOK_SECRET",
        "whsec_notbase64!",
        "is not a webhook secret; write whsec_ and the base64 of 24 to 64 random bytes (`tocsin secret` makes one)",
    ),
    ("TOCSIN_WEBHOOK_URL", "hooks.example/KEY", "is not an address; write http://HOST/… or https://HOST/…"),
    ("TOCSIN_FRONT_URL", "ftp://front/KEY", "is not an address; write http://HOST/… or https://HOST/…"),
]


@pytest.mark.parametrize(("name", "text", "expected"), SECRET_FAULTS)
def test_a_fault_in_a_secret_says_the_remedy_and_not_the_value(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, expected: str
) -> None:
    """A bad secret is named by its variable alone."""
    monkeypatch.setenv(name, text)
    assert [f"{name}: {expected}"] == faults()


def test_all_faults_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever mends the environment sees every fault the first time."""
    bad = {"TOCSIN_HTTP_PORT": "x", "TOCSIN_INTERVAL": "10", "TOCSIN_LOG_LEVEL": "LOUD", "WEB_CONCURRENCY": "0"}
    bad |= {name: text for name, text, _ in SECRET_FAULTS}
    for name, text in bad.items():
        monkeypatch.setenv(name, text)
    assert sorted(bad) == sorted(fault.partition(":")[0] for fault in faults())


def test_an_api_key_of_sixteen_characters_is_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shortest key that is allowed is accepted."""
    monkeypatch.setenv("TOCSIN_API_KEY", "sixteen letters!")
    assert SecretStr("sixteen letters!") == Settings.from_environment().api_key


VALUES = {name: (field, text) for name, field, _, text, _ in VARIABLES if name in SECRETS}


def test_the_secrets_are_the_ones_of_this_test() -> None:
    """No field that holds a secret goes unproven."""
    assert {VALUES[name][0] for name in SECRETS} == Settings.secrets()


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n"])
@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_may_come_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, end: str) -> None:
    """NAME_FILE gives what the file holds, without the newline that editors leave at its end."""
    field, text = VALUES[name]
    (tmp_path / "secret").write_bytes(f"{text}{end}".encode())
    monkeypatch.setenv(f"{name}_FILE", str(tmp_path / "secret"))
    assert SecretStr(text) == getattr(Settings.from_environment(), field)


@pytest.mark.parametrize("name", SECRETS)
def test_the_variable_itself_comes_before_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Where both are set the variable counts and the file is not even read; an empty variable leaves it to the file."""
    field, text = VALUES[name]
    monkeypatch.setenv(name, text)
    monkeypatch.setenv(f"{name}_FILE", str(tmp_path / "secret"))
    assert SecretStr(text) == getattr(Settings.from_environment(), field)
    (tmp_path / "secret").write_text(text)
    monkeypatch.setenv(name, "")
    assert SecretStr(text) == getattr(Settings.from_environment(), field)


def test_an_empty_file_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """`TOCSIN_API_KEY_FILE=` means that there is no key, as with every other empty variable."""
    monkeypatch.setenv("TOCSIN_API_KEY_FILE", "")
    assert Settings.from_environment().api_key is None


def test_a_setting_that_is_no_secret_comes_from_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only secrets are looked for in files."""
    (tmp_path / "port").write_text("80")
    monkeypatch.setenv("TOCSIN_HTTP_PORT_FILE", str(tmp_path / "port"))
    assert Settings.from_environment().http_port == 8080


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_a_secret_file_that_cannot_be_read_is_one_fault_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Variable and path are named, with the system's reason."""
    path = tmp_path / "secret"
    if kind == "folder":
        path.mkdir()
    monkeypatch.setenv("TOCSIN_API_KEY_FILE", str(path))
    (fault,) = faults()
    assert str(path) in fault
    assert {"missing": "No such file or directory", "folder": "Is a directory"}[kind] in fault
    assert fault.startswith("TOCSIN_API_KEY_FILE: ")


def test_a_secret_file_that_is_not_text_is_one_fault_that_names_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that are no UTF-8 are a fault of that file, told without its content and without a traceback."""
    (tmp_path / "secret").write_bytes(b"a key of 24 bytes \xff\xfe\xfd")
    monkeypatch.setenv("TOCSIN_API_KEY_FILE", str(tmp_path / "secret"))
    (fault,) = faults()
    assert "TOCSIN_API_KEY" in fault or str(tmp_path / "secret") in fault
    assert "a key of" not in fault


def test_a_missing_secret_file_does_not_hide_the_other_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two files that are not there and a bad port are three faults, told at once."""
    monkeypatch.setenv("TOCSIN_API_KEY_FILE", str(tmp_path / "key"))
    monkeypatch.setenv("TOCSIN_WEBHOOK_SECRET_FILE", str(tmp_path / "signing"))
    monkeypatch.setenv("TOCSIN_HTTP_PORT", "x")
    told = "\n".join(faults())
    for expected in (str(tmp_path / "key"), str(tmp_path / "signing"), "TOCSIN_HTTP_PORT"):
        assert expected in told


@pytest.mark.parametrize(
    "shown", [repr, str, lambda settings: settings.model_dump_json(), lambda settings: str(settings.model_dump())]
)
def test_no_secret_shows_in_the_settings(monkeypatch: pytest.MonkeyPatch, shown: Callable[[Settings], str]) -> None:
    """However the settings are printed, no secret is in the text."""
    for name in SECRETS:
        monkeypatch.setenv(name, VALUES[name][1])
    text = shown(Settings.from_environment())
    assert [] == [name for name in SECRETS if VALUES[name][1] in text]


def test_a_fault_beside_secrets_does_not_show_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in one variable repeats no secret of another, whether that came from a variable or from a file."""
    for name in SECRETS:
        monkeypatch.setenv(name, VALUES[name][1])
    monkeypatch.delenv("TOCSIN_API_KEY")
    (tmp_path / "key").write_text(KEY)
    monkeypatch.setenv("TOCSIN_API_KEY_FILE", str(tmp_path / "key"))
    monkeypatch.setenv("TOCSIN_HTTP_PORT", "x")
    (fault,) = faults()
    assert [] == [name for name in SECRETS if VALUES[name][1] in fault]


@pytest.mark.parametrize("field", list(Settings.model_fields))
def test_settings_cannot_be_changed(settings: Settings, field: str) -> None:
    """What was read at the start holds until the end."""
    before = getattr(settings, field)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(settings, field, before)
    with pytest.raises(TypeError):
        settings.thresholds["cpu_usage"] = 1.0  # type: ignore[index]


def test_variables_of_others_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is no setting changes nothing, even with our prefix or without it."""
    before = Settings.from_environment()
    monkeypatch.setenv("TOCSIN_IMAGE", "tocsin:latest")
    monkeypatch.setenv("HTTP_PORT", "80")
    monkeypatch.setenv("TOCSIN_WEB_CONCURRENCY", "7")
    assert before == Settings.from_environment()


def test_no_env_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one who starts the process reads .env; the process itself does not look for one."""
    (tmp_path / ".env").write_text("TOCSIN_HTTP_PORT=80\n")
    monkeypatch.chdir(tmp_path)
    assert Settings.from_environment().http_port == 8080


def test_the_database_is_a_file_among_the_data_unless_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an address the database is SQLite in the data folder; with one it is that."""
    monkeypatch.setenv("TOCSIN_DATA", str(tmp_path))
    assert f"sqlite:///{tmp_path}/tocsin.db" == Settings.from_environment().database
    monkeypatch.setenv("TOCSIN_DATABASE_URL", "postgresql://u:pw@db/tocsin")
    assert "postgresql://u:pw@db/tocsin" == Settings.from_environment().database


def test_thresholds_are_by_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each threshold stands under the metric that it is compared with."""
    monkeypatch.setenv("TOCSIN_CPU_THRESHOLD", "1")
    monkeypatch.setenv("TOCSIN_MEM_THRESHOLD", "2")
    monkeypatch.setenv("TOCSIN_DISK_THRESHOLD", "3")
    assert {"cpu_usage": 1.0, "mem_usage": 2.0, "disk_usage": 3.0} == Settings.from_environment().thresholds


def test_any_variable_is_found_directly_in_a_file_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ${NAME} stands for: the variable, else what its file holds, else nothing; a missing file is an OSError."""
    monkeypatch.delenv("SHOP_KEY", raising=False)
    assert variable("SHOP_KEY") is None
    monkeypatch.setenv("SHOP_KEY_FILE", str(tmp_path / "key"))
    with pytest.raises(OSError, match="No such file"):
        variable("SHOP_KEY")
    (tmp_path / "key").write_text("from a file\n")
    assert "from a file" == variable("SHOP_KEY")
    monkeypatch.setenv("SHOP_KEY", "from a variable")
    assert "from a variable" == variable("SHOP_KEY")


def test_a_key_has_no_white_space_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """No client could send it: a header drops what stands around its value."""
    monkeypatch.setenv("TOCSIN_API_KEY", f"  {KEY}\n")

    assert SecretStr(KEY) == Settings.from_environment().api_key
