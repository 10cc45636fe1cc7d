"""Feeds: the state that one describes, the writing of one's own, the following of others'."""

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
    check_batch,
    check_event,
    sign_batch,
)
from exchange.model.ports import Keys

CHECKPOINT_EVERY = 1024  # events, at least; and at least CHECKPOINT_FACTOR times the open orders
CHECKPOINT_FACTOR = 4  # so that writing snapshots stays a fraction of writing events
PAGE_ORDERS = 4096  # orders in one snapshot page: about 100 KiB
MAX_BUFFERED = 256  # batches held that came before the ones they follow
MAX_PAGES = 4096  # of a snapshot that somebody offers: 16 million orders

_encoder = msgspec.msgpack.Encoder()
_batch_decoder = msgspec.msgpack.Decoder(Batch)
_page_decoder = msgspec.msgpack.Decoder(list[tuple[int, int, int, int, int]])


class FeedFault(ValueError):
    """The owner signed something that contradicts its own feed: proof of misbehaviour or lost data."""


class ShownOrder(msgspec.Struct, gc=False):
    """An order as its feed shows it. Ticks, lots, microseconds since the epoch."""

    side: int
    price: int
    shown: int
    time: int


class StoredBatch(msgspec.Struct, frozen=True, gc=False):
    """A batch whose events have been applied, as it is sent: smaller than its events, and nothing that the
    cyclic collector looks at."""

    data: bytes
    digest: bytes
    last: int  # number of its last event

    @property
    def batch(self) -> Batch:
        return _batch_decoder.decode(self.data)


class FeedState:
    """What a feed says so far: a pure function of its events."""

    __slots__ = ("_paged", "_pages", "head", "number", "orders")

    def __init__(self) -> None:
        self.number = 0
        self.head = GENESIS
        self.orders: dict[int, ShownOrder] = {}
        self._pages: list[bytes] = []  # as they were last asked for ...
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
        elif isinstance(event, Checkpoint):
            if event.state != state_hash(self.pages()):
                raise FeedFault("a checkpoint that does not match the events before it")
            self._paged += 1  # it changes no order
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
            elif isinstance(event, Amended):
                order.shown = event.shown
            elif isinstance(event, Moved):
                if event.time <= order.time:
                    raise FeedFault(f"order {event.order} moved to a time before its own")
                order.price, order.shown, order.time = event.price, event.shown, event.time
            else:
                del orders[event.order]
        self.number += 1

    def pages(self) -> list[bytes]:
        """The open orders by number, packed in pages of `PAGE_ORDERS`. Not to be changed."""
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

    @classmethod
    def restore(cls, snapshot: Snapshot) -> FeedState:
        """The state at a snapshot.

        Raises:
            FeedFault: the pages are not those that the checkpoint names, or their owner put
                impossible values into them.
            msgspec.DecodeError: the owner signed pages of another shape.
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
        return state


def state_hash(pages: Iterable[bytes]) -> bytes:
    """The hash that a checkpoint carries: over the hashes of the pages."""
    return pages_hash([hashlib.sha256(page).digest() for page in pages])


def pages_hash(hashes: Iterable[bytes]) -> bytes:
    """`state_hash`, from the pages' hashes."""
    return hashlib.sha256(b"".join(hashes)).digest()


class Feed:
    """A feed as this node holds it: the state, and what is needed to serve it to others.

    Kept are the batches since the last checkpoint but one, with the snapshot at that one, so a
    follower that is a little behind is served with batches.
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
        """Batches after this number are held."""
        return self.snapshot.batch.last if self.snapshot else 0

    @property
    def checkpointed(self) -> int:
        """The number of the last checkpoint."""
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
        """Start anew from a snapshot (checked by the caller)."""
        self.state = FeedState.restore(snapshot)
        self.signed = self.state.number
        if self.changes is not None:
            self.changes[self.owner, self.market] = None
        self._next_snapshot = None
        self._rebase(snapshot)

    def reload(self, snapshot: Snapshot | None, batches: list[Batch], network: str) -> None:
        """Rebuild from one's own disk, where everything was checked before it was written."""
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
        """Consecutive held batches that follow `number`, as far as they fit, one at least; empty if not
        held."""
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
    """This node's own feed for one market."""

    def __init__(self, feed: Feed, keys: Keys, network: str) -> None:
        self.feed = feed
        self._keys = keys
        self._network = network
        self.unsigned: list[Event] = []  # applied, and not in a batch yet
        self._signed_to = feed.number
        self._since_checkpoint = feed.number - feed.checkpointed

    @property
    def number(self) -> int:
        """The number of the last event, signed or not."""
        return self.feed.number

    def append(self, event: Event) -> None:
        self.feed.state.apply(event)
        self.unsigned.append(event)

    def flush(self) -> list[Batch]:
        """Sign what was appended since the last call."""
        if not self.unsigned:
            return []
        state = self.feed.state
        self._since_checkpoint += len(self.unsigned)
        if self._since_checkpoint >= max(CHECKPOINT_EVERY, CHECKPOINT_FACTOR * len(state.orders)):
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


