"""Attacks on feeds and digests: the processor time and memory that they cost one node

Everything is done with real keys and in one process, through `Engine.receive`: what a link or TLS adds is
not counted. Times are of the processor. Memory is of the interpreter's own allocations (tracemalloc, in
a run of its own, which is not timed).
"""

from __future__ import annotations

import gc
import random
import time
import tracemalloc

from exchange.engine.engine import Engine
from exchange.feeds import checkpoint_rule
from exchange.feeds.exchange_messages import FeedDigest, FeedHead, Presence, pack
from exchange.feeds.feed import Feed, Writer, state_hash
from exchange.feeds.feed_limits import FeedLimits
from exchange.feeds.presence import PresenceLeases
from exchange.model.events import BUY, Amended, Batch, Checkpoint, Event, Opened, sign_batch
from node.daemon.node import REFRESHING
from node.daemon.node_keys import NodeKeys
from p2p.base.identity import Identity
from tests.benchmarks.report import Row

MARKET = "BTC-USD@0.1/0.00001"
NETWORK = "bench"
EPOCH_US = checkpoint_rule.RULE_SINCE + 10**12  # after the rule of checkpoints was published
NOW = 1000.0
UNPACED = FeedLimits(owner_burst=1e12, total_burst=1e12)  # time stands still in most of this


class Owner:
    """An owner of a feed that writes whatever it likes."""

    def __init__(self, identity: Identity | None = None, market: str = MARKET) -> None:
        self.keys = NodeKeys(identity or Identity.generate())
        self.feed = Feed(self.keys.node_id, market)
        self.writer = Writer(self.feed, self.keys, NETWORK)
        self._leases = PresenceLeases(self.keys, NETWORK, incarnation=1, lease_ms=600_000)

    def presence(self, *, leaving: bool = False) -> Presence:
        return self._leases.make(NOW, [(self.feed.market, self.feed.signed)], leaving=leaving)

    def orders(self, count: int, first: int = 1) -> list[Batch]:
        for number in range(first, first + count):
            price = 10_000 + number % 5_000
            self.writer.append(Opened(number, BUY, price, 5, EPOCH_US + number))
        return self.writer.flush()

    def amendments(self, count: int) -> list[Batch]:
        """Events that change the shown quantity of one order."""
        for number in range(count):
            self.writer.append(Amended(1, 4 + number % 2))
        while self.feed.step():  # what a node does beside trading
            pass
        return self.writer.flush()

    def early_checkpoint(self, order: int) -> Batch:
        """One order, and a checkpoint after it whatever the rule says."""
        feed = self.feed
        first, previous = feed.number + 1, feed.state.head
        events: list[Event] = [Opened(order, BUY, 9_000, 5, EPOCH_US + order)]
        feed.state.apply(events[0])
        events.append(Checkpoint(state_hash(feed.state.pages())))
        feed.state.apply(events[1])
        batch, digest = sign_batch(self.keys, NETWORK, MARKET, first, previous, events)
        feed.hold(batch, digest)
        return batch


class Victim:
    """A node under attack, and a neighbour that attacks it."""

    def __init__(self, limits: FeedLimits | None = None) -> None:
        self.engine = Engine(
            NodeKeys(Identity.generate()),
            [MARKET],
            network=NETWORK,
            epoch_us=EPOCH_US,
            rng=random.Random(1),
            now=NOW,
            limits=limits,
        )
        self.engine.resume(NOW)
        self.neighbour = NodeKeys(Identity.generate()).node_id
        self.engine.neighbour_up(NOW, self.neighbour)

    def receive(self, kind: str, payload: bytes, now: float = NOW) -> float:
        """Processor seconds for one message."""
        began = time.process_time()
        self.engine.receive(now, kind, payload, self.neighbour, self.neighbour)
        return time.process_time() - began

    def ticks(self) -> list[float]:
        """Processor seconds of each tick until nothing is left to do in slices."""
        ticks: list[float] = []
        while self.engine.refreshing:
            began = time.process_time()
            self.engine.tick(NOW + len(ticks) * REFRESHING)
            ticks.append(time.process_time() - began)
        return ticks

    def publish(self, batches: list[Batch], now: float = NOW) -> float:
        return sum(self.receive("order", pack(batch), now) for batch in batches)


def ghosts(count: int) -> list[FeedHead]:
    return [FeedHead(f"{n:032d}", MARKET, 9, b"12345678") for n in range(count)]


def digests(quick: bool) -> list[Row]:
    feeds = 200 if quick else 2000
    victim = Victim()
    for n in range(feeds):
        feed = Feed(f"{n:032d}", MARKET)
        feed.state.number = feed.signed = 5
        victim.engine.feeds[feed.owner, MARKET] = feed
    ask = pack(FeedDigest(b"another summary"))
    victim.receive("digest", ask)  # computes the summary
    times = [victim.receive("digest", ask) for _ in range(512)]
    victim.engine.drain(NOW)
    rows = [
        Row(f"512 digests, {feeds:,} feeds", sum(times) * 1e3, "ms", note="3 answered, 509 dropped")
    ]
    heads = pack(FeedDigest(b"x", ghosts(4096)))
    other = Victim()
    first = other.receive("digest", heads)
    again = [other.receive("digest", heads, NOW + n) for n in range(1, 20)]
    began = time.process_time()
    for step in range(100):
        other.engine.tick(NOW + 20 + step / 1000)
    ticks = (time.process_time() - began) / 100
    return [
        *rows,
        Row("digest of 4,096 ghosts, first", first * 1e3, "ms", note=f"{len(heads):,} bytes"),
        Row("digest of 4,096 ghosts, later", sum(again) / len(again) * 1e3, "ms"),
        Row("tick with 4,096 feeds missing", ticks * 1e6, "us"),
    ]


