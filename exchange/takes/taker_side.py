"""Taker side of the take protocol: requests to other owners, and the processing of their answers.

Rules of this file:
- The requested quantity is pending, neither free nor filled, until its owner has answered.
- Every change of a take is journaled with the same drain that sends its message.
"""

from __future__ import annotations

from copy import copy
from typing import Literal

from exchange.feeds.exchange_messages import TakeResult, pack
from exchange.market.market import Hold
from exchange.model.ports import Send
from exchange.model.records import DropTake, Order, PendingTake
from exchange.orders.engine_context import EngineContext
from exchange.orders.fills import FillRecorder
from exchange.orders.order_store import OrderStore
from exchange.takes.take_protocol import RESERVED, PendingTakes

REFUSED_HOLD = 5.0  # seconds to avoid an order after a refusal that its feed will not show


class TakerSide:
    """Takes of other owners' orders by this node's orders."""

    def __init__(
        self,
        context: EngineContext,
        store: OrderStore,
        fills: FillRecorder,
        takes: PendingTakes,
    ) -> None:
        self._context = context
        self._store = store
        self._fills = fills
        self._takes = takes

    def restore(self, takes: list[PendingTake]) -> None:
        """Restore takes whose outcome the journal does not know."""
        for take in sorted(takes, key=lambda t: t.take):
            market = self._context.markets.get(take.market)
            if market is not None:
                # The market has moved since the request: request the outcome, not a new fill. A
                # committed fill-or-kill order continues.
                take.void = take.phase != "commit"
                self._takes.add(0.0, take)
                market.reserve(take.maker, take.maker_order, take.quantity)

    def request(
        self,
        now: float,
        order: Order,
        maker: str,
        maker_order: int,
        price: int,
        quantity: int,
        phase: Literal["", "reserve"] = "",
    ) -> None:
        """Request a quantity of another owner's order."""
        market = self._context.markets[order.market]
        take = PendingTake(
            take=self._fills.new_take(),
            market=market.key,
            order=order.number,
            maker=maker,
            maker_order=maker_order,
            side=order.side,
            price=price,
            quantity=quantity,
            seen=market.replicas[maker].feed.number,
            phase=phase,
        )
        order.pending += quantity
        market.reserve(maker, maker_order, quantity)
        self._takes.add(now, take)
        self._context.records.append(copy(take))
        self._context.orders[order.number] = order

    def commit(self, now: float, take: PendingTake) -> None:
        """Commit a reservation of a fill-or-kill order: from now on its fill is requested."""
        self._takes.commit(now, take.take)
        self._context.records.append(copy(take))

    def give_up(self, now: float, take: PendingTake) -> None:
        """Give up a reservation of a fill-or-kill order. It is never committed, so nothing of it can be
        filled and the order is free of it, whatever its owner does."""
        self._takes.give_up(now, take.take)
        self._context.records.append(copy(take))
        order = self._store.open[take.order]
        order.pending -= take.quantity
        self._context.orders[order.number] = order

    def send_due(self, now: float) -> None:
        """Send all requests that are due."""
        for maker, message in self._takes.due(now):
            self._context.messages.append(Send(maker, "take", pack(message)))

    def on_result(self, now: float, maker: str, result: TakeResult) -> bool:
        """Process an owner's answer. Returns False when no honest owner sends it."""
        take = self._takes.get(result.take)
        if take is None or take.maker != maker:
            return True  # a repeated answer, or another node's take
        if not self._takes.plausible(take, result):
            self._context.warn(f"node {maker} answered take {result.take} with impossible values")
            return False
        if result.reason == RESERVED:
            if take.phase == "reserve" and not take.void:
                self._takes.granted(take.take)
                self._context.records.append(copy(take))
                self._store.work_queue.append(take.order)
            return True
        self._takes.resolve(take.take)
        self._context.records.append(DropTake(take.take))
        if take.phase != "given_up":
            self._apply(now, take, result)
        market = self._context.markets[take.market]
        hold = _hold_after(now, take, result)
        market.release(maker, take.maker_order, take.quantity, hold)
        self._store.work_queue.append(take.order)
        return True

    def _apply(self, now: float, take: PendingTake, result: TakeResult) -> None:
        """Apply a final answer to the order that requested the take."""
        order = self._store.open[take.order]
        order.pending -= take.quantity
        if result.quantity:
            self._fills.taker_fill(
                now,
                order,
                take=take.take,
                maker=take.maker,
                maker_order=take.maker_order,
                price=take.price,
                quantity=result.quantity,
                time=result.time,
            )
        if result.reason == "credit":
            order.reason = "credit"


def _hold_after(now: float, take: PendingTake, result: TakeResult) -> Hold:
    """Return the deduction from the maker's displayed quantity until its feed confirms the answer."""
    if result.reason == "void":
        return Hold(None, result.number, None)
    if result.reason in ("", "gone"):
        # The order was in the feed at the request, so an event that was not here yet has removed it.
        # The number is at least that of the next event: a maker that claims otherwise would get
        # requests without end.
        left = result.quantity if result.quantity == take.quantity else None
        return Hold(left, max(result.number, take.seen + 1), None)
    return Hold(None, None, now + REFUSED_HOLD)
