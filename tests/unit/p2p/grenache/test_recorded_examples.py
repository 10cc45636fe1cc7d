"""Examples of docs/grenache.md, "As a library": the same calls, against a Grape on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from p2p.grenache import bep44
from p2p.grenache.directory import Directory
from p2p.grenache.errors import BadInput
from p2p.grenache.grape.grape import Grape
from p2p.grenache.grape.grape_http import GrapeApi
from p2p.grenache.grape.grape_settings import GrapeSettings
from p2p.grenache.link.link_client import Link
from p2p.grenache.rpc.publisher import Publisher
from p2p.grenache.rpc.rpc_client import Client
from p2p.grenache.rpc.rpc_worker import Request, Worker
from p2p.grenache.rpc.subscriber import Subscriber

PATIENCE = 20.0  # seconds; only a failure waits so long


@pytest.fixture
async def urls() -> AsyncIterator[list[str]]:
    """Of two Grapes of one DHT."""
    async with (
        Grape(GrapeSettings(host="127.0.0.1", port=0)) as first,
        Grape(GrapeSettings(host="127.0.0.1", port=0, bootstrap=(first.address,))) as second,
    ):
        apis = [GrapeApi(first), GrapeApi(second)]
        for api in apis:
            await api.start("127.0.0.1", 0)
        yield [api.url for api in apis]
        for api in apis:
            await api.stop()


async def found(directory: Directory, service: str, count: int = 1) -> None:
    """Wait until so many are announced."""
    async with asyncio.timeout(PATIENCE):
        while len(await directory.lookup(service, fresh=True)) < count:  # noqa: ASYNC110 - polled
            await asyncio.sleep(0.01)


async def answer(request: Request) -> Any:
    if request.payload == "who are you?":
        return "a worker"
    return {"price": 65000, "of": request.payload["market"]}


async def test_announce_look_up_put_and_get(urls):
    async with Link(urls) as link:
        link.start_announcing("quotes", 1337)
        await found(link, "quotes")
        assert await link.lookup("quotes") == [("127.0.0.1", 1337)]
        key = await link.put(b"hello")
        got = await link.get(key)
        assert got is not None
        assert got.value == b"hello"


async def test_signed_values_are_put_and_read(urls):
    private = Ed25519PrivateKey.generate()
    async with Link(urls) as link:
        for seq, value in enumerate((b"old", b"new"), start=1):
            key = await link.put_mutable(bep44.sign(private, seq, value))
            got = await link.get(key)
            assert got is not None
            assert (got.seq, got.value) == (seq, value)


@pytest.mark.parametrize("transport", ["http", "ws"])
async def test_serve_and_call(urls, transport):
    async with (
        Link(urls) as link,
        Worker(directory=link) as worker,
        Worker(directory=link) as other,
    ):
        for one in (worker, other):
            one.serve("quotes", answer)
            await one.start("127.0.0.1", 0)
        await found(link, "quotes", 2)
        async with Client(link, transport=transport) as client:
            price = await client.request(
                "quotes", {"market": "BTC-USD"}, timeout=2.0, idempotent=True
            )
            assert price == {"price": 65000, "of": "BTC-USD"}
            said = await client.map("quotes", "who are you?")
            assert {one.address for one in said} == {worker.address, other.address}
            assert [one.error or one.result for one in said] == ["a worker", "a worker"]


async def test_publish_and_subscribe(urls):
    async with Link(urls) as link, Publisher("ticks", directory=link) as publisher:
        await publisher.start("127.0.0.1", 0)
        await found(link, "ticks")
        async with asyncio.timeout(PATIENCE), Subscriber(link, "ticks") as subscriber:
            await subscriber.connected()
            while not publisher.pub("tick"):  # noqa: ASYNC110 - the server may see it later
                await asyncio.sleep(0.001)
            async for message in subscriber:
                assert message == "tick"
                break


async def test_a_grape_in_the_process_takes_the_place_of_a_link():
    async with Grape(GrapeSettings(host="127.0.0.1", port=0)) as first:
        settings = GrapeSettings(host="127.0.0.1", port=0, bootstrap=(first.address,))
        async with Grape(settings) as grape:
            await grape.announce("quotes", 1337)
            await found(first, "quotes")
            assert await first.lookup("quotes") == [("127.0.0.1", 1337)]


async def test_values_other_than_bytes_are_refused_by_link_and_grape(urls):
    async with Link(urls) as link, Grape(GrapeSettings(host="127.0.0.1", port=0)) as grape:
        for directory in (link, grape):
            with pytest.raises(BadInput, match="bytes, not str; encode it first"):
                await directory.put("text")
            with pytest.raises(BadInput, match="a salt is bytes"):
                await directory.get("00" * 20, salt="text")
