"""Operations of the node's operator: accounts, keys, money, halts, and obligations of peers."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

from node.operations.operation import Operation, Params
from node.operations.parameters import InAccount, InMarket, OnlyAsset, PageParams
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
    MarketStepsView,
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
from node.views.views import OrderView

_HOLDER: Final = {
    "type": "string",
    "pattern": "^(account:[A-Za-z0-9][A-Za-z0-9._-]{0,31}|peer:[a-z2-7]{4,32}|fees|outside)$",
    "examples": ["account:alice", "fees"],
}
CHANGES: Final = (404, 408, 409, 413, 415, 422, 503, 504)


class OneKey(Params, frozen=True):
    key: Annotated[str, Meta(description="The key, without its secret.")]


class OnePeer(Params, frozen=True):
    peer: Annotated[str, Meta(description="Node id, or an unambiguous beginning of it.")]


class HolderLines(Params, frozen=True, kw_only=True):
    holder: Annotated[
        str,
        Meta(
            description="account:NAME, peer:NODE, fees, or outside: what came in and left.",
            extra={"schema": _HOLDER, "read": str},
        ),
    ] = "outside"
    asset: OnlyAsset = None
    page: PageParams = PageParams()


LIST_ACCOUNTS: Final = Operation(
    "GET /v1/accounts", "listAccounts", "accounts", "The accounts of this node", list[AccountView]
)
CREATE_ACCOUNT: Final = Operation(
    "POST /v1/accounts",
    "createAccount",
    "accounts",
    "Make an account",
    AccountView,
    body=AccountRequest,
    status=201,
    problems=CHANGES,
)
GET_ACCOUNT: Final = Operation(
    "GET /v1/accounts/{account}",
    "getAccount",
    "accounts",
    "One account",
    AccountView,
    params=InAccount,
    problems=(404,),
)
CHANGE_ACCOUNT: Final = Operation(
    "PATCH /v1/accounts/{account}",
    "changeAccount",
    "accounts",
    "Freeze an account or thaw it, or change its limits",
    ChangedAccountView,
    "A frozen account may look and cancel, not trade or withdraw. Its open orders are cancelled, "
    "with reason `frozen`.",
    body=AccountChange,
    params=InAccount,
    problems=CHANGES,
)
DEPOSIT: Final = Operation(
    "POST /v1/accounts/{account}/deposits",
    "deposit",
    "accounts",
    "Record that the account handed over money",
    TransferView,
    body=MoneyRequest,
    params=InAccount,
    status=201,
    problems=CHANGES,
)
WITHDRAW: Final = Operation(
    "POST /v1/accounts/{account}/withdrawals",
    "withdraw",
    "accounts",
    "Record that the account got money back",
    TransferView,
    "Not more than is available: what open orders hold stays.",
    body=MoneyRequest,
    params=InAccount,
    status=201,
    problems=CHANGES,
)
LIST_KEYS: Final = Operation(
    "GET /v1/accounts/{account}/keys",
    "listKeys",
    "accounts",
    "The account's API keys, without their secrets",
    list[KeyView],
    params=InAccount,
    problems=(404,),
)
CREATE_KEY: Final = Operation(
    "POST /v1/accounts/{account}/keys",
    "createKey",
    "accounts",
    "Make an API key",
    NewKeyView,
    "The secret is in this answer and nowhere else.",
    body=KeyRequest,
    params=InAccount,
    status=201,
    problems=CHANGES,
)
REVOKE_KEY: Final = Operation(
    "DELETE /v1/keys/{key}",
    "revokeKey",
    "accounts",
    "Revoke an API key",
    KeyView,
    "The key is refused from then on.",
    params=OneKey,
    problems=(404, 503, 504),
)
HALT_MARKET: Final = Operation(
    "POST /v1/markets/{market}/halt",
    "haltMarket",
    "markets",
    "Halt a market on this node",
    HaltView,
    "New orders are refused with code `halted`; orders can be cancelled. Other nodes go on.",
    body=HaltRequest,
    params=InMarket,
    problems=CHANGES,
)
RESUME_MARKET: Final = Operation(
    "POST /v1/markets/{market}/resume",
    "resumeMarket",
    "markets",
    "End a halt",
    HaltView,
    "Takes no body.",
    params=InMarket,
    problems=(404, 409, 422, 503, 504),
)
LIST_HALTS: Final = Operation(
    "GET /v1/halts",
    "listHalts",
    "markets",
    "Which markets are halted on this node",
    list[HaltView],
    access="public",
)
LIST_MARKET_STEPS: Final = Operation(
    "GET /v1/market-steps",
    "listMarketSteps",
    "markets",
    "Price and quantity steps of the markets, in use and configured",
    list[MarketStepsView],
    "Nodes trade a market with each other only when they agree on both steps.",
)
CHANGE_MARKET_STEPS: Final = Operation(
    "POST /v1/markets/{market}/steps",
    "changeMarketSteps",
    "markets",
    "Use the configured steps of a market from the next start on",
    list[OrderView],
    "Halts the market and cancels its open orders, of all accounts; answers with those. Refused with "
    "`takes_pending` while other nodes have not answered; ask again then. Takes no body.",
    params=InMarket,
    problems=(404, 409, 422, 503, 504),
)
LIST_POSTINGS: Final = Operation(
    "GET /v1/postings",
    "listPostings",
    "books",
    "Any holder's lines of the ledger",
    list[PostingView],
    "The lines of one transaction, over all holders, sum to zero for each asset.",
    params=HolderLines,
    problems=(404, 422),
)
LIST_POSITIONS: Final = Operation(
    "GET /v1/positions",
    "listPositions",
    "books",
    "Open positions with other nodes",
    list[PositionView],
)
LIST_OBLIGATIONS: Final = Operation(
    "GET /v1/obligations",
    "listObligations",
    "books",
    "The payments that would even out all positions",
    list[ObligationView],
)
RECONCILE: Final = Operation(
    "GET /v1/reconciliations/{peer}",
    "reconcile",
    "books",
    "Compare the statements of this node and another about each other",
    ReconciliationView,
    "Asks the other node for its signed statement: positions, trades and settlements between the two. "
    "Where they differ, the answer says in which. `evidence` has everything that both have signed.",
    params=OnePeer,
    problems=(404, 422, 502, 503, 504),
)
SETTLE: Final = Operation(
    "POST /v1/settlements",
    "settle",
    "books",
    "Record a payment between this node and another, made outside",
    SettlementView,
    body=SettlementRequest,
    status=201,
    problems=CHANGES,
)
LIST_CREDIT: Final = Operation(
    "GET /v1/credit",
    "listCredit",
    "books",
    "How much other nodes may come to owe",
    list[CreditView],
)
SET_CREDIT: Final = Operation(
    "POST /v1/credit",
    "setCredit",
    "books",
    "Limit how much a node may come to owe",
    CreditView,
    "Trades that would take a node beyond its limit are refused, with reason `credit`.",
    body=CreditRequest,
    problems=CHANGES,
)
