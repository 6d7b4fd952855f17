"""deploy/elk: rsyslog carries the real logs of all processes to what refuses what Elasticsearch would; the rest is read."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from service.fields import ALL, FIELDS, KINDS, LABELS
from tests.elasticsearch import Elasticsearch, RefusedError, accepted, elasticsearch
from tests.receiver import Receiver, receiving
from tests.stack import BIN, ROOT, eventually, free_port, process, unless, web

ELK = ROOT / "deploy/elk"
STREAM = "logs-tocsin-default"
KEY = "correct-horse-battery-staple"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
MONITOR = """
targets: [{name: self, url: "http://%s/api/health", service: web}]
rules: [{alert: Answers, when: up == 1}]
"""
LIMIT = 60_000
# What supervise.py is natively, with files that are full sooner.
SUPERVISE = """
import sys
sys.path.insert(0, "deploy/supervisor")
import supervise
supervise.NATIVE_LOG_BYTES = {limit}
sys.argv[1:] = ["--native"]
sys.exit(supervise.main())
"""
# What docs/logs.md says of `failed`.
AGAIN = next(
    block
    for block in re.findall(r"```sh\n(.*?)```", (ROOT / "docs/logs.md").read_text(encoding="utf-8"), re.DOTALL)
    if "failed" in block
)
# These need a fault in our own code, or in a library.
UNPROVOKED = {("log.logger", "monitor"), ("error.type", "monitor"), ("error.stack_trace", "monitor")}


@dataclass
class Stack:
    """A real stack without Docker, and the folder of its logs."""

    folder: Path
    url: str
    receiver: Receiver

    @property
    def logs(self) -> Path:
        return self.folder / "log"

    def call(self, method: str, path: str, **given: Any) -> requests.Response:
        return requests.request(method, self.url + path, timeout=30, headers={"Authorization": f"Bearer {KEY}"}, **given)

    def texts(self) -> list[bytes]:
        """Every line that was written, in the files that were rotated, too."""
        return [line for path in sorted(self.logs.iterdir()) for line in path.read_bytes().splitlines()]

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.texts()]

    def pid(self, program: str) -> int:
        socket = f"unix://{self.folder}/supervisor.sock"
        asked = subprocess.run([BIN / "supervisorctl", "-s", socket, "pid", program], capture_output=True, text=True, check=False)
        return int(asked.stdout) if asked.stdout.strip().isdecimal() else 0


@contextmanager
def native(folder: Path, limit: int) -> Iterator[Stack]:
    """supervise.py --native with everything under it, whose log files are rotated at so many bytes."""
    address, front = f"127.0.0.1:{free_port()}", free_port()
    (folder / "monitor.yaml").write_text(MONITOR % address)
    with receiving() as receiver:
        numbers = count()
        receiver.answer = lambda _: 500 if next(numbers) == 0 else 204
        env = {
            "TOCSIN_DATA": str(folder),
            "TOCSIN_WEB_ADDRESS": address,
            "TOCSIN_HTTP_PORT": str(front),
            "TOCSIN_CONFIG": str(folder / "monitor.yaml"),
            "TOCSIN_INTERVAL": "1s",
            "TOCSIN_DRAIN": "0s",
            "TOCSIN_API_KEY": KEY,
            "TOCSIN_WEBHOOK_URL": receiver.url,
            "WEB_CONCURRENCY": "2",
        }
        with process([sys.executable, "-c", SUPERVISE.format(limit=limit)], env, folder / "output"):
            stack = Stack(folder, f"http://127.0.0.1:{front}", receiver)
            eventually(lambda: stack.call("GET", "/readyz").status_code == 200 and stack.pid("monitor"), "the stack", 30)
            yield stack


@contextmanager
def rsyslog(logs: Path, work: Path, host: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Debian's rsyslogd with our configuration, as an ordinary process beside the system's."""
    work.mkdir(exist_ok=True)
    env = {"TOCSIN_LOGS": str(logs), "TOCSIN_RSYSLOG": str(work), "ELASTICSEARCH_HOST": host}
    command = ["rsyslogd", "-n", "-f", ELK / "rsyslog.conf", "-i", work / "pid"]
    with process([str(part) for part in command], env, work / "output") as child:
        yield child


def set_up(running: Elasticsearch) -> None:
    subprocess.run(["sh", ELK / "setup.sh", running.url], check=True, capture_output=True, timeout=30)


