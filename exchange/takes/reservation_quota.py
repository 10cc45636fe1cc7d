"""Reservation quota: limits on reservations that their takers do not commit.

A reservation for a fill-or-kill order costs its taker nothing, and while it lasts the owner's quantity
is out of the book. A committed reservation does no harm; of the others the seconds are charged. Takers
without a commit share one allowance, because one person can run any number of nodes. It refills so
slowly that in the long run they keep orders out of the book for a tenth of the time. What they use beyond it counts up to
a minute only: otherwise one burst would shut out all newcomers for most of a day. Each
committed reservation earns its taker an allowance of its own: a minute, and one more reservation at
a time.

The state is in memory only: after a restart all takers share again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from exchange.model.records import Decision
from exchange.takes.take_protocol import RESERVATION_US
from p2p.ground.bounded_map import BoundedMap

MAX_RESERVATIONS: Final = (
    100  # at a time: of a taker that has earned as many; of all sharing takers
)
SHARED_US: Final = 300_000_000  # most uncommitted time that the sharing takers may use at once
MAX_DEBT_US: Final = RESERVATION_US  # so takers are admitted again after nine minutes
REFILL: Final = 0.1  # of it: seconds in a second
EARNED_US: Final = RESERVATION_US  # for each committed reservation
MAX_EARNED_US: Final = 600_000_000
MAX_KNOWN: Final = 10_000  # takers with an own allowance; the one without a commit for longest goes


@dataclass(slots=True)
class _Allowance:
    left: int  # us; negative when reservations lasted longer
    most: int  # reservations at a time
    under_way: int = 0
    since: int = 0  # sum of the start times of those under way, us

    def admits(self, now: int) -> bool:
        lasted = self.under_way * now - self.since
        return self.under_way < self.most and self.left > lasted


class ReservationQuota:
    """Allowances of takers. Times are wall-clock microseconds, like those of decisions."""

    def __init__(self) -> None:
        self._shared = _Allowance(SHARED_US, MAX_RESERVATIONS)
        self._refilled: int | None = None  # time of the last refill
        self._known: BoundedMap[str, _Allowance] = BoundedMap(
            MAX_KNOWN
        )  # by taker, latest commit last
        self._charged: dict[tuple[str, int], _Allowance] = {}  # by (taker, take)

    def admits(self, now: int, taker: str) -> bool:
        """Report if this taker may have one more reservation."""
        return self._available(now, taker) is not None

    def begin(self, reserved: Decision) -> None:
        """Charge a new reservation."""
        allowance = self._available(reserved.time, reserved.taker) or self._shared
        self._charged[reserved.taker, reserved.take] = allowance
        allowance.under_way += 1
        allowance.since += reserved.time

    def end(self, now: int, reserved: Decision, *, taken: bool) -> None:
        """Settle a reservation that is over. One from before a restart is charged to the shared
        allowance."""
        allowance = self._charged.pop((reserved.taker, reserved.take), None)
        if allowance is not None:
            allowance.under_way -= 1
            allowance.since -= reserved.time
        if taken:
            self._earn(reserved.taker)
        else:
            lasted = min(max(now - reserved.time, 0), RESERVATION_US)
            allowance = allowance or self._shared
            allowance.left = max(allowance.left - lasted, -MAX_DEBT_US)

    def _available(self, now: int, taker: str) -> _Allowance | None:
        """Return the allowance to charge for a reservation of this taker."""
        own = self._known.get(taker)
        if own is not None and own.admits(now):
            return own
        shared = self._shared
        if self._refilled is not None and now > self._refilled:
            refilled = shared.left + int((now - self._refilled) * REFILL)
            shared.left = min(refilled, SHARED_US)
        self._refilled = now
        return shared if shared.admits(now) else None

    def _earn(self, taker: str) -> None:
        own = self._known.renew(taker)
        if own is None:
            own = self._known[taker] = _Allowance(0, 0)
        own.left = min(own.left + EARNED_US, MAX_EARNED_US)
        own.most = min(own.most + 1, MAX_RESERVATIONS)
