"""A dict with a bound: the entry that was renewed least recently makes room for a new one.

`cachetools.LRUCache` was the alternative: there every read is a Python call that reorders the map (0.25 µs
against 0.06 µs, measured with 9,000 entries), and the maps of this package are read far more often than written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class BoundedMap(dict[K, V]):
    """Insertion order is the order of renewal: assignment and `renew` move a key to the end.

    `on_evict(key, value)` is called for an entry that makes room, after it was removed.
    """

    __slots__ = ("_on_evict", "limit")

    def __init__(self, limit: int, on_evict: Callable[[K, V], object] | None = None) -> None:
        super().__init__()
        self.limit = limit
        self._on_evict = on_evict

    def __setitem__(self, key: K, value: V) -> None:
        if key in self:
            del self[key]
        elif len(self) >= self.limit:
            oldest = next(iter(self))
            evicted = self.pop(oldest)
            if self._on_evict is not None:
                self._on_evict(oldest, evicted)
        super().__setitem__(key, value)

    def renew(self, key: K) -> V | None:
        """Return the value of `key` and move it to the end; None if it is absent."""
        value = self.pop(key, None)
        if value is not None:
            super().__setitem__(key, value)
        return value