def checkpoints(quick: bool) -> list[Row]:
    """An owner with as many open orders as the limit allows."""
    count = 20_000 if quick else 300_000
    owner, victim = Owner(), Victim(UNPACED)
    victim.receive("presence", pack(owner.presence()))
    for first in range(1, count, 2560):
        victim.publish(owner.orders(min(2560, count - first + 1), first))
    victim.engine.drain(NOW)
    due, pages = 0.0, 0
    while not due:  # events that change little, until the rule allows a checkpoint
        for batch in owner.amendments(2560):
            took = victim.publish([batch])
            if isinstance(batch.events[-1], Checkpoint):
                due = max([took, *victim.ticks()])
                pages = sum(map(len, owner.feed.state.pages()))
        victim.engine.drain(NOW)
    early = victim.publish([owner.early_checkpoint(count + 1)])
    ticks = victim.ticks()
    feed = victim.engine.feeds[owner.keys.node_id, MARKET]
    later = victim.publish([owner.early_checkpoint(count + 2)])
    return [
        Row(
            f"checkpoint that is due, {count:,} orders, longest stop",
            due * 1e3,
            "ms",
            note=f"{4 * count:,} events",
        ),
        Row("journal for it", pages / 1e6, "MB"),
        Row("the next one, too early", early * 1e3, "ms", early / due),
        Row("tick that hides its orders, slowest", max(ticks) * 1e3, "ms", note=f"of {len(ticks)}"),
        Row("each further one", later * 1e3, "ms", later / due, note=feed.fault or ""),
    ]


def flips(quick: bool) -> list[Row]:
    """An owner with many open orders that leaves and returns twenty times a second."""
    count = 20_000 if quick else 300_000
    owner, victim = Owner(), Victim(UNPACED)
    victim.receive("presence", pack(owner.presence()))
    for first in range(1, count, 2560):
        victim.publish(owner.orders(min(2560, count - first + 1), first))
    spent, now = 0.0, NOW
    for flip in range(600):
        now += 0.05
        spent += victim.receive("presence", pack(owner.presence(leaving=flip % 2 == 0)), now)
        began = time.process_time()
        for step in range(int(0.05 / REFRESHING)):
            victim.engine.tick(now + step * REFRESHING)
            if not victim.engine.refreshing:
                break
        victim.engine.drain(now)
        spent += time.process_time() - began
    return [Row(f"presence on and off, {count:,} orders", spent / 30 * 100, "% of a core")]


def flood(quick: bool) -> list[Row]:
    """More orders of one owner than a feed may have."""
    count = 30_000 if quick else 500_000
    rows = []
    for traced in (False, True):
        owner, honest = Owner(), Owner()
        victim = Victim()
        for one in (owner, honest):
            victim.receive("presence", pack(one.presence()))
        victim.publish(honest.orders(1000))
        victim.engine.drain(NOW)
        payloads = [
            [pack(batch) for batch in owner.orders(min(2560, count - first + 1), first)]
            for first in range(1, count, 2560)
        ]
        owner = Owner()  # of its feed nothing is kept here
        gc.collect()
        if traced:
            tracemalloc.start()
        before, peak = tracemalloc.get_traced_memory()
        spent, now, most = 0.0, NOW, 0
        given_up_at = 0
        for group in payloads:
            for payload in group:
                spent += victim.receive("order", payload, now)
            victim.engine.drain(now)
            now += 0.7  # 2,560 events take so long at 4,000 a second
            victim.engine.tick(now)
            most = max(most, victim.engine.feed_figures.orders)
            if victim.engine.given_up and not given_up_at:
                given_up_at = most
        while victim.engine.refreshing:  # its orders are hidden by and by
            now += REFRESHING
            victim.engine.tick(now)
            victim.engine.drain(now)
        if not traced:
            rows.append(Row(f"{count:,} orders of one owner", spent, "s", note="processor time"))
            rows.append(Row("for each order", spent / count * 1e6, "us"))
            rows.append(Row("given up at", float(given_up_at), "orders", note="0: never"))
            continue
        _, peak = tracemalloc.get_traced_memory()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        rows.append(Row("memory at most", (peak - before) / 1e6, "MB"))
        rows.append(Row("memory afterwards", (after - before) / 1e6, "MB"))
    return rows


def unconnected(quick: bool) -> list[Row]:
    """Batches without what they follow, of many owners."""
    owners = 20 if quick else 400
    payloads = []
    for _ in range(owners):
        owner = Owner()
        batches = owner.orders(2560)
        payloads += [pack(batch) for batch in batches[1:]]
    victim = Victim()
    gc.collect()
    tracemalloc.start()
    for payload in payloads:
        victim.receive("order", payload)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    figures = victim.engine.feed_figures
    sent = sum(map(len, payloads))
    return [
        Row(f"batches of {owners} owners that never connect", sent / 1e6, "MB sent"),
        Row("held of them", figures.unconnected_bytes / 1e6, "MB"),
        Row("memory", size / 1e6, "MB", note="with feeds, owners, announcements"),
    ]


def run(quick: bool) -> list[Row]:
    return [*digests(quick), *checkpoints(quick), *flips(quick), *flood(quick), *unconnected(quick)]
