"""Limits on the feeds of other owners: content, rates, totals, and feeds that are given up."""

from __future__ import annotations

import random
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest
from exchange_kit import EPOCH_US, NETWORK, Keys, M, Network, Owner

from exchange.engine import feed_ingest as feed_ingest_module
from exchange.engine.engine import Engine
from exchange.feeds import feed as feed_module
from exchange.feeds import feed_limits as limits_module
from exchange.feeds import presence as presence_module
from exchange.feeds.exchange_messages import (
    FeedDigest,
    FeedHead,
    FeedPart,
    FeedRequest,
    unpack,
)
from exchange.feeds.feed_limits import ABSENT, EventRates, FeedLimits
from exchange.feeds.presence import PresenceLeases
from exchange.model.events import BUY, Batch, Closed, Event, Filled, Opened
from exchange.model.ports import Send
from exchange.orders import order_validation
from exchange.orders.engine_context import CommandRejected

FAST = FeedLimits(absent_after=30.0, absent_orders=5, retry_after=20.0)


def opened(order: int, price: int = 100) -> Opened:
    return Opened(order, BUY, price, 5, EPOCH_US + order)


def orders(count: int, first: int = 1) -> list[Event]:
    return [opened(n, 100 + n % 50) for n in range(first, first + count)]


class Harness(Network):
    """One node with small limits, and owners without engines around it."""

    def __init__(self, limits: FeedLimits, path: Path | None = None) -> None:
        self.limits = limits
        self.leases: dict[str, PresenceLeases] = {}
        super().__init__(1, path=path, linked=False)

    def _start(self, i: int) -> None:
        node = self.nodes[i]
        node.engine = Engine(
            node.keys,
            self.markets,
            network=NETWORK,
            epoch_us=node.epoch_us,
            rng=random.Random(i),
            recovered=node.store.recover(),
            fence_max=0.0,
            warn=lambda text, kind, owner: node.warnings.append(text),
            now=self.now,
            limits=self.limits,
        )
        node.engine.resume(self.now)

    def presence(self, owner: Owner, *, leaving: bool = False) -> None:
        """Deliver the owner's presence, with the head of its feed."""
        leases = self.leases.setdefault(
            owner.id, PresenceLeases(owner.keys, NETWORK, incarnation=1, lease_ms=600_000)
        )
        heads = [(M, owner.writer.feed.signed)]
        assert self.give(0, leases.make(self.now, heads, leaving=leaving), origin=owner.id)

    def publish(self, owner: Owner, events: Iterable[Event]) -> list[Batch]:
        """Deliver events of the owner as one flush of batches."""
        for event in events:
            owner.writer.append(event)
        batches = owner.writer.flush()
        for batch in batches:
            assert self.give(0, batch, origin=owner.id)
        return batches

    def shown(self, owner: Owner) -> int:
        """Orders of the owner in the node's book."""
        return sum(name == owner.id for *_, name, _, _ in self[0].markets[M].contents())

    def holds(self, owner: Owner) -> bool:
        return (owner.id, M) in self[0].feeds

    def step(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(self.now + 1.0, end)
            self[0].tick(self.now)
            self.drain(0)

    def request(self, owner: Owner, sender: str) -> FeedPart:
        """The node's answer to a request for the owner's feed."""
        self.drain(0)
        self[0]._replicator.on_request(0.0, sender, FeedRequest(owner.id, M, 0))
        (answer,) = self[0]._replicator.take_outgoing()
        part = unpack(answer.type, answer.payload)
        assert answer.to == sender
        assert isinstance(part, FeedPart)
        return part


# Content


def test_a_feed_with_too_many_open_orders_is_given_up_by_every_node_at_one_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits_module, "MAX_OPEN_ORDERS", 300)
    monkeypatch.setattr(feed_module, "CHECKPOINT_EVERY", 100)
    monkeypatch.setattr(feed_module, "CHECKPOINT_FACTOR", 0)
    nodes = [Harness(FAST), Harness(FAST)]
    owner = Owner(50)
    for net in nodes:
        net.presence(owner)
    for event in orders(300):
        owner.writer.append(event)
    batches = owner.writer.flush()
    for batch in batches:
        nodes[0].give(0, batch)
    feed = owner.writer.feed
    snapshot = feed._next_snapshot
    assert snapshot is not None
    replica = nodes[1][0]._ingest._replica(feed_module.Feed(owner.id, M))
    assert replica.offer_snapshot(snapshot.batch, snapshot.pages, nodes[1].now) == []
    nodes[1][0].markets[M].replicas[owner.id] = replica
    nodes[1][0].feeds[owner.id, M] = replica.feed
    nodes[1][0].markets[M].refresh_owner(owner.id)
    for net in nodes:
        assert net.shown(owner) == 300
    last = owner.batch(opened(301))
    for net in nodes:
        assert net.give(0, last)
        assert not net.holds(owner)
        assert net.shown(owner) == 0
        assert [f.reason for f in net[0].given_up] == ["more than 300 open orders"]
        assert "gave up the feed" in net.nodes[0].warnings[-1]
        assert net.give(0, owner.batch(opened(302 + nodes.index(net))))  # relayed, not taken
        assert not net.holds(owner)


