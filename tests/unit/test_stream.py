"""The WebSocket stream, over real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType
from api_kit import Api, check, running_api
from fake_service import QUEUE, FakeService

from node.api import ApiServer, limits
from node.api.openapi import document
from node.views import LevelChange, OrderRequest


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with running_api() as api:
        yield api


class Socket:
    """A stream's client that checks every event against the document."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.raw = socket

    async def send(self, message: dict[str, Any]) -> None:
        await self.raw.send_str(json.dumps(message))

    async def next(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(await self.raw.receive_str(timeout=5))
        check(event, document()["paths"]["/v1/stream"]["get"]["x-websocket"]["server"])
        return event

    async def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        await self.send(message)
        return await self.next()

    async def subscribe(self, market: str) -> dict[str, Any]:
        return await self.ask({"op": "subscribe", "market": market})


@pytest.fixture
async def socket(api: Api) -> AsyncIterator[Socket]:
    async with api.session.ws_connect(f"{api.url}/v1/stream") as raw:
        yield Socket(raw)


async def gone(api: Api) -> None:
    """Waits until the service has no reader any more."""
    async with asyncio.timeout(5):
        while api.service.readers:  # noqa: ASYNC110 - the service has no event for it
            await asyncio.sleep(0.01)


def order(side: Any, quantity: str, price: str | None = None) -> OrderRequest:
    return OrderRequest(market="BTC-USD", side=side, quantity=quantity, price=price)


async def test_a_subscription_begins_with_a_snapshot_and_goes_on_with_changes(
    api: Api, socket: Socket
) -> None:
    await api.service.submit(order("buy", "0.5", "30000"))
    snapshot = await socket.subscribe("BTC-USD")
    assert snapshot["event"] == "snapshot"
    assert snapshot["book"]["bids"][0]["own"] == "0.5"
    api.service.place_remote("BTC-USD", "sell", "0.2", "30000")
    level, trade, own = [await socket.next() for _ in range(3)]
    assert (level["event"], level["quantity"], level["side"]) == ("book", "0.3", "buy")
    assert (trade["event"], trade["trade"]["quantity"]) == ("trade", "0.2")
    assert (own["event"], own["order"]["filled"]) == ("order", "0.2")
    assert {event["market"] for event in (level, trade, own)} == {"BTC-USD"}
    assert level["sequence"] > snapshot["book"]["sequence"]


async def test_several_markets_come_on_one_connection(api: Api, socket: Socket) -> None:
    assert (await socket.subscribe("BTC-USD"))["market"] == "BTC-USD"
    assert (await socket.subscribe("ETH-USD"))["market"] == "ETH-USD"
    api.service.place_remote("ETH-USD", "sell", "1", "2000")
    api.service.place_remote("BTC-USD", "sell", "1", "30000")
    assert {(await socket.next())["market"] for _ in range(2)} == {"ETH-USD", "BTC-USD"}


async def test_nothing_of_a_market_comes_after_it_was_unsubscribed(
    api: Api, socket: Socket
) -> None:
    await socket.subscribe("BTC-USD")
    answer = await socket.ask({"op": "unsubscribe", "market": "BTC-USD"})
    assert answer == {"event": "unsubscribed", "market": "BTC-USD"}
    assert api.service.readers == []
    api.service.place_remote("BTC-USD", "sell", "1", "30000")
    assert (await socket.ask({"op": "ping"}))["event"] == "pong"
    assert (await socket.subscribe("BTC-USD"))["book"]["asks"]


async def test_a_ping_is_answered_with_its_id(socket: Socket) -> None:
    assert await socket.ask({"op": "ping", "id": "7"}) == {"event": "pong", "id": "7"}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "truncated"),
        ("nonsense", "malformed"),
        ("[]", "Expected `object`"),
        ("{}", "op"),
        ('{"op":"shout"}', "shout"),
        ('{"op":"subscribe"}', "market"),
        ('{"op":"subscribe","market":5}', "Expected `str`"),
        ('{"op":"subscribe","market":"BTC-USD","depth":3}', "depth"),
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


async def test_an_unknown_market_is_refused_and_can_be_asked_for_again(
    api: Api, socket: Socket
) -> None:
    for _ in range(2):
        error = await socket.subscribe("XX-USD")
        assert (error["event"], error["code"]) == ("error", "unknown_market")
        assert error["market"] == "XX-USD"
        assert "BTC-USD" in error["detail"]


async def test_a_second_subscription_and_one_that_is_not_there_are_refused(socket: Socket) -> None:
    await socket.subscribe("BTC-USD")
    assert (await socket.subscribe("BTC-USD"))["code"] == "already_subscribed"
    answer = await socket.ask({"op": "unsubscribe", "market": "ETH-USD"})
    assert answer["code"] == "not_subscribed"


