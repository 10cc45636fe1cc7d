"""Being taken from: what this node, as owner, answers to takes of others.

Each take is decided once, from the own state alone, and answered the same ever after. The one exception
is a reservation for a fill-or-kill order, which is decided a second time: filled, given up, or ended when
its time is over.
"""

from __future__ import annotations

from exchange.feeds.exchange_messages import Take, pack
from exchange.model.events import MAX_ORDER, MAX_PRICE, MAX_QUANTITY
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

    def on_take(self, now: float, taker: str, ask: Take) -> bool:
        """Another node asks; False when no honest node asks so."""
        if not (
            1 <= ask.below <= ask.take < 2**62
            and 0 < ask.quantity < MAX_QUANTITY
            and 0 < ask.price < MAX_PRICE
            and 0 < ask.order < MAX_ORDER
            and 0 < ask.taker_order < MAX_ORDER
            and len(ask.market) <= 80
            and len(taker) <= 64
        ):
            return False  # what no feed and no journal could hold
        if self._decisions.stale(taker, ask.take) or not self._decisions.answers(taker):
            return True
        if self._decisions.forget(taker, ask.below):
            self._context.records.append(DropDecisions(taker, ask.below))
        decision = self._decisions.decided(taker, ask.take)
        if decision is None:
            if not self._decisions.decides(taker):
                return True
            decision = self._decide(now, taker, ask)
            self._put(decision)
            if decision.reason == RESERVED:
                self._quota.begin(decision)
        elif decision.reason == RESERVED:
            if self._context.stale is not None:
                return True
            decision = self._decide_reserved(now, decision, ask)
        self._context.messages.append(Send(taker, "take_result", pack(result_of(decision))))
        return True

    def tick(self, now: float) -> None:
        """End the reservations whose time is over."""
        for decision in self._decisions.ended(self._context.us(now)):
            self._give_up(now, decision, "expired")

    def _put(self, decision: Decision) -> None:
        self._decisions.record(decision)
        self._context.records.append(decision)

    def _decide(self, now: float, taker: str, ask: Take) -> Decision:
        context = self._context
        market = context.markets.get(ask.market)
        order = self._store.open.get(ask.order)
        quantity = until = 0
        time = context.us(now)
        if market is None:
            reason = "unknown_market"
        elif context.stale is not None:
            reason = "stale_data"
        elif ask.void:
            reason = "void"
        elif market.halted:
            reason = "halted"
        elif (
            order is None
            or order.market != ask.market
            or order.price != ask.price
            or not order.shown
            or (ask.phase and order.shown < ask.quantity)
        ):
            reason = "gone"
        else:
            reason = self._objection(now, taker, ask, order)
            quantity = 0 if reason else min(ask.quantity, order.shown)
            if quantity and ask.phase == "reserve":
                reason = RESERVED
                until = time + RESERVATION_US
                self._store.reserve(now, order, quantity)
            elif quantity:
                self._fills.maker_fill(
                    now, order, taker, ask.take, ask.taker_order, ask.price, quantity, time
                )
        number = market.writer.number if market is not None else 0
        return Decision(
            taker,
            ask.take,
            ask.market,
            ask.order,
            ask.price,
            quantity,
            time,
            number,
            reason,
            until,
        )

    def _objection(self, now: float, taker: str, ask: Take, order: Order) -> str:
        """Why an order that is there is not given; "" when it is."""
        if ask.phase == "reserve" and not self._quota.admits(self._context.us(now), taker):
            return "too_many"
        if order.reduce_only:
            if ask.phase:
                return "reduce_only"  # what it may trade can change before the second decision
            fits = self._reduce_only.fit(now, order)
            self._store.publish(now, order)
            if not fits or not order.shown:
                return "gone"
        quantity = min(ask.quantity, order.shown)
        if self._context.ledger.credit:
            lots = self._credit.lots(taker, ask.market, order.side, ask.price)
            if lots is not None and lots < quantity:
                return "credit"
        return ""

    # Reservations

    def _decide_reserved(self, now: float, decision: Decision, ask: Take) -> Decision:
        if self._context.us(now) >= decision.until:
            return self._give_up(now, decision, "expired")
        if ask.void:
            return self._give_up(now, decision, "void")
        if ask.phase == "commit":
            return self._fill(now, decision, ask.taker_order)
        return decision

    def _fill(self, now: float, reserved: Decision, taker_order: int) -> Decision:
        order = self._store.open.get(reserved.order)
        if order is None:
            return self._give_up(now, reserved, "unknown_market")
        time = self._context.us(now)
        self._fills.maker_fill(
            now,
            order,
            reserved.taker,
            reserved.take,
            taker_order,
            reserved.price,
            reserved.quantity,
            time,
            reserved=True,
        )
        return self._final(reserved, reserved.quantity, time, "")

    def _give_up(self, now: float, reserved: Decision, reason: str) -> Decision:
        order = self._store.open.get(reserved.order)
        if order is not None:  # not when its market is no longer traded here
            order.reserved -= reserved.quantity
            self._store.publish(now, order)
            self._store.work_queue.append(order.number)
        return self._final(reserved, 0, self._context.us(now), reason)

    def _final(self, reserved: Decision, quantity: int, time: int, reason: str) -> Decision:
        self._quota.end(time, reserved, taken=quantity > 0)
        market = self._context.markets.get(reserved.market)
        decision = Decision(
            reserved.taker,
            reserved.take,
            reserved.market,
            reserved.order,
            reserved.price,
            quantity,
            time,
            market.writer.number if market is not None else 0,
            reason,
        )
        if self._decisions.stale(reserved.taker, reserved.take):
            self._decisions.drop(reserved)  # the taker says it knows: nobody will ask again
        else:
            self._put(decision)
        return decision
