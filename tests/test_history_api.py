"""/api/v1/readings, occurrences and reports as WSGI sees them, on a real database."""

import csv
import io
import time
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr
from sqlalchemy import Engine, insert
from werkzeug.test import TestResponse

from service import reports
from service.configuration import Configuration
from service.database import connect
from service.readings import HOUR, Series, put
from service.settings import Settings
from service.tables import readings
from service.tables import reports as table
from service.web import create_app
from service.web.readings import MOST_POINTS
from tests import month
from tests.month import CONFIGURATION, DAY, END
from tests.test_readings import bucket

ONE = "is needed, or `from`: write exactly one of the two"
PERIOD = "makes a period of less than 1 min or more than 366 d"
KEY = "correct-horse-battery-staple"
MONTH = "from=2025-09-16T00:00:00Z&to=2025-10-16T00:00:00Z"
HOUR_LONG = "from=2025-10-15T23:00:00Z&to=2025-10-16T00:00:00Z"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("data")
    engine = connect(f"sqlite:///{folder}/tocsin.db")
    month.make(engine, days=3)
    engine.dispose()
    return folder


@pytest.fixture
def engine(folder: Any) -> Iterator[Engine]:
    engine = connect(f"sqlite:///{folder}/tocsin.db")
    yield engine
    with engine.begin() as connection:
        connection.execute(table.delete())
    engine.dispose()


@pytest.fixture
def client(folder: Any, engine: Engine) -> Iterator[FlaskClient]:
    app = create_app(Settings(data=folder, api_key=SecretStr(KEY)))
    client = app.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {KEY}"
    yield client
    app.extensions["sampler"].stop()


def faults(answer: TestResponse) -> list[str]:
    assert 422 == answer.status_code, answer.data
    return [f"{each['place']}: {each['fault']}" for each in answer.get_json(force=True)["errors"]]


def course(client: FlaskClient, query: str) -> list[tuple[str, float, float, float, int]]:
    (series,) = client.get(f"/api/v1/readings?{query}").get_json()["series"]
    return [tuple(point.values()) for point in series["points"]]


def test_an_hour_in_minutes(client: FlaskClient) -> None:
    """The body says what it is about, and has a point for each minute in which something was measured."""
    body = client.get(f"/api/v1/readings?metric=up&target=mail&{HOUR_LONG}").get_json()
    (series,) = body.pop("series")
    assert {
        "metric": "up",
        "unit": "",
        "from": "2025-10-15T23:00:00.000Z",
        "to": "2025-10-16T00:00:00.000Z",
        "step": 60,
    } == body
    assert ("mail", "", 60) == (series["target"], series["mount"], len(series["points"]))
    assert {"at": "2025-10-15T23:00:00.000Z", "mean": 1.0, "least": 1.0, "most": 1.0, "samples": 6} == series["points"][0]
    assert [1.0] * 25 + [0.0] * 35 == [point["mean"] for point in series["points"]]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("step=10m", [("2025-10-15T23:20:00.000Z", 0.5, 0.0, 1.0, 60), ("2025-10-15T23:30:00.000Z", 0.0, 0.0, 0.0, 60)]),
        ("step=1h", [("2025-10-15T23:00:00.000Z", 0.4167, 0.0, 1.0, 360)]),
        ("step=2h", [("2025-10-15T22:00:00.000Z", 0.7083, 0.0, 1.0, 720)]),
        ("step=1d", [("2025-10-15T00:00:00.000Z", 0.9757, 0.0, 1.0, 8640)]),
    ],
)
def test_steps_begin_at_multiples(client: FlaskClient, query: str, expected: list[tuple[str, float, float, float, int]]) -> None:
    """Of themselves, in UTC; the first begins with or before the period."""
    since = "2025-10-15T23:20:00Z" if query == "step=10m" else "2025-10-15T23:00:00Z"
    until = "2025-10-15T23:40:00Z" if query == "step=10m" else "2025-10-16T00:00:00Z"
    assert expected == course(client, f"metric=up&target=mail&from={since}&to={until}&{query}")


