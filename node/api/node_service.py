"""Interface of the node behind the API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from exchange.ledger.accounts import Accounts
from exchange.model.commands import HOUSE
from node.parts.annex import NodePart
from node.service.market_data import MarketData
from node.service.operator_service import OperatorService
from node.service.trading import Span, Trading
from node.streams.stream_registry import StreamRegistry
from node.views.account_views import CancelAfterView
from node.views.node_views import (
    CallRequest,
    CallView,
    DiagnosticsView,
    FeedView,
    PeerPolicyRequest,
    PeerPolicyView,
    PeerView,
    PingView,
    ReadyView,
    RouterView,
    ServiceView,
    StatusView,
    TopologyView,
)
from node.views.order_mapping import OrderMapping
from node.views.statement_views import ReconciliationView
from node.views.views import (
    AmendRequest,
    BookView,
    CandleView,
    FillView,
    MarketView,
    OrderRequest,
    OrderView,
    TradeView,
)
from p2p.services.service_server import Handler


class NodeService(Protocol):
    """Interface of a running node for its API. Every refusal is a `ServiceError`."""

    @property
    def node_id(self) -> str: ...

    @property
    def stream_registry(self) -> StreamRegistry:
        """Streams of books, trades, tickers, candles and accounts."""
        ...

    @property
    def market_data(self) -> MarketData:
        """Books, trades, candles and tickers in integers, and changes as they happen."""
        ...

    @property
    def trading(self) -> Trading:
        """Trading in integers, for any account."""
        ...

    @property
    def texts(self) -> OrderMapping:
        """Texts of the API to integers and back."""
        ...

    @property
    def operations(self) -> OperatorService:
        """Accounts, keys, money and halts: what is the operator's."""
        ...

    @property
    def parts(self) -> Sequence[NodePart]:
        """Parts that annexes add."""
        ...

    @property
    def accounts(self) -> Accounts:
        """Accounts and their keys."""
        ...

    def serve(self, name: str, handler: Handler, *, workers: int) -> None:
        """Offer a service to the network.

        Raises:
            ValueError: the name cannot be one, or is taken.
        """
        ...

    def withdraw(self, name: str) -> None:
        """Offer the service no longer."""
        ...

    async def reconcile(self, peer: str) -> ReconciliationView:
        """Compare the statements of this node and a peer about each other."""
        ...

    async def submit(
        self, request: OrderRequest, *, account: int = HOUSE, wait_for_takes: bool = False
    ) -> OrderView:
        """Place an order. Returns when it is durable on this node's disk; with `wait_for_takes` when
        other nodes have decided on what it takes from them too, or TAKE_ANSWER_WAIT is over."""
        ...

    async def amend(
        self,
        order_id: str,
        request: AmendRequest,
        *,
        account: int = HOUSE,
        wait_for_takes: bool = False,
    ) -> OrderView:
        """Amend an order. Returns as `submit` does."""
        ...

    async def cancel(self, order_id: str, *, account: int = HOUSE) -> OrderView:
        """`order_id` is the full id or the number alone. Returns when durable."""
        ...

    async def cancel_many(
        self,
        *,
        account: int = HOUSE,
        market: str | None = None,
        group: int | None = None,
        client_id: str | None = None,
    ) -> list[OrderView]:
        """Cancel the account's open orders that fit all that is given."""
        ...

    async def cancel_after(self, timeout_ms: int, *, account: int = HOUSE) -> CancelAfterView:
        """The dead man's switch: cancel all after so long, unless this is called again; 0 ends it."""
        ...

    def order(self, order_id: str, *, account: int = HOUSE) -> OrderView: ...

    def order_by_client_id(self, client_id: str, *, account: int = HOUSE) -> OrderView:
        """The latest one with this client id."""
        ...

    async def orders(
        self,
        *,
        account: int = HOUSE,
        market: str | None = None,
        open_only: bool = True,
        span: Span | None = None,
    ) -> list[OrderView]:
        """An account's orders by the time they were placed; without `span` the newest 100."""
        ...

    async def fills(
        self,
        *,
        account: int = HOUSE,
        market: str | None = None,
        order: str | None = None,
        span: Span | None = None,
    ) -> list[FillView]:
        """An account's fills; without `span` the newest 100."""
        ...

    async def trade_history(
        self,
        *,
        market: str | None = None,
        span: Span | None = None,
    ) -> list[TradeView]:
        """Public trades of the network seen by this node; without `span` the newest 100."""
        ...

    async def candles(
        self,
        market: str,
        timeframe: str,
        *,
        span: Span | None = None,
    ) -> list[CandleView]:
        """Candles that begin in a span; without it the newest 100."""
        ...

    def book(self, market: str, *, depth: int = 25, account: int | None = HOUSE) -> BookView:
        """`own`: quantities of the account's orders."""
        ...

    def markets(self) -> list[MarketView]: ...

    def peers(self) -> list[PeerView]: ...

    async def connect(self, address: str) -> PeerView:
        """Dial HOST:PORT now; returns the connected peer, or raises with the reason."""
        ...

    def peer_policy(self) -> PeerPolicyView:
        """Pinned and banned peers, and the node ids of a closed network."""
        ...

    def change_peer_policy(self, change: PeerPolicyRequest) -> PeerPolicyView:
        """Pin, unpin, ban or unban a peer; returns the policy after it."""
        ...

    async def ping(self, node_id: str) -> PingView:
        """A request to another node over the mesh. `node_id` may be any unambiguous prefix."""
        ...

    def status(self) -> StatusView: ...

    def ready(self) -> ReadyView:
        """Readiness of the node for orders, with reasons."""
        ...

    def diagnostics(self) -> DiagnosticsView: ...

    def feeds(self) -> list[FeedView]:
        """Feeds of the network, those that are behind first."""
        ...

    async def topology(self) -> TopologyView:
        """Links of this node, and of the neighbours that share theirs."""
        ...

    def services(self) -> list[ServiceView]:
        """Services offered in the network, sorted by name."""
        ...

    async def call_service(self, service: str, request: CallRequest) -> CallView:
        """Call a service at the node with the lowest expected cost. A refusal by the service has
        the code "service_refused"."""
        ...

    def routing(self, *, events: int = 50, kind: str | None = None) -> RouterView:
        """State of the adaptive router, with at most `events` of the latest events (of a kind)."""
        ...

    def metrics(self) -> bytes:
        """Figures in the Prometheus text format."""
        ...
