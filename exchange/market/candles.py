"""Candles of every timeframe, from trades that may arrive late and in any order.

Theory of operation. A candle is a pure function of the trades of its period. Their order is (time,
maker, number), the same on every node, so open and close do not depend on the time of arrival: a late
trade amends the candle of its own period. Nodes with the same trades have the same candles.

Timeframes up to a day begin at multiples of themselves in UTC. 7D and 14D count from the epoch,
1970-01-01, so they begin on Thursdays; 1W begins on Mondays; 1M is a calendar month.

Trades are collected by minute, and the sum of a minute is added to the candles of all timeframes when
they are read: candles of parts add up, so a burst of trades costs one addition for each timeframe.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple, Protocol

import msgspec

MINUTE: Final = 60_000_000  # us
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR
MAX_VOLUME: Final = 2**96  # lots; upper bound of volumes, which are sums of other nodes' claims
MINUTES_HELD: Final = 1500  # one-minute candles kept in memory: a day and some before it
OTHERS_HELD: Final = 8  # of every other timeframe
LATEST: Final = 253_402_300_799_999_999  # us, the end of the year 9999

Key = tuple[int, str, int]  # (time, maker, number): the order of trades on every node


class TradeRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Public trade. (`maker`, `number`) is its place in the maker's feed, (`taker`, `take`) its id on
    both sides. Ticks, lots, microseconds since the epoch."""

    time: int
    maker: str
    number: int
    side: int  # the taker's
    price: int
    quantity: int
    taker: str
    take: int

    @property
    def key(self) -> Key:
        return self.time, self.maker, self.number


class Candle(msgspec.Struct, gc=False):
    """Trades of one period from `start` on. `first` and `last` are the keys of the trades that made
    `open` and `close`."""

    start: int  # us since the epoch
    open: int
    close: int
    high: int
    low: int
    volume: int  # lots
    trades: int
    first: Key
    last: Key

    def add(self, part: Candle) -> None:
        """Add a candle of other trades of the same period. The result does not depend on the order."""
        if part.first < self.first:
            self.open, self.first = part.open, part.first
        if part.last > self.last:
            self.close, self.last = part.close, part.last
        if part.high > self.high:
            self.high = part.high
        if part.low < self.low:
            self.low = part.low
        self.volume = min(self.volume + part.volume, MAX_VOLUME)
        self.trades += part.trades

    def at(self, start: int) -> Candle:
        """Return a copy that begins at `start`."""
        return msgspec.structs.replace(self, start=start)


