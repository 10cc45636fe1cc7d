"""A replicator with its surroundings, for tests."""

from __future__ import annotations

import random
from typing import Any

import msgspec
from exchange_kit import Keys, M, Owner

from exchange.feeds.exchange_messages import FeedPart, FeedRequest, unpack
from exchange.feeds.feed_index import FeedIndex
from exchange.feeds.replication import Replicator
from exchange.model.events import BUY, Batch, Opened

replace = msgspec.structs.replace
ME, A, B, OWNER = (Keys(i).node_id for i in (10, 11, 12, 1))


def opened(order: int, price: int = 100) -> Opened:
    return Opened(order, BUY, price, 5, 1000 + order)


class LoneReplicator:
    """A replicator alone, with its feeds in a dict."""

    def __init__(self, *neighbours: str) -> None:
        self.feeds = FeedIndex()
        self.absent: set[str] = set()  # owners whose presence lease does not run
        self.it = Replicator(
            ME,
            self.feeds,
            lambda owner, market: market == M,
            random.Random(1),
            present=lambda owner: owner not in self.absent,
        )
        for node in neighbours:
            self.it.neighbour_up(0.0, node)
        self.it._next_digest = float("inf")  # digests on a timer are tested by themselves
        self.sent()

    def sent(self) -> list[tuple[str, Any]]:
        return [(s.to, unpack(s.type, s.payload)) for s in self.it.take_outgoing()]

    def ticked(self, now: float) -> list[tuple[str, Any]]:
        self.it.tick(now)
        return self.sent()

    def hold(self, owner: Owner, batches: list[Batch]) -> None:
        """This node's copy of the owner's feed."""
        replica = owner.replica()
        for batch in batches:
            replica.offer(batch)
        self.feeds[owner.id, M] = replica.feed


def request(after: int = 0, page: int = 0) -> FeedRequest:
    return FeedRequest(OWNER, M, after, page)


def answer(owner: Owner, asked: FeedRequest) -> FeedPart:
    """Answer of a node that holds the owner's feed."""
    server = LoneReplicator()
    server.feeds[owner.id, M] = owner.writer.feed
    server.it.on_request(0.0, A, asked)
    ((_, found),) = server.sent()
    assert isinstance(found, FeedPart)
    return found
