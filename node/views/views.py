"""Shapes of the API's answers.

Prices and quantities are exact decimals as strings; times are ISO 8601 in UTC with milliseconds.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, UnsetType

from exchange.model.commands import SelfTrade, TimeInForce
from node.views.field_types import (
    ClientId,
    Decimal,
    Group,
    MarketSymbol,
    Moment,
    PositiveDecimal,
    SignedDecimal,
    Timestamp,
)

Side = Literal["buy", "sell"]
Status = Literal["open", "pending", "untriggered", "filled", "cancelled"]
OrderType = Literal["limit", "market", "stop", "stop_limit", "trailing_stop"]


class ServiceError(Exception):
    """A refusal with a stable code, to be shown as problem details (RFC 9457).

    `status` is the HTTP status, `code` the stable word for programs, `detail` a sentence for people
    that says what was wrong, where, and what to do instead.
    """

    def __init__(self, status: int, code: str, detail: str, **extra: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.extra = extra


class OrderRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A new order. Without `price` it is a market order, or with `stop` or `trailing_offset` becomes one.

    Prices and quantities are decimal strings.
    """

    market: MarketSymbol
    side: Side
    quantity: PositiveDecimal
    price: PositiveDecimal | None = None
    client_id: ClientId | None = None  # makes the submission idempotent
    tif: TimeInForce = "gtc"  # ioc: what does not trade at once ends; fok: all at once or nothing
    expires: Moment | None = None  # good till date: ISO 8601, or milliseconds since 1970
    post_only: bool = False  # cancelled instead of trading at once
    hidden: bool = False  # matched, not displayed
    display_quantity: PositiveDecimal | None = None  # iceberg: so much on show at a time
    reduce_only: bool = False  # never more than the balance of what is sold
    stop: PositiveDecimal | None = None  # waits until the market has traded there or beyond
    trailing_offset: PositiveDecimal | None = None  # the stop follows the market at this distance
    oco_stop: PositiveDecimal | None = (
        None  # a second order, a stop at this price: one cancels the other
    )
    self_trade: SelfTrade | None = None  # when it would trade with an order of the same account
    worst_price: PositiveDecimal | None = None  # of a market order: the worst price it may trade at
    group: Group = 0  # for cancelling together


class AmendRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Changes to an open order; what is left out stays as it is.

    A smaller quantity keeps the order's place in the book, a greater one or another price does not.
    """

    MIN_PROPERTIES: ClassVar[int] = 1

    price: PositiveDecimal | UnsetType = UNSET
    quantity: PositiveDecimal | UnsetType = UNSET  # in all, what is filled included
    stop: PositiveDecimal | UnsetType = UNSET
    trailing_offset: PositiveDecimal | UnsetType = UNSET
    display_quantity: PositiveDecimal | UnsetType = UNSET
    expires: Moment | UnsetType = UNSET


class OrderView(msgspec.Struct, kw_only=True):
    id: str  # <node id>-<number>
    number: int
    market: str
    side: Side
    type: OrderType
    price: Decimal | None
    quantity: Decimal
    filled: Decimal
    remaining: Decimal  # neither filled nor pending nor cancelled
    pending: Decimal  # in takes from other owners, outcome not known yet
    status: Status
    average_price: Decimal | None
    created: Timestamp
    client_id: str | None = None
    # Why it ended: filled, cancelled, ioc, fok, post_only, expired, oco, ... Of an open one "credit": it
    # is not filled for what another node may come to owe, here or there.
    reason: str = ""
    account: int = 0  # 0 is the house
    tif: TimeInForce = "gtc"
    expires: str | None = None
    post_only: bool = False
    hidden: bool = False
    display_quantity: Decimal | None = None
    reduce_only: bool = False
    stop: Decimal | None = None
    trailing_offset: Decimal | None = None
    # The other order of a pair: a trade of one cancels the other.
    linked_order_id: str | None = None
    group: int = 0
    updated: Timestamp | None = None  # its last change
    # When what is pending is decided at the latest, if the other owners stay connected; null if nothing bounds it.
    pending_until: Timestamp | None = None


class FillView(msgspec.Struct, kw_only=True):
    """An own fill: this node's side of a trade."""

    id: str  # <taker node id>:<number>, the same on both sides
    market: str
    order_id: str
    role: Literal["maker", "taker"]
    side: Side
    price: Decimal
    quantity: Decimal
    time: Timestamp
    counterparty: str  # node id; our own for a trade between two of our orders
    counterparty_order_id: str
    account: int = 0
    fee: SignedDecimal = "0"  # what the account paid of what it received
    fee_asset: str = ""


class BalanceView(msgspec.Struct, kw_only=True):
    """Balance of an account in an asset."""

    asset: str
    total: SignedDecimal
    held: Decimal  # for open orders
    available: SignedDecimal


class TradeView(msgspec.Struct, kw_only=True):
    """A public trade, as printed in its maker's feed."""

    id: str
    market: str
    side: Side  # the taker's
    price: Decimal
    quantity: Decimal
    time: Timestamp
    maker: str  # node id
    taker: str


class CandleView(msgspec.Struct, kw_only=True):
    """Candle of the trades from `time` on, for its length."""

    time: Timestamp
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal  # in the base asset
    trades: int


class LevelView(msgspec.Struct, kw_only=True):
    price: Decimal
    quantity: Decimal
    orders: int
    own: Decimal  # part of `quantity` that is ours


class BookView(msgspec.Struct, kw_only=True):
    market: str
    sequence: int  # grows with every change of this node's view
    digest: str  # equal on nodes whose books are equal
    bids: list[LevelView]  # best first
    asks: list[LevelView]
    time: Timestamp


class MarketView(msgspec.Struct, kw_only=True):
    symbol: str
    base: str
    quote: str
    tick: Decimal
    lot: Decimal
    bid: Decimal | None
    bid_quantity: Decimal  # on show at the best price
    ask: Decimal | None
    ask_quantity: Decimal
    last: Decimal | None  # price of the last trade
    change: SignedDecimal  # of the price in the last 24 hours
    high: Decimal | None  # of the last 24 hours, like those below
    low: Decimal | None
    volume: Decimal  # in the base asset
    # This node's rules for orders that are placed with it; None: no such rule.
    min_quantity: str | None = None
    max_quantity: str | None = None
    min_notional: str | None = None  # price times quantity, in the quote asset
    max_notional: str | None = None
    price_band: str | None = None  # how far from the reference price a price may be: fraction
    protection: str = "0.05"  # how far from the best price a market order may trade: fraction
