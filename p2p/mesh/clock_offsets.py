"""Offsets between this machine's wall clock and those of its neighbours, by network.

Each direct message carries its sender's time. Its age on arrival is the offset of the two clocks plus the
time on the way, so offsets of a second and more are meaningful, and milliseconds are not.

Neighbours of one network group have one voice, their median, because identities and addresses of one network are free.
Each address of a LAN is a group; all neighbours on this machine are one, and so are all whose address is not known
(links over Grenache).
"""

from __future__ import annotations

from statistics import median
from typing import Final

from p2p.base.network_group import network_group

LIFETIME: Final = 120.0  # seconds that a measurement counts


class ClockOffsets:
    """Last measurement for each neighbour. `now` is monotonic seconds."""

    def __init__(self) -> None:
        self._groups: dict[str, str] = {}  # of each neighbour
        self._measured: dict[
            str, tuple[float, float]
        ] = {}  # neighbour -> (time, offset in seconds)

    def link_up(self, node: str, address: str) -> None:
        """Note the IP address of a neighbour, "" if it is not known."""
        self._groups[node] = network_group(address) if address else ""

    def link_down(self, node: str) -> None:
        self._groups.pop(node, None)
        self._measured.pop(node, None)

    def note(self, now: float, node: str, offset: float) -> None:
        """Note that this machine's clock is ahead of a neighbour's by `offset` seconds."""
        if node in self._groups:
            self._measured[node] = (now, offset)

    def offsets(self, now: float) -> list[float]:
        """Return the offset to each network, in ascending order."""
        by_group: dict[str, list[float]] = {}
        for node, (time, offset) in self._measured.items():
            if now - time <= LIFETIME:
                by_group.setdefault(self._groups[node], []).append(offset)
        return sorted(median(offsets) for offsets in by_group.values())

    def median(self, now: float) -> tuple[float, int] | None:
        """Return the median of the offsets, and the number of networks; None without any."""
        offsets = self.offsets(now)
        return (median(offsets), len(offsets)) if offsets else None
