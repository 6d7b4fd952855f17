"""Durations, sizes, addresses and the words in which a fault is told."""

import re
from typing import Annotated

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_core import ErrorDetails

from service.values import ConfigurationError, Duration, HttpAddress, Percent, explain, http_address, seconds, size, suggestion

UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}


def written(milliseconds: int) -> str:
    """The duration as a person writes it, from days down to milliseconds: `1h30m`."""
    parts = []
    for unit, length in UNITS.items():
        count, milliseconds = divmod(milliseconds, length)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(max_length=5)] = ""
    time: Duration = 1.0
    share: Percent = 1.0
    address: HttpAddress | None = None


class Needed(BaseModel):
    name: str


def fault_of(model: type[BaseModel], values: dict[str, object]) -> ErrorDetails:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(values)
    (fault,) = caught.value.errors()
    return fault


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0s", 0.0),
        ("1ms", 0.001),
        ("500ms", 0.5),
        ("10s", 10.0),
        ("1m", 60.0),
        ("1h30m", 5400.0),
        ("2d", 172_800.0),
        ("1.5h", 5400.0),
        ("1m500ms", 60.5),
        ("10s10s", 20.0),
        (" 10s\n", 10.0),
        ("999999999s", 999_999_999.0),
    ],
)
def test_a_duration_is_the_sum_of_its_parts(text: str, expected: float) -> None:
    """Each number counts in the unit behind it, and the parts add up."""
    assert expected == seconds(text)


@pytest.mark.parametrize(
    "value",
    ["", "10", "s", "10 s", "1h 30m", "-1s", "+1s", ".5s", "1.s", "1e3s", "10S", "10sec", "10s,", "١٠s", "1s\n5", "1234567890s"],
)
def test_text_that_is_no_duration_is_refused_with_the_remedy(value: str) -> None:
    """Anything but numbers with units is refused by name, and the message says how to write it."""
    with pytest.raises(ValueError, match="such as 10s or 1h30m") as caught:
        seconds(value)
    assert str(caught.value).startswith(repr(value))


@pytest.mark.parametrize("value", [10, 0, 1.5, None, True, b"10s", ["10s"], {"s": 10}])
def test_a_duration_without_a_unit_is_refused(value: object) -> None:
    """A bare number does not say its unit and is never guessed at."""
    with pytest.raises(ValueError, match="is not a duration"):
        seconds(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1KiB", 1024), ("256MiB", 268_435_456), ("1.5GiB", 1_610_612_736), (" 1MiB\n", 1_048_576), ("0MiB", 0)],
)
def test_a_size_is_bytes(text: str, expected: int) -> None:
    """The units are those of 1024."""
    assert expected == size(text)


@pytest.mark.parametrize(
    "value", ["", "256", "MiB", "256MB", "256M", "256 MiB", "-1MiB", "1e3MiB", "1MiB1KiB", 256, None, b"1MiB"]
)
def test_what_is_no_size_is_refused_with_the_remedy(value: object) -> None:
    """Anything but one number with its unit is refused by name, and the message says how to write it."""
    with pytest.raises(ValueError, match="such as 256MiB") as caught:
        size(value)
    assert str(caught.value).startswith(repr(value))


@given(milliseconds=st.integers(min_value=0, max_value=10**12))
@example(milliseconds=0)
@example(milliseconds=1)
@example(milliseconds=59_999)
@example(milliseconds=86_400_000)
def test_durations_round_trip(milliseconds: int) -> None:
    """Every duration that is written in days to milliseconds reads back as the same time."""
    assert milliseconds == round(seconds(written(milliseconds)) * 1000)


