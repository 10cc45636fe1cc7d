"""Orders that end by time."""

from __future__ import annotations

from exchange.orders.expiry import Expiry


def test_orders_are_due_at_their_time_earliest_first_then_by_number() -> None:
    expiry = Expiry()
    for number, time in ((3, 200), (2, 100), (1, 200), (4, 300)):
        expiry.set(number, time)
    assert expiry.due(99) == []
    assert expiry.due(200) == [2, 1, 3]
    assert expiry.due(200) == []
    assert len(expiry) == 1


def test_the_last_time_that_was_set_counts() -> None:
    expiry = Expiry()
    expiry.set(1, 100)
    expiry.set(1, 300)
    expiry.set(2, 300)
    expiry.set(2, 50)
    expiry.set(3, 10)
    expiry.remove(3)
    expiry.remove(4)
    assert expiry.due(100) == [2]
    assert expiry.due(300) == [1]
    assert len(expiry) == 0


def test_a_time_set_there_and_back_is_due_once() -> None:
    expiry = Expiry()
    for time in (100, 200, 100):
        expiry.set(1, time)
    assert expiry.due(500) == [1]


def test_orders_that_come_and_go_leave_nothing_behind() -> None:
    expiry = Expiry()
    for number in range(10_000):
        expiry.set(number, 10**9)
        expiry.set(number, 10**9 + 1)
        expiry.remove(number - 5)
    assert len(expiry) == 5
    assert len(expiry._heap) < 200
