"""Credit check: quantity that may still be traded with another node, by its credit limit."""

from __future__ import annotations

from collections.abc import Iterable

from exchange.orders.engine_context import EngineContext
from exchange.orders.order_store import OrderStore
from exchange.takes.take_protocol import PendingTakes, TakeDecisions


class CreditCheck:
    """Credit limit of a peer, less its debt, less the debt that trades under way may add."""

    def __init__(
        self,
        context: EngineContext,
        store: OrderStore,
        takes: PendingTakes,
        decisions: TakeDecisions,
    ) -> None:
        self._context = context
        self._store = store
        self._takes = takes
        self._decisions = decisions

    def lots(
        self,
        peer: str,
        market: str,
        side: int,
        price: int,
        planned: Iterable[tuple[int, int]] = (),
    ) -> int | None:
        """Return the lots that our side may trade with `peer` at `price`; None: no limit.

        The amount that our side receives is the amount that the peer then owes. `planned` lists
        (price, quantity) of trades of the same side that come before.
        """
        specs = self._context.specs
        asset, each = specs.received(market, side, price, 1)
        room = self._context.ledger.room(peer, asset)
        if room is None:
            return None
        under_way = [
            (take.market, take.side, take.price, take.quantity)
            for take in self._takes.of_maker(peer)
            if take.phase != "given_up"
        ]
        for decision in self._decisions.reservations:
            order = self._store.open.get(decision.order)
            if decision.taker == peer and order is not None:
                under_way.append((decision.market, order.side, decision.price, decision.quantity))
        under_way += [(market, side, *other) for other in planned]
        for other in under_way:
            received, amount = specs.received(*other)
            if received == asset:
                room -= amount
        return max(room, 0) // each
