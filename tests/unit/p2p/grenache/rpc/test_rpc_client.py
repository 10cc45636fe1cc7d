"""A client sees its callers through whatever workers do: errors, deaths, silence."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from grenache_world_kit import LOST, Work, World, address, echo, failing, now

from p2p.grenache.errors import RemoteError, RequestFailed, RequestTimeout
from p2p.grenache.rpc.rpc_transport import BadReply
from p2p.grenache.rpc.rpc_wire import RpcReply, busy

pytestmark = pytest.mark.looptime


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.client.close()


async def test_twelve_requests_reach_twelve_workers(world):
    for n in range(1, 13):
        world.add(n, echo(0.001 * n))
    for _ in range(12):
        await world.ask()
    assert world.transport.asked == {address(n): 1 for n in range(1, 13)}


@pytest.mark.parametrize("in_flight", [1, pytest.param(8, marks=pytest.mark.slow), 64])
@pytest.mark.parametrize("usual", [0.0003, 0.02])
async def test_workers_that_are_as_good_as_each_other_get_equal_shares(world, in_flight, usual):
    rng = random.Random(in_flight)

    async def work(payload: Any) -> Any:
        await asyncio.sleep(usual * rng.uniform(0.7, 1.5))
        return payload

    for n in range(1, 13):
        world.add(n, work)

    async def caller() -> None:
        for n in range(1920 // in_flight):
            await world.ask(n)

    await asyncio.gather(*(caller() for _ in range(in_flight)))
    assert len(world.transport.asked) == 12
    assert min(world.transport.asked.values()) >= 80  # of 160 on average
    assert max(world.transport.asked.values()) <= 320


async def test_a_slow_worker_gets_less(world):
    for n in range(1, 4):
        world.add(n, echo(0.01))
    world.add(4, echo(0.2))
    for _ in range(100):
        await world.ask()
    assert world.transport.asked[address(4)] < 10


# Errors of the worker


async def test_a_workers_error_is_its_answer(world):
    async def refuse(payload: Any) -> Any:
        return RpcReply("", "ERR_MY_APP", {"partial": 1})

    world.add(1, refuse)
    world.add(2, refuse)
    for _ in range(20):
        with pytest.raises(RemoteError) as failed:
            await world.ask(idempotent=True)
        assert (failed.value.code, failed.value.result) == ("ERR_MY_APP", {"partial": 1})
    assert sum(world.transport.asked.values()) == 20  # never repeated
    status = world.client.status().services["svc"]
    assert status.shunned == ()
    assert status.figures.remote_errors == 20


def saying(error: str) -> Work:
    async def work(payload: Any) -> Any:
        await asyncio.sleep(0.01)
        return RpcReply("", error, None)

    return work


@pytest.mark.parametrize(
    "error",
    [
        busy(0.2),
        "ERR_UNKNOWN_SERVICE: svc is not served here",
        "ERR_WORKER_STOPPED: this worker is stopping, nothing was done",
    ],
)
async def test_a_request_refused_by_a_worker_goes_to_another(world, error):
    world.add(1, saying(error))
    world.add(2, echo())
    for _ in range(20):
        assert await world.ask() == "hi"
    assert world.transport.asked[address(1)] < 10


@pytest.mark.parametrize("error", ["ERR_WORKER_STOPPED: perhaps executed"])
async def test_requests_that_a_stopping_worker_may_have_executed_are_retried_only_if_idempotent(
    world, error
):
    world.add(1, saying(error))
    with pytest.raises(RemoteError, match="perhaps executed"):
        await world.ask()
    assert world.transport.asked[address(1)] == 1
    world.add(2, echo())
    await asyncio.sleep(2.0)
    for _ in range(10):
        assert await world.ask(idempotent=True) == "hi"


async def test_calls_respect_the_retry_times_of_busy_workers_and_then_fail(
    world,
):
    for n in range(1, 4):
        world.add(n, saying(busy(0.2)))
    began = now()
    with pytest.raises(RemoteError, match="ERR_BUSY: try again in"):
        await world.ask()
    assert sum(world.transport.asked.values()) == 4  # the first attempt and three retries
    assert now() - began > 0.2


# Workers that die


async def test_dead_workers_cost_nothing_while_one_lives(world):
    for n in range(1, 12):
        world.add(n, None)
    world.add(12, echo())
    began = now()
    for _ in range(50):
        assert await world.ask() == "hi"
    assert now() - began < 50 * 0.01 + 0.1  # the time of the good one
    assert sum(world.transport.asked.values()) < 50 + 11 * 6  # the dead are left alone soon


@pytest.mark.parametrize("error", [LOST, BadReply("ERR_REPLY_EMPTY")])
async def test_requests_that_may_have_been_executed_are_retried_only_if_idempotent(world, error):
    world.add(1, failing(error))
    with pytest.raises(RequestFailed) as failed:
        await world.ask()
    assert failed.value.sent
    assert sum(world.transport.asked.values()) == 1
    world.add(2, echo())
    await asyncio.sleep(0.1)  # the new one is found because all others failed
    for _ in range(10):
        assert await world.ask(idempotent=True) == "hi"


async def test_the_failure_is_raised_unchanged_when_no_worker_is_left(world):
    world.add(1, failing(LOST, delay=11.0))
    asking = asyncio.ensure_future(world.ask(idempotent=True, timeout=60.0))
    await asyncio.sleep(1.0)
    world.directory.services["svc"] = []
    with pytest.raises(RequestFailed, match="socket hang up"):
        await asking


# Workers that hang


async def test_a_hanging_worker_costs_an_idempotent_caller_little(world):
    world.add(1, echo(1000.0))
    world.add(2, echo())
    took = []
    for _ in range(50):
        began = now()
        assert await world.ask(idempotent=True, timeout=5.0) == "hi"
        took.append(now() - began)
    assert max(took) < 0.3  # the first time, before it is known what is usual
    assert sum(took) < 50 * 0.01 + 0.5
    assert world.transport.asked[address(1)] < 10


async def test_answers_that_take_most_of_the_timeout_are_waited_for(world):
    """Nothing is known of how long they take, and trying another one does not end the first."""
    world.add(1, echo(3.5))
    world.add(2, echo(3.5))
    for _ in range(5):
        assert await world.ask(idempotent=True, timeout=5.0) == "hi"


async def test_at_most_two_requests_run_at_once(world):
    for n in range(1, 6):
        world.add(n, echo(1000.0))
    with pytest.raises(RequestTimeout):
        await world.ask(idempotent=True, timeout=4.0)
    assert sum(world.transport.asked.values()) == 2


async def test_hedges_are_few_when_everything_is_slow(world):
    for n in range(1, 5):
        world.add(n, echo())
    for _ in range(50):
        await world.ask(idempotent=True)
    for n in range(1, 5):
        world.add(n, echo(0.5))
    await asyncio.gather(*(world.ask(idempotent=True) for _ in range(100)))
    assert world.client.status().services["svc"].figures.hedges <= 5 + 8