def counted(lines: list[dict[str, Any]]) -> Counter[str]:
    return Counter(json.dumps(line, sort_keys=True) for line in lines)


@dataclass
class Journey:
    """What was written, and what arrived of it."""

    written: list[dict[str, Any]]
    arrived: Elasticsearch
    folder: Path
    work: Path
    rotated: list[str]


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journey]:
    """A stack lives, its files are rotated, rsyslog reads along; Elasticsearch comes later, goes, is busy, and comes again."""
    folder, work, port = tmp_path_factory.mktemp("stack"), tmp_path_factory.mktemp("rsyslog"), free_port()
    (folder / "log").mkdir()
    with ExitStack() as everything:
        # A view that fails: the same program with an application that has one.
        failing = everything.enter_context(web(tmp_path_factory.mktemp("failing"), "tests.apps:failing()"))
        everything.enter_context(rsyslog(folder / "log", work, f"http://127.0.0.1:{port}"))
        with native(folder, LIMIT) as stack:
            live(stack)
            running = everything.enter_context(elasticsearch(port))
            set_up(running)
            eventually(lambda: len(running.lines()) > 100, "the first lines", 40)
            running.away = True  # as a proxy says it whose Elasticsearch is gone
            for number in range(50):
                stack.call("GET", f"/livez?away={number}")
            eventually(lambda: running.turned_away > 1, "an answer of 503")
            time.sleep(1)
            running.away, busy = False, iter(range(3))
            running.busy = lambda: next(busy, None) is not None
            stack.receiver.wait_for(2)
        failing.get("/fails", headers={"traceparent": TRACEPARENT})
        eventually(lambda: any("error.stack_trace" in line for line in failing.lines()), "the exception")
        shutil.copy(failing.log, stack.logs / "failing.log")
        written = stack.lines()
        eventually(lambda: len(running.lines()) + in_file(work / "failed") >= len(written), "every line", 40)
        subprocess.run(["sh", "-ec", AGAIN], cwd=work, env=os.environ | {"URL": running.url}, check=True, capture_output=True)
        time.sleep(1)  # nothing comes twice
        yield Journey(written, running, folder, work, sorted(path.name for path in stack.logs.iterdir()))


