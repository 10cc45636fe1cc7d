"""The requests of `node.client.exchange_client.ExchangeClient` about orders, accounts and money.

`account` is for the operator, who may act for any account, by name or number; without it the house is
meant. A client with an API key acts for the key's account and leaves it out.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar
from urllib.parse import quote

from exchange.model.records import Permission
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
from node.views.views import AmendRequest, BalanceView, FillView, OrderRequest, OrderView

T = TypeVar("T")
Moment = str | int | None  # ISO 8601, or milliseconds since 1970


def _in_path(text: str) -> str:
    return quote(text, safe="")


def _sort(newest_first: bool) -> str:
    return "desc" if newest_first else "asc"


class Calls:
    """Requests to the API."""

    async def _call(
        self,
        kind: type[T],
        method: str,
        path: str,
        /,
        *,
        body: Any = None,
        **parameters: str | int | bool | None,
    ) -> T:
        raise NotImplementedError


class OrderCalls(Calls):
    """An account's orders, fills and money."""

    async def submit(self, request: OrderRequest, *, account: str | None = None) -> OrderView:
        """Places an order; returns when it is durable on the node's disk."""
        return await self._call(OrderView, "POST", "/v1/orders", body=request, account=account)

    async def amend(
        self, order_id: str, changes: AmendRequest, *, account: str | None = None
    ) -> OrderView:
        """Changes an open order; what is None in `changes` stays as it is."""
        path = f"/v1/orders/{_in_path(order_id)}"
        return await self._call(OrderView, "PATCH", path, body=changes, account=account)

    async def cancel(self, order_id: str, *, account: str | None = None) -> OrderView:
        """Cancels an own order, by its full id or its number."""
        path = f"/v1/orders/{_in_path(order_id)}"
        return await self._call(OrderView, "DELETE", path, account=account)

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
            list[OrderView],
            "DELETE",
            "/v1/orders",
            market=market,
            group=group,
            client_id=client_id,
            all=True,
            account=account,
        )

    async def cancel_after(self, timeout_ms: int, *, account: str | None = None) -> CancelAfterView:
        """The dead man's switch: cancels all after so long unless called again; 0 ends it."""
        body = CancelAfterRequest(timeout_ms=timeout_ms)
        path = "/v1/orders/cancel-after"
        return await self._call(CancelAfterView, "POST", path, body=body, account=account)

    async def order(self, order_id: str, *, account: str | None = None) -> OrderView:
        path = f"/v1/orders/{_in_path(order_id)}"
        return await self._call(OrderView, "GET", path, account=account)

    async def order_by_client_id(self, client_id: str, *, account: str | None = None) -> OrderView:
        path = f"/v1/orders/by-client-id/{_in_path(client_id)}"
        return await self._call(OrderView, "GET", path, account=account)

    async def orders(
        self,
        *,
        market: str | None = None,
        open_only: bool = True,
        start: Moment = None,
        end: Moment = None,
        limit: int = 100,
        newest_first: bool = True,
        account: str | None = None,
    ) -> list[OrderView]:
        """Own orders: open ones by when they were placed, else all by their last change."""
        return await self._call(
            list[OrderView],
            "GET",
            "/v1/orders",
            market=market,
            open=open_only,
            start=start,
            end=end,
            limit=limit,
            sort=_sort(newest_first),
            account=account,
        )

    async def fills(
        self,
        *,
        market: str | None = None,
        order: str | None = None,
        start: Moment = None,
        end: Moment = None,
        limit: int = 100,
        newest_first: bool = True,
        account: str | None = None,
    ) -> list[FillView]:
        """Own fills."""
        return await self._call(
            list[FillView],
            "GET",
            "/v1/fills",
            market=market,
            order=order,
            start=start,
            end=end,
            limit=limit,
            sort=_sort(newest_first),
            account=account,
        )

    async def balances(self, *, account: str | None = None) -> list[BalanceView]:
        return await self._call(list[BalanceView], "GET", "/v1/balances", account=account)

    async def ledger(
        self,
        *,
        asset: str | None = None,
        start: Moment = None,
        end: Moment = None,
        limit: int = 100,
        newest_first: bool = True,
        account: str | None = None,
    ) -> list[PostingView]:
        """The account's lines of the ledger."""
        return await self._call(
            list[PostingView],
            "GET",
            "/v1/ledger",
            asset=asset,
            start=start,
            end=end,
            limit=limit,
            sort=_sort(newest_first),
            account=account,
        )

    async def fees(self, *, account: str | None = None) -> list[FeesView]:
        """Fees of the account, by market."""
        return await self._call(list[FeesView], "GET", "/v1/fees", account=account)


