"""Recovery of a node whose journal is older than the network's copy of its feeds.

Theory of operation. A restored node fetches the signed batches of its own feeds that its journal lacks,
from every node that it knew, and writes nothing meanwhile. When no node has more, `settle` brings
orders and money in line with them, in one drain:

- A fill is booked to the account of its order. If the journal does not have the order, or the account
  cannot cover it, the fill is booked to the account `suspense`, for the operator to assign.
- An order stays open if the feed shows exactly what is free of it. All others are closed, and so are orders
  of the feed that the journal does not have: their account is unknown.
- A take without a known outcome is resolved by the feed, or the statement, of its maker.

Fills with other nodes are in the own feed (as maker), in their feeds (as taker), and in their statements,
which also cover what the feeds' snapshots have replaced. Trades between two orders of this node are in
the own feed alone. Deposits, withdrawals, accounts and keys are nowhere else: they are lost.

Rules of this file:
- Nothing is written to the own feeds before `settle`, and the batches fetched become durable together
  with what follows from them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from exchange.feeds.feed import Feed, FeedFault
from exchange.feeds.feed_replica import Replica
from exchange.model.events import Batch
from exchange.model.records import Recovered
from exchange.orders.engine_context import EngineContext

SETTLE: Final = 6.5  # seconds without news: neighbours compare digests every five


class RecoveryError(Exception):
    """The feeds that other nodes hold cannot be those of this journal."""


class FeedGap(msgspec.Struct, frozen=True):
    """Events of an own feed that no node holds any more: a snapshot has replaced them."""

    market: str
    first: int
    last: int


@dataclass(slots=True)
class OwnFeed:
    """Copy of an own feed that grows with what others hold."""

    replica: Replica
    before: int  # number in the journal
    batches: list[Batch] = field(default_factory=list)  # fetched, in order
    gaps: list[FeedGap] = field(default_factory=list)

    @property
    def feed(self) -> Feed:
        return self.replica.feed


class Recovery:
    """Own feeds while they are fetched. `now` is monotonic seconds."""

    def __init__(self, context: EngineContext, past: Recovered, known: Iterable[str]) -> None:
        """Put copies of the own feeds in the place of the originals. `known`: nodes that have to
        answer."""
        self._context = context
        self.first_lost_take = past.meta.get("next_take", 1)
        self.feeds: dict[str, OwnFeed] = {}
        self.known = {node for node in known if node != context.node_id}
        self.failed: str | None = None  # reason why this journal cannot be recovered
        self._heard: dict[str, float] = {}
        self._news_at: float | None = None  # time of the last change
        stored = {feed.market: feed for feed in past.feeds if feed.owner == context.node_id}
        for key in context.markets:
            feed = Feed(context.node_id, key)
            if key in stored:
                feed.reload(stored[key].snapshot, stored[key].batches, context.network)
            context.feeds[context.node_id, key] = feed
            self.feeds[key] = OwnFeed(Replica(feed, context.keys, context.network), feed.number)

    # News from others

    def heard(self, now: float, node: str) -> None:
        """Note a digest of a node: whatever it holds more is being requested now."""
        if node not in self._heard:
            self._news_at = now
        self._heard[node] = now

    def on_batch(self, now: float, market: str, batch: Batch) -> None:
        """Process a batch with this node's signature. One that contradicts the journal sets `failed`."""
        own = self.feeds[market]
        try:
            applied = own.replica.offer(batch, now)
        except FeedFault as fault:
            self._contradiction(market, fault)
            return
        self._grown(now, own, applied)

    def adopt(self, now: float, market: str, checkpoint: Batch, pages: list[bytes]) -> None:
        """Process a complete snapshot of an own feed; as `on_batch`."""
        own = self.feeds[market]
        before = own.feed.number
        try:
            applied = own.replica.offer_snapshot(checkpoint, pages, now)
        except FeedFault as fault:
            self._contradiction(market, fault)
            return
        if applied is None:
            return
        own.gaps.append(FeedGap(market, before + 1, checkpoint.last))
        self._news_at = now
        self._grown(now, own, applied)

    def _contradiction(self, market: str, fault: FeedFault) -> None:
        self.failed = self.failed or (
            f"the network's copy of this node's feed for {market} contradicts the journal: {fault}. This node "
            "cannot go on under its key: start with another --data-dir to become a new node"
        )

    def _grown(self, now: float, own: OwnFeed, applied: list[Batch]) -> None:
        own.batches += applied
        if applied:
            self._news_at = now

    def tick(self, now: float) -> None:
        """Apply batches whose time has come."""
        for own in self.feeds.values():
            own.feed.step()
            until = own.replica.waits_until
            if until is not None and until <= now:
                try:
                    self._grown(now, own, own.replica.resume(now))
                except FeedFault as fault:
                    self._contradiction(own.feed.market, fault)

    # Completeness

    @property
    def has_news(self) -> bool:
        """True if others hold something of the own feeds that the journal lacks."""
        return any(own.batches or own.gaps for own in self.feeds.values())

    @property
    def heard_from(self) -> list[str]:
        """Nodes whose digest has arrived."""
        return sorted(self._heard)

    def unheard(self, present: Collection[str]) -> list[str]:
        """Known nodes that have neither sent a digest nor been seen."""
        return sorted(self.known - self._heard.keys() - set(present))

    def settled(self, now: float, *, behind: bool) -> bool:
        """Report if nothing has changed for long enough. `behind`: more is known to exist."""
        if behind or any(own.replica.waits_until is not None for own in self.feeds.values()):
            self._news_at = now
        return self._news_at is not None and now - self._news_at >= SETTLE
