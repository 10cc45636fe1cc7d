"""A client sees its callers through whatever workers do: errors, deaths, silence."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from grenache_world_kit import LOST, Work, World, address, echo, failing, now

from p2p.adaptive.balanced_call import RETRY_RESERVE
from p2p.grenache.errors import RemoteError, RequestFailed, RequestTimeout
from p2p.grenache.rpc.rpc_transport import BadReply
from p2p.grenache.rpc.rpc_wire import RpcReply, busy

pytestmark = pytest.mark.looptime


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.client.close()


async def test_the_result_of_a_worker_comes_back(world):
    world.add(1, echo())
    assert await world.ask({"n": [1, None], "é": "✓"}) == {"n": [1, None], "é": "✓"}
    figures = world.client.status().services["svc"].figures
    assert (figures.ok, figures.attempts, figures.failed) == (1, 1, 0)


async def test_twelve_requests_reach_twelve_workers(world):
    for n in range(1, 13):
        world.add(n, echo(0.001 * n))
    for _ in range(12):
        await world.ask()
    assert world.transport.asked == {address(n): 1 for n in range(1, 13)}


async def test_all_workers_are_used_and_the_load_is_spread(world):
    for n in range(1, 13):
        world.add(n, echo())
    for _ in range(30):
        await asyncio.gather(*(world.ask(n) for n in range(12)))
    assert len(world.transport.asked) == 12
    assert min(world.transport.asked.values()) >= 15  # of 30 on average


@pytest.mark.parametrize("in_flight", [1, 8, 64])
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
async def test_what_a_stopping_worker_may_have_done_is_repeated_only_if_idempotent(world, error):
    world.add(1, saying(error))
    with pytest.raises(RemoteError, match="perhaps executed"):
        await world.ask()
    assert world.transport.asked[address(1)] == 1
    world.add(2, echo())
    await asyncio.sleep(2.0)
    for _ in range(10):
        assert await world.ask(idempotent=True) == "hi"


async def test_when_all_workers_are_busy_their_retry_times_are_kept_and_then_the_call_fails(
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


async def test_a_worker_that_dies_under_many_requests_fails_none_that_was_not_sent(world):
    """More at once than the retry budget has: what was not sent is not for it to count."""
    for n in range(1, 4):
        world.add(n, echo())
    await asyncio.gather(*(world.ask() for _ in range(30)))
    world.add(1, None)
    results = await asyncio.gather(*(world.ask(n) for n in range(500)))
    assert results == list(range(500))


async def test_a_single_worker_that_restarts_is_waited_for(world):
    world.add(1, None)
    asking = asyncio.ensure_future(world.ask())
    await asyncio.sleep(0.005)
    world.add(1, echo())
    assert await asking == "hi"


async def test_when_every_worker_is_dead_it_is_known_that_nothing_was_done(world):
    for n in range(1, 4):
        world.add(n, None)
    began = now()
    with pytest.raises(RequestFailed) as failed:
        await world.ask()
    assert not failed.value.sent
    assert now() - began < 1.0
    assert world.transport.asked == {address(n): 4 for n in range(1, 4)}
    assert world.client.status().services["svc"].figures.failed == 1


@pytest.mark.parametrize("error", [LOST, BadReply("ERR_REPLY_EMPTY")])
async def test_what_may_have_been_done_is_repeated_only_if_idempotent(world, error):
    world.add(1, failing(error))
    with pytest.raises(RequestFailed) as failed:
        await world.ask()
    assert failed.value.sent
    assert sum(world.transport.asked.values()) == 1
    world.add(2, echo())
    await asyncio.sleep(0.1)  # the new one is found because all others failed
    for _ in range(10):
        assert await world.ask(idempotent=True) == "hi"


async def test_all_attempts_have_the_same_rid_and_different_requests_different_ones(world):
    world.add(1, failing(LOST))
    world.add(2, failing(LOST))
    with pytest.raises(RequestFailed):
        await world.ask(idempotent=True)
    assert len(world.transport.rids) == 4
    assert len(set(world.transport.rids)) == 1
    with pytest.raises(RequestFailed):
        await world.ask()
    assert len(set(world.transport.rids)) == 2


async def test_a_failure_reports_if_any_attempt_may_have_taken_effect(world):
    async def once(payload: Any) -> Any:
        world.add(1, None)
        raise RequestFailed("ERR_REQUEST_GENERIC", "socket hang up", sent=True)

    world.add(1, once)
    with pytest.raises(RequestFailed, match="refused") as failed:
        await world.ask(idempotent=True)
    assert failed.value.sent


async def test_the_failure_is_raised_unchanged_when_no_worker_is_left(world):
    world.add(1, failing(LOST, delay=11.0))
    asking = asyncio.ensure_future(world.ask(idempotent=True, timeout=60.0))
    await asyncio.sleep(1.0)
    world.directory.services["svc"] = []
    with pytest.raises(RequestFailed, match="socket hang up"):
        await asking


async def test_a_worker_that_failed_comes_back(world):
    world.add(1, echo())
    world.add(2, failing(LOST))
    for _ in range(20):
        await world.ask(idempotent=True)
    assert world.transport.asked[address(2)] < 8
    world.add(2, echo())
    for _ in range(3000):
        await world.ask(idempotent=True)
    world.transport.asked.clear()
    for _ in range(100):
        await world.ask(idempotent=True)
    assert world.transport.asked[address(2)] > 30


async def test_retries_are_bounded_by_a_budget(world):
    world.add(1, failing(LOST))
    world.add(2, failing(LOST))

    async def ask() -> None:
        with pytest.raises(RequestFailed):
            await world.ask(idempotent=True)

    await asyncio.gather(*(ask() for _ in range(400)))
    # 400 first attempts, the reserve, a fifth of a retry for each request
    assert sum(world.transport.asked.values()) <= 400 + RETRY_RESERVE + 80 + 2


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


async def test_abandoned_requests_count_against_a_hanging_worker(world):
    """The slower of the two is not cancelled: it shows in the end that the worker is silent."""
    world.add(1, echo(1000.0))
    world.add(2, echo())
    for _ in range(5):
        await world.ask(idempotent=True, timeout=1.0)
    await asyncio.sleep(2.0)
    assert world.transport.under_way[address(1)] == 0
    rows = {row.peer: row for row in world.client.explain("svc")}
    assert rows[address(1)].parts["timeout_rate"] > 0.0
    assert rows[address(2)].parts["timeout_rate"] == 0.0
    assert rows[address(2)].cost < rows[address(1)].cost


async def test_a_hanging_worker_is_avoided_by_calls_that_cannot_be_repeated(world):
    world.add(1, echo(1000.0))
    for n in range(2, 5):
        world.add(n, echo())
    late = [
        error
        for _ in range(200)
        for error in await asyncio.gather(world.ask(timeout=0.5), return_exceptions=True)
        if isinstance(error, RequestTimeout)
    ]
    assert all(error.sent for error in late)
    assert len(late) <= 4


async def test_a_timeout_is_the_callers_not_the_attempts(world):
    world.add(1, echo(1000.0))
    world.add(2, echo(1000.0))
    for idempotent in (True, False):
        began = now()
        with pytest.raises(RequestTimeout) as failed:
            await world.ask(timeout=2.0, idempotent=idempotent)
        assert failed.value.sent
        assert now() - began == pytest.approx(2.0, abs=0.05)


async def test_answers_that_take_most_of_the_timeout_are_waited_for(world):
    """Nothing is known of how long they take, and trying another one does not end the first."""
    world.add(1, echo(3.5))
    world.add(2, echo(3.5))
    for _ in range(5):
        assert await world.ask(idempotent=True, timeout=5.0) == "hi"


async def test_without_hedge_budget_a_second_worker_is_called_at_half_time(world):
    world.add(1, echo())
    world.add(2, echo())
    for _ in range(30):
        await world.ask(idempotent=True)
    hedge = world.client._services["svc"].balance.hedge
    while hedge.take(now()):
        pass
    world.add(1, echo(1000.0))
    took = []
    for _ in range(3):
        began = now()
        await world.ask(idempotent=True, timeout=4.0)
        took.append(now() - began)
    assert max(took) == pytest.approx(2.01, abs=0.01)


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
