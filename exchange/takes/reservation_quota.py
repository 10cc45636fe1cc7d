"""For how long others may reserve what they do not take in the end.

A reservation for a fill-or-kill order costs its taker nothing, and as long as it lasts the owner's quantity
is off show. One that is taken does no harm; of the others the seconds are counted. Takers that never took
what they had reserved share one allowance, for one person can be any number of them. It grows back so
slowly that in the long run they keep one order off show for a tenth of the time. With each reservation
that a taker takes it earns an allowance of its own: a minute, and one more at a time.

In memory only: after a restart all are strangers again.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from exchange.model.records import Decision
from exchange.takes.take_protocol import RESERVATION_US

MAX_RESERVATIONS = 100  # at a time: of one taker that has earned as many, and of all that have not
STRANGERS_US = 300_000_000  # what those may keep untaken, at most
GROWS_BACK = 0.1  # of it: seconds in a second
EARNED_US = RESERVATION_US  # for each reservation that was taken
MAX_EARNED_US = 600_000_000
MAX_KNOWN = (
    10_000  # takers with an allowance of their own; the one that took longest ago goes first
)


@dataclass(slots=True)
class _Allowance:
    left: int  # us; below zero when reservations lasted longer than that
    most: int  # reservations at a time
    under_way: int = 0
    since: int = 0  # the sum of their beginnings, us

    def admits(self, now: int) -> bool:
        lasted = self.under_way * now - self.since
        return self.under_way < self.most and self.left > lasted


class ReservationQuota:
    """Wall-clock times in microseconds, as decisions have them."""

    def __init__(self) -> None:
        self._strangers = _Allowance(STRANGERS_US, MAX_RESERVATIONS)
        self._looked: int | None = None  # when the strangers' was last brought up to date
        self._known: OrderedDict[str, _Allowance] = OrderedDict()
        self._of: dict[tuple[str, int], _Allowance] = {}  # (taker, take) -> what it is counted to

    def admits(self, now: int, taker: str) -> bool:
        """Whether one more reservation is made for this taker."""
        return self._from(now, taker) is not None

    def begin(self, reserved: Decision) -> None:
        """It was made."""
        allowance = self._from(reserved.time, reserved.taker) or self._strangers
        self._of[reserved.taker, reserved.take] = allowance
        allowance.under_way += 1
        allowance.since += reserved.time

    def end(self, now: int, reserved: Decision, *, taken: bool) -> None:
        """It is over. One from before a restart counts as a stranger's."""
        allowance = self._of.pop((reserved.taker, reserved.take), None)
        if allowance is not None:
            allowance.under_way -= 1
            allowance.since -= reserved.time
        if taken:
            self._earn(reserved.taker)
        else:
            lasted = min(max(now - reserved.time, 0), RESERVATION_US)
            (allowance or self._strangers).left -= lasted

    def _from(self, now: int, taker: str) -> _Allowance | None:
        """What a reservation of this taker would be counted to."""
        own = self._known.get(taker)
        if own is not None and own.admits(now):
            return own
        strangers = self._strangers
        if self._looked is not None and now > self._looked:
            grown = strangers.left + int((now - self._looked) * GROWS_BACK)
            strangers.left = min(grown, STRANGERS_US)
        self._looked = now
        return strangers if strangers.admits(now) else None

    def _earn(self, taker: str) -> None:
        own = self._known.pop(taker, None) or _Allowance(0, 0)
        own.left = min(own.left + EARNED_US, MAX_EARNED_US)
        own.most = min(own.most + 1, MAX_RESERVATIONS)
        self._known[taker] = own
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
