"""Calls to services over routers and RPC in memory: who is asked, what is repeated, what the caller sees."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from call_kit import LATENCY, Net

from p2p.adaptive import BreakerSettings, BreakerState
from p2p.adaptive.balanced_call import RETRY_RESERVE
from p2p.base.errors import (
    CallLost,
    CallTimeout,
    HandlerError,
    NoProvider,
    ServiceBusy,
    ServiceUnreachable,
)
from p2p.services.fault_injection import Faults
from p2p.services.service_transport import CallSettings

pytestmark = pytest.mark.looptime


@pytest.fixture
async def net() -> AsyncIterator[Net]:
    made = Net(4)
    yield made
    await made.close()


def worker(log: list[str] | None = None, delay: float = 0.01) -> Any:
    async def work(payload: Any) -> Any:
        await asyncio.sleep(delay)
        if log is not None:
            log.append(payload)
        return payload

    return work


async def test_the_result_names_its_worker(net):
    net.serve("echo", worker(), 1)
    result = await net.nodes[0].caller.ask("echo", {"n": [1, 2], "b": b"x"})
    assert result.value == {"n": [1, 2], "b": b"x"}
    assert (result.node, result.attempts) == (net.nodes[1].id, 1)
    assert result.latency_s == pytest.approx(0.01 + 2 * LATENCY, abs=0.002)


async def test_a_service_without_providers_is_refused_at_once(net):
    with pytest.raises(NoProvider, match="offers the service 'nix'"):
        await net.nodes[0].caller.call("nix")


async def test_ones_own_service_is_a_candidate_and_the_nearest(net):
    net.serve("echo", worker(), 0, 1, 2)
    asked = Counter([(await net.nodes[0].caller.ask("echo", n)).node for n in range(60)])
    assert asked[net.nodes[0].id] > 30
    result = await net.nodes[0].caller.ask("echo", 1, to=net.nodes[2].id)
    assert result.node == net.nodes[2].id


async def test_a_refusal_reaches_the_caller_and_is_no_failure_of_the_node(net):
    async def refuse(payload: Any) -> None:
        raise HandlerError("no_funds", "nothing left")

    net.serve("bank", refuse, 1)
    caller = net.nodes[0].caller
    for _ in range(20):
        with pytest.raises(HandlerError) as caught:
            await caller.call("bank")
        assert (caught.value.code, caught.value.message) == ("no_funds", "nothing left")
    metrics = net.nodes[0].balancers.router("bank").metrics(net.nodes[1].id)
    assert (metrics.success_count, metrics.error_count) == (20, 0)
    assert caller.figures()["bank"].outcomes == {"refused": 20}


async def test_a_handlers_crash_is_a_failure_and_is_repeated_only_when_that_is_safe(net, caplog):
    async def crash(payload: Any) -> None:
        raise KeyError(payload)

    net.serve("it", crash, 1)
    with pytest.raises(CallLost, match="KeyError"):
        await net.nodes[0].caller.call("it")
    assert net.nodes[0].caller.figures()["it"].attempts == 1
    log: list[str] = []
    net.serve("it", worker(log), 2)
    for n in range(10):
        assert await net.nodes[0].caller.call("it", n, idempotent=True) == n
    assert log == list(range(10))


async def test_busy_is_tried_on_another_node_even_if_not_idempotent(net):
    net.serve("it", worker(delay=1.0), 1, workers=1, max_wait_s=0.005)
    net.serve("it", worker(delay=1.0), 2, workers=1, max_wait_s=0.005)
    caller = net.nodes[0].caller
    results = await asyncio.gather(*(caller.ask("it", n) for n in range(2)))
    assert {result.node for result in results} == {net.nodes[1].id, net.nodes[2].id}
    first = [
        asyncio.create_task(net.nodes[3].caller.call("it", 0, to=n.id)) for n in net.nodes[1:3]
    ]
    await asyncio.sleep(0.1)
    with pytest.raises(ServiceBusy) as caught:
        await caller.call("it", 9, timeout=0.3)
    assert caught.value.retry_after_s > 0
    assert not caught.value.executed
    await asyncio.gather(*first)


async def test_an_unreachable_node_is_passed_over_and_alone_is_an_error_at_once(net):
    net.serve("it", worker(), 1, 2)
    net.unlink(0, 1)
    for n in range(10):
        assert (await net.nodes[0].caller.ask("it", n)).node == net.nodes[2].id
    started = asyncio.get_running_loop().time()
    net.offers["it"] = [net.nodes[1].id]
    with pytest.raises(ServiceUnreachable):
        await net.nodes[0].caller.call("it", 1, timeout=0.5)
    assert asyncio.get_running_loop().time() - started <= 0.5


async def test_a_node_killed_with_calls_under_way_is_not_noticed_when_they_are_idempotent(net):
    log: list[str] = []
    net.serve("it", worker(log, 0.2), 1, 2, 3)
    caller = net.nodes[0].caller
    tasks = [asyncio.create_task(caller.ask("it", n, idempotent=True)) for n in range(30)]
    await asyncio.sleep(0.1)
    started = asyncio.get_running_loop().time()
    net.kill(1)
    results = await asyncio.gather(*tasks)
    assert [result.value for result in results] == list(range(30))
    assert any(result.attempts > 1 for result in results)
    assert {result.node for result in results} == {net.nodes[2].id, net.nodes[3].id}
    assert asyncio.get_running_loop().time() - started < 1.0  # the broken link tells, no timeout


async def test_calls_that_are_not_idempotent_wait_for_their_answer_and_are_sent_once(net):
    log: list[str] = []
    net.serve("it", worker(log, 0.2), 1, 2)
    caller = net.nodes[0].caller
    tasks = [asyncio.create_task(caller.call("it", n, timeout=2.0)) for n in range(10)]
    await asyncio.sleep(0.1)
    net.kill(1)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    lost = [result for result in results if isinstance(result, CallTimeout)]
    assert lost
    assert len(lost) + sum(isinstance(result, int) for result in results) == 10
    assert caller.figures()["it"].attempts == 10


async def test_an_idempotency_id_reaches_the_handler_and_makes_a_call_repeatable(net):
    from p2p.services.service_server import current_request

    async def hang_once(payload: Any) -> str:
        return current_request().id

    net.serve("it", hang_once, 1, faults=Faults(hang_rate=1.0))
    net.serve("it", hang_once, 2)
    for n in range(5):
        assert await net.nodes[0].caller.call("it", None, idempotency_id=f"id-{n}") == f"id-{n}"


async def test_a_hanging_node_costs_the_caller_nothing_but_time_and_is_left_alone(net):
    net.serve("it", worker(), 1, faults=Faults(hang_rate=1.0))
    net.serve("it", worker(), 2, 3)
    caller = net.nodes[0].caller
    for n in range(200):
        assert await caller.call("it", n, idempotent=True, timeout=2.0) == n
    router = net.nodes[0].balancers.router("it")
    asked = router.metrics(net.nodes[1].id)
    assert asked.timeout_count >= 1
    assert asked.total_calls < 30


async def test_a_slow_answer_is_hedged_within_a_budget_and_the_slower_attempt_is_cancelled(net):
    rng = random.Random(5)
    cancelled = []

    async def sometimes_slow(payload: Any) -> Any:
        try:
            await asyncio.sleep(1.0 if rng.random() < 0.02 else rng.uniform(0.01, 0.02))
        except asyncio.CancelledError:
            cancelled.append(payload)
            raise
        return payload

    net.serve("it", sometimes_slow, 1, 2, 3)
    caller = net.nodes[0].caller
    loop = asyncio.get_running_loop()
    times = {}
    for n in range(300):
        before = loop.time()
        await caller.call("it", n, idempotent=True)
        times[n] = loop.time() - before
    figures = caller.figures()["it"]
    assert any(times[n] < 0.1 for n in cancelled)  # it was the slow one that was told to stop
    assert 1 <= figures.hedges <= 5 + 0.05 * 300 + 0.1 * loop.time()
    assert cancelled
    assert figures.attempts == 300 + figures.hedges


async def test_without_leave_nothing_is_sent_twice(net):
    log: list[int] = []
    net.serve("it", worker(log, 0.05), 1, 2, faults=Faults(jitter_s=1.0))
    for n in range(100):
        await net.nodes[0].caller.call("it", n)
    assert log == list(range(100))


async def test_cancelling_a_call_cancels_the_work(net):
    ended = []

    async def wait(payload: Any) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            ended.append(payload)

    net.serve("it", wait, 1)
    task = asyncio.create_task(net.nodes[0].caller.call("it", "x", timeout=50))
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.sleep(1)
    assert ended == ["x"]
    assert net.nodes[0].caller.figures()["it"].outcomes == {"cancelled": 1}
    assert net.nodes[0].balancers.router("it").metrics(net.nodes[1].id).in_flight == 0


async def test_the_deadline_travels_and_ends_the_work_on_the_other_side(net):
    ended = []

    async def wait(payload: Any) -> None:
        started = asyncio.get_running_loop().time()
        try:
            await asyncio.sleep(100)
        finally:
            ended.append(asyncio.get_running_loop().time() - started)

    net.serve("it", wait, 1)
    with pytest.raises(CallTimeout):
        await net.nodes[0].caller.call("it", timeout=2.0)
    await asyncio.sleep(0.1)
    assert ended == [pytest.approx(2.0, abs=0.01)]


async def test_ones_own_slow_service_times_out_as_anothers_does(net):
    net.serve("it", worker(delay=10), 0)
    with pytest.raises(CallTimeout):
        await net.nodes[0].caller.call("it", timeout=1.0)
    assert net.nodes[0].server.in_flight == 0


async def test_retries_of_an_outage_are_bounded_by_the_budget(net):
    async def fail(payload: Any) -> None:
        raise HandlerError("unused", "")

    net.serve("it", fail, 1, 2, 3, faults=Faults(error_rate=1.0))
    caller = net.nodes[0].caller
    for n in range(1000):
        with pytest.raises(CallLost):
            await caller.call("it", n, idempotent=True)
    attempts = caller.figures()["it"].attempts
    assert attempts <= 1000 + RETRY_RESERVE + 0.2 * 1000 + asyncio.get_running_loop().time() + 1


async def test_retries_stop_at_the_number_that_is_set_and_at_the_deadline():
    net = Net(2, calls=CallSettings(max_retries=2, retry_delay_s=0.1))
    net.serve("it", worker(), 1, faults=Faults(error_rate=1.0))
    with pytest.raises(CallLost):
        await net.nodes[0].caller.call("it", idempotent=True)
    assert net.nodes[0].caller.figures()["it"].attempts == 3
    await net.close()
    slow = Net(2, calls=CallSettings(max_retries=100, retry_delay_s=10.0))
    slow.serve("it", worker(), 1, faults=Faults(error_rate=1.0))
    with pytest.raises(CallLost):
        await slow.nodes[0].caller.call("it", idempotent=True, timeout=1.0)
    assert slow.nodes[0].caller.figures()["it"].attempts <= 2
    await slow.close()


async def test_a_breaker_opens_on_a_failing_node_and_closes_when_it_is_well_again():
    net = Net(3, breaker=BreakerSettings(cooldown_s=4.0, failure_threshold=2))
    bad = True

    async def sick(payload: Any) -> Any:
        if bad:
            raise KeyError
        await asyncio.sleep(0.05)
        return payload

    net.serve("it", sick, 1)
    net.serve("it", worker(delay=0.05), 2)
    node = net.nodes[0]
    loop = asyncio.get_running_loop()

    async def one_after_another(until: float) -> None:
        while loop.time() < until:
            await node.caller.call("it", 1, idempotent=True)

    async def calls(seconds: float) -> None:
        until = loop.time() + seconds
        await asyncio.gather(*(one_after_another(until) for _ in range(6)))

    await calls(5.0)
    router = node.balancers.router("it")
    assert router.breaker_state(loop.time(), net.nodes[1].id) is not BreakerState.CLOSED
    bad = False
    await calls(15.0)
    assert router.breaker_state(loop.time(), net.nodes[1].id) is BreakerState.CLOSED
    kinds = [
        noted.reason.split(":")[0] for noted in node.balancers.events.latest(100, kind="breaker")
    ]
    assert kinds[0] == "CLOSED to OPEN"
    assert kinds[-1] == "HALF_OPEN to CLOSED"
    assert router.metrics(net.nodes[1].id).success_count >= 2
    await net.close()


async def test_the_slow_node_gets_the_smaller_share(net):
    for number, delay in ((1, 0.01), (2, 0.01), (3, 0.1)):
        net.serve("it", worker(delay=delay), number)
    asked: Counter[str] = Counter()

    async def loop_of_calls() -> None:
        for n in range(60):
            asked[(await net.nodes[0].caller.ask("it", n)).node] += 1

    await asyncio.gather(*(loop_of_calls() for _ in range(8)))
    assert asked[net.nodes[3].id] < 0.12 * asked.total()
    assert min(asked[net.nodes[1].id], asked[net.nodes[2].id]) > 0.3 * asked.total()


async def test_calls_started_together_are_spread_and_not_all_sent_to_one(net):
    net.serve("it", worker(delay=0.05), 1, 2, 3)
    caller = net.nodes[0].caller
    for _ in range(25):  # so that hedging is on
        await caller.call("it", 0, idempotent=True)
    for idempotent in (False, True):
        calls = [caller.ask("it", n, idempotent=idempotent) for n in range(30)]
        asked = Counter(result.node for result in await asyncio.gather(*calls))
        assert len(asked) == 3
        assert max(asked.values()) <= 14


async def test_too_many_calls_at_once_wait_for_their_turn_and_all_are_answered(net):
    net.serve("it", worker(delay=0.02), 1, workers=4)
    caller = net.nodes[0].caller
    calls = [caller.call("it", n, timeout=60.0) for n in range(500)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    good = [result for result in results if isinstance(result, int)]
    assert len(good) >= 490
    figures = caller.figures()["it"]
    assert figures.attempts < 700  # not sent again and again to a node that is full
    rates = net.nodes[0].balancers.events.latest(100, kind="rate")
    assert any("cut" in noted.reason for noted in rates)


async def test_a_cancelled_call_does_not_take_the_turn_of_another(net):
    net.serve("it", worker(delay=0.5), 1, workers=64)
    caller = net.nodes[0].caller
    tasks = [asyncio.create_task(caller.call("it", n, timeout=30.0)) for n in range(60)]
    await asyncio.sleep(0.1)
    for task in tasks[20:50]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [r for r in results if isinstance(r, int)] == [*range(20), *range(50, 60)]


async def test_a_payload_that_cannot_be_sent_and_a_wrong_timeout_are_the_callers_mistake(net):
    net.serve("it", worker(), 1)
    with pytest.raises(ValueError, match="payload"):
        await net.nodes[0].caller.call("it", object())
    with pytest.raises(ValueError, match="payload"):
        await net.nodes[0].caller.call("it", 2**70)
    with pytest.raises(ValueError, match="timeout"):
        await net.nodes[0].caller.call("it", timeout=0)


async def test_a_service_marked_idempotent_is_repeated_by_default(net):
    net.serve("it", worker(), 1, faults=Faults(error_rate=1.0))
    net.serve("it", worker(), 2)
    caller = net.nodes[0].caller
    caller.mark_idempotent("it")
    for n in range(5):
        assert await caller.call("it", n) == n
    with pytest.raises(CallLost):
        await caller.call("it", 1, to=net.nodes[1].id, idempotent=False)


async def test_one_call_is_one_event_even_when_the_node_has_room_a_moment_later(net):
    net.serve("echo", worker(), 1)
    for number in range(5):
        await net.nodes[0].caller.ask("echo", number)
    picks = net.nodes[0].balancers.events.latest(50, kind="pick")
    assert [pick.node for pick in picks] == [net.nodes[1].id] * 5
