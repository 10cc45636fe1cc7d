"""Books as Bitfinex shows them: by price in five precisions, or by order, with checksums.

P0 has the market's own price levels; P1 to P4 put together what is equal in the first 4 to 1 significant
digits, bids rounded down and asks up, so that no level looks better than it is. R0 has single orders.
Prices and amounts below `LEAST_SHOWN` are left out.
"""

from __future__ import annotations

from itertools import islice
from typing import Final, NamedTuple
from zlib import crc32

from exchange.market.order_book import Level
from exchange.model.events import BUY, SELL
from node.annexes.bitfinex.errors import BAD_PARAMETER, BitfinexError
from node.annexes.bitfinex.limits import BOOK_LENGTHS, BOOK_MAX
from node.annexes.bitfinex.order_ids import OrderIds
from node.annexes.bitfinex.symbols import Pair
from node.service.market_data import MarketData, Shown
from node.views.scales import Scale

RAW: Final = "R0"
PRECISIONS: Final = {"P0": 0, "P1": 4, "P2": 3, "P3": 2, "P4": 1}  # significant digits; 0: all
CHECKED: Final = 25  # entries a side that a checksum covers


class Entry(NamedTuple):
    """A level or order as it is written."""

    raw: tuple[int, int]  # level: orders, lots; order: price, lots. Lots of asks are negative
    text: str
    gone: str  # what is written when it leaves
    checked: str  # its part of a checksum


class View:
    """The best of a book: bids, best first, then asks, best first. Keys are signed prices or order ids."""

    def __init__(self, version: int, bids: dict[int, Entry], asks: dict[int, Entry]) -> None:
        self.version = version
        self.bids = bids
        self.asks = asks
        self._checksum: int | None = None

    @property
    def snapshot(self) -> str:
        return f"[{','.join(entry.text for entry in (*self.bids.values(), *self.asks.values()))}]"

    @property
    def checksum(self) -> int:
        """CRC-32 of the first entries as a signed 32-bit integer."""
        if self._checksum is None:
            bids = list(islice(self.bids.values(), CHECKED))
            asks = list(islice(self.asks.values(), CHECKED))
            parts: list[str] = []
            for index in range(max(len(bids), len(asks))):
                parts += [side[index].checked for side in (bids, asks) if index < len(side)]
            value = crc32(":".join(parts).encode())
            self._checksum = value - 2**32 if value >= 2**31 else value
        return self._checksum

    def cut(self, length: int) -> View:
        """The best `length` entries a side of this view."""
        bids, asks = (dict(islice(side.items(), length)) for side in (self.bids, self.asks))
        return View(self.version, bids, asks)

    def since(self, before: View) -> list[str]:
        """Changes for a reader that has `before`: removals first, so that no more is held than shown."""
        gone: list[str] = []
        new: list[str] = []
        for old, now in ((before.bids, self.bids), (before.asks, self.asks)):
            gone += [entry.gone for key, entry in old.items() if key not in now]
            for key, entry in now.items():
                known = old.get(key)
                if known is not entry and (known is None or known.text != entry.text):
                    new.append(entry.text)
        return gone + new


class Books:
    """Views of the books of a node, each made once for all who look at the same version."""

    def __init__(self, market_data: MarketData) -> None:
        self._market_data = market_data
        self._views: dict[tuple[str, str, int], View] = {}
        self._ids: dict[str, OrderIds] = {}

    def view(self, pair: Pair, precision: str, length: int) -> View:
        """The best `length` entries a side. `precision` is P0 to P4 or R0.

        Only views of `BOOK_LENGTHS` are kept, which bounds the memory; others are cut from them.
        """
        kept = next(each for each in BOOK_LENGTHS if each >= length)
        whole = self._view(pair, precision, kept)
        return whole if kept == length else whole.cut(length)

    def _view(self, pair: Pair, precision: str, length: int) -> View:
        shown = self._market_data.shown(pair.key)
        at = pair.key, precision, length
        before = self._views.get(at)
        if before is not None and before.version == shown.version:
            return before
        bids, asks = (
            self._side(pair, shown, precision, length, side, before) for side in (BUY, SELL)
        )
        found = self._views[at] = View(shown.version, bids, asks)
        return found

    def _side(
        self,
        pair: Pair,
        shown: Shown,
        precision: str,
        length: int,
        side: int,
        before: View | None,
    ) -> dict[int, Entry]:
        known: dict[int, Entry] = {}
        if before is not None:
            known = before.bids if side == BUY else before.asks
        if precision == RAW:
            return self._orders(pair, shown, length, side, known)
        scale = pair.scale
        if precision == "P0":
            levels = _levels(pair, shown, length, side)
        else:
            levels = _aggregated(pair, shown, PRECISIONS[precision], length, side)
        found: dict[int, Entry] = {}
        for value, lots, orders in levels:
            key = side * value
            raw = orders, side * lots
            entry = known.get(key)
            if entry is None or entry.raw != raw:
                entry = _level(scale, value, raw, side)
            found[key] = entry
        return found

    def _orders(
        self, pair: Pair, shown: Shown, length: int, side: int, known: dict[int, Entry]
    ) -> dict[int, Entry]:
        ids = self._ids.get(pair.key)
        if ids is None:
            ids = self._ids[pair.key] = OrderIds(shown.owners, shown.book)
        least_ticks, least_lots = pair.least_ticks, pair.least_lots
        orders = (
            (-side * ticks, ids.id_of(key), lots)
            for key, ticks, lots, _, _ in shown.book.orders(side)
            if ticks >= least_ticks and lots >= least_lots
        )
        rows = islice(orders, length)
        found: dict[int, Entry] = {}
        for signed, order_id, lots in sorted(rows):
            raw = pair.scale.value(abs(signed)), side * lots
            entry = known.get(order_id)
            if entry is None or entry.raw != raw:
                entry = _order(pair.scale, order_id, raw, side)
            found[order_id] = entry
        return found


