"""The Bitfinex WebSocket: events, echoes, channels, checksums, flags, slow readers."""

from __future__ import annotations

import asyncio
import json
import socket as system_socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from zlib import crc32

import aiohttp
import pytest
from market_kit import NOW
from trading_kit import Api, running_api

from exchange.market.candles import MINUTE
from node.annexes.bitfinex import bitfinex_socket, public_channels
from node.annexes.bitfinex.bitfinex_socket import BitfinexConnection
from node.annexes.bitfinex.limits import CHANNELS
from node.api.access import AccessRules

BTC = "BTC-USD"
MS = NOW // 1000
CHECKSUMS, SEQUENCE, TIMESTAMPS, BULK = 131_072, 65_536, 32_768, 536_870_912


class Reader:
    """A client that has been greeted."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws

    async def say(self, message: Any) -> None:
        await self.ws.send_str(message if isinstance(message, str) else json.dumps(message))

    async def hear(self) -> Any:
        async with asyncio.timeout(5):
            return json.loads(await self.ws.receive_str())

    async def ask(self, message: Any) -> Any:
        await self.say(message)
        return await self.hear()

    async def subscribe(self, channel: str, **parameters: Any) -> tuple[dict[str, Any], Any]:
        """The `subscribed` answer and the snapshot."""
        told = await self.ask({"event": "subscribe", "channel": channel, **parameters})
        assert told["event"] == "subscribed", told
        number, snapshot = await self.hear()
        assert number == told["chanId"]
        return told, snapshot

    async def nothing(self) -> None:
        """Whatever was to come before the answer to a ping has come."""
        told = await self.ask({"event": "ping", "cid": 77})
        assert told["event"] == "pong", told


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with running_api() as api:
        yield api


@asynccontextmanager
async def connected(api: Api) -> AsyncIterator[Reader]:
    async with api.session.ws_connect(f"{api.url}/ws/2") as ws:
        reader = Reader(ws)
        greeting = await reader.hear()
        assert greeting["event"] == "info"
        assert greeting["version"] == 2
        assert greeting["platform"] == {"status": 1}
        yield reader


@pytest.fixture
async def reader(api: Api) -> AsyncIterator[Reader]:
    async with connected(api) as reader:
        yield reader


# Events


async def test_ping_conf_and_auth_are_answered(reader: Reader) -> None:
    pong = await reader.ask({"event": "ping", "cid": 1234})
    assert (pong["event"], pong["cid"]) == ("pong", 1234)
    assert pong["ts"] > NOW // 1_000_000
    assert "cid" not in await reader.ask({"event": "ping"})
    told = await reader.ask({"event": "conf", "flags": CHECKSUMS})
    assert told == {"event": "conf", "status": "OK", "flags": CHECKSUMS}
    told = await reader.ask({"event": "auth", "apiKey": "k", "authNonce": 1})
    assert (told["event"], told["status"], told["code"]) == ("auth", "FAILED", 10100)
    assert (await reader.ask([0, "on", None, {}]))["code"] == 10100


@pytest.mark.parametrize(
    "message",
    [
        *("", "{", "7", '"subscribe"', "null", "{}"),
        *('{"event":"nonsense"}', '{"event":7}', '{"event":"conf","flags":"x"}'),
        *('{"event":"conf","flags":-1}', '{"event":"conf","flags":true}'),
    ],
)
async def test_malformed_messages_are_refused_and_the_connection_stays(
    reader: Reader, message: str
) -> None:
    told = await reader.ask(message)
    assert (told["event"], told["code"]) == ("error", 10000)
    await reader.nothing()


async def test_nested_input_is_not_echoed(reader: Reader) -> None:
    deep = "[" * 900 + "]" * 900
    assert "cid" not in await reader.ask(f'{{"event":"ping","cid":{deep}}}')
    told = await reader.ask(f'{{"event":"subscribe","channel":"x","symbol":{{"a":{deep}}}}}')
    assert told == {"event": "error", "channel": "x", "msg": "channel: unknown", "code": 10302}


async def test_binary_messages_are_refused(reader: Reader) -> None:
    await reader.ws.send_bytes(b"{}")
    assert (await reader.hear())["event"] == "error"


@pytest.mark.parametrize(
    ("parameters", "code", "text"),
    [
        ({"channel": "ticker", "symbol": "tNOSUCH"}, 10300, "symbol: invalid"),
        ({"channel": "ticker"}, 10300, "symbol: invalid"),
        ({"channel": "book", "symbol": "tBTCUSD", "prec": "P7"}, 10300, "prec: invalid"),
        ({"channel": "book", "symbol": "tBTCUSD", "len": "251"}, 10300, "len: invalid"),
        ({"channel": "book", "symbol": "tBTCUSD", "freq": "F2"}, 10300, "freq: invalid"),
        ({"channel": "candles", "key": "trade:2m:tBTCUSD"}, 10300, "timeframe: invalid"),
        ({"channel": "candles", "key": 7}, 10300, "key: invalid"),
        ({"channel": "status", "key": "deriv:tBTCUSD"}, 10302, "channel: unknown"),
        ({}, 10302, "channel: unknown"),
    ],
)
async def test_unknown_subscriptions_are_refused_with_their_parameters(
    reader: Reader, parameters: dict[str, Any], code: int, text: str
) -> None:
    told = await reader.ask({"event": "subscribe", "subId": "mine", **parameters})
    assert told == {**parameters, "subId": "mine", "event": "error", "code": code, "msg": text}


async def test_the_echo_shows_all_options_given_and_chosen(reader: Reader) -> None:
    told, _ = await reader.subscribe("book", symbol="tTEST:USD", subId="abc", len=100)
    assert told == {
        "event": "subscribed", "channel": "book", "chanId": told["chanId"], "symbol": "tTEST:USD",
        "pair": "TEST:USD", "prec": "P0", "freq": "F0", "len": "100", "subId": "abc",
    }  # fmt: skip
    told = await reader.ask({"event": "subscribe", "channel": "ticker", "pair": "BTCUSD"})
    assert (told["symbol"], told["pair"]) == ("tBTCUSD", "BTCUSD")
    assert "subId" not in told
    told = await reader.ask(
        {"event": "subscribe", "channel": "candles", "key": "trade:1m:tBTCUSD", "subId": "c"}
    )
    assert (told["key"], told["subId"]) == ("trade:1m:tBTCUSD", "c")


async def test_the_same_thing_twice_and_too_many_are_refused(reader: Reader) -> None:
    book = {"event": "subscribe", "channel": "book", "symbol": "tBTCUSD", "prec": "P1"}
    await reader.subscribe("book", symbol="tBTCUSD", prec="P1", len="25")
    assert (await reader.ask(book))["code"] == 10301
    opened = 1
    for prec in ("P0", "P1", "P2", "P3", "P4", "R0"):
        for length in (1, 25, 100, 250):
            if (prec, length) != ("P1", 25):
                await reader.subscribe("book", symbol="tBTCUSD", prec=prec, len=length)
                opened += 1
    await reader.subscribe("trades", symbol="tBTCUSD")
    assert opened + 1 == CHANNELS
    told = await reader.ask({"event": "subscribe", "channel": "trades", "symbol": "tETHUSD"})
    assert told["code"] == 10305


@pytest.mark.parametrize("kind", [int, str])
async def test_an_unsubscribed_channel_sends_nothing_more(
    api: Api, reader: Reader, kind: type
) -> None:
    told, _ = await reader.subscribe("book", symbol="tBTCUSD")
    number = told["chanId"]
    gone = await reader.ask({"event": "unsubscribe", "chanId": kind(number)})
    assert gone == {"event": "unsubscribed", "status": "OK", "chanId": number}
    api.node.shown.order(BTC, 1, "30000", "1", number=1)
    await reader.nothing()
    told = await reader.ask({"event": "unsubscribe", "chanId": number})
    assert (told["event"], told["code"]) == ("error", 10401)
    assert (await reader.ask({"event": "unsubscribe", "chanId": [1]}))["code"] == 10401
    again, _ = await reader.subscribe("book", symbol="tBTCUSD")
    assert again["chanId"] != number


# Channels


async def test_checksums_follow_each_batch_on_request(api: Api, reader: Reader) -> None:
    shown = api.node.shown
    told, _ = await reader.subscribe("book", symbol="tBTCUSD")
    shown.order(BTC, 1, "6000", "1", number=1)
    await reader.hear()
    await reader.ask({"event": "conf", "flags": CHECKSUMS})
    shown.order(BTC, -1, "6100", "3", number=2)
    shown.order(BTC, 1, "5900", "2.5", number=3)
    assert [(await reader.hear())[1] for _ in range(2)] == [[5900, 1, 2.5], [6100, 1, -3]]
    value = crc32(b"6000:1:6100:-3:5900:2.5")
    signed = value if value < 2**31 else value - 2**32
    assert await reader.hear() == [told["chanId"], "cs", signed]


async def test_bulk_updates_are_one_message(api: Api, reader: Reader) -> None:
    shown = api.node.shown
    await reader.ask({"event": "conf", "flags": BULK})
    told, _ = await reader.subscribe("book", symbol="tBTCUSD")
    shown.order(BTC, 1, "30000", "1", number=1)
    shown.order(BTC, 1, "29000", "1", number=2)
    assert await reader.hear() == [told["chanId"], [[30000, 1, 1], [29000, 1, 1]]]


async def test_sequence_numbers_count_all_messages_of_channels(api: Api, reader: Reader) -> None:
    await reader.ask({"event": "conf", "flags": SEQUENCE | CHECKSUMS})
    told = await reader.ask({"event": "subscribe", "channel": "book", "symbol": "tBTCUSD"})
    number = told["chanId"]
    assert await reader.hear() == [number, [], 1]
    assert await reader.hear() == [number, "cs", 0, 2]
    await reader.ask({"event": "conf", "flags": SEQUENCE | TIMESTAMPS})
    api.node.shown.order(BTC, 1, "30000", "1", number=1)
    *message, at = await reader.hear()
    assert message == [number, [30000, 1, 1], 3]
    assert at > NOW // 1_000_000


async def test_trades_come_as_execution_and_update(api: Api, reader: Reader) -> None:
    shown = api.node.shown
    shown.trade(BTC, 1, "30000", "0.5", time=NOW - 5000)
    shown.trade(BTC, -1, "30001", "0.25", time=NOW)
    told, snapshot = await reader.subscribe("trades", symbol="tBTCUSD")
    assert [row[1:] for row in snapshot] == [[MS, -0.25, 30001], [MS - 5, 0.5, 30000]]
    shown.trade(BTC, 1, "30002", "1")
    first, second = await reader.hear(), await reader.hear()
    assert first[:2] == [told["chanId"], "te"]
    assert second[:2] == [told["chanId"], "tu"]
    assert first[2] == second[2]
    assert first[2][1:] == [MS, 1, 30002]


async def test_a_ticker_is_sent_again_when_it_changed(api: Api, reader: Reader) -> None:
    shown = api.node.shown
    told = await reader.ask({"event": "subscribe", "channel": "ticker", "symbol": "tBTCUSD"})
    await reader.nothing()  # no prices yet
    shown.order(BTC, 1, "30000", "1", number=1)
    assert await reader.hear() == [
        told["chanId"], [30000, 1, 30000, 0, None, None, None, 0, None, None],
    ]  # fmt: skip
    for number in range(30):  # the sizes of the best 25 levels stay, and so does the best price
        shown.order(BTC, 1, f"{29000 - number}", "1", number=number + 2)
    assert (await reader.hear())[1][1] == 25
    far = shown.order(BTC, 1, "100", "1", number=99)
    shown.reduce(BTC, far, "0")
    await reader.nothing()


async def test_candles_begin_with_the_available_ones(api: Api, reader: Reader) -> None:
    shown = api.node.shown
    shown.trade(BTC, 1, "30000", "0.5", time=NOW - MINUTE)
    shown.trade(BTC, 1, "30001", "0.5")
    told, snapshot = await reader.subscribe("candles", key="trade:1m:tBTCUSD")
    minute = NOW // MINUTE * MINUTE // 1000
    assert snapshot == [
        [minute, 30001, 30001, 30001, 30001, 0.5],
        [minute - 60_000, 30000, 30000, 30000, 30000, 0.5],
    ]
    shown.trade(BTC, 1, "29000", "0.5")
    shown.trade(BTC, 1, "29500", "0.5")
    assert await reader.hear() == [told["chanId"], [minute, 30001, 29500, 30001, 29000, 1.5]]
    shown.trade(BTC, 1, "31000", "1", time=NOW - MINUTE)  # late
    assert (await reader.hear())[1][0] == minute - 60_000


async def test_without_a_candle_the_snapshot_waits_for_the_first(api: Api, reader: Reader) -> None:
    told = await reader.ask(
        {"event": "subscribe", "channel": "candles", "key": "trade:1h:tTEST:USD"}
    )
    await reader.nothing()
    api.node.shown.trade("TEST-USD", 1, "5", "1")
    number, snapshot = await reader.hear()
    assert number == told["chanId"]
    assert [row[1:] for row in snapshot] == [[5, 5, 5, 5, 1]]


# Time, load and the end


async def test_slow_books_wait_for_their_time(api: Api, reader: Reader) -> None:
    shown = api.node.shown
    await reader.subscribe("book", symbol="tBTCUSD", freq="F1")
    fast, _ = await reader.subscribe("book", symbol="tBTCUSD", freq="F0")
    for number in range(3):
        shown.order(BTC, 1, f"{30000 + number}", "1", number=number + 1)
        assert (await reader.hear())[0] == fast["chanId"]


async def test_a_reader_that_leaves_trades_lying_is_cut(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(public_channels, "TRADES_WAITING", 5)
    async with connected(api) as reader:
        await reader.subscribe("trades", symbol="tBTCUSD")
        for _ in range(6):
            api.node.shown.trade(BTC, 1, "30000", "1")
        async with asyncio.timeout(5):
            message = await reader.ws.receive()
        assert message.type in (
            aiohttp.WSMsgType.CLOSED,
            aiohttp.WSMsgType.ERROR,
            aiohttp.WSMsgType.CLOSE,
        )


async def test_a_reader_that_does_not_read_is_cut_and_costs_no_memory(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bitfinex_socket, "SEND_TIMEOUT", 0.2)
    monkeypatch.setattr(public_channels, "PACE", 0.0)
    ended = asyncio.Event()
    end = BitfinexConnection.on_end

    def closed(connection: BitfinexConnection) -> None:
        end(connection)
        ended.set()

    monkeypatch.setattr(BitfinexConnection, "on_end", closed)
    host, port = api.url.removeprefix("http://").split(":")
    small = system_socket.socket()
    small.setsockopt(system_socket.SOL_SOCKET, system_socket.SO_RCVBUF, 4096)
    small.connect((host, int(port)))
    reader, writer = await asyncio.open_connection(sock=small, limit=2**10)
    try:
        writer.write(
            f"GET /ws/2 HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        text = b'{"event":"subscribe","channel":"book","symbol":"tBTCUSD","len":250}'
        writer.write(bytes([0x81, 0x80 | len(text)]) + b"\0\0\0\0" + text)  # a mask of zeros
        await writer.drain()
        await reader.readuntil(b"subscribed")
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        shown = api.node.shown
        keys = [shown.order(BTC, 1, f"{20000 + n}", "1", number=n + 1) for n in range(250)]
        book = shown.markets[shown.instruments[BTC].key].book
        lots = 1
        async with asyncio.timeout(30):
            while not ended.is_set():
                lots += 1
                for key in keys[1:]:
                    book.set_quantity(key, lots)
                shown.reduce(BTC, keys[0], f"0.{lots % 99 + 1:02}")
                await asyncio.sleep(0)
    finally:
        writer.close()
    assert all(not line.listeners for line in shown.data._lines.values())


async def test_readers_are_notified_when_the_node_stops() -> None:
    async with running_api() as node, node.session.ws_connect(f"{node.url}/ws/2") as ws:
        reader = Reader(ws)
        await reader.hear()
        stopping = asyncio.create_task(node.server.stop())
        told = await reader.hear()
        assert (told["event"], told["code"]) == ("info", 20051)
        assert (await ws.receive()).type is aiohttp.WSMsgType.CLOSE
        assert ws.close_code == 1012
        await stopping


async def test_plain_http_is_pointed_to_websocket(api: Api) -> None:
    answer = await api.get("/ws/2")
    assert answer.status == 426
    assert answer.headers["Upgrade"] == "websocket"


async def test_pages_of_other_sites_cannot_connect(api: Api) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await api.session.ws_connect(f"{api.url}/ws/2", headers={"Origin": "https://evil.example"})
    assert refused.value.status == 403


async def test_connections_are_limited() -> None:
    async with running_api(rules=AccessRules(max_streams=1)) as api, connected(api):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await api.session.ws_connect(f"{api.url}/ws/2")
        assert refused.value.status == 429
