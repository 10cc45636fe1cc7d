"""Tickers of the past, average prices, exchange rates, and session tokens of the Bitfinex dialect."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from bitfinex_kit import Credentials, Exchange, running_exchange
from market_kit import NOW
from trading_kit import Api, running_api

from exchange.ledger.accounts import Accounts
from exchange.market.candles import HOUR
from node.annexes.bitfinex.authentication import TOKENS_OF_KEY, KeySession, SessionTokens
from node.annexes.bitfinex.errors import BitfinexError

BTC, ETH, ETH_BTC = "BTC-USD", "ETH-USD", "ETH-BTC"


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with running_api() as api:
        yield api


@pytest.fixture
async def exchange() -> AsyncIterator[Exchange]:
    async with running_exchange() as exchange:
        yield exchange


async def calculated(api: Api, path: str, body: Any) -> Any:
    answer = await api.post(f"/v2/calc/{path}", body)
    return answer.json if answer.status == 200 else tuple(answer.json[1:])


async def test_tickers_of_the_past_are_one_an_hour_newest_first(api: Api) -> None:
    shown = api.node.shown
    hour = NOW - NOW % HOUR
    shown.trade(BTC, 1, "30000", "1", time=hour - 3 * HOUR)
    shown.trade(BTC, 1, "31000", "1", time=hour - HOUR)
    shown.trade(ETH, 1, "2000", "1", time=hour - 2 * HOUR)
    rows = (await api.get("/v2/tickers/hist?symbols=ALL")).json
    assert {len(row) for row in rows} == {13}
    assert [(row[0], row[1], row[3], row[12]) for row in rows] == [
        ("tBTCUSD", 31000, 31000, (hour - HOUR) // 1000),
        ("tETHUSD", 2000, 2000, (hour - 2 * HOUR) // 1000),
        ("tBTCUSD", 30000, 30000, (hour - 3 * HOUR) // 1000),
    ]
    path = f"/v2/tickers/hist?symbols=tBTCUSD&limit=1&end={(hour - 2 * HOUR) // 1000}"
    assert [row[1] for row in (await api.get(path)).json] == [30000]
    assert (await api.get("/v2/tickers/hist?symbols=")).json == ["error", 10020, "symbols: invalid"]


async def test_the_average_price_of_a_market_order(api: Api) -> None:
    shown = api.node.shown
    shown.order(BTC, -1, "30000", "1", number=1)
    shown.order(BTC, -1, "30100", "1", number=2)
    shown.order(BTC, 1, "29000", "2", number=3)
    ask = {"symbol": "tBTCUSD", "amount": "2"}
    assert await calculated(api, "trade/avg", ask) == [30050, 2]
    assert await calculated(api, "trade/avg", {**ask, "amount": "9"}) == [30050, 2]
    assert await calculated(api, "trade/avg", {**ask, "amount": "-0.5"}) == [29000, -0.5]
    assert await calculated(api, "trade/avg", {**ask, "rate_limit": "30050"}) == [30000, 1]
    assert await calculated(api, "trade/avg", {**ask, "price_limit": 30050}) == [30000, 1]
    assert (await calculated(api, "trade/avg", {**ask, "rate_limit": "29999"}))[0] == 10020
    assert (await calculated(api, "trade/avg", {**ask, "amount": "0"}))[0] == 10020
    assert (await calculated(api, "trade/avg", [ask]))[0] == 10020
    query = await api.post("/v2/calc/trade/avg?symbol=tBTCUSD&amount=1")
    assert query.json == [30000, 1]


async def test_rates_of_currencies(api: Api) -> None:
    shown = api.node.shown
    ask = {"ccy1": "BTC", "ccy2": "USD"}
    assert (await calculated(api, "fx", ask))[0] == 10020
    shown.order(BTC, -1, "30100", "1", number=1)
    shown.order(BTC, 1, "29900", "1", number=2)
    assert await calculated(api, "fx", ask) == [30000]
    shown.trade(BTC, 1, "25000", "1")
    shown.trade(ETH_BTC, 1, "0.08", "1")
    assert await calculated(api, "fx", ask) == [25000]
    assert await calculated(api, "fx", {"ccy1": "USD", "ccy2": "BTC"}) == [0.00004]
    assert await calculated(api, "fx", {"ccy1": "ETH", "ccy2": "USD"}) == [2000]
    assert await calculated(api, "fx", {"ccy1": "ETH", "ccy2": "ETH"}) == [1]
    for wrong in (
        {"ccy1": "XXX", "ccy2": "USD"},
        {"ccy1": "BTC"},
        {"ccy1": ["BTC"], "ccy2": "USD"},
    ):
        assert (await calculated(api, "fx", wrong))[0] == 10020


# Tokens


async def entered(
    exchange: Exchange, token: str, path: str, body: bytes = b"{}"
) -> tuple[int, Any]:
    answer = await exchange.send(f"/v2/auth/{path}", body, {"bfx-token": token})
    return answer.status, answer.json


async def issued(exchange: Exchange, key: Credentials, **more: Any) -> str:
    (token,) = (await exchange.post(key, "w/token", {"scope": "api", **more})).json
    assert isinstance(token, str)
    return token


async def test_a_token_stands_for_its_key_with_the_requested_permissions(
    exchange: Exchange,
) -> None:
    key = exchange.key()
    cancel = b'{"all": 1}'
    reading = await issued(exchange, key)
    assert (await entered(exchange, reading, "r/wallets"))[0] == 200
    assert (await entered(exchange, reading, "w/order/cancel/multi", cancel))[1][1] == 10100
    trading = await issued(exchange, key, writePermission=True, caps=["o"], ttl=60)
    assert (await entered(exchange, trading, "w/order/cancel/multi", cancel))[0] == 200
    other = await issued(exchange, key, writePermission=True, caps=["w", "s"])
    assert (await entered(exchange, other, "w/order/cancel/multi", cancel))[1][1] == 10100
    ended = await exchange.post(key, "w/token/del", {"token": trading})
    assert ended.json == [1]
    assert (await entered(exchange, trading, "r/wallets"))[0] == 500
    assert (await exchange.post(key, "w/token/del", {"token": trading})).json[1] == 10020
    for wrong in (
        {"ttl": 0},
        {"ttl": 10**9},
        {"caps": ["x"]},
        {"caps": "o"},
        {"writePermission": 7},
    ):
        assert (await exchange.post(key, "w/token", wrong)).json[1] == 10020
    assert (await entered(exchange, "pub:api:none", "r/wallets"))[1] == [
        "error",
        10100,
        "token: invalid",
    ]


READS = {
    "a": ("r/info/user", "r/summary"),
    "o": ("r/orders", "r/orders/hist", "r/trades/hist", "r/positions"),
    "w": ("r/wallets", "r/ledgers/hist"),
    "f": (),
}


async def test_letters_of_a_token_bind_its_reads(exchange: Exchange) -> None:
    key = exchange.key()
    for letter in READS:
        token = await issued(exchange, key, caps=[letter], writePermission=True)
        for other, paths in READS.items():
            for path in paths:
                status, _ = await entered(exchange, token, path)
                assert (status == 200) == (other == letter), (letter, path)


async def test_a_token_makes_no_token_and_ends_no_other(exchange: Exchange) -> None:
    key = exchange.key()
    token, other = await issued(exchange, key), await issued(exchange, key)
    _, told = await entered(exchange, token, "w/token", b'{"ttl": 60}')
    assert told[1:] == [
        10100,
        "token: invalid: a token makes no token; sign the request with the key",
    ]
    for ended, answer in ((other, ["error", 10020, "token: invalid"]), (token, [1])):
        body = json.dumps({"token": ended}).encode()
        assert (await entered(exchange, token, "w/token/del", body))[1] == answer
    assert (await entered(exchange, token, "r/wallets"))[0] == 500
    assert (await entered(exchange, other, "r/wallets"))[0] == 200


def test_a_token_ends_with_its_time_its_key_and_newer_ones() -> None:
    now = 0.0
    accounts = Accounts()
    account = accounts.create(NOW, "alice")
    api_key = accounts.create_key(
        NOW, account.number, frozenset({"read", "trade"}), key="a" * 32, secret="b" * 64, label=""
    )
    tokens = SessionTokens(accounts, lambda: now)
    session = KeySession(account.number, api_key.permissions, api_key.key)
    token = tokens.issue(session, 60, None, write=True)
    of_token = session._replace(token=token)
    assert tokens.session(token) == of_token
    now = 59.9
    assert tokens.session(token) == of_token
    now = 60.0
    with pytest.raises(BitfinexError, match="token: invalid"):
        tokens.session(token)
    held = [tokens.issue(session, 60, None, write=False) for _ in range(TOKENS_OF_KEY + 1)]
    with pytest.raises(BitfinexError):
        tokens.session(held[0])
    assert tokens.session(held[1]).permissions == {"read"}
    accounts.revoke(NOW, api_key.key)
    with pytest.raises(BitfinexError):
        tokens.session(held[1])
