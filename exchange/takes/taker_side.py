"""Taking from other owners' orders: what is asked, and what comes of the answers."""

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

REFUSED_HOLD = 5.0  # seconds: an order whose owner refuses for a reason its feed will not show


class TakerSide:
    """What is asked is pending: neither free nor filled, until its owner has answered."""

    def __init__(
        self, context: EngineContext, store: OrderStore, fills: FillRecorder, takes: PendingTakes
    ) -> None:
        self._context = context
        self._store = store
        self._fills = fills
        self._takes = takes

    def restore(self, takes: list[PendingTake]) -> None:
        """Takes whose outcome the journal does not know."""
        for take in sorted(takes, key=lambda t: t.take):
            market = self._context.markets.get(take.market)
            if market is not None:
                # The world has moved on since it was asked: the outcome is wanted, not a new fill. What
                # a fill-or-kill order has decided on goes on.
                take.void = take.phase != "commit"
                self._takes.add(0.0, take)
                market.reserve(take.maker, take.maker_order, take.quantity)

    def ask(
        self,
        now: float,
        order: Order,
        maker: str,
        maker_order: int,
        price: int,
        quantity: int,
        phase: Literal["", "reserve"] = "",
    ) -> None:
        market = self._context.markets[order.market]
        take = PendingTake(
            self._fills.new_take(),
            market.key,
            order.number,
            maker,
            maker_order,
            order.side,
            price,
            quantity,
            seen=market.replicas[maker].feed.number,
            phase=phase,
        )
        order.pending += quantity
        market.reserve(maker, maker_order, quantity)
        self._takes.add(now, take)
        self._context.records.append(copy(take))
        self._context.orders[order.number] = order

    def commit(self, now: float, take: PendingTake) -> None:
        """Of a fill-or-kill order: what is reserved is to be filled. There is no way back."""
        self._takes.commit(now, take.take)
        self._context.records.append(copy(take))

    def give_up(self, now: float, take: PendingTake) -> None:
        """Of a fill-or-kill order: what was asked for will never be committed, so nothing of it can be
        filled, whatever its owner does: the order is free of it."""
        self._takes.give_up(now, take.take)
        self._context.records.append(copy(take))
        order = self._store.open[take.order]
        order.pending -= take.quantity
        self._context.orders[order.number] = order

    def send_due(self, now: float) -> None:
        """Ask, or ask again, whatever is due."""
        for maker, ask in self._takes.due(now):
            self._context.messages.append(Send(maker, "take", pack(ask)))

    def on_result(self, now: float, maker: str, result: TakeResult) -> bool:
        """An owner's answer; False when it is none that an honest owner gives."""
        take = self._takes.get(result.take)
        if take is None or take.maker != maker:
            return True  # answered before, or nothing of ours
        if not self._takes.plausible(take, result):
            self._context.warn(
                f"node {maker} answered take {result.take} with something impossible"
            )
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
            self._settle(now, take, result)
        if result.reason == "void":
            hold = Hold(None, result.number, None)
        elif result.reason in ("", "gone"):
            # The order was on show when we asked, so an event that we had not seen has taken it off.
            # A maker that says otherwise would be asked again without end.
            left = result.quantity if result.quantity == take.quantity else None
            hold = Hold(left, max(result.number, take.seen + 1), None)
        else:
            hold = Hold(None, None, now + REFUSED_HOLD)
        market = self._context.markets[take.market]
        market.release(maker, take.maker_order, take.quantity, hold)
        self._store.work_queue.append(take.order)
        return True

    def _settle(self, now: float, take: PendingTake, result: TakeResult) -> None:
        """What the answer means for the order that asked."""
        order = self._store.open[take.order]
        order.pending -= take.quantity
        if result.quantity:
            self._fills.taker_fill(
                now,
                order,
                take.take,
                take.maker,
                take.maker_order,
                take.price,
                result.quantity,
                result.time,
            )
        if result.reason == "credit":
            order.reason = "credit"
