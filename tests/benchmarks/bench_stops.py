"""Longest stops of a node with many orders of one owner in a market: how long one step keeps all others waiting

Each step is done as the node does it (a message, a tick, a command, a slice before a drain, a drain), and its
processor time is taken; the longest of each kind is the stop. The owner has the orders, the replica follows it.
Passes of the garbage collector are in a row of their own.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from exchange.engine.engine import Drained, Engine
from exchange.feeds.exchange_messages import unpack
from exchange.feeds.feed_limits import FeedLimits
from exchange.model.commands import NewOrder, Selection
from exchange.model.events import Batch, Checkpoint
from exchange.model.ports import Broadcast, Message, Send
from node.daemon.node import REFRESHING
from node.daemon.node_keys import NodeKeys
from p2p.base.identity import Identity
from tests.benchmarks.report import Row

MARKET = "BTC-USD@0.1/0.00001"
NETWORK = "bench"
EPOCH_US = 1_764_000_000_000_000
UNPACED = FeedLimits(owner_burst=1e12, total_burst=1e12, max_orders=10_000_000)
TURN = 100  # changes of the owner between two drains

T = TypeVar("T")


class Collections:
    """Time of the garbage collector's passes, which are no matter of the step that they happen in."""

    def __init__(self) -> None:
        self.spent = self.longest = 0.0
        self._began = 0.0
        gc.callbacks.append(self._on_pass)

    def _on_pass(self, phase: str, _info: dict[str, int]) -> None:
        if phase == "start":
            self._began = time.thread_time()
        else:
            took = time.thread_time() - self._began
            self.spent += took
            self.longest = max(self.longest, took)


_collections = Collections()