@given(text=st.text())
@example(text="9" * 400 + "s")
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    """Whatever stands where a duration should gives a finite number of seconds or a ValueError that shows the text."""
    found, said = None, ""
    try:
        found = seconds(text)
    except ValueError as error:
        said = str(error)
    assert repr(text) in said if found is None else 0 <= found < float("inf")


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:8000/api/health",
        "https://shop.example",
        "http://[::1]:8080/",
        "https://user:word@host.example:65535/a?b=c#d",
        "HTTPS://shop.example/",
    ],
)
def test_an_http_address_is_kept_whole_and_hidden(address: str) -> None:
    """An address is kept to the letter, and shown nowhere."""
    found = http_address(address)
    assert address == found.get_secret_value()
    assert address not in repr(found)
    assert found == http_address(found)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "shop.example/KEY",
        "ftp://host/KEY",
        "file:///KEY",
        "http://",
        "http:///KEY",
        "http://:80/KEY",
        "https://host:65536/KEY",
        "https://host:port/KEY",
        "http://[::1/KEY",
        "http://host/KEY KEY",
        "http://host/KEY\n",
        "\thttp://host/KEY",
        b"http://host/KEY",
        5,
        None,
        ["http://host/KEY"],
    ],
)
def test_what_is_no_http_address_is_refused_without_being_repeated(value: object) -> None:
    """The message for a bad address says how to write one and does not hold the address, which may hold a key."""
    with pytest.raises(ValueError, match=re.escape("write http://HOST/… or https://HOST/…")) as caught:
        http_address(value)
    assert "KEY" not in str(caught.value)


@given(text=st.text() | st.text("htps:/[]@.0123456789\\ \n%"))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    """No text makes the check of an address fail in any other way than ValueError."""
    try:
        found = http_address(text).get_secret_value()
    except ValueError as error:
        found = str(error)
    assert found in {text, "is not an address; write http://HOST/… or https://HOST/…"}


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("summry", ["summary", "severity"], "; did you mean 'summary'?"),
        ("xyz", ["b", "a"], "; known are a, b"),
        ("xyz", iter(["b", "a"]), "; known are a, b"),
    ],
)
def test_a_close_word_is_suggested_and_otherwise_all_are_listed(word: str, known: list[str], expected: str) -> None:
    """A near miss gets the word that was meant; a far one gets the sorted list."""
    assert expected == suggestion(word, known)


@pytest.mark.parametrize(
    ("model", "values", "expected"),
    [
        (Needed, {}, "is required"),
        (Part, {"tmie": "1s"}, "is not known here; did you mean 'time'?"),
        (Part, {"time": "soon"}, "'soon' is not a duration; write a number with ms, s, m, h or d, such as 10s or 1h30m"),
        (Part, {"share": 100.5}, "100.5: input should be less than or equal to 100"),
        (Part, {"share": -0.5}, "-0.5: input should be greater than or equal to 0"),
        (Part, {"name": 5}, "5: input should be a valid string"),
        (Part, {"name": "x" * 56}, f"'{'x' * 56}': string should have at most 5 characters"),
        (Part, {"name": "x" * 58}, f"'{'x' * 58}': string should have at most 5 characters"),
        (Part, {"name": "x" * 59}, f"'{'x' * 58}…: string should have at most 5 characters"),
        (Part, {"name": "x" * 9999}, f"'{'x' * 58}…: string should have at most 5 characters"),
    ],
)
def test_a_fault_is_told_in_plain_words_with_its_value(model: type[BaseModel], values: dict[str, object], expected: str) -> None:
    """A fault shows the value as it was written, cut at sixty characters, and what is wrong with it."""
    assert expected == explain(fault_of(model, values), Part.model_fields)


def test_a_fault_in_a_secret_does_not_repeat_it() -> None:
    """With `secret`, what is wrong is said and the value is not."""
    assert "string should have at most 5 characters" == explain(fault_of(Part, {"name": "my secret"}), secret=True)


@pytest.mark.parametrize("share", [0, 100, "0", "100.0"])
def test_a_percentage_reaches_from_0_to_100(share: object) -> None:
    """Both ends of the range are percentages."""
    assert float(str(share)) == Part.model_validate({"share": share}).share


def test_a_configuration_error_holds_every_fault_one_a_line() -> None:
    """The faults are there one by one, and as text one on each line."""
    error = ConfigurationError(("a: is required", "b: is required"))
    assert ["a: is required", "b: is required"] == error.faults
    assert "a: is required\nb: is required" == str(error)


def test_an_address_given_as_a_secret_stays_one() -> None:
    """An address that is already hidden passes the same check."""
    with pytest.raises(ValueError, match="is not an address"):
        http_address(SecretStr("nowhere"))
