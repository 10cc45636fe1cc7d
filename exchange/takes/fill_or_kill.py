"""Fill-or-kill: all of an order at once, or nothing of it, also when it takes from several nodes.

Where this node alone decides, that is simple: look whether there is enough, then trade. Orders of others
are reserved first. Each owner keeps its quantity off show, says so, and holds it for a minute. When all
have done so in full within WINDOW seconds, the order commits: its part with own orders is filled, the
takes are journaled as committed, all in one drain, and the owners are asked to fill what they keep. When
one refuses or is silent, all is given up. When another try finds enough within the same time, it is made.

What it promises: nothing of the order is filled before all is granted; once it is committed every owner
fills, whatever is lost, doubled, late or restarted. What it cannot promise: an owner that the commit does
not reach within its minute gives the reservation up, and then the order was filled in part.

A restart before the commit gives all up. After it the takes go on (`exchange.takes.taker_side`). What is given up
is journaled as such and never committed, and no owner fills what is not committed: so the order is free
of it at once, however long its owner is silent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from exchange.model.commands import HOUSE
from exchange.model.records import Order
from exchange.orders.engine_context import EngineContext
from exchange.orders.fills import FillRecorder
from exchange.orders.matching import Counterpart, Matching
from exchange.orders.order_store import OrderStore
from exchange.orders.reduce_only import ReduceOnly
from exchange.takes.take_protocol import PendingTakes
from exchange.takes.taker_side import TakerSide

WINDOW = 2.0  # seconds in which all must be granted


@dataclass(slots=True)
class _Attempt:
    """What is being reserved for an order."""

    here: list[Counterpart]  # own orders, kept in memory only
    asked: int  # takes of others


class FillOrKill:
    """`go_on` looks at what there is and does what comes next: it may be called at any time."""

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
        self._until: dict[int, float] = {}  # order -> when the window closes
        self._attempts: dict[int, _Attempt] = {}
        self._tried: set[int] = set()  # orders whose first attempt failed

    def advance(self, now: float, order: Order) -> None:
        number = order.number
        until = self._until.setdefault(number, now + WINDOW)
        attempt = self._attempts.get(number)
        if attempt is not None:
            takes = self._takes.of_order(number)
            granted = all(take.phase == "granted" for take in takes)
            failed = len(takes) < attempt.asked or not self._reduce_only.fits(order)
            halted = self._context.markets[order.market].halted
            if order.cancelled or halted or now >= until or failed:
                self._give_up(now, order, attempt)
            elif granted:
                self._commit(now, order, attempt)
        if number not in self._attempts:
            for take in self._takes.of_order(number):
                if take.phase in ("reserve", "granted"):
                    self._taker_side.give_up(now, take)
        if order.pending:
            return  # for answers
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

    def tick(self) -> None:
        """Call now and then: what was not granted in time is given up, others get another try."""
        self._store.work_queue.extend(self._until)

    def _try(self, now: float, order: Order) -> None:
        plan, in_the_way, withheld = self._plan(order)
        if in_the_way and order.self_trade != "cancel_oldest":
            if order.self_trade == "cancel_both":
                for maker in in_the_way:
                    self._store.cancel(now, maker, "self_trade")
            self._store.cancel(now, order, "self_trade")
            return
        found = sum(meeting[3] for meeting in plan)
        if found < order.free:
            if found + withheld >= order.free:
                order.reason = "credit"
            return
        for maker in in_the_way:
            self._store.cancel(now, maker, "self_trade")
        node = self._context.node_id
        here = [meeting for meeting in plan if meeting[0] == node]
        others = [meeting for meeting in plan if meeting[0] != node]
        if not others:
            self._matching.take_liquidity(now, order, only_earlier=False)
            return
        for _, number, _, quantity in here:
            self._store.reserve(now, self._store.open[number], quantity)
        for owner, number, price, quantity in others:
            self._matching.ask(now, order, owner, number, price, quantity, "reserve")
        self._attempts[order.number] = _Attempt(here, len(others))

    def _plan(self, order: Order) -> tuple[list[Counterpart], list[Order], int]:
        """With whom the order would trade, the orders of its own account that it must not trade
        with and meets on the way, and how many lots are there beyond what the credit of their owners
        allows."""
        node = self._context.node_id
        wanted = order.free
        withheld = 0
        plan: list[Counterpart] = []
        in_the_way: dict[int, Order] = {}
        for owner, number, price, quantity in self._offers(order):
            quantity = min(quantity, wanted)
            if owner != node:
                able = self._matching.affordable(order, owner, price, quantity, plan)
                withheld += quantity - able
                quantity = able
            else:
                maker = self._store.open[number]
                if order.self_trade != "none" and maker.account == order.account:
                    in_the_way[number] = maker
                    if order.self_trade == "cancel_oldest":
                        continue
                elif maker.reduce_only and maker.account == HOUSE:
                    break  # what it may trade can change before all is granted
            if quantity:
                plan.append((owner, number, price, quantity))
                wanted -= quantity
            if not wanted:
                break
        return plan, list(in_the_way.values()), withheld

    def _offers(self, order: Order) -> Iterator[Counterpart]:
        """What the order meets, and what own icebergs do not show: at one price after all that is on
        show, as slice after slice would come."""
        node = self._context.node_id
        rests: list[Counterpart] = []
        for meeting in self._matching.counterparts(order):
            owner, number, price, quantity = meeting
            maker = self._store.open[number] if owner == node else None
            if rests and (rests[0][2] != price or (maker is not None and maker.hidden)):
                yield from rests
                rests = []
            yield meeting
            if maker is not None and maker.display_quantity and maker.free > quantity:
                rests.append((owner, number, price, maker.free - quantity))
        yield from rests

    def _commit(self, now: float, order: Order, attempt: _Attempt) -> None:
        del self._attempts[order.number]
        for _, number, price, quantity in attempt.here:
            maker = self._store.open[number]
            self._fills.local_trade(now, order, maker, price, quantity, reserved=True)
        for take in self._takes.of_order(order.number):
            self._taker_side.commit(now, take)

    def _give_up(self, now: float, order: Order, attempt: _Attempt) -> None:
        del self._attempts[order.number]
        for _, number, _, quantity in attempt.here:
            maker = self._store.open[number]
            maker.reserved -= quantity
            self._store.publish(now, maker)
            self._store.work_queue.append(number)
        self._tried.add(order.number)
