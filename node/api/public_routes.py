"""The REST routes: one table that the router and the OpenAPI document are both made from."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import msgspec
from aiohttp import web

from node.api import limits
from node.api.access import DOORKEEPER, Caller, admit, caller_of
from node.api.desk_routes import DESK_ROUTES
from node.api.node_service import NodeService
from node.api.operator_routes import ACCOUNT_ROUTES
from node.api.order_routes import ORDER_ROUTES
from node.api.problems import problem
from node.api.route import (
    ABOUT,
    PAGE,
    SERVICE,
    SPAN,
    TASKS,
    Route,
    answer,
    bad_parameter,
    dumps,
    finish,
    number,
    page,
    query,
    read_body,
    span,
)
from node.http.http_requests import route_path
from node.operations import public_operations
from node.version import VERSION
from node.views.limits import DEFAULT_DEPTH, DEFAULT_EVENTS, MAX_DEPTH, MAX_LIMIT
from node.views.node_views import (
    CallerAccess,
    CallRequest,
    ConnectRequest,
    HealthView,
    PeerPolicyRequest,
    SessionView,
)

__all__ = ["ROUTES", "SERVICE", "Route", "add_routes", "dumps"]


T = TypeVar("T")


# Handlers -------------------------------------------------------------------------------------


async def list_trades(request: web.Request) -> web.Response:
    values = query(request, "market", *PAGE)
    part = span(values)
    views = await request.app[SERVICE].trade_history(
        market=values.get("market"),
        start=part.start,
        end=part.end,
        limit=part.limit,
        newest_first=part.newest_first,
        skip=part.skip,
    )
    return page(request, values, part, views, lambda view: view.time)


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
    depth = number(query(request, "depth"), "depth", DEFAULT_DEPTH, MAX_DEPTH)
    caller = caller_of(request)
    account = caller.account if caller.may("read") else None  # `own` shows the account's orders
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


async def peer_policy(request: web.Request) -> web.Response:
    query(request)
    return answer(request.app[SERVICE].peer_policy())


async def change_peer_policy(request: web.Request) -> web.Response:
    query(request)
    body = await read_body(request, PeerPolicyRequest)
    return answer(request.app[SERVICE].change_peer_policy(body))


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
    if kind is not None and kind not in public_operations.EVENT_KINDS:
        known = ", ".join(public_operations.EVENT_KINDS)
        raise bad_parameter("kind", f"kind must be one of {known}, not {kind[:40]!r}")
    count = number(values, "events", DEFAULT_EVENTS, MAX_LIMIT)
    return answer(request.app[SERVICE].routing(events=count, kind=kind))


async def get_status(request: web.Request) -> web.Response:
    query(request)
    return answer(request.app[SERVICE].status())


# Health checks are of programs that add a query of their own, against caches.
async def get_health(request: web.Request) -> web.Response:
    status = request.app[SERVICE].status()
    return answer(HealthView(status="ok", node_id=status.node_id, version=status.version))


async def get_ready(request: web.Request) -> web.StreamResponse:
    found = request.app[SERVICE].ready()
    if found.ready:
        return answer(found)
    reasons = "; ".join(check.reason for check in found.checks if not check.ok)
    checks = [msgspec.structs.asdict(check) for check in found.checks]
    return problem(request, 503, "not_ready", reasons, extra={"checks": checks})


async def get_session(request: web.Request) -> web.Response:
    query(request)
    service, caller = request.app[SERVICE], caller_of(request)
    account = None if caller.account is None else service.accounts.get(caller.account)
    key = service.accounts.key(caller.key) if caller.key else None
    return answer(
        SessionView(
            node_id=service.node_id,
            version=VERSION,
            account=caller.account,
            account_name=None if account is None else account.name,
            access=_access(caller),
            operator=caller.operator,
            authenticated_by=caller.authenticated_by,
            permissions=sorted(caller.permissions),
            key=caller.key or None,
            key_label=None if key is None else key.label,
            keys_required=request.app[DOORKEEPER].rules.keys_required,
            desk=service.desk is not None,
        )
    )


def _access(caller: Caller) -> CallerAccess:
    if caller.operator:
        return "operator"
    return "public" if caller.account is None else "account"


async def get_diagnostics(request: web.Request) -> web.Response:
    query(request)
    return answer(request.app[SERVICE].diagnostics())


async def list_feeds(request: web.Request) -> web.Response:
    query(request)
    return answer(request.app[SERVICE].feeds())


async def get_topology(request: web.Request) -> web.Response:
    query(request)
    return answer(await request.app[SERVICE].topology())


# The table ------------------------------------------------------------------------------------


ROUTES: Final[tuple[Route, ...]] = (
    *ORDER_ROUTES,
    *ACCOUNT_ROUTES,
    *DESK_ROUTES,
    Route(public_operations.LIST_TRADES, list_trades),
    Route(public_operations.LIST_CANDLES, list_candles),
    Route(public_operations.GET_BOOK, get_book),
    Route(public_operations.LIST_MARKETS, list_markets),
    Route(public_operations.LIST_PEERS, list_peers),
    Route(public_operations.CONNECT_PEER, connect_peer),
    Route(public_operations.GET_PEER_POLICY, peer_policy),
    Route(public_operations.CHANGE_PEER_POLICY, change_peer_policy),
    Route(public_operations.PING_NODE, ping_node),
    Route(public_operations.LIST_SERVICES, list_services),
    Route(public_operations.CALL_SERVICE, call_service),
    Route(public_operations.GET_ROUTER, get_router),
    Route(public_operations.GET_STATUS, get_status),
    Route(public_operations.GET_SESSION, get_session),
    Route(public_operations.GET_DIAGNOSTICS, get_diagnostics),
    Route(public_operations.GET_TOPOLOGY, get_topology),
    Route(public_operations.LIST_FEEDS, list_feeds),
    Route(public_operations.GET_HEALTH, get_health),
    Route(public_operations.GET_READY, get_ready),
)


async def get_metrics(request: web.Request) -> web.Response:
    query(request)
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
        operation = route.operation
        path = route_path(operation.path)
        if operation.method == "GET":
            app.router.add_get(path, _guarded(route))
        else:
            app.router.add_route(operation.method, path, _guarded(route))
    _refuse_other_methods(app)
    app.on_cleanup.append(_cancel_work)


def _refuse_other_methods(app: web.Application) -> None:
    """Answer other methods at a path without parameters with 405, where a path with one fits it too: PATCH
    of /v1/orders/cancel-after is not about an order of that name."""
    methods: dict[str, list[str]] = {}
    for route in ROUTES:
        methods.setdefault(route.operation.path, []).append(route.operation.method)
    templates = [re.sub(r"\{\w+\}", "[^/]+", path) for path in methods if "{" in path]
    for path, allowed in methods.items():
        if "{" not in path and any(re.fullmatch(template, path) for template in templates):
            app.router.add_route("*", path, _not_allowed(allowed))


def _not_allowed(allowed: list[str]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def refuse(request: web.Request) -> web.StreamResponse:
        raise web.HTTPMethodNotAllowed(request.method, allowed)

    return refuse


def _guarded(route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The route's handler for those who may."""

    operation, serve = route.operation, route.handler
    private_read = operation.method == "GET" and operation.access in ("read", "operator")

    async def handler(request: web.Request) -> web.StreamResponse:
        admit(request, operation.access)
        response = await serve(request)
        if private_read:
            # The answer may include undurable decisions: wait until they are on the disk.
            await request.app[SERVICE].trading.durable(request.get(ABOUT))
        return response

    return handler


async def _cancel_work(app: web.Application) -> None:
    tasks = app[TASKS].copy()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
