"""The public REST paths of the Bitfinex dialect: every answer an array, errors in their own form."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from bitfinex_kit import running_exchange
from market_kit import NOW
from trading_kit import Api, running_api

from exchange.market.candles import HOUR, MINUTE, TIMEFRAMES
from exchange.model.instruments import MAX_LOTS

BTC, TEST = "BTC-USD", "TEST-USD"
MS = NOW // 1000


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with running_api() as api:
        yield api


async def get(api: Api, path: str) -> Any:
    answer = await api.get(f"/v2/{path}")
    assert answer.status == 200, answer.json
    assert answer.headers["Content-Type"].startswith("application/json")
    assert isinstance(answer.json, list)
    return answer.json


async def refused(api: Api, path: str, method: str = "GET", status: int = 500) -> tuple[int, str]:
    answer = await api.call(method, f"/v2/{path}")
    word, code, text = answer.json
    assert (answer.status, word) == (status, "error")
    return code, text


async def test_the_two_questions_of_load_markets_are_answered(api: Api) -> None:
    pairs, futures, securities, margin = await get(
        api,
        "conf/pub:info:pair,pub:info:pair:futures,pub:list:pair:securities,pub:list:pair:margin",
    )
    assert [row[0] for row in pairs] == ["BTCUSD", "ETHUSD", "ETHBTC", "TEST:USD"]
    assert all(len(row[1]) == 12 for row in pairs)
    btc = api.node.shown.instruments[BTC]
    assert pairs[0][1][3:5] == [btc.quantity_text(1), btc.quantity_text(MAX_LOTS)]
    assert futures == securities == margin == []
    labels = (
        "pub:list:currency,pub:map:currency:sym,pub:map:currency:label,pub:map:currency:unit,"
        "pub:map:currency:undl,pub:map:currency:pool,pub:map:currency:explorer,"
        "pub:map:currency:tx:fee,pub:map:tx:method,pub:info:tx:status,pub:list:currency:margin"
    )
    answered = await get(api, f"conf/{labels}")
    assert len(answered) == 11
    assert answered[0] == ["BTC", "ETH", "TEST", "USD"]
    assert ["BTC", "BTC"] in answered[2]
    assert await get(api, "conf/pub:list:pair:exchange") == [
        ["BTCUSD", "ETHUSD", "ETHBTC", "TEST:USD"]
    ]
    unknown = "pub:list:pair:exchange:inactive,pub:map:currency:wfx,pub:info:tx:status"
    assert await get(api, f"conf/{unknown}") == [[], [], []]
    for label in ("pub", "pub:nothing", "pub:list:", "Pub:list:pair", "pub:list:pair,", "x" * 99):
        code, text = await refused(api, f"conf/{label}")
        assert (code, text[:13]) == (10020, "conf: invalid")


async def test_tickers(api: Api) -> None:
    shown = api.node.shown
    assert await get(api, "ticker/tBTCUSD") == [None, 0, None, 0, None, None, None, 0, None, None]
    shown.order(BTC, 1, "30000", "1", number=1)
    shown.order(BTC, 1, "29000", "2", number=2)
    shown.order(BTC, -1, "30001.5", "0.5", number=3)
    shown.trade(BTC, 1, "32000", "0.25", time=NOW - 2 * HOUR)
    shown.trade(BTC, -1, "30000", "0.5")
    wanted = [30000, 3, 30001.5, 0.5, -2000, -0.0625, 30000, 0.75, 32000, 30000]
    assert await get(api, "ticker/tBTCUSD") == wanted
    assert await get(api, "tickers?symbols=tBTCUSD") == [["tBTCUSD", *wanted]]
    every = await get(api, "tickers?symbols=ALL")
    assert [row[0] for row in every] == ["tBTCUSD", "tETHUSD", "tETHBTC", "tTEST:USD"]
    assert {len(row) for row in every} == {11}
    two = await get(api, "tickers?symbols=tTEST:USD,tBTC:USD")
    assert [row[0] for row in two] == ["tTEST:USD", "tBTCUSD"]
    for path in ("tickers", "tickers?symbols="):
        assert await refused(api, path) == (10020, "symbols: invalid")


@pytest.mark.parametrize(
    ("last", "bid", "ask", "quotes"),
    [
        (None, "30000", None, [30000, 1, 30000, 0]),
        (None, None, "30000", [30000, 0, 30000, 1]),
        ("31000", None, None, [31000, 0, 31000, 0]),
        ("31000", "30000", None, [30000, 1, 31000, 0]),
        ("29000", "30000", None, [30000, 1, 30000, 0]),  # never across the other side
        ("29000", None, "30000", [29000, 0, 30000, 1]),
        ("31000", None, "30000", [30000, 0, 30000, 1]),
    ],
)
async def test_a_side_without_orders_has_a_price_and_the_size_0(
    api: Api, last: str | None, bid: str | None, ask: str | None, quotes: list[float]
) -> None:
    shown = api.node.shown
    if last is not None:
        shown.trade(BTC, 1, last, "0.5", time=NOW - 30 * HOUR)
    if bid is not None:
        shown.order(BTC, 1, bid, "1", number=1)
    if ask is not None:
        shown.order(BTC, -1, ask, "1", number=2)
    found = await get(api, "ticker/tBTCUSD")
    assert found[:4] == quotes
    traded = None if last is None else float(last)
    change = None if last is None else 0
    assert found[4:] == [change, change, traded, 0, traded, traded]


async def test_unknown_symbols_are_refused_everywhere(api: Api) -> None:
    for path in (
        *("ticker/tNOSUCH", "tickers?symbols=tBTCUSD,tNOSUCH", "trades/tNOSUCH/hist"),
        *("book/tNOSUCH/P0", "candles/trade:1m:tNOSUCH/hist", "ticker/BTCUSD", "ticker/fUSD"),
    ):
        assert await refused(api, path) == (10020, "symbol: invalid")


async def test_trades_are_sorted_limited_and_bounded_in_time(api: Api) -> None:
    for n in range(3):
        api.node.shown.trade(BTC, 1 if n else -1, f"{30000 + n}", "0.1", time=NOW + n * 1000)
    newest = await get(api, "trades/tBTCUSD/hist")
    assert [row[1:] for row in newest] == [
        [MS + 2, 0.1, 30002], [MS + 1, 0.1, 30001], [MS, -0.1, 30000],
    ]  # fmt: skip
    assert all(isinstance(row[0], int) and 0 < row[0] < 2**53 for row in newest)
    assert await get(api, "trades/tBTCUSD/hist?sort=1") == newest[::-1]
    assert await get(api, "trades/tBTCUSD/hist?limit=1&sort=-1") == newest[:1]
    assert await get(api, f"trades/tBTCUSD/hist?start={MS + 1}&end={MS + 1}") == newest[1:2]
    assert await get(api, "trades/tBTCUSD/hist?end=0") == []
    assert (
        await get(api, "trades/tBTCUSD/hist?limit=99999999&start=&end=9999999999999999") == newest
    )
    for name, value in (("limit", "0"), ("limit", "x"), ("sort", "2"), ("start", "1.5")):
        found = await refused(api, f"trades/tBTCUSD/hist?{name}={value}")
        assert found == (10020, f"{name}: invalid")


async def test_books_in_every_precision(api: Api) -> None:
    shown = api.node.shown
    shown.order(TEST, 1, "12.34", "5", number=1)
    shown.order(TEST, 1, "12.34", "6", number=2)
    shown.order(TEST, -1, "12.41", "7", number=3)
    assert await get(api, "book/tTEST:USD/P0") == [[12.34, 2, 11], [12.41, 1, -7]]
    assert await get(api, "book/tTEST%3AUSD/P1?len=1") == [[12.34, 2, 11], [12.41, 1, -7]]
    assert await get(api, "book/tTEST:USD/P2?len=250") == [[12.3, 2, 11], [12.5, 1, -7]]
    raw = await get(api, "book/tTEST:USD/R0?len=99")
    assert [row[1:] for row in raw[2:]] == [[12.41, -7]]
    assert sorted(row[2] for row in raw[:2]) == [5, 6]
    assert await get(api, "book/tBTCUSD/P0") == []
    assert await refused(api, "book/tBTCUSD/P9") == (10020, "prec: invalid")
    assert await refused(api, "book/tBTCUSD/P0?len=251") == (10020, "len: invalid")


async def test_candles_of_every_length(api: Api) -> None:
    shown = api.node.shown
    shown.trade(BTC, 1, "30000", "0.5", time=NOW - MINUTE)
    shown.trade(BTC, 1, "29000", "0.5")
    shown.trade(BTC, 1, "31000", "0.5")
    shown.trade(BTC, 1, "30500", "0.5")
    minute = NOW // MINUTE * MINUTE // 1000
    newest = await get(api, "candles/trade:1m:tBTCUSD/hist")
    assert newest == [
        [minute, 29000, 30500, 31000, 29000, 1.5],
        [minute - 60_000, 30000, 30000, 30000, 30000, 0.5],
    ]
    assert await get(api, "candles/trade:1m:tBTCUSD/last") == newest[0]
    assert await get(api, "candles/trade%3A1m%3AtBTCUSD/hist?sort=1") == newest[::-1]
    assert await get(api, f"candles/trade:1m:tBTCUSD/hist?start={minute}") == newest[:1]
    assert await get(api, "candles/trade:1m:tTEST:USD/hist") == []
    assert await get(api, "candles/trade:1m:tTEST:USD/last") == []
    for name in TIMEFRAMES:
        assert (await get(api, f"candles/trade:{name}:tBTCUSD/last"))[2] == 30500
    assert await refused(api, "candles/trade:2m:tBTCUSD/hist") == (10020, "timeframe: invalid")
    assert await refused(api, "candles/funding:1m:fUSD/hist") == (10020, "key: invalid")
    assert await refused(api, "candles/trade:1m:tBTCUSD/next") == (10020, "section: invalid")


async def test_authenticated_paths_know_no_key_and_others_nothing(api: Api) -> None:
    for path in ("auth/r/wallets", "auth/w/order/submit", "auth/anything/at/all"):
        assert await refused(api, path, "POST") == (10100, "apikey: invalid")
    assert await refused(api, "auth/r/wallets") == (10100, "apikey: invalid")
    assert await refused(api, "status/deriv", status=404) == (10000, "path: unknown")
    assert await refused(api, "ticker/tBTCUSD", "POST", 404) == (10000, "path: unknown")


async def test_a_client_beyond_its_rate_gets_an_error() -> None:
    async with running_exchange(rate_limit=30) as exchange:  # five at once
        answers = [await exchange.send("/v2/platform/status", b"", {}, "GET") for _ in range(6)]
    assert [answer.status for answer in answers] == [200] * 5 + [429]
    assert answers[-1].json == ["error", 11010, "ratelimit: error"]


async def test_a_fault_of_the_node_is_an_error_with_its_number_in_the_log(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(key: str) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(api.node.market_data, "ticker", fail)
    code, text = await refused(api, "ticker/tBTCUSD")
    assert code == 10000
    assert "secret" not in text
    assert text.rpartition(" ")[2] in caplog.text
