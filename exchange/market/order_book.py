"""Order book of one market: resting orders by price and priority, and the matching of a taker.

Theory of operation. Prices are integers (ticks), quantities integers (lots), and the caller names each
order by an integer key. A side is a sorted sequence of signed prices with the best last (bids as +price,
asks as -price), a level is a dict from key to quantity in priority order, and one dict leads from a key
to the order's level. Cancels and fills of the best level are then O(1), and an order gives the cyclic
collector nothing to follow (tests/benchmarks/bench_book.py has the figures).

The sequence of prices is a list up to MANY_LEVELS: nearly all inserts are close to the best price, at
the end of the list, where an insert is cheapest. Beyond that it is a `SortedList`, because an insert in
the middle of a list moves everything behind it, which takes longer with every level.

Priority within a level is (time, rank, key), earlier first. Orders nearly always arrive in that order,
which costs one comparison; a late order is put in its place by moving the orders behind it.

Rules of this file:
- Arguments are checked before the first change.
- `bids`, `asks` and `resting` are public for reading only.
- A method given a key raises KeyError when no such order rests.
"""

from __future__ import annotations

import sys
from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final, Protocol

import msgspec
from sortedcontainers import SortedList

Fill = tuple[int, int, int]  # key of the resting order, price in ticks, quantity in lots
Level = tuple[int, int, int]  # price in ticks, quantity in lots, number of orders
Resting = tuple[int, int, int, int, Any]  # key, price, quantity, time, rank

# Levels of a side at which its prices move to a SortedList, and back. Far apart, so that a side that
# hovers around one of them is not converted again and again.
MANY_LEVELS: Final = 8192
FEW_LEVELS: Final = 4096

# A dict keeps a gap where an entry was removed until it is rebuilt, and finding its first entry steps
# over the gaps. Levels of this many orders and more are rebuilt now and then, so that eating through a
# deep level from its head stays cheap; smaller ones cannot gather enough gaps to matter.
_DEEP: Final = 512

# A dict with more bytes than this for each entry, these spare ones included, is rebuilt.
_SPARSE_BYTES: Final = 256
_SPARSE_ENTRIES: Final = 1024


