"""Channels of the Bitfinex WebSocket: each turns changes of a market into updates for its reader.

A channel keeps the state that its reader has received, not a queue of changes, so a slow reader
gets the latest state in its next message. Only trades are queued, and a reader that leaves too many
is cut.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from exchange.market.candles import Candle, Timeframe, TradeRecord
from node.annexes.bitfinex import public_arrays
from node.annexes.bitfinex.bitfinex_books import Books, View, check_length, check_precision
from node.annexes.bitfinex.errors import (
    BAD_PARAMETER,
    SUBSCRIBE_FAILED,
    UNKNOWN_CHANNEL,
    BitfinexError,
)
from node.annexes.bitfinex.limits import (
    BOOK_DEFAULT,
    PACE,
    PACE_FIGURES,
    PACE_SLOW,
    SNAPSHOT_CANDLES,
    SNAPSHOT_TRADES,
    TRADES_WAITING,
)
from node.annexes.bitfinex.public_rest import candle_key
from node.annexes.bitfinex.symbols import Pair, Symbols
from node.service.market_data import Change, MarketData
from node.streams.stream import ReaderTooSlow

CHECKSUMS: Final = 131_072
BULK: Final = 536_870_912


class ChannelStream:
    """Messages of one channel to one connection. `wake` is called when there is something to write."""

    pace = PACE  # seconds between two messages

    def __init__(self, wake: Callable[[], None]) -> None:
        self.due = 0.0  # not before this time, monotonic seconds
        self.ready = True  # whether there may be something to write; at first the snapshot
        self._wake = wake

    @property
    def identity(self) -> tuple[object, ...]:
        """The same for two subscriptions to one thing."""
        raise NotImplementedError

    def write(self, flags: int) -> list[str]:
        """Messages without their channel id, as JSON text: `[...]`, or `"te",[...]`."""
        raise NotImplementedError

    def numbers(self, body: str, public: Callable[[], int]) -> str:
        """Sequence numbers to append to such a message; `public` counts it in the connection's."""
        return f",{public()}"

    def close(self) -> None:
        """Listen no longer."""
        raise NotImplementedError

    def mark(self) -> None:
        if not self.ready:
            self.ready = True
            self._wake()


class Channel(ChannelStream):
    """A subscription to a market."""

    name = ""

    def __init__(self, market_data: MarketData, pair: Pair, wake: Callable[[], None]) -> None:
        super().__init__(wake)
        self.market_data = market_data
        self.pair = pair

    @property
    def identity(self) -> tuple[object, ...]:
        return self.name, self.pair.symbol

    def echo(self) -> dict[str, Any]:
        """Fields of `subscribed` beyond those that the client sent."""
        return {"symbol": self.pair.symbol, "pair": self.pair.name}

    async def open(self) -> None:
        """Begin to listen. The snapshot shows the present state, or the state at the first `write`."""
        self.market_data.listen(self.pair.key, self.offer)

    def close(self) -> None:
        self.market_data.unlisten(self.pair.key, self.offer)

    def offer(self, change: Change) -> None:
        """Something happened in the market."""
        raise NotImplementedError


class TickerChannel(Channel):
    """The snapshot waits for a first order or trade: clients take every ticker to have prices."""

    name = "ticker"
    pace = PACE_FIGURES

    def __init__(self, market_data: MarketData, pair: Pair, wake: Callable[[], None]) -> None:
        super().__init__(market_data, pair, wake)
        self._told = ""

    def offer(self, change: Change) -> None:
        self.mark()

    def write(self, flags: int) -> list[str]:
        if not public_arrays.quoted(self.pair, self.market_data):
            return []
        text = public_arrays.ticker(self.pair, self.market_data)
        if text == self._told:
            return []
        self._told = text
        return [text]


class TradesChannel(Channel):
    name = "trades"

    def __init__(self, market_data: MarketData, pair: Pair, wake: Callable[[], None]) -> None:
        super().__init__(market_data, pair, wake)
        self._waiting: deque[TradeRecord] | None = None  # None: the snapshot is still to be written

    def offer(self, change: Change) -> None:
        if change.trades and self._waiting is not None:
            self._waiting.extend(change.trades)
            self.mark()

    def write(self, flags: int) -> list[str]:
        """
        Raises: TooSlow: the reader is too far behind in trades.
        """
        if self._waiting is None:
            self._waiting = deque()
            newest = self.market_data.tape(self.pair.key, SNAPSHOT_TRADES)
            return [
                public_arrays.array(public_arrays.trade(self.pair, record) for record in newest)
            ]
        if len(self._waiting) > TRADES_WAITING:
            raise ReaderTooSlow
        texts = []
        while self._waiting:
            text = public_arrays.trade(self.pair, self._waiting.popleft())
            texts += [f'"te",{text}', f'"tu",{text}']
        return texts


