"""Taker side of the take protocol: requests to other owners, and the processing of their answers.

Rules of this file:
- The requested quantity is pending, neither free nor filled, until its owner has answered.
- Every change of a take is journaled with the same drain that sends its message.
"""

from __future__ import annotations

from collections import deque
from copy import copy
from typing import Literal, NamedTuple

from exchange.feeds.exchange_messages import TakeResult, pack
from exchange.market.market import Hold
from exchange.model.events import Filled
from exchange.model.ports import Send
from exchange.model.records import DropTake, Order, PendingTake
from exchange.orders.engine_context import EngineContext
from exchange.orders.fills import FillRecorder
from exchange.orders.order_store import OrderStore
from exchange.takes.maker_conduct import LATE, MakerConduct
from exchange.takes.take_protocol import RESERVED, PendingTakes

ENDED = "ended"  # reason of a take whose maker has signed that it did not fill it
MAX_REFUSED = 1000  # refusals that are looked at
REFUSED_HOLD = 5.0  # seconds to avoid an order after a refusal that its feed will not show, or without an answer


class _Refused(NamedTuple):
    """A refusal as gone: an order that its feed should not show any more at `number`."""

    maker: str
    market: str
    order: int
    price: int
    least: int  # lots that it should have granted something of
    number: int


class TakerSide:
    """Takes of other owners' orders by this node's orders."""

    def __init__(
        self,
        context: EngineContext,
        store: OrderStore,
        fills: FillRecorder,
        takes: PendingTakes,
    ) -> None:
        self._context = context
        self._store = store
        self._fills = fills
        self._takes = takes
        self.conduct = MakerConduct()
        self._signed: deque[tuple[str, TakeResult]] = deque()  # to be carried out
        self._refused: list[_Refused] = []  # refusals whose effect the feed should show

    def restore(self, takes: list[PendingTake]) -> None:
        """Restore takes whose outcome the journal does not know."""
        for take in sorted(takes, key=lambda t: t.take):
            market = self._context.markets.get(take.market)
            if market is not None:
                # The market has moved since the request: request the outcome, not a new fill. A
                # committed fill-or-kill order continues.
                take.void = take.phase != "commit"
                self._takes.add(0.0, take)
                market.reserve(take.maker, take.maker_order, take.quantity)

    def request(
        self,
        now: float,
        order: Order,
        maker: str,
        maker_order: int,
        price: int,
        quantity: int,
        phase: Literal["", "reserve"] = "",
    ) -> None:
        """Request a quantity of another owner's order."""
        market = self._context.markets[order.market]
        take = PendingTake(
            take=self._fills.new_take(),
            market=market.key,
            order=order.number,
            maker=maker,
            maker_order=maker_order,
            side=order.side,
            price=price,
            quantity=quantity,
            seen=market.replicas[maker].feed.number,
            phase=phase,
            until=self._takes.end_of(maker),
        )
        order.pending += quantity
        market.reserve(maker, maker_order, quantity)
        self._takes.add(now, take)
        self._context.records.append(copy(take))
        self._context.orders[order.number] = order

    def commit(self, now: float, take: PendingTake) -> None:
        """Commit a reservation of a fill-or-kill order: from now on its fill is requested."""
        self._takes.commit(now, take.take)
        self._context.records.append(copy(take))

    def give_up(self, now: float, take: PendingTake) -> None:
        """Give up a reservation of a fill-or-kill order. It is never committed, so nothing of it can be
        filled and the order is free of it, whatever its owner does."""
        self._takes.give_up(now, take.take)
        self._context.records.append(copy(take))
        order = self._store.open[take.order]
        order.pending -= take.quantity
        self._context.orders[order.number] = order

    def send_due(self, now: float) -> None:
        """Send all requests that are due."""
        for maker, message in self._takes.due(now):
            self._context.messages.append(Send(maker, "take", pack(message)))

    def on_result(self, now: float, maker: str, result: TakeResult) -> bool:
        """Process an owner's answer. Returns False when no honest owner sends it."""
        take = self._takes.get(result.take)
        if take is None or take.maker != maker:
            if (
                result.quantity
                and result.reason != RESERVED
                and self._takes.is_late(maker, result.take)
            ):
                self._filled_late(maker, result.take)
            return True  # a repeated answer, or another node's take
        if not self._takes.plausible(take, result):
            self._context.warn(
                f"node {maker} answered take {result.take} with impossible values",
                "answered a take with impossible values",
                maker,
            )
            return False
        if result.reason == RESERVED:
            if take.phase == "reserve" and not take.void:
                self._takes.granted(take.take)
                self._context.records.append(copy(take))
                self._store.work_queue.append(take.order)
            return True
        self._note(now, take, result)
        self._conclude(now, take, result, _hold_after(now, take, result))
        return True

    def _conclude(self, now: float, take: PendingTake, result: TakeResult, hold: Hold) -> None:
        """Carry out the outcome of a take. `hold` is deducted from its maker's order."""
        self._takes.resolve(take.take)
        self._takes.learn(take.maker, late=result.reason in (ENDED, "late"))
        self._context.records.append(DropTake(take.take))
        if take.phase != "given_up":
            self._apply(now, take, result)
        market = self._context.markets[take.market]
        market.release(take.maker, take.maker_order, take.quantity, hold)
        self._store.work_queue.append(take.order)

    # What the maker signs

    def on_filled(self, maker: str, market: str, event: Filled, number: int) -> None:
        """Note a fill of one of this node's takes in its maker's feed: it is an answer, whether another one comes or not."""
        self._takes.filled(maker, event.take)
        result = TakeResult(
            event.take, market, event.order, event.price, event.quantity, event.time, number
        )
        self._signed.append((maker, result))

    def tick(self, now: float) -> None:
        """End the takes whose makers have signed that they did not fill them in time."""
        for take, head in self._takes.ending():
            replica = self._context.markets[take.market].replicas.get(take.maker)
            feed = None if replica is None else replica.feed
            if feed is None or feed.fault or feed.number < head or feed.unbroken > take.seen:
                continue
            self._takes.end(take.take)
            self.conduct.of(take.maker).ended += 1
            ended = TakeResult(
                take.take, take.market, take.maker_order, take.price, 0, 0, head, ENDED
            )
            self._signed.append((take.maker, ended))
        if self._refused:
            self._refused = [each for each in self._refused if not self._is_settled(each)]

    def next_signed(self, now: float) -> bool:
        """Carry out the next outcome that a maker has signed. Returns False if there is none."""
        if not self._signed or not self._context.writes:
            return False
        maker, result = self._signed.popleft()
        take = self._takes.get(result.take)
        if result.reason != ENDED:
            self.on_result(now, maker, result)
        elif take is not None:
            self._conclude(now, take, result, Hold(None, None, now + REFUSED_HOLD))
        return True

    def _note(self, now: float, take: PendingTake, result: TakeResult) -> None:
        """Count a final answer."""
        conduct = self.conduct.of(take.maker)
        conduct.answers += 1
        if self._takes.age(now, take.take) > LATE:
            conduct.late += 1
        if result.reason == "gone" and len(self._refused) < MAX_REFUSED:
            number = max(result.number, take.seen)
            least = take.quantity if take.phase else 1
            self._refused.append(
                _Refused(take.maker, take.market, take.maker_order, take.price, least, number)
            )

    def _is_settled(self, refused: _Refused) -> bool:
        """Look if the feed shows that a refused order is gone, as soon as it has to."""
        market = self._context.markets[refused.market]
        replica = market.replicas.get(refused.maker)
        if replica is None or replica.feed.fault:
            return True
        if replica.feed.number < refused.number:
            return False
        order = replica.feed.state.orders.get(refused.order)
        if order is not None and order.shown >= refused.least and order.price == refused.price:
            self.conduct.of(refused.maker).refused_shown += 1
        return True

    def _filled_late(self, maker: str, take: int) -> None:
        self.conduct.of(maker).filled_late += 1
        self._context.warn(
            f"node {maker} filled take {take} of this node after its end, by which it had signed that there is no fill: "
            "this node does not book it",
            "filled a take after its end",
            maker,
        )

    def _apply(self, now: float, take: PendingTake, result: TakeResult) -> None:
        """Apply a final answer to the order that requested the take."""
        order = self._store.open[take.order]
        order.pending -= take.quantity
        if result.quantity:
            self._fills.taker_fill(
                now,
                order,
                take=take.take,
                maker=take.maker,
                maker_order=take.maker_order,
                price=take.price,
                quantity=result.quantity,
                time=result.time,
            )
        if result.reason == "credit":
            order.reason = "credit"


def _hold_after(now: float, take: PendingTake, result: TakeResult) -> Hold:
    """Return the deduction from the maker's displayed quantity until its feed confirms the answer."""
    if result.reason in ("void", "late"):
        return Hold(None, result.number, None)
    if result.reason in ("", "gone"):
        # The order was in the feed at the request, so an event that was not here yet has removed it.
        # The number is at least that of the next event: a maker that claims otherwise would get
        # requests without end.
        left = result.quantity if result.quantity == take.quantity else None
        return Hold(left, max(result.number, take.seen + 1), None)
    return Hold(None, None, now + REFUSED_HOLD)
