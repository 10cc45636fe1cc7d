"""Token buckets and bounded maps."""

from __future__ import annotations

import pytest

from p2p.ground.bounded_map import BoundedMap
from p2p.ground.tokens import Tokens, TokenTable


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


def test_costs_above_one_take_as_many_tokens():
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


def test_a_wait_of_exactly_one_interval_is_enough():
    tokens = Tokens(0.0, 0.1)
    assert not tokens.take(0.2, 3.0, 1.0)
    assert tokens.take(0.1 + 1 / 3, 3.0, 1.0)


def test_a_bucket_of_a_table_can_be_overdrawn_and_fills_at_its_rate():
    table = TokenTable(rate=2.0, burst=4.0, most=2)
    table.overdraw(0.0, "a", 10.0)
    assert table.tokens(0.0, "a") == -6.0
    assert not table.take(3.0, "a")
    assert table.take(3.5, "a")
    assert table.tokens(100.0, "a") == 4.0
    for name in "bcd":
        table.take(100.0, name)
    assert table.tokens(100.0, "b") == 4.0  # forgotten: two are remembered
    assert table.tokens(100.0, "c") == 3.0
