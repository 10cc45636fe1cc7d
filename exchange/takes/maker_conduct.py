"""Counts of what other owners did with this node's takes, for its operator. No I/O.

A figure here decides nothing by itself: answers are late when a network is slow, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from p2p.ground.bounded_map import BoundedMap

MAX_OWNERS: Final = 10_000
LATE: Final = 10.0  # seconds from a request to an answer that counts as late


@dataclass(slots=True)
class Conduct:
    """Counts of one owner since the start."""

    answers: int = 0
    late: int = 0  # answers after more than `LATE`
    refused_shown: int = 0  # refusals of orders that its feed went on to show
    ended: int = 0  # takes that it left undecided until their end
    filled_late: int = 0  # fills after the end of their take, which the taker does not book

    @property
    def faults(self) -> int:
        return self.late + self.refused_shown + self.ended + self.filled_late


class MakerConduct:
    """Counts by owner, the latest `MAX_OWNERS`."""

    def __init__(self) -> None:
        self._owners: BoundedMap[str, Conduct] = BoundedMap(MAX_OWNERS)

    def of(self, owner: str) -> Conduct:
        """Return the counts of an owner; changes to them count."""
        found = self._owners.get(owner)
        if found is None:
            found = self._owners[owner] = Conduct()
        return found

    def known(self, owner: str) -> Conduct | None:
        """Return the counts of an owner that has answered; None without any."""
        return self._owners.get(owner)
