"""Order store: this node's own orders in memory, their indexes, and their display in the feed.

Every change of an order ends with `publish`. It makes the own feed show the order's free quantity, holds
the amount that the order may still cost, updates the indexes, and ends the order when nothing more can
happen to it.

Rules of this file:
- An open order is in `open`, a finished one in `recent`, never in both.
- The indexes contain open orders only; an order's fields decide in which indexes it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING

from exchange.ledger.ledger import InsufficientBalance
from exchange.market.market import Market
from exchange.market.triggers import Triggers
from exchange.model.commands import HOUSE, Selection
from exchange.model.events import BUY, Amended, Moved
from exchange.model.records import Order, Terms
from exchange.orders.engine_context import EngineContext
from p2p.ground.keyed_heap import KeyedHeap

if TYPE_CHECKING:
    from exchange.takes.take_protocol import PendingTakes

_NONE: dict[int, Order] = {}
RECENT_ORDERS = 10_000  # finished orders kept in memory at least, for answers and client ids
PART = 200  # open orders that are looked at, and cancelled, at once: about a millisecond
TRIMMED = 1000  # finished orders that are dropped at once


def is_immediate(order: Order) -> bool:
    """Report if the order trades at once or ends: it never rests in the book."""
    return order.price is None or order.tif == "ioc" or order.tif == "fok"


def _slice(order: Order, free: int, *, moved: bool) -> int:
    """Return the lots of an iceberg that the feed is to show. A slice is not refilled: when it is gone
    the next one goes to the end of the queue."""
    had = 0 if moved else min(order.shown, free, order.display_quantity)
    return had or min(order.display_quantity, free)


class OrderStore:
    """Own orders by number, and by account, client id, expiry and trigger. `now` is monotonic seconds."""

    def __init__(self, context: EngineContext, takes: PendingTakes) -> None:
        self._context = context
        self._takes = takes
        self.open: dict[int, Order] = {}  # not done, oldest first
        self.recent: dict[int, Order] = {}  # done, in the order in which they ended
        # Numbers of orders to continue with, see `exchange.engine.order_manager`.
        self.work_queue: deque[int] = deque()
        self.expiry: KeyedHeap[int, int] = KeyedHeap()  # good-till-date orders: us by order number
        self.triggers: dict[str, Triggers] = {}  # by market, of untriggered orders
        self.reduce_only: dict[int, Order] = {}  # open reduce-only orders of the house
        self.client_ids: dict[tuple[int, str], int] = {}  # (account, client id) -> latest order
        self.by_account: dict[int, dict[int, Order]] = {}  # open orders of clients, oldest first
        self.next_number = 1

    def restore(self, next_order: int, orders: list[Order], reserved: Mapping[int, int]) -> None:
        """Restore the orders of the journal. `reserved`: quantities reserved for others, by order."""
        self.next_number = next_order
        for order in orders:
            if order.client_id is not None:
                self.client_ids[order.account, order.client_id] = order.number
            if order.done:
                self.recent[order.number] = order
            elif order.market in self._context.markets:
                # Reservations for own fill-or-kill orders ended with the process.
                order.reserved = reserved.get(order.number, 0)
                self.open[order.number] = order
        for order in self.open.values():
            self._index(order)
            self._show_hidden(self._context.markets[order.market], order)
        for order in self.open.values():
            try:
                self.hold(order)
            except InsufficientBalance as error:  # the journal contradicts itself
                self._context.warn(f"order {order.number} is not covered: {error}")

    # Reading

    @property
    def open_orders(self) -> list[Order]:
        """Orders that are not done, oldest first."""
        return list(self.open.values())

    def get(self, number: int) -> Order | None:
        return self.open.get(number) or self.recent.get(number)

    def by_client_id(self, client_id: str, account: int = HOUSE) -> Order | None:
        """Return the latest order that was placed with this client id, if it is still in memory."""
        number = self.client_ids.get((account, client_id))
        return None if number is None else self.get(number)

    def of_account(self, account: int) -> Collection[Order]:
        """Return the open orders of an account, oldest first. O(1) of a client, O(n) of the house."""
        if account == HOUSE:
            return [order for order in self.open.values() if order.account == HOUSE]
        return self.by_account.get(account, _NONE).values()

    def linked(self, order: Order) -> Order | None:
        """Return the other order of a pair while it is open."""
        return self.open.get(order.linked_order) if order.linked_order else None

    def select(self, which: Selection) -> list[Order]:
        """Return the open orders of a selection that are not being cancelled, oldest first."""
        return [order for part, _ in self.selected(which) for order in part]

    def selected(self, which: Selection) -> Iterator[tuple[list[Order], bool]]:
        """Iterate over the orders of a selection in parts, each with True if another part follows. Between two of
        them orders may be changed; those that are new then are not in it."""
        found: list[Order]
        if which.numbers is not None:
            found = [self.open[n] for n in sorted(which.numbers, reverse=True) if n in self.open]
        elif which.account == HOUSE:
            found = list(reversed(self.open.values()))
        else:
            found = list(reversed(self.by_account.get(which.account, _NONE).values()))
        while True:
            part = [
                order
                for order in reversed(found[-PART:])
                if order.account == which.account
                and not order.cancelled
                and not order.done
                and (which.client_ids is None or order.client_id in which.client_ids)
                and (which.groups is None or order.group in which.groups)
                and which.market in (None, order.market)
                and which.side in (None, order.side)
            ]
            del found[-PART:]  # to free many at the end would take long
            yield part, bool(found)
            if not found:
                return

    # Changes

    def new_time(self, now: float, market: Market, order: Order) -> int:
        """Return a time in us for an order that loses its priority: after every order of the market, and after
        its own time, even if the clock was set back."""
        last = max(market.last_time, order.priority or order.time)
        market.last_time = time = max(self._context.us(now), last + 1)
        return time

    def add(self, order: Order) -> None:
        """Add a new order to the open ones. Its hold is set already."""
        number = order.number
        self.open[number] = order
        if order.client_id is not None:
            self.client_ids[order.account, order.client_id] = number
        account = order.account
        if account != HOUSE:
            try:
                self.by_account[account][number] = order
            except KeyError:
                self.by_account[account] = {number: order}
        if order.terms is not None:
            self._index(order)
        self._context.orders[number] = order

    def settle(self, now: float, order: Order) -> None:
        """Add and publish a new order that has traded as far as it could."""
        number = order.number
        if order.terms is not None or (not order.cancelled and order.filled < order.quantity):
            if number not in self.open:
                self.add(order)
            self.publish(now, order)
            return
        # It has ended at once, and was never an open order.
        if order.client_id is not None:
            self.client_ids[order.account, order.client_id] = number
        self._context.orders[number] = order
        self._finish(self._context.markets[order.market], order)

    def traded(self, now: float, market: Market, order: Order) -> None:
        """Publish a plain order after a trade that the feed has."""
        self._context.orders[order.number] = order
        time = self._context.epoch_us + int(now * 1_000_000)
        if time > order.updated:
            order.updated = time
        if order.filled < order.quantity:
            self.hold(order)
            return
        del self.open[order.number]
        if order.account != HOUSE:
            del self.by_account[order.account][order.number]
        self._finish(market, order)

    def cancel(self, now: float, order: Order, reason: str) -> None:
        """Cancel an order. Quantities that are pending with other owners may still be filled: the owners
        are requested at once to refuse what they have not granted."""
        order.cancelled = True
        order.reason = reason
        if order.terms is not None and order.terms.pending:
            for take in self._takes.of_order(order.number):
                self._takes.void(now, take.take)
            self.work_queue.append(order.number)
        self.publish(now, order)

    def publish(self, now: float, order: Order, *, moved: bool = False) -> None:
        """Publish a changed order. `moved`: it has a new price, or a new `priority`."""
        context = self._context
        number, filled = order.number, order.filled
        context.orders[number] = order
        time = context.epoch_us + int(now * 1_000_000)
        if time > order.updated:
            order.updated = time
        market = context.markets[order.market]
        left = 0 if order.cancelled else order.quantity - filled
        terms = order.terms
        if not left and (terms is None or not terms.pending + terms.reserved):
            self._end(market, order)
        elif terms is not None:
            busy = terms.pending + terms.reserved  # decided by other owners
            self._show(now, market, order, terms, left - busy if left else 0, moved=moved)
            self.hold(order)
        elif not order.opened:
            order.opened = True
            order.shown = left
            market.open(number, order.side, order.price or 0, left, order.time)
            if filled:
                self.hold(order)
        else:
            if left != order.shown:
                order.shown = left
                market.change(Amended(number, left))
            self.hold(order)

    def reserve(self, now: float, order: Order, quantity: int) -> None:
        """Reserve a part of an order for a fill-or-kill taker: not displayed, neither filled nor free.
        It reduces an iceberg's slice like a fill: the next slice goes to the end of the queue."""
        order.reserved += quantity
        if order.display_quantity:
            order.shown -= min(quantity, order.shown)
            self._context.markets[order.market].change(Amended(order.number, order.shown))
        self.publish(now, order)

    def _show(
        self, now: float, market: Market, order: Order, terms: Terms, free: int, *, moved: bool
    ) -> None:
        """Bring the feed up to date with an order that has `terms`."""
        price, number = order.price, order.number
        if terms.hidden:
            self._show_hidden(market, order)
            return
        if price is None or terms.untriggered or terms.tif == "ioc" or terms.tif == "fok":
            return
        shown = free
        if terms.display_quantity:
            shown = _slice(order, shown, moved=moved)
        if not order.opened:
            if shown:
                order.opened = True
                order.shown = shown
                market.open(number, order.side, price, shown, terms.priority or order.time)
        elif moved or (terms.display_quantity and shown > order.shown):
            if not moved:
                terms.priority = self.new_time(now, market, order)
            order.shown = shown
            market.change(Moved(number, price, shown, terms.priority))
        elif shown != order.shown:
            order.shown = shown
            market.change(Amended(number, shown))

    def is_shown(self, order: Order) -> bool:
        """Report if the feed is up to date with the order."""
        shown = order.free
        if order.display_quantity:
            shown = _slice(order, shown, moved=False)
        return order.hidden or is_immediate(order) or order.shown == shown

    def _show_hidden(self, market: Market, order: Order) -> None:
        if order.hidden and order.price is not None:
            time = order.priority or order.time
            market.hide_order(order.number, order.side, order.price, order.free, time)

    def _end(self, market: Market, order: Order) -> None:
        """End an open order."""
        number = order.number
        if order.opened:
            market.close(number, "filled" if order.filled == order.quantity else "cancelled")
        if self.open.pop(number, None) is None:
            return
        if order.account != HOUSE:
            del self.by_account[order.account][number]
        self._finish(market, order)

    def _finish(self, market: Market, order: Order) -> None:
        """Move an order that is in no index of open orders, or in special ones only, to the finished ones."""
        order.done = True
        if order.shown:
            order.shown = 0
        if order.filled == order.quantity:
            order.reason = "filled"
        elif not order.reason:
            order.reason = "cancelled"
        if order.terms is not None:
            self.hold(order)
            self._remove_special(market, order)
        elif order.account != HOUSE:
            units = market.units
            asset = units.quote if order.side == BUY else units.base
            self._context.ledger.release(order.number, order.account, asset)
        self.recent[order.number] = order

    def trim(self) -> None:
        """Drop the oldest finished orders, some hundreds at a time, so that each costs little and none waits."""
        recent = self.recent
        extra = len(recent) - RECENT_ORDERS
        if extra <= RECENT_ORDERS // 10:
            return
        for number in list(islice(recent, min(extra, TRIMMED))):
            old = recent.pop(number)
            if old.client_id is not None:
                name = (old.account, old.client_id)
                if self.client_ids.get(name) == number:
                    del self.client_ids[name]

    # Holds

    def hold(self, order: Order) -> None:
        """Hold the amount that the order may still cost. Of a pair only one order can trade: the greater
        amount is held, under the number of the older order.

        Raises:
            InsufficientBalance: nothing has changed.
        """
        account = order.account
        if account == HOUSE:
            return
        ledger, specs = self._context.ledger, self._context.specs
        number = order.number
        asset, amount = specs.required(order)
        if order.terms is not None and order.linked_order:
            linked = self.linked(order)
            if linked is not None:
                amount = max(amount, specs.required(linked)[1])
                number = min(number, linked.number)
            elif order.linked_order < number:
                # The hold of the pair was under the other order, which has ended.
                ledger.release(order.linked_order, account, asset)
        ledger.hold(number, account, asset, amount)

    # Indexes

    def _index(self, order: Order) -> None:
        if order.account != HOUSE:
            self.by_account.setdefault(order.account, {})[order.number] = order
        elif order.reduce_only:
            self.reduce_only[order.number] = order
        if order.expires:
            self.expiry.set(order.number, order.expires)

    def _remove_special(self, market: Market, order: Order) -> None:
        """Remove an ended order from the indexes that few orders are in."""
        number = order.number
        if order.hidden and order.price is not None:
            market.hide_order(number, order.side, order.price, 0, 0)
        self.reduce_only.pop(number, None)
        self.expiry.discard(number)
        triggers = self.triggers.get(market.key)
        if triggers is not None and number in triggers:
            triggers.remove(number)
            if not len(triggers):
                self._context.watched.discard(market.key)
        if order.linked_order:
            self.work_queue.append(order.linked_order)
