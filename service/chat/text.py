"""What people read of alerts and reports: plain text in which nobody is called and nothing is drawn."""

import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

MOST = 10  # alerts in one message
LONGEST = 1800  # bytes, where a service says nothing of it
LONGEST_PART = 200  # characters of a summary or a reason

_CALL = re.compile(r"@(?=\w)|<(?=\S)")
_MARKDOWN = re.compile(r"([\\*_~`|\[\]#])")


def in_bytes(text: str) -> int:
    """How long a text is, in bytes."""
    return len(text.encode())


def in_utf16(text: str) -> int:
    """The same in UTF-16 code units, which is what most chat services call characters. Never fewer than characters."""
    return len(text.encode("utf-16-le")) // 2


def plain(text: str) -> str:
    """Nothing in it is markup."""
    return text


def markdown(text: str) -> str:
    """A text that is drawn as Markdown looks as it is written."""
    return _MARKDOWN.sub(r"\\\1", text)


def told(
    contents: Sequence[Mapping[str, Any]],
    longest: int = LONGEST,
    *,
    length: Callable[[str], int] = in_bytes,
    escape: Callable[[str], str] = plain,
) -> str:
    """Two lines for each of the first alerts, as many whole ones as fit into `longest` of what `length` counts.

    Of a report, which is alone: its text, as much as fits, and its address.
    """
    if contents[0]["status"] == "report":
        return _report(contents[0], longest, length, escape)
    parts: list[str] = []
    for content in contents[:MOST]:
        part = _alert(content, escape)
        if parts and length("\n".join([*parts, part])) > longest - 20:  # room for the last line
            break
        parts.append(part)
    if len(parts) < len(contents):
        parts.append(f"and {len(contents) - len(parts)} more")
    text = "\n".join(parts)
    if length(text) <= longest:
        return text
    return text[: bisect_right(range(len(text) + 1), longest, key=lambda many: length(text[:many])) - 1]


def _line(text: object, escape: Callable[[str], str]) -> str:
    line = " ".join(str(text).split())
    line = line if len(line) <= LONGEST_PART else f"{line[: LONGEST_PART - 1]}…"
    # Nobody is called and no link is made by a name: a space without width stands in between.
    return escape(_CALL.sub("\\g<0>\u200b", line))


def _report(content: Mapping[str, Any], longest: int, length: Callable[[str], int], escape: Callable[[str], str]) -> str:
    said: list[str] = []
    for line in content["text"].splitlines():
        if length("\n".join([*said, _line(line, escape), "…", content["url"]])) > longest:
            said.append("…")
            break
        said.append(_line(line, escape))
    return "\n".join([*said, content["url"]])


def _alert(content: Mapping[str, Any], escape: Callable[[str], str]) -> str:
    line = partial(_line, escape=escape)
    words = [word for word in ("late", "flapping", "reminder", "escalated") if content.get(word)]
    status = ", ".join([content["status"].upper(), *words])
    where = " on ".join(line(content[name]) for name in ("target", "instance") if content.get(name))
    since = content["starts_at"][:16].replace("T", " ")
    until = f" to {content['ends_at'][:16].replace('T', ' ')}" if content["ends_at"] else ""
    return (
        f"{status}: {line(content['alert'])} ({content['severity']}), {where}, since {since}{until} UTC\n"
        f"{line(content['summary'])} ({line(content['reason'])})"
    )
