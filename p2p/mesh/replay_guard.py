"""Signed broadcasts: whose word each is, that nothing old counts again, and that nobody says too much.

A signed message carries (`incarnation`, `counter`), which grows with every message of its origin, over
restarts too. So a copy that is played again later is recognised, however long ago it was.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Protocol

from p2p.base.allowance import Allowance
from p2p.base.identity import node_id_of, verify

MAX_ORIGINS = 10_000  # keys are free to make
MAX_MARK = 2**63


class Said(Protocol):
    """What every signed broadcast carries."""

    @property
    def key(self) -> bytes: ...
    @property
    def incarnation(self) -> int: ...
    @property
    def counter(self) -> int: ...
    @property
    def signature(self) -> bytes: ...


def proven_origin(said: Said, signed: bytes) -> str | None:
    """The node whose word it is, by its signature over `signed`; None if it is nobody's."""
    marked = 0 <= said.incarnation < MAX_MARK and 0 <= said.counter < MAX_MARK
    if marked and verify(said.key, said.signature, signed):
        return node_id_of(said.key)
    return None


class Verdict(Enum):
    """What to do with a message whose signature is right."""

    NEW = auto()
    OLD = auto()  # heard before, or overtaken by a later one: valid, and nothing to do
    TOO_MUCH = auto()  # not to be taken in and not to be passed on


class _Origin(Allowance):
    __slots__ = ("mark",)

    def __init__(self, now: float, burst: float) -> None:
        super().__init__(now, burst)
        self.mark = (-1, -1)


class ReplayGuard:
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
        self._all = Allowance(0.0, 2.0 * rate_all)
        self._limit = limit
        self._origins: dict[str, _Origin] = {}

    def __len__(self) -> int:
        return len(self._origins)

    def hear(self, now: float, origin: str, incarnation: int, counter: int) -> Verdict:
        """A message arrived that `origin` has signed."""
        known = self._origins.pop(origin, None)
        if known is None:
            known = _Origin(now, self._burst)
            if len(self._origins) >= self._limit:
                del self._origins[next(iter(self._origins))]
        self._origins[origin] = known  # to the end: the order is by being heard
        mark = (incarnation, counter)
        if mark <= known.mark:
            return Verdict.OLD
        if not known.take(now, self._rate, self._burst):
            return Verdict.TOO_MUCH
        if not self._all.take(now, self._all_rate, 2.0 * self._all_rate):
            return Verdict.TOO_MUCH
        known.mark = mark
        return Verdict.NEW
