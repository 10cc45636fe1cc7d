"""Feeds: what a sequence of events says, written by one owner and followed by everybody else."""

from __future__ import annotations

import random

import msgspec
import pytest
from exchange_kit import NETWORK, Keys, M, Owner

from exchange.feeds import feed as feed_module
from exchange.feeds import unconnected_batches as unconnected_module
from exchange.feeds.feed import (
    Feed,
    FeedFault,
    FeedState,
    state_hash,
)
from exchange.feeds.feed_replica import Replica
from exchange.model.events import (
    BUY,
    GENESIS,
    SELL,
    Amended,
    Batch,
    Checkpoint,
    Closed,
    Event,
    Filled,
    InvalidBatch,
    Moved,
    Opened,
    Snapshot,
    sign_batch,
)

replace = msgspec.structs.replace


def opened(order: int, price: int = 100, shown: int = 5) -> Opened:
    return Opened(order, BUY, price, shown, 1000 + order)


def chain(owner: Owner, n: int) -> list[Batch]:
    """n batches of one order each."""
    return [owner.batch(opened(i)) for i in range(1, n + 1)]


@pytest.fixture
def checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint every 4 events, whatever is open; 2 orders on a page."""
    monkeypatch.setattr(feed_module, "CHECKPOINT_EVERY", 4)
    monkeypatch.setattr(feed_module, "CHECKPOINT_FACTOR", 0)
    monkeypatch.setattr(feed_module, "PAGE_ORDERS", 2)
    return


# What events say


def state_after(*events: Event) -> FeedState:
    state = FeedState()
    for event in events:
        state.apply(event)
    return state


def filled(order: int, shown: int, left: int, price: int = 100, side: int = BUY) -> Filled:
    return Filled(order, side, 2, price, shown, left, "taker", 1, 5000)


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ([opened(1), opened(1)], "opened twice"),
        ([Moved(1, 101, 5, 5000)], "without being open"),
        ([opened(1), Moved(1, 101, 5, 1001)], "a time before its own"),
        ([opened(1), Moved(1, 101, 5, 1000)], "a time before its own"),
        ([opened(1), Moved(1, 101, 5, 5000), filled(1, 0, 0)], "another price"),
        ([Amended(1, 3)], "without being open"),
        ([Closed(1, "cancelled")], "without being open"),
        ([filled(1, 3, 3)], "without being open"),
        ([opened(1), Closed(1, "filled"), Amended(1, 1)], "without being open"),
        ([opened(1), filled(1, 0, 0), Closed(1, "filled")], "without being open"),
        ([opened(1), filled(1, 3, 3, price=99)], "another price"),
        ([opened(1), filled(1, 3, 3, side=SELL)], "another price"),
        ([Checkpoint(b"\x00" * 32)], "does not match"),
        ([opened(1), Checkpoint(state_hash(FeedState().pages()))], "does not match"),
    ],
)
def test_an_event_that_contradicts_those_before_it_is_a_fault(
    events: list[Event], why: str
) -> None:
    state = state_after(*events[:-1])
    with pytest.raises(FeedFault, match=why):
        state.apply(events[-1])
    assert state.number == len(events) - 1


# Writing one's own


# Holding and serving


def test_a_moved_snapshot_is_reported_once(checkpoints: None) -> None:
    owner = Owner(1)
    feed = owner.writer.feed
    moves = []
    for i in range(1, 14):
        owner.batch(opened(i))
        moves.append(feed.snapshot_moved)
        feed.snapshot_moved = False
    assert [i for i, moved in enumerate(moves, start=1) if moved] == [8, 12]


def test_a_reload_is_not_news_for_the_journal(checkpoints: None) -> None:
    owner = Owner(1)
    chain(owner, 9)
    feed = Feed(owner.id, M)
    feed.reload(
        owner.writer.feed.snapshot,
        [held.batch for held in owner.writer.feed.batches.values()],
        NETWORK,
    )
    assert not feed.snapshot_moved
    assert feed.state.orders == owner.writer.feed.state.orders
    assert feed.base == owner.writer.feed.base


def test_after_limits_its_batches_by_bytes_but_gives_at_least_one() -> None:
    owner = Owner(1)
    batches = chain(owner, 4)
    feed = owner.writer.feed
    sizes = [len(msgspec.msgpack.encode(batch)) for batch in batches]
    assert feed.after(0, 1) == batches[:1]
    assert feed.after(0, sum(sizes[:2])) == batches[:2]
    assert feed.after(0, sum(sizes[:3]) - 1) == batches[:2]
    assert feed.after(0, sum(sizes[:3])) == batches[:3]


# Following


def test_a_gap_is_known_until_it_is_closed() -> None:
    owner, replica = Owner(1), Owner(1).replica()
    one, two, three = chain(owner, 3)
    assert replica.offer(three) == []
    assert replica.gap
    assert replica.feed.number == 0
    replica.offer(one)
    assert replica.gap
    assert replica.offer(two) == [two, three]
    assert not replica.gap


def test_batches_that_came_early_are_held_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unconnected_module, "MAX_BATCHES", 3)
    owner, replica = Owner(1), Owner(1).replica()
    batches = chain(owner, 8)
    for batch in batches[1:]:
        assert replica.offer(batch) == []
    assert replica.offer(batches[0]) == batches[:4]
    assert replica.offer(batches[4]) == batches[4:5]


def faults(replica: feed_module.Replica, batch: Batch, why: str) -> None:
    with pytest.raises(FeedFault, match=why):
        replica.offer(batch)
    assert replica.feed.fault is not None
    assert not replica.gap


def test_a_batch_that_reaches_over_the_border_of_held_ones_is_a_fault() -> None:
    owner, replica = Owner(1), Owner(1).replica()
    replica.offer(owner.batch(opened(1), opened(2)))
    faults(replica, owner.lie(2, b"\x05" * 32, opened(2), opened(3)), "under number 2")


def test_a_batch_that_follows_something_else_is_a_fault() -> None:
    owner, replica = Owner(1), Owner(1).replica()
    replica.offer(owner.batch(opened(1)))
    faults(replica, owner.lie(2, GENESIS, opened(2)), "does not follow")


def test_an_early_batch_that_follows_something_else_is_a_fault_when_its_turn_comes() -> None:
    owner, replica = Owner(1), Owner(1).replica()
    one = owner.batch(opened(1))
    replica.offer(owner.lie(2, GENESIS, opened(2)))
    faults(replica, one, "number 2 does not follow")
    assert replica.feed.number == 1


def test_a_false_checkpoint_is_a_fault() -> None:
    owner, replica = Owner(1), Owner(1).replica()
    faults(replica, owner.lie(1, GENESIS, opened(1), Checkpoint(b"\x00" * 32)), "does not match")


def test_a_second_signature_under_the_same_content_is_no_fault() -> None:
    """Ed25519 lets an owner sign one thing in several ways; the events are the same."""

    class Sloppy(Keys):
        def verify(self, public_key: bytes, signature: bytes, message: bytes) -> bool:
            return True

    owner = Owner(1)
    batch = owner.batch(opened(1))
    replica = Replica(Feed(owner.id, M), Sloppy(9), NETWORK)
    replica.offer(batch)
    assert replica.offer(replace(batch, signature=b"\x02" * 64)) == []
    assert replica.feed.fault is None


# Snapshots


def snapshot_of(owner: Owner) -> Snapshot:
    snapshot = owner.writer.feed.snapshot
    assert snapshot is not None
    return snapshot


def test_a_snapshot_of_a_feed_at_fault_changes_nothing(checkpoints: None) -> None:
    owner, replica = Owner(1), Owner(1).replica()
    chain(owner, 9)
    faults(replica, owner.lie(1, GENESIS, Amended(2, 1)), "without being open")
    snapshot = snapshot_of(owner)
    assert replica.offer_snapshot(snapshot.batch, snapshot.pages) is None


def test_a_snapshot_is_read_in_slices_of_bytes_and_of_orders(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [(number, BUY, 100, 5, 1000) for number in range(1, 13)]
    pages = [PAGE(rows[start : start + 4]) for start in (0, 4, 8)]
    batch = Owner(1).lie(7, GENESIS, Checkpoint(state_hash(pages)))
    snapshot = Snapshot(batch, batch.digest(NETWORK), pages)
    for hashed, loaded, slices in (
        (10**6, 100, 0),
        (1, 100, 2),
        (len(pages[0]), 100, 1),
        (10**6, 2, 5),
    ):
        monkeypatch.setattr(feed_module, "HASHED", hashed)
        monkeypatch.setattr(feed_module, "LOADED", loaded)
        state = FeedState()
        assert len(list(state.load(snapshot))) == slices
        assert (sorted(state.orders), state.number) == ([*range(1, 13)], 7)


def test_a_forged_snapshot_is_refused(checkpoints: None) -> None:
    owner, replica = Owner(1), Owner(1).replica()
    chain(owner, 9)
    snapshot = snapshot_of(owner)
    with pytest.raises(InvalidBatch):
        replica.offer_snapshot(replace(snapshot.batch, signature=b"\x01" * 64), snapshot.pages)
    assert replica.feed.number == 0
    assert replica.feed.fault is None


PAGE = msgspec.msgpack.Encoder().encode
GOOD = (1, BUY, 100, 5, 1000)


@pytest.mark.parametrize(
    "pages",
    [
        [PAGE([(1, 0, 100, 5, 1000)])],
        [PAGE([(1, BUY, -5, 5, 1000)])],
        [PAGE([(1, BUY, 100, -1, 1000)])],
        [PAGE([(1, BUY, 100, 5, 0)])],
        [PAGE([(0, BUY, 100, 5, 1000)])],
        [PAGE([(2**40 + 1, BUY, 100, 5, 1000)])],  # would be another owner's order in the book
        [PAGE([GOOD, GOOD])],
        [PAGE([GOOD]), PAGE([GOOD])],
        [PAGE([(1, BUY, 100, 5)])],
        [PAGE("nonsense")],
        [b"\xc1"],
    ],
)
def test_impossible_values_in_a_snapshot_are_a_fault_though_the_owner_signed_it(
    pages: list[bytes],
) -> None:
    owner, replica = Owner(1), Owner(1).replica()
    batch = owner.lie(7, GENESIS, Checkpoint(state_hash(pages)))
    with pytest.raises(FeedFault, match="impossible snapshot"):
        replica.offer_snapshot(batch, pages)
    assert replica.feed.fault is not None
    assert replica.feed.state.orders == {}
    assert replica.feed.number == 0


@pytest.mark.parametrize("events", [[opened(1)], [Checkpoint(b"\x00" * 32)]])
def test_pages_that_no_checkpoint_names_are_not_restored(events: list[Event]) -> None:
    batch, digest = sign_batch(Keys(1), NETWORK, M, 1, GENESIS, events)
    with pytest.raises(FeedFault, match="do not match the checkpoint"):
        FeedState.restore(Snapshot(batch, digest, [PAGE([GOOD])]))


@pytest.mark.parametrize("seed", range(20))
def test_however_a_feed_arrives_the_replica_is_the_feed(seed: int, checkpoints: None) -> None:
    """Random events, cut at random, delivered in random order with losses, doubles and snapshots."""
    rng = random.Random(seed)
    owner, replica = Owner(1), Owner(1).replica()
    batches: list[Batch] = []
    number = 0
    for _ in range(rng.randint(1, 25)):
        for _ in range(rng.randint(1, 6)):
            live = sorted(owner.writer.feed.state.orders)
            kind = rng.choice("oofac")
            if kind == "o" or not live:
                number += 1
                owner.writer.append(opened(number, rng.randint(90, 110), rng.randint(1, 9)))
                continue
            picked = rng.choice(live)
            order = owner.writer.feed.state.orders[picked]
            if kind == "f":
                shown = rng.randint(0, 3)
                left = shown + rng.randint(0, 2)
                event: Event = Filled(picked, BUY, 1, order.price, shown, left, "t", 1, 9)
                owner.writer.append(event)
            elif kind == "a":
                owner.writer.append(Amended(picked, rng.randint(0, 9)))
            else:
                owner.writer.append(Closed(picked, "cancelled"))
        batches += owner.writer.flush()
    sample = [b for b in batches for _ in range(rng.choice((0, 1, 2)))]
    rng.shuffle(sample)
    for batch in sample:
        replica.offer(batch)
    snapshot = owner.writer.feed.snapshot
    if snapshot is not None and snapshot.batch.last > replica.feed.number:
        assert replica.offer_snapshot(snapshot.batch, snapshot.pages) is not None
    for batch in owner.writer.feed.after(owner.writer.feed.base, 10**6):
        replica.offer(batch)
    assert replica.feed.fault is None
    assert replica.feed.state.orders == owner.writer.feed.state.orders
    assert replica.feed.state.head == owner.writer.feed.state.head
    assert replica.feed.number == owner.writer.number
    assert not replica.gap
    assert replica.feed.base <= owner.writer.feed.base
