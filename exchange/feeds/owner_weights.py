"""Weights of owners: their sum, and the heaviest owner, which loses when a total is exceeded."""

from __future__ import annotations

import heapq


class OwnerWeights:
    """Weights by owner. A change costs the logarithm of the number of owners."""

    def __init__(self) -> None:
        self.total = 0
        self._weights: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []  # (-weight, owner); entries may be out of date

    def __getitem__(self, owner: str) -> int:
        return self._weights.get(owner, 0)

    def add(self, owner: str, change: int) -> None:
        """Change the weight of an owner."""
        weight = self._weights.get(owner, 0) + change
        self.total += change
        if not weight:
            self._weights.pop(owner, None)
            return
        self._weights[owner] = weight
        heapq.heappush(self._heap, (-weight, owner))
        if len(self._heap) > 2 * len(self._weights) + 64:
            self._heap = [(-weight, owner) for owner, weight in self._weights.items()]
            heapq.heapify(self._heap)

    def heaviest(self) -> str | None:
        """Return the owner with the greatest weight; of equals the first by name."""
        while self._heap:
            weight, owner = self._heap[0]
            if self._weights.get(owner) == -weight:
                return owner
            heapq.heappop(self._heap)
        return None
