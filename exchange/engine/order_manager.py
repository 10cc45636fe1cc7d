"""This node's own orders: commands on them, takes of others' orders and by others, and time.

Only this node writes them. The parts: `entry` and `amending` accept commands, `orders` keeps the orders
and shows them, `matching` meets the book, `fills` puts trades down, `asking` and `making` are the two
sides of trades between nodes, `all_or_none` is fill-or-kill, `conditional` what waits for a trade,
`reducing` reduce-only, `credit` the limits of peers. What one of them finds is to be gone on with goes
into a queue (`OrderStore.work`), which is empty again at the end of each call: nothing recurses.
"""

from __future__ import annotations

from copy import copy

from exchange.engine.fast_path import FastPath
from exchange.feeds.exchange_messages import Take, TakeResult
from exchange.market.market import Market
from exchange.model.commands import HOUSE, Amend, NewOrder, Selection
from exchange.model.records import Order, PendingTake, PutHalt, Recovered
from exchange.orders.amendments import Amendments
from exchange.orders.conditional_orders import ConditionalOrders
from exchange.orders.engine_context import EngineContext, Refused
from exchange.orders.fills import Fills
from exchange.orders.matching import Matching
from exchange.orders.order_store import OrderStore, at_once
from exchange.orders.order_validation import OrderValidation
from exchange.orders.reduce_only import ReduceOnly
from exchange.takes.credit import Credit
from exchange.takes.fill_or_kill import FillOrKill
from exchange.takes.maker_side import MakerSide
from exchange.takes.take_protocol import Maker, Taker
from exchange.takes.taker_side import TakerSide


