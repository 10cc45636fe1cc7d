"""Operations on market data, the network and services, and the table of all operations."""

from __future__ import annotations

from typing import Annotated, Final, Literal, get_args

from msgspec import Meta

from exchange.market.candles import TIMEFRAMES
from node.operations.operation import Operation, Params
from node.operations.parameters import InMarket, MarketName, OnlyMarket, PageParams, SpanParams
from node.views.limits import DEFAULT_DEPTH, DEFAULT_EVENTS, MAX_DEPTH, MAX_LIMIT
from node.views.node_views import (
    CallRequest,
    CallView,
    ConnectRequest,
    DiagnosticsView,
    FeedView,
    HealthView,
    PeerPolicyRequest,
    PeerPolicyView,
    PeerView,
    PingView,
    ReadyView,
    RouterView,
    ServiceView,
    SessionView,
    StatusView,
    TopologyView,
)
from node.views.views import BookView, CandleView, MarketView, TradeView

EventKind = Literal["pick", "breaker", "hint", "panic", "rate"]


class TradeList(Params, frozen=True, kw_only=True):
    market: OnlyMarket = None
    page: PageParams = PageParams()


class CandleList(Params, frozen=True, kw_only=True):
    market: MarketName
    timeframe: Annotated[
        str,
        Meta(
            description="The length of a candle.",
            extra={"schema": {"enum": list(TIMEFRAMES)}, "read": str},
        ),
    ] = "1m"
    span: SpanParams = SpanParams()


class BookParams(InMarket, frozen=True, kw_only=True):
    depth: Annotated[
        int, Meta(ge=1, le=MAX_DEPTH, description="Price levels a side, best first.")
    ] = DEFAULT_DEPTH


class OneNode(Params, frozen=True):
    node: Annotated[str, Meta(description="A node id, or an unambiguous beginning of one.")]


class OneService(Params, frozen=True):
    service: Annotated[str, Meta(description="The service's name.", examples=["job_service"])]


class RouterParams(Params, frozen=True, kw_only=True):
    events: Annotated[
        int, Meta(ge=1, le=MAX_LIMIT, description="Maximum number of events, the newest.")
    ] = DEFAULT_EVENTS
    kind: (
        Annotated[
            EventKind,
            Meta(
                description="Only events of this kind.",
                extra={"schema": {"enum": list(get_args(EventKind))}},
            ),
        ]
        | None
    ) = None


