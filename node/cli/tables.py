"""Tables and ladders as styled lines of text: pure functions, so that what a user sees is tested.

A line is a list of (text, style) pieces. Styles are words that `to_ansi` and `to_rich` translate.
Nothing is ever cut off or wrapped: what is printed can be copied and piped.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import click

from node.views.views import (
    BookView,
    CandleView,
    FillView,
    LevelView,
    OrderView,
    PeerPolicyView,
    PeerView,
    TradeView,
)

if TYPE_CHECKING:
    from rich.text import Text

Piece = tuple[str, str]
Line = list[Piece]
Cell = str | Piece

# style -> (keywords of click.style, rich style)
STYLES: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "": ({}, ""),
    "bold": ({"bold": True}, "bold"),
    "dim": ({"dim": True}, "dim"),
    "buy": ({"fg": "green"}, "green"),
    "sell": ({"fg": "red"}, "red"),
    "own": ({"fg": "yellow", "bold": True}, "bold yellow"),
    "warn": ({"fg": "yellow"}, "yellow"),
}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. Numbers are aligned at the decimal point."""

    title: str
    number: bool = False


def clean(text: str) -> str:
    """`text` without control characters: what other nodes say must not steer the terminal."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def to_ansi(line: Line) -> str:
    """The line with terminal styles; `click.echo` drops them where they are not wanted."""
    return "".join(
        click.style(text, **STYLES[style][0]) if style else text for text, style in line
    ).rstrip(" ")


def to_rich(lines: Iterable[Line]) -> Text:
    """The lines for rich's live display."""
    from rich.text import Text

    text = Text(no_wrap=True, overflow="crop")
    for number, line in enumerate(lines):
        if number:
            text.append("\n")
        for piece, style in line:
            text.append(piece, STYLES[style][1])
    return text


def echo(lines: Iterable[Line]) -> None:
    """Prints styled lines on stdout."""
    for line in lines:
        click.echo(to_ansi(line))


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


def table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> list[Line]:
    """A table with a line of titles. A row may be shorter than the columns; it is not padded."""
    styles: list[list[str]] = []
    texts: list[list[str]] = []
    for row in rows:
        pieces = [cell if isinstance(cell, tuple) else (cell, "") for cell in row]
        texts.append([clean(text) for text, _ in pieces])
        styles.append([style for _, style in pieces])
    for index, column in enumerate(columns):
        if column.number:
            filled = [row for row in texts if len(row) > index]
            for row, text in zip(filled, align([row[index] for row in filled]), strict=True):
                row[index] = text
    full = [row for row in texts if len(row) > 1]  # a lone cell is a heading and may be long
    widths = [
        max([len(column.title), *(len(row[i]) for row in full if len(row) > i)])
        for i, column in enumerate(columns)
    ]

    def padded(texts: Sequence[str], styles: Sequence[str]) -> Line:
        line: Line = []
        for i, (text, style) in enumerate(zip(texts, styles, strict=True)):
            if columns[i].number:
                text = text.rjust(widths[i])
            elif i < len(columns) - 1:
                text = text.ljust(widths[i])
            line += [("  ", ""), (text, style)] if i else [(text, style)]
        return line

    head = padded([column.title for column in columns], ["bold"] * len(columns))
    return [head, *(padded(*row) for row in zip(texts, styles, strict=True))]


def short(node_id: str, full: bool) -> str:
    """A node id, on a terminal shortened to a beginning that other commands take."""
    return node_id if full else node_id[:10]


def is_terminal() -> bool:
    """Return True if stdout is a terminal, where ids may be shortened."""
    return sys.stdout.isatty()


def clock(time: str) -> str:
    """A time as people read it: 2026-01-02 03:04:05.678Z."""
    return time.replace("T", " ", 1)


# Lists ----------------------------------------------------------------------------------------


def order_table(orders: Sequence[OrderView], *, full: bool) -> list[Line]:
    """Own orders. `full` gives whole ids; the number alone is enough for `cancel`."""
    return table(
        [
            Column("order"),
            Column("market"),
            Column("side"),
            Column("quantity", number=True),
            Column("price", number=True),
            Column("filled", number=True),
            Column("pending", number=True),
            Column("status"),
            Column("created"),
        ],
        [
            [
                order.id if full else str(order.number),
                order.market,
                (order.side, order.side),
                order.quantity,
                order.price or "market",
                order.filled,
                order.pending,
                _order_status(order),
                clock(order.created),
            ]
            for order in orders
        ],
    )


