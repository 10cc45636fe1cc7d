"""Reduce-only orders: they bring a position closer to nothing and never beyond.

The house's position is its balance of the base asset. A client owns what it has: its sells reduce, and
are bounded by what is held for them anyway; there is nothing that its buys could reduce.
"""

from __future__ import annotations

from exchange.model.commands import HOUSE
from exchange.model.events import BUY
from exchange.model.records import Order
from exchange.orders.engine_context import EngineContext
from exchange.orders.order_store import OrderStore


class ReduceOnly:
    def __init__(self, context: EngineContext, store: OrderStore) -> None:
        self._context = context
        self._store = store

    def room(self, account: int, market: str, side: int, number: int = 0) -> int:
        """Lots that an order may still trade; `number` is its own, when it has one already."""
        units = self._context.specs.units[market]
        ledger = self._context.ledger
        if account != HOUSE:
            available = ledger.available(account, units.base)
            return 0 if side == BUY else max(available, 0) // units.base_units
        left = self._reducible(market, side, number)
        own = self._store.reduce_only.get(number)
        if own is not None:
            left -= (own.pending + own.reserved) * units.base_units
        return max(left, 0) // units.base_units

    def _reducible(self, market: str, side: int, number: int) -> int:
        """The house's position on the other side, less what its other reduce-only orders have asked
        for; in units of the base asset, below zero where there is nothing to reduce."""
        base = self._context.specs.units[market].base
        left = -side * self._context.ledger.balance(f"account:{HOUSE}", base)
        for order in self._store.reduce_only.values():
            its = self._context.specs.units[order.market]
            if order.number != number and order.side == side and its.base == base:
                left -= (order.pending + order.reserved) * its.base_units
        return left

    def fits(self, order: Order) -> bool:
        """Check all that may still be filled of an order, also what it has asked for, against the
        position. Changes nothing."""
        if not order.reduce_only or order.account != HOUSE:
            return True
        needed = order.left * self._context.specs.units[order.market].base_units
        return needed <= self._reducible(order.market, order.side, order.number)

    def fit(self, now: float, order: Order) -> bool:
        """Make the order as small as it must be. False when nothing is left of it: then it ended, or
        does so with what others decide about."""
        if order.account != HOUSE or not order.free:
            return True
        room = self.room(order.account, order.market, order.side, order.number)
        if room == 0:
            self._store.cancel(now, order, "reduce_only")
            return False
        if room < order.free:
            order.quantity -= order.free - room
            order.altered = True
        return True
