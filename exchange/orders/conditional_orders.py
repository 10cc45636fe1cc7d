"""Conditional orders: stops, trailing stops, and order pairs (one cancels the other).

Theory of operation. A trade of the market, by whomever, triggers the orders whose stop it reaches; a
triggered order then enters the market like a new one. Late trades, which arrive when a node catches up,
trigger nothing: the market may be elsewhere by now, and its next trade shows where.

The order of events on this node counts: a stop is triggered by trades that arrive after it was placed.
A trade is late if its time is old and its owner has not confirmed in the last ten seconds that its feed
was complete here without it: a clock that is wrong by an hour changes nothing. Nothing is triggered in a
halted market, nor while the startup fence stands. But no orders are placed then either, so every stop
precedes the trades that arrive meanwhile. Those are set aside and processed afterwards; of a halt only
the last one, because a halt may be long. It is journaled too, so that a crash does not lose it.

Of a pair (`linked_order`) only one order trades. When the stop is triggered while the limit order awaits
another node's answer, the stop stays untriggered until the answer arrives, and is cancelled if that was
a fill.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from exchange.ledger.ledger import InsufficientBalance
from exchange.market.market import Market, Trade
from exchange.market.triggers import Triggers
from exchange.model.commands import HOUSE
from exchange.model.records import Order
from exchange.orders.engine_context import EngineContext
from exchange.orders.order_store import OrderStore

LATE_US: Final = 10_000_000  # age at which a trade triggers nothing any more
STORE_INTERVAL: Final = 2.0  # seconds between two records of the trailing stops
# Journal name, before a market: price of the last trade that was set aside; 0: none.
_MISSED: Final = "missed:"


class ConditionalOrders:
    """Untriggered orders of this node, and the trades that may trigger them."""

    def __init__(self, context: EngineContext, store: OrderStore) -> None:
        self._context = context
        self._store = store
        self._waiting: set[int] = set()  # triggered stops whose linked order awaits an answer
        self._missed: dict[str, list[int]] = {}  # by market: prices of trades set aside
        self._traded: set[str] = set()  # markets with trades since the stops were recorded
        self._recorded = 0.0  # time of that

    def restore(self, meta: Mapping[str, int]) -> None:
        """Restore the untriggered orders, after the order store."""
        for key in self._context.markets:
            price = meta.get(_MISSED + key)
            if price:
                self._missed[key] = [price]
        for order in self._store.open.values():
            if order.untriggered and not order.cancelled:
                linked = self._store.linked(order)
                if linked is not None and linked.cancelled and linked.reason == "oco":
                    self._waiting.add(order.number)
                else:
                    self.add(order)

    def add(self, order: Order) -> None:
        """Add an untriggered order."""
        triggers = self._store.triggers.get(order.market)
        if triggers is None:
            triggers = self._store.triggers[order.market] = Triggers()
        if order.kind == "trailing_stop":
            last = order.stop - order.side * order.trailing_offset if order.stop else None
            triggers.add_trailing(order.number, order.side, order.trailing_offset, last)
        else:
            triggers.add(order.number, order.side, order.stop)
        self._context.watched.add(order.market)

    def amend(self, order: Order) -> None:
        """Apply a changed stop or offset."""
        triggers = self._store.triggers[order.market]
        if order.number in triggers:
            triggers.remove(order.number)
            self.add(order)

    def check_linked(self, now: float, order: Order) -> None:
        """Let a triggered stop enter if its linked order has ended."""
        if order.number in self._waiting and self._store.linked(order) is None:
            self._waiting.discard(order.number)
            self._enter(now, order)

    # Trades

    def process_trade(self, now: float) -> bool:
        """Process the next unseen trade of a watched market. Returns False when there is none."""
        context = self._context
        if context.stale is not None:
            context.unseen.clear()
        if not context.unseen:
            return False
        market, trade = context.unseen.popleft()
        if not self._is_late(now, market, trade):
            if market.halted or context.fenced:
                self._set_aside(market, trade.event.price)
            else:
                self._trigger_at(now, market, trade.event.price)
        return True

    def _is_late(self, now: float, market: Market, trade: Trade) -> bool:
        """Check if a trade may have taken place more than LATE_US ago. Its time is its maker's clock, which
        may be an hour off: a trade that had not taken place a moment ago is not late, whatever its time."""
        if abs(self._context.us(now) - trade.event.time) < LATE_US:
            return False
        replica = market.replicas.get(trade.maker)
        return replica is None or now - replica.complete_at >= LATE_US / 1_000_000

    def _set_aside(self, market: Market, price: int) -> None:
        prices = self._missed.setdefault(market.key, [])
        if market.halted:
            prices.clear()
        prices.append(price)
        self._context.meta[_MISSED + market.key] = price

    def resume(self, now: float, market: Market) -> None:
        """Process the trades set aside, after a halt or a restart."""
        prices = self._missed.pop(market.key, None)
        if prices is not None:
            self._context.meta[_MISSED + market.key] = 0
            for price in prices:
                self._trigger_at(now, market, price)

    def _trigger_at(self, now: float, market: Market, price: int) -> None:
        triggers = self._store.triggers.get(market.key)
        if triggers is None:
            return
        for number in triggers.on_trade(price):
            self._trigger(now, self._store.open[number])
        self._traded.add(market.key)
        if not len(triggers):
            self._context.watched.discard(market.key)

    @property
    def busy(self) -> bool:
        """Report if trailing stops may have moved since they were recorded."""
        return bool(self._traded)

    def store_trailing_stops(self, now: float) -> None:
        """Record the present trailing stops, at most every STORE_INTERVAL seconds. Call now and then."""
        if not self._traded or now < self._recorded + STORE_INTERVAL:
            return
        self._recorded = now
        for key in self._traded:
            for number, stop in self._store.triggers[key].trailing().items():
                order = self._store.open[number]
                if order.stop != stop:
                    order.stop = stop
                    self._store.publish(now, order)
        self._traded.clear()

    # Triggered orders

    def is_triggered(self, order: Order) -> bool:
        """Report if an order that has not entered yet is triggered: it waits for takes of its linked order."""
        return order.number in self._waiting

    def _trigger(self, now: float, order: Order) -> None:
        linked = self._store.linked(order)
        if linked is not None:
            if not linked.cancelled:
                self._store.cancel(now, linked, "oco")
            if not linked.done:
                self._waiting.add(order.number)
                return
        self._enter(now, order)

    def _enter(self, now: float, order: Order) -> None:
        if order.cancelled:
            return  # its linked order has traded after all
        market = self._context.markets[order.market]
        order.priority = self._store.new_time(now, market, order)
        if order.price is None and not order.worst_price:
            self._protect(market, order)
        order.untriggered = False
        if not self._covered(order):
            self._store.cancel(now, order, "insufficient_balance")
            return
        self._context.orders[order.number] = order
        self._store.work_queue.append(order.number)

    def _protect(self, market: Market, order: Order) -> None:
        """Set the worst price of a market order from the market that it enters."""
        specs = self._context.specs
        if order.account == HOUSE and order.market not in specs.rules:
            return
        best = market.best_counterprice(order.side)
        if best is not None:
            reference = market.taking_reference(best)
            order.worst_price = specs.protection_price(order.market, order.side, best, reference)

    def _covered(self, order: Order) -> bool:
        try:
            self._store.hold(order)
        except InsufficientBalance:
            return False
        return True
