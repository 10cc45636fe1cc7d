"""The wait of a recovery: for nodes that this one traded with, and never without end."""

from __future__ import annotations

import msgspec
from market_kit import ME, PEER

from exchange.model.records import Decision, PendingTake, Recovered, StoredFeed
from node.annexes.recovery.patience import MOST_WAITS, Patience, traded_with

M = "BTC-USD"


def test_a_recovery_waits_for_nodes_that_it_traded_with_alone() -> None:
    refused = Decision("refused", 1, M, 1, 100, 0, 0, 0, "gone")
    past = Recovered(
        feeds=[StoredFeed("ghost", M)],
        marks={"refused": 1},
        decisions=[refused, msgspec.structs.replace(refused, taker="taker", quantity=5)],
        takes=[PendingTake(1, M, 1, "maker", 1, 1, 100, 5)],
        balances={(f"peer:{PEER}", "USD"): 0, (f"peer:{ME}", "USD"): 0, ("account:1", "USD"): 5},
    )
    assert traded_with(past, ME) == {PEER, "taker", "maker"}


def test_claims_do_not_extend_the_wait_and_what_is_shown_does_with_an_end() -> None:
    claimed = Patience(100.0, 30.0)
    assert not claimed.is_over(129.9, complete=False, loading=0)
    assert claimed.is_over(130.0, complete=False, loading=0)
    assert Patience(100.0, 30.0).is_over(101.0, complete=True, loading=0)
    shown, now = Patience(100.0, 30.0), 100.0
    while not shown.is_over(now, complete=False, loading=1):
        now += 0.25
    assert now == 100.0 + MOST_WAITS * 30.0


def test_progress_is_told_every_five_seconds() -> None:
    patience = Patience(100.0, 30.0)
    told = [patience.progress(100.0 + i, ["a"], ["b", "c"], 4) for i in range(11)]
    assert [i for i, line in enumerate(told) if line] == [0, 5, 10]
    assert told[5] == (
        "heard 1 nodes, 2 that this one traded with are missing, 4 feeds are loading; 25 s left, 295 s at most"
    )