def _levels(pair: Pair, shown: Shown, length: int, side: int) -> list[tuple[int, int, int]]:
    """(value, lots, orders) of the best `length` levels that are large enough."""
    value, least_ticks, least_lots = pair.scale.value, pair.least_ticks, pair.least_lots
    depth = length
    while True:
        levels = shown.book.levels(side, depth)
        found = [
            (value(ticks), lots, orders)
            for ticks, lots, orders in levels
            if lots >= least_lots and ticks >= least_ticks
        ]
        if len(found) >= length or len(levels) < depth:
            return found[:length]
        depth *= 4


def _aggregated(
    pair: Pair, shown: Shown, digits: int, length: int, side: int
) -> list[tuple[int, int, int]]:
    """(value, lots, orders) of the best `length` levels of that many significant digits."""
    depth = 4 * length
    while True:
        levels = shown.book.levels(side, depth)
        found = _joined(pair, levels, digits, side)
        whole = len(levels) < depth  # else the last one may be half seen
        large = [level for level in (found if whole else found[:-1]) if level[1] >= pair.least_lots]
        if whole or len(large) >= length:
            return large[:length]
        depth *= 4


def _joined(pair: Pair, levels: list[Level], digits: int, side: int) -> list[tuple[int, int, int]]:
    """Put together the levels that are equal in their first `digits` significant digits."""
    found: dict[int, tuple[int, int]] = {}
    for ticks, lots, orders in levels:
        if ticks >= pair.least_ticks:
            value = rounded(pair.scale.value(ticks), digits, up=side == SELL)
            had = found.get(value, (0, 0))
            found[value] = had[0] + lots, had[1] + orders
    return [(value, lots, orders) for value, (lots, orders) in found.items()]


def _level(scale: Scale, value: int, raw: tuple[int, int], side: int) -> Entry:
    price, amount = scale.price_of(value), scale.amount(raw[1])
    return Entry(
        raw,
        f"[{price},{raw[0]},{amount}]",
        f"[{price},0,{side}]",
        f"{price}:{amount}",
    )


def _order(scale: Scale, order_id: int, raw: tuple[int, int], side: int) -> Entry:
    amount = scale.amount(raw[1])
    return Entry(
        raw,
        f"[{order_id},{scale.price_of(raw[0])},{amount}]",
        f"[{order_id},0,{side}]",
        f"{order_id}:{amount}",
    )


def check_precision(text: object) -> str:
    """`text` if it names a precision.

    Raises:
        BitfinexError: it does not.
    """
    if isinstance(text, str) and (text in PRECISIONS or text == RAW):
        return text
    raise BitfinexError(BAD_PARAMETER, "prec: invalid")


def check_length(length: object) -> int:
    """A number of entries a side, as number or text.

    Raises:
        BitfinexError: not a whole number from 1 to `BOOK_MAX`.
    """
    text = str(length) if type(length) is int else length
    if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= 3:
        number = int(text)
        if 1 <= number <= BOOK_MAX:
            return number
    raise BitfinexError(BAD_PARAMETER, "len: invalid")


def rounded(value: int, digits: int, *, up: bool) -> int:
    """Round `value` to a number of significant digits, to the given side."""
    excess = len(str(value)) - digits
    if excess <= 0:
        return value
    step: int = 10**excess
    return -(-value // step) * step if up else value // step * step