class Replica:
    """Another owner's feed, followed in order. Batches may arrive late, doubled and out of order."""

    def __init__(self, feed: Feed, keys: Keys, network: str) -> None:
        self.feed = feed
        self._keys = keys
        self._network = network
        self._early: dict[int, tuple[Batch, bytes]] = {}

    @property
    def gap(self) -> bool:
        """Whether something is held that follows what is missing."""
        return bool(self._early)

    def offer(self, batch: Batch) -> list[Batch]:
        """Take in a batch; returns the batches that became part of the feed, in order.

        Raises:
            InvalidBatch: not signed by the owner, or malformed: the sender is to blame.
            FeedFault: signed by the owner, but contradicting its feed. The feed is frozen.
        """
        feed = self.feed
        held = feed.batches.get(batch.first)
        early = self._early.get(batch.first)
        if (held is not None and held.data == _encoder.encode(batch)) or (
            early is not None and early[0] == batch
        ):
            return []
        # Old ones are checked too: what is called valid here is passed on.
        digest = check_batch(self._keys, self._network, batch)
        if feed.fault or batch.last <= feed.base:
            return []
        if batch.first <= feed.number:
            if held is not None and held.digest == digest:
                return []
            # Also when the batches are cut differently: one number has one batch, always.
            raise self._fault(f"two different events under number {batch.first}")
        if batch.first > feed.number + 1:
            if len(self._early) < MAX_BUFFERED:
                self._early[batch.first] = (batch, digest)
            return []
        self._apply(batch, digest)
        return [batch, *self._apply_early()]

    def offer_snapshot(self, batch: Batch, pages: list[bytes]) -> list[Batch] | None:
        """Jump to a later snapshot; None if it is not later than what is held.

        Returns the batches that were waiting for it and have become part of the feed.

        Raises:
            InvalidBatch, FeedFault: as for `offer`. The caller has compared the pages with what the
                checkpoint says of them, so FeedFault blames the owner here too.
        """
        if self.feed.fault or batch.last <= self.feed.number:
            return None
        digest = check_batch(self._keys, self._network, batch)
        try:
            self.feed.adopt(Snapshot(batch, digest, pages))
        except (FeedFault, msgspec.DecodeError) as error:
            raise self._fault(f"a snapshot that cannot be: {error}") from error
        return self._apply_early()

    def _apply_early(self) -> list[Batch]:
        applied = []
        while (following := self._early.pop(self.feed.number + 1, None)) is not None:
            self._apply(*following)
            applied.append(following[0])
        self._early = {f: b for f, b in self._early.items() if f > self.feed.number}
        return applied

    def _apply(self, batch: Batch, digest: bytes) -> None:
        state = self.feed.state
        if batch.previous != state.head:
            raise self._fault(f"number {batch.first} does not follow what the owner signed before")
        try:
            for event in batch.events:
                state.apply(event)
        except FeedFault as fault:
            raise self._fault(str(fault)) from fault
        self.feed.hold(batch, digest)

    def _fault(self, reason: str) -> FeedFault:
        self.feed.fault = reason
        self._early.clear()
        return FeedFault(reason)


__all__ = [
    "Feed",
    "FeedFault",
    "FeedState",
    "InvalidBatch",
    "Replica",
    "ShownOrder",
    "Snapshot",
    "Writer",
    "pages_hash",
    "state_hash",
]
