"""Stream registry: streams are made on first use, shared, and kept for a time after the last reader left.

A reader that comes back in that time resumes.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakValueDictionary

from msgspec import UNSET

from exchange.market.candles import TIMEFRAMES
from exchange.model.instruments import Instrument
from node.service.market_data import MarketData
from node.service.trading import Trading
from node.streams.account_streams import BalancesStream, FillsStream, OrdersStream
from node.streams.book_views import BookTooLarge, OwnBook
from node.streams.market_streams import (
    TOO_LARGE,
    BookL1Stream,
    BookL2Stream,
    BookL3Stream,
    CandlesStream,
    TickerStream,
    TradesStream,
)
from node.streams.node_streams import NodeViews, node_stream
from node.streams.stream import NumberedStream, StreamFigures, channel_of
from node.streams.stream_messages import FIELDS, NODE, PRIVATE, Subscribe
from node.views.order_mapping import OrderMapping
from node.views.views import ServiceError

LINGER: Final = 60.0  # seconds that a stream without readers goes on
_BOOKS: Final = {"L1": BookL1Stream, "L2": BookL2Stream, "L3": BookL3Stream}
_ACCOUNTS: Final = {"orders": OrdersStream, "fills": FillsStream, "balances": BalancesStream}

Later = Callable[[float, Callable[[], None]], Any]
_Make = Callable[[str], NumberedStream]  # with its epoch


class StreamRegistry:
    """See the module's docstring. Times are monotonic seconds."""

    def __init__(
        self, market_data: MarketData, texts: OrderMapping, trading: Trading, later: Later
    ) -> None:
        """`later` calls a function after a number of seconds."""
        self._market_data = market_data
        self._texts = texts
        self._trading = trading
        self._later = later
        self._node: NodeViews | None = None
        self._life = secrets.token_hex(4)
        self._made = 0
        self.figures = StreamFigures()
        self._streams: dict[tuple[str, int | None], NumberedStream] = {}
        self._opening = asyncio.Lock()  # so that one stream is not opened twice
        # Held by the streams that keep it up to date, and gone with the last of them.
        self._own: WeakValueDictionary[str, OwnBook] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._streams)

    def serve_node(self, views: NodeViews) -> None:
        """Serve the channels about the node itself too."""
        self._node = views

    async def find(self, request: Subscribe, account: int | None) -> NumberedStream:
        """The stream that a subscription asks for. `account` is whose orders, fills and balances.

        Raises:
            ServiceError: there is no such stream, or its account is unknown.
        """
        name, make = self._plan(request, account)
        at = name, account if request.channel in PRIVATE else None
        async with self._opening:
            stream = self._streams.get(at)
            if stream is None or stream.ended:
                self._made += 1
                stream = make(f"{self._life}-{self._made}")
                stream.figures = self.figures
                try:
                    await stream.open()
                except BookTooLarge:
                    raise ServiceError(409, *TOO_LARGE) from None
                except BaseException:
                    stream.close()
                    raise
                self._streams[at] = stream
            stream.idle_since = None
            return stream

    def readers(self) -> Counter[str]:
        """Return the number of readers by channel."""
        found: Counter[str] = Counter()
        for stream in self._streams.values():
            found[channel_of(stream.name)] += len(stream.readers)
        return found

    def sweep(self, now: float) -> None:
        """Let go of streams that had no reader for a while. Call now and then."""
        for at, stream in list(self._streams.items()):
            if stream.readers:
                stream.idle_since = None
            elif stream.idle_since is None and not stream.ended:
                stream.idle_since = now
            elif stream.ended or now - (stream.idle_since or now) >= LINGER:
                stream.close()
                del self._streams[at]

    def close(self) -> None:
        """Follow nothing any more."""
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()

    # Parsing of subscriptions

    def _plan(self, request: Subscribe, account: int | None) -> tuple[str, _Make]:
        channel = request.channel
        for field in ("market", "level", "depth", "scope", "timeframe", "account"):
            if getattr(request, field) is not UNSET and field not in FIELDS[channel]:
                detail = f"{field} means nothing for the channel {channel}; leave it out"
                raise ServiceError(400, "invalid_message", detail)
        if channel in PRIVATE:
            name = channel if request.account is UNSET else f"{channel}/{account}"
            return name, self._private(channel, name, account)
        views = self._node
        if channel in NODE or channel == "halts":
            if views is None:
                raise ServiceError(404, "no_channel", f"unknown channel {channel}")
            return channel, lambda epoch: node_stream(channel, epoch, views, self._later)
        if request.market is UNSET:
            detail = f'missing market: send {{"op":"subscribe","channel":"{channel}","market":...}}'
            raise ServiceError(400, "invalid_message", detail)
        instrument = self._texts.instrument(request.market)
        if channel == "book":
            return self._book(request, instrument)
        data, texts, symbol = self._market_data, self._texts, instrument.symbol
        if channel == "trades":
            name = f"trades/{symbol}"
            return name, lambda epoch: TradesStream(name, epoch, data, instrument, texts)
        if channel == "ticker":
            name = f"ticker/{symbol}"
            return name, lambda epoch: TickerStream(name, epoch, data, instrument, self._later)
        frame = "1m" if request.timeframe is UNSET else request.timeframe
        if frame not in TIMEFRAMES:
            known = ", ".join(TIMEFRAMES)
            raise ServiceError(
                400, "bad_timeframe", f"no candles of {frame[:20]!r}; there are {known}"
            )
        name = f"candles/{symbol}/{frame}"
        return name, lambda epoch: CandlesStream(name, epoch, data, instrument, frame)

    def _book(self, request: Subscribe, instrument: Instrument) -> tuple[str, _Make]:
        level = "L2" if request.level is UNSET else request.level
        scope = "network" if request.scope is UNSET else request.scope
        depth = 25 if request.depth is UNSET else request.depth
        name = f"book/{instrument.symbol}/{level}/{depth}/{scope}"
        if level == "L1":
            if request.depth is not UNSET:
                detail = "an L1 book has no depth; leave it out, or ask for level L2 or L3"
                raise ServiceError(400, "invalid_message", detail)
            name = f"book/{instrument.symbol}/L1/{scope}"

        def make(epoch: str) -> NumberedStream:
            own = self._own_book(instrument) if scope == "own" else None
            most = None if depth == "full" else depth
            return _BOOKS[level](name, epoch, self._market_data, instrument, own, most)

        return name, make

    def _own_book(self, instrument: Instrument) -> OwnBook:
        own = self._own.get(instrument.symbol)
        if own is None:
            own = OwnBook(self._market_data.shown(instrument.key))
            self._own[instrument.symbol] = own
        return own

    def _private(self, channel: str, name: str, account: int | None) -> _Make:
        if account is None:
            raise ServiceError(
                401,
                "key_required",
                f"the channel {channel} is an account's: connect with the header Authorization: "
                'Bearer KEY:SECRET, or send {"op":"auth","key":...,"secret":...} first',
            )
        texts, trading = self._texts, self._trading
        return lambda epoch: _ACCOUNTS[channel](name, epoch, trading, texts, account)
