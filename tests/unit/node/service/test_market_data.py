"""The tape, candles and tickers of a node: told once, found at once, still there after a restart."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from exchange_kit import Network
from instruments_kit import COARSE
from market_kit import ME, NOW, PEER, FakeMarkets, MemoryHistory

from exchange.journal.market_history import Addition, HistoryError, MarketHistory
from exchange.market.candles import HOUR, MINUTE
from exchange.market.history_shares import TAPE, TAPE_SLACK
from exchange.market.market import Trade
from exchange.model.events import Filled
from exchange.model.instruments import Instruments
from exchange.model.records import Recovered, StoredFeed
from node.service.market_data import MAX_AHEAD, MarketData

BTC = "BTC-USD"


@pytest.fixture
def markets() -> FakeMarkets:
    return FakeMarkets()


def key_of(markets: FakeMarkets, symbol: str = BTC) -> str:
    return markets.instruments[symbol].key


async def prices(markets: FakeMarkets, **query: Any) -> list[int]:
    found = await markets.data.trades(key_of(markets), limit=100, **query)
    return [trade.price for trade in found]


async def saved(markets: FakeMarkets) -> None:
    """Everything told so far is on the disk."""
    markets.data.stop()
    await markets.data.run()


async def test_trades_are_found_at_once_and_after_the_save(markets: FakeMarkets) -> None:
    markets.trade(BTC, 1, "100", "1", time=NOW - 5)
    markets.trade(BTC, -1, "101", "1", time=NOW - 9)  # late
    assert await prices(markets) == [1000, 1010]
    assert await prices(markets, newest_first=False) == [1010, 1000]
    assert await prices(markets, start=NOW - 8) == [1000]
    await saved(markets)
    assert len(markets.history.saved_trades[key_of(markets)]) == 2
    assert await prices(markets) == [1000, 1010]
    assert await prices(markets, end=NOW - 6) == [1010]
    markets.trade(BTC, 1, "102", "1", time=NOW - 7)
    assert await prices(markets) == [1000, 1020, 1010]


async def test_the_same_trade_counts_once_from_any_sender(markets: FakeMarkets) -> None:
    trade = markets.trade(BTC, 1, "100", "2")
    markets.data.add([], [(key_of(markets), trade)] * 3)
    again = FakeMarkets()
    await saved(markets)
    again.history = markets.history
    again.data = MarketData(again.instruments, again.markets, again.history, lambda: NOW)  # type: ignore[arg-type]
    again.data.add([], [(key_of(markets), trade)])
    for shown in (markets, again):
        (candle,) = await shown.data.candles(key_of(markets), "1D", limit=10)
        assert (candle.trades, candle.volume) == (1, 200_000)
        assert await prices(shown) == [1000]


async def test_candles_join_disk_and_memory(markets: FakeMarkets) -> None:
    key = key_of(markets)
    markets.trade(BTC, 1, "100", "1", time=NOW - HOUR)
    await saved(markets)
    markets.trade(BTC, 1, "103", "1", time=NOW)
    markets.trade(BTC, 1, "99", "1", time=NOW - HOUR + 1)  # amends what was saved
    found = await markets.data.candles(key, "1m", limit=10)
    assert [(c.open, c.close) for c in found] == [(1030, 1030), (1000, 990)]
    assert await markets.data.candles(key, "1m", limit=1, newest_first=False) == found[1:]
    assert await markets.data.candles(key, "1m", start=NOW, limit=9) == []
    assert await markets.data.candles(key, "1m", start=NOW // MINUTE * MINUTE, limit=9) == found[:1]


async def test_trades_from_the_future_are_left_out(markets: FakeMarkets) -> None:
    markets.trade(BTC, 1, "100", "1", time=NOW + MAX_AHEAD + 1)
    markets.trade(BTC, 1, "101", "1", time=2**61)
    markets.trade(BTC, 1, "102", "1", time=NOW + MAX_AHEAD)
    assert await prices(markets) == [1020]
    assert len(await markets.data.candles(key_of(markets), "1m", limit=10)) == 1


async def test_saving_goes_on_during_additions_and_is_complete_at_the_end(
    markets: FakeMarkets,
) -> None:
    running = asyncio.create_task(markets.data.run())
    for n in range(50):
        markets.trade(BTC, 1, "100", "1", time=NOW + n)
        await asyncio.sleep(0)
    while not markets.history.saves:  # noqa: ASYNC110 - saved in a thread
        await asyncio.sleep(0.001)
    markets.trade(BTC, 1, "100", "1", time=NOW + 50)
    markets.data.stop()
    await running
    assert len(markets.history.saved_trades[key_of(markets)]) == 51
    (candle,) = (
        c for (f, _), c in markets.history.saved_candles[key_of(markets)].items() if f == "1M"
    )
    assert candle.trades == 51
    assert markets.history.saves < 10


async def test_a_disk_that_fails_is_logged_once_and_stops_nothing(
    markets: FakeMarkets, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(addition: Addition) -> None:
        raise HistoryError("no space")

    markets.history.save = fail  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING, logger="node.service.market_data"):
        for n in range(2):
            markets.trade(BTC, 1, "100", "1", time=NOW + n)
            await saved(markets)
    assert [r.getMessage() for r in caplog.records] == ["market history is incomplete: no space"]
    assert markets.data.ticker(key_of(markets)).day.volume == 200_000


def test_a_candle_that_cannot_be_read_does_not_stop_the_tape(markets: FakeMarkets) -> None:
    def fail(*arguments: Any) -> None:
        raise HistoryError("unreadable")

    history = MemoryHistory()
    history.candle = fail  # type: ignore[assignment]
    data = MarketData(markets.instruments, markets.markets, history, lambda: NOW)  # type: ignore[arg-type]
    key = key_of(markets)
    data.add([], [(key, Trade(PEER, Filled(1, 1, 1, 1, 0, 0, ME, 1, NOW), 1))])
    assert len(data.tape(key, 5)) == 1
    assert data.ticker(key).day.last == 1


async def test_a_restart_uses_the_saved_history_and_the_journal_after_it(
    tmp_path: Path,
) -> None:
    net = Network(2, markets=[COARSE[BTC].key])
    for n in range(3):
        net.sell(0, 1000 + n, 5)
        net.buy(0, 1000 + n, 5)
        net.settle()
    owner = net.id(0)
    instruments = Instruments([COARSE[BTC]])
    key = instruments[BTC].key
    recovered = net.nodes[0].store.recover()
    trades = [
        Trade(owner, event, batch.first + index)
        for stored in recovered.feeds
        for batch in stored.batches
        for index, event in enumerate(batch.events)
        if isinstance(event, Filled)
    ]
    # One trade has one place in its maker's feed, for the maker, for others, and in the journal.
    assert [list(net[i].markets[key].tape) for i in (0, 1)] == [trades, trades]
    assert len({trade.number for trade in trades}) == 3
    now = lambda: max(trade.event.time for trade in trades)  # noqa: E731
    with closing(MarketHistory(tmp_path / "m.sqlite3", owner)) as history:
        data = MarketData(instruments, net[0].markets, history, now)
        data.add([], [(key, trades[0])])
        data.stop()
        await data.run()
        data.add([], [(key, trades[1])])  # not saved: the process dies
    with closing(MarketHistory(tmp_path / "m.sqlite3", owner)) as history:
        data = MarketData(instruments, net[0].markets, history, now)
        assert len(data.tape(key, 10)) == 1
        data.restore(recovered)
        data.restore(recovered)
        found = await data.trades(key, limit=10)
        assert sorted(t.price for t in found) == [1000, 1001, 1002]
        (month,) = await data.candles(key, "1M", limit=10)
        assert (month.trades, month.volume) == (3, 15)
        data.restore(Recovered(feeds=[StoredFeed(owner, "OTHER@1/1")]))


def test_the_tape_keeps_trades_of_each_maker_and_of_this_node(markets: FakeMarkets) -> None:
    key = key_of(markets)

    def trades(maker: str, taker: str, count: int) -> list[tuple[str, Trade]]:
        return [
            (key, Trade(maker, Filled(1, 1, 1, 1, 0, 0, taker, n, NOW - 10**6 + n), n))
            for n in range(1, count + 1)
        ]

    add = markets.data.add
    add([], trades(PEER, ME, 20))
    add([], trades("honest", PEER, 20))
    for number in range(2 * TAPE + TAPE_SLACK):
        add([], [(key, Trade("sybil", Filled(1, 1, 1, 1, 0, 0, "s", number, NOW), number + 1))])
    tape = markets.data.tape(key, 2 * TAPE)
    assert Counter(trade.maker for trade in tape) == {PEER: 20, "honest": 20, "sybil": TAPE - 40}
    assert tape[0].number == 2 * TAPE + TAPE_SLACK
