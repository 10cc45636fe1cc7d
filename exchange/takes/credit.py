"""Credit check: quantity that may still be traded with other nodes, by their credit limits.

Peers without a limit of their own, strangers, have the default limit each and a total together, because identities are
free. Trades under way count as if they were owed.
"""

from __future__ import annotations

from collections.abc import Iterator

from exchange.orders.engine_context import EngineContext
from exchange.orders.order_store import OrderStore
from exchange.takes.take_protocol import PendingTakes, TakeDecisions


class CreditCheck:
    """Credit limits less debts, less the debts that trades under way may add."""

    def __init__(
        self,
        context: EngineContext,
        store: OrderStore,
        takes: PendingTakes,
        decisions: TakeDecisions,
    ) -> None:
        self._specs = context.specs
        self._ledger = context.ledger
        self._store = store
        self._takes = takes
        self._decisions = decisions

    def plan(self, market: str, side: int) -> CreditPlan | None:
        """Begin a plan of trades of one side in a market; None: no limit is set."""
        return CreditPlan(self, market, side) if self._ledger.credit else None

    def received(self, market: str, side: int, price: int, quantity: int) -> tuple[str, int]:
        """Return the asset that our side receives, and the amount, which the peer then owes."""
        return self._specs.received(market, side, price, quantity)

    def room(self, peer: str, asset: str) -> int | None:
        """Return the credit that is left to a peer alone; None: no limit."""
        room = self._ledger.room_alone(peer, asset)
        return None if room is None else room - self._under_way(peer, asset)

    def due_to_stranger(self, peer: str, asset: str) -> int | None:
        """Return what this node owes a stranger; None: the peer has a limit of its own."""
        ledger = self._ledger
        return ledger.due_to(peer, asset) if ledger.is_stranger(peer, asset) else None

    def room_of_strangers(self, asset: str) -> int | None:
        """Return the credit that is left to all strangers together; None: no limit."""
        room = self._ledger.room_of_strangers(asset)
        if room is None:
            return None
        for market, side, amount in self._takes.requested():
            of, received = self.received(market, side, 1, amount)
            if of == asset:
                room -= received
        room -= sum(amount for _, amount in self._reserved(asset))
        return room + sum(self._under_way(known, asset) for known in self._ledger.known(asset))

    def _under_way(self, peer: str, asset: str) -> int:
        total = sum(amount for taker, amount in self._reserved(asset) if taker == peer)
        for take in self._takes.of_maker(peer):
            if take.phase != "given_up":
                of, amount = self.received(take.market, take.side, take.price, take.quantity)
                total += amount if of == asset else 0
        return total

    def _reserved(self, asset: str) -> Iterator[tuple[str, int]]:
        for decision in self._decisions.reservations:
            order = self._store.open.get(decision.order)
            if order is not None:
                market, side = decision.market, order.side
                of, amount = self.received(market, side, decision.price, decision.quantity)
                if of == asset:
                    yield decision.taker, amount


class CreditPlan:
    """Credit that is left while trades of one side are planned."""

    def __init__(self, check: CreditCheck, market: str, side: int) -> None:
        self._check = check
        self._market = market
        self._side = side
        self._rooms: dict[str, int | None] = {}  # by peer; "" is all strangers together

    def grant(self, peer: str, price: int, quantity: int) -> int:
        """Add a trade to the plan. Returns the part of `quantity` for which there is credit."""
        asset, each = self._check.received(self._market, self._side, price, 1)
        rooms = self._rooms
        if peer not in rooms:
            rooms[peer] = self._check.room(peer, asset)
        due = self._check.due_to_stranger(peer, asset)
        if due is not None and "" not in rooms:
            rooms[""] = self._check.room_of_strangers(asset)
        alone, together = rooms[peer], None if due is None else rooms[""]
        if alone is not None:
            quantity = min(quantity, max(alone, 0) // each)
        if together is not None:
            quantity = min(quantity, max(together + (due or 0), 0) // each)
            rooms[""] = together - quantity * each
        if alone is not None:
            rooms[peer] = alone - quantity * each
        return quantity
