"""Requests for missing events of a feed: receivers, times, numbers."""

from __future__ import annotations

from collections import Counter

import pytest
from exchange_kit import Keys, M
from replication_kit import ME, OWNER, A, B, LoneReplicator, request

from exchange.feeds import missing_feeds as missing_module
from exchange.feeds.exchange_messages import FeedPart
from exchange.feeds.missing_feeds import OWNERS_SHARE
from exchange.feeds.replication import GRACE
from exchange.feeds.request_budget import (
    FIRST_SHARE,
    REQUEST_TIMEOUT,
    REQUEST_TIMEOUT_MAX,
    RequestBudgets,
)

# Whom to ask


def test_a_claim_is_requested_once_after_the_grace() -> None:
    local = LoneReplicator(A)
    local.it.announced(1.0, A, OWNER, M, 5)
    assert local.it.behind == 1
    assert local.ticked(1.0 + GRACE - 0.01) == []
    assert local.ticked(1.0 + GRACE) == [(A, request())]
    assert local.ticked(1.0 + GRACE + REQUEST_TIMEOUT - 0.01) == []


def test_a_replicator_shows_what_is_missing_and_is_busy_until_it_arrives() -> None:
    local = LoneReplicator(A, B)
    assert (local.it.newest_announced(), local.it.busy) == ({}, False)
    local.it.announced(0.0, A, OWNER, M, 5)
    local.it.announced(0.0, B, OWNER, M, 7)
    assert (local.it.newest_announced(), local.it.busy) == ({(OWNER, M): 7}, True)
    local.it.advanced(0.1, OWNER, M, 7)
    assert (local.it.newest_announced(), local.it.busy) == ({}, False)


def test_batches_that_arrive_within_the_grace_are_not_requested() -> None:
    local = LoneReplicator(A)
    local.it.announced(0.0, A, OWNER, M, 5)
    local.it.advanced(0.1, OWNER, M, 5)
    assert local.it.behind == 0
    assert local.ticked(9.0) == []


def test_neighbours_are_requested_before_distant_nodes() -> None:
    local = LoneReplicator(B)
    local.it.announced(0.0, A, OWNER, M, 5, grace=0.0)
    local.it.announced(0.0, B, OWNER, M, 5, grace=0.0)
    assert local.ticked(0.0) == [(B, request())]


def test_no_request_goes_to_a_neighbour_that_is_gone() -> None:
    local = LoneReplicator(A, B)
    local.it.announced(0.0, A, OWNER, M, 5, grace=0.0)
    local.it.announced(0.0, B, OWNER, M, 5, grace=0.0)
    local.it.neighbour_down(A)
    local.it.neighbour_down("unknown")
    assert local.ticked(0.0) == [(B, request())]


def test_a_sooner_claim_shortens_the_grace_but_does_not_repeat_a_request() -> None:
    local = LoneReplicator(A, B)
    local.it.announced(0.0, A, OWNER, M, 5, grace=1.0)
    local.it.announced(0.1, B, OWNER, M, 5, grace=0.0)
    assert len(local.ticked(0.1)) == 1
    local.it.announced(0.2, B, OWNER, M, 6, grace=0.0)
    assert local.ticked(0.2) == []


def test_requests_under_way_are_bounded_and_a_timeout_frees_a_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(missing_module, "MAX_ACTIVE", 3)
    local = LoneReplicator(A)
    local.absent |= {Keys(seed).node_id for seed in range(20, 29)}
    for seed in range(20, 27):
        local.it.announced(0.0, A, Keys(seed).node_id, M, 1, grace=0.0)
    assert [r.owner for _, r in local.ticked(0.0)] == [Keys(s).node_id for s in (20, 21, 22)]
    assert local.ticked(1.0) == []
    local.it.advanced(1.0, Keys(20).node_id, M, 1)
    assert [r.owner for _, r in local.ticked(1.0)] == [Keys(23).node_id]
    for seed in (27, 28):
        local.it.announced(1.0, B, Keys(seed).node_id, M, 1, grace=0.0)
    assert [to for to, _ in local.ticked(REQUEST_TIMEOUT)] == [B, B]


# Who claims what does not exist


def fakes(count: int, first: int = 0) -> list[str]:
    """Ids that nobody has, or of whom nobody has heard."""
    return [f"node{n:028d}" for n in range(first, first + count)]


def announce_all(local: LoneReplicator, now: float, node: str, owners: list[str]) -> None:
    for owner in owners:
        local.it.announced(now, node, owner, M, 1, grace=0.0)


def test_a_node_without_the_feed_declines_and_the_owner_is_requested_at_once() -> None:
    """Presence comes through nodes that do not trade the market: they are thought to hold the feed."""
    local, other = LoneReplicator(A), LoneReplicator(A)
    for step in range(20):
        now = float(step)
        local.it.announced(now, A, OWNER, M, 5, grace=0.0)
        assert local.ticked(now) == [(A, request())]
        other.it.on_request(0.0, ME, request())
        ((_, negative),) = other.sent()
        assert local.it.on_part(now + 0.1, A, negative) is None
        assert local.ticked(now + 0.1) == [(OWNER, request())]
        local.it.advanced(now + 0.2, OWNER, M, 5)
    assert local.it.behind == 0


