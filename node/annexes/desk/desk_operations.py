"""Operations over the own nodes of a desk together."""

from __future__ import annotations

from typing import Final

from node.annexes.desk.desk_views import (
    DeskBalancesView,
    DeskObligationsView,
    DeskOrdersView,
    DeskStatusView,
    DeskTradesView,
)
from node.operations.operation import Operation, Params
from node.operations.parameters import Account, Limit, OfAccount, OnlyMarket, OpenOnly
from node.views.limits import DEFAULT_LIMIT

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
