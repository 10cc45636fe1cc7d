"""Feeds: what a sequence of events says, written by one owner and followed by everybody else."""

from __future__ import annotations

import hashlib
import itertools
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
    ShownOrder,
    Writer,
    pages_hash,
    state_hash,
)
from exchange.feeds.feed_replica import Replica
from exchange.model.events import (
    BUY,
    GENESIS,
    MAX_EVENTS,
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
    check_batch,
    sign_batch,
)

replace = msgspec.structs.replace


def opened(order: int, price: int = 100, shown: int = 5) -> Opened:
    return Opened(order, BUY, price, shown, 1000 + order)


def chain(owner: Owner, n: int) -> list[Batch]:
    """n batches of one order each."""
    return [owner.batch(opened(i)) for i in range(1, n + 1)]


def after_last(batches: list[Batch]) -> tuple[int, bytes]:
    return batches[-1].last + 1, batches[-1].digest(NETWORK)


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
    ("events", "orders"),
    [
        ([opened(1)], {1: 5}),
        ([opened(1), opened(2)], {1: 5, 2: 5}),
        ([opened(1), Amended(1, 3)], {1: 3}),
        ([opened(1), Amended(1, 0)], {1: 0}),
        ([opened(1), Amended(1, 9)], {1: 9}),
        ([opened(1), filled(1, 3, 3)], {1: 3}),
        ([opened(1), filled(1, 0, 3)], {1: 0}),
        ([opened(1), filled(1, 0, 0)], {}),
        ([opened(1), Moved(1, 101, 7, 5000)], {1: 7}),
        ([opened(1), Moved(1, 101, 0, 5000)], {1: 0}),
        ([opened(1), opened(2), Closed(1, "cancelled")], {2: 5}),
    ],
)
def test_what_a_sequence_of_events_leaves_on_show(
    events: list[Event], orders: dict[int, int]
) -> None:
    state = state_after(*events)
    assert {number: order.shown for number, order in state.orders.items()} == orders
    assert state.number == len(events)


def test_a_moved_order_has_another_price_and_a_later_time() -> None:
    state = state_after(Opened(3, SELL, 70, 8, 12345), Moved(3, 71, 6, 12346))
    assert state.orders == {3: ShownOrder(SELL, 71, 6, 12346)}
    state.apply(filled(3, 0, 0, price=71, side=SELL))
    assert state.orders == {}


def test_a_moved_order_is_in_a_snapshot_as_it_is_now() -> None:
    owner = Owner(1)
    owner.batch(opened(1), Moved(1, 105, 4, 9000))
    batch = owner.batch(Checkpoint(state_hash(owner.writer.feed.state.pages())))
    pages = owner.writer.feed.state.pages()
    restored = FeedState.restore(Snapshot(batch, batch.digest(NETWORK), pages))
    assert restored.orders == {1: ShownOrder(BUY, 105, 4, 9000)}


def test_an_opened_order_matches_its_event() -> None:
    state = state_after(Opened(3, SELL, 70, 8, 12345))
    assert state.orders == {3: ShownOrder(SELL, 70, 8, 12345)}


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


def test_a_true_checkpoint_is_an_event_like_any_other() -> None:
    state = state_after(opened(1))
    state.apply(Checkpoint(state_hash(state.pages())))
    assert state.number == 2


def test_pages_are_by_order_number_whatever_the_order_of_opening() -> None:
    one, other = state_after(opened(1), opened(2)), state_after(opened(2), opened(1))
    assert one.pages() == other.pages()
    assert state_hash(one.pages()) != state_hash(state_after(opened(1)).pages())


@pytest.mark.parametrize(("orders", "pages"), [(0, 1), (1, 1), (2, 1), (3, 2), (4, 2), (5, 3)])
def test_pages_are_full_but_the_last(
    orders: int, pages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "PAGE_ORDERS", 2)
    packed = state_after(*(opened(i) for i in range(1, orders + 1))).pages()
    sizes = [len(msgspec.msgpack.decode(page)) for page in packed]
    assert len(packed) == pages
    assert sum(sizes) == orders
    assert all(size == 2 for size in sizes[:-1])


def test_the_hash_of_pages_is_the_hash_of_their_hashes() -> None:
    pages = [b"one", b"two"]
    assert state_hash(pages) == pages_hash(hashlib.sha256(page).digest() for page in pages)
    assert state_hash(pages) != state_hash([b"two", b"one"])
    assert state_hash(pages) != state_hash([b"onetwo"])


# Writing one's own


def test_a_writer_signs_appended_events_as_one_batch_after_the_last() -> None:
    owner = Owner(1)
    one = owner.batch(opened(1), opened(2))
    two = owner.batch(Amended(1, 3))
    assert (one.first, one.last, one.previous) == (1, 2, GENESIS)
    assert (two.first, two.last, two.previous) == (3, 3, one.digest(NETWORK))
    assert owner.writer.flush() == []
    assert owner.writer.feed.state.head == two.digest(NETWORK)


