"""View of a book in one detail and depth, kept as last published, so that the cost of an update is
that of its changes.

A view gets the levels that may have changed, reads them in the live book, and returns the
differences from the last published state. It has no clock and sends nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from exchange.market.candles import LATEST
from exchange.market.market import NUMBER_BITS, OwnerIndex
from exchange.market.order_book import OrderBook
from exchange.model.events import BUY, SELL
from exchange.model.instruments import Instrument
from node.streams.book_checksums import MODULUS, level_check, order_check
from node.streams.stream_messages import Level, RestingOrder
from node.views.scales import Scale
from node.views.views import Side

# Of one view that has no depth. A snapshot of either has about 6 MB; deeper books are had by depth.
MAX_LEVELS: Final = 200_000
MAX_ORDERS: Final = 50_000

WORDS: Final[dict[int, Side]] = {BUY: "buy", SELL: "sell"}

Place = tuple[int, int]  # side, price in ticks
E = TypeVar("E", Level, RestingOrder)


class BookTooLarge(Exception):
    """There is more in the book than a view may hold."""


class Changed(NamedTuple, Generic[E]):
    """An entry as it is now."""

    side: int
    entry: E


class BookSource(Protocol):
    """A live book."""

    @property
    def book(self) -> OrderBook: ...

    @property
    def owners(self) -> OwnerIndex: ...


class OwnBook:
    """The part of a market's book that is this node's own, as a book of its own."""

    def __init__(self, whole: BookSource) -> None:
        self._whole = whole
        self.owners = whole.owners
        self.book = OrderBook()
        for side in (BUY, SELL):
            for key, price, quantity, time, rank in whole.book.orders(side):
                if not key >> NUMBER_BITS:
                    self.book.add(key, side, price, quantity, time, rank)

    def follow(self, places: Iterable[Place]) -> None:
        """Take over what changed at these places; doing so twice changes nothing more."""
        book = self.book
        for side, price in places:
            now = {
                key: (quantity, time, rank)
                for key, quantity, time, rank in self._whole.book.at(side, price)
                if not key >> NUMBER_BITS
            }
            for key, _, time, _ in list(book.at(side, price)):
                if key not in now or now[key][1] != time:
                    book.remove(key)
            for key, (quantity, time, rank) in now.items():
                if key in book and book.side_price(key) != (side, price):
                    book.remove(key)  # it moved here
                if key in book:
                    book.set_quantity(key, quantity)
                else:
                    book.add(key, side, price, quantity, time, rank)


class LevelsView:
    """Prices with their quantities: the best `depth` of each side, or all with None."""

    def __init__(self, source: BookSource, instrument: Instrument, depth: int | None) -> None:
        """
        Raises:
            BookTooLarge: there are too many levels.
        """
        self._book = source.book
        self._scale = Scale(instrument)
        self._depth = depth
        # price -> (quantity, orders), the entry, its part of the checksum
        self._sides: dict[int, dict[int, tuple[tuple[int, int], Level, int]]] = {BUY: {}, SELL: {}}
        self._worst: dict[int, int | None] = {BUY: None, SELL: None}  # of a full limited side
        self.checksum = 0
        for side in (BUY, SELL):
            levels = self._book.levels(side, MAX_LEVELS + 1 if depth is None else depth)
            for price, quantity, orders in levels:
                self._set(side, price, quantity, orders)
            self._note_worst(side, levels)
        if depth is None:
            self._check_size()

    def update(self, places: Iterable[Place]) -> Mapping[object, Changed[Level]]:
        """Changed levels at these places, by side and price.

        Raises:
            BookTooLarge: there are too many levels now.
        """
        if self._depth is None:
            found: dict[object, Changed[Level]] = {}
            for side, price in places:
                _, quantity, orders = self._book.level(side, price)
                self._note(found, side, price, quantity, orders)
            self._check_size()
            return found
        found = {}
        for side in (BUY, SELL):
            worst = self._worst[side]
            if any(s == side and (worst is None or side * p >= worst) for s, p in places):
                self._look_again(side, self._depth, found)
        return found

    def _look_again(self, side: int, depth: int, found: dict[object, Changed[Level]]) -> None:
        levels = self._book.levels(side, depth)
        shown = {level[0] for level in levels}
        for price in [price for price in self._sides[side] if price not in shown]:
            self._note(found, side, price, 0, 0)
        for price, quantity, orders in levels:
            self._note(found, side, price, quantity, orders)
        self._note_worst(side, levels)

    def _note_worst(self, side: int, levels: list[tuple[int, int, int]]) -> None:
        self._worst[side] = side * levels[-1][0] if len(levels) == self._depth else None

    def _note(
        self,
        found: dict[object, Changed[Level]],
        side: int,
        price: int,
        quantity: int,
        orders: int,
    ) -> None:
        known = self._sides[side].get(price)
        if known is None:
            if quantity:
                found[side * price] = Changed(side, self._set(side, price, quantity, orders))
        elif not quantity:
            del self._sides[side][price]
            self.checksum = (self.checksum - known[2]) % MODULUS
            found[side * price] = Changed(side, Level(known[1].price, "0", 0))
        elif known[0] != (quantity, orders):
            self.checksum = (self.checksum - known[2]) % MODULUS
            level = self._set(side, price, quantity, orders, known[1].price)
            found[side * price] = Changed(side, level)

    def _set(self, side: int, price: int, quantity: int, orders: int, text: str = "") -> Level:
        """`text` is the price's, where it is known."""
        scale = self._scale
        level = Level(text or scale.price(price), scale.amount(quantity), orders)
        check = level_check(WORDS[side], level)
        self._sides[side][price] = (quantity, orders), level, check
        self.checksum = (self.checksum + check) % MODULUS
        return level

    def _check_size(self) -> None:
        if len(self._sides[BUY]) + len(self._sides[SELL]) > MAX_LEVELS:
            raise BookTooLarge

    def entries(self, side: int) -> list[Level]:
        """Return a side as last published, best first."""
        found = self._sides[side]
        return [found[price][1] for price in sorted(found, reverse=side == BUY)]

    def best(self, side: int) -> Level | None:
        return next(iter(self.entries(side)), None)


