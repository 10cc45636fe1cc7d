"""A publisher sends what is published to everyone who is connected, and waits for nobody."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from grenache_kit import MemoryDirectory, RawConnection, until

from p2p.grenache.errors import BadInput
from p2p.grenache.rpc.publisher import Publisher

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
async def publisher() -> AsyncIterator[Publisher]:
    async with Publisher("prices") as publisher:
        await publisher.start("127.0.0.1")
        yield publisher


async def subscribe(publisher: Publisher) -> RawConnection:
    before = publisher.subscribers
    subscriber = await RawConnection.open(publisher.address)
    assert await subscriber.upgrade() == 101
    await until(lambda: publisher.subscribers == before + 1)
    return subscriber


async def test_messages_of_subscribers_are_ignored(publisher: Publisher) -> None:
    async with await subscribe(publisher) as subscriber:
        subscriber.send_frame(b"hello")
        subscriber.send_frame(b"p", opcode=9)
        assert await subscriber.frame() == (10, b"p")
        publisher.pub("x")
        assert await subscriber.frame() == (1, b"x")
        subscriber.send_frame(b"x" * 10_000)
        opcode, data = await subscriber.frame()
        assert (opcode, int.from_bytes(data[:2], "big")) == (8, 1009)


async def test_requests_without_a_websocket_get_an_error(publisher: Publisher) -> None:
    async with await RawConnection.open(publisher.address) as http:
        status, body = await http.http(b'["r","prices",null]')
        assert status == 426
        assert json.loads(body)[1].startswith("ERR_WEBSOCKET")


async def test_pages_in_browsers_are_refused_unless_allowed(publisher: Publisher) -> None:
    async with await RawConnection.open(publisher.address) as page:
        assert await page.upgrade("Origin: https://desk.example") == 403
    async with Publisher("prices", origins=["https://desk.example"]) as open_one:
        await open_one.start("127.0.0.1")
        async with await RawConnection.open(open_one.address) as page:
            assert await page.upgrade("Origin: https://desk.example") == 101


async def test_stopping_sends_goodbye(publisher: Publisher) -> None:
    async with await subscribe(publisher) as subscriber:
        stopping = asyncio.create_task(publisher.stop())
        opcode, data = await subscriber.frame()
        assert (opcode, int.from_bytes(data[:2], "big")) == (8, 1001)
        subscriber.send_frame(data[:2], opcode=8)
        await stopping
        assert await subscriber.ended()
    assert publisher.status().address is None
    assert publisher.pub("after") == 0
    with pytest.raises(RuntimeError, match="not started"):
        publisher.address  # noqa: B018


async def test_it_is_announced() -> None:
    directory = MemoryDirectory()
    async with Publisher("prices", directory=directory) as publisher:
        _, port = await publisher.start("127.0.0.1")
        await publisher.announced()
    assert set(directory.calls) == {("prices", port)}
    with pytest.raises(BadInput):
        Publisher("")
