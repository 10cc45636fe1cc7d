"""Query sources by IP address: a rate limit for each, and proof that an address receives our answers.

A UDP source address can be forged, so that answers would hit a victim. An address that answered a
query of this node, or returned a token, is proven to receive its datagrams. All others get at most
AMPLIFICATION times the bytes that came from them (the factor of QUIC, RFC 9000, section 8.1).
"""

from __future__ import annotations

import hmac
import random
from hashlib import blake2s
from typing import Final

from p2p.base.reach import Reach, reach
from p2p.ground.bounded_map import BoundedMap
from p2p.ground.tokens import Tokens

AMPLIFICATION: Final = 3
PROOF_LASTS: Final = 600.0  # seconds


class _Source(Tokens):
    __slots__ = ("proven_until",)

    def __init__(self, now: float, burst: float) -> None:
        super().__init__(burst, now)
        self.proven_until = now


class QuerySources:
    """Bounded table of IP addresses; the least recently seen are evicted."""

    def __init__(self, rate: float, burst: float, limit: int) -> None:
        self._rate = rate
        self._burst = burst
        self._sources: BoundedMap[str, _Source] = BoundedMap(limit)

    def __len__(self) -> int:
        return len(self._sources)

    def allow(self, now: float, host: str) -> bool:
        """Return True if another query of that address may be answered now. Loopback is exempt."""
        if reach(host) is Reach.LOOPBACK:
            return True
        return self._of(now, host).take(now, self._rate, self._burst)

    def proven(self, now: float, host: str) -> None:
        """Mark an address as proven: it has received a message from this node recently."""
        if reach(host) is not Reach.LOOPBACK:
            self._of(now, host).proven_until = now + PROOF_LASTS

    def is_proven(self, now: float, host: str) -> bool:
        """Return True for a proven address. Loopback always is: it cannot come from outside."""
        if reach(host) is Reach.LOOPBACK:
            return True
        source = self._sources.get(host)
        return source is not None and now < source.proven_until

    def _of(self, now: float, host: str) -> _Source:
        source = self._sources.renew(host)
        if source is None:
            source = self._sources[host] = _Source(now, self._burst)
        return source


ROTATE_AFTER: Final = 300.0  # seconds; the previous secret is good for as long again
MAX_MADE: Final = 1_000  # hosts whose token is kept
TOKEN_BYTES: Final = (
    8  # bytes: enough against guessing, and replies to unproven addresses have to be short
)


class WriteTokens:
    """Write tokens: proof that a node receives datagrams at its IP address (BEP 5). Each is valid for 5 to 10 minutes: other
    nodes keep them for 5."""

    def __init__(self, rng: random.Random, now: float) -> None:
        self._rng = rng
        self._current = rng.randbytes(32)
        self._previous = rng.randbytes(32)
        self._since = now
        self._made: BoundedMap[str, bytes] = BoundedMap(MAX_MADE)  # of the current secret

    def make(self, now: float, host: str) -> bytes:
        self._rotate(now)
        token = self._made.get(host)
        if token is None:
            token = self._made[host] = _token(self._current, host)
        return token

    def valid(self, now: float, host: str, token: bytes) -> bool:
        if hmac.compare_digest(token, self.make(now, host)):
            return True
        return hmac.compare_digest(token, _token(self._previous, host))

    def _rotate(self, now: float) -> None:
        periods = int((now - self._since) // ROTATE_AFTER)
        for _ in range(min(periods, 2)):
            self._current, self._previous = self._rng.randbytes(32), self._current
            self._made.clear()
        self._since += max(periods, 0) * ROTATE_AFTER


def _token(secret: bytes, host: str) -> bytes:
    return blake2s(host.encode(), key=secret, digest_size=TOKEN_BYTES).digest()
