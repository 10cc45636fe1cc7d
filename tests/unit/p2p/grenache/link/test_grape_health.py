import random

import pytest

from p2p.grenache.link.grape_health import (
    DESPERATE,
    PROBE_FIRST,
    PROBE_MAX,
    PROBE_SPREAD,
    SLOW_FOR,
    Health,
)


@pytest.fixture
def health():
    return Health(["http://a:1", "http://b:1", "http://c:1"], random.Random(1), 0.0)


def test_grapes_are_queried_in_the_given_order_at_first(health):
    assert health.order(0.0) == [0, 1, 2]
    assert [health.probe_at(grape) for grape in range(3)] == [0.0, 0.0, 0.0]
    assert [one.up for one in health.status(0.0)] == [None, None, None]


def test_a_failing_grape_is_not_queried_until_it_answers(health):
    assert health.failed(0, "connection refused", 1.0)
    assert health.order(1.0) == [1, 2]
    assert not health.failed(0, "connection refused", 2.0)
    assert health.answered(0, None, 3.0)
    assert not health.answered(0, 0.01, 3.0)
    assert health.order(3.0) == [0, 1, 2]


def test_a_slow_grape_is_queried_last_for_a_while_and_probed(health):
    for grape in range(3):
        health.answered(grape, 0.001, 0.0)
    health.slow(0, 1.0)
    assert health.order(1.0) == [1, 2, 0]
    assert health.probe_at(0) == 1.0
    health.answered(0, None, 1.1)
    assert health.order(1.1) == [1, 2, 0]
    assert health.order(1.0 + 1.3 * SLOW_FOR) == [0, 1, 2]


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


def test_a_request_that_fails_too_does_not_put_the_next_probe_off(health):
    health.failed(0, "connection refused", 0.0)
    when = health.probe_at(0)
    health.failed(0, "connection refused", when / 2)
    assert health.probe_at(0) == when


def test_after_a_return_probes_begin_with_the_short_wait_again(health):
    for now in (0.0, 2.0, 6.0, 20.0):
        health.failed(0, "x", now)
    health.answered(0, None, 30.0)
    assert health.probe_at(0) is None
    health.failed(0, "x", 40.0)
    assert health.probe_at(0) <= 40.0 + PROBE_FIRST * (1 + PROBE_SPREAD)


def test_when_all_are_down_each_is_tried_once_a_second(health):
    for grape in range(3):
        health.asking(grape, 0.0)
        health.failed(grape, "x", 0.0)
    assert health.order(0.5) == []
    assert health.resort(0.5) == []
    assert health.resort(DESPERATE) == [0, 1, 2]
    health.asking(1, DESPERATE)
    assert health.resort(DESPERATE) == [0, 2]


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