@dataclass(frozen=True, slots=True)
class Timeframe:
    """Length of candles in microseconds, 0 for calendar months."""

    name: str
    length: int
    offset: int = 0  # start of the first candle, counted from the epoch

    def start(self, time: int) -> int:
        """Return the start of the candle that contains `time`. Us since the epoch."""
        if self.length:
            return time - (time - self.offset) % self.length
        day = datetime.fromtimestamp(time // 1_000_000, UTC)
        month = day.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        return int(month.timestamp()) * 1_000_000


TIMEFRAMES: Final[dict[str, Timeframe]] = {
    frame.name: frame
    for frame in (
        Timeframe("1m", MINUTE),
        Timeframe("5m", 5 * MINUTE),
        Timeframe("15m", 15 * MINUTE),
        Timeframe("30m", 30 * MINUTE),
        Timeframe("1h", HOUR),
        Timeframe("3h", 3 * HOUR),
        Timeframe("4h", 4 * HOUR),
        Timeframe("6h", 6 * HOUR),
        Timeframe("12h", 12 * HOUR),
        Timeframe("1D", DAY),
        Timeframe("1W", 7 * DAY, 4 * DAY),  # 1970-01-05 was a Monday
        Timeframe("7D", 7 * DAY),
        Timeframe("14D", 14 * DAY),
        Timeframe("1M", 0),
    )
}
_MINUTES: Final = TIMEFRAMES["1m"]


class CandleLookup(Protocol):
    """Look-up of candles that are not in memory."""

    def __call__(self, frame: str, start: int) -> Candle | None: ...


class CandleSeries:
    """Candles of one market in all timeframes: the latest in memory, older ones through `stored`."""

    def __init__(self, stored: CandleLookup, latest_minutes: Sequence[Candle] = ()) -> None:
        """`latest_minutes`: newest stored one-minute candles, at most `MINUTES_HELD`."""
        self._stored = stored
        self._held: dict[str, dict[int, Candle]] = {name: {} for name in TIMEFRAMES}
        self._held["1m"] = {candle.start: candle for candle in latest_minutes}
        self._changed: dict[tuple[str, int], Candle] = {}
        self._parts: dict[int, Candle] = {}  # by minute: not yet added to the candles
        self._minutes: list[Candle] | None = None  # by start; None after one was added

    def add(self, trades: Iterable[TradeRecord]) -> None:
        """Add trades, each of them once."""
        parts = self._parts
        for trade in trades:
            start = trade.time - trade.time % MINUTE
            price = trade.price
            key = trade.key
            one = Candle(start, price, price, price, price, trade.quantity, 1, key, key)
            part = parts.get(start)
            if part is None:
                parts[start] = one
            else:
                part.add(one)

    def settle(self) -> list[tuple[str, Candle]]:
        """Add the collected trades to the candles. Returns (timeframe, candle) of the changed ones."""
        parts, self._parts = self._parts, {}
        touched: dict[tuple[str, int], Candle] = {}
        for part in parts.values():
            for frame in TIMEFRAMES.values():
                candle = self._put(frame, part)
                touched[frame.name, candle.start] = candle
        self._changed |= touched
        return [(name, candle) for (name, _), candle in touched.items()]

    def _put(self, frame: Timeframe, part: Candle) -> Candle:
        start = frame.start(part.start)
        held = self._held[frame.name]
        candle = held.get(start) or self._stored(frame.name, start)
        if candle is None:
            candle = part.at(start)
        else:
            candle.add(part)
        if start not in held:
            held[start] = candle
            if frame is _MINUTES:
                self._minutes = None
        return candle

    @property
    def changed(self) -> dict[tuple[str, int], Candle]:
        """Candles by (timeframe, start) that `stored` does not have in their present form."""
        self.settle()
        return self._changed

    def held(self, frame: str) -> list[Candle]:
        """Return the candles in memory, which include all changed ones."""
        self.settle()
        return list(self._held[frame].values())

    def saved(self, candles: Iterable[tuple[str, Candle]]) -> None:
        """Mark candles as stored, in the state of the given copies. Old unchanged candles are dropped."""
        for frame, copy in candles:
            if self._changed.get((frame, copy.start)) == copy:
                del self._changed[frame, copy.start]
        for name, held in self._held.items():
            most = MINUTES_HELD if name == "1m" else OTHERS_HELD
            if len(held) > 2 * most:
                oldest = sorted(held)[-most]
                self._held[name] = {
                    start: candle
                    for start, candle in held.items()
                    if start >= oldest or (name, start) in self._changed
                }
                self._minutes = None

    def minutes(self) -> list[Candle]:
        """Return the one-minute candles in memory, oldest first. For reading only."""
        self.settle()
        if self._minutes is None:
            held = self._held["1m"]
            self._minutes = [held[start] for start in sorted(held)]
        return self._minutes


class DayStatistics(NamedTuple):
    """Statistics of the last 24 hours, to the minute. Ticks and lots; None before the first trade."""

    last: int | None
    before: int | None  # last price before these 24 hours, or else their first price
    volume: int
    high: int | None
    low: int | None

    @property
    def change(self) -> int:
        return 0 if self.last is None or self.before is None else self.last - self.before


def day_statistics(minutes: Sequence[Candle], now: int) -> DayStatistics:
    """Return the statistics of the 24 hours before `now` (us) from one-minute candles, oldest first."""
    if not minutes:
        return DayStatistics(None, None, 0, None, None)
    begin = _MINUTES.start(now - DAY)
    at = bisect_right(minutes, begin - 1, key=_start)
    day = minutes[at:]
    last = minutes[-1].close
    if not day:
        return DayStatistics(last, last, 0, None, None)
    return DayStatistics(
        last,
        minutes[at - 1].close if at else day[0].open,
        min(sum(candle.volume for candle in day), MAX_VOLUME),
        max(candle.high for candle in day),
        min(candle.low for candle in day),
    )


def _start(candle: Candle) -> int:
    return candle.start


def plausible(time: int, now: int, ahead: int) -> bool:
    """Report if a trade may have this time, which another node has set. All in us."""
    return 0 < time <= min(now + ahead, LATEST)