def test_a_writer_counts_events_before_they_are_signed() -> None:
    owner = Owner(1)
    owner.writer.append(opened(1))
    assert owner.writer.number == 1
    assert owner.writer.feed.batches == {}


@pytest.mark.parametrize("events", [MAX_EVENTS, MAX_EVENTS + 1, 3 * MAX_EVENTS - 1])
def test_a_large_flush_is_cut_into_batches_that_follow_each_other(events: int) -> None:
    owner, replica = Owner(1), Owner(1).replica()
    for i in range(1, events + 1):
        owner.writer.append(opened(i))
    batches = owner.writer.flush()
    assert [b.first for b in batches] == list(range(1, events + 1, MAX_EVENTS))
    for batch in batches:
        assert replica.offer(batch) == [batch]
    assert replica.feed.number == events


def test_a_checkpoint_closes_the_flush_that_makes_it_due(checkpoints: None) -> None:
    owner = Owner(1)
    batches = chain(owner, 9)
    ends = [batch.last for batch in batches if isinstance(batch.events[-1], Checkpoint)]
    assert ends == [5, 10]  # 4 events and the checkpoint itself, twice
    for batch in batches:
        check_batch(Keys(9), NETWORK, batch)


def test_checkpoints_are_rarer_when_more_orders_are_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "CHECKPOINT_EVERY", 2)
    monkeypatch.setattr(feed_module, "CHECKPOINT_FACTOR", 3)
    owner = Owner(1)
    sizes = [len(owner.batch(opened(i)).events) for i in range(1, 5)]
    sizes += [len(owner.batch(Amended(1, left)).events) for left in range(8)]
    assert sizes == [1] * 11 + [2]  # 4 open orders want 12 events


def test_a_writer_that_is_reloaded_after_every_batch_writes_the_same_feed(
    checkpoints: None,
) -> None:
    owner, never = Owner(1), Owner(1)
    for i in range(1, 20):
        assert owner.batch(opened(i)) == never.batch(opened(i))
        held = [held.batch for held in owner.writer.feed.batches.values()]
        feed = Feed(owner.id, M)
        feed.reload(owner.writer.feed.snapshot, held, NETWORK)
        assert feed.state.orders == owner.writer.feed.state.orders
        owner.writer = Writer(feed, owner.keys, NETWORK)
    assert owner.writer.feed.base > 0


# Holding and serving


def test_what_is_held_begins_after_the_last_checkpoint_but_one(checkpoints: None) -> None:
    owner = Owner(1)
    bases = []
    for batch in (owner.batch(opened(i)) for i in range(1, 14)):
        feed = owner.writer.feed
        bases.append(feed.base)
        assert feed.after(feed.base, 10**6)[-1] == batch
        assert [b.first for b in feed.after(feed.base, 10**6)] == sorted(feed.batches)
    assert bases == [0] * 7 + [5] * 4 + [10] * 2


def test_a_snapshot_is_the_state_at_its_checkpoint(checkpoints: None) -> None:
    owner = Owner(1)
    chain(owner, 9)
    snapshot = owner.writer.feed.snapshot
    assert snapshot is not None
    state = FeedState.restore(snapshot)
    assert (state.number, state.head) == (5, snapshot.batch.digest(NETWORK))
    assert state.orders == state_after(*(opened(i) for i in (1, 2, 3, 4))).orders
    for held in owner.writer.feed.batches.values():
        assert held.batch.previous == state.head
        for event in held.batch.events:
            state.apply(event)
        state.head = held.batch.digest(NETWORK)
    assert state.orders == owner.writer.feed.state.orders


def test_a_checkpoint_that_is_cut_off_into_a_batch_of_its_own_is_held_like_any_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feed_module, "CHECKPOINT_EVERY", MAX_EVENTS)
    monkeypatch.setattr(feed_module, "CHECKPOINT_FACTOR", 0)
    owner, replica = Owner(1), Owner(1).replica()
    for k in range(3):
        for i in range(1, MAX_EVENTS + 1):
            owner.writer.append(opened(k * MAX_EVENTS + i))
        for batch in owner.writer.flush():
            assert replica.offer(batch) == [batch]
            for feed in (owner.writer.feed, replica.feed):
                held = feed.after(feed.base, 10**9)
                assert [b.first for b in held] == sorted(feed.batches)
                assert not held or held[0].first == feed.base + 1
    assert owner.writer.feed.base == replica.feed.base == 2 * (MAX_EVENTS + 1)


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


