"""Presence and service announcements of all nodes, as one of them receives them.

All nodes publish with the real classes. One node receives and checks everything; the others are given its view of who
is there, for all nodes see the same.
"""

from __future__ import annotations

import heapq
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from exchange.feeds.exchange_messages import Presence
from exchange.feeds.presence import PresenceLeases
from node.daemon.node_keys import NodeKeys
from p2p.base.identity import Identity
from p2p.services.service_directory import ServiceDirectory
from p2p.wire.messages import pack

NETWORK = "scale"
HEADS = [("BTC/USD", 1000), ("ETH/USD", 1000)]
LEASE_MS = 9000
ANNOUNCE_S = 5.0
ENVELOPE = 180


@dataclass
class AnnouncementFigures:
    """Per node and second, with all nodes in place."""

    nodes: int
    presence_messages: float
    service_messages: float
    kbit: float  # received, at the given number of copies each
    cpu_ms: float  # of a second: signatures and bookkeeping of one copy each
    presence_lease_s: float
    refused: float  # part of the messages that are dropped as too many
    answers: int  # broadcasts with which the network answers one newcomer
    wall: float = 0.0


class _Sender:
    def __init__(self, number: int) -> None:
        self.identity = Identity.from_seed(number.to_bytes(32, "big"))
        self.leases = PresenceLeases(
            NodeKeys(self.identity), NETWORK, incarnation=1, lease_ms=LEASE_MS
        )
        self.directory = ServiceDirectory(
            self.identity, NETWORK, incarnation=1, interval=ANNOUNCE_S
        )
        self.directory.offer("market")


class _Receiver(_Sender):
    """The node that receives everything."""

    def __init__(self) -> None:
        super().__init__(0)
        self.refused = 0

    def take(self, now: float, payload: bytes, *, presence: bool) -> None:
        if presence:
            self.leases.accept(now, msgspec.msgpack.decode(payload, type=Presence))
        elif self.directory.receive(now, payload, 0.5) is not True:
            self.refused += 1

    def introduce(self, senders: list[_Sender]) -> None:
        """Make all nodes known to each other, without a burst that the limits would cut."""
        now = 0.0
        for sender in senders:
            now += 0.02
            self.take(now, pack(sender.leases.make(now, HEADS)), presence=True)
            self.take(now, sender.directory.due(now) or b"", presence=False)
        for sender in senders:
            sender.leases._until = self.leases._until
            sender.directory._providers = self.directory._providers


def run_announcements(
    nodes: int,
    copies: float,
    *,
    seconds: float = 10.0,
    seed: int = 1,
    progress: Callable[[float], None] = lambda part: None,
) -> AnnouncementFigures:
    """Let `nodes` publish, and measure what one of them receives."""
    began = time.perf_counter()
    rng = random.Random(seed)
    senders = [_Sender(number) for number in range(1, nodes)]
    receiver = _Receiver()
    receiver.introduce(senders)
    progress(0.4)
    start = 0.02 * nodes + 1.0
    queue: list[tuple[float, int, bool]] = []
    for number, sender in enumerate(senders):
        sender.leases.make(start, HEADS)
        sender.directory._announce(start)
        renewal = sender.leases.next_renewal - start
        queue.append((start + rng.uniform(0.0, renewal), number, True))
        interval = sender.directory._next - start
        queue.append((start + rng.uniform(0.0, interval), number, False))
    heapq.heapify(queue)
    counts, size, cpu = [0, 0], 0, 0.0
    receiver.refused = 0
    while queue[0][0] < start + seconds:
        now, number, presence = heapq.heappop(queue)
        sender = senders[number]
        if presence:
            payload = pack(sender.leases.make(now, HEADS))
            heapq.heappush(queue, (sender.leases.next_renewal, number, True))
        else:
            payload = sender.directory._announce(now)
            heapq.heappush(queue, (sender.directory._next, number, False))
        counts[presence] += 1
        size += len(payload) + ENVELOPE
        at = time.thread_time()
        receiver.take(now, payload, presence=presence)
        cpu += time.thread_time() - at
        progress(0.4 + 0.6 * (now - start) / seconds)
    return AnnouncementFigures(
        nodes=nodes,
        presence_messages=counts[True] / seconds,
        service_messages=counts[False] / seconds,
        kbit=size * copies * 8 / 1000 / seconds,
        cpu_ms=cpu * 1000 / seconds,
        presence_lease_s=senders[0].leases.own_lease_ms / 1000,
        refused=receiver.refused / max(1, sum(counts)),
        answers=_answers(receiver, nodes, start + seconds),
        wall=time.perf_counter() - began,
    )


def _answers(receiver: _Receiver, nodes: int, now: float) -> int:
    """Return how many nodes publish at once when one joins; all of them do as the receiver does."""
    newcomer = _Sender(nodes)
    receiver.leases.make(now, HEADS)
    receiver.directory._announce(now)
    receiver.directory.receive(now + 0.1, newcomer.directory.due(now) or b"", 0.5)
    before = receiver.leases.next_renewal
    receiver.leases.answer_newcomer(now + 0.1, 0.2)
    hurried = receiver.leases.next_renewal < before
    hurried_services = receiver.directory._next < now + ANNOUNCE_S * 0.9
    return (int(hurried) + int(hurried_services)) * nodes
