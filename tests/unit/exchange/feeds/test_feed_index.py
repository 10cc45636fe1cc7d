"""The feed index: heads in order and their summary, brought up to date by what changed."""

from __future__ import annotations

import hashlib
import random

from exchange_kit import M, Owner
from replication_kit import opened

from exchange.feeds.exchange_messages import FeedHead
from exchange.feeds.feed import Feed
from exchange.feeds.feed_index import FeedIndex


def plain_heads(index: FeedIndex) -> list[FeedHead]:
    """The heads as version 0.1.0 made them: all feeds, sorted at each call."""
    return [
        FeedHead(owner, market, feed.signed, feed.state.head[:8])
        for (owner, market), feed in sorted(index.items())
        if feed.signed
    ]


def plain_summary(index: FeedIndex) -> bytes:
    digest = hashlib.sha256()
    for head in plain_heads(index):
        digest.update(f"{head.owner} {head.market} {head.number} ".encode() + head.hash)
    return digest.digest()[:16]


def test_heads_and_summary_are_those_of_version_0_1_0_after_any_changes() -> None:
    rng = random.Random(7)
    index, owners = FeedIndex(), [Owner(seed) for seed in range(1, 30)]
    next_order = {owner.id: 1 for owner in owners}
    for _ in range(400):
        owner = rng.choice(owners)
        name = owner.id, M
        match rng.randrange(10):
            case 0 if name in index:
                del index[name]
            case 1:
                index[f"empty{rng.randrange(9)}", M] = Feed("empty", M)
            case 2 | 3:
                index[name] = owner.writer.feed
            case _:
                owner.batch(opened(next_order[owner.id]))
                next_order[owner.id] += 1
        if rng.random() < 0.5:
            assert index.heads() == plain_heads(index)
            assert index.summary() == plain_summary(index)
            assert index.heads_of(owner.id) == [
                h for h in plain_heads(index) if h.owner == owner.id
            ]


def test_nothing_is_computed_where_nothing_changed() -> None:
    index = FeedIndex()
    owners = [Owner(seed) for seed in range(1, 20)]
    for owner in owners:
        owner.batch(opened(1))
        index[owner.id, M] = owner.writer.feed
    before, version = list(index.heads()), index.version
    assert index.summary() is index.summary()
    assert index.version == version
    owners[3].batch(opened(2))
    after = index.heads()
    assert [a is b for a, b in zip(after, before, strict=True)].count(False) == 1


def test_events_that_are_not_signed_yet_are_in_no_head() -> None:
    index, owner = FeedIndex(), Owner(1)
    owner.batch(opened(1))
    index[owner.id, M] = owner.writer.feed
    owner.writer.append(opened(2))
    assert [head.number for head in index.heads()] == [1]
    owner.writer.flush()
    assert [head.number for head in index.heads()] == [2]


def test_a_removed_feed_changes_the_index_no_more() -> None:
    index, owner = FeedIndex(), Owner(1)
    owner.batch(opened(1))
    index[owner.id, M] = owner.writer.feed
    del index[owner.id, M]
    owner.batch(opened(2))
    assert index.heads() == []
    assert index.summary() == FeedIndex().summary()
