"""Orders and fills of accounts in texts: the native API's side of `node.service.account_trading`."""

from __future__ import annotations

from exchange.market.candles import LATEST
from exchange.model.commands import HOUSE, Selection
from exchange.model.records import Order
from node.service.account_trading import AccountTrading
from node.service.refusals import refusals
from node.service.trading import Span
from node.views.account_views import MAX_CANCEL_MS, MIN_CANCEL_MS, CancelAfterView
from node.views.order_mapping import OrderMapping
from node.views.timestamps import iso
from node.views.views import AmendRequest, FillView, OrderRequest, OrderView, ServiceError


class OrderService:
    """Places, amends, cancels and finds orders. `order_id` is a full id or the number alone. Every refusal is a
    `ServiceError`; what changes something returns when it is durable."""

    def __init__(self, trading: AccountTrading, texts: OrderMapping) -> None:
        self._trading = trading
        self._texts = texts

    async def submit(
        self, request: OrderRequest, *, account: int = HOUSE, wait_for_takes: bool = False
    ) -> OrderView:
        """Place an order. Returns when it is durable on this node's disk; with `wait_for_takes` when
        other nodes have decided on what it takes from them too, or TAKE_ANSWER_WAIT is over."""
        order = self._texts.new_order(request, account)
        wait = self._trading.take_answer_wait if wait_for_takes else 0.0
        with refusals():
            placed = await self._trading.place(order, wait=wait)
        return self._texts.order(placed[0])

    async def amend(
        self,
        order_id: str,
        request: AmendRequest,
        *,
        account: int = HOUSE,
        wait_for_takes: bool = False,
    ) -> OrderView:
        order = self._found(order_id, account)
        changes = self._texts.changes(order.market, request)
        wait = self._trading.take_answer_wait if wait_for_takes else 0.0
        with refusals():
            amended = await self._trading.amend(account, order.number, changes, wait=wait)
        return self._texts.order(amended)

    async def cancel(self, order_id: str, *, account: int = HOUSE) -> OrderView:
        number = self._texts.number(order_id)
        with refusals():
            return self._texts.order(await self._trading.cancel(account, number))

    async def cancel_many(
        self,
        *,
        account: int = HOUSE,
        market: str | None = None,
        group: int | None = None,
        client_id: str | None = None,
    ) -> list[OrderView]:
        which = Selection(
            account=account,
            market=self._texts.key(market),
            groups=None if group is None else frozenset([group]),
            client_ids=None if client_id is None else frozenset([self._texts.client_id(client_id)]),
        )
        with refusals():
            cancelled = await self._trading.cancel_many(which)
        return [self._texts.order(order) for order in cancelled]

    async def cancel_after(self, timeout_ms: int, *, account: int = HOUSE) -> CancelAfterView:
        if timeout_ms and not MIN_CANCEL_MS <= timeout_ms <= MAX_CANCEL_MS:
            raise ServiceError(
                400,
                "bad_timeout",
                f"timeout_ms is {MIN_CANCEL_MS} to {MAX_CANCEL_MS} ms, or 0 to end the switch, not {timeout_ms}",
                pointer="/timeout_ms",
            )
        at = await self._trading.cancel_after(account, timeout_ms)
        return CancelAfterView(at=None if at is None else iso(at))

    def get(self, order_id: str, *, account: int = HOUSE) -> OrderView:
        return self._texts.order(self._found(order_id, account))

    def by_client_id(self, client_id: str, *, account: int = HOUSE) -> OrderView:
        order = self._trading.order_by_client_id(account, self._texts.client_id(client_id))
        if order is None:
            raise ServiceError(
                404, "unknown_order", f"there is no order with the client id {client_id!r}"
            )
        return self._texts.order(order)

    def _found(self, order_id: str, account: int) -> Order:
        number = self._texts.number(order_id)
        order = self._trading.order_of(account, number)
        if order is None:
            raise ServiceError(404, "unknown_order", f"this node has no order {number}")
        return order

    async def find(
        self,
        *,
        account: int = HOUSE,
        market: str | None = None,
        open_only: bool = True,
        span: Span | None = None,
    ) -> list[OrderView]:
        """Open orders by the time they were placed; with `open_only` off the finished ones too, all by
        the time of their last change. Without `span` the newest 100."""
        key, span = self._texts.key(market), span or Span()
        if open_only:
            end = LATEST if span.end is None else span.end
            found = [
                order
                for order in self._trading.open_orders_of(account, key)
                if span.start <= order.time <= end
            ]
            found = (found[::-1] if span.newest_first else found)[span.skip :][: span.limit]
        else:
            found = await self._trading.all_orders(account, span, market=key)
        return [self._texts.order(order) for order in found]

    async def fills(
        self,
        *,
        account: int = HOUSE,
        market: str | None = None,
        order: str | None = None,
        span: Span | None = None,
    ) -> list[FillView]:
        fills = await self._trading.fills_of(
            account,
            span or Span(),
            market=self._texts.key(market),
            order=None if order is None else self._texts.number(order),
        )
        return [self._texts.fill(fill) for fill in fills]
