"""The node's face to its API: decimal texts in and out, refusals as `ServiceError`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Literal

from exchange.candles import LATEST, TIMEFRAMES, Candle, TradeRecord
from exchange.core import Drained, Refused
from exchange.engine import Engine
from exchange.instruments import Instrument, Instruments, UnknownInstrument
from exchange.journal import Journal
from exchange.market import Market
from exchange.records import Fill, Order
from node.committer import Committer
from node.hub import Hub
from node.market_data import MarketData, record_of
from node.views import (
    BookReset,
    BookView,
    CandleView,
    FillView,
    LevelChange,
    LevelView,
    MarketView,
    OrderEvent,
    OrderRequest,
    OrderView,
    ServiceError,
    Side,
    Status,
    StreamEvent,
    TradeEvent,
    TradeView,
)

BUY, SELL = 1, -1
MAX_LIMIT = 1000
MAX_LEVELS = 1_000_000_000  # a stream's snapshot is the whole book
MAX_CLIENT_ID = 64  # characters

_STATUS_OF = {
    "unknown_order": 404,
    "unknown_market": 404,
    "client_id_reused": 409,
    "order_done": 409,
    "stale_data": 503,
}


def iso(us: int) -> str:
    """Microseconds since the epoch as ISO 8601 in UTC with milliseconds; no later than year 9999."""
    us = min(us, LATEST)  # others sign what they like
    time = datetime.fromtimestamp(us // 1_000_000, UTC)
    return f"{time:%Y-%m-%dT%H:%M:%S}.{us // 1000 % 1000:03d}Z"


def side_word(side: int) -> Side:
    return "buy" if side == BUY else "sell"


class TradingService:
    """Orders, books, trades and their streams. The engine is called here; `Committer` does the rest."""

    def __init__(
        self,
        engine: Engine,
        instruments: Instruments,
        journal: Journal,
        committer: Committer,
        clock: Callable[[], float],
        market_data: MarketData,
    ) -> None:
        self.market_data = market_data
        self._engine = engine
        self._instruments = instruments
        self._by_key = {instrument.key: instrument for instrument in instruments}
        self._journal = journal
        self._committer = committer
        self._clock = clock
        self._writing = asyncio.Event()
        engine.when_writing(self._writing.set)
        self.hub = Hub()
        self.fill_count = 0  # since the start
        self.order_count = 0

    # Orders

    async def submit(self, request: OrderRequest) -> OrderView:
        instrument = self._instrument(request.market)
        if request.side not in ("buy", "sell"):
            raise ServiceError(400, "bad_side", "side is buy or sell")
        if request.client_id is not None and not (
            0 < len(request.client_id) <= MAX_CLIENT_ID and request.client_id.isprintable()
        ):
            raise ServiceError(
                400, "bad_client_id", f"a client id has 1 to {MAX_CLIENT_ID} printable characters"
            )
        try:
            quantity = instrument.to_lots(request.quantity)
            price = None if request.price is None else instrument.to_ticks(request.price)
        except (ValueError, TypeError) as error:
            raise ServiceError(400, "bad_number", str(error)) from error
        side = BUY if request.side == "buy" else SELL
        if request.client_id is not None and self._engine.by_client_id(request.client_id) is None:
            earlier = self._journal.by_client_id(request.client_id)
            if earlier is not None:
                same = (earlier.market, earlier.side, earlier.price, earlier.quantity)
                if same != (instrument.key, side, price, quantity):
                    raise ServiceError(
                        409,
                        "client_id_reused",
                        f"client id {request.client_id!r} belongs to order {earlier.number}, "
                        "which is different",
                    )
                return self._order_view(earlier)
        await self._writing.wait()  # some seconds at most after a restart: exchange.listening
        try:
            order = self._engine.submit(
                self._clock(), instrument.key, side, price, quantity, request.client_id
            )
        except Refused as refused:
            raise _service_error(refused) from refused
        self.order_count += 1
        await self._committer.durable()
        return self._order_view(order)

    async def cancel(self, order_id: str) -> OrderView:
        number = self._number(order_id)
        await self._writing.wait()
        try:
            order = self._engine.cancel(self._clock(), number)
        except Refused as refused:
            if refused.code == "unknown_order":
                stored = self._journal.order(number)
                if stored is not None:
                    raise ServiceError(
                        409, "order_done", f"order {number} is already {_end_of(stored)}"
                    ) from refused
            raise _service_error(refused) from refused
        await self._committer.durable()
        return self._order_view(order)

    def order(self, order_id: str) -> OrderView:
        number = self._number(order_id)
        order = self._engine.order(number) or self._journal.order(number)
        if order is None:
            raise ServiceError(404, "unknown_order", f"this node has no order {number}")
        return self._order_view(order)

    def orders(
        self, *, market: str | None = None, open_only: bool = True, limit: int = 100
    ) -> list[OrderView]:
        key = None if market is None else self._instrument(market).key
        limit = min(limit, MAX_LIMIT)
        if not open_only:
            stored = self._journal.orders(market=key, limit=limit)
            # What the engine holds is ahead of the disk by at most the commit under way.
            found = [self._engine.order(order.number) or order for order in stored]
        else:
            found = [o for o in self._engine.open_orders if key is None or o.market == key]
            found = found[::-1][:limit]
        return [self._order_view(order) for order in found if order.market in self._by_key]

    def fills(self, *, market: str | None = None, limit: int = 100) -> list[FillView]:
        key = None if market is None else self._instrument(market).key
        fills = self._journal.fills(market=key, limit=min(limit, MAX_LIMIT))
        return [self._fill_view(fill) for fill in fills if fill.market in self._by_key]

    async def durable(self) -> None:
        """Wait until the disk has everything that this node shows in memory."""
        await self._committer.durable()

    def all_fills(self) -> list[FillView]:
        """Every own fill on disk, oldest first."""
        fills = self._journal.fills(market=None, limit=-1)
        return [self._fill_view(fill) for fill in reversed(fills) if fill.market in self._by_key]

    # Markets

    def trades(self, *, market: str | None = None, limit: int = 100) -> list[TradeView]:
        limit = min(limit, MAX_LIMIT)
        if market is not None:
            markets = [self._market(market)]
        else:
            markets = list(self._engine.markets.values())
        trades = [(trade, m) for m in markets for trade in m.tape]
        trades.sort(key=lambda pair: pair[0].event.time, reverse=True)
        return [self._trade_view(m.key, record_of(trade)) for trade, m in trades[:limit]]

    async def trade_history(
        self,
        *,
        market: str | None = None,
        start: int | None = None,
        end: int | None = None,
        limit: int = 100,
        newest_first: bool = True,
    ) -> list[TradeView]:
        keys = list(self._by_key) if market is None else [self._instrument(market).key]
        found: list[tuple[tuple[int, str, int], str, TradeRecord]] = []
        for key in keys:
            trades = await self.market_data.trades(
                key,
                start=start or 0,
                end=LATEST if end is None else end,
                limit=min(limit, MAX_LIMIT),
                newest_first=newest_first,
            )
            found += [(trade.key, key, trade) for trade in trades]
        found.sort(key=lambda row: row[0], reverse=newest_first)
        return [self._trade_view(key, trade) for _, key, trade in found[:limit]]

    async def candles(
        self,
        market: str,
        timeframe: str,
        *,
        start: int | None = None,
        end: int | None = None,
        limit: int = 100,
        newest_first: bool = True,
    ) -> list[CandleView]:
        instrument = self._instrument(market)
        if timeframe not in TIMEFRAMES:
            known = ", ".join(TIMEFRAMES)
            raise ServiceError(
                400, "bad_timeframe", f"no candles of {timeframe[:20]!r}; there are {known}"
            )
        candles = await self.market_data.candles(
            instrument.key,
            timeframe,
            start=start or 0,
            end=LATEST if end is None else end,
            limit=min(limit, MAX_LIMIT),
            newest_first=newest_first,
        )
        return [_candle_view(instrument, candle) for candle in candles]

    def book(self, market: str, *, depth: int = 25) -> BookView:
        found = self._market(market)
        instrument = self._by_key[found.key]
        own: dict[tuple[int, int], int] = {}
        for order in self._engine.open_orders:
            if order.market == found.key and order.price is not None and order.shown:
                at = (order.side, order.price)
                own[at] = own.get(at, 0) + order.shown

        def levels(side: int) -> list[LevelView]:
            return [
                LevelView(
                    price=instrument.price_text(price),
                    quantity=instrument.quantity_text(quantity),
                    orders=orders,
                    own=instrument.quantity_text(own.get((side, price), 0)),
                )
                for price, quantity, orders in found.book.levels(side, depth)
            ]

        return BookView(
            market=instrument.symbol,
            sequence=found.version,
            digest=found.digest(),
            bids=levels(BUY),
            asks=levels(SELL),
            time=iso(self._engine.us(self._clock())),
        )

    def markets(self) -> list[MarketView]:
        views = []
        for key, instrument in self._by_key.items():
            ticker = self.market_data.ticker(key)
            day = ticker.day

            def price(ticks: int | None, instrument: Instrument = instrument) -> str | None:
                return None if ticks is None else instrument.price_text(ticks)

            views.append(
                MarketView(
                    symbol=instrument.symbol,
                    base=instrument.base,
                    quote=instrument.quote,
                    tick=str(instrument.tick),
                    lot=str(instrument.lot),
                    bid=price(ticker.bid),
                    bid_quantity=instrument.quantity_text(ticker.bid_quantity),
                    ask=price(ticker.ask),
                    ask_quantity=instrument.quantity_text(ticker.ask_quantity),
                    last=price(day.last),
                    change=instrument.price_text(day.change),
                    high=price(day.high),
                    low=price(day.low),
                    volume=instrument.quantity_text(day.volume),
                )
            )
        return views

    def subscribe(self, market: str) -> AsyncIterator[StreamEvent]:
        symbol = self._instrument(market).symbol
        return self.hub.subscribe(
            symbol, lambda: BookReset(market=symbol, book=self.book(symbol, depth=MAX_LEVELS))
        )

    def publish(self, drained: Drained) -> None:
        """Tell subscribers what became durable."""
        self.fill_count += len(drained.fills)
        self.market_data.add(drained.levels, drained.trades)
        for key, side, price in drained.levels:
            instrument = self._by_key[key]
            if not self.hub.wanted(instrument.symbol):
                continue
            market = self._engine.markets[key]
            _, quantity, orders = market.book.level(side, price)
            self.hub.publish(
                instrument.symbol,
                LevelChange(
                    market=instrument.symbol,
                    sequence=market.version,
                    side=side_word(side),
                    price=instrument.price_text(price),
                    quantity=instrument.quantity_text(quantity),
                    orders=orders,
                ),
            )
        for key, trade in drained.trades:
            symbol = self._by_key[key].symbol
            if self.hub.wanted(symbol):
                view = self._trade_view(key, record_of(trade))
                self.hub.publish(symbol, TradeEvent(market=symbol, trade=view))
        for order in drained.orders:
            symbol = self._by_key[order.market].symbol
            if self.hub.wanted(symbol):
                self.hub.publish(symbol, OrderEvent(market=symbol, order=self._order_view(order)))

    # Between texts and integers

    def _instrument(self, name: str) -> Instrument:
        try:
            return self._instruments[name]
        except UnknownInstrument as error:
            raise ServiceError(404, "unknown_market", str(error)) from error

    def _market(self, name: str) -> Market:
        return self._engine.markets[self._instrument(name).key]

    def _number(self, order_id: str) -> int:
        node, dash, number = order_id.rpartition("-")
        if dash and node != self._engine.node_id:
            raise ServiceError(
                404,
                "unknown_order",
                f"order {order_id} belongs to node {node[:40]}, not to this one",
            )
        if not (number.isascii() and number.isdigit()) or len(number) > 12:
            raise ServiceError(
                400, "bad_order_id", f"{order_id[:60]!r} is no order id; see 'exchange-node orders'"
            )
        return int(number)

    def _order_view(self, order: Order) -> OrderView:
        instrument = self._by_key[order.market]
        lots = instrument.quantity_text
        status: Status = "pending" if order.pending and not order.shown else "open"
        if order.done:
            status = _end_of(order)
        average = None
        if order.filled:
            average = instrument.average_price_text(order.value, order.filled)
        return OrderView(
            id=f"{self._engine.node_id}-{order.number}",
            number=order.number,
            market=instrument.symbol,
            side=side_word(order.side),
            type="market" if order.price is None else "limit",
            price=None if order.price is None else instrument.price_text(order.price),
            quantity=lots(order.quantity),
            filled=lots(order.filled),
            remaining=lots(order.free),
            pending=lots(order.pending),
            status=status,
            average_price=average,
            created=iso(order.time),
            client_id=order.client_id,
        )

    def _fill_view(self, fill: Fill) -> FillView:
        instrument = self._by_key[fill.market]
        return FillView(
            id=f"{fill.taker}:{fill.take}",
            market=instrument.symbol,
            order_id=f"{self._engine.node_id}-{fill.order}",
            role="maker" if fill.role == "maker" else "taker",
            side=side_word(fill.side),
            price=instrument.price_text(fill.price),
            quantity=instrument.quantity_text(fill.quantity),
            time=iso(fill.time),
            counterparty=fill.counterparty,
            counterparty_order_id=f"{fill.counterparty}-{fill.counterparty_order}",
        )

    def _trade_view(self, key: str, trade: TradeRecord) -> TradeView:
        instrument = self._by_key[key]
        return TradeView(
            id=f"{trade.taker}:{trade.take}",
            market=instrument.symbol,
            side=side_word(trade.side),
            price=instrument.price_text(trade.price),
            quantity=instrument.quantity_text(trade.quantity),
            time=iso(trade.time),
            maker=trade.maker,
            taker=trade.taker,
        )


def _candle_view(instrument: Instrument, candle: Candle) -> CandleView:
    return CandleView(
        time=iso(candle.start),
        open=instrument.price_text(candle.open),
        high=instrument.price_text(candle.high),
        low=instrument.price_text(candle.low),
        close=instrument.price_text(candle.close),
        volume=instrument.quantity_text(candle.volume),
        trades=candle.trades,
    )


def _end_of(order: Order) -> Literal["filled", "cancelled"]:
    return "filled" if order.filled == order.quantity else "cancelled"


def _service_error(refused: Refused) -> ServiceError:
    return ServiceError(_STATUS_OF.get(refused.code, 422), refused.code, refused.detail)
