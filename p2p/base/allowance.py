"""How much one sender may still say: a token bucket of its own, without I/O."""

from __future__ import annotations


class Allowance:
    """Full at the beginning. The same `rate` (a second) and `burst` go with every call, so that a table of
    thousands does not keep them. Times are monotonic seconds."""

    __slots__ = ("at", "tokens")

    def __init__(self, now: float, burst: float) -> None:
        self.tokens = burst
        self.at = now

    def take(self, now: float, rate: float, burst: float) -> bool:
        """Whether one more is within what is allowed; it is counted then."""
        self.tokens = min(burst, self.tokens + max(0.0, now - self.at) * rate)
        self.at = max(now, self.at)
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True
