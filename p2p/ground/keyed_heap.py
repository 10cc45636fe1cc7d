"""Keys ordered by a number that may change: deadlines, retry times, stop prices. No clock."""

from __future__ import annotations

from collections.abc import Hashable
from heapq import heapify, heappop, heappush
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V", int, float)

_SLACK: Final = 64  # outdated entries that a small heap may keep


class KeyedHeap(Generic[K, V]):
    """Keys by value, least first; of equal values the lesser key first, so that equal inputs give equal outputs.

    A heap with lazy deletion: a replaced or removed entry stays until it reaches the top. The heap is
    rebuilt as soon as outdated entries outnumber the keys, so its size is bounded by the number of keys
    and a change costs O(log n) on average.
    """

    __slots__ = ("_heap", "values")

    def __init__(self) -> None:
        self.values: dict[K, V] = {}  # for reading only
        self._heap: list[tuple[V, K]] = []

    def __len__(self) -> int:
        return len(self.values)

    def __contains__(self, key: object) -> bool:
        return key in self.values

    def set(self, key: K, value: V) -> None:
        """Add a key, or replace its value."""
        self.values[key] = value
        heappush(self._heap, (value, key))
        if len(self._heap) > 2 * len(self.values) + _SLACK:
            self._heap = [(value, key) for key, value in self.values.items()]
            heapify(self._heap)

    def discard(self, key: K) -> None:
        """Remove a key if it is there."""
        self.values.pop(key, None)

    def first(self) -> tuple[V, K] | None:
        """Return the least value and its key."""
        heap, values = self._heap, self.values
        while heap:
            entry = heap[0]
            if values.get(entry[1]) == entry[0]:
                return entry
            heappop(heap)
        return None

    def least(self) -> V | None:
        """Return the least value, None if there is none."""
        first = self.first()
        return None if first is None else first[0]

    def pop(self, limit: V) -> K | None:
        """Remove and return the key of the least value if that is at most `limit`; None otherwise."""
        first = self.first()
        if first is None or first[0] > limit:
            return None
        heappop(self._heap)
        del self.values[first[1]]
        return first[1]

    def in_order(self) -> list[K]:
        """Return all keys, that of the least value first."""
        return [key for _, key in sorted((value, key) for key, value in self.values.items())]

    def pop_first(self) -> tuple[V, K]:
        """Remove and return the least value and its key.

        Raises:
            IndexError: no keys.
        """
        entry = self.first()
        if entry is None:
            raise IndexError("the heap is empty")
        heappop(self._heap)
        del self.values[entry[1]]
        return entry

    def pop_through(self, limit: V) -> list[tuple[V, K]]:
        """Remove and return all values up to `limit` with their keys, in order."""
        found: list[tuple[V, K]] = []
        heap, values = self._heap, self.values
        while heap and heap[0][0] <= limit:
            entry = heappop(heap)
            if values.get(entry[1]) == entry[0]:
                del values[entry[1]]
                found.append(entry)
        return found
