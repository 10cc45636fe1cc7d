"""What was heard last from each origin of signed broadcasts: nothing old counts again, nobody says too much.

A signed message carries (`incarnation`, `counter`), which grows with every message of its origin, over
restarts too. So a copy that is played again later is recognised, however long ago it was.
"""

from __future__ import annotations

from enum import Enum, auto

MAX_ORIGINS = 10_000  # keys are free to make
MAX_MARK = 2**63


class Verdict(Enum):
    """What to do with a message whose signature is right."""

    NEW = auto()
    OLD = auto()  # heard before, or overtaken by a later one: valid, and nothing to do
    TOO_MUCH = auto()  # not to be taken in and not to be passed on


class _Origin:
    __slots__ = ("at", "mark", "tokens")

    def __init__(self, now: float, burst: float) -> None:
        self.mark = (-1, -1)
        self.at = now
        self.tokens = burst


class OriginLog:
    """At most `rate` new messages a second from one origin and `rate_all` from all together, with some
    allowance for bunches. Bounded: when full, the origin unheard for longest is forgotten.
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
        self._all = _Origin(0.0, 2.0 * rate_all)
        self._limit = limit
        self._origins: dict[str, _Origin] = {}

    def __len__(self) -> int:
        return len(self._origins)

    def hear(self, now: float, origin: str, incarnation: int, counter: int) -> Verdict:
        """A message of `origin` with a right signature arrived."""
        known = self._origins.pop(origin, None)
        if known is None:
            known = _Origin(now, self._burst)
            if len(self._origins) >= self._limit:
                del self._origins[next(iter(self._origins))]
        self._origins[origin] = known  # to the end: the order is by being heard
        mark = (incarnation, counter)
        if mark <= known.mark:
            return Verdict.OLD
        if not _take(known, now, self._rate, self._burst):
            return Verdict.TOO_MUCH
        if not _take(self._all, now, self._all_rate, 2.0 * self._all_rate):
            return Verdict.TOO_MUCH
        known.mark = mark
        return Verdict.NEW


def _take(account: _Origin, now: float, rate: float, burst: float) -> bool:
    account.tokens = min(burst, account.tokens + max(0.0, now - account.at) * rate)
    account.at = max(now, account.at)
    if account.tokens < 1.0:
        return False
    account.tokens -= 1.0
    return True