def test_own_orders_stay_below_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_validation, "OWN_OPEN_ORDERS", 3)
    net = Network(1)
    made = [net.buy(0, 100 + n, 1) for n in range(3)]
    with pytest.raises(CommandRejected) as refusal:
        net.buy(0, 90, 1)
    assert refusal.value.code == "too_many_orders"
    net[0].orders.cancel(net.now, made[0].number)
    assert net.buy(0, 90, 1).shown == 1


# Rates


def test_an_owner_beyond_its_rate_waits_and_loses_nothing() -> None:
    net = Harness(FeedLimits(owner_rate=100, owner_burst=500))
    owner = Owner(50)
    net.presence(owner)
    events: list[Event] = []
    for n in range(1, 601):
        events += [opened(n), Closed(n, "cancelled")]
    for start in range(0, 1200, 100):
        net.publish(owner, events[start : start + 100])
    feed = net[0].feeds[owner.id, M]
    assert feed.number < 700
    assert net[0].feeds_behind == 0  # nothing is requested: it is here
    net.step(3.0)
    assert 700 <= feed.number < 1000
    net.step(5.0)
    assert feed.number == owner.writer.feed.number
    assert net[0].feed_figures.delayed > 0
    assert net[0].feed_figures.unconnected_bytes == 0
    assert not any(mail.type == "feed_request" for mail in net.sent)


def test_the_total_delays_the_heavy_owners_and_not_the_light_ones() -> None:
    limits = FeedLimits(total_rate=100, total_burst=1000, fair_rate=10, fair_burst=50)
    rates = EventRates(limits)
    for n in range(10):
        rates.spend(0.0, f"heavy{n}", 200)
    assert all(rates.wait(0.0, f"heavy{n}") > 0.0 for n in range(10))
    assert rates.wait(0.0, "light") == 0.0
    rates.spend(0.0, "light", 30)
    assert rates.wait(0.0, "light") == 0.0
    wait = rates.wait(0.0, "heavy1")
    assert rates.wait(wait + 0.001, "heavy1") == 0.0


# Totals


def test_the_heaviest_owner_loses_when_there_are_too_many_orders() -> None:
    net = Harness(FeedLimits(max_orders=1000))
    heavy, light, newest = Owner(50), Owner(51), Owner(52)
    for owner, count in ((heavy, 600), (light, 300)):
        net.presence(owner)
        net.publish(owner, orders(count))
    net.presence(newest)
    net.publish(newest, orders(101))
    assert [net.holds(owner) for owner in (heavy, light, newest)] == [False, True, True]
    net[0].tick(net.now)
    net[0].tick(net.now)  # hidden in two parts
    assert net.shown(heavy) == 0
    assert net[0].feed_figures.orders == 401
    assert [(f.owner, f.market) for f in net[0].given_up] == [(heavy.id, M)]


def test_a_feed_that_was_given_up_is_not_requested_nor_served_before_its_time() -> None:
    net = Harness(FeedLimits(max_orders=10, retry_after=20.0))
    owner = Owner(50)
    net.presence(owner)
    net.publish(owner, orders(11))
    assert not net.holds(owner)
    feed = owner.writer.feed
    head = FeedHead(owner.id, M, feed.signed, feed.state.head[:8])
    net.give(0, FeedDigest(b"other", [head]), origin=Keys(99).node_id)
    net.presence(owner)
    net.step(2.0)
    assert net[0].feeds_behind == 0
    part = net.request(owner, Keys(99).node_id)
    assert (part.number, part.batches) == (0, [])
    net.publish(owner, [Closed(n, "cancelled") for n in range(1, 10)])
    net.step(20.0)
    net.presence(owner)
    assert net[0].feeds_behind == 1  # requested again


