"""Subscriptions: messages in order, another publisher when one goes, a bounded buffer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from aiohttp import web
from grenache_client_kit import MemoryDirectory, until, unused_address

from p2p.grenache.directory import Address
from p2p.grenache.errors import BadInput, GrapeUnreachable
from p2p.grenache.rpc import subscriber as subscriber_module
from p2p.grenache.rpc.publisher import Publisher
from p2p.grenache.rpc.subscriber import Subscriber

SOON = 5.0


@pytest.fixture
async def publishers() -> AsyncIterator[list[Publisher]]:
    made = [Publisher("prices") for _ in range(2)]
    for publisher in made:
        await publisher.start("127.0.0.1", 0)
    yield made
    for publisher in made:
        await publisher.stop()


def directory_of(*publishers: Publisher) -> MemoryDirectory:
    return MemoryDirectory(prices=[publisher.address for publisher in publishers])


def subscriber(directory: MemoryDirectory, **options: Any) -> Subscriber:
    return Subscriber(directory, "prices", rng=random.Random(1), **options)


async def soon(awaitable: Any) -> Any:
    async with asyncio.timeout(SOON):
        return await awaitable


async def test_messages_come_as_they_were_published(publishers):
    async with subscriber(directory_of(publishers[0])) as prices:
        assert await soon(prices.connected()) == publishers[0].address
        await until(lambda: publishers[0].subscribers)
        for message in ("plain", '{"é": "✓"}', b"\x00\xff", ""):
            publishers[0].pub(message)
            assert await soon(anext(prices)) == message
        status = prices.status()
        assert (status.connects, status.received, status.dropped) == (1, 4, 0)


async def test_a_dead_publisher_is_passed_over_at_once(publishers):
    directory = directory_of(publishers[0])
    directory.services["prices"] = [*(unused_address() for _ in range(5)), publishers[0].address]
    async with subscriber(directory) as prices:
        async with asyncio.timeout(1.0):
            assert await prices.connected() == publishers[0].address


async def test_subscribers_of_a_lost_publisher_move_to_another(publishers):
    async with subscriber(directory_of(*publishers)) as prices:
        for _ in range(2):
            first = await soon(prices.connected())
            gone = next(p for p in publishers if p.address == first)
            stays = next(p for p in publishers if p is not gone)
            for socket in list(gone._server.sockets):
                await socket.close()
            await until(lambda stays=stays: prices.status().publisher == stays.address)
        assert prices.status().connects == 3


async def test_a_publisher_that_comes_back_is_found_again(publishers):
    directory = directory_of(publishers[0])
    address = publishers[0].address
    async with subscriber(directory) as prices:
        await soon(prices.connected())
        await publishers[0].stop()
        await until(lambda: prices.status().publisher is None and prices.status().trouble)
        await publishers[0].start(*address)
        assert await soon(prices.connected()) == address
        await until(lambda: publishers[0].subscribers)
        publishers[0].pub("again")
        assert await soon(anext(prices)) == "again"


async def test_a_subscriber_waits_for_a_publisher_and_for_a_grape(publishers):
    directory = MemoryDirectory()
    async with subscriber(directory) as prices:
        await until(lambda: "no worker is announced" in prices.status().trouble)
        directory.error = GrapeUnreachable("all of them")
        await until(lambda: "all of them" in prices.status().trouble)
        directory.services["prices"] = [publishers[0].address]
        directory.error = None
        await soon(prices.connected())
        assert prices.status().trouble == ""
    assert directory.lookups[0] == ("prices", False)
    assert directory.lookups[1] == ("prices", True)


@pytest.mark.looptime
async def test_waits_grow_are_jittered_and_bounded():
    directory = MemoryDirectory()
    directory.error = GrapeUnreachable("all of them")
    loop = asyncio.get_running_loop()
    times: list[float] = []
    lookup = directory.lookup

    async def timed(service: str, *, fresh: bool = False) -> list[Address]:
        times.append(loop.time())
        return await lookup(service, fresh=fresh)

    directory.lookup = timed  # type: ignore[method-assign]
    async with subscriber(directory):
        await asyncio.sleep(600.0)
    waits = [after - before for before, after in pairwise(times)]
    assert max(waits[:3]) < 1.0
    assert 8.0 < max(waits) <= 10.0
    assert 100 < len(waits) < 150  # 5 s on average
    assert len({round(wait, 3) for wait in waits}) > 90


async def test_the_oldest_messages_are_dropped_without_a_reader(publishers):
    async with subscriber(directory_of(publishers[0]), buffer=3) as prices:
        await soon(prices.connected())
        await until(lambda: publishers[0].subscribers)
        for n in range(10):
            publishers[0].pub(str(n))
        await until(lambda: prices.status().received == 10)
        assert [await anext(prices) for _ in range(3)] == ["7", "8", "9"]
        status = prices.status()
        assert (status.dropped, status.waiting) == (7, 0)


async def test_the_buffer_is_bounded_in_bytes_too(publishers, monkeypatch):
    monkeypatch.setattr(subscriber_module, "MAX_BUFFERED", 1000)
    async with subscriber(directory_of(publishers[0])) as prices:
        await soon(prices.connected())
        await until(lambda: publishers[0].subscribers)
        for n in range(10):
            publishers[0].pub(str(n) * 300)
        publishers[0].pub("x" * 5000)  # one is kept, whatever its size
        await until(lambda: prices.status().received == 11)
        assert prices.status().waiting == 1
        assert await anext(prices) == "x" * 5000
        assert prices._bytes == 0


async def test_a_publisher_that_vanished_is_found_by_pings():

    async def mute(request: web.Request) -> web.StreamResponse:
        opened = web.WebSocketResponse(autoping=False)
        await opened.prepare(request)
        async for _ in opened:
            pass
        return opened

    app = web.Application()
    app.router.add_get("/ws", mute)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    directory = MemoryDirectory(prices=[runner.addresses[0]])
    prices = subscriber(directory)
    prices._options = replace(prices._options, heartbeat=0.05)
    async with prices:
        await until(lambda: prices.status().connects >= 2)
    await runner.cleanup()


async def test_a_broken_directory_does_not_end_the_subscription(publishers, caplog):
    directory = directory_of(publishers[0])
    lookup = directory.lookup
    calls = 0

    async def breaks_once(service: str, *, fresh: bool = False) -> list[Address]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise KeyError("oops")
        return await lookup(service, fresh=fresh)

    directory.lookup = breaks_once  # type: ignore[method-assign]
    async with subscriber(directory) as prices:
        await soon(prices.connected())
    assert "oops" in caplog.text


async def test_closing_ends_the_iteration_after_received_messages(publishers):
    prices = subscriber(directory_of(publishers[0]))
    await prices.start()
    await soon(prices.connected())
    await until(lambda: publishers[0].subscribers)
    publishers[0].pub("last")
    await until(lambda: prices.status().waiting)
    await prices.close()
    assert [message async for message in prices] == ["last"]
    await until(lambda: not publishers[0].subscribers)
    await prices.start()  # closed for good
    assert prices.status().publisher is None


async def test_closing_wakes_waiting_receivers(publishers):
    prices = subscriber(directory_of(publishers[0]))
    await prices.start()
    waiting = asyncio.ensure_future(anext(prices, "ended"))
    await soon(prices.connected())
    await prices.close()
    assert await soon(waiting) == "ended"


async def test_an_unstarted_subscriber_raises_instead_of_waiting():
    prices = subscriber(MemoryDirectory())
    with pytest.raises(RuntimeError, match="async with"):
        await soon(anext(aiter(prices)))
    with pytest.raises(RuntimeError, match="async with"):
        await soon(prices.connected())


async def test_closing_ends_the_wait_for_a_connection():
    prices = subscriber(MemoryDirectory())
    await prices.start()
    waiting = asyncio.ensure_future(prices.connected())
    await asyncio.sleep(0)
    await prices.close()
    with pytest.raises(RuntimeError, match="closed"):
        await soon(waiting)
    assert [message async for message in prices] == []


async def test_invalid_arguments_are_refused():
    with pytest.raises(BadInput):
        Subscriber(MemoryDirectory(), "")
    with pytest.raises(ValueError, match="one message"):
        Subscriber(MemoryDirectory(), "prices", buffer=0)
