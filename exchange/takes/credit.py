"""How much more may be traded with another node: its limit, less what it owes, less what is under way."""

from __future__ import annotations

from collections.abc import Iterable

from exchange.orders.engine_context import EngineContext
from exchange.orders.order_store import OrderStore
from exchange.takes.take_protocol import Maker, Taker


class Credit:
    def __init__(self, core: EngineContext, orders: OrderStore, taker: Taker, maker: Maker) -> None:
        self._core = core
        self._orders = orders
        self._taker = taker
        self._maker = maker

    def lots(
        self,
        peer: str,
        market: str,
        side: int,
        price: int,
        planned: Iterable[tuple[int, int]] = (),
    ) -> int | None:
        """How many lots our side may trade with `peer` at `price`; None: any number.

        What our side receives is what the peer then owes. `planned`: (price, quantity) of the same side
        that comes before.
        """
        terms = self._core.terms
        asset, each = terms.received(market, side, price, 1)
        room = self._core.ledger.room(peer, asset)
        if room is None:
            return None
        under_way = [
            (take.market, take.side, take.price, take.quantity)
            for take in self._taker.of_maker(peer)
            if take.phase != "given_up"
        ]
        for decision in self._maker.reservations:
            order = self._orders.open.get(decision.order)
            if decision.taker == peer and order is not None:
                under_way.append((decision.market, order.side, decision.price, decision.quantity))
        under_way += [(market, side, *other) for other in planned]
        for other in under_way:
            received, amount = terms.received(*other)
            if received == asset:
                room -= amount
        return max(room, 0) // each