def in_file(failed: Path) -> int:
    """How many lines stand in what was answered with an error as a whole."""
    requests_made = [json.loads(row)["request"]["postdata"] for row in failed.read_text(encoding="utf-8").splitlines()]
    return sum(made.count("\n") // 2 for made in requests_made)


def live(stack: Stack) -> None:
    """What happens in days."""
    for number in range(150):
        stack.call("GET", f"/livez?number={number}")
    requests.get(f"{stack.url}/nothing", headers={"traceparent": TRACEPARENT, "Referer": "https://example.org/"}, timeout=10)
    wrong = {"Authorization": "Bearer guessed"}
    assert 401 == requests.post(f"{stack.url}/api/v1/silences", json={}, headers=wrong, timeout=10).status_code
    silence = {"matchers": ['alert="Nothing"'], "duration": "1h", "author": "ann", "comment": "a test"}
    assert 201 == stack.call("POST", "/api/v1/silences", json=silence).status_code
    assert stack.call("POST", "/api/v1/jobs/prune/run", json={"author": "ann"}).status_code < 300
    eventually(lambda: [line for line in stack.lines() if line["message"].startswith("job: done")], "the job", 20)


def test_every_line_of_every_process_is_taken_once(journey: Journey) -> None:
    """Through rotations, an Elasticsearch that is not there yet, goes away and is busy: none lost, none twice, none refused."""
    assert counted(journey.written) == counted(journey.arrived.lines())
    assert {STREAM} == set(journey.arrived.documents)
    assert {409, 429} >= {status for status, *_ in journey.arrived.refused}
    assert not (journey.work / "refused").exists()


def test_the_outages_have_been(journey: Journey) -> None:
    """Files were rotated while they were read, and Elasticsearch has said both: too much to do, and nothing at all."""
    assert {"web.log.1", "nginx.log.1"} <= set(journey.rotated)
    assert 3 == sum(status == 429 for status, *_ in journey.arrived.refused)
    assert journey.arrived.turned_away


def program(line: dict[str, Any]) -> str:
    return str(line["service.name"]).removeprefix("tocsin-")


@pytest.mark.parametrize("name", ALL)
def test_every_field_is_in_a_real_line_of_each_program_that_writes_it(journey: Journey, name: str) -> None:
    """What the table says of a program is so, but for what only a fault of ours brings about."""
    found = {field for line in journey.written if program(line) == name for field, value in line.items() if value != ""}
    said = {field.name for field in FIELDS if name in field.writers and (field.name, name) not in UNPROVOKED}

    assert set() == said - found


def test_no_line_has_anything_undefined(journey: Journey) -> None:
    """Every field of every real line is in the definition, and written by a program of which the definition says so."""
    writers = {field.name: field.writers for field in (*FIELDS, *LABELS)}
    found = {(name, program(line)) for line in journey.written for name in line}

    assert set() == {(name, who) for name, who in found if who not in writers.get(name, ())}


def test_one_glob_finds_the_live_files(journey: Journey) -> None:
    """`log/*.log` is each program's file, and never one that was rotated."""
    live = [name for name in journey.rotated if Path(name).match("*.log")]

    assert ["failing.log", "monitor.log", "nginx.log", "supervisord.log", "web.log"] == live
    assert all(re.fullmatch(r"(web|nginx|monitor|supervisord)\.log\.[1-5]", name) for name in set(journey.rotated) - set(live))


def test_supervisords_own_log_is_rotated(tmp_path: Path) -> None:
    """Past its limit it is renamed and begun anew; each file is short, and none of its lines is lost or somewhere else."""
    with native(tmp_path, 1000) as stack:
        files = sorted(stack.logs.glob("supervisord.log*"))
        sizes = [file.stat().st_size for file in files]
        lines = [json.loads(line) for file in reversed(files) for line in file.read_bytes().splitlines()]

    assert ["supervisord.log", "supervisord.log.1"] == [file.name for file in files[:2]]
    assert max(sizes) < 1000 + 500  # one line more
    assert {"tocsin-supervisord"} == {line["service.name"] for line in lines}
    assert ["monitor", "nginx", "web"] == sorted(re.findall(r"spawned: '(\w+)'", "".join(line["message"] for line in lines)))
    assert sorted(line["@timestamp"] for line in lines) == [line["@timestamp"] for line in lines]
    assert "" == (tmp_path / "output").read_text(encoding="utf-8")


def test_a_file_that_cannot_be_rotated_costs_no_line(tmp_path: Path) -> None:
    """No new file can be made, as on a full disk: what is said goes on in the old one, and once it can be, in a new one."""
    code = """
import os, sys
sys.path.insert(0, "deploy/supervisor")
import supervise
folder = supervise.Path(sys.argv[1])
file = supervise.File(folder / "log/a.log", 4)
for number, name in enumerate(["log", "gone", "gone", "log", "log"]):
    if not (folder / name).exists():
        os.rename(folder / ("gone" if name == "log" else "log"), folder / name)
    os.write(1, b"line %d\\n" % number)
    file.rotate()
"""
    (tmp_path / "log").mkdir()
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, check=False, capture_output=True, timeout=30)
    files = sorted((tmp_path / "log").iterdir(), reverse=True)

    assert 0 == done.returncode
    assert [b"line %d" % number for number in range(5)] == b"".join(file.read_bytes() for file in files).splitlines()
    assert "a.log" == files[-1].name


def test_what_is_wrong_before_there_is_a_log_is_said_where_it_was_started(tmp_path: Path) -> None:
    """A setting with a fault: no file can be opened yet, so the line is on standard output, for `make up` or the journal."""
    env = {**os.environ, "TOCSIN_DATA": str(tmp_path), "TOCSIN_INTERVAL": "soon"}
    command = [sys.executable, "deploy/supervisor/supervise.py", "--native"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=30)

    assert 2 == done.returncode
    assert json.loads(done.stdout)["message"].startswith("TOCSIN_INTERVAL: 'soon' is not a duration")


