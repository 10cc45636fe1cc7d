"""The node's face to its API: decimal texts in and out, refusals as `ServiceError`."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal

from exchange.engine.engine import Engine
from exchange.journal.journal import Journal
from exchange.ledger.accounts import Accounts
from exchange.market.candles import LATEST, TIMEFRAMES, TradeRecord
from exchange.market.market import Market
from exchange.model.commands import HOUSE, Selection
from exchange.model.events import BUY, SELL
from exchange.model.instruments import Instrument
from exchange.model.records import Order
from exchange.orders.engine_context import Drained
from node.parts.annex import NodePart
from node.service.account_trading import AccountTrading
from node.service.committer import Committer
from node.service.market_data import MarketData, record_of
from node.service.market_steps import MarketSteps
from node.service.operator_service import OperatorService
from node.service.refusals import refusals
from node.service.trading import Span
from node.streams.stream_registry import StreamRegistry
from node.views.account_views import MAX_CANCEL_MS, MIN_CANCEL_MS, CancelAfterView
from node.views.order_mapping import OrderMapping, candle_view
from node.views.timestamps import iso
from node.views.views import (
    AmendRequest,
    BookView,
    CandleView,
    FillView,
    LevelView,
    MarketView,
    OrderRequest,
    OrderView,
    ServiceError,
    TradeView,
)

MAX_LIMIT = 1000


def _rule(value: Decimal | None) -> str | None:
    """An optional rule of a market as text."""
    return None if value is None else format(value, "f")


class TradingService:
    """Orders, books, trades and their streams. The engine is called here; `Committer` does the rest."""

    def __init__(
        self,
        engine: Engine,
        steps: MarketSteps,
        journal: Journal,
        committer: Committer,
        clock: Callable[[], float],
        market_data: MarketData,
        remembered: Mapping[str, int] | None = None,
        *,
        take_answer_wait: float = 0.0,
        parts: Sequence[NodePart] = (),
    ) -> None:
        """`remembered` is the journal's meta data; `parts` are those that annexes add."""
        self.parts = parts
        self.market_data = market_data
        self._engine = engine
        self._instruments = instruments = steps.instruments
        self._journal = journal
        self._committer = committer
        self._clock = clock
        self.trading = AccountTrading(
            engine,
            journal,
            committer,
            clock,
            remembered,
            take_answer_wait=take_answer_wait,
            tracer=next((part.order_tracer for part in parts if part.order_tracer), None),
        )
        self.texts = OrderMapping(instruments, engine.node_id, self.trading.decimals)
        self._by_key = self.texts.by_key
        self.stream_registry = StreamRegistry(
            market_data, self.texts, self.trading, asyncio.get_running_loop().call_later
        )
        self.operations = OperatorService(engine, self.texts, self.trading, committer, clock, steps)
        self.fill_count = 0  # since the start
        self.traded: Counter[str] = (
            Counter()
        )  # lots by market, of the whole network, since the start

    @property
    def accounts(self) -> Accounts:
        return self._engine.accounts

    # Orders

    async def submit(
        self, request: OrderRequest, *, account: int = HOUSE, wait_for_takes: bool = False
    ) -> OrderView:
        order = self.texts.new_order(request, account)
        wait = self.trading.take_answer_wait if wait_for_takes else 0.0
        with refusals():
            placed = await self.trading.place(order, wait=wait)
        return self.texts.order(placed[0])

    async def amend(
        self,
        order_id: str,
        request: AmendRequest,
        *,
        account: int = HOUSE,
        wait_for_takes: bool = False,
    ) -> OrderView:
        order = self._found(order_id, account)
        changes = self.texts.changes(order.market, request)
        wait = self.trading.take_answer_wait if wait_for_takes else 0.0
        with refusals():
            amended = await self.trading.amend(account, order.number, changes, wait=wait)
        return self.texts.order(amended)

    async def cancel(self, order_id: str, *, account: int = HOUSE) -> OrderView:
        number = self.texts.number(order_id)
        with refusals():
            return self.texts.order(await self.trading.cancel(account, number))

    async def cancel_many(
        self,
        *,
        account: int = HOUSE,
        market: str | None = None,
        group: int | None = None,
        client_id: str | None = None,
    ) -> list[OrderView]:
        which = Selection(
            account=account,
            market=self.texts.key(market),
            groups=None if group is None else frozenset([group]),
            client_ids=None if client_id is None else frozenset([self.texts.client_id(client_id)]),
        )
        with refusals():
            cancelled = await self.trading.cancel_many(which)
        return [self.texts.order(order) for order in cancelled]

    async def cancel_after(self, timeout_ms: int, *, account: int = HOUSE) -> CancelAfterView:
        if timeout_ms and not MIN_CANCEL_MS <= timeout_ms <= MAX_CANCEL_MS:
            raise ServiceError(
                400,
                "bad_timeout",
                f"timeout_ms is {MIN_CANCEL_MS} to {MAX_CANCEL_MS} ms, or 0 to end the switch, not {timeout_ms}",
                pointer="/timeout_ms",
            )
        at = await self.trading.cancel_after(account, timeout_ms)
        return CancelAfterView(at=None if at is None else iso(at))

    def order(self, order_id: str, *, account: int = HOUSE) -> OrderView:
        return self.texts.order(self._found(order_id, account))

    def order_by_client_id(self, client_id: str, *, account: int = HOUSE) -> OrderView:
        order = self.trading.order_by_client_id(account, self.texts.client_id(client_id))
        if order is None:
            raise ServiceError(
                404, "unknown_order", f"there is no order with the client id {client_id!r}"
            )
        return self.texts.order(order)

    def _found(self, order_id: str, account: int) -> Order:
        number = self.texts.number(order_id)
        order = self.trading.order_of(account, number)
        if order is None:
            raise ServiceError(404, "unknown_order", f"this node has no order {number}")
        return order

    async def orders(
        self,
        *,
        account: int = HOUSE,
        market: str | None = None,
        open_only: bool = True,
        span: Span | None = None,
    ) -> list[OrderView]:
        """Open orders by the time they were placed; with `open_only` off the finished ones too, all by
        the time of their last change."""
        key, span = self.texts.key(market), span or Span()
        if open_only:
            end = LATEST if span.end is None else span.end
            found = [
                order
                for order in self.trading.open_orders_of(account, key)
                if span.start <= order.time <= end
            ]
            found = (found[::-1] if span.newest_first else found)[span.skip :][: span.limit]
        else:
            found = await self.trading.all_orders(account, span, market=key)
        return [self.texts.order(order) for order in found]

    async def fills(
        self,
        *,
        account: int = HOUSE,
        market: str | None = None,
        order: str | None = None,
        span: Span | None = None,
    ) -> list[FillView]:
        fills = await self.trading.fills_of(
            account,
            span or Span(),
            market=self.texts.key(market),
            order=None if order is None else self.texts.number(order),
        )
        return [self.texts.fill(fill) for fill in fills]

    async def durable(self) -> None:
        """Wait until the disk has everything that this node shows in memory."""
        await self._committer.durable()

    def all_fills(self) -> list[FillView]:
        """Every own fill on disk, oldest first."""
        fills = self._journal.history().fills(limit=-1)
        return [self.texts.fill(fill) for fill in reversed(fills)]

    # Markets

    def trades(self, *, market: str | None = None, limit: int = 100) -> list[TradeView]:
        limit = min(limit, MAX_LIMIT)
        if market is not None:
            markets = [self._market(market)]
        else:
            markets = list(self._engine.markets.values())
        trades = [(trade, m) for m in markets for trade in m.tape]
        trades.sort(key=lambda pair: pair[0].event.time, reverse=True)
        return [self.texts.trade(m.key, record_of(trade)) for trade, m in trades[:limit]]

    async def trade_history(
        self,
        *,
        market: str | None = None,
        span: Span | None = None,
    ) -> list[TradeView]:
        span = span or Span()
        keys = list(self._by_key) if market is None else [self.texts.instrument(market).key]
        found: list[tuple[tuple[int, str, int], str, TradeRecord]] = []
        for key in keys:
            trades = await self.market_data.trades(
                key,
                start=span.start,
                end=LATEST if span.end is None else span.end,
                limit=span.limit + span.skip,
                newest_first=span.newest_first,
            )
            found += [(trade.key, key, trade) for trade in trades]
        found.sort(key=lambda row: row[0], reverse=span.newest_first)
        return [self.texts.trade(key, trade) for _, key, trade in found[span.skip :][: span.limit]]

    async def candles(
        self,
        market: str,
        timeframe: str,
        *,
        span: Span | None = None,
    ) -> list[CandleView]:
        span = span or Span()
        instrument = self.texts.instrument(market)
        if timeframe not in TIMEFRAMES:
            known = ", ".join(TIMEFRAMES)
            raise ServiceError(
                400, "bad_timeframe", f"no candles of {timeframe[:20]!r}; there are {known}"
            )
        candles = await self.market_data.candles(
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
        instrument = self._by_key[found.key]
        own: dict[tuple[int, int], int] = {}
        mine = [] if account is None else self.trading.open_orders_of(account, found.key)
        for order in mine:
            if order.price is not None and order.shown:
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
                    tick=format(instrument.tick, "f"),
                    lot=format(instrument.lot, "f"),
                    bid=price(ticker.bid),
                    bid_quantity=instrument.quantity_text(ticker.bid_quantity),
                    ask=price(ticker.ask),
                    ask_quantity=instrument.quantity_text(ticker.ask_quantity),
                    last=price(day.last),
                    change=instrument.price_text(day.change),
                    high=price(day.high),
                    low=price(day.low),
                    volume=instrument.quantity_text(day.volume),
                    min_quantity=_rule(instrument.min_quantity),
                    max_quantity=_rule(instrument.max_quantity),
                    min_notional=_rule(instrument.min_notional),
                    max_notional=_rule(instrument.max_notional),
                    price_band=_rule(instrument.price_band),
                    protection=format(instrument.protection, "f"),
                )
            )
        return views

    def publish(self, drained: Drained) -> None:
        """Publish durable changes to subscribers."""
        self.fill_count += len(drained.fills)
        for key, trade in drained.trades:
            self.traded[key] += trade.event.quantity
        self.trading.publish(drained)
        self.market_data.add(drained.levels, drained.trades)

    def _market(self, name: str) -> Market:
        return self._engine.markets[self.texts.instrument(name).key]
