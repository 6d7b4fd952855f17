"""Matchers: Alertmanager's notation, RE2's patterns, and every text that is neither."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.matchers import LABELS, LONGEST, Matcher, all_match, labels_of

ALERT = {"alert": "HighCpu", "target": "db", "severity": "warning", "metric": "cpu_usage", "scope": "host", "mount": "/srv/a"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('target="db"', ("target", "=", "db")),
        ("target=db", ("target", "=", "db")),
        ('  severity != "info"  ', ("severity", "!=", "info")),
        ('alert=~"High.*"', ("alert", "=~", "High.*")),
        ("alert!~High.*", ("alert", "!~", "High.*")),
        ('mount=""', ("mount", "=", "")),
        ("mount=", ("mount", "=", "")),
        ('target=" a "', ("target", "=", " a ")),
        ('target="a=b"', ("target", "=", "a=b")),
        (r'target="a\"b\\c\nd"', ("target", "=", 'a"b\\c\nd')),
        (r'alert=~"a\.b"', ("alert", "=~", r"a\.b")),
        (r'alert=~"a\\.b"', ("alert", "=~", r"a\.b")),
        ('target="é…😀"', ("target", "=", "é…😀")),
    ],
)
def test_the_notation_is_alertmanagers(text: str, expected: tuple[str, str, str]) -> None:
    """Label, operator and value, with or without quotes; a backslash escapes a quote, itself and n."""
    found = Matcher.parse(text)
    assert expected == (found.label, found.operator, found.value)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "is not a matcher; write <label><op><value>"),
        ("target", "is not a matcher"),
        ("=db", "is not a matcher"),
        ("target==db", "is not a matcher"),
        ("target=~=db", "is not a matcher"),
        ("target!==db", "is not a matcher"),
        ("target > 5", "is not a matcher"),
        ('"target"="db"', "is not a matcher"),
        (None, "is not a matcher"),
        (5, "is not a matcher"),
        (["target=db"], "is not a matcher"),
        ("a" * 100 + "=b", "is not a matcher"),
        ("tarket=db", "'tarket' is not a label of an alert; did you mean 'target'?"),
        ("instance=x", "'instance' is not a label of an alert; "),
        ('target="db', "has quotes that do not fit"),
        ('target="', "has quotes that do not fit"),
        ('target=db"', "has quotes that do not fit"),
        ('target="d"b"', "has quotes that do not fit"),
        ('target="db\\"', "has quotes that do not fit"),
        ("alert=~(", "is not a regular expression that RE2 takes"),
        ("alert=~(?=x)", "is not a regular expression that RE2 takes"),
        (r"alert=~(a)\1", "is not a regular expression that RE2 takes"),
        ("alert=~((a{1000}){1000}){1000}", "is not a regular expression that RE2 takes"),
        ("alert=~\ud800", "is not a regular expression that RE2 takes"),
        ("target=" + "x" * (LONGEST + 1), f"has a value of more than {LONGEST} characters"),
    ],
)
def test_what_is_no_matcher_is_refused_in_words(text: object, fault: str) -> None:
    """Every other text is a ValueError that says what would be right."""
    with pytest.raises(ValueError) as caught:
        Matcher.parse(text)
    assert str(caught.value).startswith(fault)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("target=db", True),
        ("target=d", False),
        ("target=DB", False),
        ("target!=db", False),
        ("target!=web", True),
        ("alert=~High.*", True),
        ("alert=~High", False),
        ("alert=~Cpu", False),
        ("alert!~High.*", False),
        ("alert!~High", True),
        ("alert=~x|HighCpu|y", True),
        ("alert=~High|Cpu", False),
        ("mount=~/(srv|home)/.*", True),
        ("severity=~(?i)WARNING", True),
    ],
)
def test_a_matcher_looks_at_one_label(text: str, expected: bool) -> None:
    """Equality is exact, and a pattern must match the whole value."""
    assert expected == Matcher.parse(text).matches(ALERT)


@pytest.mark.parametrize(
    ("text", "expected"), [("mount=", True), ("mount!=", False), ("mount=~.+", False), ("mount=~.*", True), ("mount!~.+", True)]
)
def test_a_label_that_is_missing_is_empty(text: str, expected: bool) -> None:
    """An alert without a mount matches as one whose mount is empty."""
    assert expected == Matcher.parse(text).matches({"alert": "HighCpu"})


def test_all_matchers_must_match() -> None:
    """One that does not match is enough for the alert not to be meant; none at all mean every alert."""
    yes, no = Matcher.parse("target=db"), Matcher.parse("severity=info")
    assert [True, False, False, True] == [all_match(given, ALERT) for given in ((yes,), (yes, no), (no,), ())]


def test_labels_are_taken_from_what_a_notification_says() -> None:
    """What matchers can name is what LABELS lists, also for an alert that has a label called like one of them."""
    content = {"labels": {"mount": "/srv", "target": "forged"}, **{name: ALERT[name] for name in LABELS if name != "mount"}}
    assert {**ALERT, "mount": "/srv"} == labels_of(content)


@pytest.mark.parametrize("pattern", ["(a*)*b", "(a|a)*b", "(.*)(.*)(.*)(.*)(.*)[^a]", "(a?){30}a{30}"])
def test_no_pattern_takes_more_than_linear_time(pattern: str) -> None:
    """Patterns with which others stand still for ages are over before anyone notices."""
    began = time.monotonic()
    Matcher.parse(f"target=~{pattern}").matches({"target": "a" * 5000})
    assert time.monotonic() - began < 10


def test_a_text_of_spaces_is_read_at_once() -> None:
    """Reading a text takes no more than linear time either."""
    began = time.monotonic()
    for text in ("target=x" + " " * 60_000 + "x", " " * 60_000 + "x", 'target="' + '\\"' * 30_000):
        with pytest.raises(ValueError):
            Matcher.parse(text)
    assert time.monotonic() - began < 10


@given(
    label=st.sampled_from(LABELS), operator=st.sampled_from(["=", "!=", "=~", "!~"]), value=st.text('"\\n\n =~.a', max_size=20)
)
def test_what_is_written_is_what_is_read(label: str, operator: str, value: str) -> None:
    """A matcher that is kept as text is the same one when it is read."""
    matcher = Matcher(label, operator, value)
    try:
        read = Matcher.parse(str(matcher))
    except ValueError as error:
        assert "RE2" in str(error)  # noqa: PT017 - and only then
    else:
        assert matcher == read


def test_the_longest_value_can_be_kept() -> None:
    """A value that grows by its escapes is still read when it is kept as text."""
    matcher = Matcher.parse("target=" + "\\" * LONGEST)
    assert matcher == Matcher.parse(str(matcher))


@given(text=st.text(), value=st.text(st.characters()))
def test_any_text_is_a_matcher_or_a_value_error(text: str, value: str) -> None:
    """No text breaks reading or matching in any other way."""
    for written in (text, f"target={text}", f'target=~"{text}"'):
        try:
            matcher = Matcher.parse(written)
        except ValueError:
            continue
        matcher.matches({"target": value})
