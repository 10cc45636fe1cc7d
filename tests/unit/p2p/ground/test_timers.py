"""Calls by their time."""

from __future__ import annotations

import random

from p2p.ground.timers import Timers


def test_calls_scheduled_by_a_call_wait_for_the_next_run_and_cancelled_ones_never_come():
    timers, calls = Timers(), []

    def first(now: float) -> None:
        calls.append("first")
        timers.at(now, lambda _: calls.append("nested"))

    timers.at(1.0, first)
    timers.at(1.0, lambda _: calls.append("cancelled")).cancel()
    timers.run(1.0)
    assert calls == ["first"]
    timers.run(1.0)
    assert calls == ["first", "nested"]
    assert timers.next() == float("inf")


def test_random_order_of_setting_gives_sorted_calls():
    rng, timers, calls = random.Random(1), Timers(), []
    times = [rng.random() for _ in range(200)]
    for at in times:
        timers.at(at, lambda now, at=at: calls.append(at))
    timers.run(1.0)
    assert calls == sorted(times)


def test_timers_for_the_same_time_are_due_in_the_order_in_which_they_were_made():
    timers, calls = Timers(), []
    for name in "cab":
        timers.at(1.0, lambda _, name=name: calls.append(name))
    timers.run(1.0)
    assert calls == ["c", "a", "b"]
