"""The REST routes: one table that the router and the OpenAPI document are both made from."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, TypedDict, TypeVar

import msgspec
import orjson
from aiohttp import web

from exchange.candles import TIMEFRAMES
from node.api import limits
from node.views import (
    BookView,
    CallRequest,
    CallView,
    CandleView,
    FillView,
    MarketView,
    NodeService,
    OrderRequest,
    OrderView,
    PeerView,
    PingView,
    RouterView,
    ServiceError,
    ServiceView,
    StatusView,
    TradeView,
)

EVENT_KINDS: Final = ("pick", "breaker", "hint", "panic", "rate")
SERVICE: Final = web.AppKey("service", NodeService)
T = TypeVar("T")


class ConnectRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """An address to dial now."""

    address: str  # HOST:PORT, [IPv6]:PORT


class HealthView(msgspec.Struct, kw_only=True):
    """The node answers. Use /v1/status for how it is."""

    status: Literal["ok"]
    node_id: str
    version: str


@dataclass(frozen=True, slots=True)
class Param:
    """A query or path parameter."""

    name: str
    place: Literal["path", "query"]
    schema: Mapping[str, Any]
    description: str


@dataclass(frozen=True, slots=True)
class Route:
    """One operation: how it is served and how it is documented."""

    method: str
    path: str
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    name: str  # operationId
    tag: str
    summary: str
    answer: Any  # type of the answer's body
    description: str = ""
    body: type[msgspec.Struct] | None = None
    params: tuple[Param, ...] = ()
    status: int = 200
    problems: tuple[int, ...] = ()  # besides those that every operation can answer


# Reading requests -----------------------------------------------------------------------------

_EPOCH = datetime.fromtimestamp(0, UTC)
_MISFIT = re.compile(r"(?P<what>.*?)(?: - at `(?P<path>.*)`)?$", re.DOTALL)
_UNKNOWN_FIELD = re.compile(r"unknown field `(?P<name>[^`]*)`")


def decode_body(raw: bytes, kind: type[T]) -> T:
    """The typed body of a request.

    Raises:
        ServiceError: 400 with the JSON pointer of the field that is wrong.
    """
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise _misfit(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ServiceError(400, "invalid_json", f"the body is not valid JSON: {error}") from None


def _misfit(error: msgspec.ValidationError) -> ServiceError:
    match = _MISFIT.match(str(error))
    what, path = (match["what"], match["path"] or "$") if match else (str(error), "$")
    pointer = path.removeprefix("$").replace(".", "/")
    field = pointer.rpartition("/")[2]
    if field in ("price", "quantity") and re.search(r"got `(int|float)`", what):
        detail = (
            f"{field} is a JSON number: send prices and quantities as strings, "
            'e.g. "0.5"; numbers lose digits'
        )
        return ServiceError(400, "number_not_string", detail, pointer=pointer)
    if unknown := _UNKNOWN_FIELD.search(what):
        pointer = f"{pointer}/{unknown['name']}"
    where = f" at {pointer}" if field else ""
    return ServiceError(
        400, "invalid_body", f"{what[:1].lower()}{what[1:]}{where}", pointer=pointer
    )


async def read_body(request: web.Request, kind: type[T]) -> T:
    """Reads and decodes a JSON body within `limits.MAX_BODY` and `limits.READ_TIMEOUT`."""
    if request.content_type != "application/json":
        # Also a defence: a page of another site can post a form or text without asking first.
        sent = request.headers.get("Content-Type", "no Content-Type")
        detail = (
            f"the body was sent as {sent[:100]}; send JSON with the header "
            "Content-Type: application/json (with curl: --json)"
        )
        raise ServiceError(415, "unsupported_media_type", detail)
    try:
        async with asyncio.timeout(limits.READ_TIMEOUT):
            raw = await request.read()
    except TimeoutError:
        detail = f"the body did not arrive within {limits.READ_TIMEOUT:g} s"
        raise ServiceError(408, "request_timeout", detail) from None
    return decode_body(raw, kind)


def _bad_parameter(name: str, detail: str) -> ServiceError:
    return ServiceError(400, "invalid_parameter", detail, parameter=name)


def query(request: web.Request, *allowed: str) -> dict[str, str]:
    """The query parameters; unknown and repeated ones are refused, so that a typo is noticed."""
    values: dict[str, str] = {}
    for name, value in request.query.items():
        if name not in allowed:
            known = ", ".join(allowed) or "none"
            raise _bad_parameter(name, f"unknown parameter {name[:40]!r}; this path knows {known}")
        if name in values:
            raise _bad_parameter(name, f"{name} is given twice")
        values[name] = value
    return values


def number(values: dict[str, str], name: str, default: int, maximum: int) -> int:
    """A whole number from 1 to `maximum`."""
    text = values.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= maximum):
        raise _bad_parameter(
            name, f"{name} must be a whole number from 1 to {maximum}, not {text[:40]!r}"
        )
    return int(text)


def flag(values: dict[str, str], name: str, default: bool) -> bool:
    text = values.get(name)
    if text is None:
        return default
    if text not in ("true", "false"):
        raise _bad_parameter(name, f"{name} must be true or false, not {text[:40]!r}")
    return text == "true"


def moment(values: dict[str, str], name: str) -> int | None:
    """A time, ISO 8601 or milliseconds since the epoch, in microseconds."""
    text = values.get(name)
    if text is None:
        return None
    if text.isascii() and text.isdigit() and len(text) <= 15:
        return int(text) * 1000
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise _bad_parameter(
            name,
            f"{name} must be a time such as 2026-01-02T03:04:05Z, or milliseconds since 1970, not "
            f"{text[:40]!r}",
        ) from None
    aware = time if time.tzinfo else time.replace(tzinfo=UTC)
    return (aware - _EPOCH) // timedelta(microseconds=1)


def newest_first(values: dict[str, str]) -> bool:
    """What `sort` asks for."""
    text = values.get("sort", "desc")
    if text not in ("asc", "desc"):
        raise _bad_parameter("sort", f"sort must be asc or desc, not {text[:40]!r}")
    return text == "desc"


# Answering ------------------------------------------------------------------------------------


def dumps(value: Any) -> bytes:
    """JSON of views and lists of views."""
    return orjson.dumps(value, default=msgspec.to_builtins)


def answer(value: Any, *, status: int = 200, location: str | None = None) -> web.Response:
    return web.Response(
        status=status,
        body=dumps(value),
        content_type="application/json",
        headers={"Location": location} if location else None,
    )


TASKS: Final = web.AppKey("tasks", set[asyncio.Task[Any]])


async def finish(request: web.Request, work: Awaitable[T], what: str) -> T:
    """Waits for `work` up to `limits.HANDLER_TIMEOUT`.

    The work is not cancelled when the time is over: an order half submitted is worse than a late
    answer. The application owns the task and cancels it when the node stops.
    """
    tasks = request.app[TASKS]
    task = asyncio.ensure_future(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    done, _ = await asyncio.wait({task}, timeout=limits.HANDLER_TIMEOUT)
    if done:
        return task.result()
    task.add_done_callback(lambda late: late.cancelled() or late.exception())  # nobody asks for it
    detail = (
        f"{what} took longer than {limits.HANDLER_TIMEOUT:g} s; its outcome is not known yet: "
        "look it up, or repeat it with the same client_id"
    )
    raise ServiceError(504, "no_answer", detail)


# Handlers -------------------------------------------------------------------------------------


async def submit_order(request: web.Request) -> web.Response:
    query(request)
    order = await read_body(request, OrderRequest)
    view = await finish(request, request.app[SERVICE].submit(order), "placing the order")
    return answer(view, status=201, location=f"/v1/orders/{view.id}")


async def list_orders(request: web.Request) -> web.Response:
    values = query(request, "market", "open", "limit")
    return answer(
        request.app[SERVICE].orders(
            market=values.get("market"),
            open_only=flag(values, "open", True),
            limit=number(values, "limit", limits.DEFAULT_LIMIT, limits.MAX_LIMIT),
        )
    )


async def get_order(request: web.Request) -> web.Response:
    query(request)
    return answer(request.app[SERVICE].order(request.match_info["id"]))


async def cancel_order(request: web.Request) -> web.Response:
    query(request)
    work = request.app[SERVICE].cancel(request.match_info["id"])
    return answer(await finish(request, work, "cancelling the order"))


async def list_fills(request: web.Request) -> web.Response:
    values = query(request, "market", "limit")
    limit = number(values, "limit", limits.DEFAULT_LIMIT, limits.MAX_LIMIT)
    return answer(request.app[SERVICE].fills(market=values.get("market"), limit=limit))


async def list_trades(request: web.Request) -> web.Response:
    values = query(request, "market", *_SPAN)
    views = await request.app[SERVICE].trade_history(market=values.get("market"), **_span(values))
    return answer(views)


async def list_candles(request: web.Request) -> web.Response:
    values = query(request, "timeframe", *_SPAN)
    views = await request.app[SERVICE].candles(
        request.match_info["market"], values.get("timeframe", "1m"), **_span(values)
    )
    return answer(views)


_SPAN: Final = ("start", "end", "limit", "sort")


class _Span(TypedDict):
    start: int | None
    end: int | None
    limit: int
    newest_first: bool


def _span(values: dict[str, str]) -> _Span:
    return {
        "start": moment(values, "start"),
        "end": moment(values, "end"),
        "limit": number(values, "limit", limits.DEFAULT_LIMIT, limits.MAX_LIMIT),
        "newest_first": newest_first(values),
    }


async def get_book(request: web.Request) -> web.Response:
    depth = number(query(request, "depth"), "depth", limits.DEFAULT_DEPTH, limits.MAX_DEPTH)
    return answer(request.app[SERVICE].book(request.match_info["market"], depth=depth))


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
        raise _bad_parameter("kind", f"kind must be one of {known}, not {kind[:40]!r}")
    count = number(values, "events", limits.DEFAULT_EVENTS, limits.MAX_LIMIT)
    return answer(request.app[SERVICE].routing(events=count, kind=kind))


async def get_status(request: web.Request) -> web.Response:
    query(request)
    return answer(request.app[SERVICE].status())


async def get_health(request: web.Request) -> web.Response:
    query(request)
    status = request.app[SERVICE].status()
    return answer(HealthView(status="ok", node_id=status.node_id, version=status.version))


# The table ------------------------------------------------------------------------------------

_NAME: Final = {"type": "string", "examples": ["BTC-USD"]}
_MARKET = Param("market", "query", _NAME, "Only this market.")
_MARKET_PATH = Param("market", "path", _NAME, "The market's symbol.")
_LIMIT = Param(
    "limit",
    "query",
    {
        "type": "integer",
        "minimum": 1,
        "maximum": limits.MAX_LIMIT,
        "default": limits.DEFAULT_LIMIT,
    },
    "At most so many, the newest.",
)
_SPAN_LIMIT = replace(_LIMIT, description="At most so many, from where `sort` begins.")
_MOMENT: Final = {"type": "string", "examples": ["2026-01-02T03:04:05Z", "1767323045000"]}
_START = Param(
    "start", "query", _MOMENT, "Not before this time: ISO 8601 (UTC without an offset), or ms."
)
_END = Param("end", "query", _MOMENT, "Not after this time.")
_SORT = Param(
    "sort",
    "query",
    {"enum": ["asc", "desc"], "default": "desc"},
    "desc: newest first; asc: oldest first.",
)
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
_OPEN = Param(
    "open",
    "query",
    {"type": "boolean", "default": True},
    "true: only orders still open or pending; false: finished ones too.",
)
_ORDER = Param(
    "id", "path", {"type": "string", "examples": ["12"]}, "The order's full id or its number."
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
    Route(
        "POST",
        "/v1/orders",
        submit_order,
        "submitOrder",
        "orders",
        "Place an order",
        OrderView,
        "Answers when the order is durable on this node's disk. Without `price` it is a market "
        "order. With `client_id` a repeated submission returns the first one's order.",
        body=OrderRequest,
        status=201,
        problems=(404, 408, 409, 413, 415, 422, 503, 504),
    ),
    Route(
        "GET",
        "/v1/orders",
        list_orders,
        "listOrders",
        "orders",
        "Own orders, newest first",
        list[OrderView],
        params=(_MARKET, _OPEN, _LIMIT),
        problems=(404,),
    ),
    Route(
        "GET",
        "/v1/orders/{id}",
        get_order,
        "getOrder",
        "orders",
        "One own order",
        OrderView,
        params=(_ORDER,),
        problems=(404,),
    ),
    Route(
        "DELETE",
        "/v1/orders/{id}",
        cancel_order,
        "cancelOrder",
        "orders",
        "Cancel an order",
        OrderView,
        "Answers with the order as it is after the cancel, when that is durable. What is already "
        "filled stays filled.",
        params=(_ORDER,),
        problems=(404, 409, 503, 504),
    ),
    Route(
        "GET",
        "/v1/fills",
        list_fills,
        "listFills",
        "orders",
        "Own fills, newest first",
        list[FillView],
        params=(_MARKET, _LIMIT),
        problems=(404,),
    ),
    Route(
        "GET",
        "/v1/trades",
        list_trades,
        "listTrades",
        "market data",
        "Public trades of the network seen by this node",
        list[TradeView],
        "Trades of other nodes may come to be known late; they are listed by their own time.",
        params=(_MARKET, _START, _END, _SPAN_LIMIT, _SORT),
        problems=(404,),
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
        params=(_MARKET_PATH, _TIMEFRAME, _START, _END, _SPAN_LIMIT, _SORT),
        problems=(404,),
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
        params=(_MARKET_PATH, _DEPTH),
        problems=(404,),
    ),
    Route(
        "GET",
        "/v1/markets",
        list_markets,
        "listMarkets",
        "market data",
        "Markets with tick, lot, best prices and figures of the last 24 hours",
        list[MarketView],
    ),
    Route(
        "GET",
        "/v1/peers",
        list_peers,
        "listPeers",
        "network",
        "Known and connected peers",
        list[PeerView],
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
    ),
    Route("GET", "/v1/status", get_status, "getStatus", "node", "How the node is", StatusView),
    Route(
        "GET", "/v1/health", get_health, "getHealth", "node", "Whether the node answers", HealthView
    ),
)


async def get_metrics(request: web.Request) -> web.Response:
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
            app.router.add_get(route.path, route.handler)
        else:
            app.router.add_route(route.method, route.path, route.handler)
    app.on_cleanup.append(_cancel_work)


async def _cancel_work(app: web.Application) -> None:
    tasks = app[TASKS].copy()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
