"""Methods of `node.client.exchange_client.ExchangeClient`, one for each operation of the API.

`operation` makes a method from the declaration alone. Where the declaration's signature would be awkward (bodies, histories), a method
is a signature, and `request` makes the rest: mypy compares its answer's type, and `test_client_calls.py` its parameters.

`account` is for the operator, who may act for any account, by name or number; without it the house is meant. A client
with an API key acts for the key's account and leaves it out.
"""

# mypy: disable-error-code="empty-body"

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from functools import cache, wraps
from inspect import signature
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypedDict, TypeVar, Unpack

import msgspec

from exchange.model.records import Permission
from node.operations import operator_operations as operator
from node.operations import public_operations as public
from node.operations import trading_operations as trading
from node.operations.operation import Operation, Params
from node.operations.parameters import InAccount, InMarket, OfAccount
from node.views.account_views import (
    AccountChange,
    AccountRequest,
    AccountView,
    CancelAfterView,
    ChangedAccountView,
    CreditView,
    HaltView,
    NewKeyView,
    PostingView,
    SettlementView,
    TransferView,
)
from node.views.limits import MAX_LIMIT
from node.views.node_views import (
    CallRequest,
    CallView,
    PeerPolicyView,
    PeerView,
    PingView,
    RouterView,
)
from node.views.views import (
    AmendRequest,
    CandleView,
    FillView,
    OrderRequest,
    OrderView,
    TradeView,
)

T = TypeVar("T")
P = TypeVar("P", bound=Params)
Q = ParamSpec("Q")
Request = Callable[Q, Coroutine[Any, Any, T]]
Text = str | None
Moment = str | int | None  # ISO 8601, or milliseconds since 1970

_DECLARED = {"order_id": "id", "node_id": "node", "open_only": "open"}  # names in the declarations
_signature = cache(signature)


class Rows(TypedDict, total=False):
    """Rows of a history: the newest 100, unless others are asked for. Both ends are included."""

    start: Moment
    end: Moment
    limit: int
    newest_first: bool


class Caller(Protocol):
    """A client, which sends requests."""

    async def call(
        self, operation: Operation[T, Any, Any], arguments: Mapping[str, Any]
    ) -> tuple[T, str | None]: ...


def _arguments(method: Any, *values: Any, **others: Any) -> dict[str, Any]:
    """Return the arguments of a call of `method`, with the names of its operation."""
    bound = _signature(method).bind(None, *values, **others).arguments
    rows = bound.pop("rows", {})
    _, *given = (bound | rows).items()
    body = method.operation.body
    arguments = {
        "body" if body and isinstance(value, body) else _DECLARED.get(name, name): value
        for name, value in given
    }
    if (newest_first := arguments.pop("newest_first", None)) is not None:
        arguments["sort"] = "desc" if newest_first else "asc"
    return arguments


def request(
    operation: Operation[T, Any, Any], **fixed: Any
) -> Callable[[Request[Q, T]], Request[Q, T]]:
    """Make a method that calls the operation, with `fixed` arguments besides its own."""

    def made(method: Any) -> Any:
        @wraps(method)
        async def send(self: Caller, *values: Any, **others: Any) -> T:
            arguments = _arguments(method, *values, **others)
            return (await self.call(operation, arguments | fixed))[0]

        method.operation = send.operation = operation  # type: ignore[attr-defined]
        return send

    return made


def operation(
    declared: Operation[T, P, None], params: Callable[Q, P]
) -> Callable[Concatenate[Any, Q], Coroutine[Any, Any, T]]:
    """Make a method that calls the operation with its own parameters."""

    async def send(self: Caller, /, *values: Q.args, **others: Q.kwargs) -> T:
        arguments = msgspec.structs.asdict(params(*values, **others))
        return (await self.call(declared, arguments))[0]

    send.__doc__ = f"{declared.summary}. {declared.description}"
    send.operation = declared  # type: ignore[attr-defined]
    return send


