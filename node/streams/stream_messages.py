"""Every message of the stream (/v1/stream), both ways; those about orders are in `order_messages`.

Messages of the node differ by `event`, messages of a client by `op`. Prices and quantities are
exact decimals as strings, times ISO 8601 in UTC. A message of a stream says its place in it: `sequence`,
and in `previous` that of the message before it for this reader. A message that is complete in itself, a
snapshot, has no previous. `epoch` names the life of the stream: numbers of two epochs have nothing to
do with each other. Messages are the same bytes for all readers at the same place.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from node.streams.node_messages import NODE_CHANNELS, NodeChannel, NodeMessage
from node.streams.order_messages import TradingAnswer, TradingMessage
from node.views.field_types import Decimal, SignedDecimal, Timestamp
from node.views.views import BalanceView, CandleView, FillView, OrderView, TradeView

MarketChannel = Literal["book", "trades", "ticker", "candles"]
AccountChannel = Literal["orders", "fills", "balances"]
Channel = Literal[MarketChannel, AccountChannel, NodeChannel, "halts"]
BookLevel = Literal["L1", "L2", "L3"]
Depth = Literal[25, 100, "full"]
Scope = Literal["network", "own"]
Reason = Literal["subscribed", "restarted", "too_old", "behind"]

MAX_CONFLATE_MS: Final = 60_000

# Fields of a subscription to each channel, beside those of all.
FIELDS: Final[dict[Channel, frozenset[str]]] = {
    "book": frozenset({"market", "level", "depth", "scope"}),
    "trades": frozenset({"market"}),
    "ticker": frozenset({"market"}),
    "candles": frozenset({"market", "timeframe"}),
    "orders": frozenset({"account"}),
    "fills": frozenset({"account"}),
    "balances": frozenset({"account"}),
    **{channel: frozenset() for channel in NODE_CHANNELS},
    "halts": frozenset(),
}
PRIVATE: Final[frozenset[Channel]] = frozenset({"orders", "fills", "balances"})
NODE: Final[frozenset[Channel]] = frozenset(NODE_CHANNELS)


# From the client


class Resume(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """The last message that was taken over."""

    epoch: str
    sequence: int


class Subscribe(
    msgspec.Struct,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag="subscribe",
    tag_field="op",
):
    """Send a stream. It is answered by `subscribed`, then comes a snapshot, or with `resume` what was
    missed since then where the node still has it."""

    channel: Channel
    market: str | UnsetType = UNSET  # book, trades, ticker, candles
    level: BookLevel | UnsetType = UNSET  # book: best prices, levels (the default) or orders
    depth: Depth | UnsetType = UNSET  # book: levels or orders a side; 25 when left out. Not of L1
    scope: Scope | UnsetType = UNSET  # book: all orders of the network, or those of this node
    timeframe: str | UnsetType = UNSET  # candles: 1m when left out
    # orders, fills, balances: for the operator, whose, by name or number; the caller's when left out
    account: str | UnsetType = UNSET
    conflate_ms: Annotated[int, Meta(ge=0, le=MAX_CONFLATE_MS)] = (
        0  # at most one message in so long
    )
    resume: Resume | None = None
    id: str | None = None  # comes back in the answer


class Unsubscribe(
    msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag="unsubscribe", tag_field="op"
):
    """Send nothing more of a stream. It is answered by `unsubscribed`."""

    stream: str
    id: str | None = None


class Auth(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag="auth", tag_field="op"):
    """From now on this connection is an account's. It is answered by `authenticated`. Where a header can
    be sent, `Authorization: Bearer KEY:SECRET` on the upgrade does the same."""

    key: str
    secret: str
    id: str | None = None

    def __repr__(self) -> str:  # without the secret: reprs end up in logs
        return f"Auth({self.key})"


class Ping(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag="ping", tag_field="op"):
    """Answered by a pong with the same id; for clients that cannot send WebSocket pings."""

    id: str | None = None


ClientMessage = Subscribe | Unsubscribe | Auth | Ping | TradingMessage


# Answers


class Subscribed(msgspec.Struct, kw_only=True, tag="subscribed", tag_field="event"):
    """Messages of `stream` follow: those that were missed when `resumed`, else a snapshot first."""

    stream: str
    resumed: bool
    id: str | None = None


class Unsubscribed(msgspec.Struct, kw_only=True, tag="unsubscribed", tag_field="event"):
    """No message of this stream follows."""

    stream: str
    id: str | None = None


class Authenticated(msgspec.Struct, kw_only=True, tag="authenticated", tag_field="event"):
    """The connection is this account's."""

    account: int | None
    id: str | None = None


class Pong(msgspec.Struct, kw_only=True, tag="pong", tag_field="event"):
    id: str | None = None


class StreamError(msgspec.Struct, kw_only=True, tag="error", tag_field="event"):
    """A message was refused, or with `stream` that subscription ended; the connection stays open."""

    code: str
    detail: str
    stream: str | None = None
    id: str | None = None


# Books


