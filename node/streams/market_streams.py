"""The streams of a market: its book in three details, trades, ticker, candles."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, Final

from exchange.market.candles import Candle
from exchange.model.events import BUY, SELL
from exchange.model.instruments import Instrument
from node.service.market_data import Change, MarketData
from node.service.market_service import ticker_texts
from node.streams.book_views import BookSource, BookTooLarge, LevelsView, OrdersView, OwnBook
from node.streams.stream import FAILED, NumberedStream, encode
from node.streams.stream_messages import (
    BookL1,
    BookL2,
    BookL2Snapshot,
    BookL3,
    BookL3Snapshot,
    Candles,
    CandlesSnapshot,
    Reason,
    Ticker,
    TickerView,
    Trades,
    TradesSnapshot,
)
from node.views.order_mapping import OrderMapping, candle_view
from node.views.timestamps import iso

SNAPSHOT_TRADES: Final = 50
SNAPSHOT_CANDLES: Final = 100
CANDLES_HELD: Final = 2 * SNAPSHOT_CANDLES  # of one stream

TOO_LARGE: Final = (
    "book_too_large",
    "there is more in this book than a stream of all of it may hold; subscribe with a depth",
)

log = logging.getLogger(__name__)


class MarketStream(NumberedStream):
    """A stream about one market."""

    def __init__(
        self, name: str, epoch: str, market_data: MarketData, instrument: Instrument
    ) -> None:
        super().__init__(name, epoch)
        self.market_data = market_data
        self.instrument = instrument
        self.key = instrument.key
        self._second = (0, "")  # the last one that was written, as text

    async def open(self) -> None:
        self.market_data.listen(self.key, self._offer)

    def close(self) -> None:
        self.market_data.unlisten(self.key, self._offer)

    def offer(self, change: Change) -> None:
        """Something happened in the market."""
        raise NotImplementedError

    def _offer(self, change: Change) -> None:
        """Receive durable changes; exceptions are contained here."""
        try:
            self.offer(change)
        except BookTooLarge:
            self.end(*TOO_LARGE)
        except Exception:
            log.exception("the stream %s failed", self.name)
            self.end(*FAILED)

    @property
    def time(self) -> str:
        now = self.market_data.now()
        second, text = self._second
        if now // 1_000_000 != second:
            second, text = self._second = now // 1_000_000, iso(now)[:20]
        return f"{text}{now // 1000 % 1000:03d}Z"


class _BookStream(MarketStream):
    def __init__(
        self,
        name: str,
        epoch: str,
        market_data: MarketData,
        instrument: Instrument,
        own: OwnBook | None,
        depth: int | None,
    ) -> None:
        """`own` instead of the network's book."""
        super().__init__(name, epoch, market_data, instrument)
        self._own = own
        self._depth = depth
        self.view: LevelsView | OrdersView

    def make_view(self, source: BookSource, depth: int | None) -> LevelsView | OrdersView:
        raise NotImplementedError

    async def open(self) -> None:
        """
        Raises:
            BookTooLarge: there is too much in the book.
        """
        source = self._own or self.market_data.shown(self.key)
        self.view = self.make_view(source, self._depth)
        await super().open()

    def close(self) -> None:
        super().close()
        self._own = None  # it must not look like a followed one

    def offer(self, change: Change) -> None:
        if change.levels:
            if self._own is not None:
                self._own.follow(change.levels)
            self.publish(self.view.update(change.levels))

    def fields(self) -> dict[str, Any]:
        return super().fields() | {"checksum": self.view.checksum, "time": self.time}

    def state(self) -> dict[str, Any]:
        return {"bids": self.view.entries(BUY), "asks": self.view.entries(SELL)}

    def changed(self, changes: Mapping[object, Any]) -> dict[str, Any]:
        bids: list[Any] = []
        asks: list[Any] = []
        for side, entry in changes.values():
            (bids if side == BUY else asks).append(entry)
        return {"bids": bids, "asks": asks}


class BookL1Stream(_BookStream):
    view: LevelsView

    def make_view(self, source: BookSource, depth: int | None) -> LevelsView:
        return LevelsView(source, self.instrument, 1)

    def encode_snapshot(self, reason: Reason) -> bytes:
        return self._encode(None)

    def encode_changes(self, previous: int, changes: Mapping[object, Any]) -> bytes:
        return self._encode(previous)

    def _encode(self, previous: int | None) -> bytes:
        bid, ask = self.view.best(BUY), self.view.best(SELL)
        return encode(BookL1(previous=previous, bid=bid, ask=ask, **self.fields()))


