from __future__ import annotations

import random

import pytest

from p2p.adaptive import HedgePolicy, RetryBudget, RetryPolicy, RetrySettings


def test_waits_are_fully_jittered_and_their_upper_end_doubles_to_a_cap():
    policy = RetryPolicy(
        RetrySettings(max_retries=10, base_s=0.1, cap_s=0.5),
        rng=random.Random(1),
        budget=RetryBudget(reserve=1e9, ratio=1.0),
    )
    for attempts, upper in ((1, 0.1), (2, 0.2), (3, 0.4), (4, 0.5), (9, 0.5)):
        waits = [policy.next_delay(0.0, attempts, 100.0) for _ in range(300)]
        known = [w for w in waits if w is not None]
        assert len(known) == 300
        assert min(known) < 0.1 * upper
        assert 0.9 * upper < max(known) <= upper


def test_retries_end_after_the_configured_number():
    policy = RetryPolicy(RetrySettings(max_retries=3), rng=random.Random(1))
    assert policy.next_delay(0.0, 3, 9.0) is not None
    assert policy.next_delay(0.0, 4, 9.0) is None


def test_no_retry_past_the_deadline():
    policy = RetryPolicy(RetrySettings(base_s=0.5), rng=random.Random(1))
    for _ in range(5):
        delay = policy.next_delay(10.0, 1, 10.3)
        assert delay is None or 10.0 + delay < 10.3
    assert policy.next_delay(10.0, 1, 10.0) is None


def test_a_deadline_that_cannot_be_met_costs_no_token():
    policy = RetryPolicy(rng=random.Random(1))
    before = policy.budget.tokens(5.0)
    assert policy.next_delay(5.0, 1, 5.0) is None
    assert policy.budget.tokens(5.0) == before


def test_the_retry_time_of_a_busy_peer_is_respected():
    policy = RetryPolicy(rng=random.Random(1))
    delay = policy.next_delay(0.0, 1, 100.0, retry_after_s=2.0)
    assert delay is not None
    assert delay >= 2.0


def test_retries_cannot_multiply_an_outage():
    """All of 10,000 requests in 10 s fail: a tenth of them may be repeated, and a small reserve."""
    policy = RetryPolicy(rng=random.Random(1))
    retries = 0
    for i in range(10_000):
        policy.on_request(i / 1000)
        attempts = 1
        while policy.next_delay(i / 1000, attempts, 1e9) is not None:
            attempts += 1
            retries += 1
    assert 900 <= retries <= 1000 + 10 + 5


def test_a_budget_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError):
        RetryBudget(ratio=1.5)


def test_a_hedge_waits_for_the_tail_of_recent_answers():
    hedge = HedgePolicy(0.95)
    assert hedge.delay() is None
    for i in range(200):
        hedge.on_success(0.001 * (i % 100))
    delay = hedge.delay()
    assert delay is not None
    assert 0.093 <= delay <= 0.097


def test_hedges_add_about_five_percent_when_everything_is_slow():
    hedge = HedgePolicy()
    hedges = 0
    for i in range(10_000):
        hedge.on_request(i / 1000)
        hedges += hedge.take(i / 1000)
    assert 450 <= hedges <= 510
