"""Write tokens: proof that a node receives datagrams at its IP address (BEP 5)."""

from __future__ import annotations

import hmac
import random
from hashlib import blake2s
from typing import Final

ROTATE_AFTER: Final = 300.0  # seconds; the previous secret is good for as long again
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

    def make(self, now: float, host: str) -> bytes:
        self._rotate(now)
        return _token(self._current, host)

    def valid(self, now: float, host: str, token: bytes) -> bool:
        self._rotate(now)
        return any(
            hmac.compare_digest(token, _token(secret, host))
            for secret in (self._current, self._previous)
        )

    def _rotate(self, now: float) -> None:
        periods = int((now - self._since) // ROTATE_AFTER)
        for _ in range(min(periods, 2)):
            self._current, self._previous = self._rng.randbytes(32), self._current
        self._since += max(periods, 0) * ROTATE_AFTER


def _token(secret: bytes, host: str) -> bytes:
    return blake2s(host.encode(), key=secret, digest_size=TOKEN_BYTES).digest()