def test_feeds_of_absent_owners_are_dropped_first_at_the_limit() -> None:
    net = Harness(FeedLimits(max_feeds=4))  # the own one and three more
    here, gone, late, later = Owner(50), Owner(51), Owner(52), Owner(53)
    for owner in (here, late, later):
        net.presence(owner)
    for owner in (here, gone, late):
        net.publish(owner, orders(2))
    assert all(net.holds(owner) for owner in (here, gone, late))
    net.publish(later, orders(2))
    assert [net.holds(owner) for owner in (here, gone, late, later)] == [True, False, True, True]
    another = Owner(54)
    net.presence(another)
    net.publish(another, orders(2))  # everybody is here
    assert not net.holds(another)
    assert len(net[0].feeds) == 4


# Owners that leave


def test_the_feed_of_an_absent_owner_is_given_up_and_returns_with_it() -> None:
    net = Harness(FAST)
    heavy, small = Owner(50), Owner(51)
    for owner, count in ((heavy, 6), (small, 5)):
        net.presence(owner)
        net.publish(owner, orders(count))
        net.presence(owner, leaving=True)
    net.step(25.0)
    assert net.holds(heavy)
    net.step(10.0)
    assert [net.holds(owner) for owner in (heavy, small)] == [False, True]
    assert [f.reason for f in net[0].given_up] == [ABSENT]
    net.step(1000.0)
    net.leases.clear()
    net.leases[heavy.id] = PresenceLeases(heavy.keys, NETWORK, incarnation=2, lease_ms=600_000)
    net.presence(heavy)
    assert net[0].given_up == []
    assert net[0].feeds_behind == 1
    for held in list(heavy.writer.feed.batches.values()):
        net.give(0, held.batch)
    assert net.shown(heavy) == 6


@pytest.mark.parametrize("leaving", [True, False], ids=["goodbye", "lease runs out"])
def test_an_owner_of_many_orders_cannot_come_and_go_at_will(
    leaving: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits_module, "ORDERS_SHOWN_A_SECOND", 10)
    net = Harness(FeedLimits())
    owner = Owner(50)
    net.leases[owner.id] = PresenceLeases(owner.keys, NETWORK, incarnation=1, lease_ms=500)
    net.presence(owner)
    net.publish(owner, orders(50))
    changes, shown = 0, True
    for _ in range(600):  # ten times a second, for a minute
        net.presence(owner, leaving=leaving and shown)
        net.now += 0.1 if leaving or not shown else 0.6
        net[0].tick(net.now)
        changes += (net.shown(owner) > 0) != shown
        shown = net.shown(owner) > 0
    # Away for 5 s, 10 s, 20 s, then 40 s.
    assert 6 <= changes <= 8
    net.now += 41.0
    net.presence(owner)
    assert net.shown(owner) == 50


def test_after_a_minute_without_a_return_an_owner_may_return_as_soon_as_at_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits_module, "ORDERS_SHOWN_A_SECOND", 10)
    net = Harness(FeedLimits())
    owner = Owner(50)
    net.leases[owner.id] = PresenceLeases(
        owner.keys, NETWORK, incarnation=1, lease_ms=presence_module.MAX_LEASE_MS
    )
    net.presence(owner)
    net.publish(owner, orders(50))

    def returns_after(seconds: float) -> bool:
        net.presence(owner, leaving=True)
        net.now += seconds
        net.presence(owner)
        return net.shown(owner) == 50

    assert returns_after(5.0)
    assert not returns_after(9.0)
    net.now += 1.0
    net.presence(owner)
    net.now += presence_module.RETURNS_REMEMBERED - 5.0
    assert returns_after(5.0)
    assert not returns_after(5.0)


def test_repeated_returns_keep_an_owner_away_for_a_bounded_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits_module, "ORDERS_SHOWN_A_SECOND", 10)
    net = Harness(FeedLimits())
    owner = Owner(50)
    net.presence(owner)
    net.publish(owner, orders(50))
    for _ in range(10):
        net.presence(owner, leaving=True)
        net.now += presence_module.MAX_ABSENCE - 0.5
        net.presence(owner)
        net.now += 0.5
        net.presence(owner)
        assert net.shown(owner) == 50


