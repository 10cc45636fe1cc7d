"""Programs written for Bitfinex read a node's markets: unmodified from PyPI, one URL changed.

Two linked nodes in processes of their own; orders and trades come through the native API on both.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import ccxt
import ccxt.async_support
import ccxt.pro
import pytest
from bfxapi import Client
from bfxapi.rest.exceptions import RequestParameterError
from bitfinex_world import BFX, IGNORED, SYMBOL, checked_book, pointed_at
from processes import NodeProcess, Nodes, eventually, same_books, show_logs

from node.client.exchange_client import ApiError, ExchangeClient
from node.views.views import OrderRequest

MARKET = "BTC-USD"
STORM = 4.0  # seconds
pytestmark = [*IGNORED]


@pytest.fixture(scope="module")
def pair(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[tuple[NodeProcess, NodeProcess]]:
    """Two linked nodes with a small market, the same on both."""
    nodes = Nodes(tmp_path_factory.mktemp("nodes"))
    try:
        a, b = nodes.pair()
        for level in range(30):
            a.sell("0.1", 30_001 + level, market=MARKET)
            b.buy("0.2", 29_999 - level, market=MARKET)
        a.sell("0.3", 30_001, market=MARKET)
        b.buy("0.05", 30_001, market=MARKET)  # b takes from a
        eventually(lambda: len(a.trades()) == len(b.trades()) == 1, what="the first trade on both")
        a.sell("0.15", "29999", market=MARKET)  # and a from b
        b.sell("7", "12.34", market="TEST-USD")
        eventually(lambda: len(a.trades()) == len(b.trades()) == 2, what="both trades on both")
        same_books(a, b, market=MARKET)
        same_books(a, b, market="TEST-USD")
        yield a, b
    finally:
        nodes.cleanup()


@pytest.fixture(autouse=True)
def logs(pair: tuple[NodeProcess, NodeProcess], request: pytest.FixtureRequest) -> None:
    nodes = Nodes(Path())
    nodes.all = list(pair)
    show_logs(request, nodes)


@pytest.fixture(params=[0, 1], ids=["maker", "other"])
def node(pair: tuple[NodeProcess, NodeProcess], request: pytest.FixtureRequest) -> NodeProcess:
    """Each of the two."""
    return pair[request.param]


@pytest.fixture
def sync(node: NodeProcess) -> Iterator[Any]:
    exchange = pointed_at(ccxt.bitfinex({"enableRateLimit": False}), node)
    yield exchange
    exchange.session.close()


@asynccontextmanager
async def opened(kind: Any, node: NodeProcess) -> AsyncIterator[Any]:
    exchange = pointed_at(kind({"enableRateLimit": False}), node)
    try:
        yield exchange
    finally:
        await exchange.close()


# ccxt over REST


def test_ccxt_loads_the_markets(sync: Any) -> None:
    markets = sync.load_markets()
    assert set(markets) == {"BTC/USD", "ETH/USD", "ETH/BTC", "TEST/USD"}
    assert markets[SYMBOL]["id"] == BFX
    assert markets["TEST/USD"]["id"] == "tTEST:USD"
    assert markets[SYMBOL]["limits"]["amount"]["min"] == 0.00000001
    assert {"BTC", "ETH", "TEST", "USD"} <= set(sync.currencies)
    assert sync.fetch_status()["status"] == "ok"


def test_ccxt_reads_tickers(sync: Any) -> None:
    ticker = sync.fetch_ticker(SYMBOL)
    assert (ticker["bid"], ticker["ask"], ticker["last"]) == (29_999, 30_001, 29_999)
    assert ticker["baseVolume"] == pytest.approx(0.2)
    assert (ticker["high"], ticker["low"]) == (30_001, 29_999)
    every = sync.fetch_tickers()
    assert set(every) == {"BTC/USD", "ETH/USD", "ETH/BTC", "TEST/USD"}
    assert every["TEST/USD"]["ask"] == 12.34
    assert set(sync.fetch_tickers([SYMBOL, "TEST/USD"])) == {SYMBOL, "TEST/USD"}


def test_ccxt_reads_the_book_by_order_and_by_level(sync: Any, node: NodeProcess) -> None:
    sync.load_markets()
    orders = sync.fetch_order_book(SYMBOL)  # R0
    assert sorted(orders["asks"][:2]) == [[30_001, 0.05], [30_001, 0.3]]
    assert orders["bids"][0] == [29_999, 0.05]
    assert len(orders["bids"]) == len(orders["asks"]) == 25
    raw = sync.public_get_book_symbol_precision({"symbol": BFX, "precision": "R0"})
    ids = {int(row[0]) for row in raw}
    assert len(ids) == 50
    assert all(10**15 <= number < 2**53 for number in ids)
    assert sync.public_get_book_symbol_precision({"symbol": BFX, "precision": "R0"}) == raw

    levels = sync.fetch_order_book(SYMBOL, 100, {"precision": "P0"})
    assert [row[:2] for row in levels["asks"]][:2] == [[30_001, 0.35], [30_002, 0.1]]
    assert len(levels["asks"]) == 30
    book = node.book(MARKET)
    assert [row[0] for row in levels["bids"]][:25] == [float(level.price) for level in book.bids]
    one = sync.fetch_order_book(SYMBOL, 1, {"precision": "P0"})
    assert len(one["bids"]) == len(one["asks"]) == 1
    tenths = sync.fetch_order_book(SYMBOL, 25, {"precision": "P4"})  # one significant digit
    assert [row[0] for row in tenths["bids"]] == [20_000]
    assert [row[0] for row in tenths["asks"]] == [40_000]


def test_ccxt_reads_trades_and_candles(sync: Any, node: NodeProcess) -> None:
    trades = sync.fetch_trades(SYMBOL)
    assert [(t["side"], t["price"], t["amount"]) for t in trades] == [
        ("buy", 30_001, 0.05),
        ("sell", 29_999, 0.15),
    ]
    assert len({t["id"] for t in trades}) == 2
    assert sync.fetch_trades(SYMBOL, since=trades[1]["timestamp"] + 1) == []
    assert [t["price"] for t in sync.fetch_trades(SYMBOL, limit=1)] == [29_999]
    (month,) = sync.fetch_ohlcv(SYMBOL, "1M") or [None]
    assert month[1:] == [30_001, 30_001, 29_999, 29_999, pytest.approx(0.2)]
    for timeframe in sync.timeframes:
        candles = sync.fetch_ohlcv(SYMBOL, timeframe)
        assert sum(candle[5] for candle in candles) == pytest.approx(0.2)
        assert sync.fetch_ohlcv(SYMBOL, timeframe, since=candles[-1][0], limit=1) == candles[-1:]
    assert sync.fetch_ohlcv("ETH/USD", "1m") == []


def test_both_nodes_give_the_same_trades_and_candles(
    pair: tuple[NodeProcess, NodeProcess],
) -> None:
    found = []
    for node in pair:
        exchange = pointed_at(ccxt.bitfinex({"enableRateLimit": False}), node)
        trades = [(t["id"], t["timestamp"], t["price"]) for t in exchange.fetch_trades(SYMBOL)]
        found.append((trades, exchange.fetch_ohlcv(SYMBOL, "1m")))
        exchange.session.close()
    assert found[0] == found[1]


def test_ccxt_maps_the_errors(sync: Any) -> None:
    sync.load_markets()
    with pytest.raises(ccxt.BadSymbol):
        sync.public_get_ticker_symbol({"symbol": "tNONE:USD"})
    with pytest.raises(ccxt.BadRequest):
        sync.public_get_book_symbol_precision({"symbol": BFX, "precision": "P9"})
    sync.apiKey, sync.secret = "key", "secret"
    with pytest.raises(ccxt.AuthenticationError):
        sync.fetch_balance()


async def test_ccxt_reads_everything_asynchronously(node: NodeProcess) -> None:
    async with opened(ccxt.async_support.bitfinex, node) as exchange:
        markets, status, ticker, tickers, book, trades, candles = await asyncio.gather(
            exchange.load_markets(),
            exchange.fetch_status(),
            exchange.fetch_ticker(SYMBOL),
            exchange.fetch_tickers(),
            exchange.fetch_order_book(SYMBOL),
            exchange.fetch_trades(SYMBOL),
            exchange.fetch_ohlcv(SYMBOL, "1h"),
        )
    assert len(markets) == len(tickers) == 4
    assert status["status"] == "ok"
    assert ticker["bid"] == book["bids"][0][0] == 29_999
    assert len(trades) == 2
    assert sum(candle[5] for candle in candles) == pytest.approx(0.2)


# bitfinex-api-py over REST


def test_bfxapi_reads_everything(node: NodeProcess) -> None:
    rest = Client(rest_host=f"{node.api_url}/v2").rest.public
    assert rest.get_platform_status().status == 1
    assert "BTCUSD" in rest.conf("pub:list:pair:exchange")
    assert rest.conf("pub:list:currency") == ["BTC", "ETH", "TEST", "USD"]
    ticker = rest.get_t_ticker(BFX)
    assert (ticker.bid, ticker.ask, ticker.last_price) == (29_999, 30_001, 29_999)
    assert ticker.daily_change_relative == pytest.approx(-2 / 30_001, abs=1e-8)
    assert set(rest.get_t_tickers("ALL")) == {BFX, "tETHUSD", "tETHBTC", "tTEST:USD"}
    assert set(rest.get_t_tickers([BFX, "tTEST:USD"])) == {BFX, "tTEST:USD"}
    assert [t.amount for t in rest.get_t_trades(BFX)] == [-0.15, 0.05]
    assert [t.amount for t in rest.get_t_trades(BFX, sort=1, limit=1)] == [0.05]
    levels = rest.get_t_book(BFX, "P0", len=100)
    assert len(levels) == 60
    assert (levels[0].price, levels[0].count) == (29_999, 1)
    assert levels[30].amount == -0.35
    raw = rest.get_t_raw_book("tTEST:USD")
    assert [(order.price, order.amount) for order in raw] == [(12.34, -7)]
    assert sum(c.volume for c in rest.get_candles_hist(BFX, "1W")) == pytest.approx(0.2)
    assert rest.get_candles_last(BFX, "1D").close == 29_999
    with pytest.raises(RequestParameterError, match="symbol: invalid"):
        rest.get_t_ticker("tNOSUCH")


# WebSocket, while orders and trades storm through both nodes


async def storm(pair: tuple[NodeProcess, NodeProcess], seed: int, seconds: float) -> dict[str, int]:
    """Place, cancel and take on both nodes at once; what was done."""
    done = {"orders": 0, "cancels": 0, "takes": 0}

    async def trader(node: NodeProcess, seed: int) -> None:
        rng = random.Random(seed)
        resting: list[str] = []
        async with ExchangeClient(node.api_url) as client:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                side = rng.choice(("buy", "sell"))
                what = rng.random()
                if what < 0.35 and resting:
                    try:
                        await client.cancel(resting.pop(rng.randrange(len(resting))))
                        done["cancels"] += 1
                    except ApiError as error:
                        if error.code != "order_done":  # another's take was first
                            raise
                    continue
                away = rng.choice((-0.1, -0.3)) if what > 0.85 else rng.randrange(10, 250) / 10
                price = 30_000 + (-away if side == "buy" else away)
                view = await client.submit(
                    OrderRequest(
                        market=MARKET,
                        side=side,
                        quantity=f"{rng.randrange(1, 300) / 100_000:.5f}",
                        price=f"{price:.1f}",
                    )
                )
                done["orders" if away > 0 else "takes"] += 1
                if view.status in ("open", "pending"):
                    resting.append(view.id)

    async with asyncio.TaskGroup() as group:
        for index, node in enumerate((*pair, *pair)):
            group.create_task(trader(node, seed + index))
    return done


@pytest.mark.parametrize("precision", ["P0", "P2", "R0"])
async def test_ccxt_pro_verifies_every_checksum_during_a_storm(
    pair: tuple[NodeProcess, NodeProcess], precision: str
) -> None:
    async with opened(ccxt.pro.bitfinex, pair[0]) as exchange:
        done, checked = await checked_book(exchange, precision, storm(pair, 5, STORM))
    assert min(done.values()) > 10, done
    assert checked > 50


async def test_ccxt_pro_watches_trades_ticker_and_candles(
    pair: tuple[NodeProcess, NodeProcess],
) -> None:
    async with opened(ccxt.pro.bitfinex, pair[1]) as exchange:
        await exchange.load_markets()
        await exchange.watch_trades(SYMBOL)
        await exchange.watch_ticker(SYMBOL)
        await exchange.watch_ohlcv(SYMBOL, "1m")
        before = {trade["id"] for trade in exchange.trades[SYMBOL]}
        done = await storm(pair, 50, STORM / 2)
        assert done["takes"] > 5, done

        async def same() -> bool:
            fetched = await exchange.fetch_trades(SYMBOL, limit=500)
            ticker = await exchange.fetch_ticker(SYMBOL)
            candle = (await exchange.fetch_ohlcv(SYMBOL, "1m", limit=1000))[-1]
            seen = {trade["id"] for trade in exchange.trades[SYMBOL]}
            new = {t["id"] for t in fetched if t["id"] not in before} & (seen | set())
            missing = {t["id"] for t in fetched[-len(new) :]} - seen if new else {"nothing new"}
            return (
                not missing
                and exchange.tickers[SYMBOL]["last"] == ticker["last"]
                and exchange.tickers[SYMBOL]["bid"] == ticker["bid"]
                and exchange.ohlcvs[SYMBOL]["1m"][-1] == candle
            )

        for _ in range(100):
            if await same():
                break
            await asyncio.sleep(0.1)
        else:
            raise AssertionError("what was watched is not what is there")
        assert len({t["id"] for t in exchange.trades[SYMBOL]}) == len(exchange.trades[SYMBOL])


async def test_bfxapi_follows_books_trades_tickers_and_candles(
    pair: tuple[NodeProcess, NodeProcess],
) -> None:
    node = pair[0]
    wss = Client(wss_host=node.api_url.replace("http", "ws", 1) + "/ws/2").wss
    book: dict[str, dict[float, tuple[int, float]]] = {"bids": {}, "asks": {}}
    seen: dict[str, list[Any]] = {
        name: [] for name in ("subscribed", "te", "tu", "ticker", "candle", "raw", "cs", "errors")
    }

    def update(level: Any) -> None:
        side = book["bids" if level.amount > 0 else "asks"]
        if level.count:
            side[level.price] = (level.count, abs(level.amount))
        else:
            del side[level.price]

    @wss.on("subscribed")
    def _(subscription: Any) -> None:
        seen["subscribed"].append(subscription)

    @wss.on("t_book_snapshot")
    def _(_subscription: Any, levels: list[Any]) -> None:
        for level in levels:
            update(level)

    @wss.on("t_book_update")
    def _(_subscription: Any, level: Any) -> None:
        try:
            update(level)
        except KeyError as error:
            seen["errors"].append(error)

    @wss.on("t_raw_book_update")
    def _(_subscription: Any, order: Any) -> None:
        seen["raw"].append(order)

    @wss.on("checksum")
    def _(_subscription: Any, value: int) -> None:
        seen["cs"].append(value)

    @wss.on("t_trade_execution")
    def _(_subscription: Any, trade: Any) -> None:
        seen["te"].append(trade.id)

    @wss.on("t_trade_execution_update")
    def _(_subscription: Any, trade: Any) -> None:
        seen["tu"].append(trade.id)

    @wss.on("t_ticker_update")
    def _(_subscription: Any, ticker: Any) -> None:
        seen["ticker"].append(ticker)

    @wss.on("candles_snapshot")
    def _(_subscription: Any, candles: list[Any]) -> None:
        seen["candle"] += candles

    @wss.on("candles_update")
    def _(_subscription: Any, candle: Any) -> None:
        seen["candle"].append(candle)

    opened_event = asyncio.Event()

    @wss.on("open")
    async def _() -> None:
        await wss.subscribe("book", symbol=BFX, prec="P0", len="25")
        await wss.subscribe("book", symbol=BFX, prec="R0", len="100")
        await wss.subscribe("trades", symbol=BFX)
        await wss.subscribe("ticker", symbol=BFX)
        await wss.subscribe("candles", key=f"trade:1m:{BFX}")
        opened_event.set()

    running = asyncio.create_task(wss.start())
    try:
        async with asyncio.timeout(20):
            await opened_event.wait()
            while len(seen["subscribed"]) < 5:  # noqa: ASYNC110 - the client only calls back
                await asyncio.sleep(0.02)
        await storm(pair, 500, STORM / 2)
        rest = Client(rest_host=f"{node.api_url}/v2").rest.public

        def agreed() -> bool:
            levels = rest.get_t_book(BFX, "P0", len=25)
            wanted = {
                "bids": {x.price: (x.count, x.amount) for x in levels if x.amount > 0},
                "asks": {x.price: (x.count, -x.amount) for x in levels if x.amount < 0},
            }
            newest = {trade.id for trade in rest.get_t_trades(BFX, limit=3)}
            return wanted == book and newest <= set(seen["te"])

        for _ in range(100):
            if await asyncio.to_thread(agreed):
                break
            await asyncio.sleep(0.1)
        else:
            raise AssertionError(f"the books differ: {book}")
    finally:
        await wss.close()
        await asyncio.wait({running}, timeout=10)
    assert seen["errors"] == []
    assert seen["te"] == seen["tu"]
    assert len(seen["cs"]) > 10
    assert len(seen["raw"]) > 10
    assert seen["ticker"][-1].last_price > 0
    assert seen["candle"][-1].volume > 0
