"""Messages of the exchange between nodes.

`order` and `trade` both carry a `Batch` of feed events; `trade` if a fill is among them. Structs are
encoded as maps with camelCase keys (`FeedHead` as an array), so field names are part of the protocol.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from exchange.model.events import Batch
from exchange.model.peer_values import (
    HeadName,
    Mark,
    MarketKey,
    Number,
    OrderNumber,
    Price,
    Quantity,
    Reason,
    Shown,
    Time,
    Traceparent,
)

FeedName = tuple[str, str]  # owner, market


class Presence(msgspec.Struct, frozen=True, rename="camel"):
    """Presence of an owner for `lease` ms from arrival, with the heads of its feeds.

    (`incarnation`, `counter`) grows with every presence of an owner, also over restarts, so a replayed
    presence cannot prolong a lease. `lease` 0: the owner is leaving.
    """

    key: bytes
    incarnation: int
    counter: int
    lease: int
    heads: list[tuple[HeadName, int]]  # (market, last number)
    signature: bytes = b""


class FeedHead(msgspec.Struct, frozen=True, array_like=True):
    """Last number and hash of a feed as a node holds it."""

    owner: str
    market: str
    number: int
    hash: bytes  # first 8 bytes


class FeedDigest(msgspec.Struct, frozen=True, rename="camel"):
    """Feeds that a neighbour holds. `summary` covers all heads; `heads` is None in periodic digests and
    sent in reply to a summary that differs. `answer`: a reply to heads; never replied to. `presences`: number
    of presences that the sender can hand on, left out by nodes with few and by earlier versions, which do not
    know `presence_request`."""

    summary: bytes
    heads: list[FeedHead] | None = None
    answer: bool = False
    presences: int | msgspec.UnsetType = msgspec.UNSET


class FeedRequest(msgspec.Struct, frozen=True, rename="camel"):
    """Request for the batches after number `after` of a feed, or, if those are gone, snapshot page `page`."""

    owner: str
    market: str
    after: int
    page: int = 0


class FeedPart(msgspec.Struct, frozen=True, rename="camel"):
    """Answer to a `FeedRequest`: consecutive batches, or one page of a snapshot with its checkpoint batch.

    `number` is the last number that the sender holds; 0 without batches: it does not hold the feed.
    """

    owner: str
    market: str
    number: int
    batches: list[Batch] = []
    checkpoint: Batch | None = None
    page: int = 0
    pages: list[bytes] = []  # hashes of all pages
    orders: bytes = b""  # the page: msgpack list of (order, side, price, shown, time)


class PresenceRequest(msgspec.Struct, frozen=True, rename="camel"):
    """Request for the presences of one part of all owners: those whose first two bytes of the key, as a big-endian
    number modulo `parts`, are `part`. `parts` is a power of two."""

    part: int
    parts: int


class KeptPresence(msgspec.Struct, frozen=True, array_like=True):
    """A presence that a node hands on."""

    left: int  # ms of its lease
    presence: Presence


class PresencePart(msgspec.Struct, frozen=True, rename="camel"):
    """Answer to a `PresenceRequest`."""

    part: int
    parts: int
    kept: list[KeptPresence]


class Take(msgspec.Struct, frozen=True, rename="camel"):
    """Request of the taker to the owner of `order` to fill it. Idempotent by (taker, `take`).

    The taker knows the outcome of all its takes with this maker below `below`: the maker may forget
    them and must ignore copies. `void`: refuse this take if it is undecided, release it if reserved.

    The take of a fill-or-kill order is sent twice: `phase` "reserve" reserves the whole quantity or
    nothing, "commit" fills the reserved quantity.

    `until` is the take's end, (incarnation, renewals): the owner refuses the take if it is undecided when the owner has signed a later
    time of its clock (`exchange.feeds.presence`). Earlier versions do not know it.
    """

    take: Number
    market: MarketKey
    order: OrderNumber
    taker_order: OrderNumber
    price: Price
    quantity: Quantity
    below: Number
    void: bool = False
    phase: Literal["", "reserve", "commit"] = ""
    until: tuple[Mark, Mark] | msgspec.UnsetType = msgspec.UNSET
    traceparent: Traceparent | msgspec.UnsetType = msgspec.UNSET  # of a node that traces


class TakeResult(msgspec.Struct, frozen=True, rename="camel"):
    """Decision of the owner, durable before it is sent. `quantity` 0 is a refusal with a `reason`. With
    the reason "reserved" nothing is filled yet: `quantity` is reserved for the taker for a limited time.

    `number` is the owner's last feed number at the decision: a replica that has reached it includes the
    decision's effect.
    """

    take: Number
    market: MarketKey
    order: OrderNumber
    price: Price
    quantity: Shown
    time: Time
    number: Mark
    reason: Reason = ""


MESSAGES: dict[str, type[msgspec.Struct]] = {
    "order": Batch,
    "trade": Batch,
    "presence": Presence,
    "digest": FeedDigest,
    "feed_request": FeedRequest,
    "feed": FeedPart,
    "take": Take,
    "take_result": TakeResult,
    "presence_request": PresenceRequest,
    "presences": PresencePart,
}

MAX_PRESENCE = 80 * 1024  # bytes of a presence: 1,000 heads with the longest keys of markets
BROADCASTS = frozenset({"order", "trade", "presence"})  # the others are sent to one node

# Microseconds that one message costs its receiver, where it is not what others cost (`p2p.mesh.message_budget`, measured there)
COSTS: dict[str, float] = {"feed_request": 80.0, "take": 150.0, "presence_request": 40.0}

_encoder = msgspec.msgpack.Encoder()
_decoders = {name: msgspec.msgpack.Decoder(kind) for name, kind in MESSAGES.items()}


def pack(message: msgspec.Struct) -> bytes:
    """Encode a message's payload."""
    return _encoder.encode(message)


def unpack(message_type: str, payload: bytes) -> msgspec.Struct:
    """Decode a message's payload by its type.

    Raises:
        msgspec.DecodeError, UnicodeDecodeError: the payload does not have the shape of its type, or a value is none
            that a node writes (`exchange.model.peer_values`).
    """
    message: msgspec.Struct = _decoders[message_type].decode(payload)
    return message