def test_what_nginx_says_before_it_has_a_log_has_a_time(tmp_path: Path, mappings: dict[str, Any]) -> None:
    """A configuration that nginx does not take: its words are a line that Elasticsearch takes, with the time of the start."""
    env = {"NGINX_PREFIX": str(tmp_path / "nginx"), "NGINX_LISTEN": "nowhere:none", "NGINX_UPSTREAM": "127.0.0.1:1"}
    with process(["sh", ROOT / "deploy/nginx/start.sh"], env, tmp_path / "nginx.log") as child:
        assert 0 != child.wait(20)
        # Within the process group's life: what turns its words into JSON may still be at it.
        lines = eventually(lambda: (tmp_path / "nginx.log").read_bytes().splitlines(), "its words")

    assert ["emerg"] == [accepted(line, mappings)["log.level"] for line in lines]

    env["PATH"] = "/usr/bin:/bin"  # without nginx: then it is the shell that says so
    with process(["sh", ROOT / "deploy/nginx/start.sh"], env, tmp_path / "shell.log") as child:
        assert 0 != child.wait(20)
        (line,) = eventually(lambda: (tmp_path / "shell.log").read_bytes().splitlines(), "the shell's")
    assert "not found" in accepted(line, mappings)["message"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs/logs.md").read_text(encoding="utf-8"), re.DOTALL)


def test_the_documents_lines_are_lines(mappings: dict[str, Any]) -> None:
    """Each example is taken, has the fields of its program and no others, and there is one of every program."""
    lines = [json.loads(line) for block in blocks("json") for line in block.splitlines()]
    writers = {field.name: field.writers for field in (*FIELDS, *LABELS)}

    assert set(ALL) == {program(line) for line in lines}
    for line in lines:
        assert line == accepted(json.dumps(line).encode(), mappings)
        assert set() == {name for name in line if program(line) not in writers[name]}


def test_the_documents_commands_read_real_lines(journey: Journey, tmp_path: Path) -> None:
    """Its three questions to `jq`, on the journey's lines: the failure, both lines of one request, and ten slow requests."""
    (tmp_path / "log").mkdir()
    for name in {name.partition(".log")[0] for name in journey.rotated}:  # one file each, wherever they were cut last
        parts = sorted((journey.folder / "log").glob(f"{name}.log*"), reverse=True)
        (tmp_path / f"log/{name}.log").write_bytes(b"".join(part.read_bytes() for part in parts))
    (commands,) = [block for block in blocks("sh") if block.startswith("# What went wrong")]
    nginx, web = (
        Counter(json.loads(line).get("http.request.id") for line in (tmp_path / f"log/{name}.log").read_bytes().splitlines())
        for name in ("nginx", "web")
    )
    identity = next(each for each in web if each and nginx[each] == web[each] == 1)  # a request that fails has more lines
    asked = [command for command in commands.splitlines() if command.startswith("jq ")]
    said = []
    for command in asked:
        env = os.environ | {"ID": identity}
        done = subprocess.run(["sh", "-ec", command], cwd=tmp_path, env=env, check=True, capture_output=True, timeout=30)
        said.append([json.loads(row) for row in done.stdout.splitlines()])
    wrong, request, slow = said

    assert "on purpose" in {each["error.message"] for each in wrong}
    assert ["tocsin-nginx", "tocsin-web"] == sorted(each["service.name"] for each in request)
    assert 10 == len(slow)
    durations = [milliseconds for milliseconds, _ in slow]
    assert sorted(durations, reverse=True) == durations


LINE: dict[str, Any] = {"@timestamp": "2026-11-21T12:00:00.000Z", "message": "hello", "log.level": "info"}
SCALAR = "found a concrete value"
REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "a scalar where ECS has an object": (LINE | {"error": "it broke"}, "document_parsing_exception", SCALAR),
    "a scalar where ECS has an object in an object": (LINE | {"http.request": "GET"}, "document_parsing_exception", SCALAR),
    "a scalar for the labels": (LINE | {"labels": "a"}, "document_parsing_exception", SCALAR),
    "an object where there is a scalar": (LINE | {"message": {"text": "x"}}, "document_parsing_exception", "it is an object"),
    "an object for a label": (LINE | {"labels.a": {"b": "c"}}, "document_parsing_exception", "labels.a"),
    "text for a number": (LINE | {"process.pid": "many"}, "document_parsing_exception", "type [long]"),
    "a number that is too large": (LINE | {"event.duration": 1e30}, "document_parsing_exception", "type [long]"),
    "an address that is none": (LINE | {"client.ip": "-"}, "document_parsing_exception", "type [ip]"),
    "an address that is empty": (LINE | {"client.ip": ""}, "document_parsing_exception", "type [ip]"),
    "a time that is none": (LINE | {"@timestamp": "yesterday"}, "document_parsing_exception", "type [date]"),
    "no time": ({"message": "hello"}, "document_parsing_exception", "@timestamp"),
    "an unknown field": (LINE | {"colour": "red"}, "strict_dynamic_mapping_exception", "[colour] within [_doc]"),
    "an unknown field of an object": (LINE | {"http.version": "1.1"}, "strict_dynamic_mapping_exception", "within [http]"),
    "an unknown object": (LINE | {"host.name": "a"}, "strict_dynamic_mapping_exception", "[host] within [_doc]"),
}
TAKEN: dict[str, dict[str, Any]] = {
    "objects for dots": {"@timestamp": LINE["@timestamp"], "log": {"level": "info"}, "http": {"request.id": "a"}},
    "a label that nobody has named": LINE | {"labels.colour": "red"},
    "empty text": LINE | {"trace.id": "", "http.request.referrer": ""},
    "nothing": LINE | {"error.message": None},
    "a number as a keyword": LINE | {"event.action": 5},
}


