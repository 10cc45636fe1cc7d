"""The default policy computes the formula of its docstring. Mutants of it survived every test by outcomes alone."""

from __future__ import annotations

import random

import pytest

from p2p.adaptive.cost_policy import (
    BUSY,
    COUNTED,
    CROWD,
    ERROR_COST,
    ERROR_CROWD,
    ERROR_LATENCIES,
    LATENCY,
    LATENCY_NOISE,
    NOISE,
    OWN,
    POWER,
    TIMEOUT_ERRORS,
    CostPolicy,
)
from p2p.adaptive.peer_metrics import PeerMetrics, Pool

POLICY = CostPolicy()


def believed(value: float, usual: float, noise: float) -> float:
    """The part of a difference to the average that is more than noise, added to the average."""
    above = value - usual
    return usual + above / (1.0 + (noise * usual / above) ** 2) if above else usual


def expected(now: float, metrics: PeerMetrics, pool: Pool) -> float:
    """The formula, from the aged figures."""
    latency = believed(metrics.aged_latency(now, pool), pool.latency, LATENCY_NOISE * pool.busy)
    service = believed(metrics.aged_service(now, pool), pool.service, NOISE)
    others = metrics.aged_others(now, pool)
    own = len(metrics.sends)
    if own:
        latency = max(latency, metrics.oldest(now, pool))
    failures = 0.0
    if metrics.failing or metrics.hanging:
        errors, timeouts = metrics.rates(now, pool)
        others = max(others, pool.others)
        failure = max(ERROR_COST + ERROR_CROWD * pool.foreign, ERROR_LATENCIES * pool.latency)
        failures = (errors + TIMEOUT_ERRORS * timeouts) * failure
    inside = own * (1.0 + OWN * pool.foreign) + others
    wait = max(0.0, inside + 1.0 - pool.width) / pool.width
    work = service * ((1.0 + wait) ** (POWER + CROWD * pool.foreign) + BUSY * inside / pool.width)
    trust = LATENCY - COUNTED * pool.busy * (1.0 - pool.foreign)
    return trust * max(0.0, latency - pool.service) + work + failures


@pytest.mark.parametrize("seed", range(40))
def test_the_cost_is_that_of_the_formula(seed: int) -> None:
    rng = random.Random(seed)
    pool = Pool()
    pool.latency, pool.service = rng.uniform(0.001, 0.4), rng.uniform(0.001, 0.1)
    pool.others, pool.width = rng.choice((0.0, rng.uniform(0.0, 20.0))), rng.uniform(1.0, 8.0)
    pool.foreign = rng.choice((0.0, rng.random()))
    pool.busy = rng.choice((0.0, rng.random(), 1.0))
    now = 100.0
    metrics = PeerMetrics(now - rng.uniform(0.0, 5.0))
    if rng.random() < 0.8:
        metrics.latency, metrics.service = rng.uniform(0.001, 1.0), rng.uniform(0.001, 0.5)
        metrics.latency_at = now - rng.uniform(0.0, 3.0)
    if rng.random() < 0.6:
        metrics.others, metrics.others_at = rng.uniform(0.0, 30.0), now - rng.uniform(0.0, 0.3)
    sent = sorted(now - rng.uniform(0.0, 2.0) for _ in range(rng.choice((0, 0, 1, 4))))
    metrics.sends.extend((at, tag) for tag, at in enumerate(sent))
    if rng.random() < 0.5:
        metrics.failed(now - 0.5, 0.1, rng.random() < 0.5, pool)
    assert POLICY.cost(now, metrics, pool) == pytest.approx(expected(now, metrics, pool), rel=1e-9)
