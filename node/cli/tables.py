"""Lists of orders, fills, trades, candles and peers as styled lines of text.

Styles are words that `to_ansi` and `to_rich` translate. Where stdout is no terminal, nothing is
shortened or wrapped: what is printed can be copied and piped.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import click

from node.cli.table_layout import Cell, Column, Line, Piece, align, table
from node.views.node_views import PeerPolicyView, PeerView
from node.views.views import CandleView, FillView, OrderView, TradeView

if TYPE_CHECKING:
    from rich.text import Text

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


def short(node_id: str, full: bool) -> str:
    """A node id, on a terminal shortened to a beginning that other commands take."""
    return node_id if full else node_id[:10]


def is_terminal() -> bool:
    """Return True if stdout is a terminal, where ids may be shortened."""
    return sys.stdout.isatty()


def clock(time: str, *, today: str | None = None) -> str:
    """A time as people read it: 2026-01-02 03:04:05.678Z. Without the date if that is `today`; by
    default the date in UTC, where stdout is a terminal."""
    if today is None:
        today = datetime.now(UTC).date().isoformat() if is_terminal() else ""
    date, _, rest = time.partition("T")
    return rest if date == today and rest else time.replace("T", " ", 1)


# Lists ----------------------------------------------------------------------------------------


def order_table(
    orders: Sequence[OrderView], *, full: bool, nodes: Sequence[str] | None = None
) -> list[Line]:
    """Own orders. `full` gives whole ids and all columns; the number alone is enough for `cancel`. `nodes`: names of
    the nodes that have them.
    """
    columns = [
        Column("order"),
        Column("market"),
        Column("side"),
        Column("quantity", number=True),
        Column("price", number=True),
        Column("filled", number=True),
        Column("pending", number=True, rank=2),
        Column("status"),
        Column("created", rank=1),
    ]
    rows: list[list[Cell]] = [
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
    ]
    _put_nodes(columns, rows, nodes)
    if not full and not any(order.pending.strip("0.") for order in orders):
        kept = [i for i, column in enumerate(columns) if column.title != "pending"]
        return table([columns[i] for i in kept], [[row[i] for i in kept] for row in rows])
    return table(columns, rows)


def _order_status(order: OrderView) -> Piece:
    if order.status == "untriggered":
        # A trailing stop that has seen no trade yet is nowhere.
        return "untriggered" if order.stop is None else f"untriggered, stop {order.stop}", "bold"
    return order.status, "bold" if order.status in ("open", "pending") else "dim"


def _put_nodes(columns: list[Column], rows: list[list[Cell]], nodes: Sequence[str] | None) -> None:
    """Put a first column with the name of each row's node."""
    if nodes is not None:
        columns.insert(0, Column("node"))
        for row, name in zip(rows, nodes, strict=True):
            row.insert(0, (name, "bold"))


def fill_table(
    fills: Sequence[FillView],
    own: Mapping[str, str],
    *,
    full: bool,
    nodes: Sequence[str] | None = None,
) -> list[Line]:
    """Own fills; a counterparty in `own` is shown by its name there. With their fees, where there are any. `nodes`: names
    of the nodes that have them.
    """
    columns = [
        Column("time"),
        Column("market"),
        Column("side"),
        Column("quantity", number=True),
        Column("price", number=True),
        Column("role", rank=1),
        Column("order"),
        Column("with", rank=2),
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
            own.get(fill.counterparty) or short(fill.counterparty, full),
        ]
        for fill in fills
    ]
    _put_nodes(columns, rows, nodes)
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
            Column("maker node", rank=1),
            Column("taker node", rank=2),
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


RELAYED = {None: "", True: ", end to end encrypted", False: ", clear"}


def peer_table(peers: Sequence[PeerView], *, full: bool) -> list[Line]:
    """Known peers, the connected ones first."""
    rows: list[list[Cell]] = []
    for peer in sorted(peers, key=lambda p: (p.status != "connected", p.address, p.port)):
        host = f"[{peer.address}]" if ":" in peer.address else peer.address
        link = {None: "", True: "tls", False: "plain"}[peer.encrypted]
        if peer.carrier == "grenache":
            link += " over grenache"
        elif peer.path in ("mapped", "punched"):
            link += f", {peer.path}"
        elif peer.reachable is False and peer.status == "connected":
            link += ", not reachable" if peer.nat == "none" else ", behind a NAT"
        if peer.relayed_pairs:
            pairs = "1 pair" if peer.relayed_pairs == 1 else f"{peer.relayed_pairs} pairs"
            link += f", {pairs} relayed"
        if peer.path == "relayed" and peer.via is not None:
            link = f"relayed by {short(peer.via, full)}{RELAYED[peer.encrypted]}"
        rows.append(
            [
                short(peer.node_id, full) if peer.node_id else "?",
                f"{host}:{peer.port}" if peer.port else host,
                (peer.status, "bold" if peer.status == "connected" else "dim"),
                peer.direction or "",
                link,
                "" if peer.rtt_ms is None else f"{peer.rtt_ms:.1f}",
                peer.source,
                peer.privilege or "",
                _standing(peer, full=full),
                _fault(peer),
            ]
        )
    columns = [
        Column("node"),
        Column("address"),
        Column("status"),
        Column("way", rank=3),
        Column("link", rank=1),
        Column("rtt ms", number=True),
        Column("found by", rank=2),
        Column("kept as", rank=4),
        Column("reputation", rank=5),
        Column("last error"),
    ]
    kept = [i for i in range(10) if i < 7 or full or any(row[i] for row in rows)]
    return table([columns[i] for i in kept], [[row[i] for i in kept] for row in rows])


