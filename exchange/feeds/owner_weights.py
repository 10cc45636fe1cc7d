"""Weights of owners: their sum, and the heaviest owner, which loses when a total is exceeded."""

from __future__ import annotations

from p2p.ground.keyed_heap import KeyedHeap


class OwnerWeights:
    """Weights by owner. A change costs the logarithm of the number of owners."""

    def __init__(self) -> None:
        self.total = 0
        self._heap: KeyedHeap[str, int] = KeyedHeap()  # negative weights: the heaviest is first

    def __getitem__(self, owner: str) -> int:
        return -self._heap.values.get(owner, 0)

    def __len__(self) -> int:
        """Return the number of owners with a weight."""
        return len(self._heap.values)

    def add(self, owner: str, change: int) -> None:
        """Change the weight of an owner."""
        weight = self[owner] + change
        self.total += change
        if weight:
            self._heap.set(owner, -weight)
        else:
            self._heap.discard(owner)

    def heaviest(self) -> str | None:
        """Return the owner with the greatest weight; of equals the first by name."""
        first = self._heap.first()
        return None if first is None else first[1]