class BookL2Stream(_BookStream):
    snapshot_message, changes_message = BookL2Snapshot, BookL2

    def make_view(self, source: BookSource, depth: int | None) -> LevelsView:
        return LevelsView(source, self.instrument, depth)


class BookL3Stream(_BookStream):
    snapshot_message, changes_message = BookL3Snapshot, BookL3

    def make_view(self, source: BookSource, depth: int | None) -> OrdersView:
        return OrdersView(source, self.instrument, depth)


class TradesStream(MarketStream):
    complete = True
    snapshot_message, changes_message = TradesSnapshot, Trades

    def __init__(
        self,
        name: str,
        epoch: str,
        market_data: MarketData,
        instrument: Instrument,
        texts: OrderMapping,
    ) -> None:
        super().__init__(name, epoch, market_data, instrument)
        self._texts = texts

    def offer(self, change: Change) -> None:
        self.publish({trade.key: self._texts.trade(self.key, trade) for trade in change.trades})

    def state(self) -> dict[str, Any]:
        tape = self.market_data.tape(self.key, SNAPSHOT_TRADES)
        return {"trades": [self._texts.trade(self.key, trade) for trade in tape]}

    def changed(self, changes: Mapping[object, Any]) -> dict[str, Any]:
        return {"trades": list(changes.values())}


def ticker_view(market_data: MarketData, instrument: Instrument, time: str) -> TickerView:
    """Return a market's figures as they are now."""
    figures = ticker_texts(instrument, market_data.ticker(instrument.key))
    return TickerView(market=instrument.symbol, time=time, **figures)


class TickerStream(MarketStream):
    """Figures change with every trade and cost a look at a day: they are made at most every `PACE`."""

    PACE: Final = 0.1  # seconds

    def __init__(
        self,
        name: str,
        epoch: str,
        market_data: MarketData,
        instrument: Instrument,
        later: Callable[[float, Callable[[], None]], Any],
    ) -> None:
        """`later` calls a function after a number of seconds."""
        super().__init__(name, epoch, market_data, instrument)
        self._later = later
        self._planned = False
        self._closed = False
        self._told = self._view()

    def close(self) -> None:
        self._closed = True
        super().close()

    def offer(self, change: Change) -> None:
        if not self._planned:
            self._planned = True
            self._later(self.PACE, self._look)

    def _look(self) -> None:
        self._planned = False
        if self._closed:
            return
        now, told = self._view(), self._told
        told.time = now.time
        if now != told:
            self._told = now
            self.publish({"ticker": now})

    def _view(self) -> TickerView:
        return ticker_view(self.market_data, self.instrument, self.time)

    def encode_snapshot(self, reason: Reason) -> bytes:
        return self._encode(None)

    def encode_changes(self, previous: int, changes: Mapping[object, Any]) -> bytes:
        return self._encode(previous)

    def _encode(self, previous: int | None) -> bytes:
        return encode(Ticker(previous=previous, ticker=self._told, **self.fields()))


class CandlesStream(MarketStream):
    snapshot_message, changes_message = CandlesSnapshot, Candles

    def __init__(
        self,
        name: str,
        epoch: str,
        market_data: MarketData,
        instrument: Instrument,
        timeframe: str,
    ) -> None:
        super().__init__(name, epoch, market_data, instrument)
        self._frame = timeframe
        self._candles: dict[int, Candle] = {}  # the newest, by their beginning

    async def open(self) -> None:
        await super().open()
        stored = await self.market_data.candles(self.key, self._frame, limit=SNAPSHOT_CANDLES)
        for candle in stored:  # what changed meanwhile is the same candle, further on
            self._candles.setdefault(candle.start, candle)

    def offer(self, change: Change) -> None:
        changed = {c.start: c for frame, c in change.candles if frame == self._frame}
        self._candles.update(changed)
        while len(self._candles) > CANDLES_HELD:
            del self._candles[min(self._candles)]
        self.publish({start: candle_view(self.instrument, c) for start, c in changed.items()})

    def state(self) -> dict[str, Any]:
        newest = islice(sorted(self._candles, reverse=True), SNAPSHOT_CANDLES)
        return {"candles": [candle_view(self.instrument, self._candles[at]) for at in newest]}

    def changed(self, changes: Mapping[object, Any]) -> dict[str, Any]:
        return {"candles": [changes[start] for start in sorted(changes)]}  # type: ignore[type-var]
