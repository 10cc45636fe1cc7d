"""The order book of one market: what rests, best first, and what a taker would meet.

Prices are integers (ticks), quantities integers (lots), and an order is an integer key of the caller's.
A side is a sorted list of signed prices with the best last (bids as +price, asks as -price), a level is a
dict from key to quantity in priority order, and one dict finds an order's place by its key. Cancelling
is then O(1), so is taking the best, and of an order there is nothing for the cyclic collector to follow
(tests/benchmarks/bench_book.py has the figures).

Priority inside a level is (time, rank, key), earlier first. Orders nearly always arrive in that order, which
costs one comparison; a late one is put in its place by moving the orders behind it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Any, Final

import msgspec

BUY: Final = 1
SELL: Final = -1

Fill = tuple[int, int, int]  # key of the resting order, price in ticks, quantity in lots
Level = tuple[int, int, int]  # price in ticks, quantity in lots, number of orders
Resting = tuple[int, int, int, int, Any]  # key, price, quantity, time, rank

# A dict keeps a gap where an entry was removed until it is rebuilt, and finding its first entry steps
# over the gaps. Levels of this many orders and more are rebuilt now and then, so that eating through a
# deep level from its head stays cheap; smaller ones cannot gather enough gaps to matter.
_DEEP: Final = 512


class _Place(msgspec.Struct, frozen=True, gc=False):
    """Where an order rests. Unlike a tuple, nothing that the cyclic collector would look at."""

    signed: int  # price
    time: int
    rank: Any


class _Queue:
    """The orders of one price. `orders` is key -> quantity, in priority order."""

    __slots__ = ("gaps", "orders", "total")

    def __init__(self, key: int, quantity: int) -> None:
        self.orders = {key: quantity}
        self.total = quantity
        self.gaps = 0  # removals since the dict was last rebuilt; counted when deep

    def close_gaps(self, removed: int) -> None:
        """Rebuild a deep dict when stepping over its gaps begins to cost more than clearing them.

        Stepping over one costs about a thirtieth of copying an entry, so for n entries the sum of both
        is least when rebuilt every 8 * sqrt(n) removals.
        """
        self.gaps += removed
        if self.gaps * self.gaps > 64 * len(self.orders):
            self.orders = dict(self.orders)
            self.gaps = 0


class OrderBook:
    """One market's resting orders, merged from all their owners.

    `side` is BUY or SELL, `time` microseconds, `rank` anything comparable and immutable that breaks ties
    of time the same way on every node; among equal ranks the key does. A method given a key raises KeyError when no such order rests, ValueError
    when an argument makes no sense; the book is then unchanged.
    """

    __slots__ = ("_newest", "_queues", "asks", "bids", "resting")

    def __init__(self) -> None:
        self.bids: list[int] = []  # +price, ascending: the best is last; to be looked at only, ...
        self.asks: list[int] = []  # -price, the same; ...
        self._queues: dict[int, _Queue] = {}  # by signed price
        self.resting: dict[int, _Place] = {}  # ... by key
        self._newest = -1  # no order was ever added with a later time

    # Changing the book

    def submit(
        self, key: int, side: int, price: int | None, quantity: int, time: int, rank: Any
    ) -> list[Fill]:
        """Match, then rest what is left of a limit order. A market order (price None) never rests."""
        orders = self.resting
        if key in orders:
            raise ValueError(f"order {key} is already in the book")
        if price is None:
            return self.match(side, None, quantity)
        if quantity <= 0 or price <= 0:
            raise _refusal(side, price, quantity)
        if side == 1:
            opposite = self.asks
        elif side == -1:
            opposite = self.bids
        else:
            raise _refusal(side, price, quantity)
        signed = side * price
        if opposite and opposite[-1] + signed >= 0:
            fills = self._take(opposite, -signed, side, quantity)
            for _, _, filled in fills:
                quantity -= filled
            if not quantity:
                return fills
        else:
            fills = []
        self.append(key, signed, quantity, time, rank)
        return fills

    def match(self, side: int, price: int | None, quantity: int) -> list[Fill]:
        """Take up to `quantity` from the other side, best price first, then by priority. Nothing rests.

        `price` is the worst that is acceptable; None accepts any.
        """
        if quantity <= 0 or (side != 1 and side != -1) or (price is not None and price <= 0):
            raise _refusal(side, price, quantity)
        opposite = self.asks if side == 1 else self.bids
        if not opposite:
            return []
        return self._take(opposite, opposite[0] if price is None else -side * price, side, quantity)

    def add(self, key: int, side: int, price: int, quantity: int, time: int, rank: Any) -> None:
        """Rest an order without matching it; the book may be crossed afterwards."""
        if key in self.resting:
            raise ValueError(f"order {key} is already in the book")
        if quantity <= 0 or price <= 0 or (side != 1 and side != -1):
            raise _refusal(side, price, quantity)
        self.append(key, side * price, quantity, time, rank)

    def append(self, key: int, signed: int, quantity: int, time: int, rank: Any) -> None:
        """As `add`, of an order at +price or -price whose arguments need no checking."""
        queue = self._queues.get(signed)
        if queue is None:
            self._open(signed, key, quantity, time)
        else:
            if time > self._newest:
                self._newest = time
                queue.orders[key] = quantity  # later than every order ever added: last in its level
            else:
                self._insert(queue.orders, key, quantity, (time, rank, key))
            queue.total += quantity
        self.resting[key] = _Place(signed, time, rank)

    def set_quantity(self, key: int, quantity: int) -> None:
        """Change what is left of an order; its priority stays. 0 removes it."""
        if quantity < 0:
            raise ValueError(f"a quantity cannot be negative, got {quantity}")
        queue = self._queues[self.resting[key].signed]
        if quantity == 0:
            self.remove(key)
        else:
            queue.total += quantity - queue.orders[key]
            queue.orders[key] = quantity

    def change(self, key: int, quantity: int) -> tuple[int, int] | None:
        """As `set_quantity`, without an error for an order that does not rest. (side, price) of the
        order, or None."""
        place = self.resting.get(key)
        if place is None:
            return None
        signed = place.signed
        if quantity > 0:
            queue = self._queues[signed]
            queue.total += quantity - queue.orders[key]
            queue.orders[key] = quantity
        else:
            self.remove(key)
        return (1, signed) if signed > 0 else (-1, -signed)

    def remove(self, key: int) -> int:
        """Take an order out and return the quantity it had."""
        signed = self.resting.pop(key).signed
        queue = self._queues[signed]
        orders = queue.orders
        quantity = orders.pop(key)
        if orders:
            queue.total -= quantity
            if len(orders) >= _DEEP:
                queue.close_gaps(1)
        else:
            side = self.bids if signed > 0 else self.asks
            del side[bisect_left(side, signed)]
            del self._queues[signed]
        return quantity

    # Looking

    def __contains__(self, key: int) -> bool:
        return key in self.resting

    def __len__(self) -> int:
        """How many orders rest."""
        return len(self.resting)

    def quantity(self, key: int) -> int:
        return self._queues[self.resting[key].signed].orders[key]

    def side_price(self, key: int) -> tuple[int, int]:
        signed = self.resting[key].signed
        return (1, signed) if signed > 0 else (-1, -signed)

    def place(self, key: int) -> tuple[int, int, int]:
        """(side, price, time)"""
        found = self.resting[key]
        signed = found.signed
        return (1, signed, found.time) if signed > 0 else (-1, -signed, found.time)

    def best(self, side: int) -> int | None:
        """The best price of a side, None when it is empty."""
        prices = self._prices(side)
        return abs(prices[-1]) if prices else None

    def meets(self, side: int, price: int | None) -> bool:
        """Whether a taker at `price` would meet anything."""
        opposite = self._prices(-side)
        return bool(opposite) and (price is None or opposite[-1] + side * price >= 0)

    @property
    def crossed(self) -> bool:
        """Whether the best bid and the best ask could trade."""
        return bool(self.bids and self.asks) and self.bids[-1] + self.asks[-1] >= 0

    def crossing(self, side: int, price: int | None) -> Iterator[Fill]:
        """The orders that a taker at `price` would meet, in the order it would meet them.

        Changes nothing. The book must not be changed while this is being iterated.
        """
        for signed in reversed(self._prices(-side)):
            if price is not None and signed < -side * price:
                return
            for key, quantity in self._queues[signed].orders.items():
                yield key, abs(signed), quantity

    def reach(self, side: int, price: int | None, quantity: int) -> list[Fill]:
        """What `match` would give, and the book stays as it is."""
        found: list[Fill] = []
        for signed in reversed(self.asks if side == 1 else self.bids):
            if price is not None and signed < -side * price:
                break
            for key, resting in self._queues[signed].orders.items():
                if resting >= quantity:
                    found.append((key, -side * signed, quantity))
                    return found
                found.append((key, -side * signed, resting))
                quantity -= resting
        return found

    def level(self, side: int, price: int) -> Level:
        """One price level, in O(1); quantity and count are 0 when nothing rests there."""
        queue = self._queues.get(side * price)
        return (price, queue.total, len(queue.orders)) if queue else (price, 0, 0)

    def levels(self, side: int, depth: int | None = None) -> list[Level]:
        """The best `depth` levels of a side (all when None), best first. O(depth)."""
        prices = self._prices(side)
        if depth is not None:
            prices = prices[-depth:] if depth > 0 else []
        queues = self._queues
        return [(abs(s), queues[s].total, len(queues[s].orders)) for s in reversed(prices)]

    def at(self, side: int, price: int) -> Iterator[tuple[int, int, int, Any]]:
        """Key, quantity, time and rank of every order of one level, in priority order. Same rule as for
        `crossing` on changing the book."""
        queue = self._queues.get(side * price)
        if queue is not None:
            for key, quantity in queue.orders.items():
                found = self.resting[key]
                yield key, quantity, found.time, found.rank

    def orders(self, side: int) -> Iterator[Resting]:
        """Every order of a side in priority order. Same rule as for `crossing` on changing the book."""
        for signed in reversed(self._prices(side)):
            for key, quantity in self._queues[signed].orders.items():
                found = self.resting[key]
                yield key, abs(signed), quantity, found.time, found.rank

    # Inside

    def _prices(self, side: int) -> list[int]:
        if side == 1:
            return self.bids
        if side == -1:
            return self.asks
        raise ValueError(f"a side is 1 (buy) or -1 (sell), got {side!r}")

    def _open(self, signed: int, key: int, quantity: int, time: int) -> None:
        insort(self.bids if signed > 0 else self.asks, signed)
        self._queues[signed] = _Queue(key, quantity)
        if time > self._newest:
            self._newest = time

    def _insert(
        self, queue: dict[int, int], key: int, quantity: int, priority: tuple[int, Any, int]
    ) -> None:
        """Put an order where its priority belongs. The cost is the number of orders behind it."""
        orders = self.resting
        behind: list[tuple[int, int]] = []
        while queue:
            last = next(reversed(queue))
            found = orders[last]
            if (found.time, found.rank, last) <= priority:
                break
            behind.append(queue.popitem())
        queue[key] = quantity
        while behind:
            later, its_quantity = behind.pop()
            queue[later] = its_quantity

    def _take(self, opposite: list[int], limit: int, side: int, quantity: int) -> list[Fill]:
        """Match against the levels whose signed price is at least `limit`."""
        orders = self.resting
        fills: list[Fill] = []
        while opposite and (signed := opposite[-1]) >= limit:
            queue = self._queues[signed]
            price = -side * signed
            left = queue.total - quantity
            if left <= 0:  # the whole level goes
                for key, resting in queue.orders.items():
                    fills.append((key, price, resting))
                    del orders[key]
                opposite.pop()
                del self._queues[signed]
                if left == 0:
                    break
                quantity = -left
                continue
            queue.total = left
            level = queue.orders
            gone = []
            for key, resting in level.items():
                if resting > quantity:
                    break
                fills.append((key, price, resting))
                gone.append(key)
                quantity -= resting
            if quantity:
                level[key] = resting - quantity
                fills.append((key, price, quantity))
            if gone:
                for key in gone:
                    del level[key], orders[key]
                if len(level) >= _DEEP:
                    queue.close_gaps(len(gone))
            break
        return fills


def _refusal(side: int, price: int | None, quantity: int) -> ValueError:
    if side not in (1, -1):
        return ValueError(f"a side is 1 (buy) or -1 (sell), got {side!r}")
    if quantity <= 0:
        return ValueError(f"a quantity is at least 1 lot, got {quantity}")
    return ValueError(f"a price is at least 1 tick, got {price}")