def _order_status(order: OrderView) -> Piece:
    if order.status == "untriggered":
        # A trailing stop that has seen no trade yet is nowhere.
        return "untriggered" if order.stop is None else f"untriggered, stop {order.stop}", "bold"
    return order.status, "bold" if order.status in ("open", "pending") else "dim"


def fill_table(fills: Sequence[FillView], own: str | None, *, full: bool) -> list[Line]:
    """Own fills; a counterparty that is `own` is shown as us. With their fees, where there are any."""
    columns = [
        Column("time"),
        Column("market"),
        Column("side"),
        Column("quantity", number=True),
        Column("price", number=True),
        Column("role"),
        Column("order"),
        Column("with"),
    ]
    rows: list[list[Cell]] = [
        [
            clock(fill.time),
            fill.market,
            (fill.side, fill.side),
            fill.quantity,
            fill.price,
            fill.role,
            fill.order_id if full else fill.order_id.rpartition("-")[2],
            "ourselves"
            if not full and fill.counterparty == own
            else short(fill.counterparty, full),
        ]
        for fill in fills
    ]
    if any(fill.fee.strip("0.") for fill in fills):
        columns.append(Column("fee"))
        for row, fill, fee in zip(rows, fills, align([f.fee for f in fills]), strict=True):
            row.append(f"{fee} {fill.fee_asset}")
    return table(columns, rows)


def trade_table(trades: Sequence[TradeView], *, full: bool) -> list[Line]:
    """Public trades."""
    return table(
        [
            Column("time"),
            Column("market"),
            Column("taker"),
            Column("quantity", number=True),
            Column("price", number=True),
            Column("maker node"),
            Column("taker node"),
        ],
        [
            [
                clock(trade.time),
                trade.market,
                (trade.side, trade.side),
                trade.quantity,
                trade.price,
                short(trade.maker, full),
                short(trade.taker, full),
            ]
            for trade in trades
        ],
    )


def candle_table(candles: Sequence[CandleView]) -> list[Line]:
    """Candles in the order given, coloured by whether the price rose."""
    titles = ["begins (UTC)", "open", "high", "low", "close", "volume", "trades"]
    rows: list[list[Cell]] = []
    for candle in candles:
        rose = Decimal(candle.close) - Decimal(candle.open)
        style = "buy" if rose > 0 else "sell" if rose < 0 else ""
        rows.append(
            [
                candle.time[:16].replace("T", " "),
                *(candle.open, candle.high, candle.low),
                (candle.close, style),
                *(candle.volume, str(candle.trades)),
            ]
        )
    return table([Column(title, number=title != titles[0]) for title in titles], rows)


def peer_table(peers: Sequence[PeerView], *, full: bool) -> list[Line]:
    """Known peers, the connected ones first."""
    rows: list[list[Cell]] = []
    for peer in sorted(peers, key=lambda p: (p.status != "connected", p.address, p.port)):
        host = f"[{peer.address}]" if ":" in peer.address else peer.address
        link = {None: "", True: "tls", False: "plain"}[peer.encrypted]
        if peer.carrier == "grenache":
            link += " over grenache"
        rows.append(
            [
                short(peer.node_id, full) if peer.node_id else "?",
                f"{host}:{peer.port}",
                (peer.status, "bold" if peer.status == "connected" else "dim"),
                peer.direction or "",
                link,
                "" if peer.rtt_ms is None else f"{peer.rtt_ms:.1f}",
                peer.source,
                peer.privilege or "",
                f"banned until {peer.banned_until}" if peer.banned_until else peer.last_error or "",
            ]
        )
    titles = [
        "node",
        "address",
        "status",
        "way",
        "link",
        "rtt ms",
        "found by",
        "kept as",
        "last error",
    ]
    return table([Column(title, number=title == "rtt ms") for title in titles], rows)


def policy_table(policy: PeerPolicyView, *, full: bool) -> list[Line]:
    """Pins, bans and the node ids of a closed network."""
    rows: list[list[Cell]] = [["pinned", short(node, full), "", ""] for node in policy.pins]
    rows += [
        [
            "banned",
            ban.subject if "." in ban.subject else short(ban.subject, full),
            ban.until,
            ban.reason,
        ]
        for ban in policy.bans
    ]
    rows += [["allowed", short(node, full), "", "PEER_ALLOW"] for node in policy.allow]
    return table([Column(title) for title in ("rule", "subject", "until", "reason")], rows)


# The ladder -----------------------------------------------------------------------------------

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
    book: BookView, *, depth: int | None = None, bar_width: int = 24, blocks: bool = True
) -> list[Line]:
    """The book with asks above bids, best prices in the middle; own quantity is marked.

    `total` is what a market order could fill down to that level.
    """
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
