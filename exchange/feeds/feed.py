"""Feeds: the state that the events of a feed describe, a feed as a node holds it, and its writer.

A feed is the append-only, numbered list of events of one owner for one market, signed in batches. Its
state is a pure function of its events. A checkpoint carries the hash of the open orders, packed in pages:
any replica's copy of the pages is then a snapshot signed by the owner, and earlier batches can go.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice

import msgspec

from exchange.feeds.checkpoint_pages import SLICE, OrderPacking, PackedOrders, pages_hash
from exchange.feeds.exchange_messages import FeedName
from exchange.model.events import (
    GENESIS,
    Amended,
    Batch,
    Checkpoint,
    Event,
    Filled,
    Moved,
    Opened,
    Snapshot,
    orders_of,
    sign_batch,
)
from exchange.model.peer_values import MAX_EVENTS, OrderNumber, Price, Shown, Side, Time
from exchange.model.ports import SigningKeys

CHECKPOINT_EVERY = 1024  # events, at least; and at least CHECKPOINT_FACTOR times the open orders
CHECKPOINT_FACTOR = 4  # so that writing snapshots stays a fraction of writing events
PAGE_ORDERS = 4096  # orders in one snapshot page: about 100 KiB
MAX_PAGES = 4096  # of a snapshot that a node offers: 16 million orders
AT_ONCE = 4096  # open orders that are packed for a checkpoint in one go, in about a millisecond
HASHED = 512 * 1024  # bytes of pages of a snapshot that are hashed in one go
LOADED = 1000  # orders of a snapshot that are taken in one go
LATEST = 2  # events for each open order since the packing began: then a checkpoint is written whatever it takes
RULE_SINCE = 1_796_083_200_000_000  # us, 2026-12-01T00:00:00Z: see exchange.feeds.checkpoint_rule

_encoder = msgspec.msgpack.Encoder()
_batch_decoder = msgspec.msgpack.Decoder(Batch)
_page_decoder = msgspec.msgpack.Decoder(list[tuple[OrderNumber, Side, Price, Shown, Time]])


class FeedFault(ValueError):
    """Proof of misbehaviour or of lost data: the owner signed events that contradict its own feed."""


class ShownOrder(msgspec.Struct, gc=False):
    """An order as its feed shows it. Ticks, lots, microseconds since the epoch."""

    side: int
    price: int
    shown: int
    time: int


class StoredBatch(msgspec.Struct, frozen=True, gc=False):
    """An encoded batch: smaller than its events, and ignored by the cyclic collector."""

    data: bytes
    digest: bytes
    last: int  # number of its last event

    @property
    def batch(self) -> Batch:
        """The batch, decoded."""
        return _batch_decoder.decode(self.data)


class FeedState:
    """State of a feed: a pure function of its events."""

    __slots__ = ("_packed", "_packed_at", "head", "newest", "number", "orders")

    def __init__(self) -> None:
        self.number = 0
        self.head = GENESIS
        self.orders: dict[int, ShownOrder] = {}
        # Latest time of an order open at the last checkpoint, or of an event since then, us. As long as
        # all are before RULE_SINCE it may be that of an order which was closed before the checkpoint.
        self.newest = 0
        self._packed = PackedOrders([], [])  # open orders ...
        self._packed_at = -1  # ... at this number

    def apply(self, event: Event) -> None:
        """Advance by one event.

        Raises:
            FeedFault: the event contradicts the events before it.
        """
        orders = self.orders
        if isinstance(event, Opened):
            number = event.order
            if number in orders:
                raise FeedFault(f"order {number} opened twice")
            orders[number] = ShownOrder(event.side, event.price, event.shown, event.time)
            if event.time > self.newest:
                self.newest = event.time
        elif isinstance(event, Checkpoint):
            if event.state != self.packed().state:
                raise FeedFault("a checkpoint that does not match the events before it")
            self._packed_at += 1  # it changes no order
            self.newest = self._newest_order()
        else:
            order = orders.get(event.order)
            if order is None:
                raise FeedFault(f"order {event.order} changed without being open")
            if isinstance(event, Filled):
                if event.price != order.price or event.side != order.side:
                    raise FeedFault(f"order {event.order} filled at another price than its own")
                order.shown = event.shown
                if event.left == 0:
                    del orders[event.order]
                if event.time > self.newest:
                    self.newest = event.time
            elif isinstance(event, Amended):
                order.shown = event.shown
            elif isinstance(event, Moved):
                if event.time <= order.time:
                    raise FeedFault(f"order {event.order} moved to a time before its own")
                order.price, order.shown, order.time = event.price, event.shown, event.time
                if event.time > self.newest:
                    self.newest = event.time
            else:
                del orders[event.order]
        self.number += 1

    def pages(self) -> list[bytes]:
        """Return the open orders by number, packed in pages of `PAGE_ORDERS`. Not to be changed."""
        return self.packed().pages

    def packed(self) -> PackedOrders:
        """Return the pages with their hashes. Takes 0.3 us for each order, unless `expect` was called."""
        if self._packed_at != self.number:
            self.expect(self.number, OrderPacking(self.orders, PAGE_ORDERS).finish())
        return self._packed

    def expect(self, number: int, packed: PackedOrders) -> None:
        """Provide the pages of the orders that will be open at `number`."""
        self._packed, self._packed_at = packed, number

    def outcome(self, events: Iterable[Event]) -> dict[int, ShownOrder | None]:
        """Return the orders that events would change, as they would be then. Changes nothing.

        Raises:
            FeedFault: as `apply`.
        """
        trial = FeedState()
        numbers = orders_of(events)
        for number in numbers:
            order = self.orders.get(number)
            if order is not None:
                trial.orders[number] = msgspec.structs.replace(order)
        for event in events:
            if not isinstance(event, Checkpoint):
                trial.apply(event)
        return {number: trial.orders.get(number) for number in numbers}

    def _newest_order(self) -> int:
        newest = self.newest
        if newest >= RULE_SINCE:
            newest = 0
            for order in reversed(self.orders.values()):
                newest = max(newest, order.time)
                if newest >= RULE_SINCE:
                    break
        return newest

    @classmethod
    def restore(cls, snapshot: Snapshot) -> FeedState:
        """Return the state at a snapshot.

        Raises:
            FeedFault: the pages do not match the checkpoint.
            msgspec.DecodeError: the pages have another shape, or impossible values.
        """
        state = cls()
        for _ in state.load(snapshot):
            pass
        return state

    def load(self, snapshot: Snapshot) -> Iterator[None]:
        """Take the content of a snapshot into an empty state, in slices. Raises as `restore`."""
        hashes: list[bytes] = []
        hashed = loaded = 0
        for page in snapshot.pages:
            if hashed > HASHED:
                yield
                hashed = 0
            hashes.append(hashlib.sha256(page).digest())
            hashed += len(page)
        last = snapshot.batch.events[-1]
        if not isinstance(last, Checkpoint) or last.state != pages_hash(hashes):
            raise FeedFault("the pages do not match the checkpoint")
        for page in snapshot.pages:
            rows = _page_decoder.decode(page)
            for start in range(0, len(rows), LOADED):
                if loaded >= LOADED:
                    yield
                    loaded = 0
                some = rows[start : start + LOADED]
                self._load(some)
                loaded += len(some)
        self.number = snapshot.batch.last
        self.head = snapshot.head

    def _load(self, rows: list[tuple[int, int, int, int, int]]) -> None:
        for number, side, price, shown, time in rows:
            if number in self.orders:
                raise FeedFault(f"order {number} twice in a snapshot")
            self.orders[number] = ShownOrder(side, price, shown, time)
            self.newest = max(self.newest, time)


def state_hash(pages: Iterable[bytes]) -> bytes:
    """Return the hash that a checkpoint carries, over the hashes of the pages."""
    return pages_hash(page_hashes(pages))


def page_hashes(pages: Iterable[bytes]) -> list[bytes]:
    """Return the hashes of pages."""
    return [hashlib.sha256(page).digest() for page in pages]


def checkpoint_interval(open_orders: int) -> int:
    """Return the least number of events between two checkpoints (`exchange.feeds.checkpoint_rule`)."""
    return max(CHECKPOINT_EVERY, CHECKPOINT_FACTOR * open_orders)


class Feed:
    """A feed as a node holds it: the state, and the batches and snapshot to serve it to others.

    It holds the batches since the last checkpoint but one, and the snapshot at that checkpoint, so that
    a replica that is a little behind is served with batches.
    """

    def __init__(self, owner: str, market: str) -> None:
        self.owner = owner
        self.market = market
        self.state = FeedState()
        self.snapshot: Snapshot | None = None  # `batches` follow it
        self.batches: dict[int, StoredBatch] = {}  # by first number
        self._next_snapshot: Snapshot | None = None
        self.fault: str | None = None
        self.unbroken = 0  # number since which each event was applied here, in this run
        self.replaced = (
            False  # a later snapshot is about to take its place: its orders are not shown
        )
        self.snapshot_moved = False  # since the journal last looked
        self.signed = 0  # number of the last event in a held batch; an own feed may be ahead of it
        self.changes: dict[FeedName, None] | None = None  # gets the name when the head moves
        self._hashes: list[bytes] | None = None  # of the snapshot's pages, once they are known ...
        self._next_hashes: list[bytes] | None = None  # ... and of the next snapshot's
        self.packing: OrderPacking | None = None  # for the next checkpoint
        self.packing_late = 0  # number at which it should have been ready for long
        self._replaced = False  # batches are held that the snapshot has replaced
        self.working = False  # `step` has something to do
        self._packed: OrderPacking | None = None  # for the last one, until its memory is free

    @property
    def number(self) -> int:
        return self.state.number

    @property
    def base(self) -> int:
        """Number after which batches are held."""
        return self.snapshot.batch.last if self.snapshot else 0

    @property
    def checkpointed(self) -> int:
        """Number of the last checkpoint."""
        last = self._next_snapshot or self.snapshot
        return last.batch.last if last else 0

    @property
    def small(self) -> bool:
        """True if the open orders are packed for a checkpoint at once."""
        return len(self.state.orders) <= AT_ONCE

    def hold(self, batch: Batch, digest: bytes) -> None:
        """Keep a batch whose events have been applied."""
        self.state.head = digest
        self.signed = batch.last
        if self.changes is not None:
            self.changes[self.owner, self.market] = None
        self.batches[batch.first] = StoredBatch(_encoder.encode(batch), digest, batch.last)
        packing = self.packing
        if isinstance(batch.events[-1], Checkpoint):
            packed = packing.result if packing is not None and packing.sealed else None
            if packed is None:
                packed = self.state.packed()
            if self._next_snapshot is not None:
                self._rebase(self._next_snapshot, self._next_hashes)
            self._next_snapshot = Snapshot(batch, digest, packed.pages)
            self._next_hashes = packed.hashes
            self.packing = None
            self._packed = None if self.small else packing
            self.working = self._has_work()
        elif packing is not None:
            packing.changed(orders_of(batch.events))
            self.working = self._has_work()
        elif len(self.state.orders) > AT_ONCE:
            interval = checkpoint_interval(len(self.state.orders))
            if 8 * (self.number - self.checkpointed) >= 7 * interval:
                self.pack()

    def pack(self) -> OrderPacking:
        """Begin to pack the open orders for the next checkpoint, if that is not under way."""
        if self.packing is None:
            self.packing = OrderPacking(self.state.orders, PAGE_ORDERS)
            self.packing_late = self.number + LATEST * len(self.state.orders)
            self.working = True
        return self.packing

    def seal(self, events: Iterable[Event]) -> None:
        """Pack the open orders as they will be after `events`.

        Raises:
            FeedFault: they contradict the events before them.
        """
        self.pack().seal(self.state.outcome(events))
        self.working = True

    def step(self) -> bool:
        """Do a slice of what goes on beside trading. Returns False when nothing is left to do for now."""
        if self.packing is None or not self.packing.step():
            if self._packed is not None and not self._packed.step():
                self._packed = None
            if self._replaced:
                self._drop_batches()
        self.working = self._has_work()
        return self.working

    def _has_work(self) -> bool:
        return (
            self._packed is not None
            or (self.packing is not None and self.packing.pending)
            or self._replaced
        )

    def _drop_batches(self) -> None:
        """Drop batches that the snapshot has replaced: all at once would take long after many small ones."""
        some = list(islice(self.batches, SLICE))
        self._replaced = len(some) == SLICE
        for first in some:
            if first > self.base:
                self._replaced = False
                break
            del self.batches[first]

    def _rebase(self, snapshot: Snapshot, hashes: list[bytes] | None) -> None:
        self.snapshot, self._hashes = snapshot, hashes
        self._drop_batches()
        self.snapshot_moved = True

    def adopt(self, snapshot: Snapshot) -> None:
        """Restart from a snapshot that the caller has checked."""
        self.adopt_state(snapshot, FeedState.restore(snapshot))

    def adopt_state(self, snapshot: Snapshot, state: FeedState) -> None:
        """Restart from a snapshot whose content `state` has."""
        self.state = state
        self.signed = self.unbroken = self.state.number
        if self.changes is not None:
            self.changes[self.owner, self.market] = None
        self._next_snapshot = None
        self.packing = self._packed = None
        self._rebase(snapshot, None)
        self.working = self._has_work()

    def reload(self, snapshot: Snapshot | None, batches: list[Batch], network: str) -> None:
        """Rebuild from the journal, whose batches were checked before they were written."""
        if snapshot is not None:
            self.adopt(snapshot)
        for batch in batches:
            for event in batch.events:
                self.state.apply(event)
            self.hold(batch, batch.digest(network))
        self.unbroken = self.number
        self.snapshot_moved = False

    def page_hashes(self) -> list[bytes]:
        """Return the hashes of the snapshot's pages."""
        if self._hashes is None:
            self._hashes = [] if self.snapshot is None else page_hashes(self.snapshot.pages)
        return self._hashes

    def after(self, number: int, max_bytes: int) -> list[Batch]:
        """Return consecutive batches that follow `number`: as many as fit, at least one; none if the
        next batch is not held."""
        return [held.batch for held in self.held_after(number, max_bytes)]

    def held_after(self, number: int, max_bytes: int) -> Iterator[StoredBatch]:
        """Iterate over the batches of `after` as they are held."""
        size = 0
        while (held := self.batches.get(number + 1)) is not None:
            if size and size + len(held.data) > max_bytes:
                break
            size += len(held.data)
            yield held
            number = held.last


