"""The buckets of clients: what is allowed, and how many are remembered."""

from __future__ import annotations

from node.http.client_rates import ClientRates


def test_a_clock_that_steps_back_gives_nothing() -> None:
    buckets = ClientRates(1.0, 1.0, most=9)
    assert buckets.take("a", 100.0) == (True, 0.0)
    assert buckets.take("a", 50.0) == (False, 0.0)


def test_a_look_counts_nothing() -> None:
    buckets = ClientRates(1.0, 2.0, most=9)
    assert [buckets.left("a", 0.0), buckets.left("a", 0.0)] == [2.0, 2.0]
    assert buckets.take("a", 0.0) == (True, 1.0)
    assert buckets.left("a", 0.5) == 1.5


def test_the_client_that_was_not_seen_for_longest_is_forgotten() -> None:
    buckets = ClientRates(0.0, 3.0, most=2)
    for client in "abac":  # c takes the place of b
        buckets.take(client, 0.0)
    assert [buckets.left(client, 0.0) for client in "abc"] == [1.0, 3.0, 2.0]
