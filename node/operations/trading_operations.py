"""Operations on an account's own orders, fills and money."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

from msgspec import Meta

from node.operations.operation import Operation, Params
from node.operations.parameters import (
    Account,
    OfAccount,
    OnlyAsset,
    OnlyMarket,
    OpenOnly,
    PageParams,
)
from node.views.account_views import CancelAfterRequest, CancelAfterView, FeesView, PostingView
from node.views.field_types import ORDER_ID_PATTERN, ClientId, MarketSymbol
from node.views.limits import MAX_GROUP
from node.views.views import AmendRequest, BalanceView, FillView, OrderRequest, OrderView

OrderId = Annotated[str, Meta(examples=["12"], extra_json_schema={"pattern": ORDER_ID_PATTERN})]
Group = Annotated[int, Meta(ge=0, le=MAX_GROUP)]
Wait = Annotated[
    bool,
    Meta(
        description="true: answer when other nodes have decided on what the order takes from them, after "
        "TAKE_ANSWER_WAIT at the latest; `pending` is what is not decided then."
    ),
]


def _every(text: str) -> str:
    if text != "true":
        raise ValueError(f"is true or left out, not {text[:40]!r}")
    return text


class OrderSelection(Params, frozen=True, kw_only=True):
    """Orders of this `market`, of this `group`, with this `client_id`; `all=true`: every open order that fits."""

    SCHEMA: ClassVar = {"additionalProperties": False, "minProperties": 1}

    market: MarketSymbol | None = None
    group: Group | None = None
    client_id: ClientId | None = None
    all: (
        Annotated[str, Meta(extra={"schema": {"type": "string", "enum": ["true"]}, "read": _every})]
        | None
    ) = None


class NewOrderParams(Params, frozen=True, kw_only=True):
    wait_for_takes: Wait = False
    account: Account = None


class OneOrder(Params, frozen=True, kw_only=True):
    id: Annotated[OrderId, Meta(description="The order's full id or its number.")]
    account: Account = None


class AmendParams(Params, frozen=True, kw_only=True):
    id: Annotated[OrderId, Meta(description="The order's full id or its number.")]
    wait_for_takes: Wait = False
    account: Account = None


class OneClientId(Params, frozen=True):
    client_id: Annotated[ClientId, Meta(description="The id that the client gave.")]
    account: Account = None


class SeveralOrders(Params, frozen=True, kw_only=True):
    selection: OrderSelection = OrderSelection()
    account: Account = None


class OrderList(Params, frozen=True, kw_only=True):
    market: OnlyMarket = None
    open: OpenOnly = True
    page: PageParams = PageParams()
    account: Account = None


class FillList(Params, frozen=True, kw_only=True):
    market: OnlyMarket = None
    order: Annotated[OrderId, Meta(description="Only fills of this order.")] | None = None
    page: PageParams = PageParams()
    account: Account = None


class LedgerLines(Params, frozen=True, kw_only=True):
    asset: OnlyAsset = None
    page: PageParams = PageParams()
    account: Account = None


CHANGES: Final = (404, 408, 409, 413, 415, 422, 429, 503, 504)

SUBMIT_ORDER: Final = Operation(
    "POST /v1/orders",
    "submitOrder",
    "orders",
    "Place an order",
    OrderView,
    "Answers when the order is durable on this node's disk. Without `price` it is a market "
    "order. With `client_id` a repeated submission returns the first one's order. With "
    "`oco_stop` there are two; `linked_order_id` is the second one's id.",
    body=OrderRequest,
    params=NewOrderParams,
    status=201,
    problems=CHANGES,
    access="trade",
)
LIST_ORDERS: Final = Operation(
    "GET /v1/orders",
    "listOrders",
    "orders",
    "Own orders",
    list[OrderView],
    "Open ones by the time when they were placed; with `open=false` by their last change.",
    params=OrderList,
    problems=(404,),
    access="read",
)
CANCEL_ORDERS: Final = Operation(
    "DELETE /v1/orders",
    "cancelOrders",
    "orders",
    "Cancel several orders",
    list[OrderView],
    "Those that fit everything that is given; nothing given is refused, `all=true` means every "
    "one. Answers with the orders that were cancelled, when that is durable.",
    params=SeveralOrders,
    problems=(404, 409, 422, 429, 503, 504),
    access="trade",
)
CANCEL_AFTER: Final = Operation(
    "POST /v1/orders/cancel-after",
    "cancelAfter",
    "orders",
    "A dead man's switch",
    CancelAfterView,
    "All open orders of the account are cancelled after this many milliseconds, unless the "
    "request is repeated before. 0 ends it. It survives a restart of the node.",
    body=CancelAfterRequest,
    params=OfAccount,
    problems=CHANGES,
    access="trade",
)
GET_ORDER_BY_CLIENT_ID: Final = Operation(
    "GET /v1/orders/by-client-id/{client_id}",
    "getOrderByClientId",
    "orders",
    "The order with a client id",
    OrderView,
    params=OneClientId,
    problems=(404,),
    access="read",
)
GET_ORDER: Final = Operation(
    "GET /v1/orders/{id}",
    "getOrder",
    "orders",
    "One own order",
    OrderView,
    params=OneOrder,
    problems=(404,),
    access="read",
)
AMEND_ORDER: Final = Operation(
    "PATCH /v1/orders/{id}",
    "amendOrder",
    "orders",
    "Amend an order",
    OrderView,
    "What is left out stays as it is. A smaller quantity keeps the order's place in the book, a "
    "greater one or another price does not. Answers when durable.",
    body=AmendRequest,
    params=AmendParams,
    problems=CHANGES,
    access="trade",
)
CANCEL_ORDER: Final = Operation(
    "DELETE /v1/orders/{id}",
    "cancelOrder",
    "orders",
    "Cancel an order",
    OrderView,
    "Answers with the order as it is after the cancel, when that is durable. What is already "
    "filled stays filled.",
    params=OneOrder,
    problems=(404, 409, 429, 503, 504),
    access="trade",
)
LIST_FILLS: Final = Operation(
    "GET /v1/fills",
    "listFills",
    "orders",
    "Own fills",
    list[FillView],
    params=FillList,
    problems=(404,),
    access="read",
)
LIST_BALANCES: Final = Operation(
    "GET /v1/balances",
    "listBalances",
    "money",
    "Balances of the account, and amounts held for open orders",
    list[BalanceView],
    params=OfAccount,
    problems=(404,),
    access="read",
)
LIST_LEDGER: Final = Operation(
    "GET /v1/ledger",
    "listLedger",
    "money",
    "The account's lines of the ledger",
    list[PostingView],
    params=LedgerLines,
    problems=(404, 422),
    access="read",
)
LIST_FEES: Final = Operation(
    "GET /v1/fees",
    "listFees",
    "money",
    "Fees and limits of the account",
    list[FeesView],
    params=OfAccount,
    problems=(404,),
    access="read",
)
