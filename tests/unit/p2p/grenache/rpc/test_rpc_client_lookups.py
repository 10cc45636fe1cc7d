"""A client knows its workers: lookups, requests to all of them or to one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from grenache_world_kit import LOST, World, address, echo, failing, now

from p2p.grenache.directory import Address
from p2p.grenache.errors import (
    GrapeUnreachable,
    LookupEmpty,
    RemoteError,
    RequestFailed,
    RequestTimeout,
)
from p2p.grenache.rpc import rpc_client as client_module
from p2p.grenache.rpc.rpc_client import ClientSettings
from p2p.grenache.rpc.rpc_wire import RpcReply

pytestmark = pytest.mark.looptime


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.client.close()


# Lookups


async def test_requests_share_lookups_and_do_not_wait_for_the_next_ones(world):
    world.add(1, echo())
    world.directory.delay = 0.2
    await asyncio.gather(*(world.ask() for _ in range(20)))
    assert len(world.directory.lookups) == 1
    for _ in range(400):
        began = now()
        await world.ask()
        assert now() - began < 0.02
    assert 2 <= len(world.directory.lookups) <= 5  # 4 s at 1.5 s each
    assert world.directory.lookups[0] == ("svc", False)
    assert set(world.directory.lookups[1:]) == {("svc", True)}  # past the directory's own cache


async def test_a_new_worker_is_used_within_two_seconds_even_if_the_known_one_is_quick(world):
    world.add(1, echo(0.2))
    await world.ask()
    world.add(1, echo(0.001))  # so that one of which nothing is known, taken for average, is dear
    for _ in range(10):
        await world.ask()
    world.add(2, echo())
    began = now()
    while not world.transport.asked[address(2)]:
        await world.ask()
        assert now() - began < 2.0


async def test_an_empty_service_is_waited_for_as_long_as_the_client_was_made_for():
    world = World(settings=ClientSettings(empty_wait=1.0))
    began = now()
    with pytest.raises(LookupEmpty, match="svc"):
        await world.ask()
    assert 0.5 < now() - began <= 1.05
    began = now()
    with pytest.raises(LookupEmpty):
        await world.ask(timeout=0.1)
    assert now() - began <= 0.1
    await world.client.close()


async def test_an_announcement_that_is_just_under_way_is_found_by_a_client_that_waits():
    world = World(settings=ClientSettings(empty_wait=1.0))
    asking = asyncio.ensure_future(world.ask())
    await asyncio.sleep(0.3)
    world.add(1, echo())
    began = now()
    assert await asking == "hi"
    assert now() - began < 0.3


async def test_unused_services_without_workers_are_forgotten_at_once(world):
    world.add(1, echo())
    await world.ask()
    world.directory.services["svc"] = []
    await asyncio.sleep(100.0)
    with pytest.raises(LookupEmpty):
        await world.ask()


async def test_callers_returning_after_a_long_time_get_the_current_workers(world):
    world.add(1, echo())
    await world.ask()
    world.directory.services["svc"] = []
    world.add(1, None)
    world.directory.services["svc"] = [address(2)]
    world.transport.workers[address(2)] = echo()
    await asyncio.sleep(300.0)
    world.transport.asked.clear()
    assert await world.ask() == "hi"
    assert world.transport.asked == {address(2): 1}


async def test_an_unreachable_directory_is_an_error_when_no_worker_is_known(world):
    world.directory.error = GrapeUnreachable("all of them")
    with pytest.raises(GrapeUnreachable, match="all of them"):
        await world.ask()
    world.directory.error = None
    world.add(1, echo())
    assert await world.ask() == "hi"


async def test_a_directory_that_hangs_does_not_hold_the_caller(world):
    world.directory.delay = 1000.0
    began = now()
    with pytest.raises(RequestTimeout, match="lookup") as failed:
        await world.ask(timeout=1.0)
    assert not failed.value.sent
    assert now() - began == pytest.approx(1.0, abs=0.01)


async def test_a_directory_that_breaks_is_reported_as_unreachable(world, caplog):
    async def broken(service: str, *, fresh: bool = False) -> list[Address]:
        raise KeyError("oops")

    world.directory.lookup = broken
    with pytest.raises(GrapeUnreachable, match="oops"):
        await world.ask()
    assert "lookup of 'svc'" in caplog.text


async def test_a_failing_worker_is_forgotten_and_looked_up_again(world):
    world.add(1, None)
    world.add(2, echo())
    await world.ask()
    await asyncio.sleep(0.5)
    while not world.directory.forgotten:
        await world.ask()
    assert set(world.directory.forgotten) == {"svc"}


# map


async def test_map_gives_each_workers_answer(world):
    async def refuse(payload: Any) -> Any:
        return RpcReply("", "ERR_MY_APP", {"partial": 1})

    world.add(1, echo())
    world.add(2, None)
    world.add(3, refuse)
    world.add(4, failing(LOST))
    world.add(5, echo(1000.0))
    world.add(6, echo())
    results = await world.client.map("svc", "hi", timeout=1.0)
    assert [said.address for said in results] == [address(n) for n in range(1, 7)]
    assert [said.result for said in results] == ["hi", None, {"partial": 1}, None, None, "hi"]
    errors = [None if said.error is None else said.error.code for said in results]
    generic = "ERR_REQUEST_GENERIC"
    assert errors == [None, generic, "ERR_MY_APP", generic, "ERR_TIMEOUT", None]
    assert isinstance(results[2].error, RemoteError)
    assert world.transport.asked == {address(n): 1 for n in range(1, 7)}


async def test_map_without_workers_fails_at_once_as_a_request_does(world):
    began = now()
    with pytest.raises(LookupEmpty):
        await world.client.map("svc")
    assert now() == began


async def test_map_sees_a_worker_that_was_announced_just_now(world):
    world.add(1, echo())
    await world.client.map("svc")
    world.add(2, echo())
    await asyncio.sleep(0.51)
    assert len(await world.client.map("svc")) == 2


async def test_map_with_a_limit_calls_a_random_selection(world):
    for n in range(1, 11):
        world.add(n, echo())
    chosen: Counter[Address] = Counter()
    for _ in range(20):
        results = await world.client.map("svc", limit=3)
        assert len(results) == 3
        chosen.update(said.address for said in results)
    assert len(chosen) == 10
    assert await world.client.map("svc", limit=0) == []
    assert len(await world.client.map("svc", limit=99)) == 10


async def test_map_limits_simultaneous_calls(world, monkeypatch):
    monkeypatch.setattr(client_module, "MAP_AT_ONCE", 3)
    most = 0

    async def work(payload: Any) -> Any:
        nonlocal most
        most = max(most, sum(world.transport.under_way.values()))
        await asyncio.sleep(1.0)

    for n in range(1, 11):
        world.add(n, work)
    results = await world.client.map("svc", timeout=2.5)
    assert most == 3
    late = [said.error for said in results if isinstance(said.error, RequestTimeout)]
    assert [error.sent for error in late] == [True] * 3 + [False]


async def test_map_reports_an_unreachable_directory(world):
    world.directory.error = GrapeUnreachable("all of them")
    with pytest.raises(GrapeUnreachable):
        await world.client.map("svc")


# One worker


async def test_request_at_calls_one_worker_once(world):
    world.transport.workers[address(7)] = echo()
    assert await world.client.request_at(address(7), "svc", "hi", 1.0) == "hi"
    assert world.directory.lookups == []
    with pytest.raises(RequestFailed) as failed:
        await world.client.request_at(address(8), "svc", "hi")
    assert not failed.value.sent
    assert world.transport.asked[address(8)] == 1


async def test_request_at_raises_the_workers_error(world):
    async def refuse(payload: Any) -> Any:
        return RpcReply("", "ERR_MY_APP", 7)

    world.transport.workers[address(7)] = refuse
    with pytest.raises(RemoteError) as failed:
        await world.client.request_at(address(7), "svc")
    assert failed.value.result == 7
