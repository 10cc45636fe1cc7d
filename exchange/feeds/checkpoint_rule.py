"""The writer's rule for checkpoints, and its enforcement by replicas.

A checkpoint makes every replica serialise and store all open orders of the feed, so it has to be paid for
with events. The rule (docs/protocol.md): between two checkpoints there are at least
`checkpoint_interval(m)` events, where m is the number of open orders at the later one. A replica
- treats a checkpoint earlier than half of that as a fault of the owner,
- delays one between half and whole, by the time that the work for it may take,
- does both as a function of the feed's content and of the last checkpoint before, which every replica
  holds, also one that began with a snapshot: so all replicas decide alike.

Feeds were written before the rule was published. A checkpoint is no fault as long as no event since the
last checkpoint, and no order that was open there, has a time from RULE_SINCE on: then it is delayed
only. An owner that dates its events back gets that delay instead, which bounds the cost just as well.
"""

from __future__ import annotations

from enum import Enum, auto

from exchange.feeds import feed as feed_module
from exchange.feeds.feed import RULE_SINCE, Feed
from exchange.model.events import Batch, Closed, Filled, Moved, Opened

ORDERS_A_SECOND = 10_000  # open orders in early checkpoints of one feed, for each second of delay
MIN_WAIT = 1.0  # seconds between an early checkpoint and the one before it


class Earliness(Enum):
    """Judgement on the time of a checkpoint."""

    DUE = auto()
    EARLY = auto()
    FAULT = auto()


def earliness(feed: Feed, batch: Batch) -> tuple[Earliness, int]:
    """Judge the checkpoint at the end of the next batch of a feed. Also returns the open orders then."""
    events = batch.last - 1 - feed.checkpointed
    open_orders = len(feed.state.orders)
    newest = feed.state.newest
    for event in batch.events:
        if isinstance(event, Opened):
            open_orders += 1
            newest = max(newest, event.time)
        elif isinstance(event, Filled):
            open_orders -= not event.left
            newest = max(newest, event.time)
        elif isinstance(event, Moved):
            newest = max(newest, event.time)
        elif isinstance(event, Closed):
            open_orders -= 1
    whole = feed_module.checkpoint_interval(open_orders)
    if events >= whole:
        return Earliness.DUE, open_orders
    if 2 * events < whole and newest >= RULE_SINCE:
        return Earliness.FAULT, open_orders
    return Earliness.EARLY, open_orders


def wait_of(open_orders: int) -> float:
    """Return the least time between an early checkpoint and the one before it, in seconds."""
    return max(MIN_WAIT, open_orders / ORDERS_A_SECOND)
