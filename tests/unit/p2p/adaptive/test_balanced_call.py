"""Choice, retries and hedges of one call, without any transport."""

from __future__ import annotations

import random

import pytest

from p2p.adaptive import AdaptiveRouter, BalancedCall, CallBalance, RetrySettings
from p2p.adaptive.balanced_call import LEAST_HEDGE, RETRY_RESERVE

QUICK = RetrySettings(max_retries=3, base_s=0.01, cap_s=0.1)
SLOW = RetrySettings(max_retries=3, base_s=1.0, cap_s=8.0)


def balance(same: RetrySettings | None = SLOW) -> CallBalance[str]:
    router: AdaptiveRouter[str] = AdaptiveRouter(rng=random.Random(1))
    return CallBalance(router, QUICK, same, rng=random.Random(2))


def call(
    shared: CallBalance[str], *peers: str, deadline: float = 100.0, idempotent: bool = True
) -> BalancedCall[str]:
    return BalancedCall(shared, lambda: peers, deadline, idempotent=idempotent)


def test_a_retry_goes_elsewhere_soon_and_to_the_same_peers_later():
    one = call(balance(), "a", "b")
    one.failed.append("a")
    assert one.others()
    assert one.pick(0.0) == "b"
    soon = one.next_delay(0.0, executed=True)
    assert soon is not None
    assert soon <= QUICK.base_s
    one.failed.append("b")
    assert not one.others()
    later = one.next_delay(0.0, executed=True, retry_after_s=2.0)
    assert later is not None
    assert 2.0 <= later <= 4.0


def test_without_a_policy_for_the_same_peers_a_round_begins_anew():
    one = call(balance(None), "a")
    one.failed.append("a")
    delay = one.next_delay(0.0, executed=True, retry_after_s=0.5)
    assert delay is not None
    assert 0.5 <= delay <= 0.6
    assert one.failed == []


def test_a_call_that_is_not_idempotent_is_repeated_only_if_nothing_was_executed():
    one = call(balance(), "a", "b", idempotent=False)
    one.failed.append("a")
    assert one.next_delay(0.0, executed=True) is None
    assert one.next_delay(0.0, executed=False) is not None


def test_an_attempt_that_was_never_sent_costs_nothing_while_another_peer_is_left():
    shared = balance()
    one = call(shared, "a", "b")
    one.failed.append("a")
    for _ in range(10):
        assert one.next_delay(0.0, executed=False, free=True) == 0.0
    assert one.retries == 0
    assert shared.elsewhere.budget.tokens(0.0) == RETRY_RESERVE
    assert call(shared, "a", deadline=0.0).next_delay(0.0, executed=False, free=True) is None


def test_all_calls_of_a_service_share_one_budget_of_retries():
    shared = balance()
    given = 0
    for _ in range(300):
        one = call(shared, "a", "b")
        one.failed.append("a")
        given += one.next_delay(0.0, executed=True) is not None
    assert given == RETRY_RESERVE


def test_a_hedge_goes_to_a_healthy_peer_with_room():
    shared = balance()
    one = call(shared, "a", "b", "c")
    assert one.pick_second(0.0, "a") in ("b", "c")
    assert one.pick_second(0.0, "a", lambda peer: peer == "c") == "c"
    one.failed.append("c")
    assert one.pick_second(0.0, "a") == "b"
    for at in range(20):
        shared.router.on_send(0.1 * at, "b")
        shared.router.on_result(0.1 * at + 0.01, "b", 0.01, "error")
    assert one.pick_second(2.0, "a") is None


def test_a_hedge_waits_for_as_long_as_nearly_all_answers_take():
    shared = balance()
    assert shared.hedge_delay(0.0) is None
    assert shared.hedge_delay(0.0, 0.25) == 0.25
    for _ in range(40):
        shared.hedge.on_success(0.001)
    assert shared.hedge_delay(0.0, 0.25) == LEAST_HEDGE
    for _ in range(300):
        shared.hedge.on_success(0.1)
    assert shared.hedge_delay(0.0) == pytest.approx(0.1)
