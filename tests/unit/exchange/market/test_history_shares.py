"""Shares of a bounded history."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchange.market.candles import TradeRecord
from exchange.market.history_shares import excess, in_shares, share


@pytest.mark.parametrize(
    ("counts", "room", "each"),
    [
        ([], 10, 10),
        ([3, 4], 10, 4),  # all fit
        ([1, 2, 100], 10, 7),
        ([100, 100, 100], 10, 3),
        ([1, 1, 1], 2, 0),  # more makers than places
    ],
)
def test_makers_below_the_share_keep_all(counts: list[int], room: int, each: int) -> None:
    assert share(counts, room) == each


@pytest.mark.parametrize(
    ("own", "others", "lost"),
    [(5, 5, {}), (50, 500, {"a": 450}), (500, 500, {"m": 410, "a": 490}), (500, 3, {"m": 403})],
)
def test_trades_of_this_node_stay_longest_and_leave_a_tenth(
    own: int, others: int, lost: dict[str, int]
) -> None:
    assert excess(Counter(m=own, a=others), "m", 100) == lost


@given(st.lists(st.sampled_from("abcdm"), max_size=60), st.integers(1, 40))
def test_a_history_is_bounded_in_order_and_takes_the_newest_of_each_maker(
    makers: list[str], most: int
) -> None:
    trades = [TradeRecord(n, maker, n, 1, 1, 1, "t", n) for n, maker in enumerate(makers)]
    kept = in_shares(trades, "m", most)
    assert len(kept) <= most
    assert kept == sorted(kept, key=lambda trade: trade.time)
    assert len(trades) > most or kept == trades
    for maker in set(makers):
        of_maker = [trade for trade in trades if trade.maker == maker]
        left = [trade for trade in kept if trade.maker == maker]
        assert left == of_maker[len(of_maker) - len(left) :]
