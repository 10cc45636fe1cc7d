"""Production parts of the order manager that report every decision to the watch before carrying it out."""

from __future__ import annotations

from exchange.engine.engine import Engine
from exchange.engine.fast_path import FastPath
from exchange.model.records import Order
from exchange.orders.matching import Matching
from exchange.takes.taker_side import TakerSide
from tests.simulation.watch import Watch


class WatchedMatching(Matching):
    """Production matching that reports every decision before carrying it out."""

    watch: Watch
    engine: Engine
    number: int

    def request(self, now, order, owner, number, price, quantity, phase=""):
        self.watch.decision(self.engine, self.number, now, order, owner, number, price, quantity)
        super().request(now, order, owner, number, price, quantity, phase)

    def fill_local(self, now, taker, maker, price, quantity):
        own = self.engine.node_id
        self.watch.decision(
            self.engine, self.number, now, taker, own, maker.number, price, quantity
        )
        super().fill_local(now, taker, maker, price, quantity)

    def take_liquidity(self, now, order, *, only_earlier):
        self.watch.begin_matching(self.number, only_earlier=only_earlier)
        super().take_liquidity(now, order, only_earlier=only_earlier)
        self.watch.matched(self.engine, self.number, now, order)


class WatchedFastPath(FastPath):
    """Production fast path that reports every trade before carrying it out, one by one."""

    watch: Watch
    engine: Engine
    number: int

    def try_place(self, now, new):
        self.watch.begin_matching(self.number, only_earlier=False)
        self._now, self._new, self._worst = now, new, 0
        order = super().try_place(now, new)
        if order is not None:
            self.watch.matched(self.engine, self.number, now, order)
        return order

    def _take(self, now, market, new, limit, worst_price):
        self._worst = worst_price
        return super()._take(now, market, new, limit, worst_price)

    def _fill(self, market, time, number, side, quantity, account, makers, found):
        new, value = self._new, 0
        for maker, meeting in zip(makers, found, strict=True):
            taker = Order(
                *(number, market.key, side, new.price, new.quantity, time, new.client_id, account),
                worst_price=self._worst,
                filled=new.quantity - quantity,
            )
            own = self.engine.node_id
            self.watch.decision(self.engine, self.number, self._now, taker, own, *meeting)
            rest = (quantity, account, [maker], [meeting])
            quantity, worth = super()._fill(market, time, number, side, *rest)
            value += worth
        return quantity, value


class WatchedTakerSide(TakerSide):
    """Production taker side that reports every answer before processing it."""

    watch: Watch
    engine: Engine
    number: int

    def on_result(self, now, maker, result):
        self.watch.result(self.engine, self.number, now, maker, result)
        return super().on_result(now, maker, result)


def watched(engine: Engine, number: int, watch: Watch) -> Engine:
    """Put an engine's order manager under watch. Nothing is decided before `resume`, so nothing is missed."""
    manager = engine.orders
    manager.matching.__class__ = WatchedMatching
    manager.taker_side.__class__ = WatchedTakerSide
    manager._fast_path.__class__ = WatchedFastPath
    for part in (manager.matching, manager.taker_side, manager._fast_path):
        part.engine, part.number, part.watch = engine, number, watch
    return engine
