"""Trading interface of one account, in integers: the base of all dialects of the API.

Prices are ticks, quantities lots, money units of the asset (see `exchange.ledger.ledger`), times microseconds
since the epoch. What changes something returns when it is durable, and raises `CommandRejected` when it is not
done; then nothing was changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from exchange.model.commands import Amend, NewOrder, Selection
from exchange.model.records import Fill, Order, Posting
from exchange.orders.engine_context import CommandRejected


class Balance(msgspec.Struct, frozen=True):
    """Balance of an account in an asset. `total` - `held` is available; the house's may be negative."""

    asset: str
    total: int
    held: int  # for open orders


class AccountNews(msgspec.Struct, frozen=True):
    """Durable changes of one account, in their order."""

    orders: list[Order]
    fills: list[Fill]
    balances: list[Balance]  # those that changed, holds included


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a history. `start` and `end` are inclusive. `skip`: rows left out at its beginning."""

    start: int = 0
    end: int | None = None
    limit: int = 100
    newest_first: bool = True
    skip: int = 0

    def behind(self, ms: int, rows: int) -> Span:
        """Return the rest of it behind `rows` rows of a millisecond."""
        if self.newest_first:
            end = ms * 1000 + 999
            end = end if self.end is None else min(end, self.end)
            return msgspec.structs.replace(self, end=end, skip=rows)
        return msgspec.structs.replace(self, start=max(self.start, ms * 1000), skip=rows)


class Trading(Protocol):
    """See the module's docstring. Orders and fills of other accounts are as if they did not exist."""

    @property
    def take_answer_wait(self) -> float:
        """Seconds that the node's operator lets an answer wait for other nodes (TAKE_ANSWER_WAIT)."""
        ...

    async def place(self, order: NewOrder, *, wait: float = 0.0) -> list[Order]:
        """Place an order; with `oco_stop` a pair of orders.

        Returns:
            The orders, durable. While other nodes have not decided on what the orders take from them,
            that is waited for, `wait` seconds at most.
        """
        ...

    async def amend(self, account: int, number: int, changes: Amend, *, wait: float = 0.0) -> Order:
        """Amend an order; `wait` as in `place`."""
        ...

    async def cancel(self, account: int, number: int) -> Order: ...

    async def cancel_many(self, which: Selection, *, reason: str = "cancelled") -> list[Order]:
        """Cancel all open orders that fit; those that were. `reason`: why they end."""
        ...

    # The same commands without waiting, for those who send many. They raise `CommandRejected` too. What they
    # return changes in place; take from it what is to be shown, and show that `when_durable` calls.

    @property
    def open(self) -> bool:
        """False while the commands below may not be called: await `opened` first."""
        ...

    async def opened(self) -> None:
        """Return when the commands below may be called, until the caller waits for anything."""
        ...

    def place_now(self, order: NewOrder) -> list[Order]: ...

    def amend_now(self, account: int, number: int, changes: Amend) -> Order: ...

    def cancel_now(self, account: int, number: int) -> Order: ...

    def cancel_many_now(self, which: Selection, *, reason: str = "cancelled") -> list[Order]: ...

    def cancel_after_now(self, account: int, timeout_ms: int) -> int | None:
        """Returns when, in us since the epoch, or None for never."""
        ...

    async def decided(self, orders: Sequence[Order], *, wait: float) -> list[Order]:
        """The orders as they are when they are durable and nothing of them is pending with other nodes any
        more, or after `wait` seconds."""
        ...

    def when_durable(self, call: Callable[[CommandRejected | None], None]) -> None:
        """`call` when all that was done so far is on the disk, or with the error that prevents it. It
        must not block or raise."""
        ...

    async def durable(self, account: int | None = None) -> None:
        """Returns when all that was decided so far is on the disk, or what concerns an account. What is
        read below may be newer than that: wait for it before the answer leaves."""
        ...

    def order_of(self, account: int, number: int) -> Order | None: ...

    def order_by_client_id(self, account: int, client_id: str) -> Order | None: ...

    def open_orders_of(self, account: int, market: str | None = None) -> list[Order]:
        """Oldest first."""
        ...

    async def past_orders(
        self, account: int, span: Span, *, market: str | None = None
    ) -> list[Order]:
        """Finished orders, by the time of their last change."""
        ...

    async def fills_of(
        self, account: int, span: Span, *, market: str | None = None, order: int | None = None
    ) -> list[Fill]: ...

    async def postings(
        self, account: int, span: Span, *, asset: str | None = None
    ) -> list[Posting]: ...

    def balances_of(self, account: int) -> list[Balance]: ...

    def decimals(self, asset: str) -> int:
        """Decimals of an asset: its unit is 10 ** -decimals."""
        ...

    def listen(self, account: int, call: Callable[[AccountNews], None]) -> Callable[[], None]:
        """`call` for all that becomes durable from now on; what is returned ends that. `call` must not
        block or raise."""
        ...
