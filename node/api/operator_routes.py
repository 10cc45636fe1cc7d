"""REST routes for the node's operator: accounts, keys, money, halts, and positions of peers."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from node.api.route import (
    PAGE,
    SERVICE,
    Route,
    answer,
    finish,
    page,
    query,
    read_body,
    span,
)
from node.operations import operator_operations
from node.service.operator_service import OperatorService
from node.service.position_service import PositionService
from node.views.account_views import (
    AccountChange,
    AccountRequest,
    CreditRequest,
    HaltRequest,
    KeyRequest,
    MoneyRequest,
    SettlementRequest,
)


def _operations(request: web.Request) -> OperatorService:
    return request.app[SERVICE].operations


def _positions(request: web.Request) -> PositionService:
    return request.app[SERVICE].operations.positions


async def list_accounts(request: web.Request) -> web.Response:
    query(request)
    return answer(_operations(request).accounts())


async def create_account(request: web.Request) -> web.Response:
    query(request)
    body = await read_body(request, AccountRequest)
    view = await finish(request, _operations(request).create(body), "making the account")
    return answer(view, status=201, location=f"/v1/accounts/{view.number}")


async def get_account(request: web.Request) -> web.Response:
    query(request)
    return answer(_operations(request).show(request.match_info["account"]))


async def change_account(request: web.Request) -> web.Response:
    query(request)
    body = await read_body(request, AccountChange)
    work = _operations(request).change(request.match_info["account"], body)
    return answer(await finish(request, work, "changing the account"))


async def deposit(request: web.Request) -> web.Response:
    query(request)
    body = await read_body(request, MoneyRequest)
    work = _operations(request).deposit(request.match_info["account"], body)
    return answer(await finish(request, work, "the deposit"), status=201)


async def withdraw(request: web.Request) -> web.Response:
    query(request)
    body = await read_body(request, MoneyRequest)
    work = _operations(request).withdraw(request.match_info["account"], body)
    return answer(await finish(request, work, "the withdrawal"), status=201)


async def list_keys(request: web.Request) -> web.Response:
    query(request)
    return answer(_operations(request).keys(request.match_info["account"]))


async def create_key(request: web.Request) -> web.Response:
    query(request)
    body = await read_body(request, KeyRequest)
    work = _operations(request).create_key(request.match_info["account"], body)
    return answer(await finish(request, work, "making the key"), status=201)


async def revoke_key(request: web.Request) -> web.Response:
    query(request)
    work = _operations(request).revoke_key(request.match_info["key"])
    return answer(await finish(request, work, "revoking the key"))


async def halt_market(request: web.Request) -> web.Response:
    query(request)
    body = await read_body(request, HaltRequest)
    work = _operations(request).halt(request.match_info["market"], body.reason)
    return answer(await finish(request, work, "the halt"))


async def resume_market(request: web.Request) -> web.Response:
    query(request)
    work = _operations(request).resume(request.match_info["market"])
    return answer(await finish(request, work, "resuming"))


async def list_halts(request: web.Request) -> web.Response:
    query(request)
    return answer(_operations(request).halts())


async def list_market_steps(request: web.Request) -> web.Response:
    query(request)
    return answer(_operations(request).market_steps())


async def change_market_steps(request: web.Request) -> web.Response:
    query(request)
    work = _operations(request).change_market_steps(request.match_info["market"])
    return answer(await finish(request, work, "changing the steps"))


async def list_postings(request: web.Request) -> web.Response:
    values = query(request, "holder", "asset", *PAGE)
    holder, part = values.get("holder", "outside"), span(values)
    views = await _operations(request).postings(holder, part, asset=values.get("asset"))
    return page(request, values, part, views, lambda view: view.time)


async def list_positions(request: web.Request) -> web.Response:
    query(request)
    return answer(_positions(request).positions())


async def list_obligations(request: web.Request) -> web.Response:
    query(request)
    return answer(_positions(request).obligations())


async def settle(request: web.Request) -> web.Response:
    query(request)
    body = await read_body(request, SettlementRequest)
    work = _positions(request).settle(body)
    return answer(await finish(request, work, "the settlement"), status=201)


async def reconcile(request: web.Request) -> web.Response:
    query(request)
    peer = request.match_info["peer"]
    return answer(
        await request.app[SERVICE].reconcile(peer)
    )  # it changes nothing, and has its own limit


async def list_credit(request: web.Request) -> web.Response:
    query(request)
    return answer(_positions(request).credit())


async def set_credit(request: web.Request) -> web.Response:
    query(request)
    body = await read_body(request, CreditRequest)
    work = _positions(request).set_credit(body)
    return answer(await finish(request, work, "setting the limit"))


ACCOUNT_ROUTES: Final[tuple[Route, ...]] = (
    Route(operator_operations.LIST_ACCOUNTS, list_accounts),
    Route(operator_operations.CREATE_ACCOUNT, create_account),
    Route(operator_operations.GET_ACCOUNT, get_account),
    Route(operator_operations.CHANGE_ACCOUNT, change_account),
    Route(operator_operations.DEPOSIT, deposit),
    Route(operator_operations.WITHDRAW, withdraw),
    Route(operator_operations.LIST_KEYS, list_keys),
    Route(operator_operations.CREATE_KEY, create_key),
    Route(operator_operations.REVOKE_KEY, revoke_key),
    Route(operator_operations.HALT_MARKET, halt_market),
    Route(operator_operations.RESUME_MARKET, resume_market),
    Route(operator_operations.LIST_HALTS, list_halts),
    Route(operator_operations.LIST_MARKET_STEPS, list_market_steps),
    Route(operator_operations.CHANGE_MARKET_STEPS, change_market_steps),
    Route(operator_operations.LIST_POSTINGS, list_postings),
    Route(operator_operations.LIST_POSITIONS, list_positions),
    Route(operator_operations.LIST_OBLIGATIONS, list_obligations),
    Route(operator_operations.RECONCILE, reconcile),
    Route(operator_operations.SETTLE, settle),
    Route(operator_operations.LIST_CREDIT, list_credit),
    Route(operator_operations.SET_CREDIT, set_credit),
)
