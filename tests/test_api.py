"""/api/v1/ as WSGI sees it, on a real database that the real monitor writes: bodies, statuses, faults and log lines."""

import re
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import orjson
import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given
from hypothesis import settings as bounded
from hypothesis import strategies as st
from pydantic import SecretStr
from sqlalchemy import Engine
from werkzeug.test import TestResponse

from service import restarts
from service.database import connect
from service.restarts import AskedBy
from service.settings import Settings
from service.web import create_app
from service.web.api import Database
from tests.ticking import Ticking, cpu, nightly, up

KEY = "correct-horse-battery-staple"
NOW = 1_792_150_860.0  # 2026-10-16T11:41:00Z; what the monitor of these tests believes
WISH = {"matchers": ['target="shop"'], "duration": "2h", "author": "ann", "comment": "moving"}
SILENCE = ["id", "state", "matchers", "starts_at", "ends_at", "author", "comment", "heal", "created_at", "updated_at"]
Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def client(settings: Settings) -> Iterator[FlaskClient]:
    app = create_app(settings.model_copy(update={"api_key": SecretStr(KEY)}))
    client = app.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {KEY}"
    yield client
    app.extensions["sampler"].stop()


def made(client: FlaskClient, **changed: Any) -> dict[str, Any]:
    answer = client.post("/api/v1/silences", json={**WISH, **changed})
    assert 201 == answer.status_code, answer.data
    return dict(answer.get_json())


def errors(answer: TestResponse) -> list[dict[str, str]]:
    assert (422, "application/problem+json") == (answer.status_code, answer.mimetype)
    return list(answer.get_json(force=True)["errors"])


def test_a_silence_is_created_read_changed_and_ended(client: FlaskClient) -> None:
    """The whole life of one, each step with its status; what is answered is what is there afterwards."""
    answer = client.post("/api/v1/silences", json=WISH)
    body = answer.get_json()
    place = answer.headers["Location"]
    assert (201, f"/api/v1/silences/{body['id']}") == (answer.status_code, place)
    assert SILENCE == list(body)
    assert ("active", ['target="shop"'], "ann", "moving") == tuple(
        body[name] for name in ("state", "matchers", "author", "comment")
    )
    assert (200, body) == ((got := client.get(place)).status_code, got.get_json())

    changed = client.put(place, json={**WISH, "matchers": ["severity=info"], "author": "ben"})
    assert (200, body["id"], body["created_at"]) == (
        changed.status_code,
        changed.get_json()["id"],
        changed.get_json()["created_at"],
    )
    assert (['severity="info"'], "ben") == (changed.get_json()["matchers"], client.get(place).get_json()["author"])

    assert (204, b"") == ((ended := client.delete(place)).status_code, ended.data)
    assert "expired" == client.get(place).get_json()["state"]


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_what_has_expired_is_a_conflict(client: FlaskClient, method: str) -> None:
    """It cannot be changed or ended again, and the answer says since when it is over."""
    place = f"/api/v1/silences/{made(client)['id']}"
    client.delete(place)
    answer = client.open(place, method=method, json=WISH)
    assert 409 == answer.status_code
    assert b" ended at 20" in answer.data


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize("identity", ["nothing", "%00", "%ff", "%F0%9F%94%94", "x" * 3000], ids=lambda text: text[:12])
def test_an_unknown_silence_is_404(client: FlaskClient, method: str, identity: str) -> None:
    """Whatever stands in its place in the address."""
    assert 404 == client.open(f"/api/v1/silences/{identity}", method=method, json=WISH).status_code


def test_silences_are_listed_by_state_with_the_newest_first(client: FlaskClient) -> None:
    """All of them, or those in one state."""
    first, second = made(client)["id"], made(client, starts_at="2100-01-01T00:00:00Z")["id"]
    third = made(client)["id"]
    client.delete(f"/api/v1/silences/{third}")

    def listed(query: str) -> list[str]:
        return [each["id"] for each in client.get(f"/api/v1/silences{query}").get_json()["silences"]]

    assert [third, second, first] == listed("")
    assert [[second], [first], [third]] == [listed(f"?state={state}") for state in ("pending", "active", "expired")]


