"""Orders that wait for a trade: stops, trailing stops, and pairs of which one cancels the other.

A trade of the market, whoever made it, triggers what it reaches; the order then enters as if it had just
been placed. Trades that are told of late, when a node catches up, trigger nothing: the market may be
elsewhere by now, and its next trade will say so.

What counts is the order in which this node sees things: a stop is triggered by trades seen after it was
placed. A trade is late if its time says so and its owner has not confirmed in the last ten seconds that its
feed was complete here without it: a clock that is wrong by an hour changes nothing. Nothing is triggered in a halted market, nor while a
restarted node does not write its feeds. But nothing is placed then either, so every stop that waits was
there before the trades that come meanwhile. They are put aside and looked at afterwards: of a halt the
last one, for it may have been long. The last one is in the journal too, and a crash does not forget it.

Of a pair (`linked_order`) only one trades. When the stop is triggered while the other order waits for the
answer of another node, the stop stays untriggered until that is known, and is cancelled if it was a fill.
"""

from __future__ import annotations

from collections.abc import Mapping

from exchange.ledger.ledger import InsufficientBalance
from exchange.market.market import Market, Trade
from exchange.market.triggers import Triggers
from exchange.model.commands import HOUSE
from exchange.model.records import Order
from exchange.orders.engine_context import EngineContext
from exchange.orders.order_store import OrderStore

LATE_US = 10_000_000  # a trade told of so long after it took place triggers nothing
FOLLOW = 2.0  # seconds at least from writing trailing stops down to doing so again
# In the journal, before a market: the price of the last trade that was put aside; 0: none.
_MISSED = "missed:"


class ConditionalOrders:
    def __init__(self, context: EngineContext, store: OrderStore) -> None:
        self._context = context
        self._store = store
        self._waiting: set[int] = set()  # triggered, while the linked order's outcome is not known
        self._missed: dict[str, list[int]] = {}  # market -> prices of trades put aside
        self._traded: set[str] = set()  # markets with trades since the stops were written down
        self._written = 0.0  # when that was

    def restore(self, meta: Mapping[str, int]) -> None:
        """Once the own orders are there."""
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
                    self.arm(order)

    def arm(self, order: Order) -> None:
        """The order waits from now on."""
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
        """Its stop or distance has changed."""
        triggers = self._store.triggers[order.market]
        if order.number in triggers:
            triggers.remove(order.number)
            self.arm(order)

    def check_linked(self, now: float, order: Order) -> None:
        """Something happened to an untriggered order or to its linked order."""
        if order.number in self._waiting and self._store.linked(order) is None:
            self._waiting.discard(order.number)
            self._enter(now, order)

    # Triggering

    def process_trade(self, now: float) -> bool:
        """Trigger what the next trade that was not looked at reaches. False when there is none."""
        context = self._context
        if context.stale is not None:
            context.unseen.clear()
        if not context.unseen:
            return False
        market, trade = context.unseen.popleft()
        if not self._is_late(now, market, trade):
            if market.halted or context.fenced:
                self._put_aside(market, trade.event.price)
            else:
                self._process(now, market, trade.event.price)
        return True

    def _is_late(self, now: float, market: Market, trade: Trade) -> bool:
        """Check if a trade may have taken place more than LATE_US ago. Its time is its maker's clock, which
        may be an hour off: a trade that had not taken place a moment ago is not late, whatever its time."""
        if abs(self._context.us(now) - trade.event.time) < LATE_US:
            return False
        replica = market.replicas.get(trade.maker)
        return replica is None or now - replica.complete_at >= LATE_US / 1_000_000

    def _put_aside(self, market: Market, price: int) -> None:
        prices = self._missed.setdefault(market.key, [])
        if market.halted:
            prices.clear()
        prices.append(price)
        self._context.meta[_MISSED + market.key] = price

    def resume(self, now: float, market: Market) -> None:
        """After a halt, and after a restart: look at the trades that were put aside."""
        prices = self._missed.pop(market.key, None)
        if prices is not None:
            self._context.meta[_MISSED + market.key] = 0
            for price in prices:
                self._process(now, market, price)

    def _process(self, now: float, market: Market, price: int) -> None:
        triggers = self._store.triggers.get(market.key)
        if triggers is None:
            return
        for number in triggers.on_trade(price):
            self._trigger(now, self._store.open[number])
        self._traded.add(market.key)
        if not len(triggers):
            self._context.watched.discard(market.key)

    def store_trailing_stops(self, now: float) -> None:
        """Write down where the trailing stops are, if it is time. Call now and then."""
        if not self._traded or now < self._written + FOLLOW:
            return
        self._written = now
        for key in self._traded:
            for number, stop in self._store.triggers[key].trailing().items():
                order = self._store.open[number]
                if order.stop != stop:
                    order.stop = stop
                    self._store.publish(now, order)
        self._traded.clear()

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
            return  # its linked order traded after all
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
        """The worst price of a market order is a matter of where the market is when it enters."""
        if order.account == HOUSE and order.market not in self._context.specs.rules:
            return
        bests = [b for b in (market.book.best(-order.side), market.hidden.best(-order.side)) if b]
        if bests:
            best = min(bests) if order.side > 0 else max(bests)
            specs = self._context.specs
            reference = market.reference
            order.worst_price = specs.protection_price(order.market, order.side, best, reference)

    def _covered(self, order: Order) -> bool:
        try:
            self._store.hold(order)
        except InsufficientBalance:
            return False
        return True
