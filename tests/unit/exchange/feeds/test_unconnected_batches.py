"""Unconnected batches are bounded in bytes, and the heaviest owner loses."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from exchange_kit import M, Network, Owner
from replication_kit import opened

from exchange.feeds import unconnected_batches as unconnected_module
from exchange.feeds.feed import StoredBatch
from exchange.feeds.unconnected_batches import MAX_BATCHES, OVERHEAD, UnconnectedBatches


def stored(size: int) -> StoredBatch:
    """A batch that counts as `size` bytes."""
    return StoredBatch(bytes(size - OVERHEAD), b"", 1)


def test_bytes_are_counted_and_returned() -> None:
    waiting = UnconnectedBatches()
    waiting.add(("a", M), 5, stored(1000))
    waiting.add(("a", M), 5, stored(9000))  # the first copy is kept
    waiting.add(("a", M), 9, stored(500))
    waiting.add(("b", M), 2, stored(400))
    assert waiting.bytes == 1900
    waiting.remove_to(("a", M), 5)
    assert waiting.bytes == 900
    assert waiting.get(("a", M), 5) is None
    assert waiting.get(("a", M), 9) is not None
    waiting.clear(("a", M))
    waiting.clear(("b", M))
    waiting.clear(("c", M))
    assert waiting.bytes == 0
    assert not waiting.has(("a", M))


def test_an_owner_loses_the_batch_that_is_furthest_from_connecting() -> None:
    waiting = UnconnectedBatches(most_each=3000)
    for first in (9, 3, 7, 5):
        waiting.add(("a", M), first, stored(1000))
    assert [first for first in range(12) if waiting.get(("a", M), first)] == [3, 5, 7]
    assert waiting.evicted == 1


def test_the_heaviest_owner_loses_not_the_newest() -> None:
    waiting = UnconnectedBatches(most=10_000, most_each=9_000)
    for first in range(2, 10):
        waiting.add(("heavy", M), first, stored(1000))
    for n in range(8):
        waiting.add((f"light{n}", M), 5, stored(1000))
    assert all(waiting.get((f"light{n}", M), 5) for n in range(8))
    assert [first for first in range(12) if waiting.get(("heavy", M), first)] == [2, 3]
    assert waiting.bytes == 10_000


@pytest.mark.parametrize("seed", range(5))
def test_bounds_hold_in_any_order_of_changes(seed: int) -> None:
    rng = random.Random(seed)
    waiting = UnconnectedBatches(most=20_000, most_each=5_000)
    kept: dict[tuple[str, str], set[int]] = {}
    for _ in range(3000):
        name = rng.choice("abcdefgh"), rng.choice("MN")
        match rng.randrange(8):
            case 0:
                number = rng.randrange(50)
                waiting.remove_to(name, number)
                kept[name] = {first for first in kept.get(name, set()) if first > number}
            case 1 if rng.random() < 0.1:
                waiting.clear(name)
                kept[name] = set()
            case _:
                first = rng.randrange(50)
                waiting.add(name, first, stored(rng.randrange(OVERHEAD, 2000)))
                kept.setdefault(name, set()).add(first)
        found = {
            (name, first): batch
            for name, firsts in kept.items()
            for first in firsts
            if (batch := waiting.get(name, first)) is not None
        }
        assert waiting.bytes == sum(len(b.data) + OVERHEAD for b in found.values()) <= 20_000
        for owner in "abcdefgh":
            of_owner = [b for (name, _), b in found.items() if name[0] == owner]
            assert sum(len(b.data) + OVERHEAD for b in of_owner) <= 5_000


def test_batches_that_never_connect_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Owners without end send batches without what they follow; an honest gap still closes."""
    monkeypatch.setattr(unconnected_module, "MAX_BYTES", 300_000)
    net = Network(1, linked=False)
    unconnected = net[0]._ingest.unconnected
    unconnected._most = 300_000
    honest = Owner(250)
    lost, late = honest.batch(opened(1)), honest.batch(opened(2))
    net.give(0, late, origin=honest.id)
    tracemalloc.start()
    for seed in range(1, 200):
        owner = Owner(seed)
        for part in range(4):
            events = [opened(part * 40 + n) for n in range(1, 41)]
            batch = owner.batch(*events)
            if part:
                net.give(0, batch, origin=owner.id)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert unconnected.bytes <= 300_000
    assert unconnected.evicted > 0
    assert size < 3_000_000  # mostly of 199 feeds, owners and announcements
    net.give(0, lost, origin=honest.id)
    assert net[0].feeds[honest.id, M].number == late.last


def test_one_feed_keeps_a_bounded_number_of_batches() -> None:
    waiting = UnconnectedBatches()
    for first in range(2, MAX_BATCHES + 50):
        waiting.add(("a", M), first, stored(400))
    assert waiting.bytes == 400 * MAX_BATCHES
