"""Replica of another owner's feed: batches in any order, checked, applied in sequence.

Rules of this file:
- Two different batches under one number, a batch that does not follow the one before it, and events
  that contradict each other are faults of the owner. The feed is frozen then.
- A checkpoint that breaks the writer's rule is a fault before its state is computed
  (`exchange.feeds.checkpoint_rule`). An early one that is no fault waits for its time.
- A batch may also wait for `pace`, the owner's budget of events, and one with a checkpoint until the pages of many
  orders are packed. A waiting batch is kept with the unconnected batches: rates delay, they never drop.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import msgspec

from exchange.feeds.checkpoint_rule import Earliness, earliness, wait_of
from exchange.feeds.feed import Feed, FeedFault, FeedState, StoredBatch
from exchange.feeds.feed_limits import SNAPSHOT_ORDERS_PER_EVENT
from exchange.feeds.unconnected_batches import UnconnectedBatches
from exchange.model.events import Batch, Checkpoint, Snapshot, check_batch, orders_of
from exchange.model.ports import SigningKeys

RESUMED = 512  # events of waiting batches that are applied in one go, in two milliseconds or so
PACKING = 0.005  # seconds after which to look again if pages are packed, or read

_encode = msgspec.msgpack.Encoder().encode


class EventPace(Protocol):
    """Budget of events of owners, as `exchange.feeds.feed_limits.EventRates`."""

    def wait(self, now: float, owner: str) -> float: ...

    def spend(self, now: float, owner: str, events: int) -> None: ...


class _Unpaced:
    def wait(self, now: float, owner: str) -> float:
        return 0.0

    def spend(self, now: float, owner: str, events: int) -> None:
        pass


class Replica:
    """Another owner's feed, followed in order. Batches may arrive late, doubled and out of order."""

    def __init__(
        self,
        feed: Feed,
        keys: SigningKeys,
        network: str,
        unconnected: UnconnectedBatches | None = None,
        pace: EventPace | None = None,
    ) -> None:
        """`pace`: none, the default, delays nothing."""
        self.feed = feed
        self.complete_at = float("-inf")  # when the owner last confirmed that nothing is missing
        self._keys = keys
        self._network = network
        self._unconnected = UnconnectedBatches() if unconnected is None else unconnected
        self._pace: EventPace = pace or _Unpaced()
        self._name = feed.owner, feed.market
        self._last_checkpoint = float("-inf")  # time at which the last one was applied here
        self.waits_until: float | None = None  # time at which the next batch may be applied
        self.loading: tuple[Snapshot, FeedState] | None = None  # a snapshot that is being read
        # Batches applied by the call that found a fault, and orders of those and of the one that was applied in
        # part: the caller has not seen them.
        self.fault_batches: list[Batch] = []
        self.fault_orders: list[int] = []

    @property
    def gap(self) -> bool:
        """True if a batch waits for events that are missing."""
        return self.waits_until is None and self._unconnected.has(self._name)

    def offer(self, batch: Batch, now: float = 0.0) -> list[Batch]:
        """Process a batch. Return the batches that became part of the feed, in order.

        Raises:
            InvalidBatch: not signed by the owner, or malformed: the sender is to blame.
            FeedFault: signed by the owner, but contradicting its feed. The feed is frozen.
        """
        feed = self.feed
        held = feed.batches.get(batch.first)
        known = held or self._unconnected.get(self._name, batch.first)
        if known is not None and known.data == _encode(batch):
            return []
        # The signature of an old batch is checked too: valid batches are relayed.
        digest = check_batch(self._keys, self._network, batch)
        if feed.fault or batch.last <= feed.base:
            return []
        if known is not None and known.digest == digest:  # another signature under the same content
            return []
        if batch.first <= feed.number or known is not None:
            # Also when the batches are cut differently: one number has one batch, always.
            raise self._fault(f"two different events under number {batch.first}")
        if batch.first > feed.number + 1 or self._must_wait(batch, now):
            self._unconnected.add(
                self._name, batch.first, StoredBatch(_encode(batch), digest, batch.last)
            )
            return []
        self._apply(batch, digest, now)
        try:
            return [batch, *self.resume(now)]
        except FeedFault:
            self._applied_before_fault([batch])
            raise

    def offer_snapshot(
        self, batch: Batch, pages: list[bytes], now: float = 0.0
    ) -> list[Batch] | None:
        """Jump to a later snapshot; None if it is not later than the feed here.

        Returns the batches that waited for it and have become part of the feed.

        Raises:
            InvalidBatch, FeedFault: as for `offer`. The caller has compared the pages with the
                checkpoint, so FeedFault blames the owner here too.
        """
        steps = self.load_snapshot(batch, pages)
        if steps is None:
            return None
        for _ in steps:
            pass
        return self.adopt_loaded(now)

    def load_snapshot(self, batch: Batch, pages: list[bytes]) -> Iterator[None] | None:
        """Read a later snapshot in slices, after which `adopt_loaded` jumps to it. Meanwhile batches wait. Returns and
        raises as `offer_snapshot`."""
        if self.feed.fault or self.loading is not None or batch.last <= self.feed.number:
            return None
        digest = check_batch(self._keys, self._network, batch)
        self.loading = Snapshot(batch, digest, pages), FeedState()
        return self._load(*self.loading)

    def _load(self, snapshot: Snapshot, state: FeedState) -> Iterator[None]:
        try:
            yield from state.load(snapshot)
        except (FeedFault, msgspec.DecodeError) as error:
            self.loading = None
            raise self._fault(f"impossible snapshot: {error}") from error

    def adopt_loaded(self, now: float) -> list[Batch] | None:
        """Jump to the snapshot that was read. Returns and raises as `offer_snapshot`."""
        if self.loading is None:
            return None
        self.feed.adopt_state(*self.loading)
        self.loading = None
        self._last_checkpoint = now
        self.waits_until = None
        orders = len(self.feed.state.orders)
        self._pace.spend(now, self.feed.owner, orders // SNAPSHOT_ORDERS_PER_EVENT)
        return self.resume(now)

    def close(self) -> None:
        """Drop the waiting batches, and a snapshot that is being read."""
        self.loading = None
        self._unconnected.clear(self._name)
        self.waits_until = None

    def resume(self, now: float) -> list[Batch]:
        """Apply the waiting batches that connect and are due, some at a time; return them in order. If more are left
        `waits_until` is not later than `now`.

        Raises:
            FeedFault: as for `offer`.
        """
        feed = self.feed
        applied: list[Batch] = []
        events = 0
        self.waits_until = None
        self._unconnected.remove_to(self._name, feed.number)
        while (following := self._unconnected.get(self._name, feed.number + 1)) is not None:
            batch = following.batch
            events += len(batch.events)
            if applied and events > RESUMED:
                self.waits_until = now
                break
            try:
                if self._must_wait(batch, now):
                    break
                self._apply(batch, following.digest, now)
            except FeedFault:
                self._applied_before_fault(applied)
                raise
            self._unconnected.remove_to(self._name, feed.number)
            applied.append(batch)
        return applied

    def _must_wait(self, batch: Batch, now: float) -> bool:
        """Set `waits_until` if the next batch may not be applied yet."""
        wait = self._pace.wait(now, self.feed.owner)
        if self.loading is not None:
            wait = max(wait, PACKING)
        if isinstance(batch.events[-1], Checkpoint):
            found, open_orders = earliness(self.feed, batch)
            if found is Earliness.FAULT:
                raise self._fault(
                    f"checkpoint {batch.last} follows {self.feed.checkpointed} too early for "
                    f"{open_orders} open orders"
                )
            if found is Earliness.EARLY:
                wait = max(wait, self._last_checkpoint + wait_of(open_orders) - now)
            if not self._has_packed(batch):
                wait = max(wait, PACKING)
        if wait <= 0.0:
            return False
        self.waits_until = now + wait
        return True

    def _has_packed(self, batch: Batch) -> bool:
        """Report if the pages at the end of the next batch are known, or few orders are open. Begins to pack them: the
        owner of the feed steps on (`Feed.step`), and the state stays as it is until the batch is applied."""
        feed = self.feed
        if feed.small:
            return True
        packing = feed.pack()
        if packing.ready and not packing.sealed:
            try:
                feed.seal(batch.events)
            except FeedFault:
                return True  # found again when the batch is applied
        if packing.result is None:
            return False
        feed.state.expect(batch.last - 1, packing.result)
        return True

    def _apply(self, batch: Batch, digest: bytes, now: float) -> None:
        state = self.feed.state
        if batch.previous != state.head:
            raise self._fault(f"number {batch.first} does not follow the batch signed before it")
        try:
            for event in batch.events:
                state.apply(event)
        except FeedFault as fault:
            self.fault_orders += orders_of(batch.events)  # the feed has stopped half way through it
            raise self._fault(str(fault)) from fault
        self.feed.hold(batch, digest)
        self._pace.spend(now, self.feed.owner, len(batch.events))
        if isinstance(batch.events[-1], Checkpoint):
            self._last_checkpoint = now

    def _applied_before_fault(self, batches: list[Batch]) -> None:
        self.fault_batches = [*batches, *self.fault_batches]
        self.fault_orders += [order for batch in batches for order in orders_of(batch.events)]

    def _fault(self, reason: str) -> FeedFault:
        self.feed.fault = reason
        self.feed.packing = None
        self.loading = None
        self.waits_until = None
        self._unconnected.clear(self._name)
        return FeedFault(reason)
