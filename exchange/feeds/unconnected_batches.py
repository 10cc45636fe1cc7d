"""Unconnected batches: checked batches that wait for the events before them, or are delayed.

A batch costs its owner a signature, and one that never connects stays until it is evicted. So their bytes
are bounded for each owner and for all owners together. When the total is exceeded, the owner with most
bytes loses the batch that is furthest from connecting: the heaviest loses, not the newest. An evicted
batch is requested again when the events before it have arrived.
"""

from __future__ import annotations

from exchange.feeds.exchange_messages import FeedName
from exchange.feeds.feed import StoredBatch
from exchange.feeds.owner_weights import OwnerWeights

MAX_BYTES = 32 * 1024 * 1024  # of all owners
MAX_OWNER_BYTES = 4 * 1024 * 1024  # 2,000 events a second for 25 seconds
MAX_BATCHES = 256  # of one feed
OVERHEAD = 300  # bytes that a batch takes in memory beyond its encoding


class UnconnectedBatches:
    """Batches by feed and first number, within bounds of bytes."""

    def __init__(self, most: int = MAX_BYTES, most_each: int = MAX_OWNER_BYTES) -> None:
        self._most = most
        self._most_each = most_each
        self._feeds: dict[FeedName, dict[int, StoredBatch]] = {}
        self._of_owner: dict[str, dict[FeedName, int]] = {}  # owner -> feed -> bytes
        self._bytes = OwnerWeights()
        self.evicted = 0

    @property
    def bytes(self) -> int:
        """Bytes of all batches, with their overhead."""
        return self._bytes.total

    def has(self, name: FeedName) -> bool:
        """Report if any batch of a feed waits."""
        return name in self._feeds

    def get(self, name: FeedName, first: int) -> StoredBatch | None:
        """Return the batch of a feed that begins at a number."""
        waiting = self._feeds.get(name)
        return None if waiting is None else waiting.get(first)

    def add(self, name: FeedName, first: int, batch: StoredBatch) -> None:
        """Keep a batch; evict others, or this batch, where a bound is exceeded."""
        waiting = self._feeds.setdefault(name, {})
        if first in waiting:
            return
        waiting[first] = batch
        self._count(name, len(batch.data) + OVERHEAD)
        if len(waiting) > MAX_BATCHES:
            self._evict(name)
        owner = name[0]
        while self._bytes[owner] > self._most_each:
            self._evict_of(owner)
        while self.bytes > self._most and (heaviest := self._bytes.heaviest()) is not None:
            self._evict_of(heaviest)

    def remove_to(self, name: FeedName, number: int) -> None:
        """Remove the batches of a feed that begin at `number` or before it."""
        for first in [first for first in self._feeds.get(name, ()) if first <= number]:
            self._drop(name, first)

    def clear(self, name: FeedName) -> None:
        """Remove all batches of a feed."""
        for first in list(self._feeds.get(name, ())):
            self._drop(name, first)

    def _evict_of(self, owner: str) -> None:
        feeds = self._of_owner[owner]
        self._evict(max(feeds, key=lambda name: feeds[name]))

    def _evict(self, name: FeedName) -> None:
        self._drop(name, max(self._feeds[name]))
        self.evicted += 1

    def _drop(self, name: FeedName, first: int) -> None:
        waiting = self._feeds[name]
        self._count(name, -len(waiting.pop(first).data) - OVERHEAD)
        if not waiting:
            del self._feeds[name]

    def _count(self, name: FeedName, size: int) -> None:
        owner = name[0]
        self._bytes.add(owner, size)
        feeds = self._of_owner.setdefault(owner, {})
        feeds[name] = feeds.get(name, 0) + size
        if not feeds[name]:
            del feeds[name]
            if not feeds:
                del self._of_owner[owner]
