"""The feed: frames made for those who watch, what each of them still has to be sent, bounds, and its end."""

import json
import threading
import time
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from service.web import feed as feeds
from service.web.feed import Feed, Frame, Frames, FullError
from tests.stack import eventually

FAR = 4e9  # seconds since 1970


class Page:
    """A page whose sections a test can change, and that counts how often it was looked at."""

    def __init__(self) -> None:
        self.sections = {"one": "1", "two": "2"}
        self.looks = 0

    def __call__(self) -> Frames:
        self.looks += 1
        return {member: Frame(7.0, {**self.sections, "who": str(member)}) for member in (False, True)}


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Page:
    monkeypatch.setattr(feeds, "PACE", 0.05)
    monkeypatch.setattr(Feed.latest, "__defaults__", (0.04,))
    monkeypatch.setattr(feeds, "ALIVE", 0.3)
    monkeypatch.setattr(feeds, "SILENT", 0.2)
    return Page()


@pytest.fixture
def feed(page: Page) -> Iterator[Feed]:
    made = Feed(page, most=2)
    yield made
    made.end()
    eventually(lambda: "feed" not in {thread.name for thread in threading.enumerate()}, "its thread ends")


def events(feed: Feed, seen: str = "", *, member: bool = False, until: float = FAR) -> Iterator[tuple[str, str, Any]]:
    """Kind, id and data of each event; a comment is of the kind `:`."""
    for text in feed.stream(seen, str.upper, member=member, until=until):
        lines = dict(line.partition(": ")[::2] for line in text.strip().splitlines())
        if "event" in lines:
            yield lines["event"], lines.get("id", ""), json.loads(lines["data"])
        elif text.startswith(":"):
            yield ":", "", None


def test_whoever_is_new_gets_everything_and_then_what_changes(feed: Feed, page: Page) -> None:
    """Only the sections that differ are sent; what is done for one reader is done to each."""
    feed.join()
    stream = events(feed, member=True)
    kind, identity, said = next(stream)
    assert ("sections", {"at": 7.0, "sections": {"one": "1", "two": "2", "who": "TRUE"}}) == (kind, said)
    page.sections["two"] = "new"
    assert {"two": "NEW"} == next(found for kind, _, found in stream if kind == "sections")["sections"]
    assert 3 == len(identity.split("-"))
    feed.leave()


def test_whoever_comes_back_gets_what_differs(page: Page) -> None:
    """From the id alone, in another process as well; with an id that is none of ours, everything."""
    frame = page()[False]
    page.sections["one"] = "changed"

    assert {"one": "changed"} == page()[False].since(frame.id)
    assert {} == frame.since(frame.id)
    assert {"who": "True"} == Page()()[True].since(frame.id)
    for foreign in ("", "-", "--", "--x", frame.id + "-", "x" * 10_000, "\ud800"):
        assert dict(frame.sections) == frame.since(foreign)


def test_nothing_new_is_said_now_and_then(feed: Feed) -> None:
    """A reader who has everything hears at once that the server lives, and again each time that nothing has changed."""
    feed.join()
    stream = events(feed, feed.latest()[False].id)
    began = time.monotonic()
    assert [("alive", {"at": 7.0})] * 3 == [(kind, said) for kind, _, said in (next(stream) for _ in range(3))]
    assert 0.5 < time.monotonic() - began
    feed.leave()


def test_without_a_new_frame_nobody_is_told_that_all_is_well(feed: Feed, page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that cannot be made keeps the connection by a comment, which no reader takes for a sign of life."""
    feed.join()
    stream = events(feed)
    next(stream)

    def broken() -> Frames:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(feed, "_make", broken)
    assert ":" == next(kind for kind, *_ in stream if kind != "sections")
    monkeypatch.setattr(feed, "_make", page)
    page.sections["one"] = "back"
    assert {"one": "BACK"} == next(said for kind, _, said in stream if kind == "sections")["sections"]
    feed.leave()


def test_it_looks_once_for_all_and_only_while_somebody_watches(feed: Feed, page: Page) -> None:
    """Two readers cost as much as one, and nobody costs nothing."""
    for _ in range(2):
        feed.join()
    streams = [events(feed) for _ in range(2)]
    assert [feed.latest()[False].id] * 2 == [next(stream)[1] for stream in streams]
    time.sleep(0.5)
    assert page.looks <= 1 + 0.6 / 0.04
    for _ in range(2):
        feed.leave()
    eventually(lambda: "feed" not in {thread.name for thread in threading.enumerate()}, "its thread ends")
    before = page.looks
    time.sleep(0.2)
    assert before == page.looks


def test_who_asks_at_once_gets_the_same(page: Page) -> None:
    """A page that is newer than the question is made once for all who wait for it, however long it takes."""

    def slow() -> Frames:
        time.sleep(0.3)
        return page()

    made = Feed(slow)
    asking = [threading.Thread(target=made.latest, args=(0,)) for _ in range(8)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert page.looks <= 3


def test_there_is_a_bound(feed: Feed) -> None:
    """One too many is refused, until somebody leaves."""
    feed.join()
    feed.join()
    with pytest.raises(FullError):
        feed.join()
    feed.leave()
    feed.join()
    feed.leave()
    feed.leave()


def test_its_end_ends_all_streams_at_once(feed: Feed) -> None:
    """Also those that wait; and who comes then is sent away to come again."""
    feed.join()
    stream = events(feed)
    next(stream)
    threading.Timer(0.1, feed.end).start()
    began = time.monotonic()

    assert [] == [kind for kind, *_ in stream if kind == "sections"]
    assert time.monotonic() - began < 5
    feed.leave()
    feed.join()
    assert ["retry: 1000\n\n"] == list(feed.stream("", str, member=False, until=FAR))
    feed.leave()


def test_a_stream_ends_with_its_session(feed: Feed, page: Page) -> None:
    """Past its time the stream is over; its reader comes back as somebody who is not logged in."""
    changes = count()

    def changing() -> Frames:
        page.sections["one"] = str(next(changes))
        return page()

    ending = Feed(changing)
    ending.join()
    assert list(events(ending, member=True, until=time.time() + 0.3))
    assert [] == list(events(ending, member=True, until=time.time() - 1))
    ending.leave()
