"""Pages of the open orders of a feed, packed in slices beside trading.

Theory of operation. A checkpoint carries the hash of all open orders, by number, in pages. With hundreds of
thousands of orders that takes more than a tenth of a second, for which nothing may wait. So each order's row is
encoded before the checkpoint is due, a slice at a time, while events go on; the row of an order that an event
has changed is encoded again. When few of those are left the pages can be sealed: they have the state of that
number, whatever follows. Then they are joined and hashed, again in slices.

Rules of this file:
- The pages have the same bytes as orders encoded all at once: it makes no difference to other nodes.
- A step takes a millisecond or two, also for freeing memory.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Generator, Iterable, Iterator, Mapping
from itertools import islice
from types import MappingProxyType
from typing import Final, Protocol

import msgspec

SLICE: Final = 2048  # rows encoded or freed in one step
SORTED: Final = 8192  # numbers sorted in one step
FEW: Final = 512  # changed orders that may be left for `seal`

_encode = msgspec.msgpack.Encoder().encode


class Shown(Protocol):
    """An order as its feed shows it."""

    side: int
    price: int
    shown: int
    time: int


class PackedOrders(msgspec.Struct, frozen=True):
    """Pages of open orders, and their hashes."""

    pages: list[bytes]
    hashes: list[bytes]

    @property
    def state(self) -> bytes:
        """The hash that a checkpoint carries."""
        return pages_hash(self.hashes)


def pages_hash(hashes: Iterable[bytes]) -> bytes:
    """Return the hash that a checkpoint carries, from the hashes of the pages."""
    return hashlib.sha256(b"".join(hashes)).digest()


class OrderPacking:
    """Packing of a feed's open orders under way. `orders` may change between two steps if `changed` tells."""

    def __init__(self, orders: Mapping[int, Shown], page_orders: int) -> None:
        self._orders = orders
        self._page_orders = page_orders
        self._rows: dict[int, bytes] = {}
        self._changed: dict[int, None] = {}
        self._late: dict[int, None] = {}  # orders opened since the packing began
        self._encoded = False  # every order was, at least once
        self._sealed = False
        self._over = False  # `step` has nothing to do any more
        self.result: PackedOrders | None = None
        self._steps = self._run()

    @property
    def ready(self) -> bool:
        """True if `seal` takes a moment only."""
        return self._encoded and len(self._changed) <= FEW

    @property
    def sealed(self) -> bool:
        """True if later events do not count any more."""
        return self._sealed

    @property
    def pending(self) -> bool:
        """True if `step` has something to do."""
        return not self._over and (self._sealed or not self.ready)

    def changed(self, numbers: Iterable[int]) -> None:
        """Note orders that have been opened, changed or closed."""
        if not self._sealed:
            self._changed.update(dict.fromkeys(numbers))

    def seal(self, outcome: Mapping[int, Shown | None] = MappingProxyType({})) -> None:
        """Fix the content: the orders as they are now, except for those of `outcome`."""
        self._put_changed(list(self._changed))
        for number, order in outcome.items():
            self._put_late(number, order)
        self._sealed = True

    def step(self) -> bool:
        """Do a slice of the work. Returns False when nothing is left to do for now."""
        return next(self._steps, False)

    def finish(self) -> PackedOrders:
        """Do at once what is left, and return the pages."""
        while not self._encoded:
            self.step()
        if not self._sealed:
            self.seal()
        while self.result is None:
            self.step()
        return self.result

    def _run(self) -> Iterator[bool]:
        numbers = yield from _in_order(list(self._orders))
        for start in range(0, len(numbers), SLICE):
            self._put(numbers[start : start + SLICE])
            yield True
        self._encoded = True
        while not self._sealed:
            if len(self._changed) > FEW:
                self._put_changed(list(islice(self._changed, SLICE)))
            yield self.pending
        late = sorted(self._late, reverse=True)
        packed = PackedOrders([], [])
        while self._rows or not packed.pages:
            some = self._next_page(numbers, late)
            page = _array_head(len(some)) + b"".join(map(self._rows.pop, some))
            packed.pages.append(page)
            packed.hashes.append(hashlib.sha256(page).digest())
            yield True
        self.result = packed
        while numbers:  # closed orders
            del numbers[-SLICE:]
            yield True
        self._over = True

    def _next_page(self, numbers: list[int], late: list[int]) -> list[int]:
        """Take the numbers of the next page: from the beginning of `numbers`, and from the end of `late`."""
        rows = self._rows
        page: list[int] = []
        while len(page) < self._page_orders and (numbers or late):
            until = bisect_left(numbers, late[-1]) if late else len(numbers)
            if until:
                some = numbers[: min(until, self._page_orders - len(page))]
                del numbers[: len(some)]
                page += [number for number in some if number in rows]
            else:
                number = late.pop()
                if number in rows and number not in numbers[:1]:
                    page.append(number)
        return page

    def _put(self, numbers: Iterable[int]) -> None:
        """Encode the rows of orders that were open when the packing began."""
        rows, orders = self._rows, self._orders
        for number in numbers:
            order = orders.get(number)
            if order is not None:
                rows[number] = _row(number, order)

    def _put_changed(self, numbers: list[int]) -> None:
        for number in numbers:
            del self._changed[number]
            self._put_late(number, self._orders.get(number))

    def _put_late(self, number: int, order: Shown | None) -> None:
        if order is None:
            self._rows.pop(number, None)
        else:
            if number not in self._rows:
                self._late[number] = None
            self._rows[number] = _row(number, order)


def _row(number: int, order: Shown) -> bytes:
    return _encode((number, order.side, order.price, order.shown, order.time))


def _array_head(length: int) -> bytes:
    """Return what an array begins with in msgpack."""
    return bytes([0x90 | length]) if length < 16 else b"\xdc" + length.to_bytes(2, "big")


def _in_order(numbers: list[int]) -> Generator[bool, None, list[int]]:
    """Sort numbers in slices. Those of an honest owner are nearly in order."""
    runs: list[list[int]] = [[]]
    for start in range(0, len(numbers), SORTED):
        run = sorted(numbers[start : start + SORTED])
        if not runs[-1] or runs[-1][-1] < run[0]:
            runs[-1] += run
        else:
            runs.append(run)
        yield True
    while len(runs) > 1:
        merged = runs.pop(0) + runs.pop(0)
        merged.sort()
        runs.append(merged)
        yield True
    return runs[0]
