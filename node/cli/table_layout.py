"""Layout of tables: columns that fit the terminal, numbers aligned at the decimal point.

A line is a list of (text, style) pieces. Styles are words that `node.cli.tables` translates. Nothing
is cut off, and no word is broken. Where a table is too wide for the terminal, columns of lesser rank
are left out, which a last line names; then texts continue on the next line.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import Final

Piece = tuple[str, str]
Line = list[Piece]
Cell = str | Piece

GAP: Final = 2  # blanks between two columns


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. Numbers are aligned at the decimal point. In a narrow terminal the column
    with the highest `rank` is left out first, and one of rank 0 never."""

    title: str
    number: bool = False
    rank: int = 0


def clean(text: str) -> str:
    """`text` without control characters: what other nodes say must not steer the terminal."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def align(numbers: Sequence[str]) -> list[str]:
    """The numbers padded so that their decimal points are below each other."""
    wholes, fractions = [], []
    for number in numbers:
        whole, point, fraction = number.partition(".")
        wholes.append(whole)
        fractions.append(point + fraction)
    left = max(map(len, wholes), default=0)
    right = max(map(len, fractions), default=0)
    return [w.rjust(left) + f.ljust(right) for w, f in zip(wholes, fractions, strict=True)]


def terminal_width() -> int | None:
    """Return the characters in a line of the terminal; None if stdout is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def folded(text: str, indent: int) -> list[str]:
    """Return the text in lines that fit the terminal beside `indent` characters."""
    width = terminal_width()
    if width is None or len(text) <= width - indent:
        return [text]
    return textwrap.wrap(
        text, max(20, width - indent), break_long_words=False, break_on_hyphens=False
    )


@dataclass
class _Row:
    texts: list[str]
    styles: list[str]


def table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[Cell]],
    *,
    width: int | EllipsisType | None = ...,
) -> list[Line]:
    """Return a table with a line of titles. A row may be shorter than the columns; it is not padded.

    `width`: characters in a line, None for any; by default those of the terminal.
    """
    most = terminal_width() if width is ... else width
    columns = list(columns)
    body = [_row(row) for row in rows]
    _align_numbers(columns, body)
    widths = _widths(columns, body)
    left_out = []
    while most is not None and _total(widths) > most:
        index = max(range(len(columns)), key=lambda i: columns[i].rank)
        if columns[index].rank == 0:
            widths = _narrowed(columns, body, widths, most)
            break
        left_out.append(columns.pop(index).title)
        for row in body:
            if len(row.texts) > 1 and index < len(row.texts):
                del row.texts[index], row.styles[index]
        widths = _widths(columns, body)
    titles = [column.title for column in columns]
    lines = _lines(_Row(titles, ["bold"] * len(titles)), columns, widths)
    for row in body:
        lines += _lines(row, columns, widths)
    if left_out:
        names = ", ".join(reversed(left_out))
        lines.append([(f"not shown for want of room: {names}", "dim")])
    return lines


def _row(cells: Sequence[Cell]) -> _Row:
    pieces = [cell if isinstance(cell, tuple) else (cell, "") for cell in cells]
    return _Row([clean(text) for text, _ in pieces], [style for _, style in pieces])


def _align_numbers(columns: Sequence[Column], body: Sequence[_Row]) -> None:
    for index, column in enumerate(columns):
        if column.number:
            filled = [row.texts for row in body if len(row.texts) > index]
            for texts, text in zip(filled, align([t[index] for t in filled]), strict=True):
                texts[index] = text


def _column(body: Sequence[_Row], index: int) -> list[str]:
    """Texts of a column. A lone cell is a heading and may be longer than its column."""
    return [row.texts[index] for row in body if len(row.texts) > max(1, index)]


def _widths(columns: Sequence[Column], body: Sequence[_Row]) -> list[int]:
    alone = len(columns) == 1
    return [
        max(
            [len(column.title)]
            + [len(t) for t in (_column(body, i) if not alone else [r.texts[0] for r in body])]
        )
        for i, column in enumerate(columns)
    ]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _narrowed(
    columns: Sequence[Column], body: Sequence[_Row], widths: Sequence[int], most: int
) -> list[int]:
    """Return widths with which texts continue on the next line, where that makes the table fit."""
    found = list(widths)
    least = [
        width
        if column.number
        else max(
            len(column.title),
            *(len(word) for text in [*_column(body, i), "x"] for word in text.split() or [""]),
        )
        for i, (column, width) in enumerate(zip(columns, widths, strict=True))
    ]
    while _total(found) > most:
        index = max(range(len(found)), key=lambda i: found[i] - least[i])
        if found[index] <= least[index]:
            break  # one word is too long: it stays whole
        found[index] -= 1
    return found


def _lines(row: _Row, columns: Sequence[Column], widths: Sequence[int]) -> list[Line]:
    if len(row.texts) == 1 and len(columns) > 1:
        return [[(row.texts[0], row.styles[0])]]
    wrapped = [
        [text]
        if len(text) <= widths[i] or columns[i].number
        else textwrap.wrap(text, widths[i], break_long_words=False, break_on_hyphens=False)
        for i, text in enumerate(row.texts)
    ]
    lines = []
    for number in range(max((len(parts) for parts in wrapped), default=1)):
        line: Line = []
        for i, (parts, style) in enumerate(zip(wrapped, row.styles, strict=True)):
            text = parts[number] if number < len(parts) else ""
            if columns[i].number:
                text = text.rjust(widths[i])
            elif i < len(columns) - 1:
                text = text.ljust(widths[i])
            line += [(" " * GAP, ""), (text, style)] if i else [(text, style)]
        lines.append(line)
    return lines
