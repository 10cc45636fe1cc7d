"""Candles of every length, from trades that may arrive late and in any order.

A candle is a pure function of the trades that fall into it. Their order is (time, maker, number), the
same on every node, so its open and close do not depend on when a trade came to be known: a late one
amends the candle of its own time. Nodes that have seen the same trades have the same candles.

Lengths up to a day begin at multiples of themselves in UTC. 7D and 14D count from the epoch, 1970-01-01,
so they begin on Thursdays; 1W begins on Mondays; 1M is a calendar month.

Trades are gathered by minute, and what a minute gained is added to the candles of all lengths when
somebody looks: candles of parts add up, so a burst of trades costs one addition a length.
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
MAX_VOLUME: Final = 2**62  # volumes stop here: what others claim to have traded must fit a column
MINUTES_HELD: Final = 1500  # one-minute candles kept in memory: a day, and what was before it
OTHERS_HELD: Final = 8  # of every other length
LATEST: Final = 253_402_300_799_999_999  # us, the end of the year 9999

Key = tuple[int, str, int]  # (time, maker, number): the order of trades on every node


class TradeRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One public trade. (`maker`, `number`) is its place in the maker's feed, (`taker`, `take`) its id
    on both sides. Ticks, lots, microseconds since the epoch."""

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
    """What was traded from `start` on, for the length of the candle. `first` and `last` are the keys
    of the trades that made `open` and `close`."""

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
        """Take in a candle of other trades of the same time. In any order the result is the same."""
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
        """A copy that begins at `start`."""
        return msgspec.structs.replace(self, start=start)


@dataclass(frozen=True, slots=True)
class Timeframe:
    """A length of candles. `length` in microseconds, 0 for calendar months."""

    name: str
    length: int
    offset: int = 0  # where the first one begins, counted from the epoch

    def start(self, time: int) -> int:
        """When the candle began that `time` (us since the epoch) falls into."""
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
    """Where candles are looked up that are not in memory."""

    def __call__(self, frame: str, start: int) -> Candle | None: ...


class CandleSeries:
    """The candles of one market: the latest in memory, the others found through `stored`."""

    def __init__(self, stored: CandleLookup, latest_minutes: Sequence[Candle] = ()) -> None:
        """`latest_minutes` are the newest stored one-minute candles, at most `MINUTES_HELD`."""
        self._stored = stored
        self._held: dict[str, dict[int, Candle]] = {name: {} for name in TIMEFRAMES}
        self._held["1m"] = {candle.start: candle for candle in latest_minutes}
        self._changed: dict[tuple[str, int], Candle] = {}
        self._parts: dict[int, Candle] = {}  # by minute: in no candle yet
        self._minutes: list[Candle] | None = None  # by start; made anew when one was added

    def add(self, trades: Iterable[TradeRecord]) -> None:
        """Take in trades, each of them once."""
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
        """Bring the candles up to date. Returns (timeframe, candle) of what changed by that."""
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
        """By (timeframe, start): those that `stored` does not have in their present form."""
        self.settle()
        return self._changed

    def held(self, frame: str) -> list[Candle]:
        """Those in memory, all changed ones among them."""
        self.settle()
        return list(self._held[frame].values())

    def saved(self, candles: Iterable[tuple[str, Candle]]) -> None:
        """`stored` has these now, as the copies say. What is old and unchanged is let go."""
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
        """The one-minute candles in memory, oldest first. Not to be changed."""
        self.settle()
        if self._minutes is None:
            held = self._held["1m"]
            self._minutes = [held[start] for start in sorted(held)]
        return self._minutes


class DayStatistics(NamedTuple):
    """The last 24 hours, to the minute. Ticks and lots; None where nothing was ever traded."""

    last: int | None
    before: int | None  # the price that held when they began, or their first one
    volume: int
    high: int | None
    low: int | None

    @property
    def change(self) -> int:
        return 0 if self.last is None or self.before is None else self.last - self.before


def day_statistics(minutes: Sequence[Candle], now: int) -> DayStatistics:
    """Figures of the 24 hours before `now` (us), from one-minute candles, oldest first."""
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
    """Whether a trade can have this time: others say what they like. All in us."""
    return 0 < time <= min(now + ahead, LATEST)
