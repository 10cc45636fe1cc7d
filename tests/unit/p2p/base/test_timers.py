"""Deadlines with lazy deletion, and timers made of them."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from p2p.base.timers import Deadlines, Timers


def test_keys_come_up_in_order_of_time_then_of_setting():
    deadlines: Deadlines[str] = Deadlines()
    deadlines.set("late", 3.0)
    deadlines.set("first", 1.0)
    deadlines.set("second", 1.0)
    assert deadlines.next() == 1.0
    assert [deadlines.pop(2.0), deadlines.pop(2.0), deadlines.pop(2.0)] == ["first", "second", None]
    assert deadlines.pop(3.0) == "late"
    assert deadlines.next() is None


def test_a_deadline_set_again_counts_once():
    deadlines: Deadlines[str] = Deadlines()
    deadlines.set("key", 1.0)
    deadlines.set("key", 5.0)
    assert len(deadlines) == 1
    assert deadlines.pop(4.0) is None
    deadlines.discard("key")
    assert deadlines.next() is None


def test_replaced_deadlines_do_not_pile_up():
    deadlines: Deadlines[int] = Deadlines()
    for n in range(10_000):
        deadlines.set(n % 10, float(n))
    assert len(deadlines._heap) <= 2 * 10 + 65
    assert deadlines.in_order() == [n % 10 for n in range(9_990, 10_000)]


@given(st.lists(st.tuples(st.integers(0, 5), st.one_of(st.none(), st.integers(0, 20)))))
def test_equal_to_a_dict_of_times(changes: list[tuple[int, int | None]]):
    deadlines: Deadlines[int] = Deadlines()
    expected: dict[int, int] = {}
    for key, at in changes:
        if at is None:
            deadlines.discard(key)
            expected.pop(key, None)
        else:
            deadlines.set(key, float(at))
            expected[key] = at
        assert deadlines.next() == min(expected.values(), default=None)
    popped = []
    while (key := deadlines.pop(20.0)) is not None:
        popped.append(expected.pop(key))
    assert popped == sorted(popped)
    assert not expected


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