class BookChannel(Channel):
    name = "book"

    def __init__(
        self,
        market_data: MarketData,
        pair: Pair,
        wake: Callable[[], None],
        books: Books,
        request: dict[str, Any],
    ) -> None:
        super().__init__(market_data, pair, wake)
        self._books = books
        self._precision = check_precision(request.get("prec", "P0"))
        self._frequency = request.get("freq", "F0")
        if self._frequency not in ("F0", "F1"):
            raise BitfinexError(BAD_PARAMETER, "freq: invalid")
        self._length = check_length(request.get("len", BOOK_DEFAULT))
        self.pace = PACE if self._frequency == "F0" else PACE_SLOW
        self._told: View | None = None

    @property
    def identity(self) -> tuple[object, ...]:
        return *super().identity, self._precision, self._frequency, self._length

    def echo(self) -> dict[str, Any]:
        return {
            **super().echo(),
            "prec": self._precision,
            "freq": self._frequency,
            "len": str(self._length),
        }

    def offer(self, change: Change) -> None:
        if change.book:
            self.mark()

    def write(self, flags: int) -> list[str]:
        view = self._books.view(self.pair, self._precision, self._length)
        if self._told is None:
            texts = [view.snapshot]
        else:
            texts = view.since(self._told)
            if flags & BULK and texts:
                texts = [public_arrays.array(texts)]
        self._told = view
        if texts and flags & CHECKSUMS:
            texts.append(f'"cs",{view.checksum}')
        return texts


class CandlesChannel(Channel):
    """The snapshot waits for the first candle: clients take an empty one for a candle of nothing."""

    name = "candles"
    pace = PACE_FIGURES

    def __init__(
        self,
        market_data: MarketData,
        pair: Pair,
        wake: Callable[[], None],
        frame: Timeframe,
        key: str,
    ) -> None:
        super().__init__(market_data, pair, wake)
        self._frame = frame
        self._key = key
        self._begun = False
        self._waiting: dict[int, Candle] = {}

    @property
    def identity(self) -> tuple[object, ...]:
        return *super().identity, self._frame.name

    def echo(self) -> dict[str, Any]:
        return {"key": self._key}

    async def open(self) -> None:
        await super().open()
        stored = await self.market_data.candles(
            self.pair.key, self._frame.name, limit=SNAPSHOT_CANDLES
        )
        # What changed meanwhile is the same candle, further on.
        self._waiting = {candle.start: candle for candle in stored} | self._waiting

    def offer(self, change: Change) -> None:
        for frame, candle in change.candles:
            if frame == self._frame.name:
                self._waiting[candle.start] = candle
                if len(self._waiting) > 2 * SNAPSHOT_CANDLES:
                    del self._waiting[min(self._waiting)]
                self.mark()

    def write(self, flags: int) -> list[str]:
        candles: Sequence[Candle] = [self._waiting[at] for at in sorted(self._waiting)]
        self._waiting = {}
        texts = [public_arrays.candle(self.pair, candle) for candle in candles]
        if self._begun or not texts:
            return texts
        self._begun = True
        return [public_arrays.array(texts[::-1])]


class Channels:
    """Public channels of a node."""

    def __init__(self, market_data: MarketData, symbols: Symbols, books: Books) -> None:
        self._market_data = market_data
        self._symbols = symbols
        self._books = books

    def make(self, request: dict[str, Any], wake: Callable[[], None]) -> Channel:
        """Return the channel that a `subscribe` asks for.

        Raises:
            BitfinexError: there is no such thing.
        """
        try:
            return self._made(request, wake)
        except BitfinexError as error:
            if error.code == BAD_PARAMETER:  # of the same name, with the number that it has here
                raise BitfinexError(SUBSCRIBE_FAILED, error.text) from None
            raise

    def _made(self, request: dict[str, Any], wake: Callable[[], None]) -> Channel:
        kind, market_data = request.get("channel"), self._market_data
        if kind == "candles":
            frame, pair = candle_key(request.get("key"), self._symbols)
            return CandlesChannel(market_data, pair, wake, frame, request["key"])
        if kind not in ("ticker", "trades", "book"):
            raise BitfinexError(UNKNOWN_CHANNEL, "channel: unknown")
        symbol = request.get("symbol")
        if symbol is None and isinstance(request.get("pair"), str):
            symbol = f"t{request['pair'].removeprefix('t')}"
        pair = self._symbols[symbol]
        if kind == "ticker":
            return TickerChannel(market_data, pair, wake)
        if kind == "trades":
            return TradesChannel(market_data, pair, wake)
        return BookChannel(market_data, pair, wake, self._books, request)
