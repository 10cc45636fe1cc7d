"""The REST routes about an account's own orders, fills and money."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from node.api.route import (
    PAGE,
    SERVICE,
    Route,
    account_of,
    answer,
    bad_parameter,
    finish,
    flag,
    page,
    query,
    read_body,
    span,
)
from node.operations import trading_operations
from node.views.account_views import CancelAfterRequest
from node.views.limits import MAX_GROUP
from node.views.views import (
    AmendRequest,
    OrderRequest,
    ServiceError,
)


async def submit_order(request: web.Request) -> web.Response:
    values = query(request, "wait_for_takes", "account")
    account, wait = account_of(request, values), flag(values, "wait_for_takes", False)
    order = await read_body(request, OrderRequest)
    work = request.app[SERVICE].submit(order, account=account, wait_for_takes=wait)
    view = await finish(request, work, "placing the order")
    return answer(view, status=201, location=f"/v1/orders/{view.id}")


async def amend_order(request: web.Request) -> web.Response:
    values = query(request, "wait_for_takes", "account")
    account, wait = account_of(request, values), flag(values, "wait_for_takes", False)
    changes = await read_body(request, AmendRequest)
    work = request.app[SERVICE].amend(
        request.match_info["id"], changes, account=account, wait_for_takes=wait
    )
    return answer(await finish(request, work, "amending the order"))


async def list_orders(request: web.Request) -> web.Response:
    values = query(request, "market", "open", "account", *PAGE)
    part, open_only = span(values), flag(values, "open", True)
    views = await request.app[SERVICE].orders(
        account=account_of(request, values),
        market=values.get("market"),
        open_only=open_only,
        span=part,
    )
    return page(
        request,
        values,
        part,
        views,
        lambda view: view.created if open_only else view.updated or view.created,
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
    if values.get("all", "true") != "true":
        raise bad_parameter("all", f"all is true or left out, not {values['all'][:40]!r}")
    if not chosen and "all" not in values:
        raise ServiceError(
            400,
            "invalid_parameter",
            "no orders selected: give market, group, client_id, or all=true for every open order",
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
    values = query(request, "market", "order", "account", *PAGE)
    part = span(values)
    views = await request.app[SERVICE].fills(
        account=account_of(request, values),
        market=values.get("market"),
        order=values.get("order"),
        span=part,
    )
    return page(request, values, part, views, lambda view: view.time)


async def list_balances(request: web.Request) -> web.Response:
    account = account_of(request, query(request, "account"))
    return answer(request.app[SERVICE].operations.balances(account))


async def list_postings(request: web.Request) -> web.Response:
    values = query(request, "asset", "account", *PAGE)
    part = span(values)
    views = await request.app[SERVICE].operations.postings(
        f"account:{account_of(request, values)}", part, asset=values.get("asset")
    )
    return page(request, values, part, views, lambda view: view.time)


async def list_fees(request: web.Request) -> web.Response:
    account = account_of(request, query(request, "account"))
    return answer(request.app[SERVICE].operations.fees(account))


ORDER_ROUTES: Final[tuple[Route, ...]] = (
    Route(trading_operations.SUBMIT_ORDER, submit_order),
    Route(trading_operations.LIST_ORDERS, list_orders),
    Route(trading_operations.CANCEL_ORDERS, cancel_orders),
    Route(trading_operations.CANCEL_AFTER, cancel_after),
    Route(trading_operations.GET_ORDER_BY_CLIENT_ID, get_order_by_client_id),
    Route(trading_operations.GET_ORDER, get_order),
    Route(trading_operations.AMEND_ORDER, amend_order),
    Route(trading_operations.CANCEL_ORDER, cancel_order),
    Route(trading_operations.LIST_FILLS, list_fills),
    Route(trading_operations.LIST_BALANCES, list_balances),
    Route(trading_operations.LIST_LEDGER, list_postings),
    Route(trading_operations.LIST_FEES, list_fees),
)