LIST_TRADES: Final = Operation(
    "GET /v1/trades",
    "listTrades",
    "market data",
    "Public trades of the network seen by this node",
    list[TradeView],
    "Trades of other nodes may come to be known late; they are listed by their own time.",
    params=TradeList,
    problems=(404,),
    access="public",
)
LIST_CANDLES: Final = Operation(
    "GET /v1/candles/{market}",
    "listCandles",
    "market data",
    "Candles of a market",
    list[CandleView],
    "From all trades of the network that this node has seen. There is no candle where nothing "
    "was traded. `time` is when a candle begins, in UTC: 7D and 14D count from 1970-01-01, a "
    "Thursday; 1W begins on Mondays; 1M is a calendar month. A trade that comes to be known "
    "late amends the candle of its own time.",
    params=CandleList,
    problems=(404,),
    access="public",
)
GET_BOOK: Final = Operation(
    "GET /v1/book/{market}",
    "getBook",
    "market data",
    "The order book of a market",
    BookView,
    "The whole network's orders as this node knows them.",
    params=BookParams,
    problems=(404,),
    access="public",
)
LIST_MARKETS: Final = Operation(
    "GET /v1/markets",
    "listMarkets",
    "market data",
    "Markets with tick, lot, best prices and figures of the last 24 hours",
    list[MarketView],
    access="public",
)
LIST_PEERS: Final = Operation(
    "GET /v1/peers",
    "listPeers",
    "network",
    "Known and connected peers",
    list[PeerView],
    access="node",
)
CONNECT_PEER: Final = Operation(
    "POST /v1/peers",
    "connectPeer",
    "network",
    "Dial an address now",
    PeerView,
    "Answers with the connected peer, or with the reason why it could not be connected.",
    body=ConnectRequest,
    problems=(408, 409, 413, 415, 422, 502, 503, 504),
)
GET_PEER_POLICY: Final = Operation(
    "GET /v1/peers/policy",
    "getPeerPolicy",
    "network",
    "Pinned and banned peers",
    PeerPolicyView,
    access="node",
)
CHANGE_PEER_POLICY: Final = Operation(
    "POST /v1/peers/policy",
    "changePeerPolicy",
    "network",
    "Pin, unpin, ban or unban a peer",
    PeerPolicyView,
    "A pin exempts a node from slots and rates, never from proofs and sizes. A ban names a node, an IP "
    "address or a network, closes its links, and ends by itself after `seconds`.",
    body=PeerPolicyRequest,
    problems=(404, 413, 415, 422, 503),
)
PING_NODE: Final = Operation(
    "POST /v1/peers/{node}/ping",
    "pingNode",
    "network",
    "A request to another node and back",
    PingView,
    "Directly or relayed over the mesh; takes no body.",
    params=OneNode,
    problems=(404, 409, 422, 502, 503, 504),
)
LIST_SERVICES: Final = Operation(
    "GET /v1/services",
    "listServices",
    "services",
    "Services that nodes of the network offer",
    list[ServiceView],
    access="node",
)
CALL_SERVICE: Final = Operation(
    "POST /v1/services/{service}/call",
    "callService",
    "services",
    "Call a service",
    CallView,
    "Asks the node that is expected to answer soonest, and another one when that is safe: the "
    "request was not executed, or is `idempotent`. Answers with the service's result; what the "
    "service itself refuses has code `service_refused` and the service's own code in "
    "`service_code`.",
    body=CallRequest,
    params=OneService,
    problems=(404, 408, 413, 415, 422, 502, 503, 504),
)
GET_ROUTER: Final = Operation(
    "GET /v1/router",
    "getRouter",
    "services",
    "How nodes are chosen: costs, breakers, hints and the latest events",
    RouterView,
    params=RouterParams,
    access="node",
)
GET_STATUS: Final = Operation(
    "GET /v1/status", "getStatus", "node", "How the node is", StatusView, access="node"
)
GET_SESSION: Final = Operation(
    "GET /v1/session",
    "getSession",
    "node",
    "Account and permissions of the caller",
    SessionView,
    "For programs and pages that offer only what a key allows.",
    access="public",
)
GET_DIAGNOSTICS: Final = Operation(
    "GET /v1/diagnostics",
    "getDiagnostics",
    "node",
    "Commit latency, loop lag, memory, disk and archive lag",
    DiagnosticsView,
    access="node",
)
GET_TOPOLOGY: Final = Operation(
    "GET /v1/topology",
    "getTopology",
    "network",
    "Links of this node and of its neighbours",
    TopologyView,
    "Neighbours are asked, and may decline (P2P_SHARE_LINKS=false). Answers are used again for "
    "some seconds.",
    access="node",
)
LIST_FEEDS: Final = Operation(
    "GET /v1/feeds",
    "listFeeds",
    "network",
    "Feeds of the network and how far behind this node is",
    list[FeedView],
    "A feed is the numbered list of a node's events in one market. Those behind come first.",
    access="node",
)
GET_HEALTH: Final = Operation(
    "GET /v1/health", "getHealth", "node", "Liveness of the node", HealthView, access="public"
)
GET_READY: Final = Operation(
    "GET /v1/ready",
    "getReady",
    "node",
    "Whether the node can take orders",
    ReadyView,
    "200 if every check is ok. 503 `not_ready` if not, with the same `checks` in the problem document.",
    problems=(503,),
    access="public",
)