@pytest.mark.parametrize("path", ["/api/v1/silences", "/api/v1/alerts"])
def test_another_state_is_a_fault(client: FlaskClient, path: str) -> None:
    """A word that is no state is told, and not an empty list."""
    (error,) = errors(client.get(path, query_string={"state": "\x00broken"}))
    known = "pending, active, expired" if "silences" in path else "firing, pending"
    assert {"place": "state", "fault": f"'\\x00broken' is none of {known}"} == error


def test_every_fault_is_named_with_its_place(client: FlaskClient) -> None:
    """One answer tells all that is wrong."""
    body = {"matchers": ["target=db", "tarket=db"], "duration": "2", "comment": "\ud800", "untill": 1}
    assert [
        {"place": "matchers[1]", "fault": "'tarket' is not a label of an alert; did you mean 'target'?"},
        {"place": "duration", "fault": "'2' is not a duration; write a number with ms, s, m, h or d, such as 10s or 1h30m"},
        {"place": "author", "fault": "is required"},
        {"place": "comment", "fault": "has a character that cannot be shown; leave it out"},
        {
            "place": "untill",
            "fault": "is not known here; known are author, comment, duration, ends_at, heal, matchers, starts_at",
        },
    ] == errors(client.post("/api/v1/silences", json=body))


