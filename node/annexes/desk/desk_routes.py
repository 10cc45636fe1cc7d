"""REST routes over the own nodes of a desk, which DESK_PROFILE names."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web

from node.annexes.desk import desk_operations
from node.annexes.desk.desk import Desk
from node.annexes.desk.desk_part import DeskPart
from node.api.route import SERVICE, Route, answer, flag, number, query
from node.views.limits import DEFAULT_LIMIT, MAX_LIMIT
from node.views.views import ServiceError


async def _read(request: web.Request, work: Callable[[Desk], Awaitable[Any]]) -> web.Response:
    parts = request.app[SERVICE].parts
    desk = next((part.desk for part in parts if isinstance(part, DeskPart)), None)
    if desk is None:
        raise ServiceError(
            404,
            "no_desk",
            "this node has no desk: name the own nodes in a file, and start it with DESK_PROFILE=FILE",
        )
    try:
        view = await work(desk)
    except ValueError as error:
        raise ServiceError(503, "bad_desk_profile", str(error)) from None
    return answer(view)


async def get_status(request: web.Request) -> web.Response:
    query(request)
    return await _read(request, lambda desk: desk.status())


async def list_balances(request: web.Request) -> web.Response:
    account = query(request, "account").get("account")
    return await _read(request, lambda desk: desk.balances(account=account))


async def list_orders(request: web.Request) -> web.Response:
    values = query(request, "market", "open", "limit", "account")
    market, account = values.get("market"), values.get("account")
    open_only = flag(values, "open", True)
    limit = number(values, "limit", DEFAULT_LIMIT, MAX_LIMIT)
    return await _read(
        request,
        lambda desk: desk.orders(market=market, open_only=open_only, limit=limit, account=account),
    )


async def list_trades(request: web.Request) -> web.Response:
    values = query(request, "market", "limit", "account")
    market, account = values.get("market"), values.get("account")
    limit = number(values, "limit", DEFAULT_LIMIT, MAX_LIMIT)
    return await _read(
        request, lambda desk: desk.trades(market=market, limit=limit, account=account)
    )


async def list_obligations(request: web.Request) -> web.Response:
    query(request)
    return await _read(request, lambda desk: desk.obligations())


DESK_ROUTES: Final[tuple[Route, ...]] = (
    Route(desk_operations.GET_STATUS, get_status),
    Route(desk_operations.LIST_BALANCES, list_balances),
    Route(desk_operations.LIST_ORDERS, list_orders),
    Route(desk_operations.LIST_TRADES, list_trades),
    Route(desk_operations.LIST_OBLIGATIONS, list_obligations),
)
