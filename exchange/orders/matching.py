"""Matching of this node's own orders against the market's book.

Theory of operation. Best price first; at one price displayed orders before own hidden ones, then by
time. A counterpart of this node is filled at once, another owner's gets a request. Of two crossed resting
orders the later one takes; hidden orders take from all others, because no other node can see them.

Self-trade prevention is between orders of one account on this node. The mode is the taker's; "newest" is
the order that would take, "oldest" the one that rests.

Rules of this file:
- A plan ends where a trade can change the book: after a slice of an own iceberg, a reduce-only order, or
  a prevented self-trade. The next plan is made from the new book.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import merge
from typing import TYPE_CHECKING, Literal

from exchange.market.market import NUMBER_BITS, Market
from exchange.market.order_book import Fill
from exchange.model.commands import HOUSE
from exchange.model.events import BUY, SELL
from exchange.model.records import Order
from exchange.orders.engine_context import EngineContext
from exchange.orders.fills import FillRecorder
from exchange.orders.order_store import OrderStore
from exchange.orders.reduce_only import ReduceOnly

if TYPE_CHECKING:
    from exchange.takes.credit import CreditCheck, CreditPlan
    from exchange.takes.taker_side import TakerSide

Counterpart = tuple[str, int, int, int]  # owner, order number, price, quantity


class Matching:
    """Trades of own orders with everything that the book has for them."""

    def __init__(
        self,
        context: EngineContext,
        store: OrderStore,
        fills: FillRecorder,
        taker_side: TakerSide,
        reduce_only: ReduceOnly,
        credit: CreditCheck,
    ) -> None:
        self._context = context
        self._store = store
        self._fills = fills
        self._taker_side = taker_side
        self._reduce_only = reduce_only
        self._credit = credit

    # Counterparts

    def counterparts(self, order: Order, *, hidden: bool = True) -> Iterator[Counterpart]:
        """Iterate over all counterparts of an order in matching order, with or without own hidden
        orders. The book must not be changed during the iteration."""
        split = self._context.owners.split
        market = self._context.markets[order.market]
        for key, price, quantity in self._found(market, order, hidden=hidden):
            yield *split(key), price, quantity

    @staticmethod
    def _found(market: Market, order: Order, *, hidden: bool) -> Iterator[tuple[int, int, int]]:
        """Iterate over the same counterparts as (key, price, quantity)."""
        side = order.side
        limit = order.price if order.price is not None else order.worst_price or None
        found = market.book.crossing(side, limit)
        if not hidden or not market.hidden.resting:
            return found
        return merge(found, market.hidden.crossing(side, limit), key=lambda fill: side * fill[1])

    def credit(self, order: Order) -> CreditPlan | None:
        """Begin a plan of the order's trades with other nodes; None: no credit limit is set."""
        return self._credit.plan(order.market, order.side)

    def would_take(self, order: Order, *, hidden: bool = True) -> bool:
        """Report if the order would take from another: from any when it is new, from an earlier one when
        it rests. `hidden`: count own hidden orders, which take from resting orders themselves."""
        if not order.opened:
            return any(True for _ in self.counterparts(order))
        market = self._context.markets[order.market]
        mine = self._priority(order)
        return any(
            (owner == mine[1] and number in market.hidden) or market.priority(owner, number) < mine
            for owner, number, *_ in self.counterparts(order, hidden=hidden)
        )

    def _priority(self, order: Order) -> tuple[int, str, int]:
        return order.priority or order.time, self._context.node_id, order.number

    def _plan(self, market: Market, order: Order, *, only_earlier: bool) -> list[Fill]:
        """Return the next counterparts to trade with, as (key, price, quantity).

        With `only_earlier` later resting orders are left to their owners, who will send takes; their
        quantity at better prices is set aside.
        """
        wanted = order.free
        if not only_earlier and not market.hidden.resting and not self._context.ledger.credit:
            limit = order.price if order.price is not None else order.worst_price or None
            return market.book.preview(order.side, limit, wanted)
        split = self._context.owners.split
        mine = self._priority(order)
        plan: list[Fill] = []
        credit = self.credit(order)
        for key, price, quantity in self._found(market, order, hidden=not only_earlier):
            owner, number = split(key)
            if quantity > wanted:
                quantity = wanted
            if only_earlier and market.priority(owner, number) > mine:
                wanted -= quantity
            else:
                if key != number and credit is not None:
                    granted = credit.grant(owner, price, quantity)
                    if granted < quantity:
                        order.reason = "credit"  # shown while the order is open, and if it ends so
                        quantity = granted
                if quantity:
                    plan.append((key, price, quantity))
                    wanted -= quantity
                if key == number and self._changes_book(order, self._store.open[number]):
                    break
            if not wanted:
                break
        return plan

    @staticmethod
    def _changes_book(taker: Order, maker: Order) -> bool:
        """Report if a meeting of the two may change the book beyond their own quantities."""
        account = taker.account
        own = account == maker.account and (account != HOUSE or taker.terms is not None)
        if own and taker.self_trade != "none":
            return True
        terms = maker.terms
        return terms is not None and (terms.display_quantity > 0 or terms.reduce_only)

    # Trades

    def take_liquidity(self, now: float, order: Order, *, only_earlier: bool) -> None:
        """Trade the free quantity of an order with the book."""
        market = self._context.markets[order.market]
        fill = self._fills.local_trade
        own = self._store.open
        account = order.account
        if order.self_trade == "none" if order.terms is not None else account == HOUSE:
            account = -1  # it may trade with every account
        while True:
            again = False
            for key, price, quantity in self._plan(market, order, only_earlier=only_earlier):
                maker = own.get(key)  # keys of others' orders are greater than any own number
                if maker is None:
                    owner, number = self._context.owners.split(key)
                    self.request(now, order, owner, number, price, quantity)
                elif (maker.terms is None and maker.account != account) or not self._changes_book(
                    order, maker
                ):
                    fill(now, order, maker, price, quantity)
                else:
                    self._meet(now, order, maker, price, quantity)
                    again = True
                    break
            if not again or not order.free:
                break

    def _meet(self, now: float, order: Order, maker: Order, price: int, quantity: int) -> None:
        """Trade with an own order after which the book may be another than planned, or prevent that."""
        if order.self_trade != "none" and maker.account == order.account:
            self._prevent_self_trade(now, order, maker)
        elif not maker.reduce_only:
            self._fills.local_trade(now, order, maker, price, min(quantity, maker.free))
        elif self._reduce_only.fit(now, maker):
            # The smaller quantity is published first: a fill that leaves more on display than
            # the order has would invalidate the feed on all other nodes.
            self._store.publish(now, maker)
            self._fills.local_trade(now, order, maker, price, min(quantity, maker.free))

    def request(
        self,
        now: float,
        order: Order,
        owner: str,
        number: int,
        price: int,
        quantity: int,
        phase: Literal["", "reserve"] = "",
    ) -> None:
        """Request a trade with another owner's order."""
        self._taker_side.request(now, order, owner, number, price, quantity, phase)

    def _prevent_self_trade(self, now: float, taker: Order, maker: Order) -> None:
        """Apply the self-trade prevention of the taker."""
        mode = taker.self_trade
        if mode in ("cancel_oldest", "cancel_both"):
            self._store.cancel(now, maker, "self_trade")
        if mode in ("cancel_newest", "cancel_both"):
            taker.cancelled = True
            taker.reason = "self_trade"
        if mode == "decrement":
            quantity = min(taker.free, maker.free)
            if taker.free == quantity:
                taker.cancelled = True
                taker.reason = "self_trade"
            else:
                taker.quantity -= quantity
                taker.altered = True
            if maker.free == quantity:
                self._store.cancel(now, maker, "self_trade")
            else:
                maker.quantity -= quantity
                maker.altered = True
                self._store.publish(now, maker)

    # Crossed books

    def uncross(self, now: float, market: Market) -> None:
        """Let own resting orders take from earlier crossing orders of others, hidden ones from any."""
        if not self._context.writes or self._context.expiring or market.halted:
            return
        store = self._store
        for order in self._crossed(market):
            if order.done or not order.free:
                continue
            if order.reduce_only and not self._reduce_only.fit(now, order):
                continue
            if not order.post_only:
                self.take_liquidity(now, order, only_earlier=not order.hidden)
            elif self.would_take(order, hidden=False):
                store.cancel(now, order, "post_only")
                continue
            store.publish(now, order)

    def _crossed(self, market: Market) -> list[Order]:
        """Return the own orders that rest at a price that the other side offers."""
        crossed: list[Order] = []
        for side in (BUY, SELL):
            best = market.book.best(-side)
            if best is None:
                continue
            for book in (market.book, market.hidden):
                for key, price, *_ in book.orders(side):
                    if side * price < side * best:
                        break
                    if key >> NUMBER_BITS == 0:
                        crossed.append(self._store.open[key])
        return crossed