class Level(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A price level. Quantity "0" removes it."""

    price: Decimal
    quantity: Decimal
    orders: int


class RestingOrder(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A resting order. Quantity "0" removes it. Orders at one price sort by `time`, then node id, then number."""

    id: str  # <node id>-<number>
    price: Decimal
    quantity: Decimal
    time: Timestamp  # with microseconds
    own: bool  # of the node that sends it


class BookL1(msgspec.Struct, kw_only=True, tag="book_l1", tag_field="event"):
    """The best prices, complete in each message."""

    stream: str
    epoch: str
    sequence: int
    previous: int | None
    checksum: int
    time: Timestamp
    bid: Level | None
    ask: Level | None


class BookL2Snapshot(msgspec.Struct, kw_only=True, tag="book_l2_snapshot", tag_field="event"):
    """The levels of a book, best first."""

    stream: str
    reason: Reason
    epoch: str
    sequence: int
    checksum: int
    time: Timestamp
    bids: list[Level]
    asks: list[Level]


class BookL2(msgspec.Struct, kw_only=True, tag="book_l2", tag_field="event"):
    """Levels that changed, each as it is now."""

    stream: str
    epoch: str
    sequence: int
    previous: int
    checksum: int
    time: Timestamp
    bids: list[Level]
    asks: list[Level]


class BookL3Snapshot(msgspec.Struct, kw_only=True, tag="book_l3_snapshot", tag_field="event"):
    """The orders of a book, in priority order."""

    stream: str
    reason: Reason
    epoch: str
    sequence: int
    checksum: int
    time: Timestamp
    bids: list[RestingOrder]
    asks: list[RestingOrder]


class BookL3(msgspec.Struct, kw_only=True, tag="book_l3", tag_field="event"):
    """Orders that changed, each as it is now: quantity, and price and time when it lost its place."""

    stream: str
    epoch: str
    sequence: int
    previous: int
    checksum: int
    time: Timestamp
    bids: list[RestingOrder]
    asks: list[RestingOrder]


# Trades, tickers, candles


class TradesSnapshot(msgspec.Struct, kw_only=True, tag="trades_snapshot", tag_field="event"):
    """The newest trades, newest first."""

    stream: str
    reason: Reason
    epoch: str
    sequence: int
    trades: list[TradeView]


class Trades(msgspec.Struct, kw_only=True, tag="trades", tag_field="event"):
    """Trades, in the order they came to be known."""

    stream: str
    epoch: str
    sequence: int
    previous: int
    trades: list[TradeView]


class TickerView(msgspec.Struct, kw_only=True):
    """A market at a glance."""

    market: str
    bid: Decimal | None
    bid_quantity: Decimal
    ask: Decimal | None
    ask_quantity: Decimal
    last: Decimal | None  # price of the last trade
    change: SignedDecimal  # of the price in the last 24 hours
    high: Decimal | None  # of the last 24 hours, like those below
    low: Decimal | None
    volume: Decimal  # in the base asset
    time: Timestamp


class Ticker(msgspec.Struct, kw_only=True, tag="ticker", tag_field="event"):
    """A market's figures, complete in each message."""

    stream: str
    epoch: str
    sequence: int
    previous: int | None
    ticker: TickerView


class CandlesSnapshot(msgspec.Struct, kw_only=True, tag="candles_snapshot", tag_field="event"):
    """The newest candles, newest first. The first of them still changes."""

    stream: str
    reason: Reason
    epoch: str
    sequence: int
    candles: list[CandleView]


class Candles(msgspec.Struct, kw_only=True, tag="candles", tag_field="event"):
    """Candles that changed or began, each as it is now."""

    stream: str
    epoch: str
    sequence: int
    previous: int
    candles: list[CandleView]


# An account's


class OrdersSnapshot(msgspec.Struct, kw_only=True, tag="orders_snapshot", tag_field="event"):
    """The account's open orders, oldest first."""

    stream: str
    reason: Reason
    epoch: str
    sequence: int
    orders: list[OrderView]


class Orders(msgspec.Struct, kw_only=True, tag="orders", tag_field="event"):
    """Orders of the account that changed, each as it is now; those that ended too."""

    stream: str
    epoch: str
    sequence: int
    previous: int
    orders: list[OrderView]


class FillsSnapshot(msgspec.Struct, kw_only=True, tag="fills_snapshot", tag_field="event"):
    """The account's newest fills, newest first."""

    stream: str
    reason: Reason
    epoch: str
    sequence: int
    fills: list[FillView]


class Fills(msgspec.Struct, kw_only=True, tag="fills", tag_field="event"):
    """Fills of the account, oldest first."""

    stream: str
    epoch: str
    sequence: int
    previous: int
    fills: list[FillView]


class BalancesSnapshot(msgspec.Struct, kw_only=True, tag="balances_snapshot", tag_field="event"):
    """Balances of the account, by asset."""

    stream: str
    reason: Reason
    epoch: str
    sequence: int
    balances: list[BalanceView]


class Balances(msgspec.Struct, kw_only=True, tag="balances", tag_field="event"):
    """Balances that changed, each as it is now."""

    stream: str
    epoch: str
    sequence: int
    previous: int
    balances: list[BalanceView]


BookMessage = BookL1 | BookL2Snapshot | BookL2 | BookL3Snapshot | BookL3
MarketMessage = TradesSnapshot | Trades | Ticker | CandlesSnapshot | Candles
AccountMessage = (
    OrdersSnapshot | Orders | FillsSnapshot | Fills | BalancesSnapshot | Balances
)  # fmt: skip
StreamMessage = BookMessage | MarketMessage | AccountMessage | NodeMessage
Answer = Subscribed | Unsubscribed | Authenticated | Pong | StreamError | TradingAnswer
ServerMessage = StreamMessage | Answer