async def test_the_number_of_markets_on_a_connection_is_limited(
    socket: Socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STREAM_MAX_MARKETS", 1)
    await socket.subscribe("BTC-USD")
    assert (await socket.subscribe("ETH-USD"))["code"] == "too_many_markets"
    await socket.ask({"op": "unsubscribe", "market": "BTC-USD"})
    assert (await socket.subscribe("ETH-USD"))["event"] == "snapshot"


async def test_the_number_of_streams_is_limited(
    api: Api, socket: Socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STREAM_MAX_CLIENTS", 1)
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await api.session.ws_connect(f"{api.url}/v1/stream")
    assert refused.value.status == 503
    await socket.raw.close()
    await asyncio.sleep(0.01)
    async with api.session.ws_connect(f"{api.url}/v1/stream") as raw:
        assert (await Socket(raw).ask({"op": "ping"}))["event"] == "pong"


async def test_a_message_over_the_limit_closes_the_connection(socket: Socket) -> None:
    await socket.raw.send_str("x" * (limits.STREAM_MAX_MESSAGE + 1))
    message = await socket.raw.receive(timeout=5)
    assert message.type is WSMsgType.CLOSE
    assert message.data == 1009


async def test_a_plain_request_is_told_to_upgrade(api: Api) -> None:
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


async def test_a_reader_that_fell_behind_gets_a_new_snapshot(api: Api, socket: Socket) -> None:
    await socket.subscribe("BTC-USD")
    for number in range(QUEUE + 10):  # in one turn of the loop: the stream cannot drain between
        api.service.place_remote("BTC-USD", "sell", "1", str(30000 + number))
    api.service.place_remote("BTC-USD", "buy", "1", "1")
    events = [await socket.next()]
    while events[-1]["event"] != "snapshot":
        events.append(await socket.next())
    assert len(events[-1]["book"]["asks"]) == QUEUE + 10
    assert len(events) <= QUEUE + 1


async def test_a_reader_that_does_not_read_is_cut_and_costs_no_memory(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STREAM_SEND_TIMEOUT", 0.2)
    monkeypatch.setattr(limits, "STREAM_BUFFER", 1024)
    for number in range(300):
        api.service.place_remote("BTC-USD", "sell", "1", str(30000 + number))
    session = aiohttp.ClientSession()
    async with session, session.ws_connect(f"{api.url}/v1/stream") as raw:
        transport = raw._conn.transport  # type: ignore[union-attr]
        transport.pause_reading()
        await raw.send_str('{"op":"subscribe","market":"BTC-USD"}')
        await asyncio.sleep(0.05)
        assert len(api.service.readers) == 1
        change = LevelChange(
            market="BTC-USD", sequence=1, side="buy", price="1", quantity="1" * 2000, orders=1
        )
        sent = 0
        async with asyncio.timeout(20):
            while api.service.readers:  # more than any socket buffer, and it must be cut
                api.service._tell(change)
                sent += 1
                await asyncio.sleep(0.001 if api.service.readers[0].queue.full() else 0)
        assert sent > QUEUE
        transport.resume_reading()
        while (await raw.receive(timeout=5)).type is WSMsgType.TEXT:
            pass  # what was on the way; then the connection is at its end
        assert raw.close_code == 1006
        assert (await api.get("/v1/health")).status == 200


async def test_a_failure_of_one_subscription_leaves_the_others(
    api: Api, socket: Socket, caplog: pytest.LogCaptureFixture
) -> None:
    await socket.subscribe("BTC-USD")
    await socket.subscribe("ETH-USD")
    api.service.fail_with = RuntimeError("secret")
    api.service.place_remote("BTC-USD", "sell", "1", "30000")
    error = await socket.next()
    assert (error["event"], error["code"], error["market"]) == (
        "error",
        "internal_error",
        "BTC-USD",
    )
    assert "secret" not in error["detail"]
    assert "secret" in caplog.text
    api.service.place_remote("ETH-USD", "sell", "1", "2000")
    assert (await socket.next())["event"] == "book"
    assert (await socket.subscribe("BTC-USD"))["event"] == "snapshot"


async def test_subscriptions_end_with_their_connection(api: Api, socket: Socket) -> None:
    await socket.subscribe("BTC-USD")
    await socket.subscribe("ETH-USD")
    assert len(api.service.readers) == 2
    await socket.raw.close()
    await gone(api)


async def test_a_connection_that_is_torn_ends_its_subscriptions(api: Api) -> None:
    session = aiohttp.ClientSession()
    raw = await session.ws_connect(f"{api.url}/v1/stream")
    await Socket(raw).subscribe("BTC-USD")
    raw._conn.transport.abort()  # type: ignore[union-attr]
    await gone(api)
    await session.close()


async def test_a_reader_without_heartbeat_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STREAM_HEARTBEAT", 0.1)
    async with (
        running_api() as api,
        api.session.ws_connect(f"{api.url}/v1/stream", autoping=False) as raw,
    ):
        await Socket(raw).subscribe("BTC-USD")
        assert (await raw.receive(timeout=5)).type is WSMsgType.PING
        await gone(api)


async def test_stopping_the_node_says_goodbye_to_every_reader() -> None:
    service, events = FakeService(), []
    server = ApiServer(service)
    url = await server.start()
    async with aiohttp.ClientSession() as session:
        sockets = [await session.ws_connect(f"{url}/v1/stream") for _ in range(3)]
        await Socket(sockets[0]).subscribe("BTC-USD")

        async def read(socket: aiohttp.ClientWebSocketResponse) -> None:
            events.append(await socket.receive(timeout=5))

        async with asyncio.TaskGroup() as tasks, asyncio.timeout(2):
            for socket in sockets:
                tasks.create_task(read(socket))
            await asyncio.sleep(0)
            await server.stop()
    assert [(event.type, event.data) for event in events] == [(WSMsgType.CLOSE, 1001)] * 3
    assert service.readers == []


async def test_a_reader_that_does_not_answer_cannot_hold_up_the_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "SHUTDOWN_TIMEOUT", 0.1)
    service = FakeService()
    server = ApiServer(service)
    url = await server.start()
    async with aiohttp.ClientSession() as session:
        raw = await session.ws_connect(f"{url}/v1/stream")
        await Socket(raw).subscribe("BTC-USD")
        raw._conn.transport.pause_reading()  # type: ignore[union-attr]
        async with asyncio.timeout(2):
            await server.stop()
        raw._conn.transport.abort()  # type: ignore[union-attr]
    assert service.readers == []
