"""The REST routes for the node's operator: accounts, keys, money, halts, and what peers owe."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from node.api.route import (
    ACCOUNT_PATH,
    MARKET_PATH,
    SERVICE,
    SPAN,
    SPAN_PARAMS,
    Param,
    Route,
    answer,
    finish,
    query,
    read_body,
    span,
)
from node.service.operator_service import OperatorService
from node.service.position_service import PositionService
from node.views.account_views import (
    AccountChange,
    AccountRequest,
    AccountView,
    ChangedAccountView,
    CreditRequest,
    CreditView,
    HaltRequest,
    HaltView,
    KeyRequest,
    KeyView,
    MoneyRequest,
    NewKeyView,
    ObligationView,
    PositionView,
    PostingView,
    SettlementRequest,
    SettlementView,
    TransferView,
)
from node.views.statement_views import ReconciliationView


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


async def list_postings(request: web.Request) -> web.Response:
    values = query(request, "holder", "asset", *SPAN)
    holder = values.get("holder", "outside")
    views = await _operations(request).postings(holder, span(values), asset=values.get("asset"))
    return answer(views)


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


_KEY: Final = Param("key", "path", {"type": "string"}, "The key, without its secret.")
_ASSET: Final = Param("asset", "query", {"type": "string", "examples": ["USD"]}, "Only this asset.")
_HOLDER: Final = Param(
    "holder",
    "query",
    {"type": "string", "default": "outside", "examples": ["account:alice", "fees"]},
    "account:NAME, peer:NODE, fees, or outside: what came in and left.",
)
_PEER: Final = Param(
    "peer", "path", {"type": "string"}, "Node id, or an unambiguous beginning of it."
)
_CHANGES: Final = (404, 408, 409, 413, 415, 422, 503, 504)

ACCOUNT_ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "GET",
        "/v1/accounts",
        list_accounts,
        "listAccounts",
        "accounts",
        "The accounts of this node",
        list[AccountView],
    ),
    Route(
        "POST",
        "/v1/accounts",
        create_account,
        "createAccount",
        "accounts",
        "Make an account",
        AccountView,
        body=AccountRequest,
        status=201,
        problems=_CHANGES,
    ),
    Route(
        "GET",
        "/v1/accounts/{account}",
        get_account,
        "getAccount",
        "accounts",
        "One account",
        AccountView,
        params=(ACCOUNT_PATH,),
        problems=(404,),
    ),
    Route(
        "PATCH",
        "/v1/accounts/{account}",
        change_account,
        "changeAccount",
        "accounts",
        "Freeze an account or thaw it, or change its limits",
        ChangedAccountView,
        "A frozen account may look and cancel, not trade or withdraw. Its open orders are cancelled, "
        "with reason `frozen`.",
        body=AccountChange,
        params=(ACCOUNT_PATH,),
        problems=_CHANGES,
    ),
    Route(
        "POST",
        "/v1/accounts/{account}/deposits",
        deposit,
        "deposit",
        "accounts",
        "Record that the account handed over money",
        TransferView,
        body=MoneyRequest,
        params=(ACCOUNT_PATH,),
        status=201,
        problems=_CHANGES,
    ),
    Route(
        "POST",
        "/v1/accounts/{account}/withdrawals",
        withdraw,
        "withdraw",
        "accounts",
        "Record that the account got money back",
        TransferView,
        "Not more than is available: what open orders hold stays.",
        body=MoneyRequest,
        params=(ACCOUNT_PATH,),
        status=201,
        problems=_CHANGES,
    ),
    Route(
        "GET",
        "/v1/accounts/{account}/keys",
        list_keys,
        "listKeys",
        "accounts",
        "The account's API keys, without their secrets",
        list[KeyView],
        params=(ACCOUNT_PATH,),
        problems=(404,),
    ),
    Route(
        "POST",
        "/v1/accounts/{account}/keys",
        create_key,
        "createKey",
        "accounts",
        "Make an API key",
        NewKeyView,
        "The secret is in this answer and nowhere else.",
        body=KeyRequest,
        params=(ACCOUNT_PATH,),
        status=201,
        problems=_CHANGES,
    ),
    Route(
        "DELETE",
        "/v1/keys/{key}",
        revoke_key,
        "revokeKey",
        "accounts",
        "Revoke an API key",
        KeyView,
        "Nobody gets in with it any more.",
        params=(_KEY,),
        problems=(404, 503, 504),
    ),
    Route(
        "POST",
        "/v1/markets/{market}/halt",
        halt_market,
        "haltMarket",
        "markets",
        "Halt a market on this node",
        HaltView,
        "New orders are refused with code `halted`; orders can be cancelled. Other nodes go on.",
        body=HaltRequest,
        params=(MARKET_PATH,),
        problems=_CHANGES,
    ),
    Route(
        "POST",
        "/v1/markets/{market}/resume",
        resume_market,
        "resumeMarket",
        "markets",
        "End a halt",
        HaltView,
        "Takes no body.",
        params=(MARKET_PATH,),
        problems=(404, 409, 422, 503, 504),
    ),
    Route(
        "GET",
        "/v1/halts",
        list_halts,
        "listHalts",
        "markets",
        "Which markets are halted on this node",
        list[HaltView],
        access="public",
    ),
    Route(
        "GET",
        "/v1/postings",
        list_postings,
        "listPostings",
        "books",
        "Any holder's lines of the ledger",
        list[PostingView],
        "The lines of one transaction, over all holders, sum to zero for each asset.",
        params=(_HOLDER, _ASSET, *SPAN_PARAMS),
        problems=(404,),
    ),
    Route(
        "GET",
        "/v1/positions",
        list_positions,
        "listPositions",
        "books",
        "What is open with each other node",
        list[PositionView],
    ),
    Route(
        "GET",
        "/v1/obligations",
        list_obligations,
        "listObligations",
        "books",
        "The payments that would even out all positions",
        list[ObligationView],
    ),
    Route(
        "GET",
        "/v1/reconciliations/{peer}",
        reconcile,
        "reconcile",
        "books",
        "Compare what this node and another say of each other",
        ReconciliationView,
        "Asks the other node for its signed statement: positions, trades and settlements between the two. "
        "Where they differ, the answer says in which. `evidence` has everything that both have signed.",
        params=(_PEER,),
        problems=(400, 404, 502, 503, 504),
    ),
    Route(
        "POST",
        "/v1/settlements",
        settle,
        "settle",
        "books",
        "Record a payment between this node and another, made outside",
        SettlementView,
        body=SettlementRequest,
        status=201,
        problems=_CHANGES,
    ),
    Route(
        "GET",
        "/v1/credit",
        list_credit,
        "listCredit",
        "books",
        "How much other nodes may come to owe",
        list[CreditView],
    ),
    Route(
        "POST",
        "/v1/credit",
        set_credit,
        "setCredit",
        "books",
        "Limit how much a node may come to owe",
        CreditView,
        "Trades that would take a node beyond its limit are refused, with reason `credit`.",
        body=CreditRequest,
        problems=_CHANGES,
    ),
)
