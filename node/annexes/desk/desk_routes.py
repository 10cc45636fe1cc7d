"""Operations over the own nodes of a desk together, which DESK_PROFILE names."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from node.annexes.desk.desk import Desk
from node.annexes.desk.desk_part import DeskPart
from node.annexes.desk.desk_views import (
    DeskBalancesView,
    DeskObligationsView,
    DeskOrdersView,
    DeskStatusView,
    DeskTradesView,
)
from node.api.node_service import NodeService
from node.api.route import Call, Route
from node.operations.operation import Operation, P, Params
from node.operations.parameters import Account, Limit, OfAccount, OnlyMarket, OpenOnly
from node.views.limits import DEFAULT_LIMIT
from node.views.views import ServiceError

A = TypeVar("A")


_PARTIAL: Final = (
    "A node that does not answer is named in `nodes`; the rest is of the others alone."
)


class DeskTradeList(Params, frozen=True, kw_only=True):
    market: OnlyMarket = None
    limit: Limit = DEFAULT_LIMIT
    account: Account = None


class DeskOrderList(Params, frozen=True, kw_only=True):
    market: OnlyMarket = None
    open: OpenOnly = True
    limit: Limit = DEFAULT_LIMIT
    account: Account = None


GET_STATUS: Final = Operation(
    "GET /v1/desk/status",
    "getDeskStatus",
    "desk",
    "Status of each own node",
    DeskStatusView,
    _PARTIAL,
    problems=(404, 503),
)
LIST_BALANCES: Final = Operation(
    "GET /v1/desk/balances",
    "listDeskBalances",
    "desk",
    "Balances at each own node, and their sums",
    DeskBalancesView,
    _PARTIAL,
    params=OfAccount,
    problems=(404, 503),
)
LIST_ORDERS: Final = Operation(
    "GET /v1/desk/orders",
    "listDeskOrders",
    "desk",
    "Orders at all own nodes, newest first",
    DeskOrdersView,
    f"`limit` is for each node. {_PARTIAL}",
    params=DeskOrderList,
    problems=(404, 503),
)
LIST_TRADES: Final = Operation(
    "GET /v1/desk/trades",
    "listDeskTrades",
    "desk",
    "Own trades of all own nodes, newest first",
    DeskTradesView,
    "A trade between two of them is listed once, as its taker sees it. `limit` is for each node. "
    + _PARTIAL,
    params=DeskTradeList,
    problems=(404, 503),
)
LIST_OBLIGATIONS: Final = Operation(
    "GET /v1/desk/obligations",
    "listDeskObligations",
    "desk",
    "Net obligations of all own nodes together",
    DeskObligationsView,
    f"Those among own nodes are apart, and zero where both agree. {_PARTIAL}",
    problems=(404, 503),
)


def _route(
    operation: Operation[A, P, None], read: Callable[[Desk, P], Awaitable[A]]
) -> Route[A, P, None]:
    async def work(node: NodeService, call: Call[P, None]) -> A:
        desk = next((part.desk for part in node.parts if isinstance(part, DeskPart)), None)
        if desk is None:
            raise ServiceError(
                404,
                "no_desk",
                "this node has no desk: name the own nodes in a file, and start it with DESK_PROFILE=FILE",
            )
        try:
            return await read(desk, call.params)
        except ValueError as error:
            raise ServiceError(503, "bad_desk_profile", str(error)) from None

    return Route(operation, work)


DESK_ROUTES: Final[tuple[Route[Any, Any, Any], ...]] = (
    _route(GET_STATUS, lambda desk, _: desk.status()),
    _route(LIST_BALANCES, lambda desk, params: desk.balances(account=params.account)),
    _route(
        LIST_ORDERS,
        lambda desk, params: desk.orders(
            market=params.market,
            open_only=params.open,
            limit=params.limit,
            account=params.account,
        ),
    ),
    _route(
        LIST_TRADES,
        lambda desk, params: desk.trades(
            market=params.market, limit=params.limit, account=params.account
        ),
    ),
    _route(LIST_OBLIGATIONS, lambda desk, _: desk.obligations()),
)
