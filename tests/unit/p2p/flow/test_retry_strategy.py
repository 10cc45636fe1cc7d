"""RetryStrategy and the breaker's async form."""

from __future__ import annotations

import asyncio
import random

import pytest

from p2p.base.errors import DeliveryError, LinkClosed, RpcError, RpcTimeout
from p2p.flow import (
    BreakerOpen,
    BreakerSettings,
    BreakerState,
    Busy,
    CircuitBreaker,
    RetryBudget,
    RetryPolicy,
    RetrySettings,
    RetryStrategy,
    TokenBucket,
    full_jitter,
    guarded,
    outcome_of,
)


def policy(retries: int = 5, budget: RetryBudget | None = None) -> RetryPolicy:
    return RetryPolicy(
        RetrySettings(max_retries=retries, base_s=0.1, cap_s=1.0),
        rng=random.Random(1),
        budget=budget or RetryBudget(1.0, 1000.0, 1000.0),
    )


class Flaky:
    """Fails with `errors` in turn, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.times: list[float] = []

    async def __call__(self) -> str:
        self.times.append(asyncio.get_running_loop().time())
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


def test_full_jitter_is_uniform_below_a_bound_that_doubles() -> None:
    rng = random.Random(7)
    for attempts, bound in ((1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (9, 5.0), (5000, 5.0)):
        waits = [full_jitter(rng, attempts, 0.5, 5.0) for _ in range(2000)]
        assert 0.0 <= min(waits) < 0.05 * bound
        assert 0.95 * bound < max(waits) <= bound
        assert sum(waits) / len(waits) == pytest.approx(bound / 2, rel=0.1)


@pytest.mark.looptime
async def test_every_attempt_pays_a_token_and_not_only_the_first() -> None:
    bucket = TokenBucket(0.5)  # one attempt in two seconds, far slower than the backoff
    strategy = RetryStrategy(policy(), bucket=bucket)
    flaky = Flaky(LinkClosed(), LinkClosed(), LinkClosed())
    assert await strategy.execute(flaky, timeout_s=60.0) == "answer"
    gaps = [b - a for a, b in zip(flaky.times, flaky.times[1:], strict=False)]
    assert len(gaps) == 3
    assert all(gap >= 1.99 for gap in gaps)


@pytest.mark.looptime
async def test_retries_of_an_outage_stay_within_the_budget() -> None:
    strategy = RetryStrategy(policy(budget=RetryBudget(0.1, 10.0, 0.0)))
    for _ in range(500):
        with pytest.raises(LinkClosed):
            await strategy.execute(Flaky(*[LinkClosed()] * 6), timeout_s=60.0)
    assert strategy.attempts <= 500 + 10 + 50


@pytest.mark.looptime
async def test_refusals_on_the_merits_are_not_retried() -> None:
    strategy = RetryStrategy(policy())
    flaky = Flaky(RpcError("insufficient_balance", "no"))
    with pytest.raises(RpcError, match="insufficient_balance"):
        await strategy.execute(flaky, timeout_s=60.0)
    assert len(flaky.times) == 1


@pytest.mark.looptime
async def test_busy_is_retried_after_the_requested_wait() -> None:
    strategy = RetryStrategy(policy())
    flaky = Flaky(Busy(3.0))
    assert await strategy.execute(flaky, timeout_s=60.0) == "answer"
    assert 3.0 <= flaky.times[1] - flaky.times[0] <= 3.1


@pytest.mark.looptime
async def test_the_deadline_bounds_attempts_and_waits_together() -> None:
    strategy = RetryStrategy(policy(retries=100))
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def never() -> None:
        await asyncio.sleep(1000)

    with pytest.raises(TimeoutError):
        await strategy.execute(never, timeout_s=2.0)
    assert loop.time() - began == pytest.approx(2.0, abs=0.01)
    with pytest.raises(LinkClosed):
        await strategy.execute(Flaky(*[LinkClosed()] * 99), timeout_s=2.0)
    assert loop.time() - began <= 4.01


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (TimeoutError(), "timeout"),
        (RpcTimeout("late"), "timeout"),
        (RpcError("busy", "later"), "busy"),
        (RpcError("bad_request", "no"), "ok"),
        (Busy(0.5), "busy"),
        (LinkClosed(), "reset"),
        (DeliveryError("x", []), "reset"),
        (ConnectionRefusedError(), "reset"),
        (ValueError("handler"), "ok"),
    ],
)
def test_only_transport_timeouts_and_busy_speak_of_overload(error: Exception, outcome: str) -> None:
    assert outcome_of(error)[0] == outcome


def test_a_retry_after_that_is_absurd_is_ignored() -> None:
    assert outcome_of(Busy(0.25)) == ("busy", 0.25)
    for absurd in (-1.0, 1e9, float("nan"), float("inf")):
        assert outcome_of(Busy(absurd)) == ("busy", 0.0)


@pytest.mark.looptime
async def test_an_open_breaker_refuses_at_once_and_reports_every_change() -> None:
    changes: list[tuple[BreakerState, BreakerState]] = []
    breaker = CircuitBreaker(
        BreakerSettings(failure_threshold=3, cooldown_s=1.0, successes_to_close=1),
        rng=random.Random(1),
        on_change=lambda now, old, new, why: changes.append((old, new)),
    )
    for _ in range(3):
        with pytest.raises(LinkClosed):
            await guarded(breaker, Flaky(LinkClosed()))
    unused = Flaky()
    with pytest.raises(BreakerOpen) as caught:
        await guarded(breaker, unused)
    assert not unused.times
    await asyncio.sleep(caught.value.retry_after_s + 0.001)
    assert await guarded(breaker, Flaky()) == "answer"
    assert changes == [
        (BreakerState.CLOSED, BreakerState.OPEN),
        (BreakerState.OPEN, BreakerState.HALF_OPEN),
        (BreakerState.HALF_OPEN, BreakerState.CLOSED),
    ]


@pytest.mark.looptime
async def test_of_100_at_once_one_is_the_probe() -> None:
    breaker = CircuitBreaker(
        BreakerSettings(failure_threshold=1, cooldown_s=1.0), rng=random.Random(1)
    )
    with pytest.raises(LinkClosed):
        await guarded(breaker, Flaky(LinkClosed()))
    await asyncio.sleep(1.0)
    sent = 0

    async def slow() -> None:
        nonlocal sent
        sent += 1
        await asyncio.sleep(0.1)

    results = await asyncio.gather(
        *(guarded(breaker, slow) for _ in range(100)), return_exceptions=True
    )
    assert sent == 1
    assert sum(isinstance(r, BreakerOpen) for r in results) == 99


@pytest.mark.looptime
async def test_a_refusal_on_its_merits_does_not_open_the_breaker_and_a_cancelled_call_frees_it() -> (
    None
):
    breaker = CircuitBreaker(BreakerSettings(failure_threshold=1), rng=random.Random(1))
    with pytest.raises(RpcError):
        await guarded(breaker, Flaky(RpcError("bad_request", "no")))
    assert breaker.closed
    with pytest.raises(LinkClosed):
        await guarded(breaker, Flaky(LinkClosed()))
    await asyncio.sleep(10.0)
    probe = asyncio.create_task(guarded(breaker, lambda: asyncio.sleep(100)))
    await asyncio.sleep(0.1)
    assert not breaker.allows(asyncio.get_running_loop().time())
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    assert breaker.allows(asyncio.get_running_loop().time())
