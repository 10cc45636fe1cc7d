"""Pages of histories for clients that page by time.

Bitfinex has no cursor: a client asks for rows up to the time of the last one, or up to the millisecond before. With more rows
of one millisecond than a page has, the first way would never get on, and the second would lose rows. So a page never ends
inside a millisecond: it is longer than `limit` then, by `ROWS_MAX` at most. What is behind that, and any next page, is
reached with `cursor` too, as in the native API.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from node.annexes.bitfinex.errors import bad
from node.annexes.bitfinex.limits import ROWS_MAX
from node.http.server_connection import Request
from node.service.trading import Span
from node.views.limits import CURSOR_HEADER
from node.views.paging import Cursor, end_of_page, read_cursor

T = TypeVar("T")


async def whole_page(
    request: Request,
    cursor: object,
    span: Span,
    read: Callable[[Span], Awaitable[list[T]]],
    us_of: Callable[[T], int],
) -> list[T]:
    """Read a page, and set the cursor of the next one. `cursor`: the client's, None without one.

    Raises:
        BitfinexError: it is no cursor.
    """
    before = _cursor(cursor)
    if before is not None:
        span = span.behind(before.ms, before.rows)
    rows = await read(span)
    if len(rows) < span.limit:
        return rows
    end = end_of_page(rows, lambda row: us_of(row) // 1000, before)
    rest = msgspec.structs.replace(
        span, start=end.ms * 1000, end=end.ms * 1000 + 999, limit=ROWS_MAX, skip=end.rows
    )
    more = await read(rest)
    request.add_lines(f"{CURSOR_HEADER}: {Cursor(end.ms, end.rows + len(more))}\r\n")
    return [*rows, *more]


def _cursor(value: object) -> Cursor | None:
    if value is None:
        return None
    try:
        return read_cursor(value)
    except ValueError as error:
        raise bad("cursor", f"it {error}") from None
