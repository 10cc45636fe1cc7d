"""Offsets between this machine's wall clock and those of its neighbours.

Each direct message carries its sender's time. Its age on arrival is the offset of the two clocks plus the
time on the way, so offsets of a second and more are meaningful, and milliseconds are not.
"""

from __future__ import annotations

from statistics import median
from typing import Final

LIFETIME: Final = 120.0  # seconds that a measurement counts


class ClockOffsets:
    """Last measurement for each neighbour. `now` is monotonic seconds."""

    def __init__(self) -> None:
        self._measured: dict[
            str, tuple[float, float]
        ] = {}  # neighbour -> (time, offset in seconds)

    def note(self, now: float, node: str, offset: float) -> None:
        """Note that this machine's clock is ahead of a neighbour's by `offset` seconds."""
        self._measured[node] = (now, offset)

    def forget(self, node: str) -> None:
        self._measured.pop(node, None)

    def offsets(self, now: float) -> list[float]:
        """Return the offset to each neighbour, in ascending order."""
        return sorted(offset for time, offset in self._measured.values() if now - time <= LIFETIME)

    def median(self, now: float) -> tuple[float, int] | None:
        """Return the median of the offsets, and the number of neighbours; None without any."""
        offsets = self.offsets(now)
        return (median(offsets), len(offsets)) if offsets else None