def test_the_owner_is_requested_at_last_when_its_claimant_never_answers() -> None:
    """Found by the simulation: with the claimant's last place its claims went too, again and again."""
    local = LoneReplicator(A)
    announce_all(local, 0.0, A, fakes(50))
    for step in range(1000):  # down to one request at a time, and half a minute for each
        local.ticked(step / 10)
    for owner in fakes(50):
        local.it.forget(owner, M)
    local.it.announced(100.0, A, OWNER, M, 5, grace=0.0)
    asked = [to for step in range(400) for to, _ in local.ticked(100.0 + step / 10)]
    assert asked == [A, OWNER]


def decline(local: LoneReplicator, now: float) -> list[str]:
    """Have neighbour A, which holds none of them, answer its requests. Returns the nodes requested."""
    asked = []
    while sent := local.ticked(now):
        for to, wanted in sent:
            asked.append(to)
            if to == A:
                local.it.on_part(now, A, FeedPart(wanted.owner, M, 0))
    return asked


def test_an_owner_that_leaves_while_it_is_requested_is_not_waited_for() -> None:
    local = LoneReplicator(A)
    owners = fakes(OWNERS_SHARE + 2)
    announce_all(local, 0.0, A, owners)
    assert [to for to in decline(local, 0.0) if to != A] == owners[:OWNERS_SHARE]
    local.absent |= {*owners[:2]}
    local.it.owner_gone(0.5, owners[0])
    local.it.owner_gone(0.5, owners[1])
    assert decline(local, 0.5) == owners[OWNERS_SHARE:]
    assert local.it.behind == OWNERS_SHARE


def test_owners_that_do_not_answer_cost_the_neighbour_that_relayed_them_nothing() -> None:
    local = LoneReplicator(A)
    silent = fakes(100)
    for step in range(600):
        if step % 30 == 0:
            announce_all(local, step / 10, A, silent)
        decline(local, step / 10)
    assert local.it._missing.budgets.share(A) == FIRST_SHARE
    announce_all(local, 60.0, A, fakes(FIRST_SHARE, first=900))
    asked = [wanted.owner for to, wanted in local.ticked(60.0) if to == A]
    assert {*fakes(FIRST_SHARE, first=900)} <= {*asked}


def test_an_owner_that_did_not_answer_rests_as_long_as_it_was_waited_for() -> None:
    local = LoneReplicator(A)
    asked = []
    for step in range(100):
        local.it.announced(step / 10, A, OWNER, M, 5, grace=0.0)
        asked += [step / 10 for to in decline(local, step / 10) if to == OWNER]
    assert asked == [0.0, 4.0]  # two seconds of waiting, two of rest; then four of either


def test_a_claimant_that_delivers_gets_more_requests_at_once() -> None:
    local = LoneReplicator(A)
    owners = fakes(500)
    announce_all(local, 0.0, A, owners)
    rounds = []
    now = 0.0
    while local.it.behind:
        asked = [r.owner for _, r in local.ticked(now)]
        rounds.append(len(asked))
        now += 0.05
        for name in asked:
            local.it.advanced(now, name, M, 1)
    assert rounds[:4] == [8, 16, 32, 32]


def test_the_greatest_claimant_loses_a_claim_when_claims_are_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(missing_module, "MAX_MISSING", 100)
    local = LoneReplicator(A, B)
    announce_all(local, 0.0, A, fakes(1000))
    announce_all(local, 0.0, B, fakes(1000, first=5000))
    assert local.it.behind == 100
    brought = Counter(missing.first for missing in local.it._missing._missing.values())
    assert brought == {A: 50, B: 50}
    local.it.forget(*next(iter(local.it._missing._missing)))
    assert local.it.behind == 99


def test_a_long_way_is_waited_for_and_a_short_one_again_when_it_is_back() -> None:
    budgets = RequestBudgets(most=32)
    assert budgets.timeout(A) == REQUEST_TIMEOUT
    for _ in range(8):  # sent together, silent together: one doubling
        budgets.timed_out(A, REQUEST_TIMEOUT, 0.0)
    assert budgets.timeout(A) == 2 * REQUEST_TIMEOUT
    for _ in range(8):
        budgets.timed_out(A, budgets.timeout(A), 0.0)
    assert budgets.timeout(A) == REQUEST_TIMEOUT_MAX
    budgets.answered(A, 3.0)
    assert budgets.timeout(A) == 6.0
    budgets.answered(A, 0.1)
    assert budgets.timeout(A) == REQUEST_TIMEOUT
    budgets.answered(B, 0.1)
    assert budgets.timeout(B) == REQUEST_TIMEOUT


def test_feeds_that_others_make_us_think_of_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(missing_module, "MAX_MISSING", 2)
    local = LoneReplicator(A)
    for seed in (20, 21, 22):
        local.it.announced(0.0, A, Keys(seed).node_id, M, 1)
    assert local.it.behind == 2