class OrderManager:
    """Own orders of one node. `now` is monotonic seconds; prices are ticks, quantities lots."""

    def __init__(self, core: EngineContext) -> None:
        self._core = core
        self._taker = Taker()
        self._maker = Maker()
        self.orders = OrderStore(core, self._taker)
        self.fills = Fills(core, self.orders)
        credit = Credit(core, self.orders, self._taker, self._maker)
        self._reducing = ReduceOnly(core, self.orders)
        self.asking = TakerSide(core, self.orders, self.fills, self._taker)
        self.matching = Matching(core, self.orders, self.fills, self.asking, self._reducing, credit)
        self.making = MakerSide(core, self.orders, self.fills, self._maker, credit, self._reducing)
        self._all_or_none = FillOrKill(
            *(core, self.orders, self.fills, self._taker),
            *(self.asking, self.matching, self._reducing),
        )
        self._conditional = ConditionalOrders(core, self.orders)
        self._entry = OrderValidation(core, self.orders, self._reducing, self._conditional)
        self._express = FastPath(core, self.orders, self.fills)
        self._amending = Amendments(
            core, self.orders, self._entry, self._conditional, self._reducing
        )

    def restore(self, now: float, past: Recovered) -> None:
        """Go on with what the journal holds; the feeds and the ledger are rebuilt already."""
        core = self._core
        stored = past.meta.get("next_take", 1)
        # No number twice, also when this is an old copy of the journal: more than a take a
        # microsecond would be needed to get ahead of the clock.
        next_take = max(stored, core.us(now))
        core.forgotten = range(stored, next_take)
        self.fills.next_take = next_take
        self._maker.restore(past.decisions, past.marks)
        reserved: dict[int, int] = {}
        for decision in self._maker.reservations:
            reserved[decision.order] = reserved.get(decision.order, 0) + decision.quantity
        self.orders.restore(past.meta.get("next_order", 1), past.orders, reserved)
        core.counters.update(next_take=next_take, next_order=self.orders.next_number)
        self.asking.restore(past.takes)
        self._conditional.restore(past.meta)
        for key, reason in past.halts.items():
            self._set_halted(key, reason)
        for market in core.markets.values():
            market.refresh_owner(core.node_id)

    # Looking

    @property
    def open_orders(self) -> list[Order]:
        """Own orders that are not done, oldest first."""
        return list(self.orders.open.values())

    def open_orders_of(self, account: int) -> list[Order]:
        """Those of one account."""
        if account != HOUSE:
            return list(self.orders.of_account(account))
        return [order for order in self.orders.open.values() if order.account == HOUSE]

    @property
    def recent_orders(self) -> list[Order]:
        """Own finished orders still in memory, oldest first."""
        return list(self.orders.recent.values())

    def order(self, number: int) -> Order | None:
        return self.orders.get(number)

    def by_client_id(self, client_id: str, account: int = HOUSE) -> Order | None:
        return self.orders.by_client_id(account, client_id)

    @property
    def pending_takes(self) -> list[PendingTake]:
        return self._taker.pending

    # Commands

    def place(self, now: float, new: NewOrder) -> list[Order]:
        """A new order in ticks and lots, and with `oco_stop` the second one of the pair.

        Acknowledge it to the client only when the records of the next `drain` are durable. With a
        `client_id` that the account used before, the earlier order is returned and nothing is done.

        Raises:
            Refused: not accepted; nothing was changed.
        """
        if new.client_id is not None:
            earlier = self._entry.earlier(new, new.client_id)
            if earlier is not None:
                linked = self.orders.get(earlier.linked_order) if earlier.linked_order else None
                return [earlier] if linked is None else [earlier, linked]
        core, orders = self._core, self.orders
        if core.stale is not None or core.listening:
            self._check_writes()
        if orders.expiry.times:
            self.expire(now)
        order = self._express.place(now, new)
        if order is None:
            placed = self._entry.accept(now, new)
            first = placed[0]
            self._continue(now, first)
            for other in placed[1:]:
                if first.cancelled and not other.cancelled:
                    self.orders.cancel(now, other, first.reason)  # the pair never came to be
        else:
            placed = [order]
        if orders.work or core.unseen:
            self.settle(now)
        return placed

    def amend(self, now: float, number: int, changes: Amend) -> Order:
        """Change an open order, see `exchange.orders.amendments`.

        Raises:
            Refused: nothing was changed.
        """
        self._check_writes()
        self.expire(now)
        order = self._changeable(number)
        if self._amending.amend(now, order, changes):
            if order.free:
                self._match(now, order)
            self.orders.publish(now, order, moved=not order.done)
        self.settle(now)
        return order

    def cancel(self, now: float, number: int, reason: str = "cancelled") -> Order:
        """Cancel what is not filled. What is pending with another owner is decided by that owner:
        it is asked at once to refuse what it has not granted yet.

        Raises:
            Refused: no such order, or nothing left to cancel.
        """
        order = self._changeable(number)
        self._check_writes()
        if not self._express.cancel(now, order, reason):
            self.orders.cancel(now, order, reason)
            self.settle(now)
        return order

    def cancel_many(self, now: float, which: Selection, reason: str = "cancelled") -> list[Order]:
        """Cancel all open orders that fit; those that were. `reason`: why they end, `dead_man` when a
        session died.

        Raises:
            Refused: this node must not write now; nothing was changed.
        """
        self._check_writes()
        found = self.orders.selected(which)
        for order in found:
            self.orders.cancel(now, order, reason)
        self.settle(now)
        return found

    def freeze(self, now: float, account: int) -> list[Order]:
        """Freeze an account and cancel its open orders; those that were. While this node does not
        write its feeds nobody can trade with them: then they are cancelled when it does.

        Raises:
            AccountError: unknown_account.
        """
        self._core.accounts.freeze(account)
        if not self._core.writes:
            return []
        found = self.orders.selected(Selection(account=account))
        for order in found:
            self.orders.cancel(now, order, "frozen")
        self.settle(now)
        return found

    def halt(self, market: str, reason: str) -> None:
        """Stop trading in a market, until it is resumed, over restarts too: no new orders, no takes.
        Orders stay where they are and can be cancelled.

        Raises:
            Refused: unknown_market.
        """
        self._known(market)
        self._set_halted(market, reason)
        self._core.records.append(PutHalt(market, reason))

    def _set_halted(self, key: str, reason: str) -> None:
        market = self._core.markets.get(key)
        if market is not None:
            market.halted = True
            self._core.halts.halt(key, reason)

    def resume_market(self, now: float, market: str) -> bool:
        """Go on with a halted market's orders; False when it was not halted.

        Raises:
            Refused: unknown_market.
        """
        place = self._known(market)
        if not self._core.halts.resume(market):
            return False
        place.halted = False
        self._core.records.append(PutHalt(market, None))
        if not self._core.writes:
            return True  # a restarted node goes on with all of its orders when it writes
        self.expire(now)
        self._conditional.resume(now, place)
        for order in [o for o in self.orders.open.values() if o.market == market]:
            if not order.opened:
                self.orders.work.append(order.number)
        self.uncross(now, place)
        self.settle(now)
        return True

    def _is_frozen(self, order: Order) -> bool:
        account = self._core.accounts.get(order.account) if order.account != HOUSE else None
        return account is not None and account.frozen

    def _known(self, market: str) -> Market:
        found = self._core.markets.get(market)
        if found is None:
            raise Refused("unknown_market", f"this node does not trade {market}")
        return found

    def _changeable(self, number: int) -> Order:
        order = self.orders.open.get(number)
        if order is None:
            finished = self.orders.recent.get(number)
            if finished is None:
                raise Refused("unknown_order", f"this node has no order {number}")
            how = "filled" if finished.filled == finished.quantity else "cancelled"
            raise Refused("order_done", f"order {number} is already {how}")
        if order.cancelled:
            raise Refused(
                "order_done",
                f"order {number} is being cancelled; part of it waits for another node's answer",
            )
        return order

    def _check_writes(self) -> None:
        if self._core.stale is not None:
            raise Refused("stale_data", self._core.stale)
        if self._core.listening:
            raise Refused(
                "starting", "this node has just started and is still finding others: try again"
            )

    # Going on

    def resume(self, now: float) -> None:
        """Call once after the start: orders that trade at once end, others look at the book."""
        self.expire(now)
        for market in self._core.markets.values():
            if not market.halted:
                self._conditional.resume(now, market)
        for order in list(self.orders.open.values()):
            if order.done:
                continue
            if self._is_frozen(order) and not order.cancelled:
                self.orders.cancel(now, order, "frozen")
                continue
            if order.tif == "fok" and not order.untriggered and not order.cancelled:
                self.orders.cancel(now, order, "fok")  # but for what is committed
                continue
            before = copy(order)
            self._go_on(now, order)
            ends = not order.left  # what kept a cancelled order open went with the process
            if not order.done and (ends or order != before or not self.orders.is_shown(order)):
                self.orders.publish(now, order)
        self.settle(now)

    def _continue(self, now: float, order: Order) -> None:
        """Fill what is free as far as the book goes; then rest the remainder, or end it."""
        self._go_on(now, order)
        if not order.done:
            self.orders.publish(now, order)

    def _go_on(self, now: float, order: Order) -> None:
        if order.untriggered:
            self._conditional.look(now, order)
        elif order.tif == "fok":
            self._all_or_none.go_on(now, order)
        elif order.free:
            self._match(now, order)

    def _match(self, now: float, order: Order) -> None:
        core = self._core
        halted = core.markets[order.market].halted
        if order.reduce_only and not self._reducing.fit(now, order):
            return
        if not halted and core.stale is None and not core.listening:
            if order.post_only:
                if self.matching.would_take(order):
                    order.cancelled = True
                    order.reason = "post_only"
                return
            self.matching.take_liquidity(now, order, only_earlier=False)
        if at_once(order) and not order.pending and order.free:
            order.cancelled = True  # nothing left to trade with
            if halted:
                order.reason = "halted"
            elif order.reason != "credit":
                order.reason = "ioc" if order.price is not None else "no_liquidity"

    def uncross(self, now: float, market: Market) -> None:
        """Own resting orders that cross others' are matched, see `Matching.uncross`."""
        self.matching.uncross(now, market)

    def count(self) -> None:
        """Before a drain: the numbers given away become durable, and old orders are forgotten."""
        self._core.count("next_order", self.orders.next_number)
        self._core.count("next_take", self.fills.next_take)
        self.orders.trim()

    def settle(self, now: float) -> None:
        """Go on with whatever the last step gave rise to, until there is nothing more. Call it when the
        feeds have brought something: trades may have triggered orders."""
        orders = self.orders
        work, unseen = orders.work, self._core.unseen
        while work or (unseen and self._conditional.see_trades(now)):
            while work:
                order = orders.open.get(work.popleft())
                if order is not None:
                    self._continue(now, order)

    def expire(self, now: float) -> None:
        """Cancel the orders that have come to their date. Before anything that may fill one of them."""
        orders = self.orders
        if not orders.expiry.times or not self._core.writes:
            return
        for number in orders.expiry.due(self._core.us(now)):
            order = orders.open.get(number)
            if order is not None and not order.cancelled:
                orders.cancel(now, order, "expired")

    def tick(self, now: float) -> None:
        """Orders that have come to their date, reservations whose time is over, stops that follow."""
        if not self._core.writes:
            return
        self.expire(now)
        self.making.tick(now)
        self._all_or_none.tick()
        self._conditional.follow(now)
        self.settle(now)

    # Other nodes

    def hurry(self, now: float, maker: str) -> None:
        """This owner can be reached again: ask it now what is still open with it."""
        self._taker.hurry(now, maker)

    def send_due(self, now: float) -> None:
        """Ask, or ask again, whatever is due."""
        self.asking.send_due(now)

    def on_result(self, now: float, maker: str, result: TakeResult) -> bool:
        """See `TakerSide.on_result`."""
        valid = self.asking.on_result(now, maker, result)
        self.settle(now)
        return valid

    def on_take(self, now: float, taker: str, ask: Take) -> bool:
        """See `MakerSide.on_take`."""
        valid = self.making.on_take(now, taker, ask)
        self.settle(now)
        return valid