class Stopped:
    """A node, and its longest stops since they were last asked for."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self.engine = Engine(
            NodeKeys(Identity.generate()),
            [MARKET],
            network=NETWORK,
            epoch_us=EPOCH_US,
            rng=random.Random(1),
            now=now,
            limits=UNPACED,
        )
        self.engine.resume(now)
        self._longest: dict[str, float] = {}

    def step(self, kind: str, call: Callable[[], T]) -> T:
        began, collected = time.thread_time(), _collections.spent
        result = call()
        took = time.thread_time() - began - (_collections.spent - collected)
        self._longest[kind] = max(took, self._longest.get(kind, 0.0))
        return result

    def tick(self) -> None:
        self.step("tick", lambda: self.engine.tick(self.now))

    def drain(self) -> list[Message]:
        """Tick and drain as the node does, with what has to be done before the drain."""
        self.tick()
        while self.step("slice", self.engine.prepare):
            self.tick()
        drained: Drained = self.step("drain", lambda: self.engine.drain(self.now))
        return drained.messages

    def receive(self, kind: str, payload: bytes, sender: str) -> None:
        self.step(kind, lambda: self.engine.receive(self.now, kind, payload, sender, sender))

    def settle(self) -> list[Message]:
        """Do what is left to do in slices."""
        messages = self.drain()
        for _ in range(100_000):
            if not self.engine.refreshing:
                break
            self.now += REFRESHING
            messages += self.drain()
        return messages

    def stops(self) -> dict[str, float]:
        found, self._longest = self._longest, {}
        return found


class Pair:
    """An owner and its replica."""

    def __init__(self, count: int) -> None:
        self.owner, self.replica = Stopped(), Stopped()
        self.rng = random.Random(7)
        self.checkpoints = 0
        for start in range(0, count, TURN):
            for number in range(start, min(start + TURN, count)):
                self.place(number)
            self.exchange()
        self.owner.stops()
        self.replica.stops()

    def place(self, number: int, expires: int | None = None) -> int:
        side = 1 if number % 2 else -1
        price = 1_000_000 - side * (1 + self.rng.randrange(5_000))
        new = NewOrder(
            market=MARKET,
            side=side,
            price=price,
            quantity=5,
            tif="gtd" if expires else "gtc",
            expires=expires,
        )
        owner = self.owner
        return owner.step("place", lambda: owner.engine.orders.place(owner.now, new))[0].number

    def cancel(self, number: int) -> None:
        owner = self.owner
        owner.step("cancel", lambda: owner.engine.orders.cancel(owner.now, number))

    def exchange(self) -> None:
        """Let what the owner has to say arrive."""
        owner, replica = self.owner, self.replica
        owner.now += REFRESHING
        replica.now += REFRESHING
        for message in owner.drain():
            if isinstance(message, Broadcast):
                replica.receive(message.type, message.payload, owner.engine.node_id)
                batch = unpack(message.type, message.payload)
                if isinstance(batch, Batch):
                    self.checkpoints += isinstance(batch.events[-1], Checkpoint)
        replica.drain()


def rows_of(what: str, node: Stopped) -> list[Row]:
    stops = node.stops()
    kind = max(stops, key=lambda kind: stops[kind])
    return [Row(what, stops[kind] * 1e3, "ms", note=f"the longest: {kind}")]


def checkpoint(pair: Pair) -> list[Row]:
    """Orders replaced at random until the rule allows a checkpoint, and on for a while."""
    numbers = [order.number for order in pair.owner.engine.order_store.open_orders]
    since, more = pair.checkpoints, 50
    while pair.checkpoints == since or more:
        for _ in range(TURN):
            at = pair.rng.randrange(len(numbers))
            pair.cancel(numbers[at])
            numbers[at] = pair.place(at)
        pair.exchange()
        more -= pair.checkpoints > since
    return [
        *rows_of("checkpoint, owner", pair.owner),
        *rows_of("checkpoint, replica", pair.replica),
    ]


def presence(pair: Pair) -> list[Row]:
    """The owner leaves, and comes back after the absence that its orders ask for."""
    rows = []
    for what, leaves in (("hide orders", True), ("show orders", False)):
        if leaves:
            pair.owner.engine.leave(pair.owner.now)
        else:
            pair.owner.now += 60.0
            pair.replica.now += 60.0
        pair.exchange()
        pair.replica.settle()
        rows += rows_of(f"{what}, replica", pair.replica)
    pair.owner.stops()
    return rows


def join(pair: Pair) -> list[Row]:
    """A node without anything catches up with the owner's feed."""
    owner, newcomer = pair.owner, Stopped(pair.owner.now)
    nodes = {owner.engine.node_id: owner, newcomer.engine.node_id: newcomer}
    owner.stops()
    for node, other in ((owner, newcomer), (newcomer, owner)):
        node.engine.neighbour_up(node.now, other.engine.node_id)
    feed = owner.engine.feeds[owner.engine.node_id, MARKET]
    turns = 0
    while True:
        held = newcomer.engine.feeds.get((owner.engine.node_id, MARKET))
        if held is not None and held.number == feed.number and not newcomer.engine.refreshing:
            break
        turns += 1
        if turns > 100_000:
            raise RuntimeError("the newcomer does not catch up")
        for node_id, node in nodes.items():
            other = newcomer if node is owner else owner
            node.now += REFRESHING
            for message in node.drain():
                if not isinstance(message, Send) or message.to == other.engine.node_id:
                    other.receive(message.type, message.payload, node_id)
    took = f"{turns * REFRESHING:.1f} s"
    owner.engine.neighbour_down(owner.now, newcomer.engine.node_id)
    served, joined = rows_of("serve a newcomer, owner", owner), rows_of("join, newcomer", newcomer)
    return [replace(row, note=f"{row.note}; {took}") for row in (*served, *joined)]


def ends(pair: Pair, count: int) -> list[Row]:
    """All orders are cancelled; as many are placed again, and expire together."""
    owner, replica = pair.owner, pair.replica
    parts = owner.engine.orders.cancelling(lambda: owner.now, Selection())
    while owner.step("cancel", lambda: next(parts, None)) is not None:
        pair.exchange()
    rows = [*rows_of("cancel all, owner", owner), *rows_of("cancel all, replica", replica)]
    expires = owner.engine.us(owner.now + 3600.0)
    for start in range(0, count, TURN):
        for number in range(start, start + TURN):
            pair.place(number, expires)
        pair.exchange()
    owner.stops()
    replica.stops()
    owner.now += 3600.0
    replica.now += 3600.0
    while owner.engine.order_store.open:
        pair.exchange()
    return [*rows, *rows_of("expire, owner", owner), *rows_of("expire, replica", replica)]


def run(quick: bool) -> list[Row]:
    rows: list[Row] = []
    gc.collect()
    gc.freeze()  # as the node does when it is ready
    for count in (20_000,) if quick else (20_000, 250_000):
        pair = Pair(count)
        _collections.longest = 0.0
        found = [*checkpoint(pair), *presence(pair), *join(pair), *ends(pair, count)]
        found.append(Row("garbage collection", _collections.longest * 1e3, "ms"))
        rows += [replace(row, what=f"{row.what}, {count:,} orders") for row in found]
    return rows
