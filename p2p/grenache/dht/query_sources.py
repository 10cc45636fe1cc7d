"""Query sources by IP address: a rate limit for each, and proof that an address receives our answers.

A source address of UDP can be forged, and then our answers hit somebody else. Whoever has answered a
query of ours, or returned a token, receives what is sent there. To all others we send at most
AMPLIFICATION times the bytes that they sent us (the factor that QUIC has, RFC 9000, section 8.1).
"""

from __future__ import annotations

from typing import Final

from p2p.base.bounded_map import BoundedMap
from p2p.base.tokens import Tokens
from p2p.grenache.dht.compact_addresses import Reach, reach

AMPLIFICATION: Final = 3
PROOF_LASTS: Final = 600.0  # seconds


class _Source(Tokens):
    __slots__ = ("proven_until",)

    def __init__(self, now: float, burst: float) -> None:
        super().__init__(burst, now)
        self.proven_until = now


class QuerySources:
    """A bounded table of IP addresses; those not heard of for the longest time are forgotten first."""

    def __init__(self, rate: float, burst: float, limit: int) -> None:
        self._rate = rate
        self._burst = burst
        self._sources: BoundedMap[str, _Source] = BoundedMap(limit)

    def __len__(self) -> int:
        return len(self._sources)

    def allow(self, now: float, host: str) -> bool:
        """Return True if one more query of that address is to be answered now. Loopback is exempt."""
        if reach(host) is Reach.LOOPBACK:
            return True
        return self._of(now, host).take(now, self._rate, self._burst)

    def proven(self, now: float, host: str) -> None:
        """Mark an address as proven: it has received a message from this node recently."""
        if reach(host) is not Reach.LOOPBACK:
            self._of(now, host).proven_until = now + PROOF_LASTS

    def is_proven(self, now: float, host: str) -> bool:
        """Loopback always is: no such address comes in from outside."""
        if reach(host) is Reach.LOOPBACK:
            return True
        source = self._sources.get(host)
        return source is not None and now < source.proven_until

    def _of(self, now: float, host: str) -> _Source:
        source = self._sources.renew(host)
        if source is None:
            source = self._sources[host] = _Source(now, self._burst)
        return source
