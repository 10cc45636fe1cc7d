import random

import pytest

from p2p.grenache.link.grape_health import (
    PROBE_FIRST,
    PROBE_MAX,
    PROBE_SPREAD,
    Health,
)


@pytest.fixture
def health():
    return Health(["http://a:1", "http://b:1", "http://c:1"], random.Random(1), 0.0)


def test_probes_of_a_grape_that_is_down_are_further_and_further_apart(health):
    now, waits = 0.0, []
    health.failed(0, "connection refused", now)
    for _ in range(10):
        when = health.probe_at(0)
        waits.append(when - now)
        now = when
        health.failed(0, "connection refused", now)
    spread = PROBE_SPREAD + 1e-9
    for number, wait in enumerate(waits):
        base = min(PROBE_FIRST * 2**number, PROBE_MAX)
        assert base * (1 - spread) <= wait <= base * (1 + spread)
    assert len({round(wait / PROBE_MAX, 6) for wait in waits[5:]}) > 1  # not in step


def test_the_status_has_durations_and_reasons(health):
    health.answered(0, 0.004, 2.0)
    health.answered(0, 0.009, 2.0)
    health.failed(1, "connection refused", 3.0)
    first, second, third = health.status(10.0)
    assert (first.url, first.up, first.seconds) == ("http://a:1", True, 8.0)
    assert first.latency == pytest.approx(0.005)
    assert first.detail == "answers in 5.0 ms"
    assert (second.up, second.seconds, second.error) == (False, 7.0, "connection refused")
    assert second.detail == "connection refused"
    assert third.detail == "not used yet"
