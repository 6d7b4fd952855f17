"""/api/v1/jobs and /api/v1/runs as WSGI sees them: only the database is written, and only what the documents name."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr
from sqlalchemy import Engine, insert

from service.settings import Settings
from service.tables import runs
from service.web import create_app
from tests.stack import children, eventually, web

KEY = "correct-horse-battery-staple"
BACKUP = {"task": {"kind": "backup"}, "trigger": {"type": "interval", "every": "1h"}, "author": "ann"}
JOB = [
    "name",
    "task",
    "trigger",
    "missed",
    "paused",
    "due_at",
    "wanted_at",
    "wanted_by",
    "author",
    "created_at",
    "updated_at",
    "last_run",
]
RUN = ["id", "job", "kind", "due_at", "asked_by", "started_at", "ended_at", "seconds", "outcome", "detail"]
Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def client(settings: Settings, tmp_path: Path) -> Iterator[FlaskClient]:
    (tmp_path / "monitor.yaml").write_text(
        "receivers:\n"
        "  - {name: ops, webhook: http://127.0.0.1:9/}\n"
        "  - {name: am, webhook: http://127.0.0.1:9/, format: alertmanager}\n"
    )
    app = create_app(settings.model_copy(update={"api_key": SecretStr(KEY), "config": tmp_path / "monitor.yaml"}))
    client = app.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {KEY}"
    yield client
    app.extensions["sampler"].stop()


def add(client: FlaskClient, name: str = "nightly", **changed: Any) -> dict[str, Any]:
    answer = client.post("/api/v1/jobs", json={"name": name, **BACKUP, **changed})
    assert 201 == answer.status_code, answer.data
    return dict(answer.get_json())


def ran(engine: Engine, *found: dict[str, Any]) -> None:
    whole = {"kind": "backup", "due": 0.0, "started": 0.0, "ended": 1.5, "outcome": "done", "detail": ""}
    with engine.begin() as connection:
        connection.execute(insert(runs), [{**whole, **each} for each in found])


def test_a_job_is_added_read_changed_paused_resumed_and_removed(client: FlaskClient, lines: Lines) -> None:
    """The whole life of one, each step with its status and its log line; what is answered is what is there afterwards."""
    answer = client.post("/api/v1/jobs", json={"name": "nightly", **BACKUP})
    job, place = answer.get_json(), "/api/v1/jobs/nightly"
    assert (201, place) == (answer.status_code, answer.headers["Location"])
    assert JOB == list(job)
    assert {"kind": "backup", "keep": 7} == job["task"]
    assert {"type": "interval", "every": "1h", "timezone": None, "start": None, "end": None, "jitter": None} == job["trigger"]
    assert job == client.get(place).get_json()
    assert ["nightly", "prune"] == sorted(each["name"] for each in client.get("/api/v1/jobs").get_json()["jobs"])

    changed = client.put(place, json={**BACKUP, "task": {"kind": "backup", "keep": 3}, "author": "ben"})
    assert (200, {"kind": "backup", "keep": 3}, "ben") == (
        changed.status_code,
        changed.get_json()["task"],
        changed.get_json()["author"],
    )
    paused = client.post(f"{place}/pause", json={"author": "cleo"})
    assert (200, True, None) == (paused.status_code, paused.get_json()["paused"], paused.get_json()["due_at"])
    resumed = client.post(f"{place}/resume", json={"author": "cleo"})
    assert (200, False) == (resumed.status_code, resumed.get_json()["paused"])
    assert resumed.get_json()["due_at"]

    wanted = client.post(f"{place}/run", json={"author": "dan"})
    assert (202, "/api/v1/runs?job=nightly") == (wanted.status_code, wanted.headers["Location"])
    assert ("dan", True) == (wanted.get_json()["wanted_by"], wanted.get_json()["wanted_at"] is not None)

    assert (204, b"") == ((gone := client.delete(place)).status_code, gone.data)
    assert 404 == client.get(place).status_code
    said = [
        (line["event.action"], line.get("labels.author")) for line in lines() if line.get("event.category") == "configuration"
    ]
    assert [
        ("job-added", "ann"),
        ("job-changed", "ben"),
        ("job-paused", "cleo"),
        ("job-resumed", "cleo"),
        ("job-wanted", "dan"),
        ("job-removed", None),  # nobody says who
    ] == said


CALLS = [
    ("POST", "/api/v1/jobs"),
    ("PUT", "/api/v1/jobs/prune"),
    ("DELETE", "/api/v1/jobs/prune"),
    ("POST", "/api/v1/jobs/prune/pause"),
    ("POST", "/api/v1/jobs/prune/resume"),
    ("POST", "/api/v1/jobs/prune/run"),
]


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_who_changes_something_needs_the_key(client: FlaskClient, method: str, path: str) -> None:
    """Without it 401, and nothing is changed; reading is free."""
    del client.environ_base["HTTP_AUTHORIZATION"]
    before = client.get("/api/v1/jobs/prune").get_json()
    assert 401 == client.open(path, method=method, json={}).status_code
    assert before == client.get("/api/v1/jobs/prune").get_json()
    assert 200 == client.get("/api/v1/runs").status_code


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1/jobs/none"),
        ("PUT", "/api/v1/jobs/none"),
        ("DELETE", "/api/v1/jobs/none"),
        ("POST", "/api/v1/jobs/none/pause"),
        ("POST", "/api/v1/jobs/none/resume"),
        ("POST", "/api/v1/jobs/none/run"),
        ("GET", "/api/v1/runs/none"),
    ],
)
def test_what_is_not_there_is_404(client: FlaskClient, method: str, path: str) -> None:
    """With its name in the answer."""
    body = BACKUP if method == "PUT" else {"author": "ann"}
    answer = client.open(path, method=method, json=body)
    assert (404, True) == (answer.status_code, b"'none'" in answer.data)


def test_a_name_that_is_taken_is_a_conflict(client: FlaskClient) -> None:
    """The one that is there stays as it is."""
    add(client, task={"kind": "backup", "keep": 3})
    answer = client.post("/api/v1/jobs", json={"name": "nightly", **BACKUP})
    assert (409, "there is a job 'nightly'; change that one, or take another name") == (
        answer.status_code,
        answer.get_json()["detail"],
    )
    assert 3 == client.get("/api/v1/jobs/nightly").get_json()["task"]["keep"]


@pytest.mark.parametrize(
    ("changed", "place"),
    [
        ({"task": {"kind": "shell", "command": "id"}}, "task"),
        ({"task": {"kind": "service.jobs:remove"}}, "task"),
        ({"task": {"kind": "backup", "folder": "/etc"}}, "task.folder"),
        ({"task": {"kind": "report", "receiver": "nobody"}}, "task.receiver"),
        ({"task": {"kind": "report", "receiver": "am"}}, "task.receiver"),
        ({"task": {"kind": "probe", "target": "http://169.254.169.254/"}}, "task.target"),
        ({"trigger": {"type": "date", "at": "2020-01-01T00:00:00Z"}}, "trigger"),
        ({"trigger": {"type": "cron", "cron": "0 8 * *"}}, "trigger.cron"),
        ({"name": "a/b"}, "name"),
        ({"func": "os:system"}, "func"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_what_is_no_job_is_refused(client: FlaskClient, method: str, changed: dict[str, Any], place: str) -> None:
    """422 with the place: no function, no path and no address can be named, only what is configured."""
    body = {**BACKUP, **changed} if method == "PUT" else {"name": "nightly", **BACKUP, **changed}
    answer = client.open("/api/v1/jobs" if method == "POST" else "/api/v1/jobs/prune", method=method, json=body)
    assert 422 == answer.status_code, answer.data
    assert place in [error["place"] for error in answer.get_json()["errors"]]
    assert ["prune"] == [job["name"] for job in client.get("/api/v1/jobs").get_json()["jobs"]]


def test_runs_are_listed_in_pages(client: FlaskClient, engine: Engine) -> None:
    """Newest first, of all jobs or one, by outcome and time; the last of a job stands with it."""
    add(client)
    ran(engine, *({"id": f"r{n}", "job": "nightly" if n % 2 else "prune", "started": float(n)} for n in range(6)))
    ran(engine, {"id": "r6", "job": "nightly", "started": 6.0, "ended": None, "outcome": None})
    first = client.get("/api/v1/runs?limit=4").get_json()
    assert RUN == list(first["runs"][0])
    second = client.get(f"/api/v1/runs?limit=4&after={first['next']}").get_json()
    assert ["r6", "r5", "r4", "r3", "r2", "r1", "r0"] == [run["id"] for run in first["runs"] + second["runs"]]
    assert second["next"] is None

    def found(query: str) -> list[str]:
        return [run["id"] for run in client.get(f"/api/v1/runs?{query}").get_json()["runs"]]

    assert ["r6", "r5", "r3", "r1"] == found("job=nightly")
    assert ["r5", "r3", "r1"] == found("job=nightly&outcome=done")
    assert ["r6", "r5"] == found("since=1970-01-01T00:00:05Z")
    last = client.get("/api/v1/jobs/nightly").get_json()["last_run"]
    assert last == client.get("/api/v1/runs/r6").get_json()
    assert (None, None, None) == (last["ended_at"], last["seconds"], last["outcome"])
    assert 422 == client.get("/api/v1/runs?outcome=late").status_code


def test_a_list_that_has_not_changed_is_304(client: FlaskClient) -> None:
    """By its ETag, which another job changes."""
    tag = client.get("/api/v1/jobs").headers["ETag"]
    assert 304 == client.get("/api/v1/jobs", headers={"If-None-Match": tag}).status_code
    add(client)
    assert 200 == client.get("/api/v1/jobs", headers={"If-None-Match": tag}).status_code


def test_no_scheduler_runs_in_a_worker(tmp_path: Path) -> None:
    """The real gunicorn, asked to add, run and list: its workers have no scheduler loaded, and no thread that is one."""
    with web(tmp_path, "tests.apps:telling()", TOCSIN_API_KEY=KEY) as running:
        import requests

        headers = {"Authorization": f"Bearer {KEY}"}
        for number in range(20):  # so that every worker has had one
            body = {"name": f"j{number}", **BACKUP, "trigger": {"type": "cron", "cron": "* * * * *"}}
            assert 201 == requests.post(f"{running.url}/api/v1/jobs", json=body, headers=headers, timeout=10).status_code
        workers: dict[int, Any] = {}

        def asked() -> bool:
            found = running.get("/inside").json()
            workers[found["pid"]] = found
            return len(workers) == len(children(running.process.pid))

        eventually(asked, "every worker has told what is in it")
        for found in workers.values():
            loaded = [name for name in found["modules"] if name.startswith("apscheduler")]
            assert not [name for name in loaded if "schedulers" in name or "executors" in name or "jobstores" in name]
            assert not [name for name in found["threads"] if "job" in name.lower() or "sched" in name.lower()]
        assert any("apscheduler.triggers.cron" in found["modules"] for found in workers.values())
