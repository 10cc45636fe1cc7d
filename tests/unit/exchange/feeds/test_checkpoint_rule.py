"""The writer's rule for checkpoints: kept by writers, enforced by replicas, never in retrospect."""

from __future__ import annotations

import pytest
from exchange_kit import EPOCH_US, NETWORK, M, Network, Owner

from exchange.feeds import checkpoint_rule as rule_module
from exchange.feeds import feed as feed_module
from exchange.feeds.checkpoint_rule import MIN_WAIT, Earliness, earliness
from exchange.feeds.feed import Feed, FeedFault, state_hash
from exchange.feeds.feed_replica import Replica
from exchange.model.events import BUY, Batch, Checkpoint, Closed, Event, Opened, sign_batch
from exchange.model.records import PutSnapshot

OLD = EPOCH_US  # us; long before the rule was published
NEW = rule_module.RULE_SINCE


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint is due after 8 events, or twice as many as open orders."""
    monkeypatch.setattr(feed_module, "CHECKPOINT_EVERY", 8)
    monkeypatch.setattr(feed_module, "CHECKPOINT_FACTOR", 2)


def opened(order: int, time: int = NEW) -> Opened:
    return Opened(order, BUY, 100, 5, time)


class Careless(Owner):
    """An owner that writes a checkpoint whenever it likes."""

    def batch(self, *events: Event, checkpoint: bool = False) -> Batch:
        feed = self.writer.feed
        first, previous = feed.number + 1, feed.state.head
        for event in events:
            feed.state.apply(event)
        written = list(events)
        if checkpoint:
            written.append(Checkpoint(state_hash(feed.state.pages())))
            feed.state.apply(written[-1])
        batch, digest = sign_batch(self.keys, NETWORK, M, first, previous, written)
        feed.hold(batch, digest)
        return batch


def first_checkpoint(events: int, time: int) -> tuple[Careless, Batch]:
    """An owner whose first checkpoint follows that many events."""
    owner = Careless(1)
    return owner, owner.batch(*(opened(n, time + n) for n in range(1, events + 1)), checkpoint=True)


# What is too early


def test_the_interval_grows_with_the_open_orders() -> None:
    _, batch = first_checkpoint(20, NEW)
    assert earliness(Feed("o", M), batch) == (Earliness.EARLY, 20)  # 40 are due, 20 are half


def test_an_order_that_was_open_at_the_last_checkpoint_dates_the_feed() -> None:
    """So replicas that began with the snapshot at that checkpoint decide as those that did not."""
    owner, old = first_checkpoint(8, OLD)
    new = owner.batch(opened(20, NEW), checkpoint=False)
    pairs = [event for n in range(30, 42) for event in (opened(n, OLD), Closed(n, "cancelled"))]
    due = owner.batch(*pairs, checkpoint=True)
    snapshot = owner.writer.feed._next_snapshot
    early = owner.batch(opened(90, OLD), checkpoint=True)  # its own time is before the rule
    follower, joined = Owner(1).replica(), Owner(1).replica()
    for batch in (old, new, due):
        follower.offer(batch)
    assert snapshot is not None
    joined.feed.adopt(snapshot)
    for replica in (follower, joined):
        with pytest.raises(FeedFault, match="too early"):
            replica.offer(early)


def test_a_fault_is_found_before_the_state_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    _, batch = first_checkpoint(3, NEW)
    replica = Owner(1).replica()
    monkeypatch.setattr(feed_module.FeedState, "packed", lambda self: pytest.fail("computed"))
    with pytest.raises(FeedFault, match="too early"):
        replica.offer(batch)
    assert replica.feed.fault is not None


# Delays


def delayed() -> tuple[Careless, Replica, Batch]:
    """A replica with one checkpoint at time 100, and the next, early one."""
    owner, batch = first_checkpoint(16, OLD)
    replica = Owner(1).replica()
    assert replica.offer(batch, 100.0) == [batch]
    return owner, replica, owner.batch(opened(100, OLD), checkpoint=True)


def test_an_early_checkpoint_waits_and_is_never_dropped() -> None:
    owner, replica, early = delayed()
    following = owner.batch(opened(101, OLD))
    assert replica.offer(early, 100.1) == []
    assert replica.waits_until == pytest.approx(100.0 + MIN_WAIT)
    assert not replica.gap  # nothing is missing
    assert replica.offer(following, 100.2) == []
    assert replica.offer(early, 100.3) == []
    assert replica.resume(100.9) == []
    assert replica.resume(101.0) == [early, following]
    assert replica.waits_until is None
    assert replica.feed.number == following.last


def test_early_checkpoints_cost_a_node_next_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An owner with 500 open orders writes a checkpoint for each further order. Of a hundred in ten
    seconds, 2 are applied if it dates its events back; else the first, which half the events precede."""
    monkeypatch.setattr(rule_module, "ORDERS_A_SECOND", 100)
    for time, applied in ((OLD, 2), (NEW, 1)):
        net = Network(1, linked=False)
        owner = Careless(50)
        many = [opened(n, time) for n in range(1, 501)]
        for start in range(0, 500, 250):
            assert net.give(0, owner.batch(*many[start : start + 250]), origin=owner.id)
        feed = net[0].feeds[owner.id, M]
        pages = 0
        for step in range(100):
            batch = owner.batch(opened(1000 + step, time), checkpoint=True)
            assert net.give(0, batch, origin=owner.id)
            net.now += 0.1
            net[0].tick(net.now)
            drained = net[0].drain(net.now)
            pages += sum(isinstance(record, PutSnapshot) for record in drained.records)
        assert (feed.fault is not None) is (time == NEW)
        held = [b.batch for b in feed.batches.values()]
        checkpoints = sum(isinstance(batch.events[-1], Checkpoint) for batch in held)
        assert checkpoints + pages == applied