@pytest.mark.parametrize(
    ("data", "kind", "status"),
    [
        (b"", "application/json", 400),
        (b"{", "application/json", 400),
        (b"\xff", "application/json", 400),
        (b"[" * 50_000, "application/json", 400),
        (b"1" * 50_000, "application/json", 400),
        (b"{}", "text/plain", 415),
        (b"{}", "", 415),
        (b"a=1", "application/x-www-form-urlencoded", 415),
        (b"{}", "application/json; charset=utf-8", 422),
        (b"NaN", "application/json", 422),
        (b"null", "application/json", 422),
        (b'{"\\ud800": "\\udfff"}', "application/json", 422),
        (b'{"author": "\xed\xa0\x80"}', "application/json", 422),
        (b'{"duration": ' + b"[" * 900 + b"]" * 900 + b"}", "application/json", 422),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_body_that_is_none_is_refused(client: FlaskClient, data: bytes, kind: str, status: int) -> None:
    """400 for what is no JSON, 415 for what is not sent as such, 422 for JSON that is no silence."""
    answer = client.post("/api/v1/silences", data=data, content_type=kind)
    assert (status, "application/problem+json", "no-store") == (
        answer.status_code,
        answer.mimetype,
        answer.headers["Cache-Control"],
    )
    assert [] == client.get("/api/v1/silences").get_json()["silences"]


@bounded(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(data=st.binary(), value=st.recursive(st.none() | st.floats() | st.text(st.characters()), st.lists, max_leaves=5))
def test_no_body_is_an_error_of_ours(client: FlaskClient, data: bytes, value: object) -> None:
    """Whatever is sent is answered with a status below 500, and the answer is JSON."""
    import json

    for sent in (data, json.dumps({**WISH, "author": value}).encode(), json.dumps({**WISH, "comment": value}).encode()):
        answer = client.post("/api/v1/silences", data=sent, content_type="application/json")
        assert answer.status_code in (201, 400, 422)
        orjson.loads(answer.data)
    orjson.loads(client.get("/api/v1/silences").data)


def test_alerts_say_what_people_need(client: FlaskClient, engine: Engine) -> None:
    """A firing one with what its notification says and who was told; a pending one with what is known of it."""
    Ticking(engine).tick(NOW, up("shop", 0), cpu("db", 90))
    firing, pending = client.get("/api/v1/alerts").get_json()["alerts"]

    fingerprint = firing["fingerprint"]
    assert {
        "fingerprint": fingerprint,
        "state": "firing",
        "since": "2026-10-16T11:41:00.000Z",
        "alert": "TargetDown",
        "target": "shop",
        "labels": {},
        "severity": "critical",
        "summary": "shop does not answer",
        "condition": "up == 0",
        "reason": "up == 0",
        "metric": "up",
        "value": 0.0,
        "unit": "",
        "scope": "",
        "silenced": [],
        "acknowledged": None,
        "held": None,
        "flapping": False,
        "clear_since": None,
        "receivers": ["ops", "chat"],
        "healing": None,
    } == firing
    assert list(firing) == list(pending)
    assert ("pending", "HighCpu", "db", None) == tuple(pending[name] for name in ("state", "alert", "target", "summary"))
    assert firing == client.get(f"/api/v1/alerts/{fingerprint}").get_json()
    assert [[firing], [pending]] == [
        client.get(f"/api/v1/alerts?state={state}").get_json()["alerts"] for state in ("firing", "pending")
    ]


def test_what_keeps_an_alert_quiet_is_told(client: FlaskClient, engine: Engine) -> None:
    """A silence with who made it and why, a maintenance window with its name, a hold with the parent."""
    silence = made(client, starts_at="2026-10-16T11:41:00Z", duration="9999d")
    monitor = Ticking(engine, maintenance=(nightly(),))
    monitor.tick(NOW + 15 * 3600, *(up(name, 0) for name in ("shop", "db", "web")))  # 02:41
    found = {each["target"]: each for each in client.get("/api/v1/alerts").get_json()["alerts"]}

    assert [{"silence": silence["id"], "author": "ann", "comment": "moving"}] == found["shop"]["silenced"]
    assert [{"maintenance": "nightly"}] == found["db"]["silenced"]
    assert (None, "db") == (found["db"]["held"], found["web"]["held"])


def test_an_alert_is_acknowledged_and_again(client: FlaskClient, engine: Engine) -> None:
    """The answer is the alert with who has it, when and why; the last one to do it has it."""
    Ticking(engine).tick(NOW, up("shop", 0))
    (alert,) = client.get("/api/v1/alerts").get_json()["alerts"]
    place = f"/api/v1/alerts/{alert['fingerprint']}"
    for said in ({"author": "ann", "comment": "looking"}, {"author": "ben"}):
        answer = client.post(f"{place}/ack", json=said)
        by = answer.get_json()["acknowledged"]
        assert (200, said["author"], said.get("comment", "")) == (answer.status_code, by["by"], by["comment"])
        assert {**alert, "acknowledged": by} == answer.get_json() == client.get(place).get_json()


def test_only_what_fires_is_acknowledged(client: FlaskClient, engine: Engine) -> None:
    """Pending is 409 with the reason, unknown 404, and an acknowledgement of nobody 422."""
    Ticking(engine).tick(NOW, cpu("shop", 90))
    (alert,) = client.get("/api/v1/alerts").get_json()["alerts"]
    place = f"/api/v1/alerts/{alert['fingerprint']}/ack"
    refused = client.post(place, json={"author": "ann"})

    assert (409, True) == (refused.status_code, b"HighCpu on shop is pending" in refused.data)
    assert 404 == client.post("/api/v1/alerts/0000000000000000/ack", json={"author": "ann"}).status_code
    assert 404 == client.get("/api/v1/alerts/0000000000000000").status_code
    assert ["author", "why"] == [error["place"] for error in errors(client.post(place, json={"why": "x"}))]


def test_the_monitor_tells_how_it_does(client: FlaskClient, engine: Engine) -> None:
    """Nothing is known before its first tick; afterwards times, ticks, alerts and notifications are."""
    before = client.get("/api/v1/monitor").get_json()
    Ticking(engine).tick(NOW, up("shop", 0), cpu("db", 90))
    after = client.get("/api/v1/monitor").get_json()

    assert list(before) == list(after)
    assert [None] * 6 == list(before.values())[:6]
    assert {"started_at": "2026-10-16T11:41:00.000Z", "interval_seconds": 10.0, "ticks": 1, "late_ticks": 0} | {
        "last_tick_at": "2026-10-16T11:41:00.000Z",
        "last_tick_seconds": 0.25,
        "alerts": {"firing": 1, "pending": 1},
        "deliveries": {},
        "waiting": 2,
        "dead": 0,
        "oldest_undelivered_seconds": after["oldest_undelivered_seconds"],
    } == after
    assert (None, True) == (before["oldest_undelivered_seconds"], after["oldest_undelivered_seconds"] > 0)


def test_each_change_is_one_line(client: FlaskClient, engine: Engine, lines: Lines) -> None:
    """Who did what to which, with the id of the request, and no more than once; a refused one is none."""
    Ticking(engine).tick(NOW, up("shop", 0))
    (alert,) = client.get("/api/v1/alerts").get_json()["alerts"]
    nasty = 'ann "\\ %0a {}'
    identity = made(client, author=nasty)["id"]
    client.put(f"/api/v1/silences/{identity}", json=WISH)
    client.delete(f"/api/v1/silences/{identity}")
    client.delete(f"/api/v1/silences/{identity}")
    client.post("/api/v1/silences", json={})
    client.post(f"/api/v1/alerts/{alert['fingerprint']}/ack", json={"author": "ben"})
    found = [line for line in lines() if line.get("event.category") == "configuration"]

    assert [
        ("silence-created", nasty, identity),
        ("silence-changed", "ann", identity),
        ("silence-expired", None, identity),  # nobody says who
        ("alert-acknowledged", "ben", None),
    ] == [(line["event.action"], line.get("labels.author"), line.get("labels.silence")) for line in found]
    assert "ann" == found[2]["labels.created_by"]
    assert ("TargetDown", "shop", alert["fingerprint"]) == tuple(
        found[3][f"labels.{name}"] for name in ("alert", "target", "fingerprint")
    )
    assert all("http.request.id" in line for line in found)


@pytest.mark.parametrize("path", ["/api/v1/silences", "/api/v1/alerts", "/api/v1/monitor"])
def test_no_answer_is_used_again_unasked(client: FlaskClient, path: str) -> None:
    """An old answer about what fires is a wrong one: whoever keeps one has to ask whether it still holds."""
    answer = client.get(path)
    assert (200, "application/json", "no-cache") == (answer.status_code, answer.mimetype, answer.headers["Cache-Control"])
    assert answer.headers["ETag"]


@pytest.fixture
def filled(client: FlaskClient, engine: Engine) -> FlaskClient:
    """Four or more of each list."""
    monitor = Ticking(engine)
    monitor.tick(NOW, up("shop", 0), up("db", 0), cpu("shop", 90), cpu("db", 90))
    for _ in range(4):
        made(client)
    with engine.begin() as connection:
        wanted: list[tuple[str, AskedBy]] = [("web", "api"), ("web", "monitor"), ("nginx", "command"), ("nginx", "api")]
        for number, (service, by) in enumerate(wanted):
            asked = restarts.asked(service, by, "ann")
            restarts.note(connection, replace(asked, started=NOW + number, ended=NOW + number + 4, outcome="healthy"))
    return client


LISTS = ["alerts", "silences", "restarts", "notifications"]


@pytest.mark.parametrize("name", LISTS)
def test_a_list_is_read_page_by_page(filled: FlaskClient, name: str) -> None:
    """`next` and the header `Link` lead to the page behind, and to what was asked for; the last one has neither."""
    whole = filled.get(f"/api/v1/{name}").get_json()
    assert (None, [name, "next"]) == (whole["next"], list(whole))
    assert len(whole[name]) >= 4

    path, found, pages = f"/api/v1/{name}?limit=3", [], 0
    while path:
        answer = filled.get(path)
        found += answer.get_json()[name]
        link = answer.headers.get("Link")
        assert (link is None) is (answer.get_json()["next"] is None)
        path = link.removeprefix("<").removesuffix('>; rel="next"') if link else ""
        pages += 1
    assert whole[name] == found
    assert -(-len(found) // 3) == pages


def test_a_page_behind_keeps_the_filter(filled: FlaskClient) -> None:
    """What `Link` leads to is about the same things."""
    link = filled.get("/api/v1/silences?state=active&limit=1").headers["Link"]
    assert re.fullmatch(r'</api/v1/silences\?state=active&limit=1&after=[\w-]+>; rel="next"', link)


@pytest.mark.parametrize("after", ["nonsense", "W10", "WzEsImEiLDJd", "bnVsbA", "é", "Ww", "x" * 500, "W" + "1" * 400])
@pytest.mark.parametrize("name", LISTS)
def test_a_made_up_page_is_a_fault(filled: FlaskClient, name: str, after: str) -> None:
    """Only the `next` of a page of that list leads somewhere."""
    (error,) = errors(filled.get(f"/api/v1/{name}", query_string={"after": after}))
    assert ("after", True) == (error["place"], error["fault"].startswith("is no `next` of"))


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=x", "limit"),
        ("limit=5.0", "limit"),
        ("limit=%2B5", "limit"),
        ("limit=1&limit=2", "limit"),
        ("limti=1", "limti"),
        ("after=" + "x" * 501, "after"),
    ],
)
@pytest.mark.parametrize("name", LISTS)
def test_what_cannot_be_asked_is_a_fault(filled: FlaskClient, name: str, query: str, place: str) -> None:
    """A number out of bounds, a name that nobody knows, and one that stands there twice; each with its place."""
    assert [place] == [error["place"] for error in errors(filled.get(f"/api/v1/{name}?{query}"))]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("alert=TargetDown", ["TargetDown db", "TargetDown shop"]),
        ("target=shop", ["HighCpu shop", "TargetDown shop"]),
        ("severity=critical", ["TargetDown db", "TargetDown shop"]),
        ("severity=info", []),
        ("state=pending&target=db", ["HighCpu db"]),
        ("acknowledged=true", ["TargetDown shop"]),
        ("acknowledged=false&state=firing", ["TargetDown db"]),
    ],
)
def test_alerts_are_found_by_what_they_are(filled: FlaskClient, query: str, expected: list[str]) -> None:
    """By rule, target, severity, state, and whether somebody has taken them on; alone and together."""
    (shop,) = filled.get("/api/v1/alerts?state=firing&target=shop").get_json()["alerts"]
    assert 200 == filled.post(f"/api/v1/alerts/{shop['fingerprint']}/ack", json={"author": "ann"}).status_code
    found = filled.get(f"/api/v1/alerts?{query}").get_json()["alerts"]
    assert expected == sorted(f"{alert['alert']} {alert['target']}" for alert in found)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("service=web", [1, 0]),
        ("asked_by=api", [3, 0]),
        ("since=2026-10-16T11:41:01Z&until=2026-10-16T13:41:03%2B02:00", [2, 1]),
        ("since=2026-10-16T11:41:01Z&service=web", [1]),
        ("service=other", []),
    ],
)
def test_restarts_are_found_by_what_they_are(filled: FlaskClient, query: str, expected: list[int]) -> None:
    """By service, by who asked, and by when they began; alone and together."""
    found = filled.get(f"/api/v1/restarts?{query}").get_json()["restarts"]
    assert [f"2026-10-16T11:41:0{number}.000Z" for number in expected] == [each["started_at"] for each in found]


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/silences",
        "/api/v1/readings?metric=up&target=x&from=2026-10-16T11:00:00Z&to=2026-10-16T12:00:00Z",
        "/api/openapi.json",
    ],
)
def test_of_the_conditions_only_one_counts(filled: FlaskClient, path: str) -> None:
    """`If-None-Match`; any other is as if it were not there."""
    tag = filled.get(path).headers["ETag"]
    assert 304 == filled.get(path, headers={"If-None-Match": tag}).status_code
    for other in ({"If-Match": '"x"'}, {"If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"}, {"Range": "bytes=0-1"}):
        assert 200 == filled.get(path, headers=other).status_code


