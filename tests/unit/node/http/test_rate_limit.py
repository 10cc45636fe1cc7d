"""The buckets of clients: the allowed requests, and the number of clients remembered."""

from __future__ import annotations

from node.http.rate_limit import RateLimit


def test_a_clock_that_steps_back_gives_nothing() -> None:
    rate = RateLimit(60, burst_s=1.0)
    assert rate.allows("a", 100.0)
    assert not rate.allows("a", 50.0)
    assert not rate.allows("a", 100.5)
    assert rate.allows("a", 101.0)


def test_a_look_counts_nothing() -> None:
    rate = RateLimit(60, burst_s=2.0)
    assert rate.left("a", 0.0)
    assert rate.left("a", 0.0)
    assert [rate.ask("a", 0.0).remaining for _ in range(2)] == [1, 0]
    assert not rate.left("a", 0.5)
    assert rate.left("a", 1.0)


def test_the_client_that_was_not_seen_for_longest_is_forgotten() -> None:
    rate = RateLimit(60, burst_s=3.0, clients=2)
    for client in "abac":  # c takes the place of b
        rate.ask(client, 0.0)
    assert [rate.ask(client, 0.0).remaining for client in "acb"] == [0, 1, 2]