class Writer:
    """Writer of this node's own feed for one market."""

    def __init__(self, feed: Feed, keys: SigningKeys, network: str) -> None:
        self.feed = feed
        self._keys = keys
        self._network = network
        self.unsigned: list[Event] = []  # applied, but not in a batch yet
        self._sealed: list[Event] = []  # the same, before a checkpoint whose pages are being packed
        self._signed_to = feed.number
        self._since_checkpoint = feed.number - feed.checkpointed  # signed events

    @property
    def number(self) -> int:
        """Number of the last event, signed or not."""
        return self.feed.number

    def append(self, event: Event) -> None:
        """Apply an event; the next `flush` signs it."""
        self.feed.state.apply(event)
        self.unsigned.append(event)

    def prepare(self) -> bool:
        """Do a slice of what the next `flush` needs if that has a checkpoint. Returns True while more is left, which
        `flush` would do at once: put it off. Events may be appended meanwhile."""
        packing = self.feed.packing
        if packing is None:
            return False
        if not self._sealed:
            since = self._since_checkpoint + len(self.unsigned)
            due = since >= checkpoint_interval(len(self.feed.state.orders))
            if not due or not self.unsigned or not packing.ready:
                return False
            self._seal(packing)
        if packing.result is None:
            packing.step()
        return packing.result is None

    def flush(self) -> list[Batch]:
        """Sign the events appended since the last call, with a checkpoint if the rule allows one and its pages are
        as good as ready."""
        feed = self.feed
        since = self._since_checkpoint + len(self.unsigned)
        interval = checkpoint_interval(len(feed.state.orders))
        if since >= interval and self.unsigned and not self._sealed:
            packing = feed.packing
            late = feed.number > feed.packing_late
            if feed.small or (packing is not None and (late or packing.ready)):
                self._seal(feed.pack())
        batches: list[Batch] = []
        if self._sealed:
            events, self._sealed = self._sealed, []
            events.append(Checkpoint(feed.pack().finish().state))
            self._sign(events, batches)
            self._since_checkpoint = 0
        if self.unsigned:
            events, self.unsigned = self.unsigned, []
            self._since_checkpoint += len(events)
            self._sign(events, batches)
        return batches

    def _seal(self, packing: OrderPacking) -> None:
        """Let a checkpoint follow the events appended so far."""
        self._sealed, self.unsigned = self.unsigned, []
        packing.changed(orders_of(self._sealed))
        packing.seal()
        self.feed.state.number += 1

    def _sign(self, events: list[Event], into: list[Batch]) -> None:
        state = self.feed.state
        for start in range(0, len(events), MAX_EVENTS):
            some = events[start : start + MAX_EVENTS]
            batch, digest = sign_batch(
                self._keys, self._network, self.feed.market, self._signed_to + 1, state.head, some
            )
            self._signed_to = batch.last
            self.feed.hold(batch, digest)
            into.append(batch)
