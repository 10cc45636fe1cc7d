"""Which orders end when: those that are good till a date."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Final

_SLACK: Final = 64  # entries out of date before it is looked whether to rebuild


class Expiry:
    """Orders by the time they end, in microseconds since the epoch.

    A heap; what is removed or changed stays in it until it comes up or is more than half of it.
    """

    def __init__(self) -> None:
        self.times: dict[int, int] = {}  # by order; to be looked at only
        self._heap: list[tuple[int, int]] = []  # (time, number)

    def __len__(self) -> int:
        return len(self.times)

    def set(self, number: int, time_us: int) -> None:
        """The order ends at `time_us`; an earlier setting is replaced."""
        self.times[number] = time_us
        heappush(self._heap, (time_us, number))
        if len(self._heap) > 2 * len(self.times) + _SLACK:
            self._heap = [(time, number) for number, time in self.times.items()]
            heapify(self._heap)

    def remove(self, number: int) -> None:
        """It does not end by time (any more): nothing happens when it never did."""
        self.times.pop(number, None)

    def due(self, now_us: int) -> list[int]:
        """Orders whose time has come, by time, then number. They are removed."""
        found: list[int] = []
        heap = self._heap
        while heap and heap[0][0] <= now_us:
            time, number = heappop(heap)
            if self.times.get(number) == time:
                del self.times[number]
                found.append(number)
        return found