def test_a_metric_of_several(client: FlaskClient) -> None:
    """Without a target, or a mount, there is a series for each that has it; with one that is not there, none."""

    def series(query: str) -> list[tuple[str, str]]:
        body = client.get(f"/api/v1/readings?{HOUR_LONG}&{query}").get_json()
        return [(each["target"], each["mount"]) for each in body["series"]]

    assert [(name, "") for name in sorted(month.TARGETS)] == series("metric=up")
    assert [("self", "/"), ("self", "/data")] == series("metric=mount_usage")
    assert [("self", "/data")] == series("metric=mount_usage&mount=/data")
    assert [] == series("metric=up&target=nothing")


@pytest.mark.parametrize(("days", "step"), [(1, 300), (3, 600), (30, 7200), (365, 86_400), (1000, 172_800)])
def test_without_a_step_there_are_as_many_points_as_can_be_seen(client: FlaskClient, days: int, step: int) -> None:
    """500 at most, in steps that a clock has."""
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(END - days * DAY))
    body = client.get(f"/api/v1/readings?metric=up&target=mail&from={since}&to=2025-10-16T00:00:00Z").get_json()
    assert step == body["step"]


def test_the_last_hour_until_now(client: FlaskClient) -> None:
    """Is what is given without from and to."""
    body = client.get("/api/v1/readings?metric=up").get_json()
    until = time.mktime(time.strptime(body["to"][:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone
    assert abs(until - time.time()) < 60
    assert body["step"] == 60


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("", "metric: is required"),
        ("metric=cpu_usag", "metric: is none that is kept; did you mean 'cpu_usage'?"),
        ("metric=up&step=90s", "step: is not a number of whole minutes"),
        ("metric=up&step=90m", "step: is not a number of whole minutes"),
        ("metric=up&step=0s", "step: is not a number of whole minutes"),
        ("metric=up&from=2025-10-15", "from: has no zone"),
        ("metric=up&from=2025-10-16T00:00:00Z&to=2025-10-15T00:00:00Z", "from: must lie before `to`"),
        ("metric=up&from=1990-10-16T00:00:00Z", "from: must lie before `to`, or now, and by at most 1098 d"),
        ("metric=up&format=xml", "format: "),
        ("metric=up&begin=1", "begin: is not known here"),
        ("metric=up&metric=up", "metric: is given more than once"),
        (f"metric=up&{MONTH}&step=1m", "step: gives too much for 5 series: 11000 points at most; a step of 1h would do"),
        (f"metric=up&target=db&{MONTH}&step=1m", "step: gives too much: 11000 points at most; a step of 4m would do"),
    ],
)
def test_what_cannot_be_answered_is_a_fault(client: FlaskClient, query: str, fault: str) -> None:
    """With its place, and what would do."""
    assert [fault] == [each[: len(fault)] for each in faults(client.get(f"/api/v1/readings?{query}"))]


def test_the_step_that_would_do_does(client: FlaskClient) -> None:
    """What the fault names gives an answer, within its bounds."""
    query = "metric=up&from=2025-09-01T00:00:00Z&to=2025-10-16T00:00:00Z"
    (fault,) = faults(client.get(f"/api/v1/readings?{query}&step=1m"))
    body = client.get(f"/api/v1/readings?{query}&step={fault.split()[-3]}").get_json()
    assert 0 < sum(len(series["points"]) for series in body["series"]) <= MOST_POINTS


@pytest.mark.parametrize(("query", "headers"), [("&format=csv", {}), ("", {"Accept": "text/csv"})])
def test_as_a_file_for_a_spreadsheet(client: FlaskClient, query: str, headers: dict[str, str]) -> None:
    """The same points, a line each, with a header line; as a download."""
    answer = client.get(f"/api/v1/readings?metric=up&target=mail&{HOUR_LONG}{query}", headers=headers)
    assert (200, "text/csv", "Accept") == (answer.status_code, answer.mimetype, answer.headers["Vary"])
    assert 'attachment; filename="tocsin-up-20251016T000000Z.csv"' == answer.headers["Content-Disposition"]
    rows = list(csv.DictReader(io.StringIO(answer.text, newline=""), strict=True))
    assert 60 == len(rows)
    assert {
        "time": "2025-10-15T23:00:00.000Z",
        "target": "mail",
        "metric": "up",
        "mount": "",
        "unit": "",
        "mean": "1.0",
        "least": "1.0",
        "most": "1.0",
        "samples": "6",
    } == rows[0]


def test_a_target_that_is_called_like_a_formula_is_none(client: FlaskClient, engine: Engine) -> None:
    """What it is called is told as text."""
    harm = "=cmd|' /C calc'!A0"
    with engine.begin() as connection:
        put(connection, [bucket(0, 1, series=Series(harm, "load1"))])
    answer = client.get("/api/v1/readings?metric=load1&format=csv&from=2026-10-16T00:00:00Z&to=2026-10-16T00:05:00Z")
    assert [harm] == [each["target"] for each in client.get("/api/v1/readings/series?target=" + harm).get_json()["series"]]
    with engine.begin() as connection:
        connection.execute(readings.delete().where(readings.c.target == harm))
    assert f"'{harm}" in answer.text
    assert f",{harm}" not in answer.text


def test_what_is_kept_is_listed_page_by_page(client: FlaskClient) -> None:
    """All series once, in order, with their unit, and when they begin and end."""
    every, query = [], "limit=7"
    while True:
        answer = client.get(f"/api/v1/readings/series?{query}")
        every += answer.get_json()["series"]
        if answer.get_json()["next"] is None:
            break
        assert 'rel="next"' in answer.headers["Link"]
        query = f"limit=7&after={answer.get_json()['next']}"
    assert 16 == len(every)
    assert sorted(every, key=lambda each: (each["target"], each["metric"], each["mount"])) == every
    assert {
        "target": "db",
        "metric": "latency_ms",
        "mount": "",
        "unit": "milliseconds",
        "first_at": "2025-10-13T00:00:00.000Z",
        "last_at": "2025-10-15T23:00:00.000Z",
    } == every[0]
    assert ["after: is no `next` of this list"] == faults(client.get("/api/v1/readings/series?after=WzFd"))


def test_past_alerts_are_listed(client: FlaskClient) -> None:
    """Newest first, with all their times; those that still fire, those of a target, those of a period."""
    (first, second) = client.get("/api/v1/occurrences").get_json()["occurrences"]
    assert {
        "id": f"{2:016x}"[:-1] + f"4-{(END - 35 * 60 + 30) * 1000}",
        "fingerprint": f"{4:016x}",
        "alert": "TargetDown",
        "target": "mail",
        "labels": {},
        "severity": "critical",
        "summary": "mail does not answer as it should",
        "began_at": "2025-10-15T23:25:00.000Z",
        "fired_at": "2025-10-15T23:25:30.000Z",
        "told_at": "2025-10-15T23:25:31.500Z",
        "ended_at": None,
        "acknowledged_at": "2025-10-15T23:29:30.000Z",
        "acknowledged_by": "ann",
        "restarts": 0,
    } == first
    assert first == client.get(f"/api/v1/occurrences/{first['id']}").get_json()
    assert 404 == client.get("/api/v1/occurrences/nothing").status_code
    for query, expected in (
        ("open=true", [first]),
        ("open=false", [second]),
        ("target=db", [second]),
        ("alert=Other", []),
        ("since=2025-10-15T00:00:00Z", [first]),
        ("until=2025-10-15T00:00:00Z", [second]),
        ("limit=1", [first]),
    ):
        assert expected == client.get(f"/api/v1/occurrences?{query}").get_json()["occurrences"], query
    assert ["open: is neither true nor false"] == faults(client.get("/api/v1/occurrences?open=yes"))


def made(engine: Engine, client: FlaskClient, configuration: Configuration = CONFIGURATION, **wanted: Any) -> str:
    """The address of a report that is done."""
    answer = client.post("/api/v1/reports", json={"from": "2025-10-15T00:00:00Z", "to": "2025-10-16T00:00:00Z", **wanted})
    assert 202 == answer.status_code, answer.data
    reports.carry_out(engine, configuration, answer.get_json()["id"], lambda: END + 60.0)
    return answer.headers["Location"]


def test_a_report_is_asked_for_made_read_and_deleted(client: FlaskClient, engine: Engine) -> None:
    """Each step with its status, and what is said of it."""
    asked = client.post("/api/v1/reports", json={"since": "7d", "author": "ann"})
    body = asked.get_json()
    assert ["id", "state", "progress", "from", "to", "asked_at", "asked_by", "ended_at", "detail"] == list(body)
    assert (202, "asked", 0.0, "ann", None) == (
        asked.status_code,
        body["state"],
        body["progress"],
        body["asked_by"],
        body["ended_at"],
    )
    place = asked.headers["Location"]
    assert f"/api/v1/reports/{body['id']}" == place
    assert {**body, "content": None} == client.get(place).get_json()
    assert (409, "It is not made yet.") == (
        (early := client.get(f"{place}/download")).status_code,
        early.get_json(force=True)["detail"],
    )
    reports.carry_out(engine, CONFIGURATION, body["id"], lambda: END + 60.0)
    done = client.get(place).get_json()
    assert ("done", 1.0, 1, "shop-1") == (
        done["state"],
        done["progress"],
        done["content"]["version"],
        done["content"]["instance"],
    )
    listed = client.get("/api/v1/reports").get_json()["reports"]
    assert [{name: value for name, value in done.items() if name != "content"}] == listed
    assert (204, 404, 404) == (client.delete(place).status_code, client.delete(place).status_code, client.get(place).status_code)


@pytest.mark.parametrize(
    ("form", "media", "ending", "begins"),
    [
        ("html", "text/html", "html", "<!doctype html>"),
        ("text", "text/plain", "txt", "Health report of shop-1"),
        ("csv", "text/csv", "csv", "section,name,measure,value,unit"),
        ("json", "application/json", "json", "{"),
    ],
)
def test_a_report_as_a_file(client: FlaskClient, engine: Engine, form: str, media: str, ending: str, begins: str) -> None:
    """With a name that says what it is; opened from here it may look well, and do nothing."""
    answer = client.get(f"{made(engine, client)}/download?format={form}")
    assert (200, media) == (answer.status_code, answer.mimetype)
    assert f'attachment; filename="tocsin-report-2025-10-15-to-2025-10-16.{ending}"' == answer.headers["Content-Disposition"]
    assert answer.headers["Content-Security-Policy"].startswith("sandbox; default-src 'none'")
    assert answer.text.startswith(begins)
    again = client.get(f"{made(engine, client)}/download?format={form}", headers={"If-None-Match": answer.headers["ETag"]})
    assert 304 == again.status_code


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, [f"since: {ONE}"]),
        ({"since": "7d", "from": "2025-10-01T00:00:00Z", "to": "2025-10-03T00:00:00Z"}, [f"since: {ONE}"]),
        ({"since": "7"}, ["since: '7' is not a duration; write a number with ms, s, m, h or d, such as 10s or 1h30m"]),
        ({"since": "10s"}, [f"since: {PERIOD}"]),
        ({"since": "400d"}, [f"since: {PERIOD}"]),
        ({"from": "2025-10-02T00:00:00Z", "to": "2025-10-01T00:00:00Z"}, [f"from: {PERIOD}"]),
        ({"since": "7d", "author": "a\nb"}, ["author: has more than one line; write it in one"]),
        ({"since": "7d", "form": "html"}, ["form: is not known here; did you mean 'from'?"]),
    ],
)
def test_a_wish_with_a_fault(client: FlaskClient, body: dict[str, Any], expected: list[str]) -> None:
    """Each fault is named with its place."""
    assert expected == faults(client.post("/api/v1/reports", json=body))


