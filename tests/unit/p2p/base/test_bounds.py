"""Token buckets and bounded maps."""

from __future__ import annotations

import pytest

from p2p.base.bounded_map import BoundedMap
from p2p.base.tokens import Tokens


def test_tokens_fill_at_the_rate_up_to_the_burst():
    tokens = Tokens(2.0, 10.0)
    assert tokens.take(10.0, 1.0, 2.0)
    assert tokens.take(10.0, 1.0, 2.0)
    assert not tokens.take(10.5, 1.0, 2.0)
    assert tokens.take(11.0, 1.0, 2.0)
    assert tokens.available(100.0, 1.0, 2.0) == 2.0


def test_a_clock_that_jumps_back_earns_nothing():
    tokens = Tokens(0.0, 100.0)
    assert not tokens.take(50.0, 1.0, 5.0)
    assert not tokens.take(100.5, 1.0, 5.0)
    assert tokens.take(101.0, 1.0, 5.0)


def test_tokens_without_a_start_earn_from_the_first_use():
    tokens = Tokens(1.0)
    assert tokens.take(1e9, 1.0, 5.0)
    assert not tokens.take(1e9, 1.0, 5.0)


def test_costs_above_one():
    tokens = Tokens(10.0, 0.0)
    assert tokens.take(0.0, 1.0, 10.0, 8.0)
    assert not tokens.take(0.0, 1.0, 10.0, 3.0)
    assert tokens.level == pytest.approx(2.0)
    assert tokens.take(1.0, 1.0, 10.0, 3.0)


def test_the_entry_renewed_least_recently_makes_room():
    evicted: list[tuple[str, int]] = []
    table: BoundedMap[str, int] = BoundedMap(2, on_evict=lambda k, v: evicted.append((k, v)))
    table["a"] = 1
    table["b"] = 2
    assert table.renew("a") == 1
    table["c"] = 3
    assert list(table) == ["a", "c"]
    assert evicted == [("b", 2)]
    table["a"] = 4
    table["d"] = 5
    assert list(table.items()) == [("a", 4), ("d", 5)]
    assert table.renew("absent") is None
