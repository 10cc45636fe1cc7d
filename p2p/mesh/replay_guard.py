"""Replay guard and rate limit for each origin of signed broadcasts. No I/O.

A message is new if its mark (`incarnation`, `counter`) is above every mark of its origin before it. Keys are
free to make, so the table is bounded and a rate for all origins together stands beside the rate of each.
"""

from __future__ import annotations

from enum import Enum, auto

from p2p.ground.bounded_map import BoundedMap
from p2p.ground.tokens import Tokens

MAX_ORIGINS = 10_000  # keys are free to make


class ReplayVerdict(Enum):
    """Decision about a message whose signature is right."""

    NEW = auto()
    OLD = auto()  # seen before, or overtaken by a later one: valid, and without effect
    TOO_MUCH = auto()  # beyond the rate: neither taken nor passed on


class _Origin(Tokens):
    __slots__ = ("mark",)

    def __init__(self, now: float, burst: float) -> None:
        super().__init__(burst, now)
        self.mark = (-1, -1)


class ReplayGuard:
    """At most `rate` new messages a second from one origin and `rate_all` from all together, and a burst.

    Bounded: when the table is full, the origin that was silent for longest is forgotten.
    """

    def __init__(
        self,
        *,
        rate: float = 1.0,
        burst: float = 5.0,
        rate_all: float = 100.0,
        limit: int = MAX_ORIGINS,
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._all_rate = rate_all
        self._all = Tokens(2.0 * rate_all, 0.0)
        self._origins: BoundedMap[str, _Origin] = BoundedMap(limit)

    def __len__(self) -> int:
        return len(self._origins)

    def admit(self, now: float, origin: str, incarnation: int, counter: int) -> ReplayVerdict:
        """Decide about a message that `origin` signed, and count it."""
        known = self._origins.renew(origin)
        if known is None:
            known = self._origins[origin] = _Origin(now, self._burst)
        mark = (incarnation, counter)
        if mark <= known.mark:
            return ReplayVerdict.OLD
        if not known.take(now, self._rate, self._burst):
            return ReplayVerdict.TOO_MUCH
        if not self._all.take(now, self._all_rate, 2.0 * self._all_rate):
            return ReplayVerdict.TOO_MUCH
        known.mark = mark
        return ReplayVerdict.NEW
