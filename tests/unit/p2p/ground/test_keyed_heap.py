"""Keys by a number that may change."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.ground.keyed_heap import KeyedHeap


def test_keys_come_by_value_then_by_key() -> None:
    heap: KeyedHeap[int, int] = KeyedHeap()
    for key, value in ((3, 200), (2, 100), (1, 200), (4, 300)):
        heap.set(key, value)
    assert heap.first() == (100, 2)
    assert heap.pop_through(99) == []
    assert heap.pop_through(200) == [(100, 2), (200, 1), (200, 3)]
    assert heap.pop_through(200) == []
    assert len(heap) == 1
    assert heap.pop_first() == (300, 4)
    assert heap.first() is None
    with pytest.raises(IndexError):
        heap.pop_first()


def test_the_latest_value_counts() -> None:
    heap: KeyedHeap[str, float] = KeyedHeap()
    heap.set("a", 1.0)
    heap.set("a", 3.0)
    heap.set("b", 3.0)
    heap.set("b", 0.5)
    heap.set("c", 0.1)
    heap.discard("c")
    heap.discard("unknown")
    assert "c" not in heap
    assert heap.pop_through(1.0) == [(0.5, "b")]
    assert heap.pop_through(3.0) == [(3.0, "a")]


def test_a_value_set_there_and_back_comes_once() -> None:
    heap: KeyedHeap[int, int] = KeyedHeap()
    for value in (100, 200, 100):
        heap.set(1, value)
    assert heap.pop_through(500) == [(100, 1)]


def test_memory_is_bounded_by_the_number_of_keys() -> None:
    heap: KeyedHeap[int, int] = KeyedHeap()
    for key in range(10_000):
        heap.set(key, 10**9)
        heap.set(key, 10**9 + 1)
        heap.discard(key - 5)
    assert len(heap) == 5
    assert len(heap._heap) < 200


def test_deadlines_are_popped_once_their_time_has_come() -> None:
    heap: KeyedHeap[str, float] = KeyedHeap()
    assert (heap.least(), heap.pop(9.0)) == (None, None)
    for key, at in (("late", 3.0), ("b", 1.0), ("a", 1.0), ("moved", 0.5), ("moved", 5.0)):
        heap.set(key, at)
    assert heap.least() == 1.0
    assert heap.in_order() == ["a", "b", "late", "moved"]
    assert [heap.pop(2.0) for _ in range(3)] == ["a", "b", None]
    assert heap.pop(3.0) == "late"
    assert "late" not in heap
    assert heap.least() == 5.0


@given(st.lists(st.tuples(st.integers(0, 9), st.none() | st.integers(0, 20)), max_size=400))
def test_a_keyed_heap_agrees_with_a_sorted_dict(steps: list[tuple[int, int | None]]) -> None:
    """A value sets the key, None removes it; every seventh step takes all values up to 7."""
    heap: KeyedHeap[int, int] = KeyedHeap()
    model: dict[int, int] = {}
    for index, (key, value) in enumerate(steps):
        if value is None:
            heap.discard(key)
            model.pop(key, None)
        else:
            heap.set(key, value)
            model[key] = value
        expected = sorted((number, name) for name, number in model.items())
        assert heap.first() == (expected[0] if expected else None)
        if index % 7 == 6:
            due = [entry for entry in expected if entry[0] <= 7]
            assert heap.pop_through(7) == due
            for _, name in due:
                del model[name]
