"""Write tokens: proof that a node receives datagrams at its IP address (BEP 5)."""

from __future__ import annotations

import hmac
import random
from hashlib import blake2s
from typing import Final

from p2p.ground.bounded_map import BoundedMap

ROTATE_AFTER: Final = 300.0  # seconds; the previous secret is good for as long again
MAX_MADE: Final = 1_000  # hosts whose token is kept
TOKEN_BYTES: Final = (
    8  # bytes: enough against guessing, and replies to unproven addresses have to be short
)


class WriteTokens:
    """Tokens of this node, each valid for 5 to 10 minutes: other nodes keep them for 5."""

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
