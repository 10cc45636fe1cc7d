"""Market data without an engine: books that a test fills, and a history in memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from instruments_kit import COARSE

from exchange.journal.market_history import Addition
from exchange.market.candles import Candle, TradeRecord
from exchange.market.market import OwnerIndex, Trade
from exchange.market.order_book import OrderBook
from exchange.model.events import Filled
from exchange.model.instruments import Instruments
from exchange.model.records import Fill, Order
from node.service.market_data import MarketData
from node.service.trading import AccountNews, Balance, Span

ME, PEER = "m" * 32, "p" * 32
NOW = 1_767_323_045_678_000  # 2026-01-02T03:04:05.678Z


class MemoryHistory:
    """Stand-in for `exchange.journal.market_history.MarketHistory`, without a disk."""

    def __init__(self) -> None:
        self.node = ME
        self.saved_trades: dict[str, dict[Any, TradeRecord]] = {}
        self.saved_candles: dict[str, dict[tuple[str, int], Candle]] = {}
        self.saved_counts: dict[tuple[str, str], int] = {}
        self.saves = 0

    def add_markets(self, keys: list[str]) -> None:
        for key in keys:
            self.saved_trades.setdefault(key, {})
            self.saved_candles.setdefault(key, {})

    def counted(self, market: str) -> dict[str, int]:
        return {maker: n for (key, maker), n in self.saved_counts.items() if key == market}

    def candle(self, market: str, frame: str, start: int) -> Candle | None:
        found = self.saved_candles[market].get((frame, start))
        return None if found is None else found.at(start)

    def trades(
        self, market: str, *, start: int, end: int, limit: int, newest_first: bool
    ) -> list[TradeRecord]:
        found = [t for t in self.saved_trades[market].values() if start <= t.time <= end]
        return sorted(found, key=lambda t: t.key, reverse=newest_first)[:limit]

    def candles(
        self, market: str, frame: str, *, start: int, end: int, limit: int, newest_first: bool
    ) -> list[Candle]:
        found = [
            candle.at(at)
            for (name, at), candle in self.saved_candles[market].items()
            if name == frame and start <= at <= end
        ]
        return sorted(found, key=lambda c: c.start, reverse=newest_first)[:limit]

    def save(self, addition: Addition) -> None:
        self.saves += 1
        for key, trades in addition.trades.items():
            self.saved_trades[key].update((trade.key, trade) for trade in trades)
        for key, candles in addition.candles.items():
            self.saved_candles[key].update(((f, c.start), c) for f, c in candles)
        self.saved_counts.update(addition.counted)


class FakeMarket:
    """A market that shows what a test puts into its book."""

    def __init__(self) -> None:
        self.book = OrderBook()
        self.owners = OwnerIndex(ME)
        self.version = 0


class FakeMarkets:
    """Market data of a few markets, filled by hand. Prices and quantities as texts."""

    def __init__(
        self,
        instruments: Instruments | None = None,
        now: Callable[[], int] = lambda: NOW,
        over: tuple[Any, MarketData] | None = None,
    ) -> None:
        """`over`: markets of a real engine and their data."""
        self.instruments = instruments or COARSE
        self.history = MemoryHistory()
        if over is None:
            self.markets: Any = {i.key: FakeMarket() for i in self.instruments}
            self.data = MarketData(self.instruments, self.markets, self.history, now)  # type: ignore[arg-type]
        else:
            self.markets, self.data = over
        self._numbers = itertools.count(1)

    def order(
        self, symbol: str, side: int, price: str, quantity: str, *, number: int, owner: str = PEER
    ) -> int:
        """Rest an order; its key."""
        instrument = self.instruments[symbol]
        market = self.markets[instrument.key]
        key = market.owners.key(owner, number)
        ticks, lots = instrument.to_ticks(price), instrument.to_lots(quantity)
        market.book.add(key, side, ticks, lots, number, (owner, number))
        self._changed(instrument.key, side, ticks)
        return key

    def reduce(self, symbol: str, key: int, quantity: str) -> None:
        """Change the open quantity of an order; "0" removes it."""
        instrument = self.instruments[symbol]
        market = self.markets[instrument.key]
        side, ticks = market.book.side_price(key)
        market.book.set_quantity(key, 0 if quantity == "0" else instrument.to_lots(quantity))
        self._changed(instrument.key, side, ticks)

    def move(self, symbol: str, key: int, price: str, *, time: int) -> None:
        """An order goes to another price, or to the end of its own."""
        instrument = self.instruments[symbol]
        book = self.markets[instrument.key].book
        side, before = book.side_price(key)
        quantity = book.quantity(key)
        book.remove(key)
        ticks = instrument.to_ticks(price)
        owner, number = self.markets[instrument.key].owners.split(key)
        book.add(key, side, ticks, quantity, time, (owner, number))
        self._changed(instrument.key, side, before, ticks)

    def trade(
        self,
        symbol: str,
        side: int,
        price: str,
        quantity: str,
        *,
        time: int | None = None,
        maker: str = PEER,
        taker: str = ME,
    ) -> Trade:
        """Somebody's taker traded on `side`."""
        instrument = self.instruments[symbol]
        number = next(self._numbers)
        ticks, lots = instrument.to_ticks(price), instrument.to_lots(quantity)
        trade = Trade(
            maker,
            Filled(1, -side, lots, ticks, 0, 0, taker, number, time or self.data.now()),
            number,
        )
        self.data.add([], [(instrument.key, trade)])
        return trade

    def _changed(self, key: str, side: int, *ticks: int) -> None:
        self.markets[key].version += 1
        self.data.add([(key, side, price) for price in ticks], [])


class FakeTrading:
    """The part of `node.service.trading.Trading` that streams need, filled by hand."""

    def __init__(self) -> None:
        self.open: dict[int, list[Order]] = {}
        self.filled: dict[int, list[Fill]] = {}
        self.balances: dict[int, list[Balance]] = {}
        self.listeners: list[tuple[int, Callable[[AccountNews], None]]] = []

    def listen(self, account: int, call: Callable[[AccountNews], None]) -> Callable[[], None]:
        self.listeners.append((account, call))
        return lambda: self.listeners.remove((account, call))

    def tell(
        self,
        account: int,
        *,
        orders: Sequence[Order] = (),
        fills: Sequence[Fill] = (),
        balances: Sequence[Balance] = (),
    ) -> None:
        """This became durable."""
        self.filled.setdefault(account, []).extend(fills)
        for listener, call in list(self.listeners):
            if listener == account:
                call(AccountNews(orders, fills, balances))

    async def durable(self, account: int | None = None) -> None:
        pass

    def open_orders_of(self, account: int, market: str | None = None) -> list[Order]:
        return self.open.get(account, [])

    async def fills_of(
        self, account: int, span: Span, *, market: str | None = None, order: int | None = None
    ) -> list[Fill]:
        return self.filled.get(account, [])[::-1][: span.limit]

    def balances_of(self, account: int) -> list[Balance]:
        return self.balances.get(account, [])

    def decimals(self, asset: str) -> int:
        return 8
