"""TokenBucket, WarmUp and RateOwner: a rate that holds, a ramp, and one owner."""

from __future__ import annotations

import asyncio
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.flow import Aimd, AimdSettings, RateOwned, RateOwner, TokenBucket, WarmUp


@given(
    rate=st.floats(0.5, 200.0),
    burst=st.floats(1.0, 20.0),
    gaps=st.lists(st.floats(0.0, 2.0), min_size=1, max_size=120),
)
def test_no_stretch_of_time_gets_more_than_its_rate_and_the_burst(
    rate: float, burst: float, gaps: list[float]
) -> None:
    bucket = TokenBucket(rate, burst)
    now, taken = 0.0, []
    for gap in gaps:
        now += gap
        while bucket.try_take(now):
            taken.append(now)
    for i, start in enumerate(taken):
        for j in range(i, len(taken)):
            assert j - i + 1 <= rate * (taken[j] - start) + burst + 1e-6


def test_a_wait_of_exactly_the_delay_is_enough() -> None:
    bucket = TokenBucket(3.0)
    now = 0.0
    for _ in range(1000):
        now += bucket.would_delay(now)
        assert bucket.try_take(now)
    assert now == pytest.approx(999 / 3)


def test_a_new_rate_counts_from_when_it_is_set() -> None:
    bucket = TokenBucket(1.0, burst=10.0)
    bucket.try_take(0.0)
    bucket.set_rate(2.0, 4.0)
    assert bucket.tokens(2.0) == pytest.approx(2.0)
    assert bucket.tokens(3.0) == pytest.approx(6.0)


def test_a_clock_that_steps_back_earns_and_costs_nothing() -> None:
    bucket = TokenBucket(10.0)
    assert bucket.try_take(5.0)
    assert not bucket.try_take(1.0)
    assert not bucket.try_take(5.05)
    assert bucket.try_take(5.1)


@pytest.mark.parametrize(("rate", "burst"), [(-1.0, 1.0), (1.0, 0.5)])
def test_a_negative_rate_or_a_burst_below_one_is_refused(rate: float, burst: float) -> None:
    with pytest.raises(ValueError):
        TokenBucket(rate, burst)


@pytest.mark.looptime
async def test_waiters_are_served_in_the_order_they_came() -> None:
    loop = asyncio.get_running_loop()
    bucket = TokenBucket(10.0)
    served: list[tuple[int, float]] = []

    async def wait(number: int) -> None:
        await bucket.take()
        served.append((number, loop.time()))

    began = loop.time()
    await asyncio.gather(*(wait(n) for n in range(20)))
    assert [n for n, _ in served] == list(range(20))
    assert served[-1][1] - began == pytest.approx(1.9, abs=0.01)


@pytest.mark.looptime
async def test_waiters_are_served_in_order() -> None:
    bucket = TokenBucket(10.0)
    await bucket.take()
    waiting = asyncio.create_task(bucket.take())
    await asyncio.sleep(0.05)
    assert not bucket.try_take(asyncio.get_running_loop().time() + 1.0)
    await waiting


@pytest.mark.looptime
async def test_a_waiter_that_is_cancelled_costs_no_token() -> None:
    loop = asyncio.get_running_loop()
    bucket = TokenBucket(1.0)
    await bucket.take()
    began = loop.time()
    first, second = asyncio.create_task(bucket.take()), asyncio.create_task(bucket.take())
    await asyncio.sleep(0.5)
    first.cancel()
    await second
    assert loop.time() - began == pytest.approx(1.0, abs=0.01)
    assert first.cancelled()


@pytest.mark.looptime
async def test_a_higher_rate_applies_to_waiting_requests() -> None:
    loop = asyncio.get_running_loop()
    bucket = TokenBucket(0.0)
    await bucket.take()
    assert bucket.would_delay(loop.time()) == inf
    waiting = asyncio.create_task(bucket.take())
    await asyncio.sleep(5.0)
    assert not waiting.done()
    bucket.set_rate(loop.time(), 100.0)
    async with asyncio.timeout(0.1):
        await waiting


# Warm-up


def test_a_warm_up_waits_while_it_is_held_and_goes_on_from_there() -> None:
    ramp = WarmUp(1.0, 100.0, seconds=10.0)
    assert ramp.rate(99.0) == pytest.approx(1.0)  # not begun
    ramp.resume(0.0)
    ramp.hold(5.0)
    held = ramp.rate(5.0)
    assert ramp.rate(1000.0) == held == pytest.approx(10.0)
    ramp.resume(1000.0)
    ramp.resume(1001.0)  # it runs already
    assert ramp.rate(1005.0) == 100.0


# One owner


def test_only_the_owner_sets_the_rate() -> None:
    bucket = TokenBucket(1.0)
    owner = RateOwner(bucket, warm_up=WarmUp(1.0, 10.0, 5.0))
    with pytest.raises(RateOwned):
        bucket.set_rate(0.0, 50.0)
    with pytest.raises(RateOwned):
        RateOwner(bucket, aimd=Aimd())
    assert owner.update(0.0) == pytest.approx(1.0)


def test_a_warm_up_that_is_restarted_begins_at_the_low_rate_also_when_it_was_held() -> None:
    ramp = WarmUp(1.0, 100.0, 10.0)
    ramp.resume(0.0)
    assert ramp.rate(10.0) == 100.0
    ramp.hold(10.0)
    ramp.restart(20.0)
    assert ramp.rate(20.0) == 1.0
    assert ramp.rate(30.0) == 100.0


def test_an_aimd_step_does_not_end_the_warm_up_and_the_warm_up_does_not_undo_a_cut() -> None:
    bucket = TokenBucket(1.0)
    ramp = WarmUp(1.0, 100.0, seconds=10.0)
    aimd = Aimd(AimdSettings(initial=50.0, maximum=100.0))
    told: list[str] = []
    owner = RateOwner(
        bucket, on_change=lambda now, old, new, why: told.append(why), warm_up=ramp, aimd=aimd
    )
    ramp.resume(0.0)
    for i in range(100):  # AIMD grows, and the warm-up still decides
        aimd.on_send(i / 50)
        aimd.on_result(i / 50, "ok", 0.01)
    assert aimd.rate(2.0) > 50.0
    assert owner.update(2.0) == ramp.rate(2.0) < 3.0
    for _ in range(10):
        aimd.on_send(9.0)
        aimd.on_result(9.0, "busy", 0.01)
    assert owner.update(20.0) == aimd.rate(20.0) < ramp.rate(20.0)
    assert bucket.rate == aimd.rate(20.0)
    assert told == ["warm_up", "aimd"]
