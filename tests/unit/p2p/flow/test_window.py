"""SlidingWindow: right figures of the last seconds, in bounded memory."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.flow import SlidingWindow


@given(st.lists(st.floats(1e-4, 100.0), min_size=1, max_size=300))
def test_percentiles_are_right_to_within_five_percent(latencies: list[float]) -> None:
    window = SlidingWindow(seconds=10.0)
    for latency in latencies:
        window.record(5.0, latency, True)
    found = window.figures(5.0)
    ordered = sorted(latencies)
    for share, value in ((0.5, found.p50_s), (0.95, found.p95_s), (0.99, found.p99_s)):
        exact = ordered[max(1, math.ceil(share * len(ordered))) - 1]
        assert exact * 0.9999 <= value <= exact * 1.0501


def test_samples_older_than_the_window_are_forgotten() -> None:
    window = SlidingWindow(seconds=10.0, slots=10)
    for i in range(100):
        window.record(i / 100, 1.0, False)
    for i in range(50):
        window.record(8.0 + i / 100, 0.01, True)
    assert window.figures(8.9).error_rate == pytest.approx(100 / 150)
    later = window.figures(12.0)
    assert (later.count, later.error_rate) == (50, 0.0)
    assert window.figures(60.0).count == 0


def test_throughput_is_per_second_also_before_the_window_is_full() -> None:
    window = SlidingWindow(seconds=10.0)
    for i in range(200):
        window.record(100.0 + i / 100, 0.01, True)
    assert window.figures(102.0).throughput == pytest.approx(100.0, rel=0.05)
    for i in range(200, 2000):
        window.record(100.0 + i / 100, 0.01, True)
    assert window.figures(120.0).throughput == pytest.approx(100.0, rel=0.05)


def test_failures_that_come_fast_do_not_look_quick() -> None:
    window = SlidingWindow()
    for _ in range(90):
        window.record(1.0, 0.0001, False)
    for _ in range(10):
        window.record(1.0, 0.2, True)
    found = window.figures(1.0)
    assert found.error_rate == pytest.approx(0.9)
    assert found.p50_s == pytest.approx(0.2, rel=0.05)


def test_memory_is_bounded_whatever_passes() -> None:
    rng = random.Random(1)
    window = SlidingWindow(seconds=1.0, slots=4)
    for i in range(50_000):
        window.record(i / 1000, 10 ** rng.uniform(-7, 6), True)
    assert sum(len(slot.bins) for slot in window._ring) <= 4 * 430
    assert window.figures(50.0).p99_s <= 1.05e4


def test_a_result_from_before_the_window_is_dropped() -> None:
    window = SlidingWindow(seconds=1.0, slots=4)
    window.record(10.0, 0.1, True)
    window.record(8.0, 0.1, True)
    assert window.figures(10.0).count == 1


def test_an_empty_window_shows_zeros_and_asking_changes_nothing() -> None:
    window = SlidingWindow()
    assert window.figures(1.0) == window.figures(1e9)
    window.record(5.0, 0.1, True)
    first = window.figures(5.1)
    window.figures(500.0)
    assert window.figures(5.1) == first
