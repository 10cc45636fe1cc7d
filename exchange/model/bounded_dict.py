"""A dict with a bound: the entry that was assigned or renewed least recently makes room for a new one.

`p2p.base.bounded_map` is its counterpart: the two packages never import each other.
"""

from __future__ import annotations

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class BoundedDict(dict[K, V]):
    """Iterates from the least recently assigned or renewed entry to the latest."""

    __slots__ = ("limit",)

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def __setitem__(self, key: K, value: V) -> None:
        self.pop(key, None)
        super().__setitem__(key, value)
        if len(self) > self.limit:
            del self[next(iter(self))]

    def renew(self, key: K) -> V | None:
        """Return the value of `key` and make it the latest; None if it is absent."""
        value = self.get(key)
        if value is not None:
            self[key] = value
        return value
