"""Interface of the node behind the API: its parts, each with what the API calls of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from exchange.ledger.accounts import Accounts
from node.parts.annex import NodePart
from node.service.market_data import MarketData
from node.service.market_service import MarketService
from node.service.operator_service import OperatorService
from node.service.order_service import OrderService
from node.service.peer_service import PeerService
from node.service.service_calls import ServiceCalls
from node.service.statement_service import StatementService
from node.service.trading import Trading
from node.streams.node_streams import NodeViews
from node.streams.stream_registry import StreamRegistry
from node.views.node_views import ReadyView
from node.views.order_mapping import OrderMapping


class Reports(NodeViews, Protocol):
    """Reports on the node, made when they are asked for."""

    def ready(self) -> ReadyView:
        """Readiness of the node for orders, with reasons."""
        ...

    def metrics(self) -> bytes:
        """Figures in the Prometheus text format."""
        ...


class NodeService(Protocol):
    """Parts of a running node. Every refusal is a `ServiceError`."""

    @property
    def node_id(self) -> str: ...

    @property
    def accounts(self) -> Accounts:
        """Accounts and their keys."""
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
    def market_data(self) -> MarketData:
        """Books, trades, candles and tickers in integers, and changes as they happen."""
        ...

    @property
    def stream_registry(self) -> StreamRegistry:
        """Streams of books, trades, tickers, candles and accounts."""
        ...

    @property
    def orders(self) -> OrderService: ...

    @property
    def markets(self) -> MarketService: ...

    @property
    def operations(self) -> OperatorService:
        """Accounts, keys, money and halts: what is the operator's."""
        ...

    @property
    def peering(self) -> PeerService: ...

    @property
    def service_calls(self) -> ServiceCalls: ...

    @property
    def statements(self) -> StatementService: ...

    @property
    def reports(self) -> Reports: ...

    @property
    def parts(self) -> Sequence[NodePart]:
        """Parts that annexes add."""
        ...
