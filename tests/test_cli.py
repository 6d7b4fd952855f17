"""The `tocsin` command as a process of its own: what it prints, and with which status it ends."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from service.cli import main
from service.loading import schema
from service.settings import CHECKOUT
from service.signing import check_secret


def tocsin(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("tocsin")), *arguments]
    return subprocess.run(
        command, cwd=CHECKOUT, env=os.environ | environment, capture_output=True, text=True, timeout=30, check=False
    )


def test_the_repositorys_own_file_is_ok() -> None:
    """`check-config monitor.yaml` counts what it found and ends well."""
    finished = tocsin("check-config", "monitor.yaml")
    said = "ok: monitor.yaml: 2 targets, 5 rules, 0 receivers\n"
    assert (0, said, "") == (finished.returncode, finished.stdout, finished.stderr)


def test_without_a_file_the_environment_is_checked() -> None:
    """`check-config` alone checks the settings and the defaults made of them."""
    finished = tocsin("check-config", TOCSIN_WEBHOOK_URL="https://hooks.example/x")
    said = f"ok: {CHECKOUT}/monitor.yaml: 2 targets, 5 rules, 1 receivers\n"
    assert (0, said, "") == (finished.returncode, finished.stdout, finished.stderr)


def test_the_file_of_the_environment_is_checked(tmp_path: Path) -> None:
    """Without an argument TOCSIN_CONFIG is the file."""
    (tmp_path / "monitor.yaml").write_text("rules: []")
    finished = tocsin("check-config", TOCSIN_CONFIG=str(tmp_path / "monitor.yaml"))
    assert (0, f"ok: {tmp_path}/monitor.yaml: 2 targets, 0 rules, 0 receivers\n") == (finished.returncode, finished.stdout)


def test_faults_of_the_file_are_listed_with_status_2_and_no_traceback(tmp_path: Path) -> None:
    """Each fault is one line on standard error with file and place, and nothing else is said."""
    path = tmp_path / "monitor.yaml"
    path.write_text("interval: 10\nrules: [{alert: a, when: 'cpu_usage >> 80'}]\ntragets: []\n")
    finished = tocsin("check-config", str(path))
    assert (2, "") == (finished.returncode, finished.stdout)
    form = "\"<metric> <op> <number>\", such as 'cpu_usage > 80', nor 'absent(<metric>)'"
    assert [
        f"{path}: interval: 10 is not a duration; write a number with ms, s, m, h or d, such as 10s or 1h30m",
        f"{path}: rules[0].when: 'cpu_usage >> 80' is not {form}",
        f"{path}: tragets: is not known here; did you mean 'targets'?",
    ] == finished.stderr.splitlines()


def test_faults_of_the_environment_are_listed_with_status_2_and_no_traceback() -> None:
    """Faults in variables are told the same way, and secrets among them are not."""
    finished = tocsin("check-config", TOCSIN_HTTP_PORT="x", TOCSIN_API_KEY="too short", WEB_CONCURRENCY="0")
    assert (2, "") == (finished.returncode, finished.stdout)
    assert ["TOCSIN_API_KEY", "TOCSIN_HTTP_PORT", "WEB_CONCURRENCY"] == sorted(
        line.partition(":")[0] for line in finished.stderr.splitlines()
    )
    assert "too short" not in finished.stderr


@pytest.mark.parametrize(
    "content",
    [None, b"\xff", b"a: [", b"&a [*a]", b'"\\ud800": "\\udfff"', b"- 1\n" * 524_288, "é: \U0001f600".encode(), b"[" * 9999],
    ids=["missing", "no text", "no YAML", "endless", "half characters", "2 MB", "unknown key", "deep"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_file_that_is_none_ends_with_status_2_and_no_traceback(tmp_path: Path, content: bytes | None, encoding: str) -> None:
    """Whatever the file holds, and whatever the terminal can show, the fault is told in a line that names the file."""
    path = tmp_path / "monitor.yaml"
    if content is not None:
        path.write_bytes(content)
    finished = tocsin("check-config", str(path), PYTHONIOENCODING=encoding)
    assert (2, "") == (finished.returncode, finished.stdout)
    assert [True] == [line.startswith(f"{path}: ") for line in finished.stderr.splitlines()]


@pytest.mark.parametrize(
    "text", ["interval: !!bool maybe", "targets: [{name: a, url: 'http://a', expect: [0x" + "f" * 5000 + "]}]"]
)
def test_a_strange_value_ends_with_status_2_and_no_traceback(tmp_path: Path, text: str) -> None:
    """A tag that its text does not fit and a number of thousands of digits are faults like others."""
    (tmp_path / "monitor.yaml").write_text(text)
    finished = tocsin("check-config", str(tmp_path / "monitor.yaml"))
    assert "Traceback" not in finished.stderr
    assert 2 == finished.returncode


def test_a_threshold_near_zero_ends_without_a_traceback() -> None:
    """A threshold that the settings allow makes default rules."""
    finished = tocsin("check-config", TOCSIN_CPU_THRESHOLD="0.00001")
    assert (0, "") == (finished.returncode, finished.stderr)


def test_a_missing_secret_file_ends_with_status_2_and_its_name() -> None:
    """The file that TOCSIN_API_KEY_FILE names is in the message."""
    finished = tocsin("check-config", TOCSIN_API_KEY_FILE="/nowhere/key")
    assert (2, "") == (finished.returncode, finished.stdout)
    assert "/nowhere/key" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_the_monitor_refuses_a_bad_configuration_before_it_does_anything(tmp_path: Path) -> None:
    """`tocsin monitor` ends with the same list and status, and has not made its data folder."""
    (tmp_path / "monitor.yaml").write_text("interval: soon")
    finished = tocsin("monitor", TOCSIN_CONFIG=str(tmp_path / "monitor.yaml"), TOCSIN_DATA=str(tmp_path / "data"))
    assert 2 == finished.returncode
    assert "interval: 'soon' is not a duration" in json.loads(finished.stdout)["message"]
    assert not (tmp_path / "data").exists()


def test_the_schema_is_json_on_standard_output() -> None:
    """`tocsin schema > schema.json` is a file that editors can read."""
    finished = tocsin("schema")
    assert (0, "") == (finished.returncode, finished.stderr)
    assert schema() == json.loads(finished.stdout)


def test_a_new_secret_is_one_that_signs() -> None:
    """`tocsin secret` prints one secret of 32 bytes, another one each time, and it passes our own check."""
    first, second = tocsin("secret"), tocsin("secret")
    assert (0, "") == (first.returncode, first.stderr)
    assert first.stdout != second.stdout
    secret = check_secret(SecretStr(first.stdout.removesuffix("\n")))
    assert 32 == len(base64.b64decode(secret.get_secret_value().removeprefix("whsec_")))


@pytest.mark.parametrize("arguments", [["no-such-command"], ["check-config", "a", "b"], ["schema", "--bad"]])
def test_a_wrong_command_line_ends_with_status_2_and_no_traceback(arguments: list[str]) -> None:
    """What is not a command is told with the usage."""
    finished = tocsin(*arguments)
    assert (2, "") == (finished.returncode, finished.stdout)
    assert finished.stderr.startswith("Usage: ")
    assert "Traceback" not in finished.stderr


def test_faults_of_the_environment_and_of_the_file_are_told_together(tmp_path: Path) -> None:
    """Who has made two mistakes in two places reads of both at once."""
    (tmp_path / "monitor.yaml").write_text("interval: 10")
    environment = {**os.environ, "TOCSIN_INTERVAL": "10", "TOCSIN_CONFIG": str(tmp_path / "monitor.yaml")}
    command = [str(Path(sys.executable).with_name("tocsin")), "check-config"]
    finished = subprocess.run(command, cwd=tmp_path.parents[-1], env=environment, capture_output=True, text=True, check=False)

    assert 2 == finished.returncode
    assert ["TOCSIN_INTERVAL: '10'", f"{tmp_path}/monitor.yaml: interval: 10"] == [
        line.partition(" is not")[0] for line in finished.stderr.splitlines()
    ]


def test_the_command_reads_env_of_its_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """What `.env` sets, the command has, as `make up` does; what the environment sets wins."""
    (tmp_path / ".env").write_text("TOCSIN_INTERVAL=nonsense\nTOCSIN_DRAIN=nonsense\n")
    monkeypatch.setattr("service.cli.CHECKOUT", tmp_path)
    monkeypatch.setenv("TOCSIN_INTERVAL", "10s")
    monkeypatch.setenv("TOCSIN_DRAIN", "")  # so that it is as before afterwards
    monkeypatch.delenv("TOCSIN_DRAIN")
    monkeypatch.setattr("sys.argv", ["tocsin", "check-config"])
    with pytest.raises(SystemExit) as ended:
        main()

    said = capsys.readouterr().err
    assert 2 == ended.value.code
    assert "TOCSIN_DRAIN: 'nonsense'" in said
    assert "TOCSIN_INTERVAL" not in said


def test_an_env_that_is_no_text_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """A `.env` that is not UTF-8 ends no command with a traceback: it is named, and the environment counts."""
    (tmp_path / ".env").write_bytes(b"TOCSIN_DRAIN=\xff\n")
    monkeypatch.setattr("service.cli.CHECKOUT", tmp_path)
    monkeypatch.setattr("sys.argv", ["tocsin", "secret"])
    with pytest.raises(SystemExit) as ended:
        main()

    assert 0 == ended.value.code
    said = capsys.readouterr()
    assert said.out.startswith("whsec_")
    assert f"{tmp_path}/.env cannot be read (it is not text in UTF-8)" in said.err
