"""Messages of the exchange, with signatures that are always right: what is behind them is what is fuzzed."""

from __future__ import annotations

import random
from typing import Any

from exchange.engine.engine import Engine
from exchange.feeds.exchange_messages import (
    MESSAGES,
    FeedDigest,
    FeedHead,
    FeedPart,
    FeedRequest,
    KeptPresence,
    Presence,
    PresencePart,
    PresenceRequest,
    Take,
    TakeResult,
    pack,
)
from exchange.feeds.feed import state_hash
from exchange.model.commands import NewOrder
from exchange.model.events import (
    BUY,
    GENESIS,
    SELL,
    Amended,
    Batch,
    Checkpoint,
    Closed,
    Filled,
    Moved,
    Opened,
)
from exchange.model.ports import Send
from exchange.model.records import Order, PutBatch
from tests.fuzz.targets import Pieces, piece

MARKET = "BTC-USD@0.1/0.00001"
EPOCH_US = 1_790_000_000_000_000
KINDS = tuple(MESSAGES)
OTHER_KEY = b"\x02" * 32


class TrustingKeys:
    """Keys that take every signature for right."""

    public_key = b"\x01" * 32

    def __init__(self) -> None:
        self.node_id = self.node_id_of(self.public_key)

    def sign(self, message: bytes) -> bytes:
        return bytes(64)

    def node_id_of(self, public_key: bytes) -> str:
        return public_key.hex()[:32].ljust(32, "0")

    def verify(self, public_key: bytes, signature: bytes, message: bytes) -> bool:
        return True


keys = TrustingKeys()
OTHER = keys.node_id_of(OTHER_KEY)
THIRD = keys.node_id_of(b"\x03" * 32)


def fuzz_exchange(data: bytes) -> None:
    """An engine with orders takes any messages and the passage of time. Nothing is raised; no order is filled for
    more than its quantity; what it sends can be read; its feeds can be read again from what it has written."""
    source = Pieces(data)
    engine: Any = Engine(
        keys, [MARKET], network="fuzz", epoch_us=EPOCH_US, rng=random.Random(1), now=1000.0
    )
    engine.resume(1000.0)
    for node in (OTHER, THIRD):
        engine.neighbour_up(1000.0, node)
    now = 1000.0
    for side, price in ((1, 990), (-1, 1010), (1, 995)):
        engine.orders.place(now, NewOrder(market=MARKET, side=side, price=price, quantity=10))
    written: dict[tuple[str, int], Batch] = {}
    while source:
        how = source.byte()
        now += (how >> 3) / 8
        who = source.byte()
        kind = KINDS[8 + (how & 1) if who & 2 else how & 7]
        sender = OTHER if who & 1 else THIRD
        accepted = engine.receive(now, kind, source.piece(), sender, OTHER)
        assert accepted in (True, False, None)
        if how & 8:
            engine.tick(now)
        drained = engine.drain(now)
        for message in drained.messages:
            assert len(message.payload) < 2**20
            assert not isinstance(message, Send) or message.to != keys.node_id
        for record in drained.records:
            if isinstance(record, Order):
                assert 0 <= record.filled + record.pending + record.reserved <= record.quantity
            elif isinstance(record, PutBatch):
                name = record.owner, record.batch.first
                assert written.setdefault(name, record.batch) == record.batch or (
                    record.owner != keys.node_id
                )
    engine.tick(now + 100.0)
    engine.markets[MARKET].contents()
    engine.summary()


def message(kind: str, payload: Any, *, time: int = 1, sender: int = 1) -> bytes:
    number = KINDS.index(kind)
    return bytes([number & 7 | 8 | time << 4, sender | number >> 3 << 1]) + piece(pack(payload))


def batch(first: int, *events: Any, previous: bytes = GENESIS) -> Batch:
    return Batch(OTHER_KEY, MARKET, first, previous, events, bytes(64))


def seeds_exchange() -> list[bytes]:
    time = EPOCH_US + 1_000_000_000
    opened = batch(1, Opened(1, BUY, 1020, 5, time), Opened(2, SELL, 1030, 5, time))
    then = batch(
        3,
        Amended(1, 4),
        Moved(2, 1031, 5, time + 1),
        Filled(1, BUY, 1, 1020, 3, 3, keys.node_id, 7, time),
        Closed(2, "cancelled"),
        previous=opened.digest("fuzz"),
    )
    presence = Presence(OTHER_KEY, 1, 1, 9000, [(MARKET, 2)], bytes(64))
    take = Take(5, MARKET, 2, 1, 1010, 3, 1)
    reserve = Take(6, MARKET, 2, 1, 1010, 3, 5, phase="reserve")
    commit = Take(6, MARKET, 2, 1, 1010, 3, 5, phase="commit")
    result = TakeResult(EPOCH_US + 10**9, MARKET, 1, 1020, 5, time, 3)
    pages = [b"\x90"]
    checkpoint = batch(9, Checkpoint(state_hash(pages)))
    part = FeedPart(OTHER, MARKET, 9, [], checkpoint, 0, [state_hash(pages)], pages[0])
    heads = [FeedHead(OTHER, MARKET, 4, b"x" * 8)]
    return [
        message("presence", presence) + message("order", opened) + message("trade", then),
        message("order", opened) + message("take_result", result) + message("order", then),
        message("take", take)
        + message("take", reserve, sender=0)
        + message("take", commit, sender=0),
        message("digest", FeedDigest(b"s" * 16, heads), time=8) + message("feed", part),
        message("feed_request", FeedRequest(keys.node_id, MARKET, 0))
        + message("digest", FeedDigest(b"s")),
        message("digest", FeedDigest(b"s", presences=600))
        + message("presences", PresencePart(0, 16, [KeptPresence(5000, presence)]))
        + message("presence_request", PresenceRequest(0, 2)),
    ]
