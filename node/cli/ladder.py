"""The ladder: an order book as styled lines of text, asks above bids."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from decimal import Decimal
from types import EllipsisType
from typing import Final

from node.cli.table_layout import Line, align, clean, terminal_width
from node.cli.tables import clock
from node.views.views import BookView, LevelView

BAR: Final = 24  # characters of the longest bar, where there is room
_EIGHTHS: Final = " ▏▎▍▌▋▊▉"


def draws_blocks() -> bool:
    """Return True if stdout can show block characters."""
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower()
    return encoding.replace("-", "").startswith("utf") and os.environ.get("TERM") != "dumb"


def bar(part: Decimal, whole: Decimal, width: int, *, blocks: bool = True) -> str:
    """A bar of `part`/`whole` of `width` characters; anything above 0 is visible."""
    if whole <= 0 or part <= 0:
        return ""
    eighths = max(1, min(width * 8, int(part * width * 8 / whole)))
    if not blocks:
        return "#" * max(1, eighths // 8)
    return "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")


def spread_of(book: BookView) -> str:
    """The distance of best bid and best ask, in words."""
    if not book.bids or not book.asks:
        missing = " and ".join(n for n, s in (("bids", book.bids), ("asks", book.asks)) if not s)
        return f"no {missing}"
    bid, ask = Decimal(book.bids[0].price), Decimal(book.asks[0].price)
    if ask <= bid:
        return f"crossed by {bid - ask:f}: being settled between their owners"
    return f"spread {ask - bid:f} ({(ask - bid) / ((ask + bid) / 2) * 100:.3f} %)"


def ladder(
    book: BookView,
    *,
    depth: int | None = None,
    blocks: bool = True,
    width: int | EllipsisType | None = ...,
) -> list[Line]:
    """The book with asks above bids, best prices in the middle; own quantity is marked.

    `total` is what a market order could fill down to that level. `width`: characters in a line, None
    for any; by default those of the terminal. The bars get what the numbers leave of it.
    """
    most = terminal_width() if width is ... else width
    asks, bids = book.asks[:depth], book.bids[:depth]
    levels = [*reversed(asks), *bids]
    head: Line = [(clean(book.market), "bold")]
    head.append((f"  {clock(book.time)}  sequence {book.sequence}", "dim"))
    if not levels:
        return [head, [("", "")], [("the book is empty", "dim")]]
    totals = [*reversed(_running(asks)), *_running(bids)]
    prices = align(["price", *(level.price for level in levels)][1:])
    quantities = align([level.quantity for level in levels])
    sums = align([f"{total:f}" for total in totals])
    counts = [str(level.orders) for level in levels]
    widths = [
        max(len(title), *map(len, column))
        for title, column in (
            ("price", prices),
            ("quantity", quantities),
            ("total", sums),
            ("orders", counts),
        )
    ]
    biggest = max(Decimal(level.quantity) for level in levels)
    bar_width = BAR
    if most is not None:
        owned = [len(f" own {level.own}") for level in levels if Decimal(level.own) > 0]
        bar_width = max(
            1, min(BAR, most - sum(widths) - 2 * (len(widths) + 1) - max(owned, default=0))
        )

    lines: list[Line] = []
    for level, *texts in zip(levels, prices, quantities, sums, counts, strict=True):
        side = "sell" if len(lines) < len(asks) else "buy"
        price, quantity, total, count = (
            text.rjust(width) for text, width in zip(texts, widths, strict=True)
        )
        own = Decimal(level.own) > 0
        drawn = bar(Decimal(level.quantity), biggest, bar_width, blocks=blocks)
        line: Line = [("* " if own else "  ", "own"), (price, side), ("  ", ""), (quantity, "")]
        line += [("  ", ""), (total, "dim"), ("  ", ""), (count, "dim"), ("  ", "")]
        line.append((drawn, side))
        if own:
            line.append((" " * (bar_width - len(drawn)) + f" own {level.own}", "own"))
        lines.append(line)

    titles = "  ".join(
        title.rjust(width)
        for title, width in zip(("price", "quantity", "total", "orders"), widths, strict=True)
    )
    rule = "─" if blocks else "-"
    middle: Line = [("  ", ""), (f"{rule * 2} {spread_of(book)} ", "bold")]
    middle.append((rule * max(2, len(titles) - len(middle[1][0])), "bold"))
    lines.insert(len(asks), middle)
    return [head, [("", "")], [(f"  {titles}", "dim")], *lines]


def _running(levels: Sequence[LevelView]) -> list[Decimal]:
    totals, total = [], Decimal(0)
    for level in levels:
        total += Decimal(level.quantity)
        totals.append(total)
    return totals
