"""Candles, trade history and tickers in the node's own API, its client and its command line."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from exchange_kit import EPOCH_US, NETWORK, Keys, submit
from instruments_kit import COARSE
from market_kit import NOW, FakeMarkets
from trading_kit import Api, running_api

from exchange.engine.engine import Engine
from exchange.journal.journal import Journal
from exchange.market.candles import HOUR, MINUTE
from node.cli.tables import candle_table, to_ansi
from node.client.exchange_client import ApiError, ExchangeClient
from node.daemon.exchange import make_exchange
from node.service.committer import Committer
from node.service.market_steps import MarketSteps
from node.service.trading import Span
from node.views.views import CandleView, ServiceError

BTC = "BTC-USD"
NOON = 1_767_268_800_000_000  # 2026-01-01T12:00Z


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with running_api() as api:
        for number, price in enumerate(("100", "101", "102")):
            api.node.shown.trade(BTC, 1, price, "0.5", time=NOON + 5 * number * MINUTE)
        yield api


async def times(api: Api, path: str) -> list[str]:
    answer = await api.get(path)
    assert answer.status == 200, answer.json
    return [row["time"] for row in answer.json]


@pytest.mark.parametrize("path", ["/v1/trades?market=BTC-USD&", "/v1/candles/BTC-USD?"])
async def test_a_span_of_time_is_bounded_sorted_and_limited(api: Api, path: str) -> None:
    newest = await times(api, path)
    assert newest == sorted(newest, reverse=True)
    assert len(newest) == 3
    assert await times(api, f"{path}sort=asc") == newest[::-1]
    assert await times(api, f"{path}limit=1") == newest[:1]
    assert await times(api, f"{path}start={newest[1]}") == newest[:2]
    assert await times(api, f"{path}end={newest[1]}&sort=desc") == newest[1:]
    assert await times(api, f"{path}start=0&end=1000000000000") == []
    bare = newest[1].removesuffix("Z")
    assert await times(api, f"{path}start={bare}&end={bare}%2B00:00") == newest[1:2]


@pytest.mark.parametrize("path", ["/v1/trades?", "/v1/candles/BTC-USD?timeframe=1h&"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("start", "yesterday"),
        ("end", "-1"),
        ("sort", "up"),
        ("limit", "0"),
        ("start", "1" * 16),
        ("start", "1700000000"),
        ("end", "1"),
        ("start", "20260102"),
        ("end", "978307199999"),
    ],
)
async def test_wrong_spans_are_refused_by_name(api: Api, path: str, name: str, value: str) -> None:
    answer = await api.get(f"{path}{name}={value}")
    assert (answer.status, answer.json["code"]) == (400, "invalid_parameter")
    assert answer.json["parameter"] == name


async def test_the_client_reads_candles_and_spans(api: Api) -> None:
    async with ExchangeClient(api.url) as client:
        candles = await client.candles(BTC, "5m", newest_first=False)
        assert [candle.close for candle in candles] == ["100", "101", "102"]
        assert [c.open for c in await client.candles(BTC, start=candles[2].time)] == ["102"]
        trades = await client.trades(market=BTC, end=candles[0].time, limit=5, newest_first=False)
        assert [trade.price for trade in trades] == ["100"]
        with pytest.raises(ApiError, match="no market"):
            await client.candles("NO-SUCH")


def test_a_table_of_candles_is_aligned_and_coloured() -> None:
    def candle(opened: str, closed: str) -> CandleView:
        return CandleView(
            time="2026-01-02T03:00:00.000Z", open=opened, high="12", low="9.75", close=closed,
            volume="0.5", trades=3,
        )  # fmt: skip

    lines = candle_table([candle("10", "11.5"), candle("11.5", "10"), candle("10", "10")])
    assert "begins (UTC)" in to_ansi(lines[0])
    assert to_ansi(lines[1]).startswith("2026-01-02 03:00")
    styles = [
        next(style for text, style in line if style in ("buy", "sell")) for line in lines[1:3]
    ]
    assert styles == ["buy", "sell"]
    assert all(style in ("", "bold") for _, style in lines[3])


# The service on a real engine


class Trading:
    def __init__(self, journal: Journal) -> None:
        self.markets = FakeMarkets()
        instruments = self.markets.instruments
        self.engine = Engine(
            Keys(1),
            [instrument.key for instrument in instruments],
            network=NETWORK,
            epoch_us=EPOCH_US,
            rng=random.Random(0),
        )
        committer = Committer(self.engine, journal, lambda drained: None)
        self.exchange = make_exchange(
            self.engine,
            committer,
            lambda: 1.0,
            self.markets.data,
            MarketSteps(Path("unused"), instruments, {}),
            {},
        )
        self.service = self.exchange.markets


@pytest.fixture
async def trading(tmp_path: Path) -> AsyncIterator[Trading]:
    with closing(Journal(tmp_path / "journal.db", sync="normal")) as journal:
        yield Trading(journal)


async def test_history_of_one_market_or_of_all(trading: Trading) -> None:
    trading.markets.trade(BTC, 1, "100", "1", time=NOW - 3)
    trading.markets.trade("TEST-USD", -1, "7", "2", time=NOW - 2)
    trading.markets.trade(BTC, 1, "101", "1", time=NOW - 1)
    service = trading.service
    every = await service.trades()
    assert [(t.market, t.price, t.side) for t in every] == [
        (BTC, "101", "buy"), ("TEST-USD", "7", "sell"), (BTC, "100", "buy"),
    ]  # fmt: skip
    assert [t.price for t in await service.trades(market="btcusd")] == ["101", "100"]
    assert [t.price for t in await service.trades(span=Span(limit=2, newest_first=False))] == [
        "100",
        "7",
    ]
    assert [t.price for t in await service.trades(span=Span(start=NOW - 2, end=NOW - 2))] == ["7"]
    with pytest.raises(ServiceError, match="no market"):
        await service.trades(market="NOPE")


async def test_candles_and_markets_show_exact_decimals(trading: Trading) -> None:
    trading.markets.trade(BTC, 1, "100.5", "0.1", time=NOW - HOUR)
    trading.markets.trade(BTC, 1, "99", "0.00002")
    (day,) = await trading.service.candles(BTC, "1D")
    assert day == CandleView(
        time="2026-01-02T00:00:00.000Z", open="100.5", high="100.5", low="99", close="99",
        volume="0.10002", trades=2,
    )  # fmt: skip
    (market,) = (m for m in trading.service.views() if m.symbol == BTC)
    shown: dict[str, Any] = {
        name: getattr(market, name) for name in ("last", "change", "high", "low", "volume")
    }
    assert shown == {
        "last": "99",
        "change": "-1.5",
        "high": "100.5",
        "low": "99",
        "volume": "0.10002",
    }
    with pytest.raises(ServiceError, match=r"no candles of '2m'; there are 1m, 5m"):
        await trading.service.candles(BTC, "2m")


async def test_durable_trades_reach_the_market_data(trading: Trading) -> None:
    trading.markets.data._now = lambda: EPOCH_US + 2_000_000
    key = COARSE[BTC].key
    trading.engine.resume(0.0)
    submit(trading.engine, 1.0, key, -1, 1000, 5)
    submit(trading.engine, 1.0, key, 1, 1000, 3)
    trading.exchange.publish(trading.engine.drain(1.0))
    (trade,) = await trading.service.trades()
    assert (trade.price, trade.quantity, trade.side) == ("100", "0.00003", "buy")