class SortedPrices(Protocol):
    """Methods that the book needs of a `SortedList` of prices."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> int: ...
    def __iter__(self) -> Iterator[int]: ...
    def __reversed__(self) -> Iterator[int]: ...
    def add(self, value: int) -> None: ...
    def remove(self, value: int) -> None: ...
    def pop(self) -> int: ...


Prices = list[int] | SortedPrices


def _sparse(index: Mapping[int, object]) -> bool:
    return sys.getsizeof(index) > _SPARSE_BYTES * (len(index) + _SPARSE_ENTRIES)


class _Position(msgspec.Struct, frozen=True, gc=False):
    """Place of a resting order. Unlike a tuple it is invisible to the cyclic collector."""

    signed: int  # price
    time: int
    rank: Any


class _Queue:
    """Orders of one price. `orders` is key -> quantity, in priority order."""

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
    """Resting orders of one market, merged from all their owners.

    `side` is BUY or SELL, `time` microseconds, `rank` anything comparable and immutable that breaks ties
    of time the same way on every node; among equal ranks the key does. Arguments out of range raise
    ValueError.
    """

    __slots__ = ("_newest", "_queues", "asks", "bids", "resting")

    def __init__(self) -> None:
        self.bids: Prices = []  # +price, ascending: the best is last
        self.asks: Prices = []  # -price, the same
        self.resting: dict[int, _Position] = {}  # by key
        self._queues: dict[int, _Queue] = {}  # by signed price
        self._newest = -1  # latest time of any order ever added

    # Changing the book

    def submit(
        self, key: int, side: int, price: int | None, quantity: int, time: int, rank: Any
    ) -> list[Fill]:
        """Match, then rest the remainder of a limit order. A market order (price None) never rests."""
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

        `price` is the limit; None accepts any price.
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
        """Rest an order like `add`, at the signed price, without checks of the arguments."""
        queue = self._queues.get(signed)
        if queue is None:
            self._open(signed, key, quantity, time)
        else:
            if time > self._newest:
                self._newest = time
                queue.orders[key] = quantity  # later than every order before: last in its level
            else:
                self._insert(queue.orders, key, quantity, (time, rank, key))
            queue.total += quantity
        self.resting[key] = _Position(signed, time, rank)

    def set_quantity(self, key: int, quantity: int) -> None:
        """Change the remaining quantity of an order, which keeps its priority. 0 removes the order."""
        if quantity < 0:
            raise ValueError(f"a quantity cannot be negative, got {quantity}")
        queue = self._queues[self.resting[key].signed]
        if quantity == 0:
            self.remove(key)
        else:
            queue.total += quantity - queue.orders[key]
            queue.orders[key] = quantity

    def change(self, key: int, quantity: int) -> int:
        """Change a quantity like `set_quantity`. Returns the signed price of the order, 0 if it does not
        rest."""
        place = self.resting.get(key)
        if place is None:
            return 0
        signed = place.signed
        if quantity > 0:
            queue = self._queues[signed]
            queue.total += quantity - queue.orders[key]
            queue.orders[key] = quantity
        else:
            self.remove(key)
        return signed

    def remove(self, key: int) -> int:
        """Remove an order and return its signed price."""
        signed = self.resting.pop(key).signed
        queue = self._queues[signed]
        orders = queue.orders
        quantity = orders.pop(key)
        if orders:
            queue.total -= quantity
            if len(orders) >= _DEEP:
                queue.close_gaps(1)
        else:
            prices = self.bids if signed > 0 else self.asks
            if prices[-1] == signed:
                prices.pop()
            elif isinstance(prices, list):
                del prices[bisect_left(prices, signed)]
            else:
                prices.remove(signed)
            del self._queues[signed]
        return signed

    def release_memory(self) -> None:
        """Rebuild indexes that are far larger than their content: a dict never shrinks by itself."""
        if _sparse(self.resting):
            self.resting = dict(self.resting)
        if _sparse(self._queues):
            self._queues = dict(self._queues)

    # Reading

    def __contains__(self, key: int) -> bool:
        return key in self.resting

    def __len__(self) -> int:
        """Number of resting orders."""
        return len(self.resting)

    def quantity(self, key: int) -> int:
        return self._queues[self.resting[key].signed].orders[key]

    def side_price(self, key: int) -> tuple[int, int]:
        signed = self.resting[key].signed
        return (1, signed) if signed > 0 else (-1, -signed)

    def place(self, key: int) -> tuple[int, int, int]:
        """Return (side, price, time) of an order."""
        found = self.resting[key]
        signed = found.signed
        return (1, signed, found.time) if signed > 0 else (-1, -signed, found.time)

    def best(self, side: int) -> int | None:
        """Return the best price of a side, None when it is empty."""
        prices = self._prices(side)
        return abs(prices[-1]) if prices else None

    @property
    def crossed(self) -> bool:
        """True when the best bid and the best ask could trade."""
        return bool(self.bids and self.asks) and self.bids[-1] + self.asks[-1] >= 0

    def crossing(self, side: int, price: int | None) -> Iterator[Fill]:
        """Iterate over the orders that a taker at `price` would trade with, in matching order.

        Changes nothing. The book must not be changed during the iteration.
        """
        for signed in reversed(self._prices(-side)):
            if price is not None and signed < -side * price:
                return
            for key, quantity in self._queues[signed].orders.items():
                yield key, abs(signed), quantity

    def preview(self, side: int, price: int | None, quantity: int) -> list[Fill]:
        """Return the result of `match` without changing the book."""
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
        """Return one price level, in O(1); quantity and count are 0 when nothing rests there."""
        queue = self._queues.get(side * price)
        return (price, queue.total, len(queue.orders)) if queue else (price, 0, 0)

    def levels(self, side: int, depth: int | None = None) -> list[Level]:
        """Return the best `depth` levels of a side (all when None), best first. O(depth)."""
        best_first: Iterator[int] = reversed(self._prices(side))
        if depth is not None:
            best_first = islice(best_first, max(depth, 0))
        queues = self._queues
        return [(abs(s), queues[s].total, len(queues[s].orders)) for s in best_first]

    def at(self, side: int, price: int) -> Iterator[tuple[int, int, int, Any]]:
        """Iterate over (key, quantity, time, rank) of the orders of one level in priority order, under the
        same rule as `crossing`."""
        queue = self._queues.get(side * price)
        if queue is not None:
            for key, quantity in queue.orders.items():
                found = self.resting[key]
                yield key, quantity, found.time, found.rank

    def orders(self, side: int) -> Iterator[Resting]:
        """Iterate over all orders of a side in priority order, under the same rule as `crossing`."""
        for signed in reversed(self._prices(side)):
            for key, quantity in self._queues[signed].orders.items():
                found = self.resting[key]
                yield key, abs(signed), quantity, found.time, found.rank

    # Levels

    def _prices(self, side: int) -> Prices:
        if side == 1:
            return self.bids
        if side == -1:
            return self.asks
        raise ValueError(f"a side is 1 (buy) or -1 (sell), got {side!r}")

    def _open(self, signed: int, key: int, quantity: int, time: int) -> None:
        prices = self.bids if signed > 0 else self.asks
        if isinstance(prices, list):
            insort(prices, signed)
            if len(prices) > MANY_LEVELS:
                self._replace_prices(signed, SortedList(prices))
        else:
            prices.add(signed)
            if len(prices) < FEW_LEVELS:
                self._replace_prices(signed, list(prices))
        self._queues[signed] = _Queue(key, quantity)
        if time > self._newest:
            self._newest = time

    def _replace_prices(self, signed: int, prices: Prices) -> None:
        """Replace the prices of a side by the same prices in another kind of sequence."""
        if signed > 0:
            self.bids = prices
        else:
            self.asks = prices

    def _insert(
        self, queue: dict[int, int], key: int, quantity: int, priority: tuple[int, Any, int]
    ) -> None:
        """Insert an order by its priority. The cost is the number of orders behind it."""
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

    def _take(self, opposite: Prices, limit: int, side: int, quantity: int) -> list[Fill]:
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
