"""Reduce-only orders: they bring a position closer to zero and never beyond.

The house's position is its balance of the base asset. A client owns its balance: its sells reduce it and
are bounded by their hold anyway; its buys have nothing to reduce.
"""

from __future__ import annotations

from exchange.model.commands import HOUSE
from exchange.model.events import BUY
from exchange.model.records import Order
from exchange.orders.engine_context import EngineContext
from exchange.orders.order_store import OrderStore


class ReduceOnly:
    """Quantity limits of reduce-only orders by the present position."""

    def __init__(self, context: EngineContext, store: OrderStore) -> None:
        self._context = context
        self._store = store

    def room(self, account: int, market: str, side: int, number: int = 0) -> int:
        """Return the lots that an order may still trade. `number`: the order, if it exists already."""
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
        """Return the house's position on the other side, less the quantities that its other reduce-only
        orders await answers for; units of the base asset, negative where nothing can be reduced."""
        base = self._context.specs.units[market].base
        left = -side * self._context.ledger.balance(f"account:{HOUSE}", base)
        for order in self._store.reduce_only.values():
            units = self._context.specs.units[order.market]
            if order.number != number and order.side == side and units.base == base:
                left -= (order.pending + order.reserved) * units.base_units
        return left

    def fits(self, order: Order) -> bool:
        """Check the whole unfilled quantity of an order, pending parts included, against the position.
        Changes nothing."""
        if not order.reduce_only or order.account != HOUSE:
            return True
        needed = order.left * self._context.specs.units[order.market].base_units
        return needed <= self._reducible(order.market, order.side, order.number)

    def fit(self, now: float, order: Order) -> bool:
        """Reduce an order to the position. Returns False when nothing is left of it: the order has
        ended, or ends when other owners have answered."""
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
