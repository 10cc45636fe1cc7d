"""The work of the operations over the own nodes of a desk, which DESK_PROFILE names."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from node.annexes.desk import desk_operations as operations
from node.annexes.desk.desk import Desk
from node.annexes.desk.desk_part import DeskPart
from node.api.node_service import NodeService
from node.api.route import Call, Route
from node.operations.operation import Operation, P
from node.views.views import ServiceError

A = TypeVar("A")


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
    _route(operations.GET_STATUS, lambda desk, _: desk.status()),
    _route(operations.LIST_BALANCES, lambda desk, params: desk.balances(account=params.account)),
    _route(
        operations.LIST_ORDERS,
        lambda desk, params: desk.orders(
            market=params.market,
            open_only=params.open,
            limit=params.limit,
            account=params.account,
        ),
    ),
    _route(
        operations.LIST_TRADES,
        lambda desk, params: desk.trades(
            market=params.market, limit=params.limit, account=params.account
        ),
    ),
    _route(operations.LIST_OBLIGATIONS, lambda desk, _: desk.obligations()),
)