def test_many_orders_are_hidden_and_shown_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_ingest_module, "REFRESHED", 10)
    net = Harness(FeedLimits(max_orders=40))
    owner = Owner(50)
    net.presence(owner)
    net.publish(owner, orders(35))

    def shown_after_each_tick() -> list[int]:
        found = []
        for _ in range(5):
            found.append(net.shown(owner))
            net.now += 0.1
            net[0].tick(net.now)
        return found

    assert not net[0].refreshing
    net.presence(owner, leaving=True)
    assert net[0].refreshing
    assert shown_after_each_tick() == [35, 25, 15, 5, 0]
    assert not net[0].refreshing
    net.now += 1.0
    net.presence(owner)
    assert shown_after_each_tick() == [0, 10, 20, 30, 35]
    net.publish(owner, orders(6, first=100))
    assert net[0].given_up[0].owner == owner.id
    assert not net.holds(owner)
    assert shown_after_each_tick()[-1] == 1
    net[0].tick(net.now)
    assert net.shown(owner) == 0
    assert owner.id not in net[0].markets[M].replicas


def test_a_fault_after_batches_that_waited_leaves_nothing_on_the_book() -> None:
    net = Harness(FeedLimits())
    owner = Owner(50)
    net.presence(owner)
    net.publish(owner, orders(3))
    missing = owner.batch(Closed(1, "cancelled"))
    closing = owner.batch(Closed(2, "cancelled"))
    feed = owner.writer.feed
    bad = owner.lie(closing.last + 1, feed.state.head, Closed(3, "cancelled"), Closed(77, "x"))
    net.give(0, bad)
    net.give(0, closing)
    assert net.shown(owner) == 3
    net.give(0, missing)  # all three are applied by this call, the last one in part
    assert net[0].feeds[owner.id, M].fault is not None
    assert net.shown(owner) == 0


def test_an_owner_that_was_never_present_is_absent_from_its_first_batch_on() -> None:
    net = Harness(FAST)
    owner = Owner(50)
    net.publish(owner, orders(6))
    net.step(31.0)
    assert not net.holds(owner)


def test_trades_are_counted_once_though_the_feed_comes_twice() -> None:
    net = Harness(FAST)
    owner = Owner(50)
    net.presence(owner)
    trade = Filled(1, BUY, 5, 101, 0, 0, "somebody", 77, EPOCH_US + 500)
    net.publish(owner, [*orders(8), trade])
    net.presence(owner, leaving=True)
    net.step(31.0)
    assert not net.holds(owner)
    net.presence(owner)
    for held in list(owner.writer.feed.batches.values()):
        net.give(0, held.batch)
    net.publish(owner, [Filled(2, BUY, 5, 102, 0, 0, "somebody", 78, EPOCH_US + 600)])
    assert [t.event.take for t in net[0].markets[M].tape] == [77, 78]


def test_an_owner_restored_from_an_old_copy_gets_the_proof_though_its_feed_was_given_up() -> None:
    net = Harness(FAST)
    owner = Owner(50)
    net.presence(owner)
    last = net.publish(owner, orders(6))[-1]
    net.presence(owner, leaving=True)
    net.step(31.0)
    assert not net.holds(owner)
    net[0].neighbour_up(net.now, owner.id)
    (digest,) = [
        unpack(m.type, m.payload)
        for m in net[0].drain(net.now).messages
        if isinstance(m, Send) and m.type == "digest"
    ]
    assert isinstance(digest, FeedDigest)
    assert [(head.owner, head.number) for head in digest.heads] == [(owner.id, last.last)]
    part = net.request(owner, owner.id)
    assert part.batches == [last]
    old = Network(1, linked=False)
    old.nodes[0].keys = owner.keys  # the same node, without its data
    old._start(0)
    assert old.give(0, part)
    assert old[0].stale is not None


# The journal


def test_a_feed_that_was_given_up_stays_so_over_a_restart(tmp_path: Path) -> None:
    net = Harness(FeedLimits(max_orders=10, retry_after=100.0), tmp_path)
    with closing(net):
        owner = Owner(50)
        net.presence(owner)
        batches = net.publish(owner, orders(11))
        net.drain(0)
        net.restart(0)
        assert not net.holds(owner)
        (given_up,) = net[0].given_up
        assert (given_up.owner, given_up.batch) == (owner.id, batches[-1])
        assert net[0].feed_figures.orders == 0