def every(
    method: Callable[Concatenate[Any, Q], Coroutine[Any, Any, list[T]]],
) -> Callable[Concatenate[Any, Q], AsyncIterator[T]]:
    """Make a method that yields the rows of all pages of a history, by default the oldest first."""

    async def pages(self: Caller, /, *values: Q.args, **others: Q.kwargs) -> AsyncIterator[T]:
        arguments: dict[str, Any] = {"limit": MAX_LIMIT, "sort": "asc"}
        arguments |= _arguments(method, *values, **others)
        while True:
            rows, arguments["cursor"] = await self.call(method.operation, arguments)  # type: ignore[attr-defined]
            for row in rows:
                yield row
            if arguments["cursor"] is None:
                return

    return pages


class TradingCalls:
    """Requests about an account's orders, fills and money."""

    @request(trading.SUBMIT_ORDER)
    async def submit(
        self, request: OrderRequest, *, wait_for_takes: bool = False, account: Text = None
    ) -> OrderView:
        """Place an order; returns when it is durable on the node's disk. With `wait_for_takes` the answer
        waits for the decisions of other nodes that it takes from, for a bounded time."""

    @request(trading.AMEND_ORDER)
    async def amend(
        self,
        order_id: str,
        changes: AmendRequest,
        *,
        wait_for_takes: bool = False,
        account: Text = None,
    ) -> OrderView:
        """Amend an open order; what `changes` leaves out stays as it is."""

    @request(trading.CANCEL_ORDER)
    async def cancel(self, order_id: str, *, account: Text = None) -> OrderView:
        """Cancel an own order, by its full id or its number."""

    @request(trading.CANCEL_ORDERS, all="true")
    async def cancel_many(
        self,
        *,
        market: Text = None,
        group: int | None = None,
        client_id: Text = None,
        account: Text = None,
    ) -> list[OrderView]:
        """Cancel the open orders that match all criteria, or every one; returns the cancelled orders."""

    @request(trading.CANCEL_AFTER)
    async def cancel_after(self, timeout_ms: int, *, account: Text = None) -> CancelAfterView:
        """Set the dead man's switch: all orders are cancelled after this time unless it is set again; 0 ends it."""

    @request(trading.GET_ORDER)
    async def order(self, order_id: str, *, account: Text = None) -> OrderView:
        """Return an own order, by its full id or its number."""

    order_by_client_id = operation(trading.GET_ORDER_BY_CLIENT_ID, trading.OneClientId)

    @request(trading.LIST_ORDERS)
    async def orders(
        self,
        *,
        market: Text = None,
        open_only: bool = True,
        account: Text = None,
        **rows: Unpack[Rows],
    ) -> list[OrderView]:
        """Return own orders: open ones by when they were placed, else all by their last change."""

    every_order = every(orders)

    @request(trading.LIST_FILLS)
    async def fills(
        self,
        *,
        market: Text = None,
        order: Text = None,
        account: Text = None,
        **rows: Unpack[Rows],
    ) -> list[FillView]:
        """Return own fills."""

    every_fill = every(fills)
    balances = operation(trading.LIST_BALANCES, OfAccount)

    @request(trading.LIST_LEDGER)
    async def ledger(
        self, *, asset: Text = None, account: Text = None, **rows: Unpack[Rows]
    ) -> list[PostingView]:
        """Return the account's lines of the ledger."""

    every_ledger_line = every(ledger)
    fees = operation(trading.LIST_FEES, OfAccount)


