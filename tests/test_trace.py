"""`traceparent` (W3C Trace Context): a valid one is in every line of its request as `trace.id` and `span.id`."""

import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.web.access import trace
from tests.stack import Running, eventually, nginx, web

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEX = "0123456789abcdef"
VALID = {
    "sampled": f"00-{TRACE}-{SPAN}-01",
    "not sampled": f"00-{TRACE}-{SPAN}-00",
    "flags of the future": f"00-{TRACE}-{SPAN}-ff",
    "a later version": f"01-{TRACE}-{SPAN}-01",
    "a later version that goes on": f"cc-{TRACE}-{SPAN}-01-what-comes-then",
    "a later version with a hyphen at its end": f"cc-{TRACE}-{SPAN}-01-",
}
INVALID = {
    "nothing": "",
    "the version that is none": f"ff-{TRACE}-{SPAN}-01",
    "version 00 that goes on": f"00-{TRACE}-{SPAN}-01-more",
    "version 00 with a hyphen at its end": f"00-{TRACE}-{SPAN}-01-",
    "a later version that goes on without a hyphen": f"cc-{TRACE}-{SPAN}-01.more",
    "a trace of zeros": f"00-{'0' * 32}-{SPAN}-01",
    "a span of zeros": f"00-{TRACE}-{'0' * 16}-01",
    "capital letters": f"00-{TRACE.upper()}-{SPAN}-01",
    "a capital version": f"CC-{TRACE}-{SPAN}-01",
    "a short trace": f"00-{TRACE[1:]}-{SPAN}-01",
    "a long trace": f"00-0{TRACE}-{SPAN}-01",
    "a short span": f"00-{TRACE}-{SPAN[1:]}-01",
    "no flags": f"00-{TRACE}-{SPAN}",
    "flags that are none": f"00-{TRACE}-{SPAN}-0x",
    "one digit of a version": f"0-{TRACE}-{SPAN}-01",
    "two of them": f"00-{TRACE}-{SPAN}-01,00-{TRACE}-{SPAN}-01",
    "underscores": f"00_{TRACE}_{SPAN}_01",
    "quotes": f'00-{TRACE}-{SPAN}-01","x":"',
    "much too long": "0" * 3000,
}


@pytest.mark.parametrize("header", VALID.values(), ids=VALID)
def test_a_valid_one_is_taken(header: str) -> None:
    """Version 00 as it is written, a later one as far as it is known, as the specification says."""
    assert {"trace.id": TRACE, "span.id": SPAN} == trace(header)


@pytest.mark.parametrize("header", INVALID.values(), ids=INVALID)
def test_an_invalid_one_is_none(header: str) -> None:
    """What is not valid is ignored."""
    assert {} == trace(header)


@given(
    version=st.integers(0, 254), trace_id=st.integers(1, 2**128 - 1), span=st.integers(1, 2**64 - 1), flags=st.integers(0, 255)
)
def test_what_the_specification_allows_is_taken(version: int, trace_id: int, span: int, flags: int) -> None:
    """Any version, ids and flags that it allows come out as they went in."""
    header = f"{version:02x}-{trace_id:032x}-{span:016x}-{flags:02x}"
    assert {"trace.id": f"{trace_id:032x}", "span.id": f"{span:016x}"} == trace(header)


@given(
    st.text(max_size=80) | st.text(f"{HEX}-", min_size=50, max_size=60) | st.from_regex(r"(00|01|ff)-[0-9a-f]{32}-.{15,18}-0.")
)
def test_what_comes_out_is_always_two_ids(header: str) -> None:
    """Whatever a client sends: nothing, or 32 and 16 hexadecimal digits that stand in it and are not all zero."""
    if found := trace(header):
        assert ["trace.id", "span.id"] == list(found)
        assert re.fullmatch("[0-9a-f]{32}", found["trace.id"])
        assert re.fullmatch("[0-9a-f]{16}", found["span.id"])
        assert all(identity.strip("0") and identity in header for identity in found.values())


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with web(tmp_path_factory.mktemp("web"), "tests.apps:failing()") as running:
        yield running


@pytest.fixture(scope="module")
def front(app: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with nginx(tmp_path_factory.mktemp("nginx"), app.url.removeprefix("http://")) as running:
        yield running


def lines_of(running: Running, request_id: str, count: int) -> list[dict[str, object]]:
    def find() -> list[dict[str, object]] | None:
        found = [line for line in running.lines() if line.get("http.request.id") == request_id]
        return found if len(found) == count else None

    return eventually(find, f"{count} lines of {request_id}")


def test_nginx_and_the_app_read_it_alike(app: Running, front: Running) -> None:
    """Each header of both tables, through real nginx and gunicorn: both lines have the two ids, or neither has."""
    requests = {header: front.get("/livez", headers={"traceparent": header}) for header in (*VALID.values(), *INVALID.values())}
    for header, answer in requests.items():
        (at_nginx,) = lines_of(front, answer.headers["X-Request-ID"], 1)
        (at_app,) = lines_of(app, answer.headers["X-Request-ID"], 1)
        expected = (TRACE, SPAN) if header in VALID.values() else ("", "")

        # nginx cannot leave a field out; without a trace it is empty there.
        assert expected == (at_nginx["trace.id"], at_nginx["span.id"]), header
        assert expected == (at_app.get("trace.id", ""), at_app.get("span.id", "")), header
        assert bool(expected[0]) == ("trace.id" in at_app)


def test_every_line_of_the_request_has_it(app: Running) -> None:
    """A view that fails: the line of the exception and the line of the access have the trace; the next request has none."""
    answer = app.get("/fails", headers={"traceparent": VALID["sampled"]})
    assert 500 == answer.status_code
    lines = lines_of(app, answer.headers["X-Request-ID"], 2)

    assert [(TRACE, SPAN)] * 2 == [(line["trace.id"], line["span.id"]) for line in lines]
    assert 1 == sum("error.stack_trace" in line for line in lines)
    (after,) = lines_of(app, app.get("/livez").headers["X-Request-ID"], 1)
    assert {"trace.id", "span.id"}.isdisjoint(after)


def test_a_trace_changes_nothing_else(front: Running) -> None:
    """The id of the request stays ours or the client's, whatever trace it belongs to."""
    given = {"traceparent": VALID["sampled"], "X-Request-ID": "my-own-id-0001"}

    assert "my-own-id-0001" == front.get("/livez", headers=given).headers["X-Request-ID"]
