"""The Python client against a real server, and against what is no node."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from api_kit import Api, running_api
from fake_service import ME, PEER, FakeService

from node.api import ApiServer
from node.cli.client_session import BlockingTransport
from node.client.exchange_client import (
    ApiError,
    ApiTransport,
    ExchangeClient,
    NodeUnreachable,
    NotANode,
    PooledTransport,
)
from node.views.views import OrderRequest

BUY = OrderRequest(market="BTC-USD", side="buy", quantity="0.5", price="30000")


class ThreadedTransport:
    """The command line's blocking transport, with its waiting in a thread: the server is in this one."""

    def __init__(self, timeout: float = 5) -> None:
        self._inner = BlockingTransport(timeout)

    async def request(self, *args: object) -> object:
        return await asyncio.to_thread(lambda: asyncio.run(self._inner.request(*args)))  # type: ignore[arg-type]

    async def close(self) -> None:
        await self._inner.close()


MakeTransport = Callable[..., ApiTransport]
both = pytest.mark.parametrize("make", [PooledTransport, ThreadedTransport])


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with running_api() as api:
        yield api


@both
async def test_every_request_comes_back_as_its_view(api: Api, make: MakeTransport) -> None:
    async with ExchangeClient(api.url, node_id=ME, transport=make()) as client:
        order = await client.submit(BUY)
        assert (order.number, order.status, order.price) == (1, "open", "30000")
        api.service.place_remote("BTC-USD", "sell", "0.2", "30000")
        assert (await client.order("1")).filled == "0.2"
        assert [o.number for o in await client.orders(market="BTC-USD", limit=5)] == [1]
        assert (await client.fills())[0].counterparty == PEER
        assert (await client.trades(market="BTC-USD"))[0].quantity == "0.2"
        assert (await client.book("BTC-USD", depth=1)).bids[0].own == "0.3"
        assert (await client.cancel(order.id)).status == "cancelled"
        assert await client.orders() == []
        assert len(await client.orders(open_only=False)) == 1
        assert (await client.markets())[0].symbol == "BTC-USD"
        assert (await client.peers())[0].node_id == PEER
        assert (await client.connect("10.0.0.1:3000")).status == "connected"
        assert (await client.ping(PEER)).way == "direct"
        assert (await client.status()).node_id == ME


@both
async def test_a_refusal_carries_status_code_and_detail(api: Api, make: MakeTransport) -> None:
    async with ExchangeClient(api.url, transport=make()) as client:
        with pytest.raises(ApiError) as refused:
            await client.book("../x y?")
    assert (refused.value.status, refused.value.code) == (404, "unknown_market")
    assert "'../x y?'" in str(refused.value)


@both
async def test_another_node_at_the_address_is_refused(api: Api, make: MakeTransport) -> None:
    async with ExchangeClient(api.url, node_id=PEER, transport=make()) as client:
        with pytest.raises(ApiError) as refused:
            await client.submit(BUY)
    assert refused.value.code == "wrong_node"
    assert api.service.own == []


@both
async def test_no_node_is_a_short_sentence_with_the_address(make: MakeTransport) -> None:
    server = ApiServer(FakeService())
    url = await server.start()
    await server.stop()
    async with ExchangeClient(url, transport=make()) as client:
        with pytest.raises(NodeUnreachable, match=rf"no answer from {url} \(.*refused.*\)"):
            await client.status()


@asynccontextmanager
async def answering(data: bytes | None) -> AsyncIterator[str]:
    """A server that says `data` to whatever is asked; None: nothing, and stays silent."""

    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            if data is None:
                await reader.read()
            else:
                writer.write(data)
                await writer.drain()
        except (OSError, EOFError):
            pass  # the client left
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.ensure_future(serve(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    await asyncio.wait_for(asyncio.gather(*tasks), 5)


def http(body: bytes, kind: str = "text/html", status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@both
@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        http(b"<html>It works!</html>"),
        http(b"{}", "application/json"),
        http(b"[1,", "application/json"),
        http(b"not found", status="404 Not Found"),
        http(b"not json", "application/problem+json", "404 Not Found"),
        http(b"", status="301 Moved Permanently\r\nLocation: http://127.0.0.1:1/"),
    ],
)
async def test_what_is_no_node_is_called_so(make: MakeTransport, data: bytes) -> None:
    async with answering(data) as url, ExchangeClient(url, transport=make()) as client:
        with pytest.raises(NotANode, match=url):
            await client.status()


@both
@pytest.mark.parametrize(
    "data",
    [http(b"[]"), http(b"[]", "application/json", "404 Not Found")],
)
async def test_an_answer_of_another_kind_or_status_is_not_taken_for_a_node_s(
    make: MakeTransport, data: bytes
) -> None:
    async with answering(data) as url, ExchangeClient(url, transport=make()) as client:
        with pytest.raises(NotANode, match="HTTP status"):
            await client.orders()


@both
async def test_a_connection_closed_without_answer_is_unreachable(make: MakeTransport) -> None:
    async with answering(b"") as url, ExchangeClient(url, transport=make()) as client:
        with pytest.raises(NodeUnreachable, match="closed the connection without"):
            await client.status()


@both
async def test_a_node_that_does_not_answer_in_time_is_unreachable(make: MakeTransport) -> None:
    async with answering(None) as url, ExchangeClient(url, transport=make(timeout=0.1)) as client:
        with pytest.raises(NodeUnreachable, match=r"no answer from .* in 0.1 s"):
            await client.status()


@pytest.mark.parametrize("url", ["", "127.0.0.1:8300", "ftp://x", "http://"])
def test_a_wrong_url_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="looks like http"):
        ExchangeClient(url)


async def test_many_requests_at_once_are_served(api: Api) -> None:
    async with ExchangeClient(api.url) as client, asyncio.TaskGroup() as tasks:
        for _ in range(50):
            tasks.create_task(client.submit(BUY))
    assert sorted(order.number for order in api.service.own) == list(range(1, 51))


def test_the_module_needs_no_aiohttp_to_be_imported() -> None:
    """Short commands use it with another transport; aiohttp would double their start-up time."""
    import subprocess
    import sys

    code = "import sys, node.client; sys.exit('aiohttp' in sys.modules or 'asyncio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