class OperatorCalls:
    """Requests that need the node's operator."""

    accounts = operation(operator.LIST_ACCOUNTS, Params)
    account = operation(operator.GET_ACCOUNT, InAccount)

    @request(operator.CREATE_ACCOUNT)
    async def create_account(self, request: AccountRequest) -> AccountView:
        """Make an account."""

    @request(operator.CHANGE_ACCOUNT)
    async def change_account(self, account: str, change: AccountChange) -> ChangedAccountView:
        """Freeze, thaw or limit an account; None in `change` keeps a value."""

    async def freeze(self, account: str, frozen: bool = True) -> ChangedAccountView:
        """Freeze an account: it may look and cancel, not trade or withdraw; its open orders are cancelled."""
        return await self.change_account(account, AccountChange(frozen=frozen))

    @request(operator.DEPOSIT)
    async def deposit(
        self, account: str, asset: str, amount: str, *, note: str = ""
    ) -> TransferView:
        """Record that the account handed over money."""

    @request(operator.WITHDRAW)
    async def withdraw(
        self, account: str, asset: str, amount: str, *, note: str = ""
    ) -> TransferView:
        """Record that the account got money back."""

    keys = operation(operator.LIST_KEYS, InAccount)

    @request(operator.CREATE_KEY)
    async def create_key(
        self,
        account: str,
        *,
        permissions: tuple[Permission, ...] = ("read", "trade"),
        label: str = "",
    ) -> NewKeyView:
        """Make an API key. Its secret is in the answer and nowhere else."""

    revoke_key = operation(operator.REVOKE_KEY, operator.OneKey)

    @request(operator.HALT_MARKET)
    async def halt(self, market: str, reason: str) -> HaltView:
        """Halt a market on this node."""

    resume = operation(operator.RESUME_MARKET, InMarket)
    halts = operation(operator.LIST_HALTS, Params)
    market_steps = operation(operator.LIST_MARKET_STEPS, Params)
    change_market_steps = operation(operator.CHANGE_MARKET_STEPS, InMarket)

    @request(operator.LIST_POSTINGS)
    async def postings(
        self, holder: str, *, asset: Text = None, **rows: Unpack[Rows]
    ) -> list[PostingView]:
        """Return lines of the ledger of account:NAME, peer:NODE, fees or outside."""

    every_posting = every(postings)
    positions = operation(operator.LIST_POSITIONS, Params)
    obligations = operation(operator.LIST_OBLIGATIONS, Params)

    @request(operator.SETTLE)
    async def settle(
        self,
        peer: str,
        asset: str,
        amount: str,
        direction: Literal["paid", "received"],
        *,
        note: str = "",
    ) -> SettlementView:
        """Record a payment that was made outside."""

    reconcile = operation(operator.RECONCILE, operator.OnePeer)
    credit = operation(operator.LIST_CREDIT, Params)

    @request(operator.SET_CREDIT)
    async def set_credit(self, asset: str, limit: str | None, *, peer: Text = None) -> CreditView:
        """Set the credit limit of a peer, or of every peer without its own; None: unlimited."""


class PublicCalls:
    """Requests about market data, the network and services."""

    @request(public.LIST_TRADES)
    async def trades(self, *, market: Text = None, **rows: Unpack[Rows]) -> list[TradeView]:
        """Return public trades seen by the node."""

    every_trade = every(trades)

    @request(public.LIST_CANDLES)
    async def candles(
        self, market: str, timeframe: str = "1m", **rows: Unpack[Rows]
    ) -> list[CandleView]:
        """Return candles that begin in a span of time."""

    book = operation(public.GET_BOOK, public.BookParams)
    markets = operation(public.LIST_MARKETS, Params)
    peers = operation(public.LIST_PEERS, Params)
    feeds = operation(public.LIST_FEEDS, Params)
    topology = operation(public.GET_TOPOLOGY, Params)

    @request(public.CONNECT_PEER)
    async def connect(self, address: str) -> PeerView:
        """Make the node dial HOST:PORT now."""

    peer_policy = operation(public.GET_PEER_POLICY, Params)

    @request(public.CHANGE_PEER_POLICY)
    async def change_peer_policy(
        self, action: str, subject: str, *, seconds: int = 86_400, reason: str = ""
    ) -> PeerPolicyView:
        """Pin, unpin, ban or unban. `seconds` and `reason` are of a ban."""

    @request(public.PING_NODE)
    async def ping(self, node_id: str) -> PingView:
        """Make the node ask another one, by id or an unambiguous beginning of it."""

    services = operation(public.LIST_SERVICES, Params)

    @request(public.CALL_SERVICE)
    async def call_service(self, service: str, request: CallRequest) -> CallView:
        """Make the node call a service. `ApiError` with code "service_refused" is the service's own refusal."""

    @request(public.GET_ROUTER)
    async def router(self, *, events: int = 50, kind: Text = None) -> RouterView:
        """Return the state of the adaptive router, with its latest events."""

    session = operation(public.GET_SESSION, Params)
    status = operation(public.GET_STATUS, Params)
    diagnostics = operation(public.GET_DIAGNOSTICS, Params)
    health = operation(public.GET_HEALTH, Params)
    ready = operation(public.GET_READY, Params)
