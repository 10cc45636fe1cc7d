"""Production parts of the order manager that report every decision to the watch before carrying it out."""

from __future__ import annotations

from exchange.engine.engine import Engine
from exchange.orders.fills import FillRecorder
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

    def take_liquidity(self, now, order, *, only_earlier):
        self.watch.begin_matching(self.number, only_earlier=only_earlier)
        super().take_liquidity(now, order, only_earlier=only_earlier)
        self.watch.matched(self.engine, self.number, now, order)


class WatchedFills(FillRecorder):
    """Production fills that report every trade between two own orders before it is made."""

    watch: Watch
    engine: Engine
    number: int

    def local_trade(self, now, taker, maker, price, quantity, *, reserved=False):
        if not reserved:
            own = self.engine.node_id
            self.watch.decision(
                self.engine, self.number, now, taker, own, maker.number, price, quantity
            )
        super().local_trade(now, taker, maker, price, quantity, reserved=reserved)


class WatchedTakerSide(TakerSide):
    """Production taker side that reports every outcome before carrying it out."""

    watch: Watch
    engine: Engine
    number: int

    def _conclude(self, now, take, result, hold):
        self.watch.result(self.engine, self.number, now, take.maker, result)
        super()._conclude(now, take, result, hold)


def watched(engine: Engine, number: int, watch: Watch) -> Engine:
    """Put an engine's order manager under watch. Nothing is decided before `resume`, so nothing is missed."""
    manager = engine.orders
    manager.matching.__class__ = WatchedMatching
    manager.fills.__class__ = WatchedFills
    manager.taker_side.__class__ = WatchedTakerSide
    for part in (manager.matching, manager.fills, manager.taker_side):
        part.engine, part.number, part.watch = engine, number, watch
    return engine
