"""A publisher sends what is published to everyone who is connected, and waits for nobody."""

from __future__ import annotations

import asyncio
import json
import socket as sockets
from collections.abc import AsyncIterator

import pytest
from grenache_kit import MemoryDirectory, RawConnection, until

from p2p.grenache.errors import BadInput
from p2p.grenache.rpc.limits import Limits
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


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 1_000_000])
async def test_every_subscriber_gets_every_message(publisher: Publisher, size: int) -> None:
    async with await subscribe(publisher) as a, await subscribe(publisher) as b:
        assert publisher.pub("x" * size) == 2
        assert publisher.pub(b"y" * size) == 2
        for subscriber in (a, b):
            assert await subscriber.frame() == (1, b"x" * size)
            assert await subscriber.frame() == (2, b"y" * size)


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


async def test_slow_readers_are_cut_and_the_others_get_everything() -> None:
    limits = Limits(max_backlog=500_000)
    async with Publisher("prices", limits=limits) as publisher:
        await publisher.start("127.0.0.1")
        raw = sockets.socket()
        raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, publisher.address)
        lazy = RawConnection(*await asyncio.open_connection(sock=raw))
        async with lazy, await subscribe(publisher) as reader:
            assert await lazy.upgrade() == 101
            await until(lambda: publisher.subscribers == 2)
            lazy.writer.transport.pause_reading()  # type: ignore[attr-defined]
            most = 0
            for n in range(200):
                text = f"{n:06}" + "x" * 50_000
                publisher.pub(text)
                most = max(most, publisher.status().backlog)
                assert await reader.frame() == (1, text.encode())
            status = publisher.status()
            assert (status.cut, status.subscribers, status.published) == (1, 1, 200)
            assert 500_000 < most < 600_000


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


async def test_publishers_are_announced() -> None:
    directory = MemoryDirectory()
    async with Publisher("prices", directory=directory) as publisher:
        _, port = await publisher.start("127.0.0.1")
        await publisher.announced()
    assert set(directory.calls) == {("prices", port)}
    with pytest.raises(BadInput):
        Publisher("")
