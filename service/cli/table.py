"""A table on a terminal."""

from collections.abc import Sequence

import click


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """In columns; without a row only the remark that there is none."""
    if not rows:
        click.echo("none", err=True)
        return
    lines = [[_plain(text) for text in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _plain(text: str) -> str:
    """Without what a terminal would obey: the label of a mount comes from another machine."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
