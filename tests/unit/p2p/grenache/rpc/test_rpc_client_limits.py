"""A client keeps its limits, whatever happens, and closes; its real transports."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from grenache_client_kit import MemoryDirectory, unused_address
from grenache_world_kit import LOST, Work, World, address, echo, failing, now

from p2p.adaptive import BreakerState
from p2p.base.identity import Identity
from p2p.grenache.errors import BadInput, GrapeUnreachable, LookupEmpty, RemoteError, RequestFailed
from p2p.grenache.rpc import rpc_client as client_module
from p2p.grenache.rpc.rpc_client import Client
from p2p.grenache.rpc.rpc_transport import CLOSED, BadReply
from p2p.grenache.rpc.rpc_wire import RpcReply, busy
from p2p.grenache.rpc.rpc_worker import Request, Worker
from p2p.wire.tls import client_context, server_context

pytestmark = pytest.mark.looptime

BUSY = RpcReply("", busy(0.2), None)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.client.close()


# Whatever happens


@pytest.mark.parametrize("seed", range(12))
async def test_calls_keep_their_promises_for_any_workers_and_grapes(world, seed):
    """Nothing takes longer than its timeout, nobody gets another's answer, what is not idempotent is done
    once at most and never again after it may have been, and nothing is left behind."""
    rng = random.Random(seed)
    done: Counter[str] = Counter()
    unsafe: set[str] = set()

    def worker() -> Work | None:
        if rng.random() < 0.2:
            return None
        kinds = rng.choices(["ok", "lost", "hang", "busy", "bad", "error"], k=3)

        async def work(payload: Any) -> Any:
            kind = rng.choice(kinds)
            if kind == "busy":
                return BUSY
            done[payload] += 1
            assert payload not in unsafe or done[payload] == 1, "done twice"
            await asyncio.sleep(1000.0 if kind == "hang" else rng.expovariate(20.0))
            if kind == "lost":
                raise RequestFailed("ERR_REQUEST_GENERIC", "socket hang up", sent=True)
            if kind == "bad":
                raise BadReply("ERR_REPLY_EMPTY")
            return RpcReply("", "ERR_MINE", payload) if kind == "error" else payload

        return work

    async def ask(number: int) -> str:
        payload, idempotent = f"n{number}", rng.random() < 0.5
        if not idempotent:
            unsafe.add(payload)
        timeout, began = rng.uniform(0.2, 5.0), now()
        patience = rng.random() if rng.random() < 0.1 else None
        asked = world.ask(payload, timeout=timeout, idempotent=idempotent)
        [said] = await asyncio.gather(asyncio.wait_for(asked, patience), return_exceptions=True)
        if isinstance(said, RemoteError):
            assert said.result in (payload, None)
        elif isinstance(said, RequestFailed):
            assert said.sent or not done[payload]
        elif isinstance(said, LookupEmpty | GrapeUnreachable):
            assert not done[payload]
        elif not isinstance(said, TimeoutError):
            assert said == payload
        assert now() - began < timeout + 0.01
        return payload

    asking = []
    for number in range(200):
        if rng.random() < 0.05:
            world.add(rng.randrange(1, 7), worker())
        if rng.random() < 0.02:
            world.directory.services["svc"] = []
        if rng.random() < 0.02:
            world.directory.error = rng.choice([None, GrapeUnreachable("all of them")])
        asking.append(asyncio.ensure_future(ask(number)))
        await asyncio.sleep(rng.expovariate(30.0))
    await asyncio.gather(*asking)
    await asyncio.sleep(10.0)
    assert not len(world.client._calls.caller.tasks)
    assert world.client.status().under_way == 0
    assert sum(world.transport.under_way.values()) == 0
    assert all(row.parts["in_flight"] == 0 for row in world.client.explain("svc"))


# Limits and closing


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("nan"), float("inf"), 1e9, None, "x"])
async def test_a_timeout_that_is_none_is_refused(world, timeout):
    world.add(1, echo())
    for asking in (
        world.ask(timeout=timeout),
        world.client.map("svc", timeout=timeout),
        world.client.request_at(address(1), "svc", timeout=timeout),
    ):
        with pytest.raises(BadInput, match="a timeout is a number of seconds"):
            await asking


@pytest.mark.parametrize("service", ["", "x" * 300, 7])
async def test_a_name_that_would_harm_a_grape_is_refused(world, service):
    with pytest.raises(BadInput):
        await world.client.request(service)
    with pytest.raises(BadInput):
        await world.client.map(service)
    assert world.directory.lookups == []


async def test_a_payload_that_is_no_json_is_refused(world):
    world.add(1, echo())
    with pytest.raises(BadInput):
        await world.ask(object())


async def test_requests_under_way_are_bounded(world, monkeypatch):
    monkeypatch.setattr(client_module, "MAX_UNDER_WAY", 3)
    world.add(1, echo(1.0))
    asking = [asyncio.ensure_future(world.ask()) for _ in range(3)]
    await asyncio.sleep(0.1)
    with pytest.raises(RequestFailed, match="3 requests are under way") as failed:
        await world.ask()
    assert not failed.value.sent
    await asyncio.gather(*asking)
    assert await world.ask() == "hi"


async def test_services_remembered_are_bounded(world):
    world.client._services.limit = 3
    for n in range(10):
        world.directory.services[f"svc{n}"] = [address(1)]
    world.transport.workers[address(1)] = echo()
    for n in range(10):
        await world.client.request(f"svc{n}")
        await world.client.request("svc0")
    assert sorted(world.client.status().services) == ["svc0", "svc8", "svc9"]


async def test_cancelling_a_request_cancels_its_attempts_and_counts_no_failure(world):
    world.add(1, echo(100.0))
    world.add(2, echo(100.0))
    asking = asyncio.ensure_future(world.ask(idempotent=True, timeout=50.0))
    await asyncio.sleep(1.0)
    assert sum(world.transport.under_way.values()) == 2  # the first and the one beside it
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await asyncio.sleep(0)
    assert sum(world.transport.under_way.values()) == 0
    for row in world.client.explain("svc"):
        assert row.state is BreakerState.CLOSED
        assert row.parts["timeout_rate"] == row.parts["error_rate"] == row.parts["in_flight"] == 0


async def test_closing_fails_requests_for_a_service_beyond_the_limit(world, monkeypatch):
    monkeypatch.setattr(client_module, "MAX_SERVICES", 1)
    world.directory.delay = 100.0
    waiting = asyncio.ensure_future(world.ask(timeout=1000.0))
    await asyncio.sleep(1.0)
    other = asyncio.ensure_future(world.client.request("other", timeout=1000.0))
    await asyncio.sleep(1.0)
    await world.client.close()
    ended = await asyncio.gather(waiting, other, return_exceptions=True)
    assert [error.code for error in ended] == [CLOSED, CLOSED]
    assert not len(world.client._calls.caller.tasks)


async def test_closing_fails_all_waiting_requests():
    world = World()
    waiting = asyncio.ensure_future(world.ask())
    world.directory.delay = 1000.0
    await asyncio.sleep(0)
    world2 = World(2)
    for n in (1, 2):
        world2.add(n, echo(1000.0))
    racing = asyncio.ensure_future(world2.ask(idempotent=True, timeout=100.0))
    world3 = World()
    world3.add(1, failing(LOST, delay=0.0))
    retrying = asyncio.ensure_future(world3.ask(idempotent=True, timeout=100.0))
    await asyncio.sleep(0.001)
    for each in (world, world2, world3):
        await each.client.close()
        assert each.transport.closed
    ended = await asyncio.gather(waiting, racing, retrying, return_exceptions=True)
    assert [type(error) for error in ended] == [RequestFailed] * 3
    assert now() < 5.0
    with pytest.raises(RequestFailed, match="was closed"):
        await world.ask()
    with pytest.raises(RequestFailed, match="was closed"):
        await world.client.map("svc")
    with pytest.raises(RequestFailed, match="was closed"):
        await world.client.request_at(address(1), "svc")


async def test_status_and_explain_are_for_people(world):
    world.add(1, echo())
    world.add(2, None)
    for _ in range(10):
        await world.ask()
    status = world.client.status()
    assert status.under_way == 0
    service = status.services["svc"]
    assert service.workers == (address(1), address(2))
    assert service.age_s is not None
    assert service.figures.ok == 10
    best, worst = world.client.explain("svc")
    assert (best.peer, worst.peer) == (address(1), address(2))
    assert world.client.explain("other") == []


# The real transports


@pytest.mark.looptime(False)
@pytest.mark.parametrize("kind", ["http", "ws"])
async def test_the_real_transports_are_made_and_closed(kind):
    directory = MemoryDirectory(svc=[unused_address()])
    async with Client(directory, transport=kind) as client:
        with pytest.raises(RequestFailed) as failed:
            await client.request("svc", timeout=1.0)
        assert not failed.value.sent
        assert client.status().transport.kind == kind


@pytest.mark.looptime(False)
@pytest.mark.parametrize(
    "options", [{}, {"compress": True}, {"transport": "ws"}], ids=["http", "gzip", "ws"]
)
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_with_our_own_worker(options, secure):
    ours, theirs = Identity.generate(), Identity.generate()
    shown: list[bytes | None] = []

    async def serve(request: Request) -> Any:
        shown.append(request.certificate)
        if request.payload == "refuse":
            raise RemoteError("ERR_MINE", {"partial": 1})
        return request.payload

    worker = Worker(tls=server_context(theirs) if secure else None)
    worker.serve("svc", serve)
    await worker.start("127.0.0.1", 0)
    directory = MemoryDirectory(svc=[worker.address], other=[worker.address])
    tls = client_context(ours) if secure else None
    async with Client(directory, tls=tls, **options) as client:
        results = await asyncio.gather(*(client.request("svc", {"n": n}) for n in range(30)))
        assert results == [{"n": n} for n in range(30)]
        with pytest.raises(RemoteError) as failed:
            await client.request("svc", "refuse")
        assert (failed.value.code, failed.value.result) == ("ERR_MINE", {"partial": 1})
        with pytest.raises(RemoteError, match="ERR_UNKNOWN_SERVICE"):
            await client.request("other", timeout=1.0)
        assert [said.result for said in await client.map("svc", "x" * 100_000)] == ["x" * 100_000]
        await worker.stop(0.0)
        with pytest.raises(RequestFailed, match="cannot connect") as refused:
            await client.request("svc", timeout=1.0)
        assert not refused.value.sent
    assert {certificate is not None for certificate in shown} == {secure}


@pytest.mark.looptime(False)
@pytest.mark.parametrize("kind", ["http", "ws"])
async def test_closing_fails_requests_that_real_workers_have_not_answered(kind):
    asked = asyncio.Event()

    async def never(request: Request) -> Any:
        asked.set()
        await asyncio.sleep(1000.0)

    async with Worker() as worker:
        worker.serve("svc", never)
        await worker.start("127.0.0.1", 0)
        client = Client(MemoryDirectory(svc=[worker.address]), transport=kind)
        waiting = asyncio.ensure_future(client.request("svc", timeout=100.0))
        await asked.wait()
        await client.close()
        with pytest.raises(RequestFailed) as failed:
            async with asyncio.timeout(10.0):
                await waiting
        assert (failed.value.code, failed.value.sent) == (CLOSED, True)
        await worker.stop(0.0)


@pytest.mark.looptime(False)
async def test_unsupported_transport_options_are_refused():
    with pytest.raises(ValueError, match="over HTTP only"):
        Client(MemoryDirectory(), transport="ws", compress=True)
    with pytest.raises(ValueError, match="unknown transport 'udp'"):
        Client(MemoryDirectory(), transport="udp")  # type: ignore[arg-type]
