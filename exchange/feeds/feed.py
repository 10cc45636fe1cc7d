"""Feeds: the state that the events of a feed describe, a feed as a node holds it, and its writer.

A feed is the append-only, numbered list of events of one owner for one market, signed in batches. Its
state is a pure function of its events. A checkpoint carries the hash of the open orders, packed in pages:
any replica's copy of the pages is then a snapshot signed by the owner, and earlier batches can go.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from exchange.feeds.exchange_messages import FeedName
from exchange.model.events import (
    GENESIS,
    MAX_EVENTS,
    Amended,
    Batch,
    Checkpoint,
    Event,
    Filled,
    InvalidBatch,
    Moved,
    Opened,
    Snapshot,
    check_event,
    sign_batch,
)
from exchange.model.ports import SigningKeys

CHECKPOINT_EVERY = 1024  # events, at least; and at least CHECKPOINT_FACTOR times the open orders
CHECKPOINT_FACTOR = 4  # so that writing snapshots stays a fraction of writing events
PAGE_ORDERS = 4096  # orders in one snapshot page: about 100 KiB
MAX_PAGES = 4096  # of a snapshot that a node offers: 16 million orders

_encoder = msgspec.msgpack.Encoder()
_batch_decoder = msgspec.msgpack.Decoder(Batch)
_page_decoder = msgspec.msgpack.Decoder(list[tuple[int, int, int, int, int]])


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

    __slots__ = ("_paged", "_pages", "head", "newest", "number", "orders")

    def __init__(self) -> None:
        self.number = 0
        self.head = GENESIS
        self.orders: dict[int, ShownOrder] = {}
        # Latest time of an order open at the last checkpoint, or of an event since then, us.
        self.newest = 0
        self._pages: list[bytes] = []  # pages ...
        self._paged = -1  # ... at this number

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
            if event.state != state_hash(self.pages()):
                raise FeedFault("a checkpoint that does not match the events before it")
            self._paged += 1  # it changes no order
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
        if self._paged == self.number:
            return self._pages
        rows = [
            (number, order.side, order.price, order.shown, order.time)
            for number, order in sorted(self.orders.items())
        ]
        self._pages = [
            _encoder.encode(rows[start : start + PAGE_ORDERS])
            for start in range(0, max(len(rows), 1), PAGE_ORDERS)
        ]
        self._paged = self.number
        return self._pages

    def _newest_order(self) -> int:
        return max((order.time for order in self.orders.values()), default=0)

    @classmethod
    def restore(cls, snapshot: Snapshot) -> FeedState:
        """Return the state at a snapshot.

        Raises:
            FeedFault: the pages do not match the checkpoint, or have impossible values.
            msgspec.DecodeError: the pages have another shape.
        """
        last = snapshot.batch.events[-1]
        if not isinstance(last, Checkpoint) or last.state != state_hash(snapshot.pages):
            raise FeedFault("the pages do not match the checkpoint")
        state = cls()
        state.number = snapshot.batch.last
        state.head = snapshot.head
        for page in snapshot.pages:
            for number, side, price, shown, time in _page_decoder.decode(page):
                if number in state.orders:
                    raise FeedFault(f"order {number} twice in a snapshot")
                try:
                    check_event(Opened(number, side, price, shown or 1, time))
                except InvalidBatch as error:
                    raise FeedFault(str(error)) from error
                state.orders[number] = ShownOrder(side, price, shown, time)
        state.newest = state._newest_order()
        return state


def state_hash(pages: Iterable[bytes]) -> bytes:
    """Return the hash that a checkpoint carries, over the hashes of the pages."""
    return pages_hash([hashlib.sha256(page).digest() for page in pages])


def pages_hash(hashes: Iterable[bytes]) -> bytes:
    """Return `state_hash` from the hashes of the pages."""
    return hashlib.sha256(b"".join(hashes)).digest()


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
        self.snapshot_moved = False  # since the journal last looked
        self.signed = 0  # number of the last event in a held batch; an own feed may be ahead of it
        self.changes: dict[FeedName, None] | None = None  # gets the name when the head moves
        self._page_hashes: tuple[Snapshot | None, list[bytes]] = (None, [])

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

    def hold(self, batch: Batch, digest: bytes) -> None:
        """Keep a batch whose events have been applied."""
        self.state.head = digest
        self.signed = batch.last
        if self.changes is not None:
            self.changes[self.owner, self.market] = None
        self.batches[batch.first] = StoredBatch(_encoder.encode(batch), digest, batch.last)
        if isinstance(batch.events[-1], Checkpoint):
            if self._next_snapshot is not None:
                self._rebase(self._next_snapshot)
            self._next_snapshot = Snapshot(batch, digest, self.state.pages())

    def _rebase(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.batches = {
            first: held for first, held in self.batches.items() if first > snapshot.batch.last
        }
        self.snapshot_moved = True

    def adopt(self, snapshot: Snapshot) -> None:
        """Restart from a snapshot that the caller has checked."""
        self.state = FeedState.restore(snapshot)
        self.signed = self.state.number
        if self.changes is not None:
            self.changes[self.owner, self.market] = None
        self._next_snapshot = None
        self._rebase(snapshot)

    def reload(self, snapshot: Snapshot | None, batches: list[Batch], network: str) -> None:
        """Rebuild from the journal, whose batches were checked before they were written."""
        if snapshot is not None:
            self.adopt(snapshot)
        for batch in batches:
            for event in batch.events:
                self.state.apply(event)
            self.hold(batch, batch.digest(network))
        self.snapshot_moved = False

    def page_hashes(self) -> list[bytes]:
        """Return the hashes of the snapshot's pages, computed once for each snapshot."""
        snapshot, hashes = self._page_hashes
        if snapshot is not self.snapshot and self.snapshot is not None:
            hashes = [hashlib.sha256(page).digest() for page in self.snapshot.pages]
            self._page_hashes = self.snapshot, hashes
        return hashes

    def after(self, number: int, max_bytes: int) -> list[Batch]:
        """Return consecutive batches that follow `number`: as many as fit, at least one; none if the
        next batch is not held."""
        chosen: list[Batch] = []
        size = 0
        while (held := self.batches.get(number + 1)) is not None:
            size += len(held.data)
            if chosen and size > max_bytes:
                break
            chosen.append(held.batch)
            number = held.last
        return chosen


