"""Feed events, and the signed batches that carry them.

A feed is one owner's append-only, gap-free, numbered list of events for one market. Every event
about an order carries the displayed quantity after it, so a replica has nothing to compute. One trade is
one `Filled` event, in its maker's feed; the taker's order, if it was displayed, is `Amended` or `Closed`
in the taker's own feed. Hidden quantities (hidden orders, the rest of an iceberg) are in no event before
they trade: a hidden order is then opened for the traded quantity and filled at once.

Rules of this file:
- Structs are arrays on the wire and in signed bytes: fields and tags never change their order or names.
- Values are checked by their types when a batch is decoded, and what they say together before anything is stored
  (`check_batch`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec

from exchange.model.peer_values import (
    MAX_EVENTS,
    Hash,
    Key,
    MarketKey,
    NodeName,
    Number,
    OrderNumber,
    Price,
    Quantity,
    ShortReason,
    Shown,
    Side,
    Signature,
    Time,
)
from exchange.model.ports import KeyChecker, SigningKeys

BUY = 1
SELL = -1

GENESIS = b"\x00" * 32  # hash before the first batch


class Opened(msgspec.Struct, tag="opened", array_like=True, frozen=True, gc=False):
    """Order opened. `price` in ticks, `shown` in lots, `time` in us since the epoch."""

    order: OrderNumber
    side: Side  # BUY or SELL
    price: Price
    shown: Quantity
    time: Time


class Filled(msgspec.Struct, tag="filled", array_like=True, frozen=True, gc=False):
    """Trade against the order. `left` is the quantity neither filled nor cancelled; 0 ends the order. Of
    an iceberg it is the displayed quantity only, or 1 when another slice follows.

    (`taker`, `take`) is the id of the trade, the same on both sides.
    """

    order: OrderNumber
    side: Side  # the maker's
    quantity: Quantity
    price: Price
    shown: Shown
    left: Shown
    taker: NodeName
    take: Number
    time: Time


class Amended(msgspec.Struct, tag="amended", array_like=True, frozen=True, gc=False):
    """Displayed quantity changed; the order keeps its priority. 0: out of the book for now."""

    order: OrderNumber
    shown: Shown


class Moved(msgspec.Struct, tag="moved", array_like=True, frozen=True, gc=False):
    """Order moved to another price, or to the end of the queue of its own price. `time`, its new
    priority, replaces the time of its opening and is later."""

    order: OrderNumber
    price: Price
    shown: Shown
    time: Time


class Closed(msgspec.Struct, tag="closed", array_like=True, frozen=True, gc=False):
    """Order closed: it has left the book for good."""

    order: OrderNumber
    reason: ShortReason  # filled, cancelled


class Checkpoint(msgspec.Struct, tag="checkpoint", array_like=True, frozen=True, gc=False):
    """Hash of the open orders at this number: it makes any replica's copy of them a snapshot signed by
    the owner. Always the last event of its batch."""

    state: Hash


OrderEvent = Opened | Filled | Amended | Moved | Closed
Event = OrderEvent | Checkpoint

_encoder = msgspec.msgpack.Encoder()


class InvalidBatch(ValueError):
    """Batch that no honest owner signs: wrong signature, or events that contradict themselves."""


class Batch(msgspec.Struct, frozen=True, gc=False):
    """Events `first` .. `first + len(events) - 1` of the feed of `key`'s owner for `market`.

    `previous` is the hash of the batch before (`GENESIS` for the first). The signature covers the
    hash, which covers the network, the market, the numbers, the events and `previous`.
    """

    key: Key
    market: MarketKey
    first: Number
    previous: Hash
    events: Annotated[
        tuple[Event, ...], msgspec.Meta(min_length=1, max_length=MAX_EVENTS)
    ]  # a tuple: the cyclic collector stops tracking it
    signature: Signature

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
    """Check signature and events of a batch whose values fit their types, and return its hash.

    Raises:
        InvalidBatch: the batch is not valid.
    """
    digest = batch.digest(network)
    if not keys.verify(batch.key, batch.signature, digest):
        raise InvalidBatch("the signature is not the owner's")
    for event in batch.events:
        if isinstance(event, Filled) and event.shown > event.left:
            raise InvalidBatch(f"more is shown than left in {event!r}"[:200])
    for event in batch.events[:-1]:
        if isinstance(event, Checkpoint):
            raise InvalidBatch("a checkpoint inside a batch")
    return digest