def test_after_serves_consecutive_batches_from_a_border_only() -> None:
    owner = Owner(1)
    one = owner.batch(opened(1), opened(2))
    two = owner.batch(opened(3))
    three = owner.batch(opened(4))
    feed = owner.writer.feed
    assert feed.after(0, 10**6) == [one, two, three]
    assert feed.after(2, 10**6) == [two, three]
    assert feed.after(1, 10**6) == []
    assert feed.after(3, 10**6) == [three]
    assert feed.after(4, 10**6) == []
    assert feed.after(9, 10**6) == []


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


def test_batches_in_order_are_followed() -> None:
    owner, replica = Owner(1), Owner(1).replica()
    for batch in chain(owner, 5):
        assert replica.offer(batch) == [batch]
    assert replica.feed.state.orders == owner.writer.feed.state.orders
    assert replica.feed.state.head == owner.writer.feed.state.head
    assert not replica.gap


@pytest.mark.parametrize("arrival", list(itertools.permutations(range(4))))
def test_batches_in_any_order_and_doubled_give_the_same_feed(arrival: tuple[int, ...]) -> None:
    owner, replica = Owner(1), Owner(1).replica()
    batches = chain(owner, 4)
    joined: list[Batch] = []
    for i in arrival:
        joined += replica.offer(batches[i])
        assert replica.offer(batches[i]) == []
    assert joined == batches
    assert not replica.gap
    assert replica.feed.state.head == owner.writer.feed.state.head


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


@pytest.mark.parametrize(
    "make",
    [
        lambda b: replace(b, signature=b"\x01" * 64),
        lambda b: replace(b, market="ETH-USD"),
        lambda b: replace(b, previous=b"\x01" * 32),
        lambda b: replace(b, events=[replace(b.events[0], shown=6)]),
        lambda b: replace(b, first=b.first + 1),
    ],
    ids=["signature", "market", "previous", "event", "number"],
)
@pytest.mark.parametrize("held", ["not yet", "early", "in place", "under a snapshot", "at fault"])
def test_an_altered_copy_is_refused_whatever_is_held_and_changes_nothing(
    make: object, held: str, checkpoints: None
) -> None:
    """Valid batches are passed on: an altered copy must not be, or its relay would be blamed."""
    assert callable(make)
    owner, replica = Owner(1), Owner(1).replica()
    batches = chain(owner, 9)
    target = 1
    if held == "early":
        replica.offer(batches[1])
    elif held == "in place":
        for batch in batches[:3]:
            replica.offer(batch)
    elif held == "under a snapshot":
        for batch in batches:
            replica.offer(batch)
        assert replica.feed.base == 5
    elif held == "at fault":
        replica.offer(batches[0])
        with pytest.raises(FeedFault):
            replica.offer(owner.lie(1, GENESIS, opened(77)))
    number, head, gap = replica.feed.number, replica.feed.state.head, replica.gap
    with pytest.raises(InvalidBatch):
        replica.offer(make(batches[target]))
    assert (replica.feed.number, replica.feed.state.head, replica.gap) == (number, head, gap)


def test_another_owners_batch_does_not_fit_a_replica() -> None:
    replica = Owner(1).replica()
    replica.offer(Owner(1).batch(opened(1)))
    stranger = Owner(2)
    stranger.batch(opened(1))
    follows = stranger.batch(opened(2))
    with pytest.raises(
        FeedFault
    ):  # the engine looks replicas up by the key: it never comes to this
        replica.offer(follows)


def faults(replica: feed_module.Replica, batch: Batch, why: str) -> None:
    with pytest.raises(FeedFault, match=why):
        replica.offer(batch)
    assert replica.feed.fault is not None
    assert not replica.gap


def test_two_events_under_one_number_are_a_fault_of_their_owner() -> None:
    owner, replica = Owner(1), Owner(1).replica()
    batches = chain(owner, 2)
    for batch in batches:
        replica.offer(batch)
    faults(replica, owner.lie(2, batches[0].digest(NETWORK), opened(99)), "under number 2")


def test_the_same_events_cut_into_batches_differently_are_a_fault_too() -> None:
    owner, replica = Owner(1), Owner(1).replica()
    replica.offer(owner.batch(opened(1), opened(2)))
    faults(replica, owner.lie(1, GENESIS, opened(1)), "under number 1")
    replica = owner.replica()
    replica.offer(owner.lie(1, GENESIS, opened(1)))
    faults(replica, owner.lie(1, GENESIS, opened(1), opened(2)), "under number 1")


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


def test_events_that_contradict_each_other_are_a_fault() -> None:
    owner, replica = Owner(1), Owner(1).replica()
    batches = [owner.batch(opened(1))]
    replica.offer(batches[0])
    faults(replica, owner.lie(*after_last(batches), Amended(2, 1)), "without being open")