@pytest.mark.parametrize("name", LISTS)
def test_what_has_not_changed_is_not_sent_again(filled: FlaskClient, name: str) -> None:
    """A list, and one of it, asked for with the ETag of before, is a 304 without a body; when it has changed it is sent."""
    first = filled.get(f"/api/v1/{name}").get_json()[name][-1]
    for path in (f"/api/v1/{name}", f"/api/v1/{name}/{first.get('id', first.get('fingerprint'))}"):
        answer = filled.get(path)
        asked = {"If-None-Match": f'"other", {answer.headers["ETag"]}'}
        again = filled.get(path, headers=asked)
        assert (304, b"", answer.headers["ETag"]) == (again.status_code, again.data, again.headers["ETag"])
        assert 200 == filled.get(path, headers={"If-None-Match": '"other"'}).status_code
        assert 304 == filled.head(path, headers=asked).status_code


def test_what_has_changed_is_sent_again(filled: FlaskClient) -> None:
    """The ETag of a list is another one as soon as something in it is."""
    before = filled.get("/api/v1/silences").headers["ETag"]
    made(filled)
    assert (200, True) == (
        (answer := filled.get("/api/v1/silences", headers={"If-None-Match": before})).status_code,
        before != answer.headers["ETag"],
    )


def test_a_server_starts_without_a_database_and_finds_it_later(settings: Settings, lines: Lines) -> None:
    """Until it can be used the answer is 503 with Retry-After and one line in the log; health does not depend on it."""
    missing = settings.model_copy(update={"data": settings.data / "later", "api_key": SecretStr(KEY)})
    app = create_app(missing)
    app.extensions["sampler"].sample()
    client = app.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {KEY}"
    answers = [client.get("/api/v1/alerts"), client.get("/api/v1/silences/1"), client.post("/api/v1/silences", json=WISH)]

    assert [(503, "application/problem+json", "5", "no-store")] * 3 == [
        (each.status_code, each.mimetype, each.headers["Retry-After"], each.headers["Cache-Control"]) for each in answers
    ]
    assert 200 == client.get("/api/health").status_code
    said = [line for line in lines() if line["message"] == "cannot use the database"]
    assert ["SQLITE_CANTOPEN"] * 3 == [line["labels.reason"] for line in said]

    missing.data.mkdir()
    assert 201 == client.post("/api/v1/silences", json=WISH).status_code


