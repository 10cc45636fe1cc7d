"""A token bucket: at most `rate * t + burst` tokens in any t seconds, first come first served.

The sketch it comes from starts full and fills up while idle, which is a burst of its own. Here `burst`
is a small number of its own (1 by default), not a second's worth of tokens, and a new bucket holds one.
"""

from __future__ import annotations

import asyncio
import contextlib
from math import inf

from p2p.base.errors import P2PError

_ALMOST_ONE = 1.0 - 1e-9  # a wait of exactly one interval must not fail by a rounding error


class RateOwned(P2PError):
    """The rate belongs to another controller."""


class TokenBucket:
    """`rate` tokens a second, at most `burst` (at least 1) kept for later. Clocks are monotonic seconds.

    The plain forms take `now`. `take` is for asyncio and uses the running loop's clock: a bucket that is
    used both ways needs `now=loop.time()`.
    """

    def __init__(self, rate: float, burst: float = 1.0) -> None:
        if rate < 0 or burst < 1:
            raise ValueError("rate is not negative, burst is at least 1")
        self._rate = rate
        self._burst = burst
        self._tokens = 1.0
        self._at: float | None = None
        self._owner: object = None
        self._turns = asyncio.Lock()  # asyncio's lock is fair: first come, first served
        self._changed = asyncio.Event()

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self._rate

    @property
    def burst(self) -> float:
        return self._burst

    def claim(self, owner: object) -> None:
        """From now on only `owner` sets the rate: two controllers would undo each other's work.

        Raises:
            RateOwned: somebody else has it.
        """
        if self._owner is not None and self._owner is not owner:
            raise RateOwned(f"the rate is set by {self._owner!r}")
        self._owner = owner

    def set_rate(self, now: float, rate: float, *, owner: object = None) -> None:
        """Change the rate. What was earned until `now` was earned at the old one.

        Raises:
            RateOwned: the rate was claimed, and not by `owner`.
        """
        if rate < 0:
            raise ValueError("rate is not negative")
        if self._owner is not None and self._owner is not owner:
            raise RateOwned(f"the rate is set by {self._owner!r}")
        self._tokens = self.tokens(now)
        self._at = now
        self._rate = rate
        self._changed.set()

    def tokens(self, now: float) -> float:
        """Tokens available now. Changes nothing."""
        if self._at is None:
            return self._tokens
        return min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate)

    def would_delay(self, now: float) -> float:
        """Seconds until a token is there (inf at rate 0), not counting those who wait in `take`.
        Consumes nothing.
        """
        missing = 1.0 - self.tokens(now)
        if missing <= 1e-9:
            return 0.0
        return missing / self._rate if self._rate else inf

    def try_take(self, now: float) -> bool:
        """Take a token if there is one, and nobody waits for it in `take`."""
        return not self._turns.locked() and self._take(now)

    async def take(self) -> None:
        """Wait for a token. Waiters get theirs in order; one that is cancelled costs none."""
        loop = asyncio.get_running_loop()
        async with self._turns:
            while not self._take(loop.time()):
                self._changed.clear()
                delay = self.would_delay(loop.time())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None if delay == inf else delay):
                        await self._changed.wait()

    def _take(self, now: float) -> bool:
        tokens = self.tokens(now)
        if tokens < _ALMOST_ONE:
            return False
        self._tokens = max(0.0, tokens - 1.0)
        self._at = now if self._at is None else max(now, self._at)
        return True
