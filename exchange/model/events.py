"""Feed events, and the signed batches that carry them.

A feed is one owner's append-only, gap-free, numbered list of events for one market. Every event
about an order carries the displayed quantity after it, so a replica has nothing to compute. One trade is
one `Filled` event, in its maker's feed; the taker's order, if it was displayed, is `Amended` or `Closed`
in the taker's own feed. Hidden quantities (hidden orders, the rest of an iceberg) are in no event before
they trade: a hidden order is then opened for the traded quantity and filled at once.

Rules of this file:
- Structs are arrays on the wire and in signed bytes: fields and tags never change their order or names.
- Sizes and values are checked before anything is stored (`check_batch`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import msgspec

from exchange.model.ports import KeyChecker, SigningKeys

BUY = 1
SELL = -1

GENESIS = b"\x00" * 32  # hash before the first batch
MAX_EVENTS = 256  # of one batch: far below the frame limit
MAX_ORDER = 2**40  # order numbers of one owner
MAX_PRICE = 2**48  # ticks
MAX_QUANTITY = 2**53  # lots
_LIMIT = 2**62  # bound of every integer in an event: fits signed 64 bits


class Opened(msgspec.Struct, tag="opened", array_like=True, frozen=True, gc=False):
    """Order opened. `price` in ticks, `shown` in lots, `time` in us since the epoch."""

    order: int
    side: int  # BUY or SELL
    price: int
    shown: int
    time: int


class Filled(msgspec.Struct, tag="filled", array_like=True, frozen=True, gc=False):
    """Trade against the order. `left` is the quantity neither filled nor cancelled; 0 ends the order. Of
    an iceberg it is the displayed quantity only, or 1 when another slice follows.

    (`taker`, `take`) is the id of the trade, the same on both sides.
    """

    order: int
    side: int  # the maker's
    quantity: int
    price: int
    shown: int
    left: int
    taker: str
    take: int
    time: int


class Amended(msgspec.Struct, tag="amended", array_like=True, frozen=True, gc=False):
    """Displayed quantity changed; the order keeps its priority. 0: out of the book for now."""

    order: int
    shown: int


class Moved(msgspec.Struct, tag="moved", array_like=True, frozen=True, gc=False):
    """Order moved to another price, or to the end of the queue of its own price. `time`, its new
    priority, replaces the time of its opening and is later."""

    order: int
    price: int
    shown: int
    time: int


class Closed(msgspec.Struct, tag="closed", array_like=True, frozen=True, gc=False):
    """Order closed: it has left the book for good."""

    order: int
    reason: str  # filled, cancelled


class Checkpoint(msgspec.Struct, tag="checkpoint", array_like=True, frozen=True, gc=False):
    """Hash of the open orders at this number: it makes any replica's copy of them a snapshot signed by
    the owner. Always the last event of its batch."""

    state: bytes


OrderEvent = Opened | Filled | Amended | Moved | Closed
Event = OrderEvent | Checkpoint

_encoder = msgspec.msgpack.Encoder()


class InvalidBatch(ValueError):
    """Batch that no honest owner signs: wrong shape, wrong signature, impossible values."""


class Batch(msgspec.Struct, frozen=True, gc=False):
    """Events `first` .. `first + len(events) - 1` of the feed of `key`'s owner for `market`.

    `previous` is the hash of the batch before (`GENESIS` for the first). The signature covers the
    hash, which covers the network, the market, the numbers, the events and `previous`.
    """

    key: bytes
    market: str
    first: int
    previous: bytes
    events: tuple[Event, ...]  # a tuple: the cyclic collector stops tracking it
    signature: bytes

    @property
    def last(self) -> int:
        return self.first + len(self.events) - 1

    def digest(self, network: str) -> bytes:
        """Return the 32-byte hash that is signed and that the next batch has as `previous`."""
        return batch_digest(network, self.key, self.market, self.first, self.previous, self.events)


class Snapshot(msgspec.Struct, frozen=True):
    """State of a feed at a checkpoint: the batch that ends with it, its hash, the pages of orders."""

    batch: Batch
    head: bytes
    pages: list[bytes]


def orders_of(events: Iterable[Event]) -> list[int]:
    """Return the numbers of the orders that events are about."""
    return [event.order for event in events if not isinstance(event, Checkpoint)]


def batch_digest(
    network: str, key: bytes, market: str, first: int, previous: bytes, events: Sequence[Event]
) -> bytes:
    """Return the SHA-256 of the canonical msgpack form of a batch without its signature."""
    return hashlib.sha256(
        _encoder.encode(["exchange-node feed", network, key, market, first, previous, events])
    ).digest()


def sign_batch(
    keys: SigningKeys,
    network: str,
    market: str,
    first: int,
    previous: bytes,
    events: Sequence[Event],
) -> tuple[Batch, bytes]:
    """Return a signed batch of this node, and its hash."""
    key = keys.public_key
    digest = batch_digest(network, key, market, first, previous, events)
    return Batch(key, market, first, previous, tuple(events), keys.sign(digest)), digest


def check_batch(keys: KeyChecker, network: str, batch: Batch) -> bytes:
    """Check shape, signature and values of a batch, and return its hash.

    Raises:
        InvalidBatch: the batch is not valid.
    """
    if len(batch.key) != 32 or len(batch.signature) != 64 or len(batch.previous) != 32:
        raise InvalidBatch("key, signature or hash of a wrong length")
    if not 1 <= len(batch.events) <= MAX_EVENTS or not 1 <= batch.first < _LIMIT:
        raise InvalidBatch("no events, too many, or a number out of range")
    if len(batch.market) > 80:
        raise InvalidBatch("market name too long")
    digest = batch.digest(network)
    if not keys.verify(batch.key, batch.signature, digest):
        raise InvalidBatch("the signature is not the owner's")
    for event in batch.events:
        check_event(event)
    for event in batch.events[:-1]:
        if isinstance(event, Checkpoint):
            raise InvalidBatch("a checkpoint inside a batch")
    return digest


def check_event(event: Event) -> None:
    """Check that an event's values are possible.

    Raises:
        InvalidBatch: they are not.
    """
    if isinstance(event, Opened):
        ok = (
            0 < event.order < MAX_ORDER
            and event.side in (BUY, SELL)
            and 0 < event.price < MAX_PRICE
            and 0 < event.shown < MAX_QUANTITY
            and 0 < event.time < _LIMIT
        )
    elif isinstance(event, Filled):
        ok = (
            0 < event.order < MAX_ORDER
            and 0 < event.quantity < MAX_QUANTITY
            and 0 < event.price < MAX_PRICE
            and event.side in (BUY, SELL)
            and 0 <= event.shown <= event.left < MAX_QUANTITY
            and 0 < event.take < _LIMIT
            and 0 < event.time < _LIMIT
            and 0 < len(event.taker) <= 64
        )
    elif isinstance(event, Amended):
        ok = 0 < event.order < MAX_ORDER and 0 <= event.shown < MAX_QUANTITY
    elif isinstance(event, Moved):
        ok = (
            0 < event.order < MAX_ORDER
            and 0 < event.price < MAX_PRICE
            and 0 <= event.shown < MAX_QUANTITY
            and 0 < event.time < _LIMIT
        )
    elif isinstance(event, Closed):
        ok = 0 < event.order < MAX_ORDER and len(event.reason) <= 32
    else:
        ok = len(event.state) == 32
    if not ok:
        raise InvalidBatch(f"impossible values in {event!r}"[:200])