class Writer:
    """Writer of this node's own feed for one market."""

    def __init__(self, feed: Feed, keys: SigningKeys, network: str) -> None:
        self.feed = feed
        self._keys = keys
        self._network = network
        self.unsigned: list[Event] = []  # applied, but not in a batch yet
        self._signed_to = feed.number
        self._since_checkpoint = feed.number - feed.checkpointed

    @property
    def number(self) -> int:
        """Number of the last event, signed or not."""
        return self.feed.number

    def append(self, event: Event) -> None:
        """Apply an event; the next `flush` signs it."""
        self.feed.state.apply(event)
        self.unsigned.append(event)

    def flush(self) -> list[Batch]:
        """Sign the events appended since the last call, with a checkpoint if the rule allows one."""
        if not self.unsigned:
            return []
        state = self.feed.state
        self._since_checkpoint += len(self.unsigned)
        if self._since_checkpoint >= checkpoint_interval(len(state.orders)):
            self.append(Checkpoint(state_hash(state.pages())))
            self._since_checkpoint = 0
        batches = []
        for start in range(0, len(self.unsigned), MAX_EVENTS):
            events = self.unsigned[start : start + MAX_EVENTS]
            batch, digest = sign_batch(
                self._keys, self._network, self.feed.market, self._signed_to + 1, state.head, events
            )
            self._signed_to = batch.last
            self.feed.hold(batch, digest)
            batches.append(batch)
        self.unsigned = []
        return batches
