"""Messages of the exchange between nodes. Names in the style of the seeds; `order` and `trade`
both carry a `Batch` of feed events (`trade` when there is a fill among them)."""

from __future__ import annotations

from typing import Literal

import msgspec

from exchange.model.events import Batch


class Presence(msgspec.Struct, frozen=True, rename="camel"):
    """An owner says that it is here for `lease` ms more, and how far its feeds go.

    (`incarnation`, `counter`) grows with every presence of an owner, over restarts too, so an old
    one cannot prolong a lease. `lease` 0 says goodbye.
    """

    key: bytes
    incarnation: int
    counter: int
    lease: int
    heads: list[tuple[str, int]]  # (market, last number)
    signature: bytes = b""


class FeedHead(msgspec.Struct, frozen=True, array_like=True):
    """The end of a feed as somebody holds it."""

    owner: str
    market: str
    number: int
    hash: bytes  # first 8 bytes


class FeedDigest(msgspec.Struct, frozen=True, rename="camel"):
    """What a neighbour holds. `summary` is the hash of all heads; `heads` is there when asked for."""

    summary: bytes
    heads: list[FeedHead] | None = None
    answer: bool = False


class FeedRequest(msgspec.Struct, frozen=True, rename="camel"):
    """Send the batches after number `after` of a feed, or, when those are gone, snapshot page `page`."""

    owner: str
    market: str
    after: int
    page: int = 0


class FeedPart(msgspec.Struct, frozen=True, rename="camel"):
    """Answer to `FeedRequest`: consecutive batches, or one page of a snapshot with its batch.

    `number` is the last number that the sender holds.
    """

    owner: str
    market: str
    number: int
    batches: list[Batch] = []
    checkpoint: Batch | None = None
    page: int = 0
    pages: list[bytes] = []  # hashes of all pages
    orders: bytes = b""  # the page: msgpack list of (order, side, price, shown, time)


class Take(msgspec.Struct, frozen=True, rename="camel"):
    """The taker asks the owner of `order` to fill it. Idempotent by (taker, `take`).

    Every take of this taker with this maker below `below` is known to the taker; the maker may
    forget them and must ignore them. `void`: if this take is not decided yet, refuse it; if it is
    reserved, give the reservation up.

    A fill-or-kill order's take comes twice: with `phase` "reserve" the whole quantity is to be kept for
    it, or nothing; with "commit" what was kept is to be filled.
    """

    take: int
    market: str
    order: int
    taker_order: int
    price: int
    quantity: int
    below: int
    void: bool = False
    phase: Literal["", "reserve", "commit"] = ""


class TakeResult(msgspec.Struct, frozen=True, rename="camel"):
    """The owner's decision, durable when sent. `quantity` 0 is a refusal with a `reason`. With the
    reason "reserved" nothing is filled yet: `quantity` is kept for the taker, for a time.

    `number` is the owner's last feed number at the decision: a replica that has reached it shows
    what the decision left.
    """

    take: int
    market: str
    order: int
    price: int
    quantity: int
    time: int
    number: int
    reason: str = ""


MESSAGES: dict[str, type[msgspec.Struct]] = {
    "order": Batch,
    "trade": Batch,
    "presence": Presence,
    "digest": FeedDigest,
    "feed_request": FeedRequest,
    "feed": FeedPart,
    "take": Take,
    "take_result": TakeResult,
}

_encoder = msgspec.msgpack.Encoder()
_decoders = {name: msgspec.msgpack.Decoder(kind) for name, kind in MESSAGES.items()}


def pack(message: msgspec.Struct) -> bytes:
    return _encoder.encode(message)


def unpack(message_type: str, payload: bytes) -> msgspec.Struct:
    """The typed message.

    Raises:
        msgspec.DecodeError, UnicodeDecodeError: it does not have the shape of its type.
    """
    message: msgspec.Struct = _decoders[message_type].decode(payload)
    return message
