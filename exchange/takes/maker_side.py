"""Maker side of the take protocol: decisions of this node, as owner, on takes by others.

Each take is decided once, from the own state alone, and gets the same answer ever after. The one
exception is a reservation for a fill-or-kill order, which is decided a second time: filled, given up,
or expired.

Rules of this file:
- A decision is recorded, and journaled if it has to outlive its take's end, before its answer is queued; one drain
  carries both.
- A message with values that no feed and no journal can hold does not get here (`exchange.model.peer_values`).
"""

from __future__ import annotations

from exchange.feeds.exchange_messages import Take, pack
from exchange.market.market import Market
from exchange.model.ports import Send
from exchange.model.records import Decision, DropDecisions, Order
from exchange.orders.engine_context import EngineContext
from exchange.orders.fills import FillRecorder
from exchange.orders.order_store import OrderStore
from exchange.orders.reduce_only import ReduceOnly
from exchange.takes.credit import CreditCheck
from exchange.takes.reservation_quota import ReservationQuota
from exchange.takes.take_protocol import RESERVATION_US, RESERVED, TakeDecisions, result_of


class MakerSide:
    """Takes by other nodes of this node's orders."""

    def __init__(
        self,
        context: EngineContext,
        store: OrderStore,
        fills: FillRecorder,
        decisions: TakeDecisions,
        credit: CreditCheck,
        reduce_only: ReduceOnly,
    ) -> None:
        self._context = context
        self._store = store
        self._fills = fills
        self._decisions = decisions
        self._credit = credit
        self._reduce_only = reduce_only
        self._quota = ReservationQuota()

    def on_take(self, now: float, taker: str, request: Take) -> bool:
        """Answer a request of another node. Returns False when no honest node sends it."""
        if request.below > request.take:
            return False
        if self._decisions.stale(taker, request.take):
            return True
        decision = self._decisions.decided(taker, request.take)
        if decision is None and not self._decisions.answers(taker, request):
            return True
        if self._decisions.forget(taker, request.below):
            self._context.records.append(DropDecisions(taker, request.below))
        if decision is None:
            if not self._decisions.decides(taker):
                return True
            decision = self._decide(now, taker, request)
            if self._decisions.record(decision, request.until):
                self._context.records.append(decision)
            if decision.reason == RESERVED:
                self._quota.begin(decision)
        elif decision.reason == RESERVED:
            if self._context.stale is not None:
                return True
            decision = self._decide_reserved(now, decision, request)
        self._context.messages.append(Send(taker, "take_result", pack(result_of(decision))))
        return True

    def tick(self, now: float) -> None:
        """End the expired reservations."""
        for decision in self._decisions.ended(self._context.us(now)):
            self._give_up(now, decision, "expired")

    def _put(self, decision: Decision) -> None:
        self._decisions.record(decision)
        self._context.records.append(decision)

    # First decision

    def _decide(self, now: float, taker: str, request: Take) -> Decision:
        market = self._context.markets.get(request.market)
        order = self._store.open.get(request.order)
        quantity = until = 0
        time = self._context.us(now)
        reason = self._unavailable(market, order, taker, request)
        if not reason and order is not None:
            reason = self._objection(now, taker, request, order)
            quantity = 0 if reason else min(request.quantity, order.shown)
            if quantity and request.phase == "reserve":
                reason = RESERVED
                until = time + RESERVATION_US
                self._store.reserve(now, order, quantity)
            elif quantity:
                self._fills.maker_fill(
                    now,
                    order,
                    taker=taker,
                    take=request.take,
                    taker_order=request.taker_order,
                    price=request.price,
                    quantity=quantity,
                    time=time,
                )
        return Decision(
            taker=taker,
            take=request.take,
            market=request.market,
            order=request.order,
            price=request.price,
            quantity=quantity,
            time=time,
            number=market.writer.number if market is not None else 0,
            reason=reason,
            until=until,
        )

    def _unavailable(
        self, market: Market | None, order: Order | None, taker: str, request: Take
    ) -> str:
        """Return the reason why the requested order cannot be taken at all; "" when it can."""
        if market is None:
            return "unknown_market"
        if self._context.stale is not None:
            return "stale_data"
        if request.void:
            return "void"
        if self._decisions.is_late(taker, request.until):
            return "late"
        if market.halted:
            return "halted"
        if (
            order is None
            or order.market != request.market
            or order.price != request.price
            or not order.shown
            or (request.phase and order.shown < request.quantity)
        ):
            return "gone"
        return ""

    def _objection(self, now: float, taker: str, request: Take, order: Order) -> str:
        """Return the reason why this taker does not get an available order; "" when it does."""
        if request.phase == "reserve" and not self._quota.admits(self._context.us(now), taker):
            return "too_many"
        if order.reduce_only:
            if request.phase:
                return "reduce_only"  # its limit can change before the second decision
            fits = self._reduce_only.fit(now, order)
            self._store.publish(now, order)
            if not fits or not order.shown:
                return "gone"
        quantity = min(request.quantity, order.shown)
        plan = self._credit.plan(request.market, order.side)
        if plan is not None and plan.grant(taker, request.price, quantity) < quantity:
            return "credit"
        return ""

    # Second decision, on reservations

    def _decide_reserved(self, now: float, decision: Decision, request: Take) -> Decision:
        if self._context.us(now) >= decision.until:
            return self._give_up(now, decision, "expired")
        if request.void:
            return self._give_up(now, decision, "void")
        if request.phase == "commit":
            return self._fill(now, decision, request.taker_order)
        return decision

    def _fill(self, now: float, reserved: Decision, taker_order: int) -> Decision:
        order = self._store.open.get(reserved.order)
        if order is None:
            return self._give_up(now, reserved, "unknown_market")
        time = self._context.us(now)
        self._fills.maker_fill(
            now,
            order,
            taker=reserved.taker,
            take=reserved.take,
            taker_order=taker_order,
            price=reserved.price,
            quantity=reserved.quantity,
            time=time,
            reserved=True,
        )
        return self._final(reserved, reserved.quantity, time, "")

    def _give_up(self, now: float, reserved: Decision, reason: str) -> Decision:
        order = self._store.open.get(reserved.order)
        if order is not None:  # None when its market is no longer traded here
            order.reserved -= reserved.quantity
            self._store.publish(now, order)
            self._store.work_queue.append(order.number)
        return self._final(reserved, 0, self._context.us(now), reason)

    def _final(self, reserved: Decision, quantity: int, time: int, reason: str) -> Decision:
        self._quota.end(time, reserved, taken=quantity > 0)
        market = self._context.markets.get(reserved.market)
        decision = Decision(
            taker=reserved.taker,
            take=reserved.take,
            market=reserved.market,
            order=reserved.order,
            price=reserved.price,
            quantity=quantity,
            time=time,
            number=market.writer.number if market is not None else 0,
            reason=reason,
        )
        if self._decisions.stale(reserved.taker, reserved.take):
            self._decisions.drop(reserved)  # the taker knows the outcome and sends no more requests
        else:
            self._put(decision)
        return decision
