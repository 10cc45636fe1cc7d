"""The REST routes: one table that the router and the OpenAPI document are both made from."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Literal, TypeVar

import msgspec
from aiohttp import web

from exchange.market.candles import TIMEFRAMES
from exchange.model.records import Permission
from node.api import limits
from node.api.access import DOORKEEPER, admit, caller_of
from node.api.node_service import NodeService
from node.api.operator_routes import ACCOUNT_ROUTES
from node.api.order_routes import ORDER_ROUTES
from node.api.route import (
    ABOUT,
    MARKET,
    MARKET_PATH,
    SERVICE,
    SPAN,
    SPAN_PARAMS,
    TASKS,
    Param,
    Route,
    answer,
    bad_parameter,
    dumps,
    finish,
    number,
    query,
    read_body,
    span,
)
from node.version import VERSION
from node.views.views import (
    BookView,
    CallRequest,
    CallView,
    CandleView,
    DiagnosticsView,
    MarketView,
    PeerView,
    PingView,
    RouterView,
    ServiceView,
    StatusView,
    TopologyView,
    TradeView,
)

__all__ = ["ROUTES", "SERVICE", "Param", "Route", "add_routes", "dumps"]

EVENT_KINDS: Final = ("pick", "breaker", "hint", "panic", "rate")
T = TypeVar("T")


class ConnectRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """An address to dial now."""

    address: str  # HOST:PORT, [IPv6]:PORT


class SessionView(msgspec.Struct, kw_only=True):
    """The caller of the request, its permissions, and the node that answers."""

    node_id: str
    version: str
    account: int | None  # None: no account, only public data; 0: the house
    account_name: str | None
    operator: bool
    permissions: list[Permission]  # of the key; the operator has all
    key: str | None  # without its secret; None without a key
    keys_required: bool  # API_AUTH=required: without a key there is public data only


class HealthView(msgspec.Struct, kw_only=True):
    """The node answers. Use /v1/status for how it is."""

    status: Literal["ok"]
    node_id: str
    version: str


# Handlers -------------------------------------------------------------------------------------


async def list_trades(request: web.Request) -> web.Response:
    values = query(request, "market", *SPAN)
    part = span(values)
    views = await request.app[SERVICE].trade_history(
        market=values.get("market"),
        start=part.start,
        end=part.end,
        limit=part.limit,
        newest_first=part.newest_first,
    )
    return answer(views)


async def list_candles(request: web.Request) -> web.Response:
    values = query(request, "timeframe", *SPAN)
    part = span(values)
    views = await request.app[SERVICE].candles(
        request.match_info["market"],
        values.get("timeframe", "1m"),
        start=part.start,
        end=part.end,
        limit=part.limit,
        newest_first=part.newest_first,
    )
    return answer(views)


async def get_book(request: web.Request) -> web.Response:
    depth = number(query(request, "depth"), "depth", limits.DEFAULT_DEPTH, limits.MAX_DEPTH)
    account = caller_of(request).account
    return answer(
        request.app[SERVICE].book(request.match_info["market"], depth=depth, account=account)
    )


async def list_markets(request: web.Request) -> web.Response:
    query(request)
    return answer(request.app[SERVICE].markets())


async def list_peers(request: web.Request) -> web.Response:
    query(request)
    return answer(request.app[SERVICE].peers())


async def connect_peer(request: web.Request) -> web.Response:
    query(request)
    body = await read_body(request, ConnectRequest)
    work = request.app[SERVICE].connect(body.address)
    return answer(await finish(request, work, "dialling the peer"))


async def ping_node(request: web.Request) -> web.Response:
    query(request)
    work = request.app[SERVICE].ping(request.match_info["node"])
    return answer(await finish(request, work, "the ping"))


async def list_services(request: web.Request) -> web.Response:
    query(request)
    return answer(request.app[SERVICE].services())


async def call_service(request: web.Request) -> web.Response:
    query(request)
    body = await read_body(request, CallRequest)
    work = request.app[SERVICE].call_service(request.match_info["service"], body)
    return answer(await _while_wanted(request, work))


async def _while_wanted(request: web.Request, work: Awaitable[T]) -> T:
    """Waits for `work`, which has a deadline of its own; cancels it when the client has gone."""
    task = asyncio.ensure_future(work)
    try:
        while True:
            done, _ = await asyncio.wait({task}, timeout=limits.GONE_CHECK)
            if done:
                return task.result()
            if request.transport is None or request.transport.is_closing():
                raise ConnectionResetError("the client has gone")
    finally:
        task.cancel()


async def get_router(request: web.Request) -> web.Response:
    values = query(request, "events", "kind")
    kind = values.get("kind")
    if kind is not None and kind not in EVENT_KINDS:
        known = ", ".join(EVENT_KINDS)
        raise bad_parameter("kind", f"kind must be one of {known}, not {kind[:40]!r}")
    count = number(values, "events", limits.DEFAULT_EVENTS, limits.MAX_LIMIT)
    return answer(request.app[SERVICE].routing(events=count, kind=kind))


async def get_status(request: web.Request) -> web.Response:
    query(request)
    return answer(request.app[SERVICE].status())


async def get_health(request: web.Request) -> web.Response:
    query(request)
    status = request.app[SERVICE].status()
    return answer(HealthView(status="ok", node_id=status.node_id, version=status.version))


async def get_session(request: web.Request) -> web.Response:
    query(request)
    service, caller = request.app[SERVICE], caller_of(request)
    account = None if caller.account is None else service.accounts.get(caller.account)
    return answer(
        SessionView(
            node_id=service.node_id,
            version=VERSION,
            account=caller.account,
            account_name=None if account is None else account.name,
            operator=caller.operator,
            permissions=sorted(caller.permissions),
            key=caller.key or None,
            keys_required=request.app[DOORKEEPER].rules.keys_required,
        )
    )


async def get_diagnostics(request: web.Request) -> web.Response:
    query(request)
    return answer(request.app[SERVICE].diagnostics())


async def get_topology(request: web.Request) -> web.Response:
    query(request)
    return answer(await request.app[SERVICE].topology())


# The table ------------------------------------------------------------------------------------

_TIMEFRAME = Param(
    "timeframe", "query", {"enum": list(TIMEFRAMES), "default": "1m"}, "The length of a candle."
)
_DEPTH = Param(
    "depth",
    "query",
    {
        "type": "integer",
        "minimum": 1,
        "maximum": limits.MAX_DEPTH,
        "default": limits.DEFAULT_DEPTH,
    },
    "Price levels a side, best first.",
)
_SERVICE = Param(
    "service", "path", {"type": "string", "examples": ["job_service"]}, "The service's name."
)
_EVENTS = Param(
    "events",
    "query",
    {
        "type": "integer",
        "minimum": 1,
        "maximum": limits.MAX_LIMIT,
        "default": limits.DEFAULT_EVENTS,
    },
    "At most so many events, the newest.",
)
_KIND = Param("kind", "query", {"enum": list(EVENT_KINDS)}, "Only events of this kind.")
_NODE = Param("node", "path", {"type": "string"}, "A node id, or an unambiguous beginning of one.")

ROUTES: Final[tuple[Route, ...]] = (
    *ORDER_ROUTES,
    *ACCOUNT_ROUTES,
    Route(
        "GET",
        "/v1/trades",
        list_trades,
        "listTrades",
        "market data",
        "Public trades of the network seen by this node",
        list[TradeView],
        "Trades of other nodes may come to be known late; they are listed by their own time.",
        params=(MARKET, *SPAN_PARAMS),
        problems=(404,),
        access="public",
    ),
    Route(
        "GET",
        "/v1/candles/{market}",
        list_candles,
        "listCandles",
        "market data",
        "Candles of a market",
        list[CandleView],
        "From all trades of the network that this node has seen. There is no candle where nothing "
        "was traded. `time` is when a candle begins, in UTC: 7D and 14D count from 1970-01-01, a "
        "Thursday; 1W begins on Mondays; 1M is a calendar month. A trade that comes to be known "
        "late amends the candle of its own time.",
        params=(MARKET_PATH, _TIMEFRAME, *SPAN_PARAMS),
        problems=(404,),
        access="public",
    ),
    Route(
        "GET",
        "/v1/book/{market}",
        get_book,
        "getBook",
        "market data",
        "The order book of a market",
        BookView,
        "The whole network's orders as this node knows them.",
        params=(MARKET_PATH, _DEPTH),
        problems=(404,),
        access="public",
    ),
    Route(
        "GET",
        "/v1/markets",
        list_markets,
        "listMarkets",
        "market data",
        "Markets with tick, lot, best prices and figures of the last 24 hours",
        list[MarketView],
        access="public",
    ),
    Route(
        "GET",
        "/v1/peers",
        list_peers,
        "listPeers",
        "network",
        "Known and connected peers",
        list[PeerView],
        access="node",
    ),
    Route(
        "POST",
        "/v1/peers",
        connect_peer,
        "connectPeer",
        "network",
        "Dial an address now",
        PeerView,
        "Answers with the connected peer, or with the reason why it could not be connected.",
        body=ConnectRequest,
        problems=(408, 409, 413, 415, 422, 502, 503, 504),
    ),
    Route(
        "POST",
        "/v1/peers/{node}/ping",
        ping_node,
        "pingNode",
        "network",
        "A request to another node and back",
        PingView,
        "Directly or relayed over the mesh; takes no body.",
        params=(_NODE,),
        problems=(404, 409, 502, 503, 504),
    ),
    Route(
        "GET",
        "/v1/services",
        list_services,
        "listServices",
        "services",
        "Services that nodes of the network offer",
        list[ServiceView],
        access="node",
    ),
    Route(
        "POST",
        "/v1/services/{service}/call",
        call_service,
        "callService",
        "services",
        "Call a service",
        CallView,
        "Asks the node that is expected to answer soonest, and another one when that is safe: the "
        "request was not executed, or is `idempotent`. Answers with the service's result; what the "
        "service itself refuses has code `service_refused` and the service's own code in "
        "`service_code`.",
        body=CallRequest,
        params=(_SERVICE,),
        problems=(404, 408, 413, 415, 422, 502, 503, 504),
    ),
    Route(
        "GET",
        "/v1/router",
        get_router,
        "getRouter",
        "services",
        "How nodes are chosen: costs, breakers, hints and the latest events",
        RouterView,
        params=(_EVENTS, _KIND),
        access="node",
    ),
    Route(
        "GET",
        "/v1/status",
        get_status,
        "getStatus",
        "node",
        "How the node is",
        StatusView,
        access="node",
    ),
    Route(
        "GET",
        "/v1/session",
        get_session,
        "getSession",
        "node",
        "Who makes the request, and what they may",
        SessionView,
        "For programs and pages that offer only what a key allows.",
        access="public",
    ),
    Route(
        "GET",
        "/v1/diagnostics",
        get_diagnostics,
        "getDiagnostics",
        "node",
        "Commit latency, loop lag, memory, disk and archive lag",
        DiagnosticsView,
        access="node",
    ),
    Route(
        "GET",
        "/v1/topology",
        get_topology,
        "getTopology",
        "network",
        "Links of this node and of its neighbours",
        TopologyView,
        "Neighbours are asked, and may decline (P2P_SHARE_LINKS=false). Answers are used again for "
        "some seconds.",
        access="node",
    ),
    Route(
        "GET",
        "/v1/health",
        get_health,
        "getHealth",
        "node",
        "Whether the node answers",
        HealthView,
        access="public",
    ),
)


async def get_metrics(request: web.Request) -> web.Response:
    admit(request, "node")
    return web.Response(
        body=request.app[SERVICE].metrics(), headers={"Content-Type": limits.METRICS_TYPE}
    )


def add_routes(app: web.Application, service: NodeService) -> None:
    """Puts every route of the table, and /metrics, on `app`."""
    app.router.add_get("/metrics", get_metrics)
    app[SERVICE] = service
    app[TASKS] = set()
    for route in ROUTES:
        if route.method == "GET":
            app.router.add_get(route.path, _guarded(route))
        else:
            app.router.add_route(route.method, route.path, _guarded(route))
    app.on_cleanup.append(_cancel_work)


def _guarded(route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The route's handler for those who may."""

    async def handler(request: web.Request) -> web.StreamResponse:
        admit(request, route.access)
        response = await route.handler(request)
        if route.method == "GET" and route.access in ("read", "operator"):
            # It may say what was decided just now: nobody is told before that is on the disk.
            await request.app[SERVICE].trading.durable(request.get(ABOUT))
        return response

    return handler


async def _cancel_work(app: web.Application) -> None:
    tasks = app[TASKS].copy()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
