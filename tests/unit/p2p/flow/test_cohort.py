"""Cohort and LatencyTail: location and spread of latencies, with requests still in flight."""

from __future__ import annotations

import random
import statistics

import pytest

from p2p.flow.cohort import Cohort, LatencyTail


def complete(cohort: Cohort, latencies: list[float], reported: bool = False) -> None:
    """Send all at 0, answer in order of latency until the cohort is complete."""
    for tag in range(len(latencies)):
        cohort.on_send(0.0, tag)
    for latency, tag in sorted((latency, tag) for tag, latency in enumerate(latencies)):
        if cohort.on_reply(latency, tag, reported):
            return
    raise AssertionError("not complete")


def test_the_lower_half_is_estimated_before_the_slowest_are_in() -> None:
    cohort = Cohort(10)
    complete(cohort, [0.01] * 8 + [5.0, 9.0])
    found = cohort.latencies()
    assert found.low == pytest.approx(0.01)
    assert found.error == pytest.approx(0.0, abs=1e-9)
    assert found.replies == 10


def test_a_queue_moves_the_estimate_by_its_delay() -> None:
    rng = random.Random(1)
    latencies = [rng.expovariate(50.0) for _ in range(40)]
    first, second = Cohort(40), Cohort(40)
    complete(first, latencies)
    complete(second, [latency + 0.03 for latency in latencies])
    assert second.latencies().low - first.latencies().low == pytest.approx(0.03)
    assert second.latencies().error == pytest.approx(first.latencies().error)


def test_the_standard_error_is_that_of_repeated_cohorts() -> None:
    rng = random.Random(2)
    lows, errors = [], []
    for _ in range(400):
        cohort = Cohort(32)
        complete(cohort, [rng.expovariate(50.0) for _ in range(32)])
        found = cohort.latencies()
        lows.append(found.low)
        errors.append(found.error)
    assert statistics.fmean(errors) == pytest.approx(statistics.stdev(lows), rel=0.25)


def test_a_cohort_waits_for_requests_that_may_still_be_among_the_quick() -> None:
    cohort = Cohort(5)
    for tag in range(4):
        cohort.on_send(0.0, tag)
    cohort.on_send(0.99, 4)
    assert not any(cohort.on_reply(1.0, tag, False) for tag in range(4))  # the last is 10 ms old
    assert cohort.on_reply(1.1, 4, False)
    assert cohort.latencies().low == pytest.approx(
        (2 * 0.11 + (0.11 + 1.0) / 2 + 3 * 1.0) / 6
    )  # of six quantiles


def test_a_dropped_request_is_replaced_and_a_strange_one_ignored() -> None:
    cohort = Cohort(2)
    cohort.on_send(0.0, 1)
    cohort.on_send(0.0, 2)
    cohort.on_send(0.0, 3)  # too late to belong to it
    cohort.drop(1)
    cohort.on_send(0.1, 4)
    assert not cohort.on_reply(0.2, 3, False)
    assert not cohort.on_reply(0.2, 2, True)
    assert cohort.on_reply(0.2, 4, False)
    assert cohort.reported  # half of the replies
    assert cohort.latencies().replies == 2


def test_rare_slow_replies_count_in_full_when_they_arrive() -> None:
    rng = random.Random(3)
    tail = LatencyTail(block=100, gain=0.2)
    now, tag = 0.0, 0
    late: list[tuple[float, int, float]] = []
    for _ in range(300):
        latencies = [0.91 if rng.random() < 0.1 else 0.01 for _ in range(20)]
        cohort = Cohort(20)
        for i in range(20):
            cohort.on_send(now, tag + i)
        quick = [i for i in range(20) if latencies[i] < 0.1]
        slow = [i for i in range(20) if latencies[i] > 0.1]
        done = False
        for i in quick:
            done = cohort.on_reply(now + 0.01, tag + i, False) or done
        late += [(now + 0.91, tag + i, 0.91) for i in slow]
        if done:
            tail.add(now + 0.01, cohort, cohort.latencies())
        tag += 20
        now += 0.05
        while late and late[0][0] <= now:
            _, which, latency = late.pop(0)
            tail.on_reply(which, latency)
    assert tail.value == pytest.approx(0.09, rel=0.35)  # a tenth is 0.9 s slower


def test_a_tail_restarts_without_abandoned_requests() -> None:
    tail = LatencyTail(block=4, gain=0.5)
    cohort = Cohort(5)
    for tag in range(5):
        cohort.on_send(0.0, tag)
    assert any(cohort.on_reply(1.0, tag, False) for tag in range(4))
    tail.add(1.0, cohort, cohort.latencies())
    assert tail.value == 0.0
    tail.drop(4)
    tail.on_reply(4, 100.0)
    tail.restart()
    cohort = Cohort(4)
    complete(cohort, [1.0, 1.0, 3.0, 3.0])
    tail.add(3.0, cohort, cohort.latencies())
    assert tail.value == pytest.approx(1 / 3)  # the mean is 2 s, the six quantiles 4/3 s; gain 0.5
