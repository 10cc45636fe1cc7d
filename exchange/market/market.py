"""Market: the feeds of all owners, and the book of orders that can be traded from this node.

Theory of operation. The feeds list the displayed orders. The book leaves out the orders of absent
owners, and deducts the quantities that this node has requested, or knows to be gone before the feed
shows it. Without requests, and with all owners present, it is a pure function of the feeds.

Rules of this file:
- Own orders are not deducted and never absent: `open`, `trade`, `close` and `change` update the book directly.
- Every change of the book calls `_touch`, which collects the changed levels for readers.
- The first change since the last drain calls `mark`, so that `tick` and `drain` walk the changed markets alone.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from exchange.feeds.feed import Feed, ShownOrder, Writer
from exchange.feeds.feed_replica import Replica
from exchange.ledger.market_units import MarketUnits
from exchange.market.market_rules import MarketRules, reference_price
from exchange.market.order_book import OrderBook
from exchange.model.events import BUY, Amended, Closed, Filled, Moved, Opened

TAPE = 1000  # public trades kept in memory for a market
NUMBER_BITS = 40
_NUMBER_MASK = (1 << NUMBER_BITS) - 1

_encoder = msgspec.msgpack.Encoder()


class OwnerIndex:
    """Index of owners, so that an order's key in a book is one integer. Local to a process.

    This node has index 0: the key of an own order is its number.
    """

    def __init__(self, node_id: str) -> None:
        self._ids = [node_id]
        self._index = {node_id: 0}

    def key(self, owner: str, number: int) -> int:
        index = self._index.get(owner)
        if index is None:
            index = self._index[owner] = len(self._ids)
            self._ids.append(owner)
        return index << NUMBER_BITS | number

    def split(self, key: int) -> tuple[str, int]:
        """Return (owner, order number)."""
        return self._ids[key >> NUMBER_BITS], key & _NUMBER_MASK


@dataclass(slots=True)
class Hold:
    """Deduction of a quantity that is known to be gone while the feed still shows it."""

    quantity: int | None  # None: the whole order
    number: int | None  # feed number of the owner that ends the deduction
    until: float | None  # time that ends the deduction


class Trade(msgspec.Struct, frozen=True, gc=False):
    """Public trade: a `Filled` event in the feed of its maker, and its number there."""

    maker: str
    event: Filled
    number: int


@dataclass(slots=True)
class Market:
    """State of one market on this node."""

    key: str
    owners: OwnerIndex
    writer: Writer
    visible: Callable[[str], bool]  # True while an owner's presence lease is valid
    units: MarketUnits  # worth of its ticks and lots
    rules: MarketRules | None = None
    on_change: Callable[[Market], None] = lambda market: None  # called by `mark`
    marked: bool = False  # it has changed since the last drain
    book: OrderBook = field(default_factory=OrderBook)
    # Own orders that no feed shows; key: order number.
    hidden: OrderBook = field(default_factory=OrderBook)
    replicas: dict[str, Replica] = field(default_factory=dict)
    tape: deque[Trade] = field(default_factory=lambda: deque(maxlen=TAPE))
    halted: bool = False  # see `OrderManager.halt`
    last_time: int = 0  # latest order time in the market, us: own orders come after it
    version: int = 0  # grows with every change of the book
    touched: dict[int, None] = field(default_factory=dict)  # side * price, since the last drain
    _own_price: int | None = None  # of the last fill of an own order
    _reserved: dict[int, int] = field(default_factory=dict)  # by key: requested of its owner
    _holds: dict[str, dict[int, list[Hold]]] = field(default_factory=dict)  # by owner and number

    def feed(self, owner: str) -> Feed | None:
        replica = self.replicas.get(owner)
        if replica is not None:
            return replica.feed
        return self.writer.feed if owner == self.writer.feed.owner else None

    def mark(self) -> None:
        """Report a change, if it is the first since the last drain."""
        if not self.marked:
            self.marked = True
            self.on_change(self)

    # The book

    def refresh(self, owner: str, number: int) -> None:
        """Update one order's quantity in the book."""
        key = self.owners.key(owner, number)
        feed = self.feed(owner)
        order = feed.state.orders.get(number) if feed is not None else None
        quantity = 0
        if order is not None and (key == number or self._counts(owner, feed)):
            quantity = order.shown - self._reserved.get(key, 0)
            holds = self._holds.get(owner)
            if holds and number in holds:
                for hold in holds[number]:
                    quantity = 0 if hold.quantity is None else quantity - hold.quantity
        book = self.book
        if key in book:
            if quantity == book.quantity(key):
                return
            self._touch(*book.side_price(key))
            if quantity > 0:
                book.set_quantity(key, quantity)
            else:
                book.remove(key)
        elif order is not None and quantity > 0:
            book.add(key, order.side, order.price, quantity, order.time, owner)
            self._touch(order.side, order.price)

    # Own orders. An own event contradicts nothing, and an own order has no deductions and is always present: so
    # these are short forms of `FeedState.apply` and `refresh`.

    def open(self, number: int, side: int, price: int, shown: int, time: int) -> None:
        """Show an own order: in the feed and in the book."""
        if not self.marked:
            self.mark()
        writer = self.writer
        feed = writer.feed
        state = feed.state
        writer.unsigned.append(Opened(number, side, price, shown, time))
        state.number += 1
        state.orders[number] = ShownOrder(side, price, shown, time)
        signed = side * price
        self.book.append(number, signed, shown, time, feed.owner)
        self.version += 1
        self.touched[signed] = None

    def trade(self, event: Filled) -> None:
        """Show a trade with an own order of the book."""
        if not self.marked:
            self.mark()
        writer, number = self.writer, event.order
        state = writer.feed.state
        writer.unsigned.append(event)
        state.number += 1
        if event.left:
            state.orders[number].shown = event.shown
        else:
            del state.orders[number]
        signed = self.book.change(number, event.shown)
        if signed:
            self.version += 1
            self.touched[signed] = None

    def close(self, number: int, reason: str) -> None:
        """Take an own order out of feed and book, if it is shown."""
        writer = self.writer
        state = writer.feed.state
        if state.orders.pop(number, None) is None:
            return
        if not self.marked:
            self.mark()
        writer.unsigned.append(Closed(number, reason))
        state.number += 1
        book = self.book
        if number in book.resting:
            self.version += 1
            self.touched[book.remove(number)] = None

    def change(self, event: Amended | Moved) -> None:
        """Show another quantity or place of an own order."""
        self.mark()
        self.writer.append(event)
        number = event.order
        signed = self.book.change(number, event.shown if isinstance(event, Amended) else 0)
        if not signed or isinstance(event, Moved):
            self.refresh(self.writer.feed.owner, number)  # it was not in the book, or has moved
        if signed:
            self.version += 1
            self.touched[signed] = None

    def note_fill(self, price: int) -> None:
        """Note the price of a fill of an own order, as maker or taker."""
        self._own_price = price

    def hide_order(self, number: int, side: int, price: int, quantity: int, time: int) -> None:
        """Add or update an own hidden order; `quantity` 0 removes it."""
        self.mark()
        hidden = self.hidden
        if number in hidden:
            if quantity and hidden.place(number) == (side, price, time):
                hidden.set_quantity(number, quantity)
                return
            hidden.remove(number)
        if quantity:
            hidden.add(number, side, price, quantity, time, number)

    @property
    def crossed(self) -> bool:
        """True when resting orders could trade with each other, own hidden ones included."""
        if self.book.crossed:
            return True
        hidden = self.hidden
        if not hidden.resting:
            return False
        for side in (1, -1):
            own, best = hidden.best(side), self.book.best(-side)
            if own is not None and best is not None and side * own >= side * best:
                return True
        return False

    def forget(self, owner: str, number: int) -> None:
        """Remove an order from the book: its number may be reused by an event of the feed."""
        key = self.owners.key(owner, number)
        if key in self.book:
            self._touch(*self.book.side_price(key))
            self.book.remove(key)

    def refresh_owner(self, owner: str) -> None:
        """Show or hide the orders of an owner whose presence has changed."""
        feed = self.feed(owner)
        if feed is not None:
            for number in feed.state.orders:
                self.refresh(owner, number)

    def replaced(self, owner: str, before: list[int]) -> None:
        """Apply a snapshot that has replaced an owner's feed. `before`: its orders until then."""
        for number in before:
            self.forget(owner, number)
        self.refresh_owner(owner)

    def _counts(self, owner: str, feed: Feed | None) -> bool:
        if feed is None or feed.fault is not None or feed.replaced:
            return False
        return self.visible(owner)

    def _touch(self, side: int, price: int) -> None:
        if not self.marked:
            self.mark()
        self.version += 1
        self.touched[side * price] = None

    # Deductions

    def reserve(self, owner: str, number: int, quantity: int) -> None:
        """Deduct a quantity that is requested of its owner."""
        key = self.owners.key(owner, number)
        self._reserved[key] = self._reserved.get(key, 0) + quantity
        self.refresh(owner, number)

    def release(self, owner: str, number: int, quantity: int, hold: Hold | None) -> None:
        """End the deduction of a request with an answer. `hold` replaces it until the feed shows the
        effect of the answer."""
        key = self.owners.key(owner, number)
        left = self._reserved[key] - quantity
        if left:
            self._reserved[key] = left
        else:
            del self._reserved[key]
        feed = self.feed(owner)
        if hold is not None and (hold.number is None or feed is None or feed.number < hold.number):
            self._holds.setdefault(owner, {}).setdefault(number, []).append(hold)
            self.mark()
        self.refresh(owner, number)

    def drop_holds(self, now: float, owner: str) -> None:
        """Drop the holds that the owner's feed or the time has ended."""
        holds = self._holds.get(owner)
        if not holds:
            return
        feed = self.feed(owner)
        reached = feed.number if feed is not None else 0
        for number in list(holds):
            kept = [
                hold
                for hold in holds[number]
                if (hold.number is not None and hold.number > reached)
                or (hold.until is not None and hold.until > now)
            ]
            if len(kept) != len(holds[number]):
                if kept:
                    holds[number] = kept
                else:
                    del holds[number]
                self.refresh(owner, number)
        if not holds:
            del self._holds[owner]

    @property
    def held_owners(self) -> list[str]:
        return list(self._holds)

    # Reading

    def meets(self, side: int, limit: int) -> bool:
        """Report if an order of `side` may find a counterpart, hidden ones included; `limit` 0: at any price."""
        opposite = self.book.asks if side == BUY else self.book.bids
        if opposite and (not limit or opposite[-1] + side * limit >= 0):
            return True
        return bool(self.hidden.resting)

    def best_counterprice(self, side: int) -> int | None:
        """Return the best price for an order of `side`, own hidden orders included."""
        shown, hidden = self.book.best(-side), self.hidden.best(-side)
        if shown is None or hidden is None:
            return hidden if shown is None else shown
        return min(shown, hidden) if side > 0 else max(shown, hidden)

    def reference(self, near: int | None) -> int | None:
        """Return the reference price of the price bands for an order at this price."""
        return reference_price(near, self._own_price, self.book.best(1), self.book.best(-1))

    def taking_reference(self, best: int) -> int | None:
        """Return the reference price of the price bands for a market order that may trade at `best`."""
        return self.reference(best if self._own_price is None else self._own_price)

    def priority(self, owner: str, number: int) -> tuple[int, str, int]:
        """Return (time, owner, number) of a visible order: earlier is smaller, equal on every node."""
        feed = self.feed(owner)
        if feed is None:
            raise KeyError(owner)
        return feed.state.orders[number].time, owner, number

    def contents(self) -> list[tuple[int, int, int, str, int, int]]:
        """Return (side, price, time, owner, number, quantity) of every order in the book, bids first,
        best first. Equal on nodes with the same feeds, all owners present and nothing pending."""
        return [
            (side, price, time, *self.owners.split(key), quantity)
            for side in (1, -1)
            for key, price, quantity, time, _ in self.book.orders(side)
        ]

    def digest(self) -> str:
        """Return a short hash of `contents`."""
        return hashlib.sha256(_encoder.encode(self.contents())).hexdigest()[:16]