class OperatorCalls(Calls):
    """Requests that need the node's operator."""

    async def accounts(self) -> list[AccountView]:
        return await self._call(list[AccountView], "GET", "/v1/accounts")

    async def account(self, account: str) -> AccountView:
        return await self._call(AccountView, "GET", f"/v1/accounts/{_in_path(account)}")

    async def create_account(self, request: AccountRequest) -> AccountView:
        return await self._call(AccountView, "POST", "/v1/accounts", body=request)

    async def freeze(self, account: str, frozen: bool = True) -> ChangedAccountView:
        """A frozen account may look and cancel, not trade or withdraw; its open orders are cancelled."""
        return await self.change_account(account, AccountChange(frozen=frozen))

    async def change_account(self, account: str, change: AccountChange) -> ChangedAccountView:
        """Freezes, thaws or limits; what is None in `change` stays."""
        path = f"/v1/accounts/{_in_path(account)}"
        return await self._call(ChangedAccountView, "PATCH", path, body=change)

    async def deposit(
        self, account: str, asset: str, amount: str, *, note: str = ""
    ) -> TransferView:
        body = MoneyRequest(asset=asset, amount=amount, note=note)
        path = f"/v1/accounts/{_in_path(account)}/deposits"
        return await self._call(TransferView, "POST", path, body=body)

    async def withdraw(
        self, account: str, asset: str, amount: str, *, note: str = ""
    ) -> TransferView:
        body = MoneyRequest(asset=asset, amount=amount, note=note)
        path = f"/v1/accounts/{_in_path(account)}/withdrawals"
        return await self._call(TransferView, "POST", path, body=body)

    async def keys(self, account: str) -> list[KeyView]:
        return await self._call(list[KeyView], "GET", f"/v1/accounts/{_in_path(account)}/keys")

    async def create_key(
        self,
        account: str,
        *,
        permissions: tuple[Permission, ...] = ("read", "trade"),
        label: str = "",
    ) -> NewKeyView:
        """A new API key. Its secret is in the answer and nowhere else."""
        body = KeyRequest(permissions=list(permissions), label=label)
        path = f"/v1/accounts/{_in_path(account)}/keys"
        return await self._call(NewKeyView, "POST", path, body=body)

    async def revoke_key(self, key: str) -> KeyView:
        return await self._call(KeyView, "DELETE", f"/v1/keys/{_in_path(key)}")

    async def halt(self, market: str, reason: str) -> HaltView:
        path = f"/v1/markets/{_in_path(market)}/halt"
        return await self._call(HaltView, "POST", path, body=HaltRequest(reason=reason))

    async def resume(self, market: str) -> HaltView:
        return await self._call(HaltView, "POST", f"/v1/markets/{_in_path(market)}/resume")

    async def halts(self) -> list[HaltView]:
        return await self._call(list[HaltView], "GET", "/v1/halts")

    async def postings(
        self,
        holder: str,
        *,
        asset: str | None = None,
        start: Moment = None,
        end: Moment = None,
        limit: int = 100,
        newest_first: bool = True,
    ) -> list[PostingView]:
        """Lines of the ledger of account:NAME, peer:NODE, fees or outside."""
        return await self._call(
            list[PostingView],
            "GET",
            "/v1/postings",
            holder=holder,
            asset=asset,
            start=start,
            end=end,
            limit=limit,
            sort=_sort(newest_first),
        )

    async def positions(self) -> list[PositionView]:
        """Positions with each other node."""
        return await self._call(list[PositionView], "GET", "/v1/positions")

    async def obligations(self) -> list[ObligationView]:
        """The payments that would even out all positions."""
        return await self._call(list[ObligationView], "GET", "/v1/obligations")

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
        return await self._call(SettlementView, "POST", "/v1/settlements", body=body)

    async def reconcile(self, peer: str) -> ReconciliationView:
        """Compares what this node and another say of each other."""
        path = f"/v1/reconciliations/{_in_path(peer)}"
        return await self._call(ReconciliationView, "GET", path)

    async def credit(self) -> list[CreditView]:
        return await self._call(list[CreditView], "GET", "/v1/credit")

    async def set_credit(
        self, asset: str, limit: str | None, *, peer: str | None = None
    ) -> CreditView:
        """Set the credit limit of a peer, or of every peer without its own; None: unlimited."""
        body = CreditRequest(peer=peer, asset=asset, limit=limit)
        return await self._call(CreditView, "POST", "/v1/credit", body=body)
