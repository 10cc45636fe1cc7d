"""Books, trades and candles in texts, for the API and for other nodes."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from exchange.engine.engine import Engine
from exchange.market.candles import LATEST, TIMEFRAMES, TradeRecord
from exchange.market.market import Market
from exchange.model.commands import HOUSE
from exchange.model.events import BUY, SELL
from exchange.model.instruments import Instrument
from node.service.market_data import MarketData, MarketTicker
from node.service.trading import Span
from node.views.order_mapping import OrderMapping, candle_view
from node.views.timestamps import iso
from node.views.views import (
    BookView,
    CandleView,
    LevelView,
    MarketView,
    ServiceError,
    TradeView,
)


class MarketService:
    """See the module's docstring. `clock` is the engine's: monotonic seconds."""

    def __init__(
        self, engine: Engine, texts: OrderMapping, data: MarketData, clock: Callable[[], float]
    ) -> None:
        self._engine = engine
        self._texts = texts
        self._data = data
        self._clock = clock

    def tape(self, *, market: str | None = None, limit: int = 100) -> list[TradeView]:
        """Trades in memory, the newest first."""
        keys = list(self._texts.by_key) if market is None else [self._texts.instrument(market).key]
        trades = [(trade, key) for key in keys for trade in self._data.tape(key, limit)]
        trades.sort(key=lambda pair: pair[0].time, reverse=True)
        return [self._texts.trade(key, trade) for trade, key in trades[:limit]]

    async def trades(
        self,
        *,
        market: str | None = None,
        span: Span | None = None,
    ) -> list[TradeView]:
        """Public trades of the network seen by this node; without `span` the newest 100."""
        span = span or Span()
        keys = list(self._texts.by_key) if market is None else [self._texts.instrument(market).key]
        found: list[tuple[tuple[int, str, int], str, TradeRecord]] = []
        for key in keys:
            trades = await self._data.trades(
                key,
                start=span.start,
                end=LATEST if span.end is None else span.end,
                limit=span.limit + span.skip,
                newest_first=span.newest_first,
            )
            found += [(trade.key, key, trade) for trade in trades]
        found.sort(key=lambda row: row[0], reverse=span.newest_first)
        return [self._texts.trade(key, trade) for _, key, trade in found[span.skip :][: span.limit]]

    async def candles(
        self,
        market: str,
        timeframe: str,
        *,
        span: Span | None = None,
    ) -> list[CandleView]:
        """Candles that begin in a span; without it the newest 100."""
        span = span or Span()
        instrument = self._texts.instrument(market)
        if timeframe not in TIMEFRAMES:
            known = ", ".join(TIMEFRAMES)
            raise ServiceError(
                400, "bad_timeframe", f"no candles of {timeframe[:20]!r}; there are {known}"
            )
        candles = await self._data.candles(
            instrument.key,
            timeframe,
            start=span.start,
            end=LATEST if span.end is None else span.end,
            limit=span.limit,
            newest_first=span.newest_first,
        )
        return [candle_view(instrument, candle) for candle in candles]

    def book(self, market: str, *, depth: int = 25, account: int | None = HOUSE) -> BookView:
        """`own`: quantities of the account's orders."""
        found = self._market(market)
        instrument = self._texts.by_key[found.key]
        own: dict[tuple[int, int], int] = {}
        mine = [] if account is None else self._engine.order_store.of_account(account)
        for order in mine:
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

    def views(self) -> list[MarketView]:
        views = []
        for key, instrument in self._texts.by_key.items():
            views.append(
                MarketView(
                    symbol=instrument.symbol,
                    base=instrument.base,
                    quote=instrument.quote,
                    tick=format(instrument.tick, "f"),
                    lot=format(instrument.lot, "f"),
                    min_quantity=_rule(instrument.min_quantity),
                    max_quantity=_rule(instrument.max_quantity),
                    min_notional=_rule(instrument.min_notional),
                    max_notional=_rule(instrument.max_notional),
                    price_band=_rule(instrument.price_band),
                    protection=format(instrument.protection, "f"),
                    **ticker_texts(instrument, self._data.ticker(key)),
                )
            )
        return views

    def _market(self, name: str) -> Market:
        return self._engine.markets[self._texts.instrument(name).key]


def ticker_texts(instrument: Instrument, ticker: MarketTicker) -> dict[str, Any]:
    """Return best prices and figures of the last 24 hours as fields of a view."""
    day = ticker.day

    def price(ticks: int | None) -> str | None:
        return None if ticks is None else instrument.price_text(ticks)

    return {
        "bid": price(ticker.bid),
        "bid_quantity": instrument.quantity_text(ticker.bid_quantity),
        "ask": price(ticker.ask),
        "ask_quantity": instrument.quantity_text(ticker.ask_quantity),
        "last": price(day.last),
        "change": instrument.price_text(day.change),
        "high": price(day.high),
        "low": price(day.low),
        "volume": instrument.quantity_text(day.volume),
    }


def _rule(value: Decimal | None) -> str | None:
    """An optional rule of a market as text."""
    return None if value is None else format(value, "f")