def test_the_future_is_not_reported(client: FlaskClient) -> None:
    """A period that has not ended is refused."""
    (fault,) = faults(client.post("/api/v1/reports", json={"since": "7d", "to": "2200-01-01T00:00:00Z"}))
    assert fault.startswith("to: 2200-01-01T00:00:00.000Z is yet to come; it is ")


def test_who_asks_for_reports_needs_the_key(client: FlaskClient, engine: Engine) -> None:
    """And who deletes them; who reads them does not."""
    place = made(engine, client)
    del client.environ_base["HTTP_AUTHORIZATION"]
    assert (401, 401) == (client.post("/api/v1/reports", json={"since": "7d"}).status_code, client.delete(place).status_code)
    assert (200, 200) == (client.get(place).status_code, client.get(f"{place}/download").status_code)


def test_too_many_are_refused_with_a_reason(client: FlaskClient) -> None:
    """With 429, and when to try again."""
    answers = [client.post("/api/v1/reports", json={"since": "7d"}) for _ in range(reports.MOST_WAITING + 1)]
    assert [202] * reports.MOST_WAITING + [429] == [each.status_code for each in answers]
    assert b"20 reports are asked for already" in answers[-1].data
    assert "10" == answers[-1].headers["Retry-After"]


def test_an_answer_holds_no_more_than_it_may(client: FlaskClient, engine: Engine) -> None:
    """Many series of one metric: the bound is of all their points together."""
    rows = [
        {
            "step": HOUR,
            "target": f"t{number}",
            "metric": "load5",
            "at": END - hour * HOUR,
            "count": 1,
            "total": 1,
            "least": 1,
            "most": 1,
        }
        for number in range(60)
        for hour in range(1, 49)
    ]
    with engine.begin() as connection:
        connection.execute(insert(readings), rows)
    query = "metric=load5&from=2025-10-06T00:00:00Z&to=2025-10-16T00:00:00Z"
    (fault,) = faults(client.get(f"/api/v1/readings?{query}&step=1h"))
    answer = client.get(f"/api/v1/readings?{query}&step=2h")
    with engine.begin() as connection:
        connection.execute(readings.delete().where(readings.c.metric == "load5"))
    assert fault.endswith("a step of 2h would do")
    assert 60 * 24 == sum(len(series["points"]) for series in answer.get_json()["series"])


def test_a_metric_of_very_many_needs_a_target(client: FlaskClient, engine: Engine) -> None:
    """Each of them costs a question: no more are answered at once than can be."""
    row = {"step": HOUR, "metric": "load5", "at": END - HOUR, "count": 1, "total": 1, "least": 1, "most": 1}
    with engine.begin() as connection:
        connection.execute(insert(readings), [{**row, "target": f"t{number:03}"} for number in range(101)])
    (fault,) = faults(client.get("/api/v1/readings?metric=load5"))
    one = client.get("/api/v1/readings?metric=load5&target=t007").get_json()["series"]
    with engine.begin() as connection:
        connection.execute(readings.delete().where(readings.c.metric == "load5", readings.c.target == "t007"))
    every = client.get("/api/v1/readings?metric=load5").get_json()["series"]
    with engine.begin() as connection:
        connection.execute(readings.delete().where(readings.c.metric == "load5"))
    assert "target: is needed: more than 100 series have this metric" == fault
    assert (["t007"], 100) == ([each["target"] for each in one], len(every))
