"""Taking from other owners' orders: what is asked, and what comes of the answers."""

from __future__ import annotations

from copy import copy
from typing import Literal

from exchange.feeds.exchange_messages import TakeResult, pack
from exchange.market.market import Hold
from exchange.model.ports import Send
from exchange.model.records import DropTake, Order, PendingTake
from exchange.orders.engine_context import EngineContext
from exchange.orders.fills import Fills
from exchange.orders.order_store import OrderStore
from exchange.takes.take_protocol import RESERVED, Taker

REFUSED_HOLD = 5.0  # seconds: an order whose owner refuses for a reason its feed will not show


class TakerSide:
    """What is asked is pending: neither free nor filled, until its owner has answered."""

    def __init__(self, core: EngineContext, orders: OrderStore, fills: Fills, taker: Taker) -> None:
        self._core = core
        self._orders = orders
        self._fills = fills
        self._taker = taker

    def restore(self, takes: list[PendingTake]) -> None:
        """Takes whose outcome the journal does not know."""
        for take in sorted(takes, key=lambda t: t.take):
            market = self._core.markets.get(take.market)
            if market is not None:
                # The world has moved on since it was asked: the outcome is wanted, not a new fill. What
                # a fill-or-kill order has decided on goes on.
                take.void = take.phase != "commit"
                self._taker.add(0.0, take)
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
        market = self._core.markets[order.market]
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
        self._taker.add(now, take)
        self._core.records.append(copy(take))
        self._core.orders[order.number] = order

    def commit(self, now: float, take: PendingTake) -> None:
        """Of a fill-or-kill order: what is reserved is to be filled. There is no way back."""
        self._taker.commit(now, take.take)
        self._core.records.append(copy(take))

    def give_up(self, now: float, take: PendingTake) -> None:
        """Of a fill-or-kill order: what was asked for will never be committed, so nothing of it can be
        filled, whatever its owner does: the order is free of it."""
        self._taker.give_up(now, take.take)
        self._core.records.append(copy(take))
        order = self._orders.open[take.order]
        order.pending -= take.quantity
        self._core.orders[order.number] = order

    def send_due(self, now: float) -> None:
        """Ask, or ask again, whatever is due."""
        for maker, ask in self._taker.due(now):
            self._core.messages.append(Send(maker, "take", pack(ask)))

    def on_result(self, now: float, maker: str, result: TakeResult) -> bool:
        """An owner's answer; False when it is none that an honest owner gives."""
        take = self._taker.get(result.take)
        if take is None or take.maker != maker:
            return True  # answered before, or nothing of ours
        if not self._taker.plausible(take, result):
            self._core.warn(f"node {maker} answered take {result.take} with something impossible")
            return False
        if result.reason == RESERVED:
            if take.phase == "reserve" and not take.void:
                self._taker.granted(take.take)
                self._core.records.append(copy(take))
                self._orders.work.append(take.order)
            return True
        self._taker.resolve(take.take)
        self._core.records.append(DropTake(take.take))
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
        market = self._core.markets[take.market]
        market.release(maker, take.maker_order, take.quantity, hold)
        self._orders.work.append(take.order)
        return True

    def _settle(self, now: float, take: PendingTake, result: TakeResult) -> None:
        """What the answer means for the order that asked."""
        order = self._orders.open[take.order]
        order.pending -= take.quantity
        if result.quantity:
            self._fills.as_taker(
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
