"""Pages for checkpoints: packed in slices beside trading, the same bytes as packed at once."""

from __future__ import annotations

import random

import msgspec
import pytest
from exchange_kit import NETWORK, Keys, M, Network, Owner, submit

from exchange.feeds import checkpoint_pages as pages_module
from exchange.feeds import feed as feed_module
from exchange.feeds.checkpoint_pages import OrderPacking
from exchange.feeds.feed import Feed, FeedFault, FeedState, ShownOrder, Writer, state_hash
from exchange.feeds.feed_replica import Replica
from exchange.model.events import BUY, SELL, Amended, Batch, Checkpoint, Closed, Event, Opened

PAGE = 5


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few orders are many, and a checkpoint is due after 8 events or twice as many as open orders."""
    for module, name, value in (
        (pages_module, "SLICE", 3),
        (pages_module, "SORTED", 4),
        (pages_module, "FEW", 2),
        (feed_module, "AT_ONCE", 4),
        (feed_module, "PAGE_ORDERS", PAGE),
        (feed_module, "CHECKPOINT_EVERY", 8),
        (feed_module, "CHECKPOINT_FACTOR", 2),
    ):
        monkeypatch.setattr(module, name, value)


def at_once(orders: dict[int, ShownOrder]) -> list[bytes]:
    """The pages as the protocol describes them."""
    rows = [(n, o.side, o.price, o.shown, o.time) for n, o in sorted(orders.items())]
    return [
        msgspec.msgpack.encode(rows[start : start + PAGE])
        for start in range(0, max(len(rows), 1), PAGE)
    ]


def order(number: int, shown: int = 5) -> ShownOrder:
    return ShownOrder(BUY, 100 + number % 7, shown, 2**41 + number)


# The pages


@pytest.mark.parametrize("seed", range(40))
def test_whatever_changes_meanwhile_the_pages_are_those_of_the_seal(seed: int) -> None:
    rng = random.Random(seed)
    numbers = rng.sample(range(1, 60 if seed % 2 else 200), rng.randint(0, 50))
    if rng.random() < 0.5:
        numbers.sort()
    orders = {number: order(number) for number in numbers}
    packing = OrderPacking(orders, PAGE)
    while not packing.ready or rng.random() < 0.8:
        packing.step()
        number = rng.randint(1, 70 if seed % 2 else 220)
        if rng.random() < 0.5:
            orders[number] = order(number, rng.randint(1, 9))
        else:
            orders.pop(number, None)
        packing.changed([number])
    packing.seal()
    sealed = at_once(orders)
    while packing.result is None:
        packing.step()
        orders.pop(next(iter(orders), 0), None)
    assert packing.result.pages == sealed
    assert packing.result.state == state_hash(sealed)
    while packing.step():
        assert packing.pending
    assert not packing.pending


@pytest.mark.parametrize("count", [0, 1, 4, 5, 6, 15, 16, 40])
def test_pages_at_once_are_those_of_the_protocol(count: int) -> None:
    state = FeedState()
    state.orders = {number: order(number) for number in range(count, 0, -1)}
    assert state.pages() == at_once(state.orders)


# The owner


def opened(number: int) -> Opened:
    return Opened(number, BUY, 100, 5, 1000 + number)


def follow(batches: list[Batch]) -> FeedState:
    """The state of a replica that packs at once."""
    state = FeedState()
    for batch in batches:
        for event in batch.events:
            state.apply(event)
    return state


def checkpoints(batches: list[Batch]) -> int:
    return sum(isinstance(batch.events[-1], Checkpoint) for batch in batches)


def test_a_checkpoint_waits_for_its_pages_and_later_events_follow_it() -> None:
    owner = Owner(1)
    feed, writer = owner.writer.feed, owner.writer
    batches = [owner.batch(*(opened(n) for n in range(1, 11)))]
    batches.append(owner.batch(*(Amended(n, 4) for n in range(1, 11))))
    assert checkpoints(batches) == 0  # it is due, but nothing is packed
    while feed.step():
        assert not writer.prepare()
    writer.append(Closed(3, "cancelled"))
    assert writer.prepare()
    writer.append(Closed(4, "cancelled"))  # not in the checkpoint
    while writer.prepare():
        assert feed.signed == 20
    sealed, later = writer.flush()
    assert sealed.events[0] == Closed(3, "cancelled")
    assert isinstance(sealed.events[1], Checkpoint)
    assert later.events == (Closed(4, "cancelled"),)
    assert follow([*batches, sealed, later]).orders == feed.state.orders
    assert feed.number == writer.number == later.last
    assert feed.checkpointed == sealed.last


def test_a_flush_without_preparation_has_the_same_checkpoint() -> None:
    owner = Owner(1)
    batches = [owner.batch(*(opened(n) for n in range(1, 11)))]
    batches += [owner.batch(*(Amended(n, 4) for n in range(1, 11))) for _ in range(5)]
    assert checkpoints(batches) == 1  # late, and whatever it takes
    assert follow(batches).orders == owner.writer.feed.state.orders


@pytest.mark.parametrize("seed", range(30))
def test_however_it_is_driven_what_an_owner_signs_holds(seed: int) -> None:
    """Random events, with slices between them or without; followers pack at once, or in slices."""
    rng = random.Random(seed)
    owner = Owner(1)
    feed, writer = owner.writer.feed, owner.writer
    replica = Replica(Feed(owner.id, M), Keys(9), NETWORK)
    batches: list[Batch] = []
    number, now, prepares = 0, 0.0, rng.random() < 0.7
    for _ in range(200):
        for _ in range(rng.randint(0, 4)):
            live = list(feed.state.orders)
            if (len(live) < 20 and rng.random() < 0.6) or not live:
                number += 1
                writer.append(opened(number))
            elif rng.random() < 0.5:
                writer.append(Closed(rng.choice(live), "cancelled"))
            else:
                writer.append(Amended(rng.choice(live), rng.randint(0, 9)))
        if rng.random() < 0.7:
            feed.step()
        if prepares and writer.prepare():
            continue
        for batch in writer.flush():
            batches.append(batch)
            replica.offer(batch, now)
        now += 0.01
        replica.feed.step()
        replica.resume(now)
    batches += writer.flush()
    while replica.feed.number < writer.number:
        replica.offer(batches[-1], now)
        replica.feed.step()
        now += 0.01
        replica.resume(now)
    assert checkpoints(batches) > 3
    assert follow(batches).orders == replica.feed.state.orders == feed.state.orders
    held, own = replica.feed, feed
    assert held.snapshot == own.snapshot
    assert held.page_hashes() == own.page_hashes()
    while held.step():
        pass
    assert all(first > held.base for first in held.batches)


# Replicas


def checkpointed(*events: Event, state: bytes | None = None) -> tuple[Owner, list[Batch]]:
    """An owner with ten orders, and a checkpoint after `events`."""
    owner = Owner(1)
    first = owner.batch(*(opened(n) for n in range(1, 11)))
    second = owner.batch(*(Amended(n, 4) for n in range(1, 11)))
    found = state or state_hash(at_once(follow([first, second]).orders))
    third = owner.lie(21, owner.writer.feed.state.head, *events, Checkpoint(found))
    return owner, [first, second, third]


def test_a_replica_applies_a_checkpoint_when_its_pages_are_packed() -> None:
    owner, batches = checkpointed()
    replica = owner.replica()
    for batch in batches:
        replica.offer(batch, 1.0)
    assert (replica.feed.number, replica.waits_until is not None) == (20, True)
    assert not replica.gap
    assert replica.resume(2.0) == []
    while replica.feed.step():
        pass
    assert replica.resume(3.0) == []  # sealed
    while replica.feed.step():
        pass
    assert replica.resume(4.0) == [batches[-1]]
    assert replica.feed.checkpointed == 21


def patient(replica: Replica) -> list[Batch]:
    for step in range(100):
        while replica.feed.step():
            pass
        if found := replica.resume(float(step)):
            return found
    return []


@pytest.mark.parametrize(
    ("events", "state", "why"),
    [
        ((), b"\x01" * 32, "does not match"),
        ((Closed(3, "cancelled"),), None, "does not match"),
        ((Closed(3, "cancelled"), Amended(3, 1)), None, "without being open"),
    ],
)
def test_a_false_checkpoint_is_a_fault_as_soon_as_it_is_packed(
    events: tuple[Event, ...], state: bytes | None, why: str
) -> None:
    owner, batches = checkpointed(*events, state=state)
    replica = owner.replica()
    for batch in batches:
        replica.offer(batch)
    with pytest.raises(FeedFault, match=why):
        patient(replica)
    assert replica.feed.fault is not None
    assert replica.feed.packing is None


# Nodes


def test_nodes_trade_on_while_one_packs_its_orders() -> None:
    net = Network(3)
    checkpoints = held = 0
    for turn in range(90):
        side = BUY if turn % 3 else SELL
        submit(net[0], net.now, M, side, 100 - side * (1 + turn % 9), 5)
        if len(open_orders := net[0].order_store.open_orders) > 12:
            net[0].orders.cancel(net.now, open_orders[turn % 4].number)
        if net[0].prepare():
            held += 1
        else:
            for mail in net.drain(0):
                checkpoints += isinstance(getattr(mail.message, "events", [0])[-1], Checkpoint)
                assert net.deliver(mail)
        for i in (0, 0, 0, 0, 0, 1, 2):
            net[i].tick(net.now)
        net.now += 0.005
    while any(net[i].refreshing for i in range(3)) or net[0].prepare():
        net.now += 0.005
        for i in range(3):
            net[i].tick(net.now)
    net.settle()
    for _ in range(50):
        net.now += 0.01
        for i in range(3):
            net[i].tick(net.now)
    net.settle()
    assert checkpoints >= 2 * 2
    assert held
    books = [net[i].markets[M].contents() for i in range(3)]
    assert books[0] == books[1] == books[2]
    feeds = [net[i].feeds[net.id(0), M] for i in range(3)]
    assert feeds[0].snapshot is not None
    assert feeds[0].snapshot == feeds[1].snapshot == feeds[2].snapshot


def test_a_writer_of_a_restored_feed_goes_on() -> None:
    owner = Owner(1)
    for _ in range(6):
        live = list(owner.writer.feed.state.orders) or range(1, 11)
        owner.batch(*(Amended(n, 3) if owner.writer.number else opened(n) for n in live))
    feed = Feed(owner.id, M)
    held = owner.writer.feed
    feed.reload(held.snapshot, [b.batch for b in held.batches.values()], NETWORK)
    writer = Writer(feed, owner.keys, NETWORK)
    writer.append(Amended(1, 2))
    (batch,) = writer.flush()
    assert batch.first == held.number + 1
    assert feed.checkpointed == held.checkpointed > 0
