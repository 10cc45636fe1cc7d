"""What a node shows of itself: the shapes of the API's answers, and the service behind them.

Prices and quantities are exact decimals as strings; times are ISO 8601 in UTC with milliseconds.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Literal, Protocol

import msgspec

Side = Literal["buy", "sell"]
Status = Literal["open", "pending", "filled", "cancelled"]


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
    """A new order. Without `price` it is a market order."""

    market: str
    side: Side
    quantity: str
    price: str | None = None
    client_id: str | None = None  # makes the submission idempotent


class OrderView(msgspec.Struct, kw_only=True):
    id: str  # <node id>-<number>
    number: int
    market: str
    side: Side
    type: Literal["limit", "market"]
    price: str | None
    quantity: str
    filled: str
    remaining: str  # neither filled nor pending nor cancelled
    pending: str  # asked of other owners, outcome not known yet
    status: Status
    average_price: str | None
    created: str
    client_id: str | None = None


class FillView(msgspec.Struct, kw_only=True):
    """One own fill: our side of a trade."""

    id: str  # <taker node id>:<number>, the same on both sides
    market: str
    order_id: str
    role: Literal["maker", "taker"]
    side: Side
    price: str
    quantity: str
    time: str
    counterparty: str  # node id; our own for a trade between two of our orders
    counterparty_order_id: str


class TradeView(msgspec.Struct, kw_only=True):
    """One public trade, as printed in its maker's feed."""

    id: str
    market: str
    side: Side  # the taker's
    price: str
    quantity: str
    time: str
    maker: str  # node id
    taker: str


class LevelView(msgspec.Struct, kw_only=True):
    price: str
    quantity: str
    orders: int
    own: str  # part of `quantity` that is ours


class BookView(msgspec.Struct, kw_only=True):
    market: str
    sequence: int  # grows with every change of this node's view
    digest: str  # equal on nodes whose books are equal
    bids: list[LevelView]  # best first
    asks: list[LevelView]
    time: str


class MarketView(msgspec.Struct, kw_only=True):
    symbol: str
    base: str
    quote: str
    tick: str
    lot: str
    bid: str | None
    ask: str | None
    last: str | None


class PeerView(msgspec.Struct, kw_only=True):
    node_id: str | None  # not known before the first handshake
    address: str
    port: int
    status: Literal["connected", "connecting", "disconnected"]
    direction: Literal["in", "out"] | None
    source: str  # the discovery strategy that found it: persisted, bootstrap, mdns, exchange, inbound, manual
    encrypted: bool | None
    version: str | None
    capabilities: list[str]
    last_seen: str | None
    last_heartbeat: str | None
    rtt_ms: float | None
    failures: int  # dials that failed in a row
    last_error: str | None
    messages_received: int
    messages_sent: int
    bytes_received: int
    bytes_sent: int


class DiscoveryView(msgspec.Struct, kw_only=True):
    name: str
    state: Literal["on", "off", "failed"]
    detail: str
    found: int


class StatusView(msgspec.Struct, kw_only=True):
    node_id: str
    version: str
    network: str
    security: str  # "tls" or "off"
    uptime_s: float
    data_dir: str
    p2p_address: str  # host:port
    api_url: str
    discovery: list[DiscoveryView]
    peers_connected: int
    peers_known: int
    nodes_present: int  # owners whose presence lease runs, this node included
    markets: list[str]
    open_orders: int
    pending_takes: int
    feeds: int
    feeds_behind: int  # feeds of which a newer number is known than is held
    warnings: list[str]


class PingView(msgspec.Struct, kw_only=True):
    node_id: str
    way: Literal["direct", "relayed"]
    rtt_ms: float
    version: str


class LevelChange(msgspec.Struct, kw_only=True, tag="book", tag_field="event"):
    """A level of a book changed; quantity "0" means that it is gone."""

    market: str
    sequence: int
    side: Side
    price: str
    quantity: str
    orders: int


class TradeEvent(msgspec.Struct, kw_only=True, tag="trade", tag_field="event"):
    market: str
    trade: TradeView


class OrderEvent(msgspec.Struct, kw_only=True, tag="order", tag_field="event"):
    """One of our own orders changed."""

    market: str
    order: OrderView


class BookReset(msgspec.Struct, kw_only=True, tag="snapshot", tag_field="event"):
    """First event of a subscription, and again after the reader fell behind: the whole book."""

    market: str
    book: BookView


StreamEvent = LevelChange | TradeEvent | OrderEvent | BookReset


class NodeService(Protocol):
    """What a running node offers to its API. Every refusal is a `ServiceError`."""

    @property
    def node_id(self) -> str: ...

    async def submit(self, request: OrderRequest) -> OrderView:
        """Returns when the order is durable on this node's disk."""
        ...

    async def cancel(self, order_id: str) -> OrderView:
        """`order_id` is the full id or the number alone. Returns when durable."""
        ...

    def order(self, order_id: str) -> OrderView: ...

    def orders(
        self, *, market: str | None = None, open_only: bool = True, limit: int = 100
    ) -> list[OrderView]:
        """Own orders, newest first."""
        ...

    def fills(self, *, market: str | None = None, limit: int = 100) -> list[FillView]:
        """Own fills, newest first."""
        ...

    def trades(self, *, market: str | None = None, limit: int = 100) -> list[TradeView]:
        """Public trades of the network seen by this node, newest first."""
        ...

    def book(self, market: str, *, depth: int = 25) -> BookView: ...

    def markets(self) -> list[MarketView]: ...

    def peers(self) -> list[PeerView]: ...

    async def connect(self, address: str) -> PeerView:
        """Dial HOST:PORT now; returns the connected peer, or raises with the reason."""
        ...

    async def ping(self, node_id: str) -> PingView:
        """A request to another node over the mesh. `node_id` may be any unambiguous prefix."""
        ...

    def status(self) -> StatusView: ...

    def subscribe(self, market: str) -> AsyncIterator[StreamEvent]:
        """Snapshot first, then every change. A reader that falls behind gets a new snapshot."""
        ...
