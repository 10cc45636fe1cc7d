"""Operations on an account's own orders, fills and money."""

from __future__ import annotations

from typing import Final

from exchange.orders.order_validation import MAX_CLIENT_ID
from node.operations.operation import (
    ACCOUNT,
    MARKET,
    MARKET_NAME,
    OPEN,
    PAGE_PARAMS,
    Operation,
    Param,
)
from node.views.account_views import CancelAfterRequest, CancelAfterView, FeesView, PostingView
from node.views.field_types import CLIENT_ID_PATTERN, ORDER_ID_PATTERN
from node.views.limits import MAX_GROUP
from node.views.views import (
    AmendRequest,
    BalanceView,
    FillView,
    OrderRequest,
    OrderView,
)

_ORDER_ID: Final = {"type": "string", "pattern": ORDER_ID_PATTERN, "examples": ["12"]}
_CLIENT_NAME: Final = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_CLIENT_ID,
    "pattern": CLIENT_ID_PATTERN,
}
_ORDER: Final = Param("id", "path", _ORDER_ID, "The order's full id or its number.")
_ORDER_QUERY: Final = Param("order", "query", _ORDER_ID, "Only fills of this order.")
_CLIENT_ID: Final = Param("client_id", "path", _CLIENT_NAME, "The id that the client gave.")
# One parameter of the document, each property a parameter of the query: only so a schema can require that one
# of them is given.
_SELECTION: Final = Param(
    "selection",
    "query",
    {
        "type": "object",
        "properties": {
            "market": MARKET_NAME,
            "group": {"type": "integer", "minimum": 0, "maximum": MAX_GROUP},
            "client_id": _CLIENT_NAME,
            "all": {"type": "string", "enum": ["true"]},
        },
        "additionalProperties": False,
        "minProperties": 1,
    },
    "Orders of this `market`, of this `group`, with this `client_id`; `all=true`: every open order that fits.",
)
_WAIT: Final = Param(
    "wait_for_takes",
    "query",
    {"type": "boolean", "default": False},
    "true: answer when other nodes have decided on what the order takes from them, after "
    "TAKE_ANSWER_WAIT at the latest; `pending` is what is not decided then.",
)
_ASSET: Final = Param("asset", "query", {"type": "string", "examples": ["USD"]}, "Only this asset.")
CHANGES: Final = (404, 408, 409, 413, 415, 422, 429, 503, 504)

SUBMIT_ORDER: Final = Operation(
    "POST",
    "/v1/orders",
    "submitOrder",
    "orders",
    "Place an order",
    OrderView,
    "Answers when the order is durable on this node's disk. Without `price` it is a market "
    "order. With `client_id` a repeated submission returns the first one's order. With "
    "`oco_stop` there are two; `linked_order_id` is the second one's id.",
    body=OrderRequest,
    params=(_WAIT, ACCOUNT),
    status=201,
    problems=CHANGES,
    access="trade",
)
LIST_ORDERS: Final = Operation(
    "GET",
    "/v1/orders",
    "listOrders",
    "orders",
    "Own orders",
    list[OrderView],
    "Open ones by the time when they were placed; with `open=false` by their last change.",
    params=(MARKET, OPEN, *PAGE_PARAMS, ACCOUNT),
    problems=(404,),
    access="read",
)
CANCEL_ORDERS: Final = Operation(
    "DELETE",
    "/v1/orders",
    "cancelOrders",
    "orders",
    "Cancel several orders",
    list[OrderView],
    "Those that fit everything that is given; nothing given is refused, `all=true` means every "
    "one. Answers with the orders that were cancelled, when that is durable.",
    params=(_SELECTION, ACCOUNT),
    problems=(404, 409, 422, 429, 503, 504),
    access="trade",
)
CANCEL_AFTER: Final = Operation(
    "POST",
    "/v1/orders/cancel-after",
    "cancelAfter",
    "orders",
    "A dead man's switch",
    CancelAfterView,
    "All open orders of the account are cancelled after this many milliseconds, unless the "
    "request is repeated before. 0 ends it. It survives a restart of the node.",
    body=CancelAfterRequest,
    params=(ACCOUNT,),
    problems=CHANGES,
    access="trade",
)
GET_ORDER_BY_CLIENT_ID: Final = Operation(
    "GET",
    "/v1/orders/by-client-id/{client_id}",
    "getOrderByClientId",
    "orders",
    "The order with a client id",
    OrderView,
    params=(_CLIENT_ID, ACCOUNT),
    problems=(404,),
    access="read",
)
GET_ORDER: Final = Operation(
    "GET",
    "/v1/orders/{id}",
    "getOrder",
    "orders",
    "One own order",
    OrderView,
    params=(_ORDER, ACCOUNT),
    problems=(404,),
    access="read",
)
AMEND_ORDER: Final = Operation(
    "PATCH",
    "/v1/orders/{id}",
    "amendOrder",
    "orders",
    "Amend an order",
    OrderView,
    "What is left out stays as it is. A smaller quantity keeps the order's place in the book, a "
    "greater one or another price does not. Answers when durable.",
    body=AmendRequest,
    params=(_ORDER, _WAIT, ACCOUNT),
    problems=CHANGES,
    access="trade",
)
CANCEL_ORDER: Final = Operation(
    "DELETE",
    "/v1/orders/{id}",
    "cancelOrder",
    "orders",
    "Cancel an order",
    OrderView,
    "Answers with the order as it is after the cancel, when that is durable. What is already "
    "filled stays filled.",
    params=(_ORDER, ACCOUNT),
    problems=(404, 409, 429, 503, 504),
    access="trade",
)
LIST_FILLS: Final = Operation(
    "GET",
    "/v1/fills",
    "listFills",
    "orders",
    "Own fills",
    list[FillView],
    params=(MARKET, _ORDER_QUERY, *PAGE_PARAMS, ACCOUNT),
    problems=(404,),
    access="read",
)
LIST_BALANCES: Final = Operation(
    "GET",
    "/v1/balances",
    "listBalances",
    "money",
    "Balances of the account, and amounts held for open orders",
    list[BalanceView],
    params=(ACCOUNT,),
    problems=(404,),
    access="read",
)
LIST_LEDGER: Final = Operation(
    "GET",
    "/v1/ledger",
    "listLedger",
    "money",
    "The account's lines of the ledger",
    list[PostingView],
    params=(_ASSET, *PAGE_PARAMS, ACCOUNT),
    problems=(404, 422),
    access="read",
)
LIST_FEES: Final = Operation(
    "GET",
    "/v1/fees",
    "listFees",
    "money",
    "Fees and limits of the account",
    list[FeesView],
    params=(ACCOUNT,),
    problems=(404,),
    access="read",
)
