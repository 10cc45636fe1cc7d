"""Order manager: commands on this node's own orders, and changes to them by takes, trades and time.

Theory of operation. Only the owner writes an order, and all writing starts here. The work is done by
parts, each with one subject:

    OrderValidation    accepts or rejects new orders
    Amendments         changes open orders
    Matching           own orders against the book
    FillRecorder       fills, ledger postings and feed events of a trade
    TakerSide          takes of other owners' orders
    MakerSide          takes by other owners
    FillOrKill         all of an order at once, over several owners
    ConditionalOrders  stops, trailing stops and order pairs
    ReduceOnly         limits of reduce-only orders
    CreditCheck        credit limits of other nodes
    OrderStore         the orders in memory and their indexes

Rules of this file:
- A part that finds an order to continue with appends its number to `OrderStore.work_queue`. Nothing
  recurses: `run_queue` empties the queue before the call ends.
- Expired orders are cancelled before anything that could fill them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy

from exchange.market.market import Market
from exchange.model.commands import HOUSE, Amend, NewOrder, Selection
from exchange.model.records import Order, PutHalt, Recovered
from exchange.orders.amendments import Amendments
from exchange.orders.conditional_orders import ConditionalOrders
from exchange.orders.engine_context import CommandRejected, EngineContext
from exchange.orders.fills import FillRecorder
from exchange.orders.matching import Matching
from exchange.orders.order_store import OrderStore
from exchange.orders.order_validation import OrderValidation
from exchange.orders.reduce_only import ReduceOnly
from exchange.takes.credit import CreditCheck
from exchange.takes.fill_or_kill import FillOrKill
from exchange.takes.maker_side import MakerSide
from exchange.takes.take_protocol import OwnerClocks, PendingTakes, TakeDecisions
from exchange.takes.taker_side import TakerSide

EXPIRED = 200  # orders that are cancelled at once because their date has come: about a millisecond


class OrderManager:
    """Own orders of one node. `now` is monotonic seconds; prices are ticks, quantities lots.

    Acknowledge a command to the client only after the records of the next drain are durable.
    """

    def __init__(self, context: EngineContext, clocks: OwnerClocks) -> None:
        self._context = context
        self.decisions = TakeDecisions(clocks)
        self.takes = takes = PendingTakes(clocks)
        self.store = store = OrderStore(context, takes)
        self.fills = fills = FillRecorder(context, store)
        credit = CreditCheck(context, store, takes, self.decisions)
        self._reduce_only = reduce_only = ReduceOnly(context, store)
        self.taker_side = TakerSide(context, store, fills, takes)
        self.matching = Matching(context, store, fills, self.taker_side, reduce_only, credit)
        self.maker_side = MakerSide(context, store, fills, self.decisions, credit, reduce_only)
        self._fill_or_kill = FillOrKill(
            context, store, fills, takes, self.taker_side, self.matching, reduce_only
        )
        self._conditional = ConditionalOrders(context, store)
        self._validation = OrderValidation(context, store, reduce_only, self._conditional)
        self._amendments = Amendments(
            context, store, self._validation, self._conditional, reduce_only
        )

    def restore(self, now: float, past: Recovered) -> None:
        """Restore orders, takes and halts from the journal, after the feeds and the ledger."""
        context = self._context
        stored = past.meta.get("next_take", 1)
        # Numbers start at the clock, so none is used twice, even with an old copy of the journal:
        # only more than one take a microsecond could get ahead of the clock.
        next_take = max(stored, context.us(now))
        context.forgotten = range(stored, next_take)
        self.fills.next_take = next_take
        self.decisions.restore(context.us(now), past.decisions, past.marks)
        reserved: dict[int, int] = {}
        for decision in self.decisions.reservations:
            reserved[decision.order] = reserved.get(decision.order, 0) + decision.quantity
        self.store.restore(past.meta.get("next_order", 1), past.orders, reserved)
        for order in past.orders:  # by number: the average of the latest that was filled remains
            if order.value and order.market in context.markets:
                context.markets[order.market].note_fill(order.value // order.filled)
        context.counters.update(next_take=next_take, next_order=self.store.next_number)
        self.taker_side.restore(past.takes)
        self._conditional.restore(past.meta)
        for key, reason in past.halts.items():
            self._set_halted(key, reason)
        for market in context.markets.values():
            market.refresh_owner(context.node_id)

    # Commands

    def place(self, now: float, new: NewOrder) -> list[Order]:
        """Place an order, and with `oco_stop` the second order of the pair.

        With a `client_id` that the account has used before, nothing changes and the earlier order is
        returned.

        Raises:
            CommandRejected: nothing has changed.
        """
        if new.client_id is not None:
            earlier = self._validation.earlier(new, new.client_id)
            if earlier is not None:
                linked = self.store.get(earlier.linked_order) if earlier.linked_order else None
                return [earlier] if linked is None else [earlier, linked]
        context, store = self._context, self.store
        if context.stale is not None or context.fenced:
            self._check_writes()
        if store.expiry.values:
            self.expire(now)
            self.run_queue(now)
        order = self._validation.accept(now, new)
        if order.opened:
            return [order]
        self._advance(now, order)
        if not order.done:
            store.settle(now, order)
        placed = [order]
        if order.terms is not None and order.linked_order:
            linked = store.get(order.linked_order)
            if linked is not None:
                placed.append(linked)
                if order.cancelled and not linked.cancelled:
                    # The limit order ended at once without a trade: no pair comes into being.
                    store.cancel(now, linked, order.reason)
        if store.work_queue or context.unseen:
            self.run_queue(now)
        return placed

    def amend(self, now: float, number: int, changes: Amend) -> Order:
        """Change an open order, see `exchange.orders.amendments`.

        Raises:
            CommandRejected: nothing has changed.
        """
        self._check_writes()
        self.expire(now)
        self.run_queue(now)
        order = self._changeable(number)
        if self._amendments.amend(now, order, changes):
            if order.free:
                self._advance(now, order)
            self.store.publish(now, order, moved=not order.done)
        self.run_queue(now)
        return order

    def cancel(self, now: float, number: int, reason: str = "cancelled") -> Order:
        """Cancel the unfilled quantity. A quantity that is pending with another owner is that
        owner's decision: the owner is requested at once to refuse the part that it has not granted
        yet.

        Raises:
            CommandRejected: an unknown order, or nothing left to cancel.
        """
        order = self.store.open.get(number)
        if order is None or order.cancelled:
            order = self._changeable(number)
        context = self._context
        if context.stale is not None or context.fenced:
            self._check_writes()
        self.store.cancel(now, order, reason)
        if self.store.work_queue or context.unseen:
            self.run_queue(now)
        return order

    def cancel_many(self, now: float, which: Selection, reason: str = "cancelled") -> list[Order]:
        """Cancel all open orders of a selection and return them. `reason` is their reason for ending,
        `dead_man` when a session was lost.

        Raises:
            CommandRejected: this node must not write now; nothing has changed.
        """
        self._check_writes()
        found: list[Order] = []
        for part, _ in self.cancelling(lambda: now, which, reason):
            found += part
        return found

    def cancelling(
        self, clock: Callable[[], float], which: Selection, reason: str = "cancelled"
    ) -> Iterator[tuple[list[Order], bool]]:
        """Cancel as `cancel_many`, some orders with each step, which returns them, and True if another step follows.

        Raises:
            CommandRejected: this node must not write now; nothing has changed since the last step.
        """
        for part, more in self.store.selected(which):
            self._check_writes()
            now = clock()
            for order in part:
                self.store.cancel(now, order, reason)
            self.run_queue(now)
            yield part, more

    def freeze(self, now: float, account: int) -> list[Order]:
        """Freeze an account, cancel its open orders and return them. While this node does not write
        its feeds no node can trade with them; they are cancelled as soon as it does.

        Raises:
            AccountError: unknown_account.
        """
        self._context.accounts.freeze(account)
        if not self._context.writes:
            return []
        found = self.store.select(Selection(account=account))
        for order in found:
            self.store.cancel(now, order, "frozen")
        self.run_queue(now)
        return found

    def halt(self, market: str, reason: str = "") -> None:
        """Halt trading in a market until it is resumed, across restarts: no new orders, no takes. Open
        orders stay where they are and can be cancelled.

        Raises:
            CommandRejected: unknown_market.
        """
        self._known(market)
        self._set_halted(market, reason)
        self._context.records.append(PutHalt(market, reason))

    def _set_halted(self, key: str, reason: str) -> None:
        market = self._context.markets.get(key)
        if market is not None:
            market.halted = True
            self._context.halts.halt(key, reason)

    def resume_market(self, now: float, market: str) -> bool:
        """Continue a halted market and its orders. Returns False when it was not halted.

        Raises:
            CommandRejected: unknown_market.
        """
        found = self._known(market)
        if not self._context.halts.resume(market):
            return False
        found.halted = False
        self._context.records.append(PutHalt(market, None))
        if not self._context.writes:
            return True  # a restarted node continues all of its orders as soon as it writes
        self.expire(now)
        self._conditional.resume(now, found)
        for order in [o for o in self.store.open.values() if o.market == market]:
            if not order.opened:
                self.store.work_queue.append(order.number)
        self.matching.uncross(now, found)
        self.run_queue(now)
        return True

    def _is_frozen(self, order: Order) -> bool:
        account = self._context.accounts.get(order.account) if order.account != HOUSE else None
        return account is not None and account.frozen

    def _known(self, market: str) -> Market:
        found = self._context.markets.get(market)
        if found is None:
            raise CommandRejected("unknown_market", f"this node does not trade {market}")
        return found

    def _changeable(self, number: int) -> Order:
        order = self.store.open.get(number)
        if order is None:
            finished = self.store.recent.get(number)
            if finished is None:
                raise CommandRejected("unknown_order", f"this node has no order {number}")
            how = "filled" if finished.filled == finished.quantity else "cancelled"
            raise CommandRejected("order_done", f"order {number} is already {how}")
        if order.cancelled:
            raise CommandRejected(
                "order_done",
                f"order {number} is being cancelled; a part of it awaits another node's answer",
            )
        return order

    def _check_writes(self) -> None:
        if self._context.stale is not None:
            raise CommandRejected("stale_data", self._context.stale)
        if self._context.fenced:
            raise CommandRejected(
                "starting",
                "this node has just started and is still synchronising with others: try again",
            )

    # Continuing orders

    def resume(self, now: float) -> None:
        """Call once after the start: immediate orders end, resting ones are matched with the book."""
        self.expire(now)
        # Before anything is matched: an account frozen while this node did not write trades no more.
        for order in list(self.store.open.values()):
            if self._is_frozen(order) and not order.cancelled:
                self.store.cancel(now, order, "frozen")
        for market in self._context.markets.values():
            if not market.halted:
                self._conditional.resume(now, market)
        # Orders triggered by a missed trade enter after the others, in the order of their triggers.
        triggered = set(self.store.work_queue)
        for order in list(self.store.open.values()):
            if order.done or order.number in triggered:
                continue
            if order.tif == "fok" and not order.untriggered and not order.cancelled:
                self.store.cancel(now, order, "fok")  # except for committed takes
                continue
            before = copy(order)
            # Displayed before the start: of two crossed orders the later one takes, also now.
            self._advance(now, order, only_earlier=order.opened and not order.hidden)
            ends = (
                not order.left
            )  # a cancelled order whose reason to stay open ended with the process
            if not order.done and (ends or order != before or not self.store.is_shown(order)):
                self.store.publish(now, order)
        self.run_queue(now)

    def _continue(self, now: float, order: Order) -> None:
        """Match the free quantity with the book; then rest the remainder, or end the order."""
        self._advance(now, order)
        if not order.done:
            self.store.publish(now, order)

    def _advance(self, now: float, order: Order, *, only_earlier: bool = False) -> None:
        """Trade the free quantity of an order with the book as far as its terms allow."""
        terms = order.terms
        if terms is not None:
            if terms.untriggered:
                self._conditional.check_linked(now, order)
                return
            if terms.tif == "fok":
                self._fill_or_kill.advance(now, order)
                return
            if terms.reduce_only and order.free and not self._reduce_only.fit(now, order):
                return
            if not order.free:
                return
        elif order.cancelled or order.filled == order.quantity:
            return
        context = self._context
        market = context.markets[order.market]
        halted = market.halted
        if not halted and context.stale is None and not context.fenced:
            if terms is not None and terms.post_only:
                if self.matching.would_take(order):
                    order.cancelled = True
                    order.reason = "post_only"
                return
            if market.meets(order.side, order.price or order.worst_price):
                self.matching.take_liquidity(now, order, only_earlier=only_earlier)
        immediate = order.price is None or (terms is not None and terms.tif == "ioc")
        if immediate and order.free and not order.pending:
            order.cancelled = True  # nothing left to trade with
            if halted:
                order.reason = "halted"
            elif order.reason != "credit":
                order.reason = "ioc" if order.price is not None else "no_liquidity"

    def run_queue(self, now: float) -> None:
        """Continue the orders of the work queue, and trigger stops, until nothing is left to do. Call
        after every change of the feeds: their trades may have triggered orders."""
        if self._context.expiring:
            return  # `tick` does it
        store = self.store
        work, unseen = store.work_queue, self._context.unseen
        while (
            work
            or (unseen and self._conditional.process_trade(now))
            or self.taker_side.next_signed(now)
        ):
            while work:
                order = store.open.get(work.popleft())
                if order is not None:
                    self._continue(now, order)

    # Time

    def expire(self, now: float) -> None:
        """Cancel all expired good-till-date orders. Call before anything that may fill one of them."""
        while self.expire_some(now):
            pass

    def expire_some(self, now: float) -> bool:
        """Cancel some of the expired good-till-date orders. Returns True while others are left: until they have been
        cancelled nothing may be filled, so what this node decides waits (`EngineContext.expiring`)."""
        store, context = self.store, self._context
        context.expiring = False
        if not store.expiry.values or not context.writes:
            return False
        time = context.us(now)
        for _ in range(EXPIRED):
            number = store.expiry.pop(time)
            if number is None:
                return False
            order = store.open.get(number)
            if order is not None and not order.cancelled:
                store.cancel(now, order, "expired")
        context.expiring = (first := store.expiry.least()) is not None and first <= time
        return context.expiring

    @property
    def busy(self) -> bool:
        """Report if takes, reservations, fill-or-kill orders or trailing stops wait for `tick`."""
        return (
            len(self.takes) > 0
            or self.decisions.reserving
            or self._fill_or_kill.busy
            or self._conditional.busy
        )

    @property
    def next_expiry(self) -> int | None:
        """Return when the next good-till-date order ends, in us since the epoch."""
        first = self.store.expiry.first() if self.store.expiry.values else None
        return None if first is None else first[0]

    def tick(self, now: float) -> None:
        """Process expired orders, expired reservations and trailing stops."""
        if not self._context.writes or self.expire_some(now):
            return
        self.maker_side.tick(now)
        self.taker_side.tick(now)
        self._fill_or_kill.tick()
        self._conditional.store_trailing_stops(now)
        self.run_queue(now)

    def store_counters(self) -> None:
        """Make the number counters durable with this drain, and drop old finished orders."""
        self._context.count("next_order", self.store.next_number)
        self._context.count("next_take", self.fills.next_take)
        self.store.trim()