def test_a_false_checkpoint_is_a_fault() -> None:
    owner, replica = Owner(1), Owner(1).replica()
    faults(replica, owner.lie(1, GENESIS, opened(1), Checkpoint(b"\x00" * 32)), "does not match")


def test_a_feed_at_fault_is_frozen() -> None:
    owner, replica = Owner(1), Owner(1).replica()
    batches = chain(owner, 5)
    replica.offer(batches[0])
    replica.offer(batches[4])
    assert replica.gap
    faults(replica, owner.lie(1, GENESIS, opened(99)), "under number 1")
    assert replica.offer(batches[1]) == []
    assert replica.offer(batches[2]) == []
    assert replica.feed.number == 1
    assert not replica.gap


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


def test_a_late_copy_from_under_the_snapshot_is_nothing(checkpoints: None) -> None:
    owner, replica = Owner(1), Owner(1).replica()
    batches = chain(owner, 9)
    for batch in batches:
        replica.offer(batch)
    assert replica.feed.base == 5
    assert all(replica.offer(batch) == [] for batch in batches)
    assert replica.feed.fault is None


# Snapshots


def snapshot_of(owner: Owner) -> Snapshot:
    snapshot = owner.writer.feed.snapshot
    assert snapshot is not None
    return snapshot


def test_a_replica_jumps_to_a_snapshot_and_goes_on_from_there(checkpoints: None) -> None:
    owner, replica = Owner(1), Owner(1).replica()
    batches = chain(owner, 9)
    snapshot = snapshot_of(owner)
    replica.offer(batches[0])
    assert replica.offer_snapshot(snapshot.batch, snapshot.pages) == []
    assert replica.feed.number == 5
    assert replica.feed.base == 5
    assert replica.feed.snapshot_moved
    for batch in batches[4:]:
        assert replica.offer(batch) == [batch]
    assert replica.feed.state.orders == owner.writer.feed.state.orders
    assert replica.feed.state.head == owner.writer.feed.state.head


def test_a_jump_forgets_the_checkpoint_before_it(checkpoints: None) -> None:
    owner, replica = Owner(1), Owner(1).replica()
    batches = chain(owner, 5)
    assert isinstance(batches[3].events[-1], Checkpoint)
    for batch in batches:
        replica.offer(batch)
    batches += [owner.batch(opened(i)) for i in range(6, 14)]
    snapshot = snapshot_of(owner)
    assert snapshot.batch.last == 10
    replica.offer_snapshot(snapshot.batch, snapshot.pages)
    for batch in batches:
        replica.offer(batch)
    for i in range(14, 20):
        batch = owner.batch(opened(i))
        replica.offer(batch)
        assert replica.feed.base in (10, 15)
    assert replica.feed.base == owner.writer.feed.base == 15


def test_a_snapshot_joins_the_batches_that_came_before_it(checkpoints: None) -> None:
    owner, replica = Owner(1), Owner(1).replica()
    batches = chain(owner, 9)
    snapshot = snapshot_of(owner)
    for batch in (batches[1], batches[4], batches[5], batches[7]):
        replica.offer(batch)
    assert replica.offer_snapshot(snapshot.batch, snapshot.pages) == batches[4:6]
    assert replica.gap
    assert replica.offer(batches[6]) == batches[6:8]
    assert not replica.gap


@pytest.mark.parametrize("held", [5, 6, 9])
def test_a_snapshot_that_is_not_later_changes_nothing(held: int, checkpoints: None) -> None:
    owner, replica = Owner(1), Owner(1).replica()
    batches = chain(owner, 9)
    for batch in batches:
        if batch.last <= held:
            replica.offer(batch)
    head = replica.feed.state.head
    snapshot = snapshot_of(owner)
    assert replica.offer_snapshot(snapshot.batch, snapshot.pages) is None
    assert replica.feed.state.head == head
    assert replica.feed.fault is None


def test_a_snapshot_of_a_feed_at_fault_changes_nothing(checkpoints: None) -> None:
    owner, replica = Owner(1), Owner(1).replica()
    chain(owner, 9)
    faults(replica, owner.lie(1, GENESIS, Amended(2, 1)), "without being open")
    snapshot = snapshot_of(owner)
    assert replica.offer_snapshot(snapshot.batch, snapshot.pages) is None


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


def test_an_order_that_is_off_the_book_for_now_is_in_snapshots() -> None:
    owner, replica = Owner(1), Owner(1).replica()
    pages = [PAGE([(1, BUY, 100, 0, 1000)])]
    batch = owner.lie(7, GENESIS, Checkpoint(state_hash(pages)))
    assert replica.offer_snapshot(batch, pages) == []
    assert replica.feed.state.orders[1].shown == 0


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
