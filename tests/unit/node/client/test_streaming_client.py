"""The streaming client against a real server: typed, verified, and back after every cut."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from trading_kit import ME, PEER, Api, running_api, running_trading_node, server_of

from node.client import subscriptions
from node.client.book_replica import ChecksumMismatch
from node.client.exchange_client import ApiError, NodeUnreachable, NotANode, StreamClosed
from node.client.streaming_client import StreamingClient
from node.streams.stream_messages import (
    BookL1,
    BookL2,
    BookL2Snapshot,
    BookL3,
    BookL3Snapshot,
    CandlesSnapshot,
    Level,
    OrdersSnapshot,
    Ticker,
    Trades,
    TradesSnapshot,
)

MARKET = "BTC-USD"


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with running_api() as api:
        yield api


async def test_a_book_is_kept_and_verified(api: Api) -> None:
    await api.node.place_remote(MARKET, "buy", "1", "29999")
    async with StreamingClient(api.url, node_id=ME) as client:
        feed = client.book(MARKET)
        assert isinstance(await anext(feed), BookL2Snapshot)
        assert feed.book.best_bid == Level("29999", "1", 1)
        await api.node.place_remote(MARKET, "buy", "2", "30000")
        assert isinstance(await anext(feed), BookL2)
        assert feed.book.bids() == [Level("30000", "2", 1), Level("29999", "1", 1)]
        assert feed.stream == "book/BTC-USD/L2/25/network"


async def test_every_channel_has_its_types_on_one_connection(api: Api) -> None:
    await api.post("/v1/accounts/house/deposits", {"asset": "USD", "amount": "1"})
    async with StreamingClient(api.url) as client:
        best = client.book(MARKET, level="L1")
        orders = client.book(MARKET, level="L3", depth="full", scope="network")
        assert isinstance(await anext(best), BookL1)
        assert isinstance(await anext(orders), BookL3Snapshot)
        assert isinstance(await anext(client.trades(MARKET)), TradesSnapshot)
        assert isinstance(await anext(client.ticker(MARKET)), Ticker)
        assert isinstance(await anext(client.candles(MARKET, "5m")), CandlesSnapshot)
        assert isinstance(await anext(client.orders()), OrdersSnapshot)
        assert (await anext(client.fills())).fills == []
        assert (await anext(client.balances())).balances[0].total == "1"
        order_id = await api.node.place_remote(MARKET, "sell", "1", "30000")
        assert isinstance(await anext(orders), BookL3)
        assert [entry.id for entry in orders.book.asks()] == [order_id]
        await anext(best)
        assert best.book.best_ask == Level("30000", "1", 1)


async def test_an_account_stream_brings_typed_orders(api: Api) -> None:
    async with StreamingClient(api.url) as client:
        feed = client.orders()
        await anext(feed)
        await api.post(
            "/v1/orders", {"market": MARKET, "side": "buy", "quantity": "1", "price": "5"}
        )
        (order,) = (await anext(feed)).orders
        assert (order.number, order.status) == (1, "open")


async def test_a_broken_connection_is_made_again_and_nothing_is_missing(
    api: Api, sockets: list[web.WebSocketResponse]
) -> None:
    async with StreamingClient(api.url) as client:
        book, trades = client.book(MARKET, depth="full"), client.trades(MARKET)
        first = await anext(book)
        await anext(trades)
        seen: list[Any] = []
        for number in range(5):
            for socket in sockets:
                socket._req.transport.abort()  # type: ignore[union-attr]
            sockets.clear()
            for step in range(20):
                await api.node.place_remote(MARKET, "sell", "1", str(30000 + number * 20 + step))
            api.node.shown.trade(MARKET, 1, str(40000 + number), "1")
            while len(book.book) < (number + 1) * 20:
                seen.append(await anext(book))
            message = await anext(trades)
            assert isinstance(message, Trades)  # no snapshot: it was resumed
            assert message.trades[0].price == str(40000 + number)
        assert [m.sequence for m in seen] == list(range(first.sequence + 1, first.sequence + 101))
        assert all(isinstance(message, BookL2) for message in seen)


async def test_a_node_that_came_back_begins_with_a_snapshot() -> None:
    async with (
        running_api() as api,
        running_trading_node() as again,
        StreamingClient(api.url) as client,
    ):
        feed = client.book(MARKET)
        await anext(feed)
        await api.server.stop()
        await again.place_remote(MARKET, "sell", "3", "30000")
        server = server_of(again)
        await server.start(port=int(api.url.rpartition(":")[2]))
        message = await anext(feed)
        assert isinstance(message, BookL2Snapshot)
        assert message.reason == "restarted"
        assert feed.book.best_ask == Level("30000", "3", 1)
        await server.stop()


async def test_without_patience_the_end_is_reported_at_once() -> None:
    async with running_api() as api, StreamingClient(api.url, patience=0) as client:
        feed = client.book(MARKET)
        await anext(feed)
        stopping = asyncio.ensure_future(api.server.stop())
        with pytest.raises(StreamClosed, match="the node is stopping"):
            await anext(feed)
        await stopping


async def test_patience_ends() -> None:
    async with running_api() as api, StreamingClient(api.url, patience=0.3) as client:
        await api.server.stop()
        with pytest.raises(NodeUnreachable, match="no answer from"):
            await anext(client.book(MARKET))


async def test_a_refused_subscription_has_a_reason_and_the_others_go_on(api: Api) -> None:
    async with StreamingClient(api.url) as client:
        good = client.book(MARKET)
        await anext(good)
        with pytest.raises(ApiError, match="no market 'XX'") as refused:
            await anext(client.trades("XX"))
        assert refused.value.code == "unknown_market"
        await api.node.place_remote(MARKET, "sell", "1", "30000")
        assert isinstance(await anext(good), BookL2)


async def test_another_node_at_the_address_is_refused(api: Api) -> None:
    async with StreamingClient(api.url, node_id=PEER) as client:
        with pytest.raises(ApiError, match=ME):
            await anext(client.book(MARKET))


async def test_a_server_that_is_no_node_is_recognised() -> None:
    async def hello(request: web.Request) -> web.Response:
        return web.Response(text="hello")

    async def nonsense(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str('{"event":"surprise"}')
        await socket.receive()
        return socket

    for path, handler in (("/", hello), ("/v1/stream", nonsense)):
        app = web.Application()
        app.router.add_get(path, handler)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with StreamingClient(url) as client:
            with pytest.raises(NotANode):
                await anext(client.book(MARKET))
        await runner.cleanup()


async def test_a_book_that_is_not_the_nodes_fails_loudly(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with StreamingClient(api.url) as client:
        feed = client.book(MARKET)
        await anext(feed)
        stream = api.node.stream_registry._streams[("book/BTC-USD/L2/25/network", None)]
        stream.view.checksum = 5  # type: ignore[attr-defined]
        await api.node.place_remote(MARKET, "sell", "1", "30000")
        with pytest.raises(ChecksumMismatch):
            await anext(feed)


async def test_a_closed_feed_is_unsubscribed_and_ends(
    api: Api, sockets: list[web.WebSocketResponse]
) -> None:
    async with StreamingClient(api.url) as client:
        async with client.book(MARKET) as feed:
            await anext(feed)
        with pytest.raises(StopAsyncIteration):
            await anext(feed)
        stream = api.node.stream_registry._streams[("book/BTC-USD/L2/25/network", None)]
        async with asyncio.timeout(5):
            while stream.readers:  # noqa: ASYNC110 - the stream has no event for it
                await asyncio.sleep(0.01)
        again = client.book(MARKET)
        assert isinstance(await anext(again), BookL2Snapshot)


async def test_a_feed_without_a_reader_holds_no_more_than_its_share(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "WAITING", 3)
    async with StreamingClient(api.url) as client:
        lazy, book = client.trades(MARKET), client.book(MARKET)
        await anext(lazy)
        await anext(book)
        for number in range(20):
            api.node.shown.trade(MARKET, 1, str(30000 + number), "1")
            await asyncio.sleep(0)
        await api.node.place_remote(MARKET, "sell", "1", "30000")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(anext(book), 0.1)
        assert len(lazy._items) == 3
        await lazy.close()
        while book.book.best_ask is None:
            await anext(book)


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="looks like"):
        StreamingClient("127.0.0.1:8300")


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> list[web.WebSocketResponse]:
    """The server's ends of the streams, as they are opened."""
    opened: list[web.WebSocketResponse] = []
    prepare = web.WebSocketResponse.prepare

    async def noting(socket: web.WebSocketResponse, request: Any) -> Any:
        if not socket.prepared:  # aiohttp calls this once more at the end
            opened.append(socket)
        return await prepare(socket, request)

    monkeypatch.setattr(web.WebSocketResponse, "prepare", noting)
    return opened
