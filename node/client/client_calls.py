"""The requests of `node.client.exchange_client.ExchangeClient` about orders, accounts and money.

`account` is for the operator, who may act for any account, by name or number; without it the house is
meant. A client with an API key acts for the key's account and leaves it out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Literal, TypedDict, TypeVar, Unpack

from exchange.model.records import Permission
from node.operations import operator_operations, trading_operations
from node.operations.operation import Operation
from node.views.account_views import (
    AccountChange,
    AccountRequest,
    AccountView,
    CancelAfterRequest,
    CancelAfterView,
    ChangedAccountView,
    CreditRequest,
    CreditView,
    FeesView,
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
from node.views.limits import MAX_LIMIT
from node.views.statement_views import ReconciliationView
from node.views.views import AmendRequest, BalanceView, FillView, OrderRequest, OrderView

T = TypeVar("T")
Moment = str | int | None  # ISO 8601, or milliseconds since 1970


class Moments(TypedDict, total=False):
    """A span of time; both ends are included."""

    start: Moment
    end: Moment


class Rows(Moments, total=False):
    """Rows of a history: the newest 100, unless others are asked for."""

    limit: int
    newest_first: bool


class Calls:
    """Requests to the API, each by the declaration of its operation."""

    async def _call(
        self,
        operation: Operation[T, Any, Any],
        /,
        *in_path: str,
        body: Any = None,
        **parameters: str | int | bool | None,
    ) -> T:
        value, _ = await self._ask(operation, *in_path, body=body, **parameters)
        return value

    async def _ask(
        self,
        operation: Operation[T, Any, Any],
        /,
        *in_path: str,
        body: Any = None,
        **parameters: str | int | bool | None,
    ) -> tuple[T, str | None]:
        """As `_call`, with the cursor of the next page if this one is full."""
        raise NotImplementedError

    async def _every(
        self, operation: Operation[list[T], Any, Any], **parameters: str | int | bool | None
    ) -> AsyncIterator[T]:
        """Yield the rows of all pages of a history, oldest first."""
        cursor: str | None = None
        while True:
            rows, cursor = await self._ask(
                operation, **parameters, limit=MAX_LIMIT, newest_first=False, cursor=cursor
            )
            for row in rows:
                yield row
            if cursor is None:
                return


class OrderCalls(Calls):
    """An account's orders, fills and money."""

    async def submit(
        self, request: OrderRequest, *, wait_for_takes: bool = False, account: str | None = None
    ) -> OrderView:
        """Place an order; returns when it is durable on the node's disk. With `wait_for_takes` the answer
        waits for the decisions of other nodes that it takes from, for a bounded time."""
        return await self._call(
            trading_operations.SUBMIT_ORDER,
            body=request,
            wait_for_takes=wait_for_takes or None,
            account=account,
        )

    async def amend(
        self,
        order_id: str,
        changes: AmendRequest,
        *,
        wait_for_takes: bool = False,
        account: str | None = None,
    ) -> OrderView:
        """Amend an open order; what `changes` leaves out stays as it is."""
        return await self._call(
            trading_operations.AMEND_ORDER,
            order_id,
            body=changes,
            wait_for_takes=wait_for_takes or None,
            account=account,
        )

    async def cancel(self, order_id: str, *, account: str | None = None) -> OrderView:
        """Cancels an own order, by its full id or its number."""
        return await self._call(trading_operations.CANCEL_ORDER, order_id, account=account)

    async def cancel_many(
        self,
        *,
        market: str | None = None,
        group: int | None = None,
        client_id: str | None = None,
        account: str | None = None,
    ) -> list[OrderView]:
        """Cancels the open orders that fit all that is given, or every one; those that were."""
        return await self._call(
            trading_operations.CANCEL_ORDERS,
            market=market,
            group=group,
            client_id=client_id,
            all=True,
            account=account,
        )

    async def cancel_after(self, timeout_ms: int, *, account: str | None = None) -> CancelAfterView:
        """The dead man's switch: cancels all after so long unless called again; 0 ends it."""
        body = CancelAfterRequest(timeout_ms=timeout_ms)
        return await self._call(trading_operations.CANCEL_AFTER, body=body, account=account)

    async def order(self, order_id: str, *, account: str | None = None) -> OrderView:
        return await self._call(trading_operations.GET_ORDER, order_id, account=account)

    async def order_by_client_id(self, client_id: str, *, account: str | None = None) -> OrderView:
        return await self._call(
            trading_operations.GET_ORDER_BY_CLIENT_ID, client_id, account=account
        )

    async def orders(
        self,
        *,
        market: str | None = None,
        open_only: bool = True,
        account: str | None = None,
        **rows: Unpack[Rows],
    ) -> list[OrderView]:
        """Own orders: open ones by when they were placed, else all by their last change."""
        return await self._call(
            trading_operations.LIST_ORDERS, market=market, open=open_only, account=account, **rows
        )

    async def fills(
        self,
        *,
        market: str | None = None,
        order: str | None = None,
        account: str | None = None,
        **rows: Unpack[Rows],
    ) -> list[FillView]:
        """Own fills."""
        return await self._call(
            trading_operations.LIST_FILLS, market=market, order=order, account=account, **rows
        )

    def every_order(
        self,
        *,
        market: str | None = None,
        open_only: bool = True,
        account: str | None = None,
        **span: Unpack[Moments],
    ) -> AsyncIterator[OrderView]:
        """All own orders of a span of time, oldest first, page by page."""
        return self._every(
            trading_operations.LIST_ORDERS, market=market, open=open_only, account=account, **span
        )

    def every_fill(
        self,
        *,
        market: str | None = None,
        order: str | None = None,
        account: str | None = None,
        **span: Unpack[Moments],
    ) -> AsyncIterator[FillView]:
        """All own fills of a span of time, oldest first, page by page."""
        return self._every(
            trading_operations.LIST_FILLS, market=market, order=order, account=account, **span
        )

    def every_ledger_line(
        self, *, asset: str | None = None, account: str | None = None, **span: Unpack[Moments]
    ) -> AsyncIterator[PostingView]:
        """All of the account's lines of the ledger in a span of time, oldest first, page by page."""
        return self._every(trading_operations.LIST_LEDGER, asset=asset, account=account, **span)

    async def balances(self, *, account: str | None = None) -> list[BalanceView]:
        return await self._call(trading_operations.LIST_BALANCES, account=account)

    async def ledger(
        self, *, asset: str | None = None, account: str | None = None, **rows: Unpack[Rows]
    ) -> list[PostingView]:
        """The account's lines of the ledger."""
        return await self._call(
            trading_operations.LIST_LEDGER, asset=asset, account=account, **rows
        )

    async def fees(self, *, account: str | None = None) -> list[FeesView]:
        """Fees of the account, by market."""
        return await self._call(trading_operations.LIST_FEES, account=account)


