"""The REST routes about an account's own orders, fills and money."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from node.api.route import (
    ACCOUNT,
    MARKET,
    SERVICE,
    SPAN,
    SPAN_PARAMS,
    Param,
    Route,
    account_of,
    answer,
    bad_parameter,
    finish,
    flag,
    query,
    read_body,
    span,
)
from node.views.account_views import CancelAfterRequest, CancelAfterView, FeesView, PostingView
from node.views.order_mapping import MAX_GROUP
from node.views.views import (
    AmendRequest,
    BalanceView,
    FillView,
    OrderRequest,
    OrderView,
    ServiceError,
)


async def submit_order(request: web.Request) -> web.Response:
    account = account_of(request, query(request, "account"))
    order = await read_body(request, OrderRequest)
    work = request.app[SERVICE].submit(order, account=account)
    view = await finish(request, work, "placing the order")
    return answer(view, status=201, location=f"/v1/orders/{view.id}")


async def amend_order(request: web.Request) -> web.Response:
    account = account_of(request, query(request, "account"))
    changes = await read_body(request, AmendRequest)
    work = request.app[SERVICE].amend(request.match_info["id"], changes, account=account)
    return answer(await finish(request, work, "amending the order"))


async def list_orders(request: web.Request) -> web.Response:
    values = query(request, "market", "open", "account", *SPAN)
    return answer(
        await request.app[SERVICE].orders(
            account=account_of(request, values),
            market=values.get("market"),
            open_only=flag(values, "open", True),
            span=span(values),
        )
    )


async def get_order(request: web.Request) -> web.Response:
    account = account_of(request, query(request, "account"))
    return answer(request.app[SERVICE].order(request.match_info["id"], account=account))


async def get_order_by_client_id(request: web.Request) -> web.Response:
    account = account_of(request, query(request, "account"))
    client_id = request.match_info["client_id"]
    return answer(request.app[SERVICE].order_by_client_id(client_id, account=account))


async def cancel_order(request: web.Request) -> web.Response:
    account = account_of(request, query(request, "account"))
    work = request.app[SERVICE].cancel(request.match_info["id"], account=account)
    return answer(await finish(request, work, "cancelling the order"))


async def cancel_orders(request: web.Request) -> web.Response:
    values = query(request, "market", "group", "client_id", "all", "account")
    chosen = {name for name in ("market", "group", "client_id") if name in values}
    if not chosen and not flag(values, "all", False):
        raise ServiceError(
            400,
            "invalid_parameter",
            "say which orders: market, group, client_id, or all=true for every open order",
            parameter="all",
        )
    work = request.app[SERVICE].cancel_many(
        account=account_of(request, values),
        market=values.get("market"),
        group=_group(values),
        client_id=values.get("client_id"),
    )
    return answer(await finish(request, work, "cancelling the orders"))


def _group(values: dict[str, str]) -> int | None:
    text = values.get("group")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and int(text[:20]) <= MAX_GROUP):
        raise bad_parameter(
            "group", f"group must be a whole number from 0 to {MAX_GROUP}, not {text[:40]!r}"
        )
    return int(text)


async def cancel_after(request: web.Request) -> web.Response:
    account = account_of(request, query(request, "account"))
    body = await read_body(request, CancelAfterRequest)
    work = request.app[SERVICE].cancel_after(body.timeout_ms, account=account)
    return answer(await finish(request, work, "setting the switch"))


async def list_fills(request: web.Request) -> web.Response:
    values = query(request, "market", "order", "account", *SPAN)
    return answer(
        await request.app[SERVICE].fills(
            account=account_of(request, values),
            market=values.get("market"),
            order=values.get("order"),
            span=span(values),
        )
    )


async def list_balances(request: web.Request) -> web.Response:
    account = account_of(request, query(request, "account"))
    return answer(request.app[SERVICE].operations.balances(account))


async def list_postings(request: web.Request) -> web.Response:
    values = query(request, "asset", "account", *SPAN)
    return answer(
        await request.app[SERVICE].operations.postings(
            f"account:{account_of(request, values)}", span(values), asset=values.get("asset")
        )
    )


async def list_fees(request: web.Request) -> web.Response:
    account = account_of(request, query(request, "account"))
    return answer(request.app[SERVICE].operations.fees(account))


_ORDER: Final = Param(
    "id", "path", {"type": "string", "examples": ["12"]}, "The order's full id or its number."
)
_ORDER_QUERY: Final = Param("order", "query", {"type": "string"}, "Only fills of this order.")
_CLIENT_ID: Final = Param("client_id", "path", {"type": "string"}, "The id that the client gave.")
_CLIENT_ID_QUERY: Final = Param("client_id", "query", {"type": "string"}, "The order with this id.")
_OPEN: Final = Param(
    "open",
    "query",
    {"type": "boolean", "default": True},
    "true: only orders still open or pending; false: finished ones too.",
)
_GROUP: Final = Param(
    "group",
    "query",
    {"type": "integer", "minimum": 0, "maximum": MAX_GROUP},
    "Only orders of this group.",
)
_ALL: Final = Param(
    "all", "query", {"type": "boolean", "default": False}, "true: every open order that fits."
)
_ASSET: Final = Param("asset", "query", {"type": "string", "examples": ["USD"]}, "Only this asset.")
_CHANGES: Final = (404, 408, 409, 413, 415, 422, 429, 503, 504)

ORDER_ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "POST",
        "/v1/orders",
        submit_order,
        "submitOrder",
        "orders",
        "Place an order",
        OrderView,
        "Answers when the order is durable on this node's disk. Without `price` it is a market "
        "order. With `client_id` a repeated submission returns the first one's order. With "
        "`oco_stop` there are two; `linked_order_id` is the second one's id.",
        body=OrderRequest,
        params=(ACCOUNT,),
        status=201,
        problems=_CHANGES,
        access="trade",
    ),
    Route(
        "GET",
        "/v1/orders",
        list_orders,
        "listOrders",
        "orders",
        "Own orders",
        list[OrderView],
        "Open ones by the time when they were placed; with `open=false` by their last change.",
        params=(MARKET, _OPEN, *SPAN_PARAMS, ACCOUNT),
        problems=(404,),
        access="read",
    ),
    Route(
        "DELETE",
        "/v1/orders",
        cancel_orders,
        "cancelOrders",
        "orders",
        "Cancel several orders",
        list[OrderView],
        "Those that fit everything that is given; nothing given is refused, `all=true` means every "
        "one. Answers with the orders that were cancelled, when that is durable.",
        params=(MARKET, _GROUP, _CLIENT_ID_QUERY, _ALL, ACCOUNT),
        problems=(404, 409, 422, 429, 503, 504),
        access="trade",
    ),
    Route(
        "POST",
        "/v1/orders/cancel-after",
        cancel_after,
        "cancelAfter",
        "orders",
        "A dead man's switch",
        CancelAfterView,
        "All open orders of the account are cancelled after so many milliseconds, unless this is "
        "said again before. 0 ends it. It survives a restart of the node.",
        body=CancelAfterRequest,
        params=(ACCOUNT,),
        problems=_CHANGES,
        access="trade",
    ),
    Route(
        "GET",
        "/v1/orders/by-client-id/{client_id}",
        get_order_by_client_id,
        "getOrderByClientId",
        "orders",
        "The order with a client id",
        OrderView,
        params=(_CLIENT_ID, ACCOUNT),
        problems=(404,),
        access="read",
    ),
    Route(
        "GET",
        "/v1/orders/{id}",
        get_order,
        "getOrder",
        "orders",
        "One own order",
        OrderView,
        params=(_ORDER, ACCOUNT),
        problems=(404,),
        access="read",
    ),
    Route(
        "PATCH",
        "/v1/orders/{id}",
        amend_order,
        "amendOrder",
        "orders",
        "Amend an order",
        OrderView,
        "What is left out stays as it is. A smaller quantity keeps the order's place in the book, a "
        "greater one or another price does not. Answers when durable.",
        body=AmendRequest,
        params=(_ORDER, ACCOUNT),
        problems=_CHANGES,
        access="trade",
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
        params=(_ORDER, ACCOUNT),
        problems=(404, 409, 429, 503, 504),
        access="trade",
    ),
    Route(
        "GET",
        "/v1/fills",
        list_fills,
        "listFills",
        "orders",
        "Own fills",
        list[FillView],
        params=(MARKET, _ORDER_QUERY, *SPAN_PARAMS, ACCOUNT),
        problems=(404,),
        access="read",
    ),
    Route(
        "GET",
        "/v1/balances",
        list_balances,
        "listBalances",
        "money",
        "What the account has, and what of it is held for open orders",
        list[BalanceView],
        params=(ACCOUNT,),
        problems=(404,),
        access="read",
    ),
    Route(
        "GET",
        "/v1/ledger",
        list_postings,
        "listLedger",
        "money",
        "The account's lines of the ledger",
        list[PostingView],
        params=(_ASSET, *SPAN_PARAMS, ACCOUNT),
        problems=(404,),
        access="read",
    ),
    Route(
        "GET",
        "/v1/fees",
        list_fees,
        "listFees",
        "money",
        "What trading costs the account",
        list[FeesView],
        params=(ACCOUNT,),
        problems=(404,),
        access="read",
    ),
)
