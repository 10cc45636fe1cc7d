"""Shadow mode decides without consuming; canary cohorts are sticky."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.flow import Canary, Shadow, TokenBucket


@given(
    gaps=st.lists(st.floats(0.0, 0.5), min_size=1, max_size=100),
    rate=st.floats(1.0, 50.0),
    burst=st.floats(1.0, 10.0),
)
def test_the_shadow_predicts_the_bucket(gaps: list[float], rate: float, burst: float) -> None:
    shadow, bucket = Shadow(rate, burst), TokenBucket(rate, burst)
    # A bucket begins with one token and the shadow with its burst: let both fill first.
    bucket.try_take(0.0)
    now = free = 100.0
    for gap in gaps:
        now += gap
        start = max(now, free)  # a message waits for those before it
        free = start + bucket.would_delay(start)
        assert bucket.try_take(free + 1e-9)
        assert shadow.decide(now) == pytest.approx(free - now, abs=1e-5)


def test_the_real_limiter_is_not_touched() -> None:
    real = TokenBucket(10.0, burst=5.0)
    real.try_take(0.0)
    shadow = Shadow(10.0, burst=5.0)
    for i in range(1000):
        shadow.decide(1.0 + i / 1000)
    assert real.tokens(2.0) == 5.0
    assert shadow.figures().seen == 1000


def test_asking_the_shadow_changes_nothing_and_deciding_counts() -> None:
    shadow = Shadow(10.0)
    assert shadow.decide(0.0) == 0.0
    assert [shadow.would_delay(0.0) for _ in range(3)] == [pytest.approx(0.1)] * 3
    assert shadow.decide(0.0) == pytest.approx(0.1)
    found = shadow.figures()
    assert (found.seen, found.delayed, found.refused) == (2, 1, 0)
    assert found.total_delay_s == found.longest_delay_s == pytest.approx(0.1)


def test_requests_beyond_the_patience_count_as_refused_and_are_not_charged() -> None:
    shadow = Shadow(1.0, patience_s=2.0)
    decided = [shadow.decide(0.0) for _ in range(10)]
    assert decided[:3] == [0.0, 1.0, 2.0]
    assert decided[3:] == [inf] * 7
    assert shadow.figures().refused == 7
    assert shadow.decide(5.0) == 0.0


def test_a_client_is_in_or_out_for_all_its_requests() -> None:
    canary = Canary(30.0, name="throttling")
    for client in (f"client {i}" for i in range(50)):
        assert len({canary.cohort(client) for _ in range(20)}) == 1


def test_the_share_of_clients_is_the_percentage() -> None:
    clients = [f"client {i}" for i in range(20_000)]
    for percent in (0.0, 1.0, 25.0, 100.0):
        share = sum(map(Canary(percent).enrolled, clients)) / len(clients)
        assert share == pytest.approx(percent / 100, abs=0.01)


def test_raising_the_share_keeps_its_members() -> None:
    clients = [f"client {i}" for i in range(2000)]
    canary = Canary(0.0)
    inside: set[str] = set()
    for percent in (1.0, 10.0, 50.0, 100.0):
        canary.set_percent(percent)
        now = {c for c in clients if canary.enrolled(c)}
        assert inside < now
        inside = now


def test_two_changes_have_independent_cohorts() -> None:
    clients = [f"client {i}" for i in range(5000)]
    a, b = Canary(50.0, name="a"), Canary(50.0, name="b")
    both = sum(a.enrolled(c) and b.enrolled(c) for c in clients) / len(clients)
    assert both == pytest.approx(0.25, abs=0.03)


def test_figures_are_kept_for_each_cohort() -> None:
    canary = Canary(20.0)
    for i in range(4000):
        client = f"client {i % 400}"
        inside = canary.enrolled(client)
        canary.record(i / 100, client, 0.01 if inside else 0.1, ok=inside or i % 10 != 0)
    found = canary.figures(40.0)
    assert found.canary.count + found.control.count == 4000
    assert found.canary.error_rate == 0.0
    assert found.control.error_rate > 0.05
    assert found.canary.p95_s < found.control.p50_s
