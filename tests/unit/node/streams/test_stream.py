"""The WebSocket stream, over real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType
from stream_kit import check_sent
from trading_kit import Api, TradingNode, running_api

from node.api import limits
from node.api.access import AccessRules
from node.streams import stream as core
from node.views.account_views import MoneyRequest

BOOK = {"op": "subscribe", "channel": "book", "market": "BTC-USD"}
NAME = "book/BTC-USD/L2/25/network"


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with running_api() as api:
        yield api


class Socket:
    """A stream's client that checks every message against the document."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.raw = socket

    async def send(self, message: dict[str, Any]) -> None:
        await self.raw.send_str(json.dumps(message))

    async def next(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(await self.raw.receive_str(timeout=5))
        check_sent(event)
        return event

    async def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        await self.send(message)
        return await self.next()

    async def subscribe(self, channel: str, **fields: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The answer, and the snapshot."""
        if channel in ("book", "trades", "ticker", "candles"):
            fields.setdefault("market", "BTC-USD")
        told = await self.ask({"op": "subscribe", "channel": channel, **fields})
        assert told["event"] == "subscribed", told
        return told, await self.next()


@pytest.fixture
async def socket(api: Api) -> AsyncIterator[Socket]:
    async with api.session.ws_connect(f"{api.url}/v1/stream") as raw:
        yield Socket(raw)


def readers(node: TradingNode) -> int:
    return sum(len(stream.readers) for stream in node.stream_registry._streams.values())


async def gone(node: TradingNode) -> None:
    """Waits until the registry has no reader any more."""
    async with asyncio.timeout(5):
        while readers(node):  # noqa: ASYNC110 - the registry has no event for it
            await asyncio.sleep(0.01)


# Subscriptions


async def test_every_public_channel_comes_on_one_connection(api: Api, socket: Socket) -> None:
    kinds = {
        (await socket.subscribe(channel, **fields))[1]["event"]
        for channel, fields in (
            ("book", {"level": "L1"}),
            ("book", {"level": "L2", "depth": "full", "scope": "own"}),
            ("book", {"level": "L3", "depth": 100}),
            ("trades", {}),
            ("ticker", {}),
            ("candles", {"timeframe": "1h"}),
        )
    }
    assert kinds == {
        "book_l1", "book_l2_snapshot", "book_l3_snapshot", "trades_snapshot", "ticker",
        "candles_snapshot",
    }  # fmt: skip
    await api.node.place_remote("BTC-USD", "sell", "1", "30000")
    await api.node.place_remote("BTC-USD", "buy", "1", "30000")
    seen: set[str] = set()
    while seen != {"book_l1", "book_l3", "trades", "candles", "ticker"}:
        event = await socket.next()
        assert event["event"] != "book_l2", "nothing of it is the node's own"
        seen.add(event["event"])


async def test_missed_messages_come_on_return(api: Api, socket: Socket) -> None:
    _, snapshot = await socket.subscribe("book")
    async with api.session.ws_connect(f"{api.url}/v1/stream") as raw:
        back = Socket(raw)
        for price in range(100):
            await api.node.place_remote("BTC-USD", "sell", "1", str(30000 + price))
        place = {"epoch": snapshot["epoch"], "sequence": snapshot["sequence"]}
        told, first = await back.subscribe("book", resume=place)
        assert told["resumed"] is True
        missed = [first, *[await back.next() for _ in range(24)]]
        assert [m["asks"][0][0] for m in missed] == [str(30000 + n) for n in range(25)]
        _, snapshot = await back.subscribe("trades", resume={"epoch": "other", "sequence": 3})
        assert snapshot["reason"] == "restarted"


async def test_a_slow_pace_does_not_hold_up_the_other_subscriptions(
    api: Api, socket: Socket
) -> None:
    await socket.subscribe("book", conflate_ms=60_000)
    await socket.subscribe("trades")
    await api.node.place_remote("BTC-USD", "sell", "1", "30000")
    await api.node.place_remote("BTC-USD", "buy", "1", "30000")
    assert (await socket.next())["event"] == "trades"


async def test_a_ping_is_answered_with_its_id(socket: Socket) -> None:
    assert await socket.ask({"op": "ping", "id": "7"}) == {"event": "pong", "id": "7"}


# Refusals


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "truncated"),
        ("nonsense", "malformed"),
        ("[]", "Expected `object`"),
        ("{}", "op"),
        ('{"op":"shout"}', "shout"),
        ('{"op":"subscribe"}', "channel"),
        ('{"op":"subscribe","channel":"news"}', "news"),
        ('{"op":"subscribe","channel":"book"}', "missing market"),
        ('{"op":"subscribe","channel":"book","market":5}', "Expected `str`"),
        ('{"op":"subscribe","channel":"book","market":"BTC-USD","depth":3}', "depth"),
        ('{"op":"subscribe","channel":"book","market":"BTC-USD","deep":1}', "deep"),
        ('{"op":"subscribe","channel":"trades","market":"BTC-USD","depth":25}', "depth"),
        ('{"op":"subscribe","channel":"book","market":"BTC-USD","conflate_ms":-1}', "conflate_ms"),
        ('{"op":"subscribe","channel":"book","market":"BTC-USD","resume":{}}', "epoch"),
        ("[" * 4000, ""),
    ],
)
async def test_a_wrong_message_is_refused_and_the_connection_goes_on(
    socket: Socket, text: str, word: str
) -> None:
    await socket.raw.send_str(text)
    error = await socket.next()
    assert (error["event"], error["code"]) == ("error", "invalid_message")
    assert word in error["detail"]
    assert (await socket.ask({"op": "ping"}))["event"] == "pong"


async def test_a_binary_message_is_refused(socket: Socket) -> None:
    await socket.raw.send_bytes(b'{"op":"ping"}')
    assert (await socket.next())["code"] == "invalid_message"


async def test_a_second_subscription_and_one_that_is_not_there_are_refused(socket: Socket) -> None:
    await socket.subscribe("book")
    assert (await socket.ask(BOOK))["code"] == "already_subscribed"
    answer = await socket.ask({"op": "unsubscribe", "stream": "trades/BTC-USD"})
    assert answer["code"] == "not_subscribed"


async def test_the_number_of_subscriptions_is_limited(
    socket: Socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STREAM_MAX_SUBSCRIPTIONS", 1)
    await socket.subscribe("book")
    more = {"op": "subscribe", "channel": "trades", "market": "BTC-USD"}
    assert (await socket.ask(more))["code"] == "too_many_subscriptions"
    await socket.ask({"op": "unsubscribe", "stream": NAME})
    assert (await socket.subscribe("trades"))[1]["event"] == "trades_snapshot"


async def test_the_number_of_streams_is_limited() -> None:
    async with running_api(rules=AccessRules(max_streams=1)) as api:
        async with api.session.ws_connect(f"{api.url}/v1/stream"):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await api.session.ws_connect(f"{api.url}/v1/stream")
            assert refused.value.status == 503
        await asyncio.sleep(0.01)
        async with api.session.ws_connect(f"{api.url}/v1/stream") as raw:
            assert (await Socket(raw).ask({"op": "ping"}))["event"] == "pong"


async def test_a_plain_request_gets_the_advice_to_upgrade(api: Api) -> None:
    answer = await api.get("/v1/stream")
    assert (answer.status, answer.json["code"]) == (426, "upgrade_required")
    assert answer.headers["Upgrade"] == "websocket"


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Host": "evil.example"}])
async def test_a_page_of_another_site_cannot_open_the_stream(
    api: Api, headers: dict[str, str]
) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await api.session.ws_connect(f"{api.url}/v1/stream", headers=headers)
    assert refused.value.status == 403


# Accounts


async def with_key(api: Api, *permissions: Any) -> tuple[str, str]:
    """An account's key and secret."""
    key, secret = "k" * 24, "s" * 43
    api.node.accounts.create(1, "alice")
    api.node.accounts.create_key(2, 1, set(permissions), "bot", key, secret)
    await api.node.operations.deposit("alice", MoneyRequest(asset="USD", amount="5"))
    return key, secret


@pytest.fixture
async def closed() -> AsyncIterator[Api]:
    """A node that wants keys."""
    async with running_api(rules=AccessRules(keys_required=True)) as api:
        yield api


async def test_an_account_is_known_by_a_message(closed: Api) -> None:
    key, secret = await with_key(closed, "read")
    async with closed.session.ws_connect(f"{closed.url}/v1/stream") as raw:
        socket = Socket(raw)
        private = {"op": "subscribe", "channel": "balances"}
        assert (await socket.ask(private))["code"] == "key_required"
        await socket.subscribe("book")  # what is public needs nobody
        wrong = await socket.ask({"op": "auth", "key": key, "secret": "guess", "id": "1"})
        assert (wrong["event"], wrong["id"]) == ("error", "1")
        assert "guess" not in wrong["detail"]
        told = await socket.ask({"op": "auth", "key": key, "secret": secret})
        assert (told["event"], told["account"]) == ("authenticated", 1)
        _, snapshot = await socket.subscribe("balances")
        assert snapshot["balances"][0]["total"] == "5"
        again = await socket.ask({"op": "auth", "key": key, "secret": secret})
        assert again["code"] == "already_subscribed"


async def test_a_key_that_may_not_read_does_not(closed: Api) -> None:
    key, secret = await with_key(closed, "trade")
    async with closed.session.ws_connect(f"{closed.url}/v1/stream") as raw:
        socket = Socket(raw)
        await socket.ask({"op": "auth", "key": key, "secret": secret})
        refused = await socket.ask({"op": "subscribe", "channel": "orders"})
        assert refused["code"] == "no_permission"


async def test_a_connection_ends_with_its_key(closed: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STREAM_SEND_TIMEOUT", 0.2)
    key, secret = await with_key(closed, "read")
    headers = {"Authorization": f"Bearer {key}:{secret}"}
    url = f"{closed.url}/v1/stream"
    async with closed.session.ws_connect(url, headers=headers) as raw:
        await Socket(raw).subscribe("orders")
        closed.node.accounts.revoke(3, key)
        message = await raw.receive(timeout=5)
        assert (message.type, message.data, message.extra) == (
            WSMsgType.CLOSE, 4001, "the key was revoked",
        )  # fmt: skip


async def test_without_keys_the_account_is_the_houses(api: Api, socket: Socket) -> None:
    await api.post("/v1/accounts/house/deposits", {"asset": "BTC", "amount": "1"})
    _, snapshot = await socket.subscribe("balances")
    assert snapshot["balances"][0]["total"] == "1"


# Slow readers, failures, ends


async def test_a_reader_that_takes_nothing_is_cut_and_costs_no_memory(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STREAM_SEND_TIMEOUT", 0.2)
    monkeypatch.setattr(limits, "STREAM_CLOSE_TIMEOUT", 0.1)
    monkeypatch.setattr(limits, "STREAM_BUFFER", 1024)
    monkeypatch.setattr(core, "CONFLATE_BEHIND", 10**9)
    session = aiohttp.ClientSession()
    async with session, session.ws_connect(f"{api.url}/v1/stream") as raw:
        transport = raw._conn.transport  # type: ignore[union-attr]
        transport.pause_reading()
        await raw.send_str(
            json.dumps({"op": "subscribe", "channel": "trades", "market": "BTC-USD"})
        )
        await asyncio.sleep(0.05)
        assert readers(api.node) == 1
        async with asyncio.timeout(20):
            while readers(api.node):  # more than any socket buffer
                for _ in range(100):
                    api.node.shown.trade("BTC-USD", 1, "30000", "1")
                await asyncio.sleep(0.001)
        assert (
            len(api.node.stream_registry._streams[("trades/BTC-USD", None)]._history)
            <= core.MAX_HISTORY
        )
        transport.resume_reading()
        while (await raw.receive(timeout=5)).type is WSMsgType.TEXT:
            pass  # what was on the way; then the connection is at its end
        assert raw.close_code in (1006, 4000)
        assert (await api.get("/v1/health")).status == 200


async def test_a_reader_too_far_behind_for_trades_learns_why_it_is_closed(
    api: Api, socket: Socket
) -> None:
    await socket.subscribe("trades")
    for _ in range(core.MAX_HISTORY + 1):  # in one turn of the loop: nothing is sent between
        api.node.shown.trade("BTC-USD", 1, "30000", "1")
    message = await socket.raw.receive(timeout=5)
    assert (message.type, message.data) == (WSMsgType.CLOSE, 4000)
    assert message.extra is not None
    assert message.extra.startswith("too slow")
    await gone(api.node)


async def test_a_failure_of_one_subscription_leaves_the_others(
    api: Api, socket: Socket, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    await socket.subscribe("book")
    await socket.subscribe("trades")

    def fail(change: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(api.node.stream_registry._streams[(NAME, None)], "offer", fail)
    api.node.shown.trade("BTC-USD", 1, "30000", "1")
    error, trades = await socket.next(), await socket.next()
    if error["event"] != "error":
        error, trades = trades, error
    assert (error["code"], error["stream"]) == ("internal_error", NAME)
    assert "secret" not in error["detail"]
    assert "secret" in caplog.text
    assert trades["event"] == "trades"
    assert (await socket.subscribe("book"))[1]["event"] == "book_l2_snapshot"


async def test_a_reader_without_heartbeat_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STREAM_HEARTBEAT", 0.1)
    async with (
        running_api() as api,
        api.session.ws_connect(f"{api.url}/v1/stream", autoping=False) as raw,
    ):
        await Socket(raw).subscribe("book")
        assert (await raw.receive(timeout=5)).type is WSMsgType.PING
        await gone(api.node)


async def test_streams_without_readers_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STREAM_SWEEP", 0.01)
    monkeypatch.setattr("node.streams.stream_registry.LINGER", 0.02)
    async with running_api() as api:
        async with api.session.ws_connect(f"{api.url}/v1/stream") as raw:
            await Socket(raw).subscribe("book")
            await asyncio.sleep(0.1)
            assert len(api.node.stream_registry) == 1
        async with asyncio.timeout(5):
            while len(api.node.stream_registry):  # noqa: ASYNC110 - the registry has no event for it
                await asyncio.sleep(0.01)
