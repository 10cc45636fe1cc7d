"""Market data of a node: tape, candles, tickers, their history, and subscriptions to changes.

It receives durable trades (`add`) and keeps them in memory until they are on disk; a thread
saves that a few times a second, so the way of an order through the engine does not wait for it. Queries
join both, so added trades are found at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple, Protocol

from exchange.journal.market_history import Addition, HistoryError, MarketHistory
from exchange.market.candles import (
    LATEST,
    MINUTE,
    MINUTES_HELD,
    Candle,
    CandleSeries,
    DayStatistics,
    TradeRecord,
    day_statistics,
    plausible,
)
from exchange.market.history_shares import TAPE, TAPE_SLACK, Tape
from exchange.market.market import OwnerIndex, Trade
from exchange.market.order_book import OrderBook
from exchange.model.events import Filled
from exchange.model.instruments import Instrument, Instruments
from exchange.model.records import Recovered

log = logging.getLogger(__name__)

SAVE_EVERY: Final = 0.2  # seconds, at least, between two saves
MAX_UNSAVED: Final = 200_000  # trades that wait for the disk; then new ones are only in memory
MAX_AHEAD: Final = 5 * MINUTE  # trades further in the future than this are left out


class Shown(Protocol):
    """Market with a displayed book."""

    @property
    def book(self) -> OrderBook: ...

    @property
    def version(self) -> int:
        """Grows with every change of the book."""
        ...

    @property
    def owners(self) -> OwnerIndex: ...


class MarketTicker(NamedTuple):
    """A market at a glance. Ticks and lots; None where there is nothing."""

    bid: int | None
    bid_quantity: int
    ask: int | None
    ask_quantity: int
    day: DayStatistics


class Change(NamedTuple):
    """Changes in one market since the previous one: for listeners, in order of arrival."""

    trades: Sequence[TradeRecord]
    candles: Sequence[tuple[str, Candle]]  # (timeframe, candle): changed, and changing on
    levels: Sequence[tuple[int, int]]  # (side, price) of levels that may have changed

    @property
    def book(self) -> bool:
        """True if levels changed."""
        return bool(self.levels)


Listener = Callable[[Change], None]


@dataclass
class _Line:
    """State of one market."""

    instrument: Instrument
    shown: Shown
    candles: CandleSeries
    counted: dict[str, int]  # maker -> number of the last event of its feed that is in the candles
    tape: Tape
    unsaved: list[TradeRecord] = field(default_factory=list)
    saving: list[TradeRecord] = field(default_factory=list)
    moved: set[str] = field(default_factory=set)  # makers whose number in `counted` is not saved
    listeners: dict[Listener, None] = field(default_factory=dict)
    day: tuple[int, DayStatistics] | None = None  # by minute; None when a trade came


def record_of(trade: Trade) -> TradeRecord:
    """A trade as history keeps it."""
    event = trade.event
    return TradeRecord(
        event.time,
        trade.maker,
        trade.number,
        -event.side,
        event.price,
        event.quantity,
        event.taker,
        event.take,
    )


class MarketData:
    """See the module's docstring. Markets go by their key (`Instrument.key`)."""

    def __init__(
        self,
        instruments: Instruments,
        markets: Mapping[str, Shown],
        history: MarketHistory,
        now_us: Callable[[], int],
    ) -> None:
        """`now_us` is the wall clock in microseconds. Of `markets` those with an instrument are served."""
        self.instruments = instruments
        self._history = history
        self._now = now_us
        self._wanted = asyncio.Event()
        self._stopping = False
        self._failed = False
        self.traded: Counter[str] = (
            Counter()
        )  # lots by market, of the whole network, since the start
        keys = [instrument.key for instrument in instruments]
        history.add_markets(keys)
        self._lines: dict[str, _Line] = {}
        for instrument in instruments:
            key = instrument.key
            latest = history.candles(
                key, "1m", start=0, end=LATEST, limit=MINUTES_HELD, newest_first=True
            )
            most = TAPE + TAPE_SLACK
            stored = history.trades(key, start=0, end=LATEST, limit=most, newest_first=True)
            self._lines[key] = _Line(
                instrument,
                markets[key],
                CandleSeries(partial(self._stored, key), latest),
                history.counted(key),
                Tape(history.node, reversed(stored)),
            )

    def restore(self, recovered: Recovered) -> None:
        """Take in the trades that the journal holds and the history may lack. Call once, first."""
        for stored in recovered.feeds:
            if stored.market in self._lines:
                trades = [
                    Trade(stored.owner, event, batch.first + index)
                    for batch in stored.batches
                    for index, event in enumerate(batch.events)
                    if isinstance(event, Filled)
                ]
                self._add(stored.market, trades, ())

    # Events

    def add(
        self, levels: Iterable[tuple[str, int, int]], trades: Sequence[tuple[str, Trade]]
    ) -> None:
        """Add durable changes: (market, side, price) of changed levels, and trades."""
        by_market: dict[str, list[Trade]] = {}
        for key, trade in trades:
            by_market.setdefault(key, []).append(trade)
            self.traded[key] += trade.event.quantity
        touched: dict[str, list[tuple[int, int]]] = {}
        for key, side, price in levels:
            touched.setdefault(key, []).append((side, price))
        for key in touched.keys() | by_market.keys():
            self._add(key, by_market.get(key, ()), touched.get(key, ()))

    def _add(self, key: str, trades: Sequence[Trade], levels: Sequence[tuple[int, int]]) -> None:
        line = self._lines[key]
        fresh: list[TradeRecord] = []
        latest = self._now()
        for trade in trades:
            if line.counted.get(trade.maker, 0) >= trade.number:
                continue  # it came before, and again from the journal or a peer
            line.counted[trade.maker] = trade.number
            line.moved.add(trade.maker)
            if plausible(trade.event.time, latest, MAX_AHEAD):
                fresh.append(record_of(trade))
        if fresh:
            line.candles.add(fresh)
            line.tape.extend(fresh)
            line.day = None
            if len(line.unsaved) < MAX_UNSAVED:
                line.unsaved.extend(fresh)
            else:
                self._fail("the disk is too slow for the trades that come in")
        if trades:
            self._wanted.set()
        if line.listeners and (fresh or levels):
            change = Change(fresh, line.candles.settle() if fresh else [], levels)
            for listener in list(line.listeners):
                listener(change)

    def listen(self, key: str, listener: Listener) -> None:
        """Call `listener` with every change of a market, at once and in this thread."""
        self._lines[key].listeners[listener] = None

    def unlisten(self, key: str, listener: Listener) -> None:
        self._lines[key].listeners.pop(listener, None)

    # Reading

    def now(self) -> int:
        """The wall clock, in microseconds since the epoch."""
        return self._now()

    def shown(self, key: str) -> Shown:
        return self._lines[key].shown

    def tape(self, key: str, limit: int) -> list[TradeRecord]:
        """The newest trades, newest first; at most `TAPE`, in shares of their makers."""
        return self._lines[key].tape.newest(limit)

    def ticker(self, key: str) -> MarketTicker:
        line = self._lines[key]
        book = line.shown.book
        bid, ask = book.best(1), book.best(-1)
        return MarketTicker(
            bid,
            book.level(1, bid)[1] if bid is not None else 0,
            ask,
            book.level(-1, ask)[1] if ask is not None else 0,
            self._day(line),
        )

    def _day(self, line: _Line) -> DayStatistics:
        now = self._now()
        minute = now // MINUTE
        if line.day is None or line.day[0] != minute:
            line.day = minute, day_statistics(line.candles.minutes(), now)
        return line.day[1]

    async def trades(
        self,
        key: str,
        *,
        start: int = 0,
        end: int = LATEST,
        limit: int,
        newest_first: bool = True,
        skip: int = 0,
    ) -> list[TradeRecord]:
        """Trades from `start` to `end` (us, both included) in the order of (time, maker, number), without the first
        `skip`."""
        line = self._lines[key]
        waiting = [t for t in (*line.saving, *line.unsaved) if start <= t.time <= end]
        found = await asyncio.to_thread(
            partial(
                self._history.trades,
                *(key,),
                start=start,
                end=end,
                limit=limit + skip,
                newest_first=newest_first,
            )
        )
        if waiting:
            joined = {trade.key: trade for trade in (*found, *waiting)}
            found = [joined[k] for k in sorted(joined, reverse=newest_first)]
        return found[skip:][:limit]

    async def candles(
        self,
        key: str,
        frame: str,
        *,
        start: int = 0,
        end: int = LATEST,
        limit: int,
        newest_first: bool = True,
    ) -> list[Candle]:
        """Candles that begin from `start` to `end` (us, both included). Not to be changed."""
        line = self._lines[key]
        held = [candle for candle in line.candles.held(frame) if start <= candle.start <= end]
        found = await asyncio.to_thread(
            partial(
                self._history.candles,
                *(key, frame),
                start=start,
                end=end,
                limit=limit,
                newest_first=newest_first,
            )
        )
        joined = {candle.start: candle for candle in (*found, *held)}
        return [joined[at] for at in sorted(joined, reverse=newest_first)[:limit]]

    # The disk

    async def run(self) -> None:
        """Save what is new, until `stop`; the last save then is complete."""
        thread = ThreadPoolExecutor(1, thread_name_prefix="market history")
        loop = asyncio.get_running_loop()
        try:
            stopping = False
            while not stopping:
                await self._wanted.wait()
                self._wanted.clear()
                stopping = self._stopping
                addition = self._take()
                try:
                    await loop.run_in_executor(thread, self._history.save, addition)
                except HistoryError as error:
                    self._fail(str(error))
                for key, line in self._lines.items():
                    line.saving = []
                    line.candles.saved(addition.candles.get(key, ()))
                if not stopping and not self._stopping:
                    await asyncio.sleep(SAVE_EVERY)
        finally:
            thread.shutdown(wait=True)

    def stop(self) -> None:
        """Let `run` end after one more save."""
        self._stopping = True
        self._wanted.set()

    def _stored(self, key: str, frame: str, start: int) -> Candle | None:
        try:
            return self._history.candle(key, frame, start)
        except HistoryError as error:
            self._fail(str(error))
            return None

    def _take(self) -> Addition:
        addition = Addition({}, {}, {})
        for key, line in self._lines.items():
            if line.unsaved:
                line.saving, line.unsaved = line.unsaved, []
                addition.trades[key] = line.saving
            changed = line.candles.changed
            if changed:
                addition.candles[key] = [
                    (frame, candle.at(start)) for (frame, start), candle in changed.items()
                ]
            for maker in line.moved:
                addition.counted[key, maker] = line.counted[maker]
            line.moved.clear()
        return addition

    def _fail(self, why: str) -> None:
        """Warn once that the history has gaps from now on. Trading continues."""
        if not self._failed:
            self._failed = True
            log.warning("market history is incomplete: %s", why)
