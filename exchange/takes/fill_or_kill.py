"""Fill-or-kill: all of an order at once or nothing, also over the orders of several nodes.

Theory of operation. Where this node alone decides it looks if the book has enough, then trades. Over
several nodes it is a two-phase commit. Orders of others are reserved first: each owner takes its quantity
out of the book, answers, and keeps it for a minute. As soon as all have reserved in full, within WINDOW
seconds, the order commits: own orders are filled, the takes are journaled as committed, all in one
drain, and the owners are requested to fill their reservations. When one refuses or does not answer, all
are given up. When another attempt finds enough within the same time, it is made.

Guarantee: no part of the order is filled before all is granted; once it is committed every owner
    fills, even when messages are lost, duplicated or late, or a node restarts. Its limit: an owner
    that the commit does not reach within its minute gives the reservation up, and the order is then
    filled in part.

A restart before the commit gives all up; after it the takes continue (`exchange.takes.taker_side`). A
given-up take is journaled as such and never committed, and no owner fills without a commit: so the order
is free of it at once, however long its owner does not answer.

Rules of this file:
- `advance` looks at the present state and does the next step; it may be called at any time.
- Reservations of own orders are in memory only: a restart releases them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from exchange.model.commands import HOUSE
from exchange.model.records import Order
from exchange.orders.engine_context import EngineContext
from exchange.orders.fills import FillRecorder
from exchange.orders.matching import Counterpart, Matching
from exchange.orders.order_store import OrderStore
from exchange.orders.reduce_only import ReduceOnly
from exchange.takes.take_protocol import PendingTakes
from exchange.takes.taker_side import TakerSide

WINDOW: Final = 2.0  # seconds within which all must be granted


@dataclass(slots=True)
class _Attempt:
    """Reservations under way for an order."""

    local: list[Counterpart]  # own orders, kept in memory only
    requested: int  # takes of others


class FillOrKill:
    """Fill-or-kill orders of this node."""

    def __init__(
        self,
        context: EngineContext,
        store: OrderStore,
        fills: FillRecorder,
        takes: PendingTakes,
        taker_side: TakerSide,
        matching: Matching,
        reduce_only: ReduceOnly,
    ) -> None:
        self._context = context
        self._store = store
        self._fills = fills
        self._takes = takes
        self._taker_side = taker_side
        self._matching = matching
        self._reduce_only = reduce_only
        self._until: dict[int, float] = {}  # by order: end of its window
        self._attempts: dict[int, _Attempt] = {}  # by order
        self._tried: set[int] = set()  # orders whose first attempt failed

    def advance(self, now: float, order: Order) -> None:
        """Do the next step of an order: try, commit, give up or end it."""
        number = order.number
        until = self._until.setdefault(number, now + WINDOW)
        attempt = self._attempts.get(number)
        if attempt is not None:
            self._conclude(now, order, attempt, until)
        if number not in self._attempts:
            for take in self._takes.of_order(number):
                if take.phase in ("reserve", "granted"):
                    self._taker_side.give_up(now, take)
        if order.pending:
            return  # answers are missing
        # The position may have changed since the order was placed or last tried.
        if order.reduce_only and order.free and not order.filled:
            self._reduce_only.fit(now, order)
        if order.free and not order.filled and now < until:
            self._try(now, order)
        if order.pending:
            return
        if order.free and (number not in self._tried or order.filled or now >= until):
            self._store.cancel(now, order, "credit" if order.reason == "credit" else "fok")
        if not order.free:
            del self._until[number]
            self._tried.discard(number)

    @property
    def busy(self) -> bool:
        """Report if an order is not finished."""
        return bool(self._until)

    def tick(self) -> None:
        """Queue all unfinished orders: windows may have closed, and others get another attempt."""
        self._store.work_queue.extend(self._until)

    # Attempts

    def _conclude(self, now: float, order: Order, attempt: _Attempt, until: float) -> None:
        """Commit an attempt that is granted in full; give up one that cannot be any more."""
        takes = self._takes.of_order(order.number)
        refused = len(takes) < attempt.requested
        halted = self._context.markets[order.market].halted
        late = now >= until
        if order.cancelled or halted or late or refused or not self._reduce_only.fits(order):
            self._give_up(now, order, attempt)
        elif all(take.phase == "granted" for take in takes):
            self._commit(now, order, attempt)

    def _try(self, now: float, order: Order) -> None:
        plan, own_account, withheld = self._plan(order)
        if own_account and order.self_trade != "cancel_oldest":
            if order.self_trade == "cancel_both":
                for maker in own_account:
                    self._store.cancel(now, maker, "self_trade")
            self._store.cancel(now, order, "self_trade")
            return
        found = sum(counterpart[3] for counterpart in plan)
        if found < order.free:
            if found + withheld >= order.free:
                order.reason = "credit"
            return
        for maker in own_account:
            self._store.cancel(now, maker, "self_trade")
        node = self._context.node_id
        local = [counterpart for counterpart in plan if counterpart[0] == node]
        others = [counterpart for counterpart in plan if counterpart[0] != node]
        if not others:
            self._matching.take_liquidity(now, order, only_earlier=False)
            return
        for _, number, _, quantity in local:
            self._store.reserve(now, self._store.open[number], quantity)
        for owner, number, price, quantity in others:
            self._matching.request(now, order, owner, number, price, quantity, "reserve")
        self._attempts[order.number] = _Attempt(local, len(others))

    def _plan(self, order: Order) -> tuple[list[Counterpart], list[Order], int]:
        """Return the counterparts to trade with, the orders of the same account that self-trade
        prevention excludes, and the lots that the credit limits of their owners exclude."""
        node = self._context.node_id
        wanted = order.free
        withheld = 0
        credit = self._matching.credit(order)
        plan: list[Counterpart] = []
        own_account: dict[int, Order] = {}
        for owner, number, price, quantity in self._counterparts(order):
            quantity = min(quantity, wanted)
            if owner != node:
                if credit is not None:
                    granted = credit.grant(owner, price, quantity)
                    withheld += quantity - granted
                    quantity = granted
            else:
                maker = self._store.open[number]
                if order.self_trade != "none" and maker.account == order.account:
                    own_account[number] = maker
                    if order.self_trade == "cancel_oldest":
                        continue
                elif maker.reduce_only and maker.account == HOUSE:
                    break  # its limit can change before all is granted
            if quantity:
                plan.append((owner, number, price, quantity))
                wanted -= quantity
            if not wanted:
                break
        return plan, list(own_account.values()), withheld

    def _counterparts(self, order: Order) -> Iterator[Counterpart]:
        """Iterate over the counterparts of the book and the hidden rest of own icebergs, which comes
        after all displayed quantity of its price, as slice after slice would."""
        node = self._context.node_id
        rests: list[Counterpart] = []
        for counterpart in self._matching.counterparts(order):
            owner, number, price, quantity = counterpart
            maker = self._store.open[number] if owner == node else None
            if rests and (rests[0][2] != price or (maker is not None and maker.hidden)):
                yield from rests
                rests = []
            yield counterpart
            if maker is not None and maker.display_quantity and maker.free > quantity:
                rests.append((owner, number, price, maker.free - quantity))
        yield from rests

    def _commit(self, now: float, order: Order, attempt: _Attempt) -> None:
        del self._attempts[order.number]
        for _, number, price, quantity in attempt.local:
            maker = self._store.open[number]
            self._fills.local_trade(now, order, maker, price, quantity, reserved=True)
        for take in self._takes.of_order(order.number):
            self._taker_side.commit(now, take)

    def _give_up(self, now: float, order: Order, attempt: _Attempt) -> None:
        del self._attempts[order.number]
        for _, number, _, quantity in attempt.local:
            maker = self._store.open[number]
            maker.reserved -= quantity
            self._store.publish(now, maker)
            self._store.work_queue.append(number)
        self._tried.add(order.number)