def test_the_database_is_opened_once(settings: Settings) -> None:
    """What is behind an answer is kept for the next one."""
    opened = Database(settings.database)
    assert opened.engine is opened.engine


def test_a_database_that_is_none_is_503(client: FlaskClient, engine: Engine, settings: Settings, lines: Lines) -> None:
    """A file that is damaged while the server runs is told without its inside, and the next one is used at once."""
    assert 200 == client.get("/api/v1/alerts").status_code
    engine.dispose()
    path = settings.data / "tocsin.db"
    for part in settings.data.glob("tocsin.db*"):
        part.unlink()
    path.write_bytes(b"no database" * 1000)
    answer = client.get("/api/v1/alerts")
    assert (503, False) == (answer.status_code, b"tocsin.db" in answer.data)
    assert "SQLITE_NOTADB" == lines()[-2]["labels.reason"]

    path.unlink()
    connect(settings.database).dispose()
    assert 200 == client.get("/api/v1/alerts").status_code


@pytest.mark.parametrize("address", ["nonsense SECRET", "postgresql://tocsin:SECRET@127.0.0.1:9/x", "no-such-kind://SECRET"])
def test_an_address_of_no_use_is_503_and_stays_a_secret(settings: Settings, lines: Lines, address: str) -> None:
    """An address that makes no sense, or whose driver is missing, ends neither the server nor the secret."""
    app = create_app(settings.model_copy(update={"database_url": SecretStr(address)}))
    assert 503 == app.test_client().get("/api/v1/alerts").status_code
    assert "cannot use the database" in [line["message"] for line in lines()]
    assert "SECRET" not in str(lines())


def test_reading_waits_for_no_writer_and_writing_not_for_long(
    client: FlaskClient, engine: Engine, settings: Settings, lines: Lines
) -> None:
    """While another process holds the database, lists are answered, and a change is 503 after a second."""
    identity = made(client)["id"]
    other = sqlite3.connect(settings.data / "tocsin.db", isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        assert [identity] == [each["id"] for each in client.get("/api/v1/silences").get_json()["silences"]]
        assert 503 == client.delete(f"/api/v1/silences/{identity}").status_code
        other.execute("ROLLBACK")
    finally:
        other.close()
    assert "SQLITE_BUSY" in [line.get("labels.reason") for line in lines()]
    assert 204 == client.delete(f"/api/v1/silences/{identity}").status_code