@pytest.fixture(scope="module")
def mappings() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ELK / "index-template.json").read_text(encoding="utf-8"))["template"]["mappings"]
    return found


@pytest.mark.parametrize("name", REFUSED)
def test_the_receiver_refuses_what_elasticsearch_would(mappings: dict[str, Any], name: str) -> None:
    """P21 and P22: each with Elasticsearch's own type of error, and the field in its reason."""
    line, kind, reason = REFUSED[name]
    with pytest.raises(RefusedError) as refused:
        accepted(json.dumps(line).encode(), mappings)
    assert kind == refused.value.kind
    assert reason in refused.value.reason


@pytest.mark.parametrize("name", TAKEN)
def test_the_receiver_takes_what_elasticsearch_would(mappings: dict[str, Any], name: str) -> None:
    """It is not stricter than what it stands for."""
    assert TAKEN[name] == accepted(json.dumps(TAKEN[name]).encode(), mappings)


def test_a_wrong_line_is_refused_and_seen(tmp_path: Path) -> None:
    """Lines put in by hand: rsyslog keeps each refused one with its reason; those between arrive, and plain text does."""
    (tmp_path / "log").mkdir()
    good = [LINE | {"process.pid": number, "service.name": "tocsin-web"} for number in range(len(REFUSED))]
    with (tmp_path / "log/web.log").open("w", encoding="utf-8") as file:
        for line, (wrong, *_) in zip(good, REFUSED.values(), strict=True):
            file.write(f"{json.dumps(line)}\n{json.dumps(wrong)}\n")
        file.write('Segmentation fault: "plain"\ttext, \\ and ä\n')
    refused = tmp_path / "work/refused"
    with elasticsearch() as running:
        set_up(running)
        with rsyslog(tmp_path / "log", tmp_path / "work", running.url):
            eventually(lambda: len(running.lines()) > len(good), "the good ones", 20)
            eventually(lambda: refused.read_text(encoding="utf-8").count("\n") == len(REFUSED), "the others", 20)
    *rest, text = running.lines()
    kept = [json.loads(line) for line in refused.read_text(encoding="utf-8").splitlines()]

    assert counted(good) == counted(rest)
    assert counted([line for line, *_ in REFUSED.values()]) == counted([json.loads(each["line"]) for each in kept])
    assert sorted((kind, "400") for _, kind, _ in REFUSED.values()) == sorted((each["type"], each["status"]) for each in kept)
    assert 'Segmentation fault: "plain"\ttext, \\ and ä' == text["message"]
    assert ("error", "tocsin-web") == (text["log.level"], text["service.name"])
    assert set(text) <= set(KINDS)


def test_what_waits_outlives_rsyslog(tmp_path: Path) -> None:
    """rsyslog ends while Elasticsearch is away: what waited comes, but the batch in flight; read again, all, and each once."""
    (tmp_path / "log").mkdir()
    work, port = tmp_path / "work", free_port()

    def write(numbers: range) -> None:
        with (tmp_path / "log/web.log").open("a", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(LINE | {'process.pid': number})}\n" for number in numbers)

    write(range(200))
    with rsyslog(tmp_path / "log", work, f"http://127.0.0.1:{port}") as child:
        eventually(lambda: "server failure" in (work / "output").read_text(), "a try")
        time.sleep(1)
        child.send_signal(signal.SIGTERM)
        child.wait(20)
    write(range(200, 250))
    with elasticsearch(port) as running:
        set_up(running)
        with rsyslog(tmp_path / "log", work, running.url):
            eventually(lambda: {249} <= {line["process.pid"] for line in running.lines()}, "the last line", 30)
            eventually(lambda: len(running.lines()) >= 150, "what waited", 30)
        for state in work.glob("imfile-state*"):  # docs/logs.md: to read the live files again
            state.unlink()
        with rsyslog(tmp_path / "log", work, running.url):
            eventually(lambda: len(running.lines()) >= 250, "every line", 30)
    assert list(range(250)) == sorted(line["process.pid"] for line in running.lines())


