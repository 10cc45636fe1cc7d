"""Outcomes of orders in words."""

from __future__ import annotations

from node.cli.table_layout import Line
from node.cli.tables import is_terminal
from node.views.views import OrderView

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
    if view.status == "pending":
        parts.append(f"{view.pending} asked of other nodes, outcome not known yet")
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
