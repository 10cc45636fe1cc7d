"""Counts of what other owners did with this node's takes, for its operator. No I/O.

A figure here decides nothing unless the operator wants it (`TradingRules.unreliable_last`): answers are late when a network is slow,
too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from p2p.ground.bounded_map import BoundedMap

MAX_OWNERS: Final = 10_000
MANY_FAULTS: Final = 3  # from which an owner is unreliable ...
FAULTY_SHARE: Final = 0.05  # ... if they are this share of its answers
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

    @property
    def unreliable(self) -> bool:
        """Report if it gave answers that a maker gives who waits to see where the price goes."""
        return self.faults >= max(MANY_FAULTS, FAULTY_SHARE * self.answers)


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

    def is_unreliable(self, owner: str) -> bool:
        """Report if an owner is unreliable; one without answers is not."""
        found = self._owners.get(owner)
        return found is not None and found.unreliable
