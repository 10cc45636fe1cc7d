"""Pages of histories that end inside a moment: where the next one begins.

Rows are in the order of their times, in ms as they are shown, and many may have the same: an order that fills a thousand
others makes rows of one moment. A cursor is the time of a page's last row, and the number of rows of that time so far. It
comes in the header `Next-Cursor`, and goes back as the parameter `cursor`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Final, NamedTuple, TypeVar

from node.views.limits import CURSOR_HEADER, CURSOR_PATTERN

_CURSOR: Final = re.compile(CURSOR_PATTERN)
T = TypeVar("T")


class Cursor(NamedTuple):
    """A place in a history: behind `rows` rows of the time `ms`."""

    ms: int
    rows: int

    def __str__(self) -> str:
        return f"{self.ms}.{self.rows}"


def read_cursor(text: object) -> Cursor:
    """Read a cursor.

    Raises:
        ValueError: it is none that an answer had.
    """
    if isinstance(text, str) and _CURSOR.fullmatch(text):
        ms, _, rows = text.partition(".")
        return Cursor(int(ms), int(rows))
    raise ValueError(f"must be the {CURSOR_HEADER} of the page before, not {str(text)[:40]!r}")


def end_of_page(rows: Sequence[T], ms_of: Callable[[T], int], before: Cursor | None) -> Cursor:
    """Return the place behind the last row of a page, which is not empty; `before`: the place before its first row."""
    last = ms_of(rows[-1])
    count = sum(1 for _ in takewhile(lambda row: ms_of(row) == last, reversed(rows)))
    if count == len(rows) and before is not None and before.ms == last:
        count += before.rows
    return Cursor(last, count)