class _Known(NamedTuple):
    """Order as last published."""

    side: int
    price: int
    quantity: int
    time: int
    entry: RestingOrder
    check: int


class OrdersView:
    """Single orders: the best `depth` of each side, or all with None."""

    def __init__(self, source: BookSource, instrument: Instrument, depth: int | None) -> None:
        """
        Raises:
            BookTooLarge: there are too many orders.
        """
        self._book = source.book
        self._owners = source.owners
        self._scale = Scale(instrument)
        self._depth = depth
        self._orders: dict[int, _Known] = {}
        self._at: dict[Place, set[int]] = {}
        self._worst: dict[int, int | None] = {BUY: None, SELL: None}
        self.checksum = 0
        if depth is None and len(self._book) > MAX_ORDERS:
            raise BookTooLarge
        found: dict[object, Changed[RestingOrder]] = {}
        for side in (BUY, SELL):
            self._look_again(side, depth, found)

    def update(self, places: Iterable[Place]) -> Mapping[object, Changed[RestingOrder]]:
        """Changed orders at these places.

        Raises:
            BookTooLarge: there are too many orders now.
        """
        found: dict[object, Changed[RestingOrder]] = {}
        if self._depth is not None:
            for side in (BUY, SELL):
                worst = self._worst[side]
                if any(s == side and (worst is None or side * p >= worst) for s, p in places):
                    self._look_again(side, self._depth, found)
            return found
        here = [(place, list(self._book.at(*place))) for place in places]
        # Removals first: a moved order is published once, at its new place.
        for place, orders in here:
            now = {order[0] for order in orders}
            for key in self._at.get(place, set()) - now:
                if key not in self._book:
                    self._gone(found, key)
        for (side, price), orders in here:
            for key, quantity, time, _ in orders:
                self._note(found, key, side, price, quantity, time)
        if len(self._orders) > MAX_ORDERS:
            raise BookTooLarge
        return found

    def _look_again(
        self, side: int, depth: int | None, found: dict[object, Changed[RestingOrder]]
    ) -> None:
        orders = list(islice(self._book.orders(side), depth))
        now = {order[0] for order in orders}
        for key in [k for k, known in self._orders.items() if known.side == side and k not in now]:
            self._gone(found, key)
        for key, price, quantity, time, _ in orders:
            self._note(found, key, side, price, quantity, time)
        full = depth is not None and len(orders) == depth
        self._worst[side] = side * orders[-1][1] if full else None

    def _gone(self, found: dict[object, Changed[RestingOrder]], key: int) -> None:
        known = self._forget(key)
        entry = known.entry
        found[key] = Changed(
            known.side, RestingOrder(entry.id, entry.price, "0", entry.time, entry.own)
        )

    def _forget(self, key: int) -> _Known:
        known = self._orders.pop(key)
        at = self._at[known.side, known.price]
        at.discard(key)
        if not at:
            del self._at[known.side, known.price]
        self.checksum = (self.checksum - known.check) % MODULUS
        return known

    def _note(
        self,
        found: dict[object, Changed[RestingOrder]],
        key: int,
        side: int,
        price: int,
        quantity: int,
        time: int,
    ) -> None:
        known = self._orders.get(key)
        if known is not None and known[:4] == (side, price, quantity, time):
            return
        lots = self._scale.amount(quantity)
        if known is None:
            owner, number = self._owners.split(key)
            name, where = f"{owner}-{number}", self._scale.price(price)
            entry = RestingOrder(name, where, lots, precise(time), not key >> NUMBER_BITS)
        else:
            self._forget(key)
            was = known.entry
            where = was.price if price == known.price else self._scale.price(price)
            since = was.time if time == known.time else precise(time)
            entry = RestingOrder(was.id, where, lots, since, was.own)
        check = order_check(WORDS[side], entry)
        self._orders[key] = _Known(side, price, quantity, time, entry, check)
        self._at.setdefault((side, price), set()).add(key)
        self.checksum = (self.checksum + check) % MODULUS
        found[key] = Changed(side, entry)

    def entries(self, side: int) -> list[RestingOrder]:
        """Return a side as last published, in priority order."""
        found = [(key, known) for key, known in self._orders.items() if known.side == side]
        found.sort(key=lambda row: (-side * row[1].price, row[1].time, *self._owners.split(row[0])))
        return [known.entry for _, known in found]


def precise(us: int) -> str:
    """Microseconds since the epoch as ISO 8601 in UTC, to the microsecond."""
    us = min(us, LATEST)  # others sign what they like
    return f"{datetime.fromtimestamp(us // 1_000_000, UTC).isoformat()[:19]}.{us % 1_000_000:06d}Z"