def _standing(peer: PeerView, *, full: bool) -> Cell:
    """The reputation of a peer, in full with its reasons; nothing for an ordinary one."""
    if peer.reputation in (None, "ordinary"):
        return ""
    reasons = "; ".join(peer.reputation_reasons) if full else ""
    text = f"{peer.reputation}: {reasons}" if reasons else str(peer.reputation)
    return (text, "sell") if peer.reputation == "abusive" else text


def _fault(peer: PeerView) -> str:
    if peer.banned_until:
        return f"banned until {peer.banned_until}"
    return f"relay: {peer.relay_refusal}" if peer.relay_refusal else peer.last_error or ""


def policy_table(policy: PeerPolicyView, *, full: bool) -> list[Line]:
    """Pins, bans and the node ids of a closed network."""
    rows: list[list[Cell]] = [["pinned", short(node, full), "", ""] for node in policy.pins]
    rows += [
        [
            "banned",
            short(ban.subject, full) if ban.subject.isalnum() else ban.subject,
            ban.until,
            ban.reason,
        ]
        for ban in policy.bans
    ]
    rows += [["allowed", short(node, full), "", "PEER_ALLOW"] for node in policy.allow]
    return table([Column(title) for title in ("rule", "subject", "until", "reason")], rows)


# Outcomes of orders


def _decided_by(view: OrderView) -> str:
    if view.pending_until is None:
        return "outcome not known yet"
    return f"decided by {view.pending_until[11:19]} UTC if they stay connected"


WORKING = ("open", "pending", "untriggered")  # orders that can still trade

# Reasons of an order's end that its status does not show.
_REASONS = {
    "ioc": "the quantity not filled at once is cancelled (ioc)",
    "fok": "not all of it could be traded at once (fok)",
    "no_liquidity": "the book had nothing more for it",
    "post_only": "it would have traded at once (post-only)",
    "self_trade": "it would have traded with an order of the same account",
    "expired": "its time is over",
    "oco": "the other order of the pair traded",
    "reduce_only": "nothing is left to reduce",
    "insufficient_balance": "the balance did not suffice any more",
    "halted": "the market was halted",
    "dead_man": "its account had fallen silent",
    "recovered": "it was unaccounted for after a recovery",
    "frozen": "its account was frozen",
    "credit": "a node would have come to owe more than its credit limit",
}


def describe_order(view: OrderView) -> list[Line]:
    """Describe the outcome of an order in one or two lines."""
    price = f"@ {view.price}" if view.price is not None else "at market"
    if view.trailing_offset is not None:
        price += f", trailing by {view.trailing_offset}"
    elif view.stop is not None:
        price += f", stop {view.stop}"
    name = view.number if is_terminal() else view.id
    lines: list[Line] = [
        [
            (f"order {name}: ", ""),
            (view.side, view.side),
            (f" {view.quantity} {view.market} {price}: ", ""),
            (view.status, "bold"),
        ]
    ]
    parts = []
    if view.average_price is not None:
        parts.append(f"filled {view.filled} at {view.average_price} on average")
    if view.pending.strip("0."):
        parts.append(f"{view.pending} asked of other nodes, {_decided_by(view)}")
    if view.status == "untriggered" and view.stop is None:
        parts.append("waits for the market's first trade, which it then follows")
    elif view.status == "untriggered":
        way = "rises to" if view.side == "buy" else "falls to"
        parts.append(f"waits until the market {way} {view.stop}")
    at_once = view.price is None or view.tif in ("ioc", "fok")
    if view.status in ("open", "pending") and not at_once and view.remaining.strip("0."):
        parts.append(f"{view.remaining} rests in the book" + (", hidden" if view.hidden else ""))
    if view.status == "cancelled":
        parts.append("the rest is cancelled" if view.average_price else "nothing was filled")
    why = _REASONS.get(view.reason)
    if why and (view.status == "cancelled" or view.reason == "credit"):
        parts.append(why)
    # When a part of it traded, the other one is cancelled.
    waits = view.status in WORKING and view.average_price is None
    if view.linked_order_id is not None and waits:
        linked = view.linked_order_id.rpartition("-")[2] if is_terminal() else view.linked_order_id
        parts.append(f"paired with order {linked}: one cancels the other")
    if parts:
        lines.append([("  " + ", ".join(parts), "")])
    return lines
