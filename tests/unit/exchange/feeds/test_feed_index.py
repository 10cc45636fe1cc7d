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