def test_setup_puts_the_policy_and_the_template(mappings: dict[str, Any]) -> None:
    """setup.sh's two calls, with real curl; the template names the policy, and covers the stream that both shippers write to."""
    with elasticsearch() as running:
        set_up(running)
        template = running.templates["tocsin-logs"]
        assert mappings == template["template"]["mappings"]
        assert template["template"]["settings"]["index.lifecycle.name"] in running.policies
        assert (
            STREAM
            in running.bulk(b'{"create":{"_index":"%s"}}\n%s\n' % (STREAM.encode(), json.dumps(LINE).encode()))["items"][0][
                "create"
            ].values()
        )


def filebeat() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ELK / "filebeat.yml").read_text(encoding="utf-8"))
    return found


def test_filebeat_is_given_only_what_filebeat_9_takes() -> None:
    """`filestream` with an id of its own, and our lines' parsers; the inputs `log` and `container` are refused since 9.0."""
    inputs = filebeat()["filebeat.inputs"]

    assert {"filestream"} == {each["type"] for each in inputs}
    assert len(inputs) == len({each["id"] for each in inputs})
    assert [["container", "ndjson"], ["ndjson"]] == [[name for parser in each["parsers"] for name in parser] for each in inputs]
    for each in inputs:
        assert {"target": "", "overwrite_keys": True, "expand_keys": True, "add_error_key": True} == each["parsers"][-1]["ndjson"]
        # The shortest line that any of our processes can write is longer: a file is known by its first.
        shortest: dict[str, Any] = {"@timestamp": LINE["@timestamp"], "log.level": "info", "message": "", "ecs.version": "8.11.0"}
        shortest |= {"service.name": "tocsin-web", "process.pid": 1}
        assert each["prospector.scanner.fingerprint.length"] < len(json.dumps(shortest, separators=(",", ":")))


def test_filebeat_and_rsyslog_write_to_the_stream_that_the_template_covers(mappings: dict[str, Any]) -> None:
    """One name in both files; nothing of Filebeat's own is left that the template would refuse."""
    settings = filebeat()
    (dropped,) = [each["drop_fields"]["fields"] for each in settings["processors"]]
    # What Filebeat adds to each event, by its own reference ("Log file content fields", "Beat fields").
    own = {"agent", "container", "docker", "host", "input", "stream", "log.file", "log.flags", "log.offset"}

    assert STREAM == settings["output.elasticsearch"]["index"]
    assert f'searchIndex="{STREAM}"' in (ELK / "rsyslog.conf").read_text(encoding="utf-8")
    assert own == set(dropped)
    assert (False, False) == (settings["setup.template.enabled"], settings["setup.ilm.enabled"])


def composed(*arguments: str) -> dict[str, Any]:
    command = ["docker", "compose", *arguments, "config", "--format", "json"]
    found: dict[str, Any] = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60).stdout)
    return found


@unless(shutil.which("docker") is not None, "needs docker's command with Compose")
def test_the_profile_is_valid_and_costs_nothing_without_it() -> None:
    """`docker compose config`: without the profile there are two services; with it three more that stay, and one that ends."""
    assert {"app", "nginx"} == set(composed()["services"])
    elk = composed("--profile", "elk")["services"]
    added = {name: elk[name] for name in set(elk) - {"app", "nginx"}}

    assert {"elasticsearch", "elk-setup", "kibana", "filebeat"} == set(added)
    assert 1 == len({each["image"].rpartition(":")[2] for each in added.values()})  # one pinned version
    assert all(re.fullmatch(r"(elasticsearch|kibana|elastic/filebeat):9\.\d+\.\d+", each["image"]) for each in added.values())
    assert {"kibana": ["127.0.0.1"]} == {n: [p["host_ip"] for p in each["ports"]] for n, each in added.items() if "ports" in each}
    assert all({"elk"} <= set(each["networks"]) <= {"elk", "kibana"} for each in added.values())
    assert not any("docker.sock" in str(each) for each in added.values())
    assert [["tocsin"]] * 2 == [[elk[name]["logging"]["options"]["tag"]] for name in ("app", "nginx")]
