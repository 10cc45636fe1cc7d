"""Commands to the order manager: new orders, amendments, and selections of orders."""

from __future__ import annotations

from typing import Literal

import msgspec

HOUSE = 0  # account of the node's operator; its balances may become negative
SUSPENSE = 2_000_000_000  # account of fills whose client is not known, after a recovery

TimeInForce = Literal["gtc", "ioc", "fok", "gtd"]
SelfTrade = Literal["none", "cancel_newest", "cancel_oldest", "cancel_both", "decrement"]
Kind = Literal["limit", "market", "stop", "stop_limit", "trailing_stop"]


class NewOrder(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """New order. Prices in ticks, quantities in lots, times in us since the epoch.

    `stop` makes it conditional: a trade of the market at `stop` or beyond (above for a buy, below for a
    sell) triggers it, and it enters the book, or trades at the market when `price` is None. With
    `trailing_offset` the stop follows the market at that distance. With `oco_stop` a second order of
    the same side and quantity is placed, a stop at that price; when one of the two trades or is
    triggered, the other is cancelled.
    """

    market: str
    side: int
    quantity: int
    price: int | None = None  # None: at the market
    account: int = HOUSE
    tif: TimeInForce = "gtc"
    expires: int | None = None  # good till date: with `tif` "gtd"
    post_only: bool = False
    hidden: bool = False
    display_quantity: int | None = None  # iceberg: lots displayed at a time
    reduce_only: bool = False
    stop: int | None = None
    trailing_offset: int | None = None
    oco_stop: int | None = None
    self_trade: SelfTrade | None = None  # None: "none" for the house, "cancel_newest" for others
    worst_price: int | None = None  # market orders; None: the market's protection
    client_id: str | None = None  # idempotent per account
    group: int = 0


class Amend(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Amendment of an open order; None: unchanged. A smaller quantity keeps the order's priority,
    another price or a greater quantity does not."""

    price: int | None = None
    quantity: int | None = None  # total, filled quantity included
    change: int | None = None  # of the quantity, instead of `quantity`
    stop: int | None = None
    trailing_offset: int | None = None
    display_quantity: int | None = None
    expires: int | None = None


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Selection of an account's open orders: those that match all given criteria."""

    account: int = HOUSE
    numbers: frozenset[int] | None = None
    client_ids: frozenset[str] | None = None
    groups: frozenset[int] | None = None
    market: str | None = None
    side: int | None = None
