"""The services of every node: reading its public data, for nodes and programs that ask over the mesh.

book      {"market": "BTC-USD", "depth": 25}   a snapshot of the order book
trades    {"market": "BTC-USD", "limit": 100}  the public tape, newest first; market may be left out
markets   nothing                              markets with tick, lot and best prices
status    nothing                              who this node is and how it is
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, TypeVar

import msgspec

from node.service.market_service import MarketService
from node.views.node_views import StatusView
from node.views.views import BookView, ServiceError, TradeView
from p2p.base.errors import HandlerError

T = TypeVar("T")

OFFERS: Final = ("book", "markets", "status", "trades")
MAX_DEPTH: Final = 1000
MAX_LIMIT: Final = 1000
Handler = Callable[[Any], Awaitable[Any]]


class BookQuery(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    market: str
    depth: int = 25


class TradesQuery(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    market: str | None = None
    limit: int = 100


class PublicStatus(msgspec.Struct, kw_only=True):
    """Public status of a node: nothing about its machine, its clients or their orders."""

    node_id: str
    version: str
    network: str
    uptime_s: float
    markets: list[str]
    services: list[str]
    peers_connected: int
    nodes_present: int
    feeds: int
    feeds_behind: int


class StatusReport(Protocol):
    def status(self) -> StatusView: ...


def _query(payload: Any, kind: type[T]) -> T:
    try:
        return msgspec.convert({} if payload is None else payload, kind)
    except msgspec.ValidationError as error:
        raise HandlerError("bad_request", str(error)) from None


def _bounded(name: str, value: int, most: int) -> int:
    if not 1 <= value <= most:
        raise HandlerError("bad_request", f"{name} is from 1 to {most}")
    return value


def public_offers(markets: MarketService, reports: StatusReport) -> dict[str, Handler]:
    """The handlers by service name."""

    def told(work: Callable[[Any], Any]) -> Handler:
        async def handler(payload: Any) -> Any:
            try:
                return work(payload)
            except ServiceError as error:
                raise HandlerError(error.code, error.detail) from None

        return handler

    def book(payload: Any) -> BookView:
        query = _query(payload, BookQuery)
        found = markets.book(query.market, depth=_bounded("depth", query.depth, MAX_DEPTH))
        for level in (*found.bids, *found.asks):
            level.own = "0"  # which part of it is this node's is its own affair
        return found

    def trades(payload: Any) -> list[TradeView]:
        query = _query(payload, TradesQuery)
        limit = _bounded("limit", query.limit, MAX_LIMIT)
        return markets.tape(market=query.market, limit=limit)

    def status(payload: Any) -> PublicStatus:
        view = reports.status()
        return PublicStatus(
            **{name: getattr(view, name) for name in PublicStatus.__struct_fields__}
        )

    return {
        "book": told(book),
        "markets": told(lambda payload: markets.views()),
        "status": told(status),
        "trades": told(trades),
    }
