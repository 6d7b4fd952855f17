"""/api/openapi.json against the running server: it is complete, its examples work, and schemathesis finds no lie in it."""

import base64
import html
import os
import re
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import requests
import schemathesis
from flask.testing import FlaskClient
from schemathesis.config import SchemathesisConfig
from schemathesis.core.failures import Failure
from schemathesis.core.transport import Response
from schemathesis.engine import events, from_schema
from schemathesis.openapi.checks import RejectedPositiveData, UseAfterFree
from schemathesis.specs.openapi.definitions import OPENAPI_31

from service import holds
from service.settings import Settings
from service.web import create_app
from service.web.openapi import operations
from tests.populated import KEY, Populated, populated

ENDLESS = "/api/stream"  # tests/test_live.py reads it
CHANGING = ("post", "put", "patch", "delete")
# Everything by which something can be changed, and what it asks for: the key, or a form of the page of who is logged in.
GUARDS = {
    "POST /alerts/<fingerprint>/acknowledge": "form",
    "POST /api/service/restart": "key",
    "POST /api/v1/alerts/<fingerprint>/ack": "key",
    "POST /api/v1/jobs": "key",
    "DELETE /api/v1/jobs/<name>": "key",
    "PUT /api/v1/jobs/<name>": "key",
    "POST /api/v1/jobs/<name>/pause": "key",
    "POST /api/v1/jobs/<name>/resume": "key",
    "POST /api/v1/jobs/<name>/run": "key",
    "POST /api/v1/reports": "key",
    "DELETE /api/v1/reports/<identity>": "key",
    "POST /api/v1/silences": "key",
    "DELETE /api/v1/silences/<identity>": "key",
    "PUT /api/v1/silences/<identity>": "key",
    "POST /login": "form",
    "POST /logout": "form",
    "POST /services/<name>/restart": "form",
    "POST /silences": "form",
}
WITHOUT_THE_KEY: dict[str, dict[str, str]] = {
    "nothing": {},
    "another key": {"Authorization": "Bearer guessed-horse-battery-staple"},
    "the beginning of the key": {"Authorization": f"Bearer {KEY[:-1]}"},
    "more than the key": {"Authorization": f"Bearer {KEY}x"},
    "the key in capitals": {"Authorization": f"Bearer {KEY.upper()}"},
    "a byte behind the key": {"Authorization": f"Bearer {KEY}\xff"},
    "the key twice": {"Authorization": f"Bearer {KEY}, Bearer {KEY}"},
    "no word behind the scheme": {"Authorization": "Bearer"},
    "nothing behind the scheme": {"Authorization": "Bearer "},
    "no scheme": {"Authorization": KEY},
    "a list of schemes": {"Authorization": f"Basic x, Bearer {KEY}"},
    "another scheme": {"Authorization": f"Token {KEY}"},
    "a name and a password": {"Authorization": "Basic " + base64.b64encode(f"Bearer:{KEY}".encode()).decode()},
    "other headers": {"X-API-Key": KEY, "Proxy-Authorization": f"Bearer {KEY}", "X-Authorization": f"Bearer {KEY}"},
    "a header of CGI": {"HTTP_AUTHORIZATION": f"Bearer {KEY}", "Authorization_": f"Bearer {KEY}"},
    "a cookie of one's own": {"Cookie": f"Authorization=Bearer {KEY}; key={KEY}; session={KEY}"},
    "a trusted address": {"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1", "Host": "localhost"},
    "another method": {"X-HTTP-Method-Override": "GET", "X-Method-Override": "GET"},
}
IN_QUERY = f"?key={KEY}&api_key={KEY}&access_token={KEY}&Authorization=Bearer%20{KEY}"
NAMES_IT = re.compile(r"\{([a-z]+)\}")
# What a schema cannot say: rules about several fields together, about the time that it is, or that only a parser knows.
UNSAYABLE = (
    "is no `next` of",  # a cursor is what a page gave, and nothing that can be made up
    "lies not after the start",
    " is past",
    "lies after 9999",
    "lies before 1970",  # by its zone
    "is not a regular expression that RE2 takes",
    "is not a target",  # of the configuration
    "is not a receiver",
    "is not a time zone",
    "is never due",
    "is not between 10s and 366d",  # how long what a duration's text says is
    "is not between 1m and 366d",
    "is longer than a day",
    "is not longer than the jitter",
    "lies before the start",
    "makes a period of less than",
    "must lie before `to`",
    "is yet to come",
    "cannot be read",  # of a crontab's line
    "is no day of the week",
    "names days of the month and of the week",
)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Populated]:
    with populated(tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> FlaskClient:
    app = create_app(Settings(data=tmp_path_factory.mktemp("openapi")))
    app.extensions["sampler"].stop()
    return app.test_client()


@pytest.fixture(scope="module")
def document(client: FlaskClient) -> dict[str, Any]:
    answer = client.get("/api/openapi.json")
    assert (200, "application/json", "no-cache") == (answer.status_code, answer.mimetype, answer.headers["Cache-Control"])
    again = client.get("/api/openapi.json", headers={"If-None-Match": answer.headers["ETag"]})
    assert (304, b"") == (again.status_code, again.data)
    return dict(answer.get_json())


def test_the_document_is_openapi(document: dict[str, Any]) -> None:
    """By the schema of OpenAPI 3.1 for documents; and what it says of values are JSON schemas."""
    assert "3.1.0" == document["openapi"]
    jsonschema_rs.Draft202012Validator(OPENAPI_31).validate(document)
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.meta.validate(schema)


def test_every_call_is_described(document: dict[str, Any]) -> None:
    """Each with what it is for, its parameters, every answer that can come, and the key where it is needed."""
    for path, method, operation in operations(document["paths"]):
        where = f"{method} {path}"
        said = {int(status) for status in operation["responses"]}
        assert operation["summary"].endswith("."), where
        assert operation["tags"][0] in [tag["name"] for tag in document["tags"]], where
        assert all(each["description"] for each in operation["parameters"]), where
        assert set(NAMES_IT.findall(path)) == {each["name"] for each in operation["parameters"] if each["in"] == "path"}, where
        if not path.startswith(("/api/v1/", "/api/service/")):
            continue
        body, query = "requestBody" in operation, any(each["in"] == "query" for each in operation["parameters"])
        expected = {429, 503} | ({401, 403} if method in CHANGING else {304}) | ({404} if "{" in path else set())
        expected |= ({400, 413, 415, 422} if body else set()) | ({422} if query else set())
        assert expected <= said, where
        assert (method in CHANGING) is ("security" in operation), where
        if body:
            assert "example" in operation["requestBody"]["content"]["application/json"], where
        if said & {201, 202}:
            assert all("Location" in operation["responses"][str(each)]["headers"] for each in said & {201, 202}), where


def test_each_shape_stands_there_once_and_is_used(document: dict[str, Any]) -> None:
    """Every reference leads somewhere, and there is nothing that none leads to."""
    text = str({name: part for name, part in document.items() if name != "info"})
    used = set(re.findall(r"'#/components/(\w+)/([\w-]+)'", text))
    known = {(kind, name) for kind, parts in document["components"].items() for name in parts if kind != "securitySchemes"}
    assert set() == used - known
    assert {kind for kind, _ in known - used} <= {"responses"}  # a status that no call has today
    assert not [name for _, name in known if re.search(r"[.]|[a-z]\d$", name)]  # what APIFlask calls a second one of a name
    identities = [operation["operationId"] for _, _, operation in operations(document["paths"])]
    assert len(identities) == len(set(identities))


class Asking:
    """Sends what the document has as examples, and holds each answer against what it says of answers."""

    def __init__(self, running: Populated, document: dict[str, Any]) -> None:
        self._running, self._document = running, document
        self.asked = 0

    def all(self, path: str, method: str, operation: dict[str, Any]) -> None:
        required = {each["name"]: each["example"] for each in self._in_query(operation) if each["required"]}
        optional = {each["name"]: each["example"] for each in self._in_query(operation) if "example" in each}
        queries = [required, optional, *({**required, name: value} for name, value in optional.items())]
        for query in queries if optional else [{}]:
            self.one(self._filled(path, method), method, operation, query)

    def one(self, path: str, method: str, operation: dict[str, Any], query: dict[str, Any]) -> requests.Response:
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
        answer = requests.request(
            method,
            self._running.url + path,
            params={name: str(value).lower() if value in (True, False) else value for name, value in query.items()},
            json=body,
            headers={"Authorization": f"Bearer {KEY}"} if "security" in operation else {},
            timeout=30,
        )
        self.asked += 1
        where = f"{method} {path} {query} {body}: {answer.status_code} {answer.text}"
        assert 200 <= answer.status_code < 300, where
        assert str(answer.status_code) in operation["responses"], where
        content = operation["responses"][str(answer.status_code)].get("content", {})
        assert answer.headers.get("Content-Type", "").partition(";")[0] in (content or [""]), where
        if "application/json" in answer.headers.get("Content-Type", ""):
            schema = {**content["application/json"]["schema"], "components": self._document["components"]}
            jsonschema_rs.Draft202012Validator(schema).validate(answer.json())
            self._in_order(content["application/json"]["schema"], answer.json())
        return answer

    def _in_order(self, schema: dict[str, Any], found: object) -> None:
        """Fields stand in the answer as they do in the document."""
        name = schema.get("$ref", "").rpartition("/")[2]
        properties = self._document["components"]["schemas"].get(name, schema).get("properties")
        if isinstance(found, dict) and properties:
            assert [each for each in properties if each in found] == list(found)
            for field, value in found.items():
                self._in_order(properties[field], value)
        if isinstance(found, list):
            for each in found:
                self._in_order(schema.get("items", {}), each)

    def _filled(self, path: str, method: str) -> str:
        """With one that is there, and is done where it has to be made; where it is changed, with a new one."""
        if not (names := NAMES_IT.findall(path)):
            return path
        parent = path.partition("/{")[0]
        above = self._document["paths"][parent]
        if method != "get" and "post" in above and (made := self._made(parent, above["post"])):
            return NAMES_IT.sub(made.rpartition("/")[2], path)
        listed = self.one(parent, "get", above["get"], {}).json()
        items = next(value for value in listed.values() if isinstance(value, list))
        taken = next((each for each in items if each.get("state") == "done"), items[0])
        return NAMES_IT.sub(str(taken.get(names[0], taken.get("id"))), path)

    def _made(self, path: str, operation: dict[str, Any]) -> str | None:
        body = operation["requestBody"]["content"]["application/json"]["example"]
        headers = {"Authorization": f"Bearer {KEY}"}
        return requests.post(self._running.url + path, json=body, headers=headers, timeout=30).headers.get("Location")

    def _in_query(self, operation: dict[str, Any]) -> list[dict[str, Any]]:
        return [each for each in operation["parameters"] if each["in"] == "query"]


def test_each_example_is_answered_as_described(running: Populated, document: dict[str, Any]) -> None:
    """Every example of every call is sent: a 2xx that is described, with a body of its schema and in its order."""
    asking = Asking(running, document)
    for path, method, operation in operations(document["paths"]):
        if path != ENDLESS:
            asking.all(path, method, operation)
    assert asking.asked > len(list(operations(document["paths"])))


def test_it_can_be_read_in_a_browser(client: FlaskClient, document: dict[str, Any]) -> None:
    """/api/docs has every call and every shape, each link leads to its place, and the browser is let load nothing else."""
    answer = client.get("/api/docs")
    assert (200, "text/html; charset=utf-8") == (answer.status_code, answer.headers["Content-Type"])
    assert "default-src 'none'; script-src 'self'; style-src 'self';" in answer.headers["Content-Security-Policy"]
    places = re.findall(r' id="([^"]+)"', answer.text)
    assert len(places) == len(set(places))
    assert {operation["operationId"] for _, _, operation in operations(document["paths"])} <= set(places)
    assert set(document["components"]["schemas"]) <= set(places)
    assert set(re.findall(r' href="#([^"]+)"', answer.text)) <= set(places)
    assert not re.findall(r"<script|<style|style=|https?://[^<\s]*\.(?:css|js)|\son\w+=", answer.text)
    loaded = re.findall(r'<link[^>]* href="([^"]+)"', answer.text)
    for path in loaded:
        with client.get(path) as file:
            assert 200 == file.status_code
    assert "&lt;code&gt;" not in answer.text


def test_each_line_for_the_shell_works(running: Populated, document: dict[str, Any]) -> None:
    """Each curl line of /api/docs, as it stands there, is understood: what it names may not be there, but nothing is wrong."""
    page = requests.get(f"{running.url}/api/docs", timeout=10).text
    lines = [html.unescape(line) for line in re.findall(r"<code>(curl .*)</code>", page) if ENDLESS not in line]
    environment = {**os.environ, "TOCSIN": running.url, "KEY": KEY}
    with holds.holding("nginx", running.folder):  # or the line for restarts would wait for one
        for line in lines:
            command = ["bash", "-c", f"{line} -o /dev/null -w '%{{http_code}}'"]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
            assert (0, "") == (done.returncode, done.stderr), line
            assert done.stdout in ("200", "201", "202", "204", "404", "409"), f"{line}: {done.stdout}"
    assert len(lines) == len(list(operations(document["paths"]))) - 1


def told(label: str, node: Any, sent: Any) -> str:
    """A finding in words, with what was sent and what came."""
    request, response = sent.request, sent.response
    asked = f"{request.method} {request.uri} {request.body and request.body[:500]!r}"
    return f"{label}: {node.name}: {node.failure_info.failure}\n{asked}\n{response.status_code} {response.content[:500]!r}"


def test_schemathesis_finds_nothing(running: Populated) -> None:
    """Every check of its, over every call: with examples, at the edges, at random, and in sequences of calls.

    Somebody else restarts both services all the while, so that nobody waits for a restart here.
    """
    config = SchemathesisConfig.from_dict(
        {
            "seed": 1,
            "headers": {"Authorization": f"Bearer {KEY}"},
            "generation": {"max-examples": 20, "deterministic": True, "no-shrink": True},
        }
    )
    schema = schemathesis.openapi.from_url(f"{running.url}/api/openapi.json", config=config).exclude(path=ENDLESS)

    @schema.hook
    def filter_failure(context: Any, failure: Failure, case: Any, response: Response) -> bool:
        if isinstance(failure, RejectedPositiveData) and response.status_code == 422:
            return not all(any(word in each["fault"] for word in UNSAYABLE) for each in response.json()["errors"])
        if isinstance(failure, UseAfterFree) and "/silences/" in case.path:
            # DELETE ends a silence; what held is still told, or known to whoever asks for it if it has changed.
            return response.status_code != 304 and response.json()["state"] != "expired"
        return True

    found, asked, checks = [], 0, set()
    leaks = re.compile(rb'Traceback|File "/|site-packages|sqlalchemy', re.IGNORECASE)
    with holds.holding("web", running.folder), holds.holding("nginx", running.folder):
        for event in from_schema(schema).execute():
            if isinstance(event, events.NonFatalError | events.FatalError):
                found.append(str(event))
            if isinstance(event, events.ScenarioFinished):
                asked += len(event.recorder.interactions)
                for identity, nodes in event.recorder.checks.items():
                    checks |= {node.name for node in nodes}
                    sent = event.recorder.interactions.get(identity)
                    found += [told(event.recorder.label, node, sent) for node in nodes if node.failure_info]
                answers = [each.response for each in event.recorder.interactions.values() if each.response]
                found += [f"it leaks: {each.content[:500]!r}" for each in answers if leaks.search(each.content or b"")]
    assert not found, "\n\n".join(found)
    assert asked > 500
    assert {"not_a_server_error", "ignored_auth", "use_after_free", "negative_data_rejection", "unsupported_method"} <= checks


def test_each_way_to_change_something_is_known(client: FlaskClient, document: dict[str, Any]) -> None:
    """No route of the application takes a method that changes something unless this table says what it asks for."""
    rules = client.application.url_map.iter_rules()
    routes = {f"{method} {rule.rule}" for rule in rules for method in (rule.methods or set()) - {"GET", "HEAD", "OPTIONS"}}
    secured = {f"{method.upper()} {path}" for path, method, each in operations(document["paths"]) if "security" in each}

    assert set(GUARDS) == routes
    assert {route.replace("<", "{").replace(">", "}") for route, guard in GUARDS.items() if guard == "key"} == secured


def content(folder: Path) -> list[str]:
    """All that the database has."""
    with sqlite3.connect(folder / "tocsin.db") as connection:
        return list(connection.iterdump())


def logged_in(url: str) -> str:
    """The cookie of somebody who is."""
    answer = requests.post(f"{url}/login", {"author": "ann", "key": KEY}, allow_redirects=False, timeout=10)
    assert 303 == answer.status_code
    return answer.headers["Set-Cookie"].partition(";")[0]


def test_without_the_key_nobody_changes_anything(running: Populated, document: dict[str, Any]) -> None:
    """Every call that needs the key, with everything that is not quite the key: 401 with a problem, and nothing has changed."""
    asking, session = Asking(running, document), requests.Session()
    calls = [
        (asking._filled(path, method), method, each) for path, method, each in operations(document["paths"]) if "security" in each
    ]
    given = {**WITHOUT_THE_KEY, "a session": {"Cookie": logged_in(running.url), "Origin": running.url}}
    before = content(running.folder)
    for path, method, operation in calls:
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
        ways = [(name, path, headers) for name, headers in given.items()]
        ways += [("in the query", path + IN_QUERY, {}), ("an encoded path", path.replace("/v1/", "/%761/"), {})]
        for name, asked, headers in ways:
            answer = session.request(method, running.url + asked, json=body, headers=headers, timeout=30)
            where = f"{method} {path} with {name}: {answer.status_code} {answer.text}"
            assert 401 == answer.status_code, where
            assert 'Bearer realm="Tocsin API"' == answer.headers["WWW-Authenticate"], where
            assert {"type", "title", "status", "detail", "request_id"} == set(answer.json()), where
            assert KEY not in answer.text + str(answer.headers), where

    assert before == content(running.folder)
    assert len(calls) == list(GUARDS.values()).count("key")


@pytest.mark.parametrize(
    "path",
    [
        *("//api/v1/silences", "/api//v1/silences", "/api/v1/silences/", "/api/v1/./silences", "/x/../api/v1/silences"),
        *("/API/v1/silences", "/api/v1/silences;a=b", "/api/v1/silences%00", "/api/v1/silences%2f", "/api/v1/silences%20"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "post", "PATCH", "SILENCE"])
def test_no_other_spelling_of_an_address_is_a_way_in(client: FlaskClient, method: str, path: str) -> None:
    """It is another address, or the same one that asks for the key."""
    body = {"matchers": ['alert="a"'], "duration": "1h", "author": "ann", "comment": "a"}

    assert client.open(path, method=method, json=body).status_code in (308, 401, 403, 404, 405)
    assert [] == client.get("/api/v1/silences").get_json()["silences"]


def test_without_a_session_no_form_does_anything(running: Populated) -> None:
    """Every form of the page: without a cookie, with one that nobody signed, with the API's key, and from another site."""
    cookie = logged_in(running.url)
    forms = [route.removeprefix("POST ") for route, guard in GUARDS.items() if guard == "form" and route != "POST /login"]
    fingerprint = requests.get(f"{running.url}/api/v1/alerts", timeout=10).json()["alerts"][0]["fingerprint"]
    given: dict[str, dict[str, str]] = {
        "nothing": {},
        "the API's key": {"Authorization": f"Bearer {KEY}"},
        "a forged cookie": {"Cookie": cookie.partition("=")[0] + "=" + cookie.partition("=")[2][::-1]},
        "no token": {"Cookie": cookie},
        "another site": {"Cookie": cookie, "Origin": "https://elsewhere.example"},
        "another site, as the browser says": {"Cookie": cookie, "Sec-Fetch-Site": "cross-site", "Origin": running.url},
    }
    before = content(running.folder)
    for form in forms:
        path = form.replace("<fingerprint>", fingerprint).replace("<name>", "web")
        for name, headers in given.items():
            fields = {"alert": fingerprint, "duration": "1h", "comment": "a", "author": "ann", "key": KEY, "csrf": "guessed"}
            answer = requests.post(running.url + path, fields, headers=headers, allow_redirects=False, timeout=30)
            assert 403 == answer.status_code, f"{path} with {name}: {answer.text}"

    assert before == content(running.folder)


@pytest.mark.parametrize("route", [route for route, guard in GUARDS.items() if guard == "key"])
def test_without_a_key_at_all_nothing_can_be_changed(client: FlaskClient, route: str) -> None:
    """Where none is configured no key is right, and least of all an empty one: 403, which says how to set one."""
    method, path = route.split()
    for header in ("", "Bearer", "Bearer ", "Bearer None", "Bearer null", f"Bearer {KEY}"):
        answer = client.open(path, method=method, json={}, headers={"Authorization": header})
        assert 403 == answer.status_code
        assert "TOCSIN_API_KEY" in answer.get_json()["detail"]