class OperatorCalls(Calls):
    """Requests that need the node's operator."""

    async def accounts(self) -> list[AccountView]:
        return await self._call(operator_operations.LIST_ACCOUNTS)

    async def account(self, account: str) -> AccountView:
        return await self._call(operator_operations.GET_ACCOUNT, account)

    async def create_account(self, request: AccountRequest) -> AccountView:
        return await self._call(operator_operations.CREATE_ACCOUNT, body=request)

    async def freeze(self, account: str, frozen: bool = True) -> ChangedAccountView:
        """A frozen account may look and cancel, not trade or withdraw; its open orders are cancelled."""
        return await self.change_account(account, AccountChange(frozen=frozen))

    async def change_account(self, account: str, change: AccountChange) -> ChangedAccountView:
        """Freeze, thaw or limit an account; None in `change` keeps a value."""
        return await self._call(operator_operations.CHANGE_ACCOUNT, account, body=change)

    async def deposit(
        self, account: str, asset: str, amount: str, *, note: str = ""
    ) -> TransferView:
        body = MoneyRequest(asset=asset, amount=amount, note=note)
        return await self._call(operator_operations.DEPOSIT, account, body=body)

    async def withdraw(
        self, account: str, asset: str, amount: str, *, note: str = ""
    ) -> TransferView:
        body = MoneyRequest(asset=asset, amount=amount, note=note)
        return await self._call(operator_operations.WITHDRAW, account, body=body)

    async def keys(self, account: str) -> list[KeyView]:
        return await self._call(operator_operations.LIST_KEYS, account)

    async def create_key(
        self,
        account: str,
        *,
        permissions: tuple[Permission, ...] = ("read", "trade"),
        label: str = "",
    ) -> NewKeyView:
        """A new API key. Its secret is in the answer and nowhere else."""
        body = KeyRequest(permissions=list(permissions), label=label)
        return await self._call(operator_operations.CREATE_KEY, account, body=body)

    async def revoke_key(self, key: str) -> KeyView:
        return await self._call(operator_operations.REVOKE_KEY, key)

    async def halt(self, market: str, reason: str) -> HaltView:
        return await self._call(
            operator_operations.HALT_MARKET, market, body=HaltRequest(reason=reason)
        )

    async def resume(self, market: str) -> HaltView:
        return await self._call(operator_operations.RESUME_MARKET, market)

    async def halts(self) -> list[HaltView]:
        return await self._call(operator_operations.LIST_HALTS)

    async def market_steps(self) -> list[MarketStepsView]:
        return await self._call(operator_operations.LIST_MARKET_STEPS)

    async def change_market_steps(self, market: str) -> list[OrderView]:
        """Use the configured steps from the next start on. Returns the orders that were cancelled."""
        return await self._call(operator_operations.CHANGE_MARKET_STEPS, market)

    async def postings(
        self, holder: str, *, asset: str | None = None, **rows: Unpack[Rows]
    ) -> list[PostingView]:
        """Lines of the ledger of account:NAME, peer:NODE, fees or outside."""
        return await self._call(
            operator_operations.LIST_POSTINGS, holder=holder, asset=asset, **rows
        )

    def every_posting(
        self, holder: str, *, asset: str | None = None, **span: Unpack[Moments]
    ) -> AsyncIterator[PostingView]:
        """All lines of a holder in a span of time, oldest first, page by page."""
        return self._every(operator_operations.LIST_POSTINGS, holder=holder, asset=asset, **span)

    async def positions(self) -> list[PositionView]:
        """Positions with each other node."""
        return await self._call(operator_operations.LIST_POSITIONS)

    async def obligations(self) -> list[ObligationView]:
        """The payments that would even out all positions."""
        return await self._call(operator_operations.LIST_OBLIGATIONS)

    async def settle(
        self,
        peer: str,
        asset: str,
        amount: str,
        direction: Literal["paid", "received"],
        *,
        note: str = "",
    ) -> SettlementView:
        """Records a payment that was made outside."""
        body = SettlementRequest(
            peer=peer, asset=asset, amount=amount, direction=direction, note=note
        )
        return await self._call(operator_operations.SETTLE, body=body)

    async def reconcile(self, peer: str) -> ReconciliationView:
        """Compare the statements of this node and another about each other."""
        return await self._call(operator_operations.RECONCILE, peer)

    async def credit(self) -> list[CreditView]:
        return await self._call(operator_operations.LIST_CREDIT)

    async def set_credit(
        self, asset: str, limit: str | None, *, peer: str | None = None
    ) -> CreditView:
        """Set the credit limit of a peer, or of every peer without its own; None: unlimited."""
        body = CreditRequest(peer=peer, asset=asset, limit=limit)
        return await self._call(operator_operations.SET_CREDIT, body=body)
