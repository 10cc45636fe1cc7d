"""Trades, tickers, candles, an account's streams, and the registry that makes them."""

from __future__ import annotations

from typing import Any

import pytest
from market_kit import ME, NOW, PEER
from stream_kit import BTC, Place, reading

from exchange.market.candles import MINUTE
from exchange.model.events import BUY, SELL
from exchange.model.records import Fill, Order
from node.service.trading import Balance
from node.streams.market_streams import SNAPSHOT_TRADES, TickerStream
from node.streams.stream import MAX_HISTORY, ReaderTooSlow

# Trades


async def test_trades_come_newest_first_and_then_as_they_happen() -> None:
    place = Place()
    for number in range(SNAPSHOT_TRADES + 5):
        place.fake.trade(BTC, BUY, f"{30000 + number}", "1", time=NOW + number)
    client = await reading(place, "trades")
    (snapshot,) = client.take()
    assert len(snapshot.trades) == SNAPSHOT_TRADES
    assert snapshot.trades[0].price == "30054"
    place.fake.trade(BTC, SELL, "29999", "0.5")
    (message,) = client.take()
    (trade,) = message.trades
    assert (trade.side, trade.price, trade.quantity, trade.maker) == ("sell", "29999", "0.5", PEER)
    assert (message.previous, message.sequence) == (0, 1)


async def test_no_trade_is_left_out_for_a_slow_reader() -> None:
    place = Place()
    client = await reading(place, "trades", conflate_ms=100)
    client.take()
    for number in range(MAX_HISTORY):
        place.fake.trade(BTC, BUY, f"{30000 + number}", "1")
    (message,) = client.take(1.0)
    assert [trade.price for trade in message.trades] == [f"{30000 + n}" for n in range(MAX_HISTORY)]
    for _ in range(MAX_HISTORY + 1):
        place.fake.trade(BTC, BUY, "1", "1")
    with pytest.raises(ReaderTooSlow):
        client.take(2.0)


# Tickers


async def test_a_ticker_message_is_complete_and_rate_limited() -> None:
    place = Place()
    client = await reading(place, "ticker")
    (first,) = client.take()
    assert (first.ticker.bid, first.ticker.last, first.previous) == (None, None, None)
    place.fake.order(BTC, BUY, "30000", "2", number=1)
    place.fake.trade(BTC, BUY, "30001", "0.5")
    assert client.take() == []
    ((delay, look),) = place.later
    assert delay == TickerStream.PACE
    look()
    (message,) = client.take()
    ticker = message.ticker
    assert (ticker.bid, ticker.bid_quantity, ticker.ask, ticker.last, ticker.volume) == (
        "30000", "2", None, "30001", "0.5",
    )  # fmt: skip
    place.fake.order(BTC, BUY, "20000", "2", number=2)
    place.later[-1][1]()
    assert client.take() == []  # nothing of it shows in the figures


async def test_a_ticker_that_was_let_go_of_is_not_made_any_more() -> None:
    place = Place()
    client = await reading(place, "ticker")
    client.take()
    place.fake.order(BTC, BUY, "30000", "2", number=1)
    place.stream_registry.close()
    place.later[-1][1]()
    assert client.take() == []


# Candles


async def test_candles_come_newest_first_and_then_as_they_change() -> None:
    place = Place()
    start = NOW // MINUTE * MINUTE
    place.fake.trade(BTC, BUY, "30000", "1", time=start - MINUTE)
    place.fake.trade(BTC, BUY, "30001", "1", time=start)
    client = await reading(place, "candles")
    (snapshot,) = client.take()
    assert [candle.close for candle in snapshot.candles] == ["30001", "30000"]
    place.fake.trade(BTC, BUY, "30005", "2", time=start + 1)
    (message,) = client.take()
    (candle,) = message.candles
    assert (candle.open, candle.high, candle.close, candle.volume, candle.trades) == (
        "30001", "30005", "30005", "3", 2,
    )  # fmt: skip


# An account's


def order(place: Place, number: int, **fields: Any) -> Order:
    key = place.fake.instruments[BTC].key
    return Order(number, key, BUY, 300000, 100000, NOW, account=1, **fields)


def fill(place: Place, take: int) -> Fill:
    key = place.fake.instruments[BTC].key
    return Fill(PEER, take, "maker", key, 7, BUY, 300000, 1000, NOW, PEER, 9, 1, 5, "BTC")


async def test_an_account_gets_its_own_orders_only() -> None:
    place = Place()
    place.trading.open[1] = [order(place, 7)]
    client = await reading(place, "orders", 1)
    (snapshot,) = client.take()
    assert [view.id for view in snapshot.orders] == [f"{ME}-7"]
    place.trading.tell(2, orders=[order(place, 8)])
    assert client.take() == []
    place.trading.tell(1, orders=[order(place, 7, filled=50000, value=50000 * 300000)])
    (message,) = client.take()
    assert [(view.number, view.filled) for view in message.orders] == [(7, "0.5")]


async def test_no_fill_is_left_out_and_the_newest_come_first() -> None:
    place = Place()
    place.trading.tell(1, fills=[fill(place, 1), fill(place, 2)])
    client = await reading(place, "fills", 1, conflate_ms=50)
    (snapshot,) = client.take()
    assert [view.id for view in snapshot.fills] == [f"{PEER}:2", f"{PEER}:1"]
    assert (snapshot.fills[0].fee, snapshot.fills[0].fee_asset) == ("0.00000005", "BTC")
    place.trading.tell(1, fills=[fill(place, 3)])
    place.trading.tell(1, fills=[fill(place, 4)])
    (message,) = client.take()
    assert [view.id for view in message.fills] == [f"{PEER}:3", f"{PEER}:4"]
    late = await reading(place, "fills", 1)
    (snapshot,) = late.take()
    assert [view.id for view in snapshot.fills] == [f"{PEER}:{take}" for take in (4, 3, 2, 1)]


async def test_balances_are_sent_with_the_available_amount() -> None:
    place = Place()
    place.trading.balances[1] = [Balance("USD", 10**10, 2 * 10**9)]
    client = await reading(place, "balances", 1)
    (snapshot,) = client.take()
    (view,) = snapshot.balances
    assert (view.asset, view.total, view.held, view.available) == ("USD", "100", "20", "80")
    place.trading.tell(1, balances=[Balance("USD", 10**10, 0)])
    (message,) = client.take()
    assert message.balances[0].available == "100"


async def test_two_accounts_do_not_share_a_stream() -> None:
    place = Place()
    one, two = [await reading(place, "orders", account) for account in (1, 2)]
    one.take()
    two.take()
    place.trading.tell(2, orders=[order(place, 7)])
    assert one.take() == []
    assert len(two.take()) == 1
